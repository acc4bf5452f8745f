//! `acetate mounts`.

use crate::Exit;
use crate::daemon::statistics::Statistics;
use crate::daemon::status::InFlight;
use crate::error::Failure;
use crate::mountinfo::{self, Mount};
use crate::out::{answer, exact, shown, table};
use crate::record::{self, Agreed, Found, LayerRecord};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Show the overlays that are mounted
///
/// Exit status: 0 done, 2 error.
#[derive(Debug, clap::Args)]
pub(crate) struct MountsArgs {
    /// Print one JSON document (schema acetate-mounts-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
    /// Also show what each daemon has counted since it serves: operations and their times, and its caches
    #[arg(long)]
    stats: bool,
}

/// The JSON document.
#[derive(Serialize)]
struct Document {
    schema: &'static str,
    mounts: Vec<Entry>,
}

/// One mount. Paths are text with bytes that are no UTF-8 as `\xNN` and a backslash as `\\`.
#[derive(Serialize)]
struct Entry {
    mountpoint: String,
    driver: &'static str,
    source: String,
    flags: String,
    /// The options that the kernel shows of an overlay that it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_options: Option<String>,
    /// Absent if the daemon is gone or keeps no record that we may read.
    #[serde(flatten)]
    daemon: Option<Daemon>,
}

#[derive(Serialize)]
struct Daemon {
    pid: u32,
    /// The process that starts the next daemon when this one ends; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<u32>,
    lower: Vec<String>,
    upper: Option<String>,
    work: Option<String>,
    options: String,
    marks: Option<String>,
    whiteouts: Option<String>,
    layers: Vec<LayerRecord>,
    settings: BTreeMap<String, String>,
    capabilities: Vec<String>,
    no_new_privs: bool,
    /// `null` until the daemon and the kernel have agreed.
    kernel: Option<Agreed>,
    version: String,
    /// What the daemon has said since it serves; absent if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// The requests that it is at; `null` if it does not answer, or not us.
    requests: Option<Vec<InFlight>>,
    /// What it has counted; absent unless asked for, and if it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<Statistics>,
}

impl Daemon {
    fn new(found: Found, with_stats: bool) -> Daemon {
        let (log, status) = (found.log(), found.status());
        let (requests, stats) = status.map(|status| (status.requests, status.statistics)).unzip();
        let Found { record, .. } = found;
        Daemon {
            pid: record.pid,
            holder: record.holder,
            lower: record.lower,
            upper: record.upper,
            work: record.work,
            options: record.options,
            marks: record.marks,
            whiteouts: record.whiteouts,
            layers: record.layers,
            settings: record.settings,
            capabilities: record.capabilities,
            no_new_privs: record.no_new_privs,
            kernel: record.kernel,
            version: record.version,
            log: log.map(|path| exact(&path)),
            requests,
            stats: stats.filter(|_| with_stats),
        }
    }
}

pub(crate) fn run(args: &MountsArgs) -> Result<Exit, Failure> {
    let table = mountinfo::mounts().map_err(|error| Failure::io("mount table", &error))?;
    // Those that the kernel serves for us are known by their source.
    let is_ours = |mount: &Mount| mount.is_ours() || mount.is_kernels() && mount.source == "acetate";
    let ours: Vec<Mount> = table.into_iter().filter(is_ours).collect();
    let entries: Vec<Entry> = ours.iter().map(|mount| entry(mount, args.stats)).collect();
    let text = if args.json {
        let document = Document { schema: "acetate-mounts-v1", mounts: entries };
        let json = serde_json::to_string_pretty(&document).map_err(|error| {
            Failure::new(format_args!("write JSON: {error}"), "report this as a mistake of acetate")
        })?;
        json + "\n"
    } else {
        entries.iter().map(paragraph).collect()
    };
    answer(&text).map_err(|error| Failure::io("write the answer", &error))?;
    Ok(Exit::Done)
}

fn entry(mount: &Mount, with_stats: bool) -> Entry {
    Entry {
        mountpoint: exact(&mount.point),
        driver: if mount.is_kernels() { "kernel" } else { "fuse" },
        kernel_options: mount.is_kernels().then(|| shown(&mount.options).to_string()),
        source: exact(&mount.source),
        flags: shown(&mount.flags).to_string(),
        daemon: record::find(mount.device).map(|found| Daemon::new(found, with_stats)),
    }
}

