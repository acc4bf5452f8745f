//! `acetate check --store`.

use super::CheckArgs;
use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_json, answer_line, talk};
use crate::store::open_store;
use acetate_store::{Depth, Problem};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::PathBuf;

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

pub(super) fn run(store: Option<PathBuf>, args: &CheckArgs) -> Result<Exit, Failure> {
    let store = open_store(store)?;
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
