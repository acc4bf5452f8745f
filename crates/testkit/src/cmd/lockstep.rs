//! `testkit lockstep`: random calls on two mounts at once.

use std::io::IsTerminal;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use acetate_testkit::driver::Driver;
use acetate_testkit::lockstep::case::Rig;
use acetate_testkit::lockstep::worker::Reentry;
use acetate_testkit::lockstep::{self, Event, Limit, Plan, Report};
use acetate_testkit::scratch::{FsKind, Scratch};
use anyhow::Context;

/// Run random calls on two mounts of identical layers and compare every result
///
/// Exit status: 0 no difference, 1 differences found, 2 error.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Stop after this many minutes
    #[arg(long, value_name = "N", conflicts_with = "cases")]
    minutes: Option<u64>,
    /// Stop after this many cases
    #[arg(long, value_name = "N", default_value_t = 500)]
    cases: u64,
    /// Seed of the first case; chosen from the clock if not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Who mounts on side A
    #[arg(long, value_enum, default_value = "acetate")]
    driver_a: Who,
    /// Who mounts on side B
    #[arg(long, value_enum, default_value = "kernel")]
    driver_b: Who,
    /// Filesystem of the layers; `dir`: whatever the temporary directory is on
    #[arg(long, value_enum, default_value = "tmpfs")]
    fs: Fs,
    /// Mount options of both sides, comma separated
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    options: String,
    /// Let the mounts change hands every few steps: what one driver left on disk, the other one goes on with
    #[arg(long)]
    handover: bool,
    /// Take the privilege to open file handles from Acetate, as ordinary users lack it
    #[arg(long)]
    closed_handles: bool,
    /// Run this script once instead of random ones
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Print the script of the seed instead of running it
    #[arg(long)]
    print: bool,
    /// Print every step with its result on side B
    #[arg(long)]
    trace: bool,
    /// Keep the layers of every case, and say where they are
    #[arg(long)]
    keep: bool,
    /// Directory for scripts of failures
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir().join("acetate-lockstep"))]
    out: PathBuf,
    /// Stop after this many kinds of failures
    #[arg(long, value_name = "N", default_value_t = 20)]
    kinds: usize,
    /// Spend at most this long on shrinking one failure
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    shrink_for: u64,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Acetate,
    Kernel,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Fs {
    Ext4,
    Tmpfs,
    Xfs,
    Btrfs,
    Dir,
}

impl Who {
    fn driver(self) -> anyhow::Result<Driver> {
        match self {
            Self::Acetate => Driver::acetate(),
            Self::Kernel => Ok(Driver::Kernel),
        }
    }
}

impl Fs {
    fn scratch(self) -> anyhow::Result<Scratch> {
        let kind = match self {
            Self::Dir => return Scratch::new("acetate-lockstep"),
            Self::Ext4 => FsKind::Ext4,
            Self::Tmpfs => FsKind::Tmpfs,
            Self::Xfs => FsKind::Xfs,
            Self::Btrfs => FsKind::Btrfs,
        };
        Scratch::on(kind, "acetate-lockstep", 512)
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs(),
    };
    if args.print {
        let script = lockstep::generate::script(seed, &args.options);
        let script = if args.handover { lockstep::generate::with_handovers(script) } else { script };
        print!("{script}");
        return Ok(ExitCode::SUCCESS);
    }
    let scratch = args.fs.scratch()?;
    let mut drivers = [args.driver_a.driver()?, args.driver_b.driver()?];
    if args.closed_handles {
        close_handles(&mut drivers, &scratch)?;
    }
    let mut rig = Rig::new(scratch.path(), drivers, Reentry::own(&[])?);
    rig.closed_handles = args.closed_handles;
    rig.keep = args.keep;
    rig.trace = args.trace;
    let code = match &args.replay {
        Some(file) => replay(&mut rig, file)?,
        None => random(&mut rig, args, seed)?,
    };
    if args.keep {
        println!("the layers are in {}", scratch.path().display());
        // Nothing is removed that was asked to be kept.
        std::mem::forget(scratch);
    }
    Ok(code)
}

/// Puts a program in the place of `acetate` that runs it without `CAP_DAC_READ_SEARCH`.
fn close_handles(drivers: &mut [Driver; 2], scratch: &Scratch) -> anyhow::Result<()> {
    for driver in drivers {
        if let Driver::Acetate { bin } = driver {
            let launcher = scratch.path().join("acetate");
            let drop = "setpriv --bounding-set=-dac_read_search --inh-caps=-dac_read_search";
            std::fs::write(&launcher, format!("#!/bin/sh\nexec {drop} '{}' \"$@\"\n", bin.display()))?;
            std::fs::set_permissions(&launcher, std::fs::Permissions::from_mode(0o755))?;
            *bin = launcher;
        }
    }
    Ok(())
}

fn replay(rig: &mut Rig, file: &std::path::Path) -> anyhow::Result<ExitCode> {
    let found = lockstep::replay(rig, file)?;
    for difference in &found {
        println!("{difference}");
    }
    println!("{}", if found.is_empty() { "1 passed, 0 failed" } else { "0 passed, 1 failed" });
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn random(rig: &mut Rig, args: &Args, seed: u64) -> anyhow::Result<ExitCode> {
    let limit = match args.minutes {
        Some(minutes) => Limit::Time(Duration::from_secs(minutes * 60)),
        None => Limit::Cases(args.cases),
    };
    let plan = Plan {
        seed,
        limit,
        options: args.options.clone(),
        handover: args.handover,
        out: args.out.clone(),
        shrink_for: Duration::from_secs(args.shrink_for),
        kinds: args.kinds,
    };
    println!("seed {seed}");
    let terminal = std::io::stderr().is_terminal();
    let mut tell = |event: Event<'_>| match event {
        Event::Case(report) if terminal => eprint!("\r{} passed, {} failed ", report.passed, report.failed),
        Event::Case(_) => {}
        Event::Failure(kind, failure) => {
            println!(
                "{}failure: {kind}\n{}written to {}\n",
                if terminal { "\r" } else { "" },
                failure.text,
                failure.file.display()
            );
        }
    };
    let report = lockstep::run(rig, &plan, &mut tell)?;
    if terminal {
        eprint!("\r");
    }
    summary(&report);
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn summary(report: &Report) {
    for (kind, failure) in &report.failures {
        println!("{} times: {kind} (seed {}, {})", failure.cases, failure.seed, failure.file.display());
    }
    println!("{} passed, {} failed", report.passed, report.failed);
}
