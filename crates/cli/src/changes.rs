//! Changes as they are printed.

use crate::out::{exact, size};
use acetate_layer::Kind;
use acetate_store::changes::{Change, ChangeKind};
use serde::Serialize;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A change in a JSON document. Paths are text with bytes that are no UTF-8 as `\xNN` and a backslash as `\\`.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) path: String,
    /// `deleted`, `added` or `changed`.
    pub(crate) change: &'static str,
    /// What of it has changed: `content`, `metadata`, `type`.
    pub(crate) of: Vec<&'static str>,
    /// The type of the new object, or of the deleted one.
    pub(crate) kind: &'static str,
    pub(crate) size: u64,
    /// Objects below a deleted directory.
    pub(crate) below: u64,
}

impl Entry {
    pub(crate) fn of(change: &Change) -> Entry {
        let (word, of) = match change.what {
            ChangeKind::Deleted => ("deleted", vec![]),
            ChangeKind::Added => ("added", vec![]),
            ChangeKind::Changed { content, metadata, kind } => {
                let parts = [(content, "content"), (metadata, "metadata"), (kind, "type")];
                ("changed", parts.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect())
            }
        };
        Entry {
            path: exact(OsStr::from_bytes(&change.path)),
            change: word,
            of,
            kind: change.kind.name(),
            size: change.size,
            below: change.below,
        }
    }
}

/// A change on one line: `D path`, `A path`, `C path (what)`.
pub(crate) fn line(change: &Change) -> String {
    let entry = Entry::of(change);
    let slash = if change.kind == Kind::Dir { "/" } else { "" };
    let letter = entry.change[..1].to_uppercase();
    let more = match (entry.change, change.kind) {
        ("deleted", Kind::Dir) if entry.below > 0 => format!("  ({} objects below it)", entry.below),
        ("added", Kind::File) => format!("  ({})", size(entry.size)),
        ("changed", _) => format!("  ({})", entry.of.join(", ")),
        _ => String::new(),
    };
    format!("{letter} {}{slash}{more}", entry.path)
}