fn paragraph(entry: &Entry) -> String {
    let mut text = format!("{} ({}, {}", entry.mountpoint, entry.driver, entry.flags);
    match &entry.daemon {
        Some(daemon) => {
            // Writing to a String cannot fail.
            let _infallible = match daemon.holder {
                Some(holder) => writeln!(text, ", pid {}, holder {holder})", daemon.pid),
                None => writeln!(text, ", pid {})", daemon.pid),
            };
            layers(daemon, &mut text);
            if let Some(Agreed { protocol, missing }) = &daemon.kernel {
                let without = if missing.is_empty() { "" } else { ", without " };
                let _infallible = writeln!(text, "  kernel  FUSE {protocol}{without}{}", missing.join(", "));
            }
            for request in daemon.requests.iter().flatten() {
                let InFlight { operation, seconds, .. } = request;
                let path = request.path.as_deref().unwrap_or("an unknown path");
                let layer = request.layer.as_deref().unwrap_or("an unknown layer");
                let _infallible = writeln!(text, "  at work  {operation} of {path} ({layer}), {seconds} s");
            }
            if daemon.requests.is_none() {
                text.push_str("  at work  it does not say\n");
            }
            if let Some(log) = &daemon.log {
                let _infallible = writeln!(text, "  log  {log}");
            }
            if let Some(stats) = &daemon.stats {
                text.push_str(&statistics(stats));
            }
        }
        None if entry.kernel_options.is_some() => {
            let options = entry.kernel_options.as_deref().unwrap_or_default();
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, ")\n  options  {options}");
        }
        None => {
            let point = &entry.mountpoint;
            let _infallible = writeln!(
                text,
                ")\n  its daemon is gone or not yours; if it is gone: acetate umount --lazy {point}"
            );
        }
    }
    text
}

/// What a daemon has counted, indented as the rest of its paragraph.
fn statistics(stats: &Statistics) -> String {
    let Statistics { caches, nodes, open_files, waiting, .. } = stats;
    let mut text =
        format!("  known  {nodes} files and directories, {open_files} open files\n  waits  {waiting}\n");
    let kept =
        [("names", &caches.names), ("listings", &caches.listings), ("directories", &caches.directories)];
    for (what, cache) in kept {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "  {what} at hand  {}", cache.text());
    }
    for line in table(&stats.rows()).lines() {
        let _infallible = writeln!(text, "  {line}");
    }
    text
}

/// A line for each layer, with what its filesystem has and lacks, and one for what is in force.
fn layers(daemon: &Daemon, text: &mut String) {
    let about = |path: &str| {
        let layer = daemon.layers.iter().find(|layer| layer.path == path);
        layer.map(|layer| format!("  ({})", offers(layer))).unwrap_or_default()
    };
    // Writing to a String cannot fail.
    for (role, path) in [("upper", &daemon.upper), ("work", &daemon.work)] {
        if let Some(path) = path {
            let _infallible = writeln!(text, "  {role}  {path}{}", about(path));
        }
    }
    for lower in &daemon.lower {
        let _infallible = writeln!(text, "  lower  {lower}{}", about(lower));
    }
    if !daemon.settings.is_empty() {
        let words: Vec<_> = daemon.settings.iter().map(|(name, word)| format!("{name}={word}")).collect();
        let _infallible = writeln!(text, "  in force  {}", words.join(" "));
    }
}

/// What a layer's filesystem has and lacks, in words.
fn offers(layer: &LayerRecord) -> String {
    let handles = match layer.file_handles.as_deref() {
        Some("named") => Some("file handles that cannot be opened"),
        Some("none") => Some("no file handles"),
        _ => None,
    };
    let lacks = [
        (Some(layer.xattrs.iter().any(|kind| kind == "trusted")), "trusted xattrs"),
        (Some(layer.xattrs.iter().any(|kind| kind == "user")), "user xattrs"),
        (layer.d_type, "types in listings"),
        (layer.whiteout_device, "whiteout devices"),
        (layer.o_tmpfile, "O_TMPFILE"),
        (layer.rename_exchange, "RENAME_EXCHANGE"),
        (layer.rename_whiteout, "RENAME_WHITEOUT"),
        (layer.reflink, "reflinks to upper"),
        (layer.fs_verity, "fs-verity"),
    ];
    let lacks: Vec<_> = lacks.iter().filter(|(has, _)| *has == Some(false)).map(|(_, what)| *what).collect();
    let name = layer.filesystem.as_deref().unwrap_or("an unknown filesystem");
    let without = (!lacks.is_empty()).then(|| format!("without {}", lacks.join(", ")));
    [Some(name.to_owned()), handles.map(str::to_owned), without]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}
