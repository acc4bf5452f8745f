//! What is measured. Each workload returns how many steps it did, which has to be the same on every system.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use acetate_testkit::exec;
use anyhow::bail;

use crate::layers::{BIG_BYTES, Layers, Lowers, WIDE_ENTRIES};

/// How long one run may take before it counts as hung.
const LIMIT: Duration = Duration::from_secs(300);

/// Bytes per read or write of the sequential workloads.
const BLOCK: usize = 128 << 10;

/// Files that create-unlink makes.
const CREATED: usize = 5_000;

/// Different missing names, and how often each is looked for.
const MISSING_NAMES: usize = 2_000;
const MISSING_PASSES: usize = 20;

/// Bytes of the file that random-write changes, and writes of 4 KiB each.
const RANDOM_BYTES: usize = 64 << 20;
const RANDOM_WRITES: usize = 16_384;

/// Reads of random-read, and the bytes of each read and write.
const RANDOM_READS: usize = 16_384;
const PAGE: usize = 4096;

/// Writes of small-writes.
const LOG_LINES: usize = 65_536;

/// Files that open-small opens, and how often each.
const SMALL_FILES: usize = 2_000;
const SMALL_PASSES: usize = 5;

/// Transactions of sqlite.
const TRANSACTIONS: usize = 300;

/// Directories that mkdir-rm makes, with one file in each.
const MADE_DIRS: usize = 2_000;

/// How often a warm directory is listed.
const WIDE_PASSES: usize = 5;

/// What is in the caches when the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing: caches dropped, then mounted.
    Cold,
    /// What the same run just before left behind.
    Warm,
    /// A fresh mount; the layers may be in the page cache.
    Fresh,
}

/// What a workload has done.
#[derive(Debug)]
pub struct Outcome {
    /// How many steps.
    pub steps: u64,
    /// What is compared, in seconds, if it is not the time of the whole run.
    pub seconds: Option<f64>,
}

/// Before a workload: merged directory and layers.
type Prepare = fn(&Path, &Layers) -> anyhow::Result<()>;
/// A workload: the same.
type Run = fn(&Path, &Layers) -> anyhow::Result<Outcome>;

/// Something to measure.
#[derive(Debug)]
pub struct Workload {
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// What it does, in a line.
    pub what: &'static str,
    /// What it is mounted over.
    pub lowers: Lowers,
    /// What is in the caches.
    pub start: Start,
    /// Done before the clock starts.
    pub prepare: Prepare,
    /// What is timed.
    pub run: Run,
}

impl Workload {
    /// Whether it changes nothing, so that it needs no upper layer.
    pub fn only_reads(&self) -> bool {
        matches!(
            self.name,
            "find-cold"
                | "find-warm"
                | "find-sizes-cold"
                | "find-sizes-warm"
                | "walk-25-cold"
                | "grep-cold"
                | "grep-warm"
                | "open-small"
                | "open-small-4"
                | "read-cold"
                | "read-warm"
                | "random-read"
                | "stat-missing"
                | "readdir-cold"
                | "readdir-warm"
        )
    }
}

