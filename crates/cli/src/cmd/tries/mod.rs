//! `acetate try`.

mod apply;
mod ask;
mod list;
mod report;
mod run;
mod show;

use crate::Exit;
use crate::error::Failure;
use crate::store::StoreArgs;

/// Run a command over the live system or a directory, show what it changed, and apply that or not
///
/// The command sees the tree as it is and can change everything in it, but what it writes goes to overlays, one for each
/// filesystem that is mounted there. When it has ended, its changes are listed, deletions first, and can be applied, all or
/// some, kept for later, or discarded. What was applied can be undone until the try is discarded.
///
/// Exit status: the command's; 128 and the number of the signal that ended it; 127 if there is no such command, 126 if it
/// cannot be executed, 125 if nothing could be run, or not be applied.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct TryArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Show(show::ShowArgs),
    Apply(apply::ApplyArgs),
    Resume(apply::ResumeArgs),
    Undo(apply::UndoArgs),
    Discard(apply::DiscardArgs),
}

pub(crate) fn run(args: TryArgs) -> Result<Exit, Failure> {
    // Opening layers sets it to zero; the command has to have the user's.
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    let store = args.store.open_without_images()?;
    match args.command {
        None => run::run(&store, args.run, mask),
        Some(Command::List(args)) => list::run(&store, &args),
        Some(Command::Show(args)) => show::run(&store, &args),
        Some(Command::Apply(args)) => apply::apply(&store, &args),
        Some(Command::Resume(args)) => apply::resume(&store, &args),
        Some(Command::Undo(args)) => apply::undo(&store, &args),
        Some(Command::Discard(args)) => apply::discard(&store, &args),
    }
}
