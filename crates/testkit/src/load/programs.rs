//! Random programs on many threads: all of them in one tree, and each in a directory of its own, whose content it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use rustix::fs::{
    CWD, Mode, OFlags, RenameFlags, XattrFlags, lremovexattr, lsetxattr, openat, renameat_with,
};
use rustix::io::Errno;

use super::{Holds, Served};
use crate::driver::{Driver, Stack, acetate_bin};
use crate::edits;
use crate::real::fingerprint::Fingerprint;
use crate::scratch::{FsKind, Scratch};

/// A thread that makes no step for so long hangs. Machines are slow at times.
const HANGS: Duration = Duration::from_secs(120);
/// How often it is looked at what the server holds.
const LOOKS: u32 = 8;
/// What `acetate check` may find (docs/hazards.md).
const HARMLESS: [&str; 2] = ["whiteout-orphan", "impure-missing"];
/// The most that the file of a thread may hold.
const OWN_BYTES: usize = 300_000;
/// How many names a path has in the tree of all.
const DEPTH: usize = 3;
/// What a call may fail with while others change what it is about.
const USUAL: [Errno; 13] = [
    Errno::NOENT,
    Errno::EXIST,
    Errno::NOTDIR,
    Errno::ISDIR,
    Errno::NOTEMPTY,
    Errno::INVAL,
    Errno::XDEV,
    Errno::LOOP,
    Errno::NODATA,
    // A fifo without another end, or read at a position.
    Errno::NXIO,
    Errno::SPIPE,
    Errno::PERM,
    // Of a directory that was removed meanwhile, as on any filesystem.
    Errno::BUSY,
];

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Threads.
    pub threads: usize,
    /// For how long.
    pub time: Duration,
    /// Lower layers.
    pub layers: usize,
    /// Mount options besides the layers.
    pub options: String,
    /// Where random numbers begin.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Done {
    /// Operations of all threads.
    pub operations: u64,
    /// What the server held, from time to time and at the end.
    pub holds: Vec<Holds>,
}

/// Runs random programs; then the tree has to be the same on a new mount and on the kernel's, and nothing may be left over.
///
/// # Errors
/// What is wrong: an error that the change of others does not explain, other content than was written, a thread that hangs.
pub fn programs(plan: &Plan) -> Result<Done> {
    let scratch = Scratch::on(FsKind::Tmpfs, "programs", 4096)?;
    let mut random = Rng::with_seed(plan.seed);
    let mut lowers = Vec::new();
    for number in 0..plan.layers {
        let lower = scratch.dir(&format!("l{number}"))?;
        fs::create_dir(lower.join("shared"))?;
        if number < 4 {
            edits::plant(&lower.join("shared"), &mut random)?;
        }
        fs::write(lower.join("shared").join(format!("layer-{}", number % 40)), number.to_string())?;
        lowers.push(lower);
    }
    let stack = Stack::writable(lowers, scratch.dir("upper")?, scratch.dir("work")?);
    let served = Served::with(&stack, scratch.path().join("merged"), &plan.options)?;
    let (operations, holds) = run(plan, &served)?;
    let merged = served.merged.clone();
    let live = tree(&merged, plan)?;
    served.unmount()?;
    for driver in [Driver::acetate()?, Driver::Kernel] {
        let mounted = driver.mount(&stack, &merged, &plan.options)?;
        let found = tree(mounted.path(), plan);
        mounted.unmount()?;
        live.expect(&found?, &format!("on another mount ({})", driver.name()))?;
    }
    let left = fs::read_dir(scratch.path().join("work/work"))?.count();
    ensure!(left == 0, "{left} objects are left in the work directory");
    check(&stack)?;
    Ok(Done { operations, holds })
}