/// All workloads, in the order of the report.
pub const WORKLOADS: [Workload; 28] = [
    workload(
        "find-cold",
        "find: names of 20,000 files, caches dropped",
        Lowers::Tree,
        Start::Cold,
        find_names,
    ),
    workload("find-warm", "the same again", Lowers::Tree, Start::Warm, find_names),
    workload(
        "find-sizes-cold",
        "find: sizes of 20,000 files, caches dropped",
        Lowers::Tree,
        Start::Cold,
        find_sizes,
    ),
    workload("find-sizes-warm", "the same again", Lowers::Tree, Start::Warm, find_sizes),
    workload(
        "walk-25-cold",
        "find: sizes over 25 merged layers, caches dropped",
        Lowers::Deep,
        Start::Cold,
        find_sizes,
    ),
    workload(
        "grep-cold",
        "grep -r: contents of 20,000 files, caches dropped",
        Lowers::Tree,
        Start::Cold,
        grep,
    ),
    workload("grep-warm", "the same again", Lowers::Tree, Start::Warm, grep),
    workload("git-status", "git status of 2,000 files, warm", Lowers::Repository, Start::Warm, git_status),
    workload(
        "open-small",
        "open, read and close 2,000 small files, 5 times, warm",
        Lowers::Tree,
        Start::Warm,
        open_small,
    ),
    workload(
        "open-small-4",
        "the same by four threads at once",
        Lowers::Tree,
        Start::Warm,
        open_small_by_four,
    ),
    workload("untar", "unpack 2,000 files", Lowers::Empty, Start::Fresh, untar),
    workload(
        "create-unlink",
        "create 5,000 empty files, remove them",
        Lowers::Empty,
        Start::Fresh,
        create_unlink,
    ),
    workload(
        "mkdir-rm",
        "make 2,000 directories with a file each, rm -rf",
        Lowers::Empty,
        Start::Fresh,
        mkdir_rm,
    ),
    workload(
        "mkdir-mv-rm",
        "make 2,000 directories with a file each, move both to another directory, remove them",
        Lowers::Empty,
        Start::Fresh,
        mkdir_mv_rm,
    ),
    workload("read-cold", "read 256 MiB of a lower file, caches dropped", Lowers::Big, Start::Cold, read_big),
    workload("read-warm", "the same again", Lowers::Big, Start::Warm, read_big),
    workload(
        "random-read",
        "16,384 reads of 4 KiB anywhere in a lower file, warm",
        Lowers::Big,
        Start::Warm,
        read_random,
    ),
    workload("write", "write 256 MiB to a new file, no fsync", Lowers::Empty, Start::Fresh, write_big),
    Workload {
        name: "random-write",
        what: "16,384 writes of 4 KiB anywhere in a 64 MiB upper file, no fsync",
        lowers: Lowers::Empty,
        start: Start::Fresh,
        prepare: make_random,
        run: write_random,
    },
    Workload {
        name: "small-writes",
        what: "append 65,536 lines of 64 bytes to a file, a write each",
        lowers: Lowers::Empty,
        start: Start::Fresh,
        prepare: nothing,
        run: write_lines,
    },
    Workload {
        name: "sqlite",
        what: "300 sqlite transactions with a rollback journal",
        lowers: Lowers::Empty,
        start: Start::Fresh,
        prepare: make_database,
        run: transact,
    },
    workload(
        "stat-missing",
        "stat 2,000 missing names, 20 times each",
        Lowers::Tree,
        Start::Fresh,
        stat_missing,
    ),
    workload(
        "readdir-cold",
        "list a directory of 20,000 entries, caches dropped",
        Lowers::Wide,
        Start::Cold,
        list_wide,
    ),
    workload("readdir-warm", "the same again, five times", Lowers::Wide, Start::Warm, list_wide_often),
    workload("chmod-r", "chmod -R over 2,000 lower files: copy-up", Lowers::Tree, Start::Fresh, chmod_tree),
    workload("rm-lower", "rm -rf 2,000 lower files: whiteouts", Lowers::Tree, Start::Fresh, rm_lower),
    workload(
        "copy-up-big",
        "open a 256 MiB lower file for writing, write one byte",
        Lowers::Big,
        Start::Fresh,
        copy_up,
    ),
    workload(
        "stall",
        "the longest of the creations of files meanwhile, not the whole time",
        Lowers::Big,
        Start::Fresh,
        create_during_copy_up,
    ),
];

const fn workload(
    name: &'static str,
    what: &'static str,
    lowers: Lowers,
    start: Start,
    run: Run,
) -> Workload {
    Workload { name, what, lowers, start, prepare: nothing, run }
}

fn nothing(_: &Path, _: &Layers) -> anyhow::Result<()> {
    Ok(())
}

/// So many steps; the time of the whole run counts.
fn done(steps: u64) -> anyhow::Result<Outcome> {
    Ok(Outcome { steps, seconds: None })
}

/// Runs a program and returns its output.
fn program(dir: &Path, words: &[&str]) -> anyhow::Result<Vec<u8>> {
    exec::stdout_of(Command::new(words[0]).args(&words[1..]).current_dir(dir), LIMIT)
}

fn lines(output: &[u8]) -> u64 {
    output.iter().filter(|byte| **byte == b'\n').count() as u64
}

fn find_names(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    done(lines(&program(merged, &["find", ".", "-printf", "%p\\n"])?))
}

