//! `acetate image`.

mod df;
mod explore;
mod export;
mod gc;
mod import;
mod list;
mod pull;
mod push;
mod remove;
mod show;
mod tag;

pub(crate) use df::warn_of;

use crate::Exit;
use crate::error::Failure;
use crate::store::StoreArgs;

/// Keep images: stacks of read-only layers, each unpacked once and shared
#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Import(import::ImportArgs),
    Pull(pull::PullArgs),
    Push(push::PushArgs),
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Show(show::ShowArgs),
    Explore(explore::ExploreArgs),
    Tag(tag::TagArgs),
    Export(export::ExportArgs),
    #[command(visible_alias = "rm")]
    Remove(remove::RemoveArgs),
    Gc(gc::GcArgs),
    Df(df::DfArgs),
}

pub(crate) fn run(args: &ImageArgs) -> Result<Exit, Failure> {
    let store = args.store.open()?;
    match &args.command {
        Command::Import(args) => import::run(&store, args),
        Command::Pull(args) => pull::run(&store, args),
        Command::Push(args) => push::run(&store, args),
        Command::List(args) => list::run(&store, args),
        Command::Show(args) => show::run(&store, args),
        Command::Explore(args) => explore::run(&store, args),
        Command::Tag(args) => tag::run(&store, args),
        Command::Export(args) => export::run(&store, args),
        Command::Remove(args) => remove::run(&store, args),
        Command::Gc(args) => gc::run(&store, args),
        Command::Df(args) => df::run(&store, args),
    }
}
