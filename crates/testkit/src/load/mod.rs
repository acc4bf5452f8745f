//! Much of everything: a large directory, many mounts, many threads; and what a server holds on to when it is over.

pub mod cli;
pub mod memory;
mod programs;

pub use programs::{Done, Plan, programs};

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::driver::{Stack, acetate_bin, is_mounted};
use crate::scratch::{FsKind, Scratch};

/// How long a mount may take to come or to go.
const LIMIT: Duration = Duration::from_secs(300);
/// Threads of [`leaks`].
const THREADS: usize = 8;
/// Trees that each of them makes and removes in a round.
const TREES: usize = 20;
/// Files of each tree.
const FILES: usize = 40;

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holds {
    /// Resident memory in KiB.
    pub resident_kib: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Holds {
    /// What the process `pid` holds now.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn of(pid: u32) -> Result<Holds> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(proc.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(Holds {
            resident_kib: resident.trim().trim_end_matches(" kB").parse()?,
            descriptors: fs::read_dir(proc.join("fd"))?.count(),
            threads: fs::read_dir(proc.join("task"))?.count(),
        })
    }
}

/// A mount whose server is our child.
struct Served {
    child: Child,
    merged: PathBuf,
}

impl Served {
    fn start(stack: &Stack, merged: PathBuf) -> Result<Served> {
        Served::with(stack, merged, "")
    }

