//! `acetate try list`.

use super::report::command_line;
use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_json, answer_table, exact};
use acetate_store::Store;
use acetate_store::tries::{Listed, State};
use serde::Serialize;

/// Show all tries that run or are kept
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Print one JSON document (schema acetate-tries-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    tries: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    created: String,
    command: Vec<String>,
    target: String,
    state: &'static str,
    status: Option<u8>,
    changes: Option<usize>,
    applied: usize,
}

pub(super) fn run(store: &Store, args: &ListArgs) -> Result<Exit, Failure> {
    let tries = store.tries()?;
    if args.json {
        let row = |listed: &Listed| Row {
            name: listed.tried.name.clone(),
            created: listed.tried.created.clone(),
            command: listed.tried.command.iter().map(|word| exact(word.path())).collect(),
            target: exact(listed.tried.target.path()),
            state: state(listed),
            status: listed.tried.status,
            changes: listed.changes,
            applied: listed.applied,
        };
        return answer_json(&Document { schema: "acetate-tries-v1", tries: tries.iter().map(row).collect() });
    }
    let mut rows = vec![
        ["NAME", "CREATED", "STATE", "STATUS", "CHANGES", "OVER", "COMMAND"].map(str::to_owned).to_vec(),
    ];
    for listed in &tries {
        let number = |number: Option<usize>| number.map_or_else(|| "-".into(), |number| number.to_string());
        rows.push(vec![
            listed.tried.name.clone(),
            listed.tried.created.clone(),
            state(listed).to_owned(),
            number(listed.tried.status.map(usize::from)),
            number(listed.changes),
            exact(listed.tried.target.path()),
            command_line(&listed.tried.command),
        ]);
    }
    answer_table(&rows)
}

fn state(listed: &Listed) -> &'static str {
    match (listed.tried.state, listed.busy) {
        (State::Running, true) => "running",
        (State::Running, false) => "ended",
        (State::Ended, _) if listed.interrupted => "interrupted",
        (State::Ended, _) if listed.applied == 0 => "kept",
        (State::Ended, _) if Some(listed.applied) == listed.changes => "applied",
        (State::Ended, _) => "partly",
    }
}
