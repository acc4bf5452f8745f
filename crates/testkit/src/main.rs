//! `testkit`: runs the project's oracles by hand. Each subcommand is a file in `cmd`.

mod cmd;

use std::process::ExitCode;

use clap::Parser;

/// Compare Acetate with the kernel's overlayfs
#[derive(Parser, Debug)]
#[command(name = "testkit", version)]
enum Cli {
    Matrix(cmd::matrix::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse() {
        Cli::Matrix(args) => cmd::matrix::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("testkit: {error:#}");
        ExitCode::from(2)
    })
}
