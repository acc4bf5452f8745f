//! Programs whose filesystem server is killed again and again, and replaced (`takeover=on`): they must see no error, and
//! what they make must be what they make on a plain filesystem.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::driver::{Driver, Stack, acetate_bin};
use crate::kills::KEPT;
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
    let scratch = Scratch::on(FsKind::Tmpfs, "takeover", 512)?;
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
