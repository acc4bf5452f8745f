//! Programs whose filesystem server is killed again and again, and replaced (`takeover=on`): they must see no error, and
//! what they make must be what they make on a plain filesystem.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::driver::{Driver, Stack, acetate_bin};
use crate::kills::KEPT;
use crate::load::Holds;
use crate::need;
use crate::scratch::{FsKind, Scratch};

/// How long a holder may take to end.
const LIMIT: Duration = Duration::from_secs(60);

/// Run programs on a mount whose server is killed again and again
///
/// Each program runs on a mount with takeover=on and on the filesystem below; the results have to be the same. Needs root.
/// Exit status: 0 all right, 2 something is wrong.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often each program runs
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub rounds: u32,
    /// Only programs whose names hold this
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub only: String,
    /// Take a tree of so many files over instead, and show what that takes
    #[arg(long, value_name = "N")]
    pub files: Option<usize>,
}

/// What it took to take a large tree over.
#[derive(Debug, Clone)]
pub struct Large {
    /// Files that the last server had looked up.
    pub files: usize,
    /// Memory of the ledger, in KiB.
    pub ledger_kib: u64,
    /// Memory of the last server, the ledger included, in KiB.
    pub server_kib: u64,
    /// Until a file was opened through the next server.
    pub until_served: Duration,
    /// Memory of the next server then, in KiB.
    pub next_kib: u64,
    /// Walking through the tree with the last server, for the first time.
    pub walk: Duration,
    /// And with the next one.
    pub next_walk: Duration,
    /// Memory of the next server after that, in KiB.
    pub walked_kib: u64,
}

/// Files in a directory of [`many_nodes`].
const WIDTH: usize = 1000;
/// Files that are open while their server is replaced.
const OPEN: usize = 100;

/// Looks up a tree of so many files, kills the server, and goes on with the next one.
///
/// # Errors
/// If the next one shows something else.
pub fn many_nodes(files: usize) -> Result<Large> {
    let scratch = Scratch::on(FsKind::Tmpfs, "takeover", 8192)?;
    let lower = scratch.dir("lower")?;
    for number in 0..files {
        let dir = lower.join(format!("d{}", number / WIDTH));
        if number % WIDTH == 0 {
            std::fs::create_dir(&dir)?;
        }
        std::fs::write(dir.join(format!("file-{number}")), format!("{number}"))?;
    }
    let stack = Stack::writable([lower], scratch.dir("upper")?, scratch.dir("work")?);
    let mounted = Driver::acetate()?.mount(&stack, &scratch.dir("merged")?, KEPT)?;
    let merged = mounted.path();
    let (walk, before) = timed(|| digest(merged))?;
    let path = |number: usize| merged.join(format!("d{}/file-{number}", number / WIDTH));
    let numbers: Vec<usize> = (0..OPEN).map(|index| index * files / OPEN).collect();
    let open: Vec<File> = numbers.iter().map(|number| File::open(path(*number))).collect::<Result<_, _>>()?;
    let holder = holder(merged)?;
    let old = server(holder)?.context("no server")?;
    let (server_kib, ledger_kib) = (resident(old)?, ledger(holder)?);
    let (until_served, ()) = timed(|| {
        kill_process(old, Signal::KILL)?;
        ensure!(std::fs::read_to_string(path(files / 2))? == format!("{}", files / 2), "another content");
        Ok(())
    })?;
    let next = server(holder)?.context("no next server")?;
    let next_kib = resident(next)?;
    for (file, number) in open.iter().zip(&numbers) {
        let mut bytes = [0; 20];
        let length = file.read_at(&mut bytes, 0)?;
        ensure!(bytes[..length] == *format!("{number}").as_bytes(), "an open file has another content");
    }
    let (next_walk, after) = timed(|| digest(merged))?;
    ensure!(before == after, "the next server shows another tree: {after:?} instead of {before:?}");
    let walked_kib = resident(next)?;
    drop(open);
    mounted.unmount()?;
    Ok(Large { files, ledger_kib, server_kib, until_served, next_kib, walk, next_walk, walked_kib })
}

