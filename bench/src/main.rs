//! Side-by-side benchmarks of overlay mounts: the kernel's overlayfs, Acetate, and fuse-overlayfs, in one run.
//!
//! Every workload starts on a fresh mount with an empty upper. The systems take turns within each round, so that
//! what else the machine does hits all of them; the report gives medians. See `bench/README.md`.

mod import;
mod layers;
mod plot;
mod report;
mod rootless;
mod system;
mod workload;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use acetate_testkit::driver::Stack;
use acetate_testkit::scratch::{FsKind, Scratch};
use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};

use layers::Layers;
use report::{Report, Row};
use system::System;
use workload::{Outcome, Start, WORKLOADS, Workload};

/// Compare overlay filesystems, workload by workload
///
/// Needs root. Times are wall-clock; each workload starts on a fresh mount. Exit status: 0 done, 2 error or a workload
/// that failed on a system.
#[derive(Debug, Parser)]
#[command(name = "acetate-bench", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How often each workload is run on each system
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The filesystem that the layers are on
    #[arg(long, value_enum, default_value = "tmpfs")]
    fs: Fs,
    /// Only these workloads, separated by commas; see --list
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these systems, separated by commas
    #[arg(long, value_enum, value_name = "SYSTEM", value_delimiter = ',')]
    systems: Vec<system::Choice>,
    /// All systems by an ordinary user in a user namespace of theirs
    #[arg(long)]
    rootless: bool,
    /// Mount without an upper layer; only workloads that change nothing
    #[arg(long)]
    read_only: bool,
    /// Where to work: set for the process of the ordinary user
    #[arg(long, value_name = "DIR", hide = true)]
    inside: Option<PathBuf>,
    /// Print one JSON object (schema acetate-bench/1, see bench/README.md) instead of a table
    #[arg(long)]
    json: bool,
    /// Also draw the ratios to the kernel's overlayfs, into this SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the names of the workloads and what they do
    #[arg(long)]
    list: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Import(import::ImportArgs),
}

/// Where layers can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fs {
    /// In memory: shows the cost of the overlay itself
    Tmpfs,
    /// In an image file on this machine's disk
    Ext4,
}

