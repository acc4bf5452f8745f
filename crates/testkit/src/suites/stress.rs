//! stress-ng: many processes at once on one directory, with verification where the stressor has any.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Verdict, Verdicts};
use crate::{exec, need};

/// The stressors of stress-ng's class `filesystem` that work below `--temp-path` and nowhere else.
///
/// Versions differ: those that the installed one does not know are left out.
pub const STRESSORS: [&str; 43] = [
    "access",
    "acl",
    "chattr",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dup",
    "fallocate",
    "fcntl",
    "fd-abuse",
    "fiemap",
    "file-ioctl",
    "filename",
    "filerace",
    "flock",
    "fpunch",
    "fsize",
    "fstat",
    "getdent",
    "handle",
    "hdd",
    "inode-flags",
    "inotify",
    "iomix",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mmap",
    "open",
    "rename",
    "seek",
    "symlink",
    "touch",
    "unlink",
    "utime",
    "xattr",
];

/// Limits that keep a stressor from filling a small filesystem.
const LIMITS: [&str; 14] = [
    "--hdd-bytes",
    "16m",
    "--iomix-bytes",
    "16m",
    "--fallocate-bytes",
    "16m",
    "--copy-file-bytes",
    "16m",
    "--seek-size",
    "16m",
    "--mmap-bytes",
    "16m",
    "--dirmany-bytes",
    "0",
];

/// How long a stressor may need beyond its time before it counts as hung.
const GRACE: Duration = Duration::from_secs(120);

/// Exit status of stress-ng when the machine or filesystem lacks what a stressor needs.
const EXIT_NOT_SUPPORTED: [i32; 2] = [3, 4];

/// The stressors of [`STRESSORS`] that the installed stress-ng has.
pub fn available() -> anyhow::Result<Vec<&'static str>> {
    let output = exec::stdout_of(Command::new(program()?).arg("--stressors"), GRACE)?;
    let text = String::from_utf8_lossy(&output);
    let have: Vec<&str> = text.split_whitespace().collect();
    let list: Vec<_> = STRESSORS.into_iter().filter(|name| have.contains(name)).collect();
    if list.is_empty() {
        bail!("stress-ng knows none of the stressors: {text}");
    }
    Ok(list)
}

/// Runs each of `stressors` in `dir` with two processes for `seconds`.
///
/// # Errors
/// If stress-ng cannot be run at all; that a stressor failed is a verdict.
pub fn run(dir: &Path, stressors: &[&str], seconds: u32) -> anyhow::Result<Verdicts> {
    let program = program()?;
    let mut verdicts = Verdicts::new();
    for stressor in stressors {
        let mut command = Command::new(&program);
        command.args(["--verify", "--temp-path"]).arg(dir);
        command.args([&format!("--{stressor}"), "2", "--timeout", &format!("{seconds}s")]);
        command.args(limits_for(stressor));
        let verdict = match exec::run(&mut command, Duration::from_secs(seconds.into()) + GRACE) {
            Ok(done) => judge(&done),
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        verdicts.insert(format!("stress_ng::{stressor}"), verdict);
    }
    Ok(verdicts)
}

/// The options of [`LIMITS`] that belong to `stressor`: versions refuse what they do not know.
fn limits_for(stressor: &str) -> Vec<&'static str> {
    let prefix = format!("--{stressor}-");
    LIMITS
        .chunks(2)
        .filter(|pair| pair[0].starts_with(&prefix) && pair[1] != "0")
        .flatten()
        .copied()
        .collect()
}

fn program() -> anyhow::Result<std::path::PathBuf> {
    need::tool("stress-ng").context("no program stress-ng; run tests/install")
}

/// Exit status zero also covers a stressor that skipped itself; it says so.
fn judge(done: &exec::Finished) -> Verdict {
    let said = done.tail(12);
    match done.status.code() {
        Some(0) if said.contains("skipp") => Verdict::Skipped(said),
        Some(0) => Verdict::Ok,
        Some(code) if EXIT_NOT_SUPPORTED.contains(&code) => Verdict::Skipped(said),
        _ => Verdict::Failed(format!("{}: {said}", done.status)),
    }
}
