//! `acetate image gc`.

use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_json, answer_line, answer_table, size};
use acetate_store::{Garbage, Store};
use serde::Serialize;

/// Remove what no image and no workspace needs
///
/// Layers, writable layers of workspaces that are gone, trees, interrupted downloads and what killed commands left.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct GcArgs {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document (schema acetate-gc-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    dry_run: bool,
    bytes: u64,
    removed: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    kind: &'static str,
    name: String,
    bytes: u64,
}

pub(super) fn run(store: &Store, args: &GcArgs) -> Result<Exit, Failure> {
    let garbage = store.gc(args.dry_run)?;
    let bytes = garbage.iter().map(|item| item.bytes).sum();
    if args.json {
        let item = |item: &Garbage| Item { kind: item.kind, name: item.name.clone(), bytes: item.bytes };
        let removed = garbage.iter().map(item).collect();
        return answer_json(&Document { schema: "acetate-gc-v1", dry_run: args.dry_run, bytes, removed });
    }
    let rows: Vec<Vec<String>> =
        garbage.iter().map(|item| vec![item.kind.to_owned(), item.name.clone(), size(item.bytes)]).collect();
    answer_table(&rows)?;
    let what = if args.dry_run { "would be freed" } else { "freed" };
    answer_line(format_args!("{} {what}", size(bytes)))?;
    Ok(Exit::Done)
}
