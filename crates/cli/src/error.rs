//! Why a command failed: one line with the object and the cause, a hint, and an exit status.

use crate::out::{cause, shown, talk};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fmt::Display;

/// A command that failed. Printed as `acetate: <what>: <object>: <cause>` and a line `hint: ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What went wrong with which object, in one line.
    pub(crate) message: String,
    /// What the user can do about it.
    pub(crate) hint: Option<String>,
    /// Which exit status it ends with.
    pub(crate) class: Class,
}

/// Kinds of failure that callers of mount(8) tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The command line makes no sense.
    Usage,
    /// What was asked for could not be done.
    Refused,
    /// The command that was to be run for the user was not.
    NotRun,
}

/// Which convention exit statuses follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Convention {
    /// 2 for every failure.
    Command,
    /// 125 for every failure, as other runtimes have it: lower numbers are those of the command that is run.
    Runtime,
    /// 1 for wrong usage, 32 for a mount that failed (mount(8), "EXIT STATUS").
    MountHelper,
}

impl Convention {
    /// The exit status of a command that was not run.
    pub(crate) const NOT_RUN: u8 = 125;
}

impl Failure {
    /// A failure without an errno.
    pub(crate) fn new(message: impl Display, hint: impl Display) -> Failure {
        Failure { message: message.to_string(), hint: Some(hint.to_string()), class: Class::Refused }
    }

    /// A failure of the system.
    pub(crate) fn errno(what: impl Display, errno: Errno) -> Failure {
        Failure { message: format!("{what}: {}", cause(errno)), hint: None, class: Class::Refused }
    }

    /// A failure of the system, of a call that the standard library made.
    pub(crate) fn io(what: impl Display, error: &std::io::Error) -> Failure {
        Failure::errno(what, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    /// A failure of the system about a path.
    pub(crate) fn path(what: &str, path: &(impl AsRef<OsStr> + ?Sized), errno: Errno) -> Failure {
        Failure::errno(format_args!("{what}: {}", shown(path)), errno)
    }

    /// Adds what the user can do about it.
    pub(crate) fn hint(mut self, hint: impl Display) -> Failure {
        self.hint = Some(hint.to_string());
        self
    }

    /// A command line that makes no sense.
    pub(crate) fn usage(mut self) -> Failure {
        self.class = Class::Usage;
        self
    }

    /// Prints it and returns the exit status.
    pub(crate) fn report(&self, convention: Convention) -> u8 {
        talk(&self.text());
        match (convention, self.class) {
            (Convention::Runtime, _) | (Convention::Command, Class::NotRun) => Convention::NOT_RUN,
            (Convention::Command, _) => 2,
            (Convention::MountHelper, Class::Usage) => 1,
            (Convention::MountHelper, Class::Refused | Class::NotRun) => 32,
        }
    }

    /// The lines that are printed.
    pub(crate) fn text(&self) -> String {
        let hint = self.hint.as_ref().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
        format!("acetate: {}\n{hint}", self.message)
    }
}

impl From<crate::options::Error> for Failure {
    fn from(error: crate::options::Error) -> Failure {
        Failure::new(&error, error.hint()).usage()
    }
}
