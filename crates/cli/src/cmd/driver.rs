//! `acetate driver`.

use crate::Exit;
use crate::error::Failure;
use crate::out::{answer, cause, exact, shown};
use acetate_store::driver::btrfs::{self, Pressure};
use acetate_store::driver::{DriverName, ProbeError, Verdict, choose, probe};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Show which drivers can make workspaces in a directory
///
/// Each driver is tried in a scratch directory there, which is removed again. The first that works is chosen.
/// Exit status: 0 one works, 1 none does, 2 error.
#[derive(Debug, clap::Args)]
pub(crate) struct DriverArgs {
    /// Where the workspaces are to be
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Print one JSON document (schema acetate-driver-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

/// The JSON document.
#[derive(Serialize)]
struct Document {
    schema: &'static str,
    /// Text with bytes that are no UTF-8 as `\xNN` and a backslash as `\\`.
    path: String,
    chosen: Option<DriverName>,
    drivers: Vec<Row>,
    /// Absent on other filesystems.
    #[serde(skip_serializing_if = "Option::is_none")]
    btrfs: Option<Metadata>,
}

/// One driver.
#[derive(Serialize)]
struct Row {
    driver: DriverName,
    works: bool,
    why: String,
    cost: &'static str,
}

/// The metadata space of btrfs, in bytes.
#[derive(Serialize)]
struct Metadata {
    pressure: &'static str,
    headroom: u64,
    metadata_total: u64,
    metadata_used: u64,
    metadata_reserved: u64,
    unallocated: u64,
    data_total: u64,
    data_used: u64,
}

pub(crate) fn run(args: &DriverArgs) -> Result<Exit, Failure> {
    let verdicts = probe(&args.path).map_err(|error| failure(&error))?;
    let pressure = pressure(&args.path);
    let chosen = choose(&verdicts);
    let text =
        if args.json { json(args, &verdicts, chosen, pressure)? } else { table(&verdicts, chosen, pressure) };
    answer(&text).map_err(|error| Failure::io("write the answer", &error))?;
    Ok(if chosen.is_some() { Exit::Done } else { Exit::No })
}

fn failure(error: &ProbeError) -> Failure {
    let (what, path, errno) = match error {
        ProbeError::Open { path, errno } => ("directory", path, *errno),
        ProbeError::Remove { path, errno } => ("scratch directory", path, *errno),
    };
    Failure::new(format_args!("{what}: {}: {}", shown(path), cause(errno)), error.hint())
}

/// The metadata space, if this is btrfs and lets us see it. What keeps us from it is in the verdict about the driver.
fn pressure(path: &Path) -> Option<Pressure> {
    if btrfs::is_btrfs(path).ok()? { btrfs::pressure(path).ok() } else { None }
}

fn json(
    args: &DriverArgs,
    verdicts: &[Verdict],
    chosen: Option<DriverName>,
    pressure: Option<Pressure>,
) -> Result<String, Failure> {
    let row = |v: &Verdict| Row { driver: v.driver, works: v.works, why: v.why.clone(), cost: v.cost };
    let document = Document {
        schema: "acetate-driver-v1",
        path: exact(&args.path),
        chosen,
        drivers: verdicts.iter().map(row).collect(),
        btrfs: pressure.map(|pressure| {
            let space = pressure.space();
            Metadata {
                pressure: pressure.as_str(),
                headroom: space.headroom(),
                metadata_total: space.metadata_total,
                metadata_used: space.metadata_used,
                metadata_reserved: space.metadata_reserved,
                unallocated: space.unallocated,
                data_total: space.data_total,
                data_used: space.data_used,
            }
        }),
    };
    let json = serde_json::to_string_pretty(&document).map_err(|error| {
        Failure::new(format_args!("write JSON: {error}"), "report this as a mistake of acetate")
    })?;
    Ok(json + "\n")
}

/// Columns as wide as their longest word, the chosen driver marked by `*`.
fn table(verdicts: &[Verdict], chosen: Option<DriverName>, pressure: Option<Pressure>) -> String {
    let width = verdicts.iter().map(|v| v.why.chars().count()).max().unwrap_or(0);
    let mut text = format!("  {:8} {:5} {:width$}  {}\n", "DRIVER", "WORKS", "WHY", "A WORKSPACE COSTS");
    for verdict in verdicts {
        let mark = if chosen == Some(verdict.driver) { '*' } else { ' ' };
        let works = if verdict.works { "yes" } else { "no" };
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            text,
            "{mark} {:8} {works:5} {:width$}  {}",
            verdict.driver,
            shown(&verdict.why).to_string(),
            verdict.cost
        );
    }
    if let Some(pressure) = pressure {
        let _infallible = writeln!(text, "btrfs metadata: {}: {}", pressure.as_str(), pressure.space());
    }
    text.push_str(&match chosen {
        Some(driver) => format!("chosen: {driver}\n"),
        None => "chosen: none\n".to_owned(),
    });
    text
}
