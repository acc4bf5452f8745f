//! Why options are refused.

use crate::out::shown;
#[cfg(test)]
use rustix::io::Errno;
use std::ffi::OsString;

use super::{MAX_LOWERS, Role};

/// Why options are refused. Displayed as what is wrong; [`Error::hint`] says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// No such option.
    #[error("option {}: unknown option", shown(word))]
    Unknown {
        /// The word, without its value.
        word: OsString,
        /// What was probably meant.
        meant: Option<&'static str>,
    },
    /// A known option, or value, that this version cannot honour.
    #[error("option {option}: not supported yet")]
    NotYet {
        /// The option, with its value if that is what matters.
        option: String,
        /// What works instead.
        instead: &'static str,
    },
    /// The value is none that the option takes.
    #[error("option {option}: no such value: {}", shown(value))]
    Value {
        /// The option.
        option: &'static str,
        /// The value.
        value: OsString,
        /// The values it takes.
        allowed: Vec<&'static str>,
    },
    /// The option was given without a value, or with an empty one.
    #[error("option {option}: a value is missing")]
    NoValue {
        /// The option.
        option: &'static str,
    },
    /// A label whose end cannot be told: a quote is missing, or a backslash stands last.
    #[error("option {option}: the label has no end: {}", shown(value))]
    Label {
        /// The option.
        option: &'static str,
        /// The label.
        value: OsString,
    },
    /// The option takes no value.
    #[error("option {option}: takes no value, but has {}", shown(value))]
    HasValue {
        /// The option.
        option: String,
        /// The value.
        value: OsString,
    },
    /// The list of lower layers cannot be split.
    #[error("option lowerdir: {what}: {}", shown(value))]
    List {
        /// What is wrong.
        what: &'static str,
        /// The whole list.
        value: OsString,
    },
    /// Options in an order that has no meaning.
    #[error("option {option}: cannot follow {earlier}")]
    Order {
        /// The later one.
        option: &'static str,
        /// The earlier one.
        earlier: &'static str,
    },
    /// More layers than a mount takes.
    #[error("option lowerdir: {count} lower layers, but {MAX_LOWERS} are the most")]
    TooMany {
        /// How many were given.
        count: usize,
    },
    /// Options that exclude one another.
    #[error("option {option}: excluded by {other}")]
    Conflict {
        /// One of them.
        option: &'static str,
        /// The other.
        other: &'static str,
    },
    /// An option that only an administrator may use.
    #[error("option {option}: needs CAP_SYS_ADMIN in the initial user namespace")]
    Privilege {
        /// The option.
        option: &'static str,
    },
    /// A mount without this makes no sense.
    #[error("{}: none given", .0.words())]
    Missing(Role),
    /// An upper layer has no work directory.
    #[error("work directory: none given, but an upper layer needs one")]
    MissingWork,
    /// A single lower layer and nothing above it.
    #[error("lower layer: only one given, and no upper layer")]
    OnlyOne,
}

impl Error {
    /// What the kernel's overlayfs answers; the tests compare it with the kernel's tables.
    #[cfg(test)]
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Error::Privilege { .. } => Errno::PERM,
            Error::Unknown { .. }
            | Error::NotYet { .. }
            | Error::Value { .. }
            | Error::NoValue { .. }
            | Error::Label { .. }
            | Error::HasValue { .. }
            | Error::List { .. }
            | Error::Order { .. }
            | Error::TooMany { .. }
            | Error::Conflict { .. }
            | Error::Missing(_)
            | Error::MissingWork
            | Error::OnlyOne => Errno::INVAL,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Error::Unknown { meant: Some(meant), .. } => format!("did you mean {meant}?"),
            Error::Unknown { meant: None, .. } => {
                "the options are those of the kernel's overlayfs and of mount(8); docs/cli.md lists them"
                    .into()
            }
            Error::NotYet { instead, .. } => (*instead).into(),
            Error::Value { option, allowed, .. } => format!("{option} is one of {}", allowed.join(", ")),
            Error::NoValue { option } => format!("write {option}=VALUE"),
            Error::Label { option, .. } => {
                format!("write {option}=\"LABEL\", with both quotes where the label has commas")
            }
            Error::HasValue { option, .. } => format!("write {option} alone"),
            Error::List { .. } => {
                "layers are separated by one colon, topmost first; a colon in a path is written \\:".into()
            }
            Error::Order { option, earlier } => {
                format!("give all layers with {earlier}, or put {option} first")
            }
            Error::TooMany { .. } => "merge some layers into one".into(),
            Error::Conflict { option, other } => format!("leave out {option} or {other}"),
            Error::Privilege { option } => format!("leave out {option}, or mount as root"),
            Error::Missing(role) => format!("give {}=DIRECTORY", role.option()),
            Error::MissingWork => {
                "give workdir=DIRECTORY: an empty directory on the same mount as upperdir".into()
            }
            Error::OnlyOne => {
                "one directory merges with nothing: give a second lower layer or an upper one".into()
            }
        }
    }
}