fn timed<T>(act: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    act().map(|done| (start.elapsed(), done))
}

/// Names, numbers and sizes of a tree of two levels, in one word, and how many there are.
fn digest(root: &Path) -> Result<(usize, u64)> {
    let (mut count, mut sum) = (0, 0_u64);
    for dir in std::fs::read_dir(root)? {
        for entry in std::fs::read_dir(dir?.path())? {
            let entry = entry?;
            let stat = std::fs::symlink_metadata(entry.path())?;
            let mut hasher = DefaultHasher::new();
            (entry.file_name(), stat.ino(), stat.len()).hash(&mut hasher);
            count += 1;
            sum = sum.wrapping_add(hasher.finish());
        }
    }
    Ok((count, sum))
}

/// The resident memory of a process, in KiB.
fn resident(pid: Pid) -> Result<u64> {
    Ok(Holds::of(pid.as_raw_nonzero().get().cast_unsigned())?.resident_kib)
}

/// The memory of the ledger that a holder keeps, in KiB.
fn ledger(holder: i32) -> Result<u64> {
    for entry in std::fs::read_dir(format!("/proc/{holder}/fd"))? {
        let path = entry?.path();
        if std::fs::read_link(&path)?.to_string_lossy().starts_with("/memfd:acetate") {
            return Ok(std::fs::metadata(&path)?.blocks() / 2);
        }
    }
    anyhow::bail!("the holder has no ledger")
}

