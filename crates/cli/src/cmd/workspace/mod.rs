//! `acetate workspace`.

pub(crate) mod commit;
mod create;
mod diff;
mod driver;
mod list;
mod mount;
mod remove;
mod run;

use crate::Exit;
use crate::error::Failure;
use crate::store::StoreArgs;

/// Work in writable copies of images, directories and other workspaces, made in milliseconds
#[derive(Debug, clap::Args)]
pub(crate) struct WorkspaceArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(create::CreateArgs),
    Run(run::RunArgs),
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Mount(mount::MountArgs),
    Umount(mount::UmountArgs),
    Diff(diff::DiffArgs),
    Commit(commit::CommitArgs),
    Reset(remove::ResetArgs),
    Driver(driver::DriverArgs),
    #[command(visible_alias = "rm")]
    Remove(remove::RemoveArgs),
}

pub(crate) fn run(args: WorkspaceArgs) -> Result<Exit, Failure> {
    let store = args.store.open()?;
    match args.command {
        Command::Create(args) => create::run(&store, &args),
        Command::Run(args) => run::run(&store, args),
        Command::List(args) => list::run(&store, &args),
        Command::Mount(args) => mount::mount(&store, &args),
        Command::Umount(args) => mount::umount(&store, &args),
        Command::Diff(args) => diff::run(&store, &args),
        Command::Commit(args) => commit::run(&store, &args),
        Command::Driver(args) => driver::run(&store, &args),
        Command::Reset(args) => remove::reset(&store, &args),
        Command::Remove(args) => remove::remove(&store, &args),
    }
}
