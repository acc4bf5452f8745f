//! Real programs on a mount: what people do with an overlay, checked to the end.
//!
//! Each function makes its own layers on an ext4 filesystem, works on a mount of the given driver, and checks what the
//! programs say, the lower layer (untouched to the last timestamp), the tree after a remount, and the same layers
//! mounted by the kernel. It returns one line that says what was done.
//!
//! - [`debian`]: apt-get install in a Debian root tree.
//! - [`git`]: clone, gc, fsck, checkout.
//! - [`venv`]: a Python virtual environment, made, used, and used again from a lower layer.
//! - [`sqlite`]: concurrent readers and writers on a database from a lower layer.
//! - [`copying`]: cp and tar of a tree with everything in it.
//! - [`cli`]: all of them by hand.

pub mod cli;
pub mod copying;
pub mod debian;
pub mod fingerprint;
pub mod git;
pub mod sqlite;
pub mod venv;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::driver::{Driver, Mounted, Stack};
use crate::exec;
use crate::scratch::{FsKind, Scratch};
use fingerprint::Fingerprint;

/// How long one command of these runs may take before it counts as hung.
const LIMIT: Duration = Duration::from_secs(600);

/// Layers on an ext4 filesystem of their own, and the mount over them.
#[derive(Debug)]
struct Place {
    // Unmounted before the filesystem below it goes: fields are dropped in this order.
    mounted: Option<Mounted>,
    driver: Driver,
    stack: Stack,
    merged: PathBuf,
    lower: PathBuf,
    lower_before: Option<Fingerprint>,
    scratch: Scratch,
}

impl Place {
    /// Fills a lower layer with `fill` and mounts an empty upper over it.
    fn new(
        driver: &Driver,
        name: &str,
        fill: impl FnOnce(&Path, &Scratch) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let scratch = Scratch::on(FsKind::Ext4, name, 8192)?;
        let lower = scratch.dir("lower")?;
        fill(&lower, &scratch)?;
        let stack = Stack::writable([&lower], scratch.dir("upper")?, scratch.dir("work")?);
        let merged = scratch.dir("merged")?;
        let lower_before = Some(Fingerprint::take(&lower)?);
        let mut place =
            Self { mounted: None, driver: driver.clone(), stack, merged, lower, lower_before, scratch };
        place.mount(&driver.clone())?;
        Ok(place)
    }

    fn mount(&mut self, driver: &Driver) -> anyhow::Result<()> {
        let mounted = driver.mount(&self.stack, &self.merged, "");
        self.mounted = Some(mounted.with_context(|| format!("mounting by {}", driver.name()))?);
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        self.mounted.take().map_or(Ok(()), Mounted::unmount)
    }

    fn remount(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.mount(&self.driver.clone())
    }

    /// Unmounts, and mounts with the upper as the topmost lower and a fresh upper over it.
    fn push_layer(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        let Some(old) = self.stack.upper.take() else { bail!("no upper to push down") };
        let mut lowers = self.stack.lowers.clone();
        lowers.insert(0, old.upper);
        let n = lowers.len();
        let upper = self.scratch.dir(&format!("upper-{n}"))?;
        self.stack = Stack::writable(lowers, upper, self.scratch.dir(&format!("work-{n}"))?);
        self.mount(&self.driver.clone())
    }

    /// Ends the run: the tree must be the same after a remount and when the kernel mounts the layers, where `check`
    /// has to pass as well, and the lower layer must be as it was.
    fn finish(mut self, check: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let merged = self.merged.clone();
        let take = || anyhow::Ok(Fingerprint::take(&merged)?.without_root_ctime());
        let before = take()?;
        self.remount()?;
        before.expect(&take()?, "the tree after a remount")?;
        check(&self.merged).context("after a remount")?;
        let before = take()?;
        self.unmount()?;
        self.mount(&Driver::Kernel)?;
        before.expect(&take()?, "the same layers mounted by the kernel")?;
        check(&self.merged).context("on the same layers mounted by the kernel")?;
        self.unmount()?;
        let Some(lower_before) = self.lower_before.take() else { bail!("no fingerprint of the lower layer") };
        lower_before.expect(&Fingerprint::take(&self.lower)?, "the lower layer")
    }
}

/// Runs a command line, words separated by single spaces, in `dir`; returns its stdout.
fn run_in(dir: &Path, line: &str) -> anyhow::Result<String> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).current_dir(dir);
    Ok(String::from_utf8_lossy(&exec::stdout_of(&mut command, LIMIT)?).into_owned())
}

/// Fails unless `got` is `expected`; both are shown.
fn expect_eq<T: PartialEq + std::fmt::Debug>(got: &T, expected: &T, what: &str) -> anyhow::Result<()> {
    if got == expected {
        return Ok(());
    }
    bail!("{what}: got {got:?}, expected {expected:?}")
}
