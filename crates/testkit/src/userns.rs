//! Running a program in a user namespace of its own, in which it is root over all ids that it had before: what a
//! container's root may do, and an ordinary user in a namespace of his own.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long a namespace may take to be made.
const LIMIT: Duration = Duration::from_secs(60);
/// Waits for the ids to be mapped, and becomes root there.
const ENTER: &str = "read go && exec setpriv --reuid 0 --regid 0 --clear-groups \"$@\"";

/// Runs `program` in new user and mount namespaces; needs root, unshare(1) and setpriv(1).
///
/// # Errors
/// If the namespaces cannot be made.
pub fn run(program: &Path, arguments: &[String], variables: &[(&str, &str)]) -> Result<ExitStatus> {
    let mut child = Command::new("unshare")
        .args(["-Um", "sh", "-c", ENTER, "sh"])
        .arg(program)
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run unshare")?;
    let mut go = child.stdin.take().context("no stdin")?;
    let namespace = format!("/proc/{}/ns/user", child.id());
    let (ours, end) = (fs::read_link("/proc/self/ns/user")?, Instant::now() + LIMIT);
    while fs::read_link(&namespace).is_ok_and(|its| its == ours) {
        ensure!(child.try_wait()?.is_none(), "unshare makes no user namespace");
        ensure!(Instant::now() < end, "no user namespace");
        std::thread::sleep(Duration::from_millis(2));
    }
    for map in ["uid_map", "gid_map"] {
        // One line, which the kernel takes once.
        fs::write(format!("/proc/{}/{map}", child.id()), "0 0 65536").context(map)?;
    }
    go.write_all(b"go\n")?;
    drop(go);
    Ok(child.wait()?)
}
