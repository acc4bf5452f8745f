//! `acetate try show`.

use super::report::{Report, command_line};
use crate::Exit;
use crate::error::Failure;
use crate::out::{answer, answer_json, colours, exact};
use acetate_store::Store;

/// Show what a command changed, deletions first
///
/// Exit status: 0 nothing is left to apply, 1 changes, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Which try
    name: String,
    /// Print one JSON document (schema acetate-try-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

pub(super) fn run(store: &Store, args: &ShowArgs) -> Result<Exit, Failure> {
    let open = store.open_try(&args.name)?;
    let report = Report::of(&open)?;
    if args.json {
        answer_json(&report.document(open.tried()))?;
    } else {
        let tried = open.tried();
        let status =
            tried.status.map_or_else(|| "was killed".into(), |status| format!("ended with status {status}"));
        let mut text = format!(
            "{}\nran over {} and {status}\n\n",
            command_line(&tried.command),
            exact(tried.target.path())
        );
        for (path, why) in &tried.uncovered {
            text.push_str(&format!("not covered: {}: {why}\n", exact(path.path())));
        }
        text.push_str(&report.lines(colours()));
        text.push_str(&format!("\n{}\n", report.summary(colours())));
        answer(&text).map_err(|error| Failure::io("write the answer", &error))?;
    }
    let left = report.changes().len() > open.applied()?.len();
    Ok(if left { Exit::No } else { Exit::Done })
}
