//! Running a program with less privilege: in a user namespace of its own, in which it is root over all ids that it had
//! before, as a container's root or an ordinary user in a namespace of his own; or as an ordinary user.

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

/// Opens the FUSE device to everybody, as distributions do, in this mount namespace alone, and becomes an ordinary user. What
/// others have mounted for a while does not stay in use here.
const BECOME_USER: &str = r#"
set -e
cut -d' ' -f5 /proc/self/mountinfo | grep "^${TMPDIR:-/tmp}/" | sort -r | while read -r point; do umount -l "$point" || :; done
dir=$(mktemp -d)
mknod -m 666 "$dir/fuse" c 10 229
mount --bind "$dir/fuse" /dev/fuse
rm -r "$dir"
exec setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all "$@"
"#;

/// Runs `program` as an ordinary user who may mount by fusermount3(1), in a new mount namespace; needs root, unshare(1) and
/// setpriv(1).
///
/// # Errors
/// If it cannot be started.
pub fn run_as_user(program: &Path, arguments: &[String], variables: &[(&str, &str)]) -> Result<ExitStatus> {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", BECOME_USER, "sh"]).arg(program).args(arguments);
    command.envs(variables.iter().copied()).status().context("cannot run unshare")
}

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
