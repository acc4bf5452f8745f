//! `acetate try apply`, `resume`, `undo` and `discard`.

use super::report::{Outcome, Report, conflict_lines};
use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_json, note, talk};
use acetate_store::Store;
use acetate_store::tries::{Done, OpenTry, Undo};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Apply what a command changed to the live tree
///
/// All of it, or what is at and below the paths. If somebody else has changed one of the same paths since the command
/// began, nothing is applied. Interrupted, `resume` goes on and `undo` goes back.
///
/// Exit status: 0 applied, 1 refused because of conflicts, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ApplyArgs {
    /// Which try
    name: String,
    /// What of it
    paths: Vec<PathBuf>,
    /// Leave out what is in conflict
    #[arg(long)]
    skip_conflicts: bool,
    /// Print one JSON document (schema acetate-try-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

/// Go on with what was interrupted
///
/// Exit status: 0 done, or nothing to do, 1 refused because of conflicts, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// Which try
    name: String,
}

/// Take back what was applied
///
/// The originals come back as they were. If something has been changed since it was applied, nothing is taken back.
///
/// Exit status: 0 done, or nothing to do, 1 refused because of conflicts, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct UndoArgs {
    /// Which try
    name: String,
    /// Only what was applied last
    #[arg(long)]
    last: bool,
}

/// Throw tries away
///
/// What was applied stays, and cannot be undone any more.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct DiscardArgs {
    /// Which tries
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All that do not run
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

pub(super) fn apply(store: &Store, args: &ApplyArgs) -> Result<Exit, Failure> {
    let mut open = store.open_try(&args.name)?;
    let paths = args.paths.iter().map(|path| resolve(path)).collect::<Result<Vec<_>, _>>()?;
    let mut selected = open.select(&paths)?;
    if args.skip_conflicts {
        leave_out_conflicts(&open, &mut selected)?;
    }
    let exit = match done(open.apply(&selected))? {
        Ok(Done::Nothing) => {
            note("nothing is left to apply");
            Exit::Done
        }
        Ok(_) => {
            tell_applied(&open, selected.len());
            Exit::Done
        }
        Err(refused) => {
            talk(&refused.text());
            Exit::No
        }
    };
    if args.json {
        answer_json(&Report::of(&open)?.document(open.tried()))?;
    }
    Ok(exit)
}

/// The absolute path, without symlinks but for the last component, of what may not exist.
fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(path).map_err(|error| Failure::io(crate::out::shown(path), &error))?;
    for above in path.ancestors().skip(1) {
        if let (Ok(real), Ok(below)) = (std::fs::canonicalize(above), path.strip_prefix(above)) {
            return Ok(real.join(below));
        }
    }
    Ok(path)
}

/// Takes what is in conflict, and what comes with it, out of a selection.
pub(super) fn leave_out_conflicts(open: &OpenTry<'_>, selected: &mut BTreeSet<usize>) -> Result<(), Failure> {
    let conflicts = open.conflicts(selected)?;
    let paths: Vec<Vec<u8>> = conflicts
        .keys()
        .filter_map(|index| open.items().get(*index))
        .map(|item| item.change(open.tried()).path)
        .collect();
    let below = |path: &[u8]| {
        paths
            .iter()
            .any(|above| path.strip_prefix(&above[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'))
    };
    selected
        .retain(|index| open.items().get(*index).is_some_and(|item| !below(&item.change(open.tried()).path)));
    Ok(())
}

/// Tells apart what was refused because of conflicts.
pub(super) fn done(result: acetate_store::Result<Done>) -> Result<Result<Done, Failure>, Failure> {
    match result {
        Ok(done) => Ok(Ok(done)),
        Err(acetate_store::Error::TryConflict { name, conflicts }) => Ok(Err(Failure::new(
            format_args!(
                "refused, and nothing was changed: others have changed {} of the same paths\n{}",
                conflicts.len(),
                conflict_lines(&conflicts)
            ),
            format_args!(
                "`acetate try apply {name} --skip-conflicts` applies the others; `acetate try show {name}` lists all"
            ),
        ))),
        Err(other) => Err(other.into()),
    }
}

/// Says what was applied and how to get back.
pub(super) fn tell_applied(open: &OpenTry<'_>, count: usize) {
    let name = &open.tried().name;
    note(format_args!(
        "{count} changes applied; `acetate try undo {name}` takes them back, `acetate try discard {name}` frees the \
         space of the originals"
    ));
}

pub(super) fn resume(store: &Store, args: &ResumeArgs) -> Result<Exit, Failure> {
    let mut open = store.open_try(&args.name)?;
    match done(open.resume())? {
        Ok(Done::Nothing) => note("nothing was interrupted"),
        Ok(Done::Applied(count)) => tell_applied(&open, count),
        Ok(Done::Undone(count)) => note(format_args!("{count} changes undone")),
        Err(refused) => {
            talk(&refused.text());
            return Ok(Exit::No);
        }
    }
    Ok(Exit::Done)
}

pub(super) fn undo(store: &Store, args: &UndoArgs) -> Result<Exit, Failure> {
    let mut open = store.open_try(&args.name)?;
    match open.undo(if args.last { Undo::Last } else { Undo::All }) {
        Ok(Done::Undone(count)) => note(format_args!("{count} changes undone")),
        Ok(_) => note("nothing is applied"),
        Err(acetate_store::Error::TryConflict { conflicts, .. }) => {
            let refused = Failure::new(
                format_args!(
                    "refused: {} paths have been changed since they were applied\n{}",
                    conflicts.len(),
                    conflict_lines(&conflicts)
                ),
                "put them back as they were; the originals are kept until the try is discarded",
            );
            talk(&refused.text());
            return Ok(Exit::No);
        }
        Err(other) => return Err(other.into()),
    }
    Ok(Exit::Done)
}

pub(super) fn discard(store: &Store, args: &DiscardArgs) -> Result<Exit, Failure> {
    let mut names = args.names.clone();
    if args.all {
        names
            .extend(store.tries()?.into_iter().filter(|listed| !listed.busy).map(|listed| listed.tried.name));
    }
    for name in &names {
        let open = store.open_try(name)?;
        let outcome = Report::of(&open)?.outcome();
        open.discard()?;
        if matches!(outcome, Outcome::Applied | Outcome::Partly) {
            note(format_args!("try {name}: what was applied stays"));
        }
    }
    Ok(Exit::Done)
}