/// The steps are the sum of all file sizes: a wrong size is noticed.
fn find_sizes(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let output = program(merged, &["find", ".", "-type", "f", "-printf", "%s\\n"])?;
    done(String::from_utf8_lossy(&output).lines().filter_map(|line| line.parse::<u64>().ok()).sum())
}

/// grep answers 1 if it found nothing, so there is one line to be found.
fn grep(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    done(lines(&program(merged, &["grep", "-r", "a later layer", "."])?))
}

fn git_status(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    // Without optional locks git does not rewrite its index, so that all runs do the same.
    let words = ["git", "--no-optional-locks", "-c", "safe.directory=*", "status", "--porcelain"];
    let output = program(&merged.join("repository"), &words)?;
    if !output.is_empty() {
        bail!("git status: {}", String::from_utf8_lossy(&output));
    }
    done(0)
}

fn open_small(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let mut buffer = vec![0; BLOCK];
    let mut total = 0;
    for _ in 0..SMALL_PASSES {
        for i in 0..SMALL_FILES {
            let (outer, inner, file) = (i / 400, i / 20 % 20, i % 20);
            let name = format!("outer-{outer}/inner-{inner}/file-{file}.txt");
            total += File::open(merged.join(name))?.read(&mut buffer)? as u64;
        }
    }
    done(total)
}

fn open_small_by_four(merged: &Path, layers: &Layers) -> anyhow::Result<Outcome> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| open_small(merged, layers))).collect();
        let mut steps = 0;
        for thread in threads {
            steps += thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??.steps;
        }
        done(steps)
    })
}

fn untar(merged: &Path, layers: &Layers) -> anyhow::Result<Outcome> {
    let mut command = Command::new("tar");
    exec::stdout_of(command.arg("-xf").arg(&layers.archive).current_dir(merged), LIMIT)?;
    done(std::fs::read_dir(merged)?.count() as u64)
}

fn create_unlink(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let dir = merged.join("created");
    std::fs::create_dir(&dir)?;
    let names: Vec<_> = (0..CREATED).map(|i| dir.join(format!("file-{i}"))).collect();
    for name in &names {
        File::create_new(name)?;
    }
    for name in &names {
        std::fs::remove_file(name)?;
    }
    std::fs::remove_dir(&dir)?;
    done(CREATED as u64)
}

fn mkdir_rm(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let root = merged.join("made");
    std::fs::create_dir(&root)?;
    for i in 0..MADE_DIRS {
        // Ten wide, so that the tree is a few levels deep.
        let mut dir = root.clone();
        for digit in i.to_string().chars() {
            dir.push(format!("d{digit}"));
        }
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("file"), "x")?;
    }
    program(merged, &["rm", "-rf", "made"])?;
    done(MADE_DIRS as u64)
}

fn mkdir_mv_rm(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let (from, to) = (merged.join("from"), merged.join("to"));
    std::fs::create_dir(&from)?;
    std::fs::create_dir(&to)?;
    for i in 0..MADE_DIRS {
        let (old, new) = (from.join(format!("d{i}")), to.join(format!("d{i}")));
        std::fs::create_dir(&old)?;
        std::fs::write(old.join("file"), "x")?;
        std::fs::rename(&old, &new)?;
        std::fs::rename(new.join("file"), from.join(format!("f{i}")))?;
        std::fs::remove_dir(&new)?;
        std::fs::remove_file(from.join(format!("f{i}")))?;
    }
    done(MADE_DIRS as u64)
}

fn read_big(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let mut file = File::open(merged.join("big"))?;
    let mut buffer = vec![0; BLOCK];
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return done(total),
            count => total += count as u64,
        }
    }
}

/// Page numbers below `pages`, which is a power of two: no page twice before all were there, the same for every system.
fn pages(pages: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(1u64), move |page| {
        Some(page.wrapping_mul(1_103_515_245).wrapping_add(12345) % pages)
    })
    .skip(1)
}

fn read_random(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let file = File::open(merged.join("big"))?;
    let mut buffer = [0; PAGE];
    for page in pages((BIG_BYTES / PAGE) as u64).take(RANDOM_READS) {
        file.read_exact_at(&mut buffer, page * PAGE as u64)?;
    }
    done(RANDOM_READS as u64)
}

fn write_lines(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let mut file = File::create_new(merged.join("log"))?;
    for _ in 0..LOG_LINES {
        file.write_all(&[b'l'; 64])?;
    }
    done(file.metadata()?.len())
}

