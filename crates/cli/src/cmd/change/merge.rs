//! `acetate merge`.

use super::report::Report;
use super::{Named, UpperArgs, flattened, hold, real, unused};
use crate::Exit;
use crate::error::Failure;
use crate::out::{cause, shown};
use acetate_layer::Errno;
use acetate_stack::change::{flatten, merge};
use acetate_store::driver::tree::{How, clone_tree, remove_tree};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Fold an upper layer into the layer below it, or into a copy of that
///
/// The topmost lower layer takes in all that upper changes, and upper is empty afterwards; with --into it is a copy that
/// does, and both layers stay as they are. Whiteouts are kept where there is something to hide in the layers further down.
/// What a mount of all layers shows stays the same all the time: a command that was killed is finished by running it
/// again.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct MergeArgs {
    #[command(flatten)]
    upper: UpperArgs,
    /// Make this new directory the merged layer
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

pub(crate) fn run(args: &MergeArgs) -> Result<Exit, Failure> {
    let mut named = args.upper.named("merge")?;
    let form = args.upper.form;
    let lower = real(&named.layers.lowers[0])?;
    named.layers.lowers[0].clone_from(&lower);
    let report = Report::new("merge", form);
    let Some(work) = args.upper.work.as_ref().filter(|_| !form.dry_run) else {
        let stack = named.layers.open()?;
        let first = if args.into.is_some() { Vec::new() } else { flatten::plan(&stack)? };
        let folds = merge::plan(&stack)?;
        report.steps(&first).folds(&folds).print(form)?;
        return Ok(Exit::Done);
    };
    let report = match &args.into {
        Some(target) => report.folds(&into_copy(&named, work, &lower, target)?),
        None => in_place(&named, work, &lower, report)?,
    };
    report.print(form)?;
    Ok(Exit::Done)
}

/// Folds upper into the lower layer and empties it.
fn in_place(named: &Named, work: &Path, lower: &Path, report: Report) -> Result<Report, Failure> {
    let held = hold(named, work)?;
    unused(lower)?;
    let report = report.steps(&flattened(named, &held.site)?);
    let stack = named.layers.open()?;
    let folds = merge::plan(&stack)?;
    let target = merge::Lower::open(lower, &stack)?;
    let folded = target.run(&stack, &folds, Some(&held.site));
    target.close()?;
    folded?;
    let stack = named.layers.open()?;
    held.site.run(&stack, &merge::clearing(&stack)?)?;
    Ok(report.folds(&folds))
}

/// Folds upper into a copy of the lower layer, which gets its name when it is complete.
fn into_copy(named: &Named, work: &Path, lower: &Path, target: &Path) -> Result<Vec<merge::Fold>, Failure> {
    let exists = || {
        Failure::new(
            format_args!("{}: it exists", shown(target)),
            "name a directory that is not there, and that can be made",
        )
    };
    if target.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let name = target.file_name().ok_or_else(exists)?;
    let above = match target.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    let above = real(above)?;
    let staged = above.join(
        [&OsString::from("."), name, &OsString::from(".acetate-copy")].into_iter().collect::<OsString>(),
    );
    let _held = hold(named, work)?;
    let made = copy_and_fold(named, lower, &staged);
    let tree = |error: acetate_store::driver::tree::TreeError| {
        let errno = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Errno>());
        let cause = errno.map(|errno| format!(": {}", cause(*errno))).unwrap_or_default();
        Failure::new(format_args!("{error}{cause}"), error.hint())
    };
    let folds = match made {
        Err(failure) => {
            remove_tree(&staged).map_err(tree)?;
            return Err(failure);
        }
        Ok(folds) => folds.map_err(tree)?,
    };
    std::fs::rename(&staged, target).map_err(|error| Failure::io(shown(target), &error))?;
    Ok(folds)
}

type Copied = Result<Vec<merge::Fold>, acetate_store::driver::tree::TreeError>;

fn copy_and_fold(named: &Named, lower: &Path, staged: &Path) -> Result<Copied, Failure> {
    let copied = remove_tree(staged).and_then(|_| clone_tree(lower, staged, How::Clone));
    if let Err(error) = copied {
        return Ok(Err(error));
    }
    let stack = named.layers.open()?;
    let folds = merge::plan(&stack)?;
    let target = merge::Lower::open(staged, &stack)?;
    let folded = target.run(&stack, &folds, None);
    target.close()?;
    folded?;
    Ok(Ok(folds))
}