/// Runs the threads, and looks that each goes on.
fn run(plan: &Plan, served: &Served) -> Result<(u64, Vec<Holds>)> {
    let stop = AtomicBool::new(false);
    let counts: Vec<AtomicU64> = (0..plan.threads).map(|_| AtomicU64::new(0)).collect();
    let mut holds = Vec::new();
    std::thread::scope(|scope| {
        let (stop, merged) = (&stop, &served.merged);
        let start = |(number, count)| {
            let random = Rng::with_seed(plan.seed ^ (number as u64 + 1) << 32);
            scope.spawn(move || {
                let result =
                    Program::new(merged, number, random).and_then(|program| program.run(stop, count));
                // One error is enough.
                stop.fetch_or(result.is_err(), Ordering::SeqCst);
                result
            })
        };
        let threads: Vec<_> = counts.iter().enumerate().map(start).collect();
        let watched = watch(plan, served, stop, &counts, &mut holds);
        stop.store(true, Ordering::SeqCst);
        if watched.is_err() {
            // Whoever waits for an answer gets an error.
            served.kill()?;
        }
        let ended = threads.into_iter().enumerate().try_for_each(|(number, thread)| match thread.join() {
            Ok(result) => result.with_context(|| format!("thread {number}, seed {}", plan.seed)),
            Err(_) => bail!("a thread panicked"),
        });
        watched.and(ended)
    })?;
    holds.push(served.holds()?);
    Ok((counts.iter().map(|count| count.load(Ordering::SeqCst)).sum(), holds))
}

fn watch(
    plan: &Plan,
    served: &Served,
    stop: &AtomicBool,
    counts: &[AtomicU64],
    holds: &mut Vec<Holds>,
) -> Result<()> {
    let begun = Instant::now();
    let mut seen = vec![(u64::MAX, begun); counts.len()];
    while begun.elapsed() < plan.time && !stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
        if begun.elapsed() > plan.time / LOOKS * holds.len() as u32 {
            holds.push(served.holds()?);
        }
        for (number, (count, (known, since))) in counts.iter().zip(&mut seen).enumerate() {
            let now = count.load(Ordering::SeqCst);
            if now != *known {
                (*known, *since) = (now, Instant::now());
            }
            ensure!(
                since.elapsed() < HANGS,
                "thread {number} hangs after {now} operations, seed {}",
                plan.seed
            );
        }
    }
    Ok(())
}

/// What a mount shows. With `nfs_export=on` the entry of the index counts as a name from the next mount on (docs/semantics.md).
fn tree(merged: &Path, plan: &Plan) -> Result<Fingerprint> {
    let mut tree = Fingerprint::take(merged)?.portable();
    if plan.options.contains("nfs_export=on") {
        tree.entries.values_mut().for_each(|entry| entry.links = 0);
    }
    Ok(tree)
}

/// Nothing is wrong with the layers.
fn check(stack: &Stack) -> Result<()> {
    let mut command = Command::new(acetate_bin()?);
    command.arg("check");
    for lower in &stack.lowers {
        command.arg("--lower").arg(lower);
    }
    let upper = stack.upper.as_ref().context("no upper layer")?;
    let output =
        command.arg("--upper").arg(&upper.upper).arg("--work").arg(&upper.work).arg("--json").output()?;
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).context("acetate check")?;
    for problem in found["problems"].as_array().context("acetate check")? {
        let kind = problem["kind"].as_str().unwrap_or_default();
        ensure!(HARMLESS.contains(&kind), "acetate check: {problem}");
    }
    Ok(())
}

/// One thread.
struct Program {
    shared: PathBuf,
    own: PathBuf,
    random: Rng,
    /// The names in the own directory, each with its content.
    files: BTreeMap<String, Vec<u8>>,
}

impl Program {
    fn new(merged: &Path, number: usize, random: Rng) -> Result<Program> {
        let own = merged.join(format!("own-{number}"));
        fs::create_dir(&own)?;
        Ok(Program { shared: merged.join("shared"), own, random, files: BTreeMap::new() })
    }

