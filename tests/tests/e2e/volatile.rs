//! What a mount that makes nothing durable says when the disk has lost something.

use std::process::{Command, Stdio};

use acetate_testkit::driver::{Driver, Stack};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Result, ensure};

fn sh(dir: &std::path::Path, script: &str) -> Result<String> {
    let output = Command::new("sh").args(["-euc", script]).current_dir(dir).stdin(Stdio::null()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {}: {errors}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A filesystem in an image that cannot grow, which shows when pages are written in the background. With a journal, which
/// cannot be written either, it would become read-only.
const SETUP: &str = "mkdir t fs l m; mount -t tmpfs -o size=24m none t; truncate -s 200M t/img
     mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0,nodiscard t/img
     mount -o loop,errors=continue t/img fs; mkdir fs/u fs/w; echo l >l/f";

const CLEAR: &str = "umount -l m 2>/dev/null || :; umount fs || umount -l fs; umount t || umount -l t";

const ACT: &str = "python3 -c '
import os, subprocess
f = os.open(\"m/big\", os.O_CREAT | os.O_RDWR)
os.fsync(f)
for _ in range(60): os.write(f, os.urandom(1 << 20))
subprocess.run([\"sync\", \"-f\", \"fs\"], stderr=subprocess.DEVNULL)
for _ in range(2):
    try:
        os.fsync(f); print(\"durable\")
    except OSError as error: print(os.strerror(error.errno))
'";

#[test]
fn fsync_fails_once_data_was_lost() -> Result<()> {
    let needs = [Need::Root, Need::Fuse, Need::Loop, Need::KernelOverlay, Need::Tool("python3")];
    if !have("fsync_fails_once_data_was_lost", &needs)? {
        return Ok(());
    }
    for driver in [Driver::acetate()?, Driver::Kernel] {
        let scratch = Scratch::new("volatile")?;
        let path = |name: &str| scratch.path().join(name);
        sh(scratch.path(), SETUP)?;
        let stack = Stack::writable([path("l")], path("fs/u"), path("fs/w"));
        let said =
            driver.mount(&stack, &path("m"), "volatile").map_err(anyhow::Error::from).and_then(|mounted| {
                let said = sh(scratch.path(), ACT);
                mounted.unmount()?;
                said
            });
        sh(scratch.path(), CLEAR)?;
        let said = said?;
        // What the disk said last: of pages of the file, or of blocks that hold what describes it.
        let lost = |line| ["Input/output error", "No space left on device"].contains(&line);
        ensure!(said.lines().count() == 2 && said.lines().all(lost), "{}: {said}", driver.name());
    }
    Ok(())
}
