//! `testkit load`.

use anyhow::Result;

use super::{large_directory, leaks, many_mounts};

/// Load servers with much of everything, and show what they hold on to
///
/// Needs root. Exit status: 0 all right, 1 something is held on to, 2 error.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Files in one directory
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub files: usize,
    /// Mounts at once
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub mounts: usize,
    /// Rounds of trees that are made and removed
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub rounds: usize,
}

/// Runs it and prints the figures; `false` if a server holds on to something.
///
/// # Errors
/// If an operation fails.
pub fn run(args: &Args) -> Result<bool> {
    let large = large_directory(args.files)?;
    println!("a directory of {} files: {large:?}", args.files);
    println!("{} mounts at once: {} KiB each", args.mounts, many_mounts(args.mounts)?);
    let holds = leaks(args.rounds)?;
    for (round, holds) in holds.iter().enumerate() {
        println!("round {round}: {holds:?}");
    }
    Ok(steady(&holds))
}

/// Whether the second half of the rounds left no more behind than the first: descriptors exactly (but for the few of cached
/// directories), memory within a tenth.
pub fn steady(holds: &[super::Holds]) -> bool {
    let (first, second) = holds.split_at(holds.len() / 2);
    let most = |part: &[super::Holds]| {
        let memory = part.iter().map(|holds| holds.resident_kib).max().unwrap_or_default();
        (memory, part.iter().map(|holds| holds.descriptors).max().unwrap_or_default())
    };
    let ((memory, descriptors), (memory_later, descriptors_later)) = (most(first), most(second));
    memory_later <= memory + memory / 10 && descriptors_later <= descriptors + 8
}
