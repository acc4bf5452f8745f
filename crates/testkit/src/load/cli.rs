//! `testkit load`.

use std::time::Duration;

use anyhow::Result;

use super::memory::{bytes_a_node, coming_and_going};
use super::{Plan, large_directory, leaks, many_mounts, programs, sparse};

/// Load servers with much of everything, and show what they hold on to
///
/// Needs root. Exit status: 0 all right, 1 something is held on to, 2 error.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Files in one directory
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub files: usize,
    /// Files that are created and removed
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub passing: usize,
    /// Mounts at once
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub mounts: usize,
    /// Rounds of trees that are made and removed
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub rounds: usize,
    /// Size of a file with few data, in GiB
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub sparse_gib: u64,
    /// Threads with random programs
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub threads: usize,
    /// How long they run, for each set of options
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub seconds: u64,
    /// Lower layers of their mount
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub layers: usize,
    /// Its mount options; may be repeated [default: several sets]
    #[arg(long, value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Where its random numbers begin; from the clock if not given
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Only the random programs
    #[arg(long)]
    pub programs: bool,
}

/// Options of the mounts on which random programs run.
pub const OPTIONS: [&str; 4] = ["", "redirect_dir=on", "metacopy=on,index=on", "nfs_export=on"];

/// Runs it and prints the figures; `false` if a server holds on to something.
///
/// # Errors
/// If an operation fails.
pub fn run(args: &Args) -> Result<bool> {
    let random = random_programs(args)?;
    if args.programs {
        return Ok(random);
    }
    println!("a file of {} GiB with holes: copied up in {:.3} s", args.sparse_gib, sparse(args.sparse_gib)?);
    let large = large_directory(args.files)?;
    println!("a directory of {} files: {large:?}", args.files);
    println!("{} mounts at once: {} KiB each", args.mounts, many_mounts(args.mounts)?);
    println!("{} bytes for each of 100000 files", bytes_a_node(100_000)?);
    let passing = coming_and_going(args.passing)?;
    println!("{} files created and removed: {passing:?}", args.passing);
    let holds = leaks(args.rounds)?;
    for (round, holds) in holds.iter().enumerate() {
        println!("round {round}: {holds:?}");
    }
    Ok(random && steady(&holds) && steady(&passing))
}

/// `false` if a server holds on to descriptors.
fn random_programs(args: &Args) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let given: Vec<&str> = args.options.iter().map(String::as_str).collect();
    let mut good = true;
    for options in if given.is_empty() { &OPTIONS[..] } else { &given } {
        let plan = Plan {
            threads: args.threads,
            time: Duration::from_secs(args.seconds),
            layers: args.layers,
            options: (*options).to_owned(),
            seed,
        };
        let done = programs(&plan)?;
        println!(
            "options {options:?}, seed {seed}: {} operations on {} threads over {} layers",
            done.operations, plan.threads, plan.layers
        );
        for holds in &done.holds {
            println!("    {holds:?}");
        }
        good &= few_descriptors(&plan, &done);
    }
    Ok(good)
}

/// Whether a server has let go of files that nobody has open any more: what is left are layers, threads and the cache of
/// directories, which holds 4096.
pub fn few_descriptors(plan: &Plan, done: &super::Done) -> bool {
    done.holds.last().is_some_and(|last| last.descriptors <= 4096 + 2 * plan.layers + 2 * plan.threads)
}

/// Resident memory of a thread: its stack, and the buffers that it has used.
const THREAD_KIB: u64 = 160;

/// Whether the second half of the rounds left no more behind than the first: descriptors exactly (but for the few of cached
/// directories), memory within a quarter, as an allocator takes some rounds to settle; but for that of threads, which come and
/// go as requests wait.
pub fn steady(holds: &[super::Holds]) -> bool {
    let (first, second) = holds.split_at(holds.len() / 2);
    let most = |part: &[super::Holds]| {
        let memory =
            part.iter().map(|holds| holds.resident_kib.saturating_sub(THREAD_KIB * holds.threads as u64));
        let memory = memory.max().unwrap_or_default();
        (memory, part.iter().map(|holds| holds.descriptors).max().unwrap_or_default())
    };
    let ((memory, descriptors), (memory_later, descriptors_later)) = (most(first), most(second));
    memory_later <= memory + memory / 4 && descriptors_later <= descriptors + 8
}
