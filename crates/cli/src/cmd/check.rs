//! `acetate check`.

use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_json, answer_line, talk};
use crate::store::open_store;
use acetate_store::{Depth, Problem};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Find what is wrong with a store, and mend it
///
/// Changes nothing without --repair. What is damaged is moved to the directory `damaged` of the store.
///
/// Exit status: 0 all is well, or is again; 1 something is wrong; 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Check a store [default: $ACETATE_STORE, /var/lib/acetate, or ~/.local/share/acetate for ordinary users]
    #[arg(long, value_name = "DIR", num_args = 0..=1, required = true)]
    store: Option<Option<PathBuf>>,
    /// Also read every byte of every layer and compare its digest
    #[arg(long)]
    full: bool,
    /// Mend what can be mended
    #[arg(long)]
    repair: bool,
    /// Print one JSON document (schema acetate-check-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    full: bool,
    problems: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    kind: &'static str,
    object: String,
    what: String,
    repair: Option<String>,
    repaired: bool,
}

pub(crate) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let store = open_store(args.store.clone().flatten())?;
    let depth = if args.full { Depth::Full } else { Depth::Quick };
    let shows = std::io::stderr().is_terminal();
    let problems = store.check(depth, args.repair, &mut |layer| {
        if shows {
            talk(&format!("checking layer {}\n", layer.short()));
        }
    })?;
    let well = problems.iter().all(|problem| problem.repaired);
    if args.json {
        let items = problems.iter().map(item).collect();
        answer_json(&Document { schema: "acetate-check-v1", full: args.full, problems: items })?;
    } else {
        for problem in &problems {
            answer_line(line(problem))?;
        }
        if problems.is_empty() {
            answer_line("nothing is wrong")?;
        }
    }
    Ok(if well { Exit::Done } else { Exit::No })
}

fn item(problem: &Problem) -> Item {
    Item {
        kind: problem.kind,
        object: problem.object.clone(),
        what: problem.what.clone(),
        repair: problem.repair.clone(),
        repaired: problem.repaired,
    }
}

fn line(problem: &Problem) -> String {
    let more = match (&problem.repair, problem.repaired) {
        (Some(repair), true) => format!(" [repaired: {repair}]"),
        (Some(repair), false) => format!(" [--repair would {repair}]"),
        (None, _) => String::new(),
    };
    format!("{} {}: {}{more}", problem.kind, problem.object, problem.what)
}