/// A program: its name, what it needs to be there, and a script that prints what it has made.
pub type Program = (&'static str, &'static [&'static str], &'static str);

/// The programs.
pub const PROGRAMS: [Program; 5] = [
    ("fsx", &["fsx"], "fsx -q -N 6000 -S 7 file && sha256sum file"),
    (
        "git",
        &["git"],
        "export GIT_AUTHOR_DATE='1000000000 +0000' GIT_COMMITTER_DATE='1000000000 +0000' HOME=$PWD
         git init -q r; cd r; git config user.email a@b; git config user.name n; git config gc.auto 0
         for i in $(seq 20); do for j in 1 2 3 4; do seq $((i * j)) >f$j; done; git add -A; git commit -qm $i; done
         git gc -q; git fsck --strict; git log --format=%H%n%s; git status --short",
    ),
    (
        "sqlite",
        &["sqlite3"],
        "for i in $(seq 60); do echo \"insert into t(b) values(hex(zeroblob($i)));\"; done >more
         sqlite3 t.db 'create table t(a integer primary key, b text)'
         sqlite3 t.db <more; sqlite3 t.db 'pragma journal_mode=wal' <more
         sqlite3 t.db 'delete from t where a % 7 = 0; pragma integrity_check; select count(*), sum(length(b)) from t; vacuum'",
    ),
    (
        "compile",
        &["cc", "ar"],
        "for i in $(seq 12); do echo \"int f$i(int a) { return a * $i; }\" >f$i.c; done
         echo 'int f7(int); int main(void) { return f7(6) == 42 ? 0 : 1; }' >main.c
         for i in $(seq 12); do cc -c f$i.c -o f$i.o; done
         ar rcsD lib.a f*.o; cc main.c lib.a -o program; ./program; ls; sha256sum lib.a",
    ),
    (
        "names",
        &[],
        "for i in $(seq 60); do
           mkdir d$i; echo $i >d$i/a; mv d$i/a d$i/b; ln d$i/b d$i/c; rm d$i/b; mv d$i e$i; cat e$i/c
           exec 3<e$i/c; rm -r e$i; cat <&3; exec 3<&-; ln -s $i s; rm s
         done; find . | sort",
    ),
];

/// Runs it and prints the results.
///
/// # Errors
/// What is wrong.
pub fn run(args: &Args) -> Result<()> {
    if let Some(files) = args.files {
        println!("{:#?}", many_nodes(files)?);
        return Ok(());
    }
    for program in PROGRAMS.iter().filter(|program| program.0.contains(&args.only)) {
        let mut kills = 0;
        for _ in 0..args.rounds {
            kills += attempt(program)?;
        }
        println!("{}: {} rounds, {kills} servers killed, no difference", program.0, args.rounds);
    }
    Ok(())
}

/// Runs one program on a mount whose servers are killed, and without; returns how many were killed.
///
/// # Errors
/// If the program fails or makes something else than without a mount.
pub fn attempt((name, needs, script): &Program) -> Result<u32> {
    for tool in *needs {
        need::tool(tool).with_context(|| format!("no program {tool}"))?;
    }
    let scratch = match rustix::process::geteuid().is_root() {
        true => Scratch::on(FsKind::Tmpfs, "takeover", 512)?,
        false => Scratch::new("takeover")?,
    };
    let below = run_in(&scratch.dir("below")?, script).with_context(|| format!("{name} without a mount"))?;
    let stack = Stack::writable([scratch.dir("lower")?], scratch.dir("upper")?, scratch.dir("work")?);
    let mounted = Driver::acetate()?.mount(&stack, &scratch.dir("merged")?, KEPT)?;
    let holder = holder(mounted.path())?;
    let done = AtomicBool::new(false);
    let (shown, kills) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_servers(holder, &done));
        let shown = run_in(mounted.path(), script);
        done.store(true, Ordering::SeqCst);
        (shown, killer.join())
    });
    let kills = kills.map_err(|_| anyhow::anyhow!("the killer panicked"))??;
    let shown = shown.with_context(|| format!("{name}, {kills} servers killed"))?;
    ensure!(shown == below, "{name}, {kills} servers killed: {shown}\ninstead of: {below}");
    mounted.unmount()?;
    let (left, end) = (PathBuf::from(format!("/proc/{holder}")), Instant::now() + LIMIT);
    while left.exists() {
        ensure!(Instant::now() < end, "{name}: the holder is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(kills)
}

/// Runs a script in a directory; returns what it prints.
fn run_in(dir: &Path, script: &str) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let tools = need::tool("fsx").and_then(|fsx| Some(fsx.parent()?.display().to_string()));
    let output = Command::new("sh")
        .args(["-ec", script])
        .env("PATH", format!("{path}:{}", tools.unwrap_or_default()))
        .current_dir(dir)
        .output()?;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The holder of a mount.
///
/// # Errors
/// If it has none.
pub fn holder(merged: &Path) -> Result<i32> {
    let output = Command::new(acetate_bin()?).args(["mounts", "--json"]).output()?;
    let document: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let mut mounts = document["mounts"].as_array().into_iter().flatten();
    let found = mounts.find(|mount| mount["mountpoint"].as_str().map(Path::new) == Some(merged));
    let holder = found.and_then(|mount| mount["holder"].as_i64()).context("the mount has no holder")?;
    Ok(holder.try_into()?)
}

/// The server that a holder has started.
///
/// # Errors
/// If it cannot be looked at.
pub fn server(holder: i32) -> Result<Option<Pid>> {
    let started = std::fs::read_to_string(format!("/proc/{holder}/task/{holder}/children"))?;
    Ok(started.split_whitespace().next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw))
}

/// Kills one server after the other, at times that differ; returns how many.
fn kill_servers(holder: i32, done: &AtomicBool) -> Result<u32> {
    let mut kills = 0;
    while !done.load(Ordering::SeqCst) {
        let mut random = [0; 1];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        std::thread::sleep(Duration::from_millis(10 + u64::from(random[0]) / 4));
        if let Some(server) = server(holder)? {
            // It may have ended just now, as another one begins.
            kills += u32::from(kill_process(server, Signal::KILL).is_ok());
        }
    }
    Ok(kills)
}
