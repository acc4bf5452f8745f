//! The `acetate` command: one file a subcommand in [`cmd`], and the programs that mount(8) and container engines call.

mod changes;
mod cmd;
mod daemon;
mod error;
mod layers;
mod look;
mod mount;
mod mountinfo;
mod options;
mod out;
mod progress;
mod record;
mod run;
mod sandbox;
mod store;
mod tour;
mod workspace;

use clap::{CommandFactory, Parser};
use error::Convention;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// Lay read-only directories over one another, with one writable directory on top
#[derive(Debug, Parser)]
#[command(name = "acetate", version, propagate_version = true)]
enum Command {
    Mount(cmd::mount::MountArgs),
    Umount(cmd::umount::UmountArgs),
    Mounts(cmd::mounts::MountsArgs),
    Upgrade(cmd::upgrade::UpgradeArgs),
    Image(cmd::image::ImageArgs),
    Workspace(cmd::workspace::WorkspaceArgs),
    Try(cmd::tries::TryArgs),
    Driver(cmd::driver::DriverArgs),
    Snapshotter(cmd::snapshotter::SnapshotterArgs),
    Explain(cmd::explain::ExplainArgs),
    Diff(cmd::diff::DiffArgs),
    Check(cmd::check::CheckArgs),
    Flatten(cmd::change::flatten::FlattenArgs),
    Compact(cmd::change::compact::CompactArgs),
    Merge(cmd::change::merge::MergeArgs),
    Rebase(cmd::change::rebase::RebaseArgs),
    Commit(cmd::commit::CommitArgs),
    Tour(cmd::tour::TourArgs),
    Completions(cmd::completions::CompletionsArgs),
    Man(cmd::man::ManArgs),
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It is done.
    Done,
    /// The answer is "no".
    No,
    /// As the command ended that was run for the user.
    Status(u8),
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let is_subcommand = |word: &OsStr| Command::command().find_subcommand(word).is_some();
    let (result, convention) = match cmd::personality::of(&arguments, is_subcommand) {
        Some(personality) => (personality.run(&arguments), Convention::MountHelper),
        None => (run(arguments), Convention::Command),
    };
    match result {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::from(1),
        Ok(Exit::Status(code)) => ExitCode::from(code),
        Err(failure) => ExitCode::from(failure.report(convention)),
    }
}

fn run(arguments: Vec<OsString>) -> Result<Exit, error::Failure> {
    // clap prints usage errors itself and ends with status 2.
    match Command::parse_from(arguments) {
        Command::Mount(args) => cmd::mount::run(&args),
        Command::Umount(args) => cmd::umount::run(&args),
        Command::Mounts(args) => cmd::mounts::run(&args),
        Command::Upgrade(args) => cmd::upgrade::run(&args),
        Command::Image(args) => cmd::image::run(&args),
        Command::Workspace(args) => cmd::workspace::run(args),
        Command::Try(args) => cmd::tries::run(args),
        Command::Driver(args) => cmd::driver::run(&args),
        Command::Snapshotter(args) => cmd::snapshotter::run(&args),
        Command::Explain(args) => cmd::explain::run(&args),
        Command::Diff(args) => cmd::diff::run(&args),
        Command::Check(args) => cmd::check::run(&args),
        Command::Flatten(args) => cmd::change::flatten::run(&args),
        Command::Compact(args) => cmd::change::compact::run(&args),
        Command::Merge(args) => cmd::change::merge::run(&args),
        Command::Rebase(args) => cmd::change::rebase::run(&args),
        Command::Commit(args) => cmd::commit::run(&args),
        Command::Tour(args) => cmd::tour::run(&args),
        Command::Completions(args) => cmd::completions::run(&args),
        Command::Man(args) => cmd::man::run(&args),
    }
}