impl Fs {
    fn kind(self) -> FsKind {
        match self {
            Self::Tmpfs => FsKind::Tmpfs,
            Self::Ext4 => FsKind::Ext4,
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("acetate-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every workload ran on every system.
fn run(args: &Args) -> anyhow::Result<bool> {
    if let Some(Command::Import(args)) = &args.command {
        return import::run(args).map(|()| true);
    }
    if args.list {
        for workload in &WORKLOADS {
            println!("{:<18} {}", workload.name, workload.what);
        }
        return Ok(true);
    }
    let workloads = pick(&args.only, args.read_only)?;
    if !rustix::process::geteuid().is_root() {
        bail!("mounting and dropping caches need root; run it with sudo");
    }
    if let Some(dir) = &args.inside {
        return compare(args, &workloads, dir);
    }
    let scratch = Scratch::on(args.fs.kind(), "acetate-bench", 8192)?;
    if args.rootless {
        return rootless::run(scratch.path());
    }
    compare(args, &workloads, scratch.path())
}

/// Makes layers below `dir`, measures the systems over them, and reports; whether every workload ran on every system.
fn compare(args: &Args, workloads: &[&'static Workload], dir: &Path) -> anyhow::Result<bool> {
    let systems = System::find(&args.systems)?;
    say("making layers");
    let place = Place { layers: Layers::make(dir)?, dir, rootless: args.rootless, read_only: args.read_only };
    let report = Report::new(args.fs.kind().name(), args.rounds, args.rootless, &systems, workloads);
    let mut report = report.of_read_only(args.read_only);
    for round in 0..args.rounds {
        for (row, workload) in workloads.iter().enumerate() {
            say(&format!("round {} of {}: {}", round + 1, args.rounds, workload.name));
            // Whoever goes first in one round goes last in another.
            for turn in 0..systems.len() {
                let column = (turn + round as usize) % systems.len();
                let timed = measure(workload, &systems[column], &place);
                if let Ok(measured) = &timed {
                    report.note_mount(column, measured);
                }
                record(&mut report.rows[row], column, timed);
            }
        }
    }
    say("");
    if let Some(file) = &args.svg {
        std::fs::write(file, report.svg()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.json())?);
    } else {
        print!("{}", report.table());
    }
    for row in &report.rows {
        for (column, why) in &row.failures {
            eprintln!("acetate-bench: {} on {}: {why}", row.name, systems[*column].name());
        }
    }
    Ok(report.rows.iter().all(|row| row.failures.is_empty()))
}

/// The workloads of these names, or all; `read_only`: that change nothing.
fn pick(names: &[String], read_only: bool) -> anyhow::Result<Vec<&'static Workload>> {
    let possible = |workload: &&Workload| !read_only || workload.only_reads();
    if names.is_empty() {
        return Ok(WORKLOADS.iter().filter(possible).collect());
    }
    let find = |name: &String| {
        let found = WORKLOADS.iter().find(|workload| workload.name == name);
        let found = found.with_context(|| format!("no workload {name}; --list shows them"))?;
        if !possible(&found) {
            bail!("{name} writes, and --read-only mounts without an upper layer");
        }
        Ok(found)
    };
    names.iter().map(find).collect()
}

/// Progress on a terminal: one line that is written over; the empty text removes it.
fn say(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
    }
}

fn record(row: &mut Row, column: usize, timed: anyhow::Result<Measured>) {
    match timed {
        Ok(Measured { seconds, steps: work, .. }) => match row.work {
            // The first to finish says how much there was to do; the others must have done the same.
            Some(expected) if expected != work => {
                row.failures.push((column, format!("did {work} steps, another system {expected}")));
            }
            _ => {
                row.work = Some(work);
                row.samples[column].push(seconds);
            }
        },
        Err(error) => row.failures.push((column, format!("{error:#}"))),
    }
}

/// What one run came to.
#[derive(Debug)]
pub struct Measured {
    /// The time of the run alone, or what the workload says instead, in seconds.
    pub seconds: f64,
    /// The steps that it counted.
    pub steps: u64,
    /// How long mounting took, in seconds.
    pub mount_seconds: f64,
    /// The memory of the server at the end, in bytes; `None` if there is none.
    pub memory: Option<u64>,
}

/// Where it is measured.
struct Place<'a> {
    layers: Layers,
    /// They are below it, and so are upper layers.
    dir: &'a Path,
    rootless: bool,
    /// Without an upper layer.
    read_only: bool,
}

/// Mounts, prepares, runs and unmounts.
fn measure(workload: &Workload, system: &System, place: &Place<'_>) -> anyhow::Result<Measured> {
    let Place { layers, dir, rootless, read_only } = place;
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(&work)?;
    let result = (|| {
        let stack = match read_only {
            true => Stack::read_only(layers.stack_of_two(workload.lowers)),
            false => Stack::writable(layers.stack(workload.lowers), &upper, &work),
        };
        if workload.start == Start::Cold {
            if *rootless { rootless::ask_for_cold()? } else { drop_caches()? }
        }
        let start = Instant::now();
        let mounted = system.mount(&stack, &layers.merged, *rootless)?;
        let mount_seconds = start.elapsed().as_secs_f64();
        (workload.prepare)(mounted.path(), layers)?;
        if workload.start == Start::Warm {
            (workload.run)(mounted.path(), layers)?;
        }
        let start = Instant::now();
        let Outcome { steps, seconds } = (workload.run)(mounted.path(), layers)?;
        let seconds = seconds.unwrap_or_else(|| start.elapsed().as_secs_f64());
        let memory = system.server_memory(&layers.merged)?;
        mounted.unmount()?;
        Ok(Measured { seconds, steps, mount_seconds, memory })
    })();
    std::fs::remove_dir_all(&upper)?;
    std::fs::remove_dir_all(&work)?;
    result
}

/// Forgets cached pages, names and inodes, as after a restart.
fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop caches")
}
