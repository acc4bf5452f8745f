//! `testkit real`: the real programs by hand.

use std::time::Instant;

use anyhow::Context;
use clap::ValueEnum;

use super::{copying, debian, git, sqlite, venv};
use crate::driver::Driver;
use crate::suites::cli::DriverChoice;

/// One of the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Run {
    /// apt-get install in a Debian root tree
    Debian,
    /// git clone, gc, fsck, checkout
    Git,
    /// A Python virtual environment
    Venv,
    /// Concurrent sqlite with a write-ahead log
    SqliteWal,
    /// Concurrent sqlite with a rollback journal
    SqliteDelete,
    /// cp and tar
    Copy,
}

impl Run {
    /// Does it on a mount of `driver`; returns what was done in one line.
    pub fn on(self, driver: &Driver) -> anyhow::Result<String> {
        match self {
            Self::Debian => debian::apt_get_install(driver),
            Self::Git => git::clone_and_gc(driver),
            Self::Venv => venv::make_and_use(driver),
            Self::SqliteWal => sqlite::bank(driver, sqlite::Journal::Wal),
            Self::SqliteDelete => sqlite::bank(driver, sqlite::Journal::Delete),
            Self::Copy => copying::cp_and_tar(driver),
        }
    }
}

/// Run real programs on a mount and check what they leave
///
/// Needs root and what tests/install installs. Exit status: 0 all is well, 2 error.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Who mounts
    #[arg(long, value_enum, default_value = "acetate")]
    pub driver: DriverChoice,
    /// Only this; may be repeated
    #[arg(long, value_enum)]
    pub only: Vec<Run>,
}

/// Runs what `args` ask for, a line on stdout for each.
///
/// # Errors
/// The first that fails.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let driver = args.driver.driver()?;
    let runs = if args.only.is_empty() { Run::value_variants() } else { &args.only };
    for run in runs {
        let start = Instant::now();
        let done = run.on(&driver).with_context(|| format!("{run:?} on {}", driver.name()))?;
        println!("{run:?} on {}: {done} ({:.1} s)", driver.name(), start.elapsed().as_secs_f64());
    }
    Ok(())
}
