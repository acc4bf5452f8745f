//! `testkit suites`: the suites by hand, for as long as wanted.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;

use super::{Known, runs, stress};
use crate::driver::Driver;

/// Who mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DriverChoice {
    /// The `acetate` binary
    Acetate,
    /// The kernel's overlayfs
    Kernel,
}

impl DriverChoice {
    /// The driver meant.
    ///
    /// # Errors
    /// If there is no `acetate` binary.
    pub fn driver(self) -> anyhow::Result<Driver> {
        match self {
            Self::Acetate => Driver::acetate(),
            Self::Kernel => Ok(Driver::Kernel),
        }
    }
}

/// One of the suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Errnos, times, modes and owners of every call
    Pjdfstest,
    /// The bytes of one file under random operations
    Fsx,
    /// Many processes at once
    Stress,
}

/// Run published filesystem test suites on a mount and on the filesystem below
///
/// Needs root and what tests/install installs. Exit status: 0 no new difference, 1 differences found, 2 error.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Who mounts
    #[arg(long, value_enum, default_value = "acetate")]
    pub driver: DriverChoice,
    /// Only this suite; may be repeated
    #[arg(long, value_enum)]
    pub suite: Vec<Suite>,
    /// Operations per fsx configuration and seed
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub fsx_operations: u64,
    /// Seed for fsx; may be repeated. Default: three random ones
    #[arg(long, value_name = "N")]
    pub seed: Vec<u64>,
    /// Seconds per stress-ng stressor
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub stress_seconds: u32,
    /// Only this stress-ng stressor; may be repeated
    #[arg(long, value_name = "NAME")]
    pub stressor: Vec<String>,
    /// Directory with the lists of known differences
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data"))]
    pub known: PathBuf,
}

/// Runs what `args` ask for and prints a report of each suite on stdout; whether all of them were clean.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let driver = args.driver.driver()?;
    let all = [Suite::Pjdfstest, Suite::Fsx, Suite::Stress];
    let suites = if args.suite.is_empty() { &all[..] } else { &args.suite };
    let mut clean = true;
    for suite in suites {
        let comparison = match suite {
            Suite::Pjdfstest => {
                runs::pjdfstest(&driver, &Known::read(&args.known.join("pjdfstest-known.txt"))?)?
            }
            Suite::Fsx => {
                let seeds = if args.seed.is_empty() { random_seeds(3)? } else { args.seed.clone() };
                runs::fsx(&driver, &seeds, args.fsx_operations)?
            }
            Suite::Stress => {
                let known = Known::read(&args.known.join("stress-known.txt"))?;
                runs::stress(&driver, &known, &pick_stressors(&args.stressor)?, args.stress_seconds)?
            }
        };
        let name = suite.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        print!("{name} on {}: {comparison}", driver.name());
        clean &= comparison.clean();
    }
    Ok(clean)
}

/// `count` numbers from the kernel's random source.
///
/// # Errors
/// If that has none.
pub fn random_seeds(count: usize) -> anyhow::Result<Vec<u64>> {
    (0..count)
        .map(|_| {
            let mut bytes = [0u8; 4];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
            Ok(u32::from_le_bytes(bytes).into())
        })
        .collect()
}

fn pick_stressors(asked: &[String]) -> anyhow::Result<Vec<&'static str>> {
    let available = stress::available()?;
    if asked.is_empty() {
        return Ok(available);
    }
    asked
        .iter()
        .map(|name| {
            let found = available.iter().find(|have| *have == name).copied();
            found
                .with_context(|| format!("no such stressor here: {name}; there are: {}", available.join(" ")))
        })
        .collect()
}
