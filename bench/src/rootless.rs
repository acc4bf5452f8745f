//! The same by an ordinary user: a process in a user namespace measures, this one only drops caches for it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::drop_caches;

/// Whoever this is, not root.
const USER: u32 = 1000;

/// Runs this program again with the same arguments, as an ordinary user who is root in a namespace of theirs, to work
/// below `dir`; whether every workload ran on every system.
pub fn run(dir: &Path) -> anyhow::Result<bool> {
    std::os::unix::fs::chown(dir, Some(USER), Some(USER))?;
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".into()]);
    command.args(["unshare", "--user", "--map-root-user", "--mount"]).arg(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg("--inside").arg(dir);
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut child =
        command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn().context("cannot run setpriv")?;
    // The command holds their end, too.
    drop(command);
    while ours.read(&mut [0])? == 1 {
        drop_caches()?;
        ours.write_all(&[0])?;
    }
    Ok(child.wait()?.success())
}

/// Has the process that started this one drop the caches.
///
/// # Errors
/// If there is none.
pub fn ask_for_cold() -> anyhow::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    (&socket).write_all(&[0]).context("nobody drops caches: --inside is for --rootless alone")?;
    ensure!((&socket).read(&mut [0])? == 1, "nobody drops caches any more");
    Ok(())
}
