//! Power cuts under a mount.
//!
//! The layers lie on a filesystem in an image file, and the image lies on an xfs, where a snapshot of it takes an instant
//! (FICLONE). A snapshot of the image is the disk as a power cut at that moment leaves it: what the filesystem had not sent
//! to the disk by then is lost. Programs write through a mount, snapshots are taken at random moments, and each is then
//! mounted and looked at, through a mount of ours and one of the kernel's. A last cut also loses what a disk would still
//! have had in hand: the filesystem is shut down without writing its journal, where it can be (ext4, xfs).
//!
//! What has to hold at each: a lower file that was changed is whole, old or new; what was fsynced before the cut is there;
//! a file that was replaced by a synced one is one of the two; nothing is left in the work directory.

pub mod cli;
mod programs;

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};

use crate::driver::{Driver, Stack};
use crate::exec;
use crate::scratch::{FsKind, Scratch};
use programs::{Expected, FILES, Programs};

/// Size of the xfs that holds the images; sparse.
const HOST_MIB: u64 = 4000;
/// Size of an image, in MiB; sparse.
const IMAGE_MIB: u64 = 320;
/// How long mkfs and mount may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Programs at a time.
const WRITERS: usize = 2;

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The filesystem of the layers.
    pub fs: FsKind,
    /// Mount options besides the layers.
    pub options: String,
    /// Snapshots to take.
    pub cuts: usize,
    /// Decides on the moments.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Power cuts looked at.
    pub cuts: usize,
    /// Files that had been changed and were on the disk changed, summed over all cuts.
    pub changed: usize,
    /// Files that had been fsynced before a cut, summed over all cuts.
    pub synced: usize,
    /// What was wrong.
    pub wrong: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cuts, changed, synced, wrong } = self;
        write!(
            f,
            "{cuts} power cuts, {changed} changed files found, {synced} of them synced, {} wrong",
            wrong.len()
        )?;
        wrong.iter().take(20).try_for_each(|wrong| write!(f, "\n- {wrong}"))
    }
}

/// An image with what is known of it.
struct Cut {
    image: PathBuf,
    /// What had been synced when it was taken.
    expected: Expected,
}

/// Carries out a plan.
///
/// # Errors
/// If the machine lacks something.
pub fn run(plan: &Plan) -> Result<Report> {
    let host = Scratch::on(FsKind::Xfs, "cuts", HOST_MIB)?;
    let image = host.path().join("disk");
    make_filesystem(plan.fs, &image)?;
    let disk = Disk::mount(plan.fs, &image, host.dir("disk-mount")?)?;
    let layers = Layers::new(&disk.point);
    layers.make()?;
    let cuts = write_and_cut(plan, &host, &image, &disk, &layers)?;
    drop(disk);
    let mut report = Report::default();
    for (number, cut) in cuts.iter().enumerate() {
        report.cuts += 1;
        let found = examine(plan, cut, &host).with_context(|| format!("cut {number}"));
        match found {
            Ok((changed, synced)) => {
                report.changed += changed;
                report.synced += synced;
            }
            Err(error) => report.wrong.push(format!("{error:#}")),
        }
    }
    Ok(report)
}

/// Lets programs write through a mount, and takes snapshots of the disk meanwhile.
fn write_and_cut(
    plan: &Plan,
    host: &Scratch,
    image: &Path,
    disk: &Disk,
    layers: &Layers,
) -> Result<Vec<Cut>> {
    let merged = host.dir("merged")?;
    let mounted = Driver::acetate()?.mount(&layers.stack(), &merged, &plan.options)?;
    let programs = Programs::new(&merged);
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let done = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let mut cuts = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let writer = || {
            let result = programs.run(&stop);
            done.fetch_add(1, Ordering::SeqCst);
            result
        };
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(writer)).collect();
        let mut taken = Ok(());
        // Moments by how far the programs are, so that a slow machine does not miss them.
        let mut moments: Vec<usize> = (0..plan.cuts).map(|_| random.usize(1..FILES)).collect();
        moments.sort_unstable();
        for moment in moments {
            while programs.begun() < moment && done.load(Ordering::SeqCst) < WRITERS {
                std::thread::sleep(Duration::from_micros(200));
            }
            taken = take(host, image, &programs, &mut cuts);
            if taken.is_err() {
                break;
            }
        }
        stop.store(taken.is_err(), Ordering::SeqCst);
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        taken
    })?;
    if plan.fs == FsKind::Btrfs {
        take(host, image, &programs, &mut cuts)?;
    } else {
        // The journal as it is on the disk now; nothing more is written to it.
        exec::stdout_of(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&disk.point), LIMIT)?;
        take(host, image, &programs, &mut cuts)?;
    }
    drop(mounted);
    Ok(cuts)
}

