//! What was done, or would be.

use super::FormArgs;
use crate::error::Failure;
use crate::out::{answer, answer_json, exact, size};
use acetate_stack::change::merge::{Fold, Into};
use acetate_stack::change::rebase::{Becomes, Conflict, Plan, Side};
use acetate_stack::change::{Act, Step};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

/// The answer of all four commands.
#[derive(Serialize)]
pub(super) struct Report {
    schema: &'static str,
    command: &'static str,
    dry_run: bool,
    steps: Vec<Item>,
    conflicts: Vec<ConflictItem>,
}

#[derive(Serialize)]
struct Item {
    path: String,
    /// `upper` or `lower`: which layer is changed.
    layer: &'static str,
    act: &'static str,
    /// The mark that is removed, if that is it.
    mark: Option<String>,
    /// Length of the data that is copied, or given up, in bytes.
    bytes: u64,
    /// How many objects are copied.
    objects: u64,
}

#[derive(Serialize)]
struct ConflictItem {
    path: String,
    why: &'static str,
}

fn bytes(path: &[u8]) -> String {
    exact(OsStr::from_bytes(path))
}

impl Report {
    pub(super) fn new(command: &'static str, form: FormArgs) -> Report {
        let schema = "acetate-change-v1";
        Report { schema, command, dry_run: form.dry_run, steps: Vec::new(), conflicts: Vec::new() }
    }

    pub(super) fn steps(mut self, steps: &[Step]) -> Report {
        self.steps.extend(steps.iter().map(step));
        self
    }

    pub(super) fn folds(mut self, folds: &[Fold]) -> Report {
        self.steps.extend(folds.iter().map(fold));
        self
    }

    pub(super) fn plan(mut self, plan: &Plan) -> Report {
        self.steps.extend(plan.becomes.iter().map(|(path, becomes)| {
            let act = match becomes {
                Becomes::Mine => "carry",
                Becomes::Mixed { content: Side::Upper, .. } => "take-content",
                Becomes::Mixed { .. } => "take-metadata",
                Becomes::Whiteout => "whiteout",
            };
            Item { path: bytes(path), layer: "upper", act, mark: None, bytes: 0, objects: 0 }
        }));
        self.conflicts(&plan.conflicts)
    }

    fn conflicts(mut self, conflicts: &[Conflict]) -> Report {
        let item =
            |conflict: &Conflict| ConflictItem { path: bytes(&conflict.path), why: conflict.why.name() };
        self.conflicts.extend(conflicts.iter().map(item));
        self
    }

    /// Prints it: each step of a dry run, else how many there were of each kind.
    pub(super) fn print(&self, form: FormArgs) -> Result<(), Failure> {
        if form.json {
            answer_json(self)?;
            return Ok(());
        }
        let text = if form.dry_run { self.lines() } else { self.counts() };
        answer(&text).map_err(|error| Failure::io("write the answer", &error))
    }

    fn lines(&self) -> String {
        let mut text = self.conflict_lines();
        for item in &self.steps {
            let mut more = Vec::new();
            more.extend(item.mark.clone());
            if item.objects > 0 {
                more.push(format!("{} objects", item.objects));
            }
            if item.bytes > 0 {
                more.push(size(item.bytes));
            }
            let more = if more.is_empty() { String::new() } else { format!("  ({})", more.join(", ")) };
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "{} {}/{}{more}", item.act, item.layer, item.path);
        }
        if text.is_empty() { "nothing to do\n".into() } else { text }
    }

    fn conflict_lines(&self) -> String {
        self.conflicts
            .iter()
            .map(|conflict| format!("conflict {}: {}\n", conflict.why, conflict.path))
            .collect()
    }

    fn counts(&self) -> String {
        let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for item in &self.steps {
            *counts.entry((item.layer, item.act)).or_default() += 1;
        }
        let mut text = self.conflict_lines();
        for ((layer, act), count) in &counts {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "{layer}: {act} {count}");
        }
        if text.is_empty() { "nothing to do\n".into() } else { text }
    }
}

fn step(step: &Step) -> Item {
    let item = |act, mark, bytes, objects| Item {
        path: self::bytes(&step.path),
        layer: "upper",
        act,
        mark,
        bytes,
        objects,
    };
    match step.act {
        Act::Fill { bytes } => item("fill", None, bytes, 1),
        Act::Unfold { objects, bytes } => item("unfold", None, bytes, objects),
        Act::CutOff => item("cut-off", None, 0, 0),
        Act::Unmark(mark) => item("unmark", Some(format!("{mark:?}").to_lowercase()), 0, 0),
        Act::Unhide => item("unhide", None, 0, 0),
        Act::Remove { bytes } => item("remove", None, bytes, 0),
    }
}

fn fold(fold: &Fold) -> Item {
    let item = |act, bytes| Item {
        path: self::bytes(&fold.path),
        layer: "lower",
        act,
        mark: None,
        bytes,
        objects: 0,
    };
    match fold.into {
        Into::Object { bytes } => item("object", bytes),
        Into::Tree { .. } => item("tree", 0),
        Into::Dir { .. } => item("directory", 0),
        Into::Attributes => item("attributes", 0),
        Into::Nothing => item("delete", 0),
        Into::Whiteout => item("whiteout", 0),
    }
}
