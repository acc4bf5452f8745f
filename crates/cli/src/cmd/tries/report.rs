//! A try as it is printed.

use crate::changes::{Entry, line};
use crate::error::Failure;
use crate::out::{exact, size};
use acetate_layer::Kind;
use acetate_store::changes::{Change, ChangeKind};
use acetate_store::tries::{Bytes, Conflict, OpenTry, Try};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What has become of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// The command changed nothing; there is nothing to keep.
    Unchanged,
    /// Nothing is applied; the changes are kept.
    Kept,
    /// All is applied.
    Applied,
    /// Some of it is.
    Partly,
    /// Nothing is kept.
    Discarded,
}

/// A try in a JSON document, schema `acetate-try-v1`.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    schema: &'static str,
    name: String,
    created: String,
    command: Vec<String>,
    target: String,
    /// `null` if nobody saw the end of the command.
    status: Option<u8>,
    pub(super) outcome: Outcome,
    changes: Vec<Listed>,
    uncovered: Vec<Uncovered>,
}

#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    entry: Entry,
    applied: bool,
    /// Why it cannot be applied.
    conflict: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Uncovered {
    path: String,
    why: String,
}

/// All that there is to say of a try.
#[derive(Debug)]
pub(super) struct Report {
    changes: Vec<Change>,
    applied: BTreeSet<usize>,
    conflicts: BTreeMap<usize, &'static str>,
}

impl Report {
    /// Looks at a try and the live tree.
    ///
    /// # Errors
    /// Those of looking.
    pub(super) fn of(open: &OpenTry<'_>) -> Result<Report, Failure> {
        let applied = open.applied()?;
        let left = (0..open.items().len()).filter(|index| !applied.contains(index)).collect();
        Ok(Report {
            changes: open.items().iter().map(|item| item.change(open.tried())).collect(),
            conflicts: open.conflicts(&left)?,
            applied,
        })
    }

    pub(super) fn outcome(&self) -> Outcome {
        match (self.applied.len(), self.changes.len()) {
            (0, 0) => Outcome::Unchanged,
            (0, _) => Outcome::Kept,
            (some, all) if some < all => Outcome::Partly,
            _ => Outcome::Applied,
        }
    }

    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub(super) fn document(&self, tried: &Try) -> Document {
        let text = |bytes: &Bytes| exact(bytes.path());
        let listed = self.changes.iter().enumerate().map(|(index, change)| Listed {
            entry: Entry::of(change),
            applied: self.applied.contains(&index),
            conflict: self.conflicts.get(&index).copied(),
        });
        Document {
            schema: "acetate-try-v1",
            name: tried.name.clone(),
            created: tried.created.clone(),
            command: tried.command.iter().map(text).collect(),
            target: text(&tried.target),
            status: tried.status,
            outcome: self.outcome(),
            changes: listed.collect(),
            uncovered: tried
                .uncovered
                .iter()
                .map(|(path, why)| Uncovered { path: text(path), why: why.clone() })
                .collect(),
        }
    }

    /// One line a change, and what is special about it.
    pub(super) fn lines(&self, colours: bool) -> String {
        let mut text = String::new();
        for (index, change) in self.changes.iter().enumerate() {
            text.push_str(&coloured(change, colours));
            if self.applied.contains(&index) {
                text.push_str("  [applied]");
            }
            if let Some(why) = self.conflicts.get(&index) {
                text.push_str(&paint(&format!("  [conflict: {why}]"), "1;31", colours));
            }
            text.push('\n');
        }
        text
    }

    /// How much there is of what: the last line, so that no deletion goes unseen however long the list is.
    pub(super) fn summary(&self, colours: bool) -> String {
        let count = |wanted: fn(&Change) -> bool| self.changes.iter().filter(|change| wanted(change)).count();
        let deleted = count(|change| change.what == ChangeKind::Deleted);
        let retyped = count(|change| matches!(change.what, ChangeKind::Changed { kind: true, .. }));
        let changed = count(|change| matches!(change.what, ChangeKind::Changed { kind: false, .. }));
        let added = count(|change| change.what == ChangeKind::Added);
        let gone: u64 = self.changes.iter().map(|change| change.below).sum();
        let bytes: u64 = self
            .changes
            .iter()
            .filter(|change| change.kind == Kind::File && change.what != ChangeKind::Deleted)
            .map(|change| change.size)
            .sum();
        let mut parts = Vec::new();
        let below = if gone > 0 { format!(" (with {gone} objects below)") } else { String::new() };
        for (number, what, colour) in [
            (deleted, format!("deleted{below}"), "1;31"),
            (retyped, "replaced by another type".into(), "31"),
            (changed, "changed".into(), "33"),
            (added, "added".into(), "32"),
        ] {
            if number > 0 {
                parts.push(paint(&format!("{number} {what}"), colour, colours));
            }
        }
        if bytes > 0 {
            parts.push(format!("{} in files", size(bytes)));
        }
        if !self.conflicts.is_empty() {
            let text = format!("{} in conflict with what others changed", self.conflicts.len());
            parts.push(paint(&text, "1;31", colours));
        }
        parts.join(", ")
    }
}

/// A change on one line.
pub(super) fn coloured(change: &Change, colours: bool) -> String {
    let colour = match change.what {
        ChangeKind::Deleted => "1;31",
        ChangeKind::Changed { kind: true, .. } => "31",
        ChangeKind::Changed { .. } => "33",
        ChangeKind::Added => "32",
    };
    paint(&line(change), colour, colours)
}

fn paint(text: &str, colour: &str, colours: bool) -> String {
    if colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

/// How much of a command is shown.
const COMMAND_CHARS: usize = 100;

/// A command line for people: words with blanks and the like in quotes; of a long one the begin.
pub(super) fn command_line(command: &[Bytes]) -> String {
    let word = |bytes: &Bytes| {
        let text = crate::out::shown(bytes.path()).to_string();
        let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            text
        } else {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
    };
    let text = command.iter().map(word).collect::<Vec<_>>().join(" ");
    if text.chars().count() <= COMMAND_CHARS {
        text
    } else {
        text.chars().take(COMMAND_CHARS).chain(['…']).collect()
    }
}

/// The lines about paths that others have changed.
pub(super) fn conflict_lines(conflicts: &[Conflict]) -> String {
    let line = |conflict: &Conflict| format!("  {}: {}", exact(&conflict.path), conflict.why);
    conflicts.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_quoted_for_people() {
        let words = ["sh", "-c", "rm -rf /etc; echo 'x'", "", "/a\n"].map(Bytes::from);
        assert_eq!(command_line(&words), r"sh -c 'rm -rf /etc; echo '\''x'\''' '' '/a\x0a'");
    }
}
