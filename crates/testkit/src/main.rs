//! `testkit`: runs the project's oracles by hand. Each subcommand is a file in `cmd`.

mod cmd;

use std::process::ExitCode;

use acetate_testkit::lockstep::worker::serve_if_asked;
use clap::Parser;

/// Compare Acetate with the kernel's overlayfs
#[derive(Parser, Debug)]
#[command(name = "testkit", version)]
enum Cli {
    Lockstep(cmd::lockstep::Args),
    Matrix(cmd::matrix::Args),
}

fn main() -> ExitCode {
    let result = match serve_if_asked() {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => match Cli::parse() {
            Cli::Lockstep(args) => cmd::lockstep::run(&args),
            Cli::Matrix(args) => cmd::matrix::run(&args),
        },
        Err(error) => Err(error),
    };
    result.unwrap_or_else(|error| {
        eprintln!("testkit: {error:#}");
        ExitCode::from(2)
    })
}