fn make_database(merged: &Path, _: &Layers) -> anyhow::Result<()> {
    let fill = "CREATE TABLE t(id INTEGER PRIMARY KEY, value TEXT);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO t SELECT i, hex(randomblob(100)) FROM n;";
    program(merged, &["sqlite3", "-batch", "-bail", "base.db", fill])?;
    Ok(())
}

fn transact(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let statement = "UPDATE t SET value = hex(randomblob(100)) WHERE id = 1 + abs(random()) % 20000;\n";
    program(merged, &["sqlite3", "-batch", "-bail", "base.db", &statement.repeat(TRANSACTIONS)])?;
    done(TRANSACTIONS as u64)
}

fn write_big(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let mut file = File::create_new(merged.join("written"))?;
    let buffer = vec![b'w'; BLOCK];
    for _ in 0..BIG_BYTES / BLOCK {
        file.write_all(&buffer)?;
    }
    done(BIG_BYTES as u64)
}

fn make_random(merged: &Path, _: &Layers) -> anyhow::Result<()> {
    std::fs::write(merged.join("random"), vec![b'r'; RANDOM_BYTES])?;
    Ok(())
}

fn write_random(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let file = OpenOptions::new().write(true).open(merged.join("random"))?;
    let buffer = [b'R'; PAGE];
    for page in pages((RANDOM_BYTES / PAGE) as u64).take(RANDOM_WRITES) {
        file.write_all_at(&buffer, page * PAGE as u64)?;
    }
    done(RANDOM_WRITES as u64)
}

fn stat_missing(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    let names: Vec<_> = (0..MISSING_NAMES)
        .map(|i| merged.join(format!("outer-{}/inner-{}/no-{i}", i % 50, i % 20)))
        .collect();
    for _ in 0..MISSING_PASSES {
        for name in &names {
            match std::fs::symlink_metadata(name) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
                Ok(_) => bail!("{} exists", name.display()),
            }
        }
    }
    done((MISSING_NAMES * MISSING_PASSES) as u64)
}

fn list_wide(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    done(count_wide(merged)?)
}

fn count_wide(merged: &Path) -> anyhow::Result<u64> {
    let mut count = 0;
    for entry in std::fs::read_dir(merged.join("wide"))? {
        entry?;
        count += 1;
    }
    if count != WIDE_ENTRIES as u64 {
        bail!("{count} entries instead of {WIDE_ENTRIES}");
    }
    Ok(count)
}

fn list_wide_often(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    done((0..WIDE_PASSES).map(|_| count_wide(merged)).sum::<anyhow::Result<u64>>()?)
}

/// The five directories that the archive is made of, by name: a shell pattern would also cost time.
const SUBTREE: [&str; 5] = ["outer-0", "outer-1", "outer-2", "outer-3", "outer-4"];

fn chmod_tree(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    program(merged, &[&["chmod", "-R", "go-rwx"], &SUBTREE[..]].concat())?;
    done(SUBTREE.len() as u64)
}

fn rm_lower(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    program(merged, &[&["rm", "-rf"], &SUBTREE[..]].concat())?;
    done(std::fs::read_dir(merged)?.count() as u64)
}

fn copy_up(merged: &Path, _: &Layers) -> anyhow::Result<Outcome> {
    OpenOptions::new().append(true).open(merged.join("big"))?.write_all(b"!")?;
    done(std::fs::metadata(merged.join("big"))?.len())
}

/// Creates files while a large one is copied up by somebody else. Each of them is a change of names in another directory.
fn create_during_copy_up(merged: &Path, layers: &Layers) -> anyhow::Result<Outcome> {
    let dir = merged.join("meanwhile");
    std::fs::create_dir(&dir)?;
    std::thread::scope(|scope| {
        let copy = scope.spawn(|| copy_up(merged, layers));
        let mut longest = Duration::ZERO;
        let mut number = 0;
        while !copy.is_finished() {
            let start = Instant::now();
            File::create_new(dir.join(number.to_string()))?;
            longest = longest.max(start.elapsed());
            number += 1;
        }
        let Outcome { steps, .. } = copy.join().map_err(|_| anyhow::anyhow!("the copy panicked"))??;
        Ok(Outcome { steps, seconds: Some(longest.as_secs_f64()) })
    })
}
