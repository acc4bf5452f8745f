//! How long an image of 25 layers takes to come in: Acetate, podman and umoci in one run, beside the bare work of
//! decoding and hashing.
//!
//! Each import starts on a fresh filesystem of its own, because ext4 is slow to reuse inodes that were just freed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use acetate_image::source::{Format, Input, Part, Platform};
use acetate_image::{Hashing, decoder};
use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{data_image, tool};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::report::median;
use crate::{Fs, say};

/// Compare how long images take to import
///
/// The image is the one that tests/install makes (or --image: an OCI archive that is not compressed itself), the
/// competitors are `podman load` and `umoci unpack`. *decode* only decompresses the layers and computes both digests
/// of each, with a thread for each processor: nothing can be faster that checks what it imports.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// How often each program imports the image
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where the images go
    #[arg(long, value_enum, default_value = "ext4")]
    fs: Fs,
    /// The image: an OCI archive
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Print one JSON object (schema acetate-bench-import/1, see bench/README.md) instead of a table
    #[arg(long)]
    json: bool,
}

/// Who imports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Importer {
    Decode,
    Acetate,
    Podman,
    Umoci,
}

impl Importer {
    fn name(self) -> &'static str {
        match self {
            Importer::Decode => "decode",
            Importer::Acetate => "acetate",
            Importer::Podman => "podman load",
            Importer::Umoci => "umoci unpack",
        }
    }
}

/// Seconds until the program has ended, and until what it wrote is on the disk.
#[derive(Clone, Copy, Debug)]
struct Sample {
    ended: f64,
    durable: f64,
}

/// How large a filesystem each import gets, in MiB: images are sparse.
const SIZE_MIB: u64 = 8192;

pub(crate) fn run(args: &ImportArgs) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("importing with owners needs root; run it with sudo");
    }
    let archive = args.image.clone().unwrap_or_else(data_image);
    ensure!(archive.is_file(), "no {}; tests/install makes it", archive.display());
    let scratch = Scratch::new("acetate-bench-import")?;
    say("preparing");
    let layout = scratch.path().join("layout");
    for name in ["skopeo", "podman", "umoci"] {
        ensure!(tool(name).is_some(), "no {name}; tests/install installs it");
    }
    command(
        Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q"])
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("oci:{}:image", layout.display())),
    )?;
    let importers = [Importer::Decode, Importer::Acetate, Importer::Podman, Importer::Umoci];
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); importers.len()];
    for round in 0..args.rounds {
        for turn in 0..importers.len() {
            let column = (turn + round as usize) % importers.len();
            let importer = importers[column];
            say(&format!("round {} of {}: {}", round + 1, args.rounds, importer.name()));
            samples[column].push(measure(importer, args.fs, &archive, &layout)?);
        }
    }
    say("");
    let rows: Vec<(Importer, f64, f64)> = importers
        .into_iter()
        .zip(&samples)
        .filter_map(|(importer, samples)| {
            let of = |get: fn(&Sample) -> f64| median(&samples.iter().map(get).collect::<Vec<_>>());
            Some((importer, of(|sample| sample.ended)?, of(|sample| sample.durable)?))
        })
        .collect();
    print(args, &rows, &samples)
}

fn print(args: &ImportArgs, rows: &[(Importer, f64, f64)], samples: &[Vec<Sample>]) -> Result<()> {
    let ours = rows.iter().find(|row| row.0 == Importer::Acetate).context("no figures")?;
    if args.json {
        let importer = |(at, row): (usize, &(Importer, f64, f64))| {
            json!({
                "name": row.0.name(), "median_s": row.1, "durable_median_s": row.2,
                "samples_s": samples[at].iter().map(|sample| sample.ended).collect::<Vec<_>>(),
                "durable_samples_s": samples[at].iter().map(|sample| sample.durable).collect::<Vec<_>>(),
                "acetate_to": ours.1 / row.1, "acetate_durable_to": ours.2 / row.2,
            })
        };
        let importers: Vec<_> = rows.iter().enumerate().map(importer).collect();
        let document = json!({
            "schema": "acetate-bench-import/1", "fs": args.fs.kind().name(), "rounds": args.rounds,
            "importers": importers,
        });
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    println!("{:<14} {:>8} {:>12} {:>14}", "", "ended s", "on disk s", "acetate/this");
    for row in rows {
        println!("{:<14} {:>8.2} {:>12.2} {:>14.2}", row.0.name(), row.1, row.2, ours.2 / row.2);
    }
    println!(
        "\nOn {}, medians of {} rounds. The ratio is of the times until all is on disk; below 1 Acetate is faster.",
        args.fs.kind().name(),
        args.rounds
    );
    Ok(())
}

fn measure(importer: Importer, fs: Fs, archive: &Path, layout: &Path) -> Result<Sample> {
    let place = Scratch::on(fs.kind(), "acetate-bench-target", SIZE_MIB)?;
    // What others have left to be written must not count; the image itself is in the page cache.
    rustix::fs::sync();
    let root = File::open(place.path())?;
    let start = Instant::now();
    let path = |name: &str| place.path().join(name);
    match importer {
        Importer::Decode => decode(layout)?,
        Importer::Acetate => command(
            Command::new(acetate_bin()?)
                .args(["image", "import"])
                .arg(archive)
                .env("ACETATE_STORE", path("store")),
        )?,
        Importer::Podman => command(
            Command::new("podman")
                .arg("--root")
                .arg(path("root"))
                .arg("--runroot")
                .arg(path("run"))
                .args(["--storage-driver", "overlay", "load", "-q", "-i"])
                .arg(archive)
                .env(
                    "CONTAINERS_CONF",
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/images/containers.conf"),
                ),
        )?,
        Importer::Umoci => command(
            Command::new("umoci")
                .args(["unpack", "--image", &format!("{}:image", layout.display())])
                .arg(path("bundle")),
        )?,
    }
    let ended = start.elapsed().as_secs_f64();
    rustix::fs::syncfs(&root)?;
    let durable = start.elapsed().as_secs_f64();
    if importer == Importer::Podman {
        // It bind-mounts its storage on itself.
        let _not_mounted = Command::new("umount").arg(path("root/overlay")).stderr(Stdio::null()).status();
    }
    Ok(Sample { ended, durable })
}

fn command(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, stderr.trim());
    Ok(())
}

/// Decompresses all layers and computes the digests of both forms, several at a time.
fn decode(layout: &Path) -> Result<()> {
    let input = Input::open(layout, Some(Format::Oci))?;
    let images = input.images(&Platform::here())?;
    let layers: Vec<&Part> = images.iter().flat_map(|image| &image.layers).collect();
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(part) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let decoded = input.layer(part).and_then(|stored| {
                        let mut archive = Hashing::new(decoder(Hashing::new(stored))?);
                        Ok(io::copy(&mut archive, &mut io::sink())?)
                    });
                    if let (Err(error), Ok(mut failure)) = (decoded, failure.lock()) {
                        *failure = Some(error);
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error.into()),
        Err(_) => bail!("a thread has panicked"),
    }
}