    fn run(mut self, stop: &AtomicBool, count: &AtomicU64) -> Result<()> {
        while !stop.load(Ordering::SeqCst) {
            if self.random.u8(..3) == 0 {
                self.own().context("in the own directory")?;
            } else {
                self.shared()?;
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
        self.expect_own()
    }

    /// Something in the tree of all.
    fn shared(&mut self) -> Result<()> {
        let (path, other) = (self.path(), self.path());
        let what = self.random.u8(..16);
        let result = match what {
            0 | 1 => open(&path, OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR)
                .and_then(|file| file.write_all_at(&vec![what; self.random.usize(..50_000)], 0)),
            2 => open(&path, OFlags::WRONLY | OFlags::APPEND).and_then(|file| file.write_all_at(b"more", 0)),
            3 => open(&path, OFlags::RDONLY).and_then(|file| {
                let mut bytes = vec![0; 20_000];
                file.read_at(&mut bytes, self.random.u64(..30_000)).map(drop)
            }),
            4 => fs::create_dir(&path),
            // Directories that were moved into others lie deeper than any path reaches.
            5 if path.components().count() == self.shared.components().count() + DEPTH => {
                fs::remove_dir_all(&path)
            }
            5 => fs::remove_dir(&path),
            6 => fs::remove_file(&path),
            7 | 8 => fs::rename(&path, &other),
            9 => renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE).map_err(Into::into),
            10 => fs::hard_link(&path, &other),
            11 => symlink("nowhere", &path),
            12 => fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + self.random.u32(..0o200))),
            13 => lsetxattr(&path, "user.x", &[what; 40], XattrFlags::empty()).map_err(Into::into),
            14 => lremovexattr(&path, "user.x").map_err(Into::into),
            _ => fs::read_dir(&path).and_then(|entries| {
                let names: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
                let names = names?;
                let different: BTreeSet<_> = names.iter().collect();
                if different.len() != names.len() {
                    return Err(ErrorKind::InvalidData.into());
                }
                Ok(())
            }),
        };
        match result {
            Err(error) if !Errno::from_io_error(&error).is_some_and(|errno| USUAL.contains(&errno)) => {
                Err(error).with_context(|| {
                    format!("operation {what} on {} and {}", path.display(), other.display())
                })
            }
            _ => Ok(()),
        }
    }

    /// A path of few names.
    fn path(&mut self) -> PathBuf {
        let mut path = self.shared.clone();
        for _ in 0..self.random.usize(1..=DEPTH) {
            match self.random.u8(..8) {
                number @ 0..6 => path.push(char::from(b'a' + number).to_string()),
                _ => path.push(format!("layer-{}", self.random.u8(..40))),
            }
        }
        path
    }

    /// Something that nobody else is about.
    fn own(&mut self) -> Result<()> {
        let name = format!("f{}", self.random.u8(..6));
        let path = self.own.join(&name);
        match self.random.u8(..6) {
            0 => {
                let other = format!("f{}", self.random.u8(..6));
                let renamed = fs::rename(&path, self.own.join(&other));
                ensure!(renamed.is_ok() == self.files.contains_key(&name), "renaming {name}: {renamed:?}");
                if let Some(content) = self.files.remove(&name) {
                    self.files.insert(other, content);
                }
            }
            1 => {
                let removed = fs::remove_file(&path);
                ensure!(
                    removed.is_ok() == self.files.remove(&name).is_some(),
                    "removing {name}: {removed:?}"
                );
            }
            2 => {
                let length = self.random.usize(..OWN_BYTES);
                let set =
                    File::options().write(true).open(&path).and_then(|file| file.set_len(length as u64));
                ensure!(set.is_ok() == self.files.contains_key(&name), "truncating {name}: {set:?}");
                if let Some(content) = self.files.get_mut(&name) {
                    content.resize(length, 0);
                }
            }
            3 | 4 => {
                let (at, length) = (self.random.usize(..OWN_BYTES / 2), self.random.usize(1..OWN_BYTES / 2));
                let bytes = vec![self.random.u8(..); length];
                let file = File::options().create(true).truncate(false).write(true).open(&path)?;
                file.write_all_at(&bytes, at as u64)?;
                if self.random.u8(..8) == 0 {
                    file.sync_all()?;
                }
                let content = self.files.entry(name).or_default();
                content.resize(content.len().max(at + length), 0);
                content[at..at + length].copy_from_slice(&bytes);
            }
            _ => self.expect_own()?,
        }
        Ok(())
    }

    /// What this thread has made is there, and nothing else.
    fn expect_own(&self) -> Result<()> {
        let names: std::io::Result<BTreeSet<_>> =
            fs::read_dir(&self.own)?.map(|entry| Ok(entry?.file_name())).collect();
        let known: BTreeSet<_> = self.files.keys().map(Into::into).collect();
        let names = names?;
        ensure!(names == known, "names {names:?} instead of {known:?}");
        for (name, content) in &self.files {
            ensure!(fs::read(self.own.join(name))? == *content, "{name} has another content");
        }
        Ok(())
    }
}

/// Opens a file; whoever waits for the other end of a fifo would wait for long.
fn open(path: &Path, flags: OFlags) -> std::io::Result<File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::from_raw_mode(0o644))?.into())
}
