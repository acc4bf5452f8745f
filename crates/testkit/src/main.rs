//! The oracles by hand: `cargo run --release -p acetate-testkit -- --help`.

use std::process::ExitCode;

use acetate_testkit::{real, suites};
use clap::Parser;

/// Test overlay mounts against other people's measures
#[derive(Debug, Parser)]
#[command(name = "testkit", version)]
enum Command {
    Real(real::cli::Args),
    Suites(suites::cli::Args),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Real(args) => real::cli::run(&args).map(|()| true),
        Command::Suites(args) => suites::cli::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("testkit: {error:#}");
            ExitCode::from(2)
        }
    }
}