/// Takes a snapshot of the disk.
fn take(host: &Scratch, image: &Path, programs: &Programs, cuts: &mut Vec<Cut>) -> Result<()> {
    // What is synced by now is there; what is synced meanwhile may be.
    let expected = programs.synced();
    let path = host.path().join(format!("cut-{}", cuts.len()));
    rustix::fs::ioctl_ficlone(File::create_new(&path)?, File::open(image)?)
        .context("snapshot of the disk")?;
    cuts.push(Cut { image: path, expected });
    Ok(())
}

/// Looks at a disk after a power cut. Returns how many files were changed, and how many had to be.
fn examine(plan: &Plan, cut: &Cut, host: &Scratch) -> Result<(usize, usize)> {
    let point = host.path().join("cut-mount");
    fs::create_dir_all(&point)?;
    let disk = Disk::mount(plan.fs, &cut.image, point)?;
    let layers = Layers::new(&disk.point);
    let merged = host.path().join("cut-merged");
    fs::create_dir_all(&merged)?;
    let mut counts = (0, 0);
    for driver in [Driver::acetate()?, Driver::Kernel] {
        let mounted = driver.mount(&layers.stack(), &merged, &plan.options)?;
        let found = cut.expected.check(mounted.path()).with_context(|| format!("seen by {}", driver.name()));
        mounted.unmount()?;
        counts = found?;
        let left: Vec<_> = fs::read_dir(layers.path("work/work"))?.collect();
        ensure!(left.is_empty(), "left in the work directory: {left:?}");
    }
    Ok(counts)
}

fn make_filesystem(kind: FsKind, image: &Path) -> Result<()> {
    File::create_new(image)?.set_len(IMAGE_MIB << 20)?;
    let args = kind.mkfs_args();
    exec::stdout_of(Command::new(format!("mkfs.{}", kind.name())).args(args).arg(image), LIMIT)?;
    Ok(())
}

/// A filesystem in an image file, unmounted on drop.
struct Disk {
    point: PathBuf,
}

impl Disk {
    fn mount(kind: FsKind, image: &Path, point: PathBuf) -> Result<Disk> {
        // The same filesystem may be mounted from another image.
        let options = if kind == FsKind::Xfs { "loop,nouuid" } else { "loop" };
        let mut command = Command::new("mount");
        command.args(["-t", kind.name(), "-o", options]).arg(image).arg(&point);
        exec::stdout_of(&mut command, LIMIT)?;
        Ok(Disk { point })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process that another test is just starting may hold it for a moment.
        for _ in 0..500 {
            match unmount(&self.point, UnmountFlags::NOFOLLOW) {
                Ok(()) => return,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        if let Err(errno) = unmount(&self.point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            eprintln!("testkit: cannot unmount {}: {errno}", self.point.display());
        }
    }
}

/// The layers on a disk.
struct Layers {
    root: PathBuf,
}

impl Layers {
    fn new(root: &Path) -> Layers {
        Layers { root: root.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes them, and has them on the disk.
    fn make(&self) -> Result<()> {
        for dir in ["lower/dir", "upper", "work"] {
            fs::create_dir_all(self.path(dir))?;
        }
        programs::plant(&self.path("lower"))?;
        match rustix::fs::syncfs(File::open(&self.root)?) {
            Ok(()) => Ok(()),
            Err(errno) => bail!("cannot sync the layers: {errno}"),
        }
    }

    fn stack(&self) -> Stack {
        Stack::writable([self.path("lower")], self.path("upper"), self.path("work"))
    }
}
