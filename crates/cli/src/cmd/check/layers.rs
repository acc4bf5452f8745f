//! `acetate check` of an upper layer.

use super::CheckArgs;
use crate::Exit;
use crate::error::Failure;
use crate::mount::lock;
use crate::out::{answer_json, answer_line, exact, talk};
use acetate_stack::check::{Finding, Mender, Place, check};
use serde::Serialize;
use std::ffi::OsStr;
use std::io::{BufRead, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    problems: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    kind: &'static str,
    place: &'static str,
    path: String,
    what: String,
    /// What would mend it; null if that is for people to decide.
    repair: Option<String>,
    repaired: bool,
}

pub(super) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let layers = args.layers.layers();
    let work = args.work.as_deref();
    let (Some(upper), true) = (layers.upper.as_deref(), !layers.lowers.is_empty()) else {
        return Err(
            Failure::new("check: no lower layers", "name them, the topmost first: --lower DIR").usage()
        );
    };
    // Held until the end: nobody mounts what is being mended.
    let locks = match (args.repair, work) {
        (false, _) => None,
        (true, Some(work)) => Some(lock(upper, work)?),
        (true, None) => {
            return Err(Failure::new("check: --repair needs the work directory", "add --work DIR").usage());
        }
    };
    if args.repair && !args.yes && !std::io::stdin().is_terminal() {
        let hint = "answer on a terminal, or mend without questions: --yes";
        return Err(Failure::new("check: there is nobody to ask", hint).usage());
    }
    let found = check(&layers.open()?, work)?;
    let mut items: Vec<Item> = found.iter().map(item).collect();
    if args.repair {
        let mender = Mender::open(upper, work)?;
        for (finding, item) in found.iter().zip(&mut items) {
            item.repaired = mend(args, upper, work, &mender, finding)?;
        }
    }
    // What is wrong is what is found now: one repair may have made another one needless.
    let left = if items.iter().any(|item| item.repaired) { check(&layers.open()?, work)? } else { found };
    drop(locks);
    let repaired = items.iter().any(|item| item.repaired);
    answer_items(args, items)?;
    Ok(match (left.is_empty(), repaired) {
        (true, false) => Exit::Done,
        (true, true) => Exit::Status(1),
        (false, _) => Exit::Status(4),
    })
}

/// Mends a finding if that is wished; returns whether it did.
fn mend(
    args: &CheckArgs,
    upper: &Path,
    work: Option<&Path>,
    mender: &Mender,
    finding: &Finding,
) -> Result<bool, Failure> {
    let Some(repair) = &finding.repair else { return Ok(false) };
    let root = match finding.place {
        Place::Upper => upper,
        Place::Work => work.unwrap_or(upper),
    };
    let path = exact(OsStr::from_bytes(&finding.below(root)));
    if !args.yes && !ask(&format!("{path}: {}; {repair}? [y/N] ", finding.what))? {
        return Ok(false);
    }
    mender.repair(finding)?;
    Ok(true)
}

/// Asks a question on the terminal.
fn ask(question: &str) -> Result<bool, Failure> {
    talk(question);
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| Failure::io("read the answer", &error))?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn item(finding: &Finding) -> Item {
    Item {
        kind: finding.kind.name(),
        place: match finding.place {
            Place::Upper => "upper",
            Place::Work => "work",
        },
        path: exact(OsStr::from_bytes(&finding.path)),
        what: finding.what.clone(),
        repair: finding.repair.as_ref().map(|repair| repair.to_string()),
        repaired: false,
    }
}

fn answer_items(args: &CheckArgs, items: Vec<Item>) -> Result<(), Failure> {
    if args.json {
        answer_json(&Document { schema: "acetate-check-layers-v1", problems: items })?;
        return Ok(());
    }
    for item in &items {
        let more = match (&item.repair, item.repaired) {
            (Some(repair), true) => format!(" [repaired: {repair}]"),
            (Some(repair), false) => format!(" [--repair would {repair}]"),
            (None, _) => String::new(),
        };
        answer_line(format_args!("{} {}/{}: {}{more}", item.kind, item.place, item.path, item.what))?;
    }
    if items.is_empty() {
        answer_line("nothing is wrong")?;
    }
    Ok(())
}
