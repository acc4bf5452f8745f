//! `acetate workspace diff`.

use crate::Exit;
use crate::changes::{Entry, line};
use crate::error::Failure;
use crate::out::{answer_json, answer_line};
use acetate_store::Store;
use acetate_store::changes::by_importance;
use serde::Serialize;

/// Show what a workspace changes, deletions first
///
/// Exit status: 0 no change, 1 changes, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// Which one
    name: String,
    /// Print one JSON document (schema acetate-changes-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    name: String,
    changes: Vec<Entry>,
}

pub(super) fn run(store: &Store, args: &DiffArgs) -> Result<Exit, Failure> {
    let (workspace, _in_use) = store.use_workspace(&args.name)?;
    let mut changes = store.workspace_changes(&workspace)?;
    by_importance(&mut changes);
    if args.json {
        let entries = changes.iter().map(Entry::of).collect();
        answer_json(&Document { schema: "acetate-changes-v1", name: workspace.name, changes: entries })?;
    } else {
        for change in &changes {
            answer_line(line(change))?;
        }
    }
    Ok(if changes.is_empty() { Exit::Done } else { Exit::No })
}
