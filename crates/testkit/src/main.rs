//! `testkit`: the project's oracles by hand. Each subcommand is a file in `cmd` or the `cli` of its module.

mod cmd;

use std::process::ExitCode;

use acetate_testkit::lockstep::worker::serve_if_asked;
use acetate_testkit::{cuts, kills, load, real, suites, takeover};
use clap::Parser;

/// Compare Acetate with the kernel's overlayfs and run other people's measures on it
#[derive(Parser, Debug)]
#[command(name = "testkit", version)]
enum Command {
    Cuts(cuts::cli::Args),
    Kills(kills::cli::Args),
    Load(load::cli::Args),
    Lockstep(cmd::lockstep::Args),
    Matrix(cmd::matrix::Args),
    Real(real::cli::Args),
    Suites(suites::cli::Args),
    Takeover(takeover::Args),
}

fn run() -> anyhow::Result<ExitCode> {
    if serve_if_asked()? {
        return Ok(ExitCode::SUCCESS);
    }
    let exit = |good: bool| if good { ExitCode::SUCCESS } else { ExitCode::from(1) };
    match Command::parse() {
        Command::Cuts(args) => cuts::cli::run(&args).map(exit),
        Command::Kills(args) => kills::cli::run(&args).map(exit),
        Command::Load(args) => load::cli::run(&args).map(exit),
        Command::Lockstep(args) => cmd::lockstep::run(&args),
        Command::Matrix(args) => cmd::matrix::run(&args),
        Command::Real(args) => real::cli::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Suites(args) => suites::cli::run(&args).map(exit),
        Command::Takeover(args) => takeover::run(&args).map(|()| ExitCode::SUCCESS),
    }
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("testkit: {error:#}");
        ExitCode::from(2)
    })
}