    fn with(stack: &Stack, merged: PathBuf, options: &str) -> Result<Served> {
        fs::create_dir_all(&merged)?;
        let mut command = Command::new(acetate_bin()?);
        command.args(["mount", "-f", "-o"]).arg(stack.options(options)).arg(&merged);
        let child = command.stdin(Stdio::null()).spawn()?;
        let mut served = Served { child, merged };
        let end = Instant::now() + LIMIT;
        while !is_mounted(&served.merged)? {
            if let Some(status) = served.child.try_wait()? {
                bail!("the server has ended: {status}");
            }
            ensure!(Instant::now() < end, "no mount at {}", served.merged.display());
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(served)
    }

    fn holds(&self) -> Result<Holds> {
        Holds::of(self.child.id())
    }

    fn kill(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::KILL)?)
    }

    fn unmount(mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while let Err(errno) = unmount(&self.merged, UnmountFlags::NOFOLLOW) {
            ensure!(Instant::now() < end, "cannot unmount {}: {errno}", self.merged.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ends with {status}");
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _unmounted_already = unmount(&self.merged, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

fn stack_in(root: &Path) -> Result<Stack> {
    for dir in ["lower", "upper", "work"] {
        fs::create_dir_all(root.join(dir))?;
    }
    Ok(Stack::writable([root.join("lower")], root.join("upper"), root.join("work")))
}

/// What a large directory took.
#[derive(Debug)]
pub struct Large {
    /// Seconds of the first listing, with types.
    pub first: f64,
    /// Of the second one.
    pub second: f64,
    /// Before the first listing, and after all is done.
    pub holds: [Holds; 2],
}

/// Lists a directory of `count` files below, changes some, and lists it again.
///
/// # Errors
/// If a name is missing, or there twice.
pub fn large_directory(count: usize) -> Result<Large> {
    let scratch = Scratch::on(FsKind::Tmpfs, "large", 4096)?;
    let stack = stack_in(scratch.path())?;
    let dir = scratch.path().join("lower/dir");
    fs::create_dir(&dir)?;
    (0..count).try_for_each(|number| File::create_new(dir.join(format!("file-{number}"))).map(drop))?;
    let served = Served::start(&stack, scratch.path().join("merged"))?;
    let before = served.holds()?;
    let merged = served.merged.join("dir");
    let list = || -> Result<(Vec<bool>, f64)> {
        let begun = Instant::now();
        let mut seen = vec![false; count];
        for entry in fs::read_dir(&merged)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("file-")).context("odd name")?;
            let number: usize = number.parse()?;
            ensure!(!std::mem::replace(&mut seen[number], true), "{number} is there twice");
        }
        Ok((seen, begun.elapsed().as_secs_f64()))
    };
    let (seen, first) = list()?;
    ensure!(seen.iter().all(|seen| *seen), "a name is missing");
    for number in (0..count).step_by(count.div_ceil(1000)) {
        fs::remove_file(merged.join(format!("file-{number}")))?;
    }
    let (seen, second) = list()?;
    let gone = |number: usize| number.is_multiple_of(count.div_ceil(1000));
    ensure!(seen.iter().enumerate().all(|(number, seen)| *seen != gone(number)), "a removed name is there");
    let holds = [before, served.holds()?];
    served.unmount()?;
    Ok(Large { first, second, holds })
}

/// Mounts `count` overlays at once over one lower layer, uses each, and returns what one server holds on average, in KiB.
///
/// # Errors
/// If one of them fails.
pub fn many_mounts(count: usize) -> Result<u64> {
    let scratch = Scratch::on(FsKind::Tmpfs, "many", 1024)?;
    let lower = scratch.dir("lower")?;
    fs::write(lower.join("file"), "lower")?;
    let mut served = Vec::new();
    for number in 0..count {
        let root = scratch.path().join(number.to_string());
        fs::create_dir_all(root.join("upper"))?;
        fs::create_dir_all(root.join("work"))?;
        let stack = Stack::writable([&lower], root.join("upper"), root.join("work"));
        served.push(Served::start(&stack, root.join("merged"))?);
    }
    for (number, mount) in served.iter().enumerate() {
        let mut file = File::options().append(true).open(mount.merged.join("file"))?;
        write!(file, "{number}")?;
    }
    let mut total = 0;
    for (number, mount) in served.iter().enumerate() {
        ensure!(fs::read_to_string(mount.merged.join("file"))? == format!("lower{number}"));
        total += mount.holds()?.resident_kib;
    }
    served.into_iter().try_for_each(Served::unmount)?;
    ensure!(fs::read_to_string(lower.join("file"))? == "lower", "the lower layer has changed");
    Ok(total / count.max(1) as u64)
}

/// Copies up a file of `gib` GiB with data in few places, and changes it there; returns how long the copy-up took, in seconds.
///
/// # Errors
/// If data is lost, or a hole is filled.
pub fn sparse(gib: u64) -> Result<f64> {
    let scratch = Scratch::on(FsKind::Ext4, "sparse", 512)?;
    let stack = stack_in(scratch.path())?;
    let end = (gib << 30) - 4096;
    let places = [0, end / 3, end / 2, end];
    let file = File::create(scratch.path().join("lower/file"))?;
    places.iter().try_for_each(|at| file.write_all_at(&[b'x'; 4096], *at))?;
    let served = Served::start(&stack, scratch.path().join("merged"))?;
    let merged = served.merged.join("file");
    let begun = Instant::now();
    let file = File::options().read(true).write(true).open(&merged)?;
    let seconds = begun.elapsed().as_secs_f64();
    file.write_all_at(b"changed", end / 2 + 100)?;
    file.sync_all()?;
    let expect = |file: &File| -> Result<()> {
        ensure!(file.metadata()?.len() == end + 4096, "another size");
        let bytes = file.metadata()?.blocks() * 512;
        ensure!(bytes <= 1 << 20, "{bytes} bytes are stored");
        for at in places {
            let (mut data, mut hole) = ([0; 4096], [1; 4096]);
            file.read_exact_at(&mut data, at)?;
            let changed = if at == end / 2 { 100..107 } else { 0..0 };
            ensure!(data[changed.clone()] == b"changed"[..changed.len()], "{at}: the change is lost");
            let rest = (0..4096).filter(|byte| !changed.contains(byte));
            ensure!(rest.into_iter().all(|byte| data[byte] == b'x'), "{at}: data is lost");
            if at > 0 {
                file.read_exact_at(&mut hole, at - 8192)?;
                ensure!(hole == [0; 4096], "{at}: no hole before it");
            }
        }
        Ok(())
    };
    expect(&file)?;
    drop(file);
    served.unmount()?;
    expect(&File::open(scratch.path().join("upper/file"))?)?;
    Ok(seconds)
}

/// Makes and removes trees on several threads, `rounds` times, and returns what the server holds after each round.
///
/// # Errors
/// If an operation fails.
pub fn leaks(rounds: usize) -> Result<Vec<Holds>> {
    let scratch = Scratch::on(FsKind::Tmpfs, "leaks", 1024)?;
    let stack = stack_in(scratch.path())?;
    for number in 0..FILES {
        fs::write(scratch.path().join(format!("lower/lower-{number}")), vec![b'x'; 3000])?;
    }
    let served = Served::start(&stack, scratch.path().join("merged"))?;
    let mut holds = Vec::new();
    for _ in 0..rounds {
        std::thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    scope.spawn({
                        let merged = &served.merged;
                        move || churn(merged, thread)
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread panicked"),
            })
        })?;
        holds.push(served.holds()?);
    }
    served.unmount()?;
    let left = fs::read_dir(scratch.path().join("work/work"))?.count();
    ensure!(left == 0, "{left} objects are left in the work directory");
    Ok(holds)
}

/// Makes trees with files of every kind of life, and removes them.
fn churn(merged: &Path, thread: usize) -> Result<()> {
    for tree in 0..TREES {
        let root = merged.join(format!("tree-{thread}-{tree}"));
        fs::create_dir_all(root.join("a/b"))?;
        for number in 0..FILES {
            let file = root.join(format!("a/b/{number}"));
            fs::write(&file, vec![b'y'; number * 100])?;
            fs::hard_link(&file, root.join(format!("link-{number}")))?;
            fs::rename(&file, root.join(format!("a/{number}")))?;
            ensure!(fs::read(merged.join(format!("lower-{number}")))?.len() == 3000);
        }
        ensure!(fs::read_dir(root.join("a"))?.count() == FILES + 1);
        // A file that is open when its name goes.
        let open = File::open(root.join("a/1"))?;
        fs::remove_dir_all(&root)?;
        drop(open);
    }
    Ok(())
}
