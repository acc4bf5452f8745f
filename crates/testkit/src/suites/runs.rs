//! A whole suite on a mount and, where that tells something, on the filesystem below.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::{
    Comparison, Known, Verdict, Verdicts, compare, fsx as fsx_suite, pjdfstest as pjd_suite,
    stress as stress_suite,
};
use crate::driver::{Driver, Mounted, Stack};
use crate::scratch::{FsKind, Scratch};

/// A mount of `driver` with an empty upper on an ext4 filesystem of its own, and a directory beside it.
#[derive(Debug)]
pub struct Bed {
    // Unmounted before the filesystem below it goes: fields are dropped in this order.
    mounted: Mounted,
    below: PathBuf,
    scratch: Scratch,
}

impl Bed {
    /// Makes the filesystem, fills the lower layer with `fill`, and mounts.
    pub fn new(driver: &Driver, fill: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let scratch = Scratch::on(FsKind::Ext4, "acetate-suite", 4096)?;
        let lower = scratch.dir("lower")?;
        fill(&lower)?;
        let stack = Stack::writable([lower], scratch.dir("upper")?, scratch.dir("work")?);
        let below = scratch.dir("below")?;
        fill_copy(&stack, &below)?;
        let mounted = driver.mount(&stack, &scratch.dir("merged")?, "")?;
        Ok(Self { mounted, below, scratch })
    }

    /// The merged directory.
    pub fn merged(&self) -> &Path {
        self.mounted.path()
    }

    /// A directory on the filesystem below with the same files.
    pub fn below(&self) -> &Path {
        &self.below
    }

    /// A directory outside the mount for files of the runner.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Unmounts.
    ///
    /// # Errors
    /// If something still uses the mount.
    pub fn close(self) -> anyhow::Result<()> {
        self.mounted.unmount()
    }
}

/// Copies the plain files of the lower layer to `below`.
fn fill_copy(stack: &Stack, below: &Path) -> anyhow::Result<()> {
    for lower in &stack.lowers {
        for entry in std::fs::read_dir(lower)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                bail!("{}: only plain files are copied", entry.path().display());
            }
            std::fs::copy(entry.path(), below.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// pjdfstest on a mount of `driver` and on a filesystem as the one below it.
///
/// They are two filesystems: the suite remounts read-only, which an overlay on the same one would forbid.
pub fn pjdfstest(driver: &Driver, known: &Known) -> anyhow::Result<Comparison> {
    let alone = Scratch::on(FsKind::Ext4, "acetate-suite", 1024)?;
    let other = Scratch::on(FsKind::Tmpfs, "acetate-suite", 64)?;
    let below = pjd_suite::run(&alone.dir("below")?, other.path(), other.path())?;
    let bed = Bed::new(driver, |_| Ok(()))?;
    let mount = pjd_suite::run(bed.merged(), other.path(), other.path())?;
    bed.close()?;
    Ok(compare(&mount, &below, known))
}

/// Every fsx configuration with each of `seeds` on a mount of `driver`; what fails is run below as well.
pub fn fsx(driver: &Driver, seeds: &[u64], operations: u64) -> anyhow::Result<Comparison> {
    let bed = Bed::new(driver, |lower| fsx_suite::prepare(lower, seeds))?;
    let (mut mount, mut below) = (Verdicts::new(), Verdicts::new());
    for config in fsx_suite::CONFIGS {
        let verdicts = fsx_suite::run(bed.merged(), bed.scratch(), config, seeds, operations)?;
        if verdicts.values().any(|verdict| *verdict != Verdict::Ok) {
            below.extend(fsx_suite::run(bed.below(), bed.scratch(), config, seeds, operations)?);
        }
        mount.extend(verdicts);
    }
    bed.close()?;
    Ok(compare(&mount, &below, &Known::default()))
}

/// `stressors` on a mount of `driver`; what does not pass is run below as well.
pub fn stress(
    driver: &Driver,
    known: &Known,
    stressors: &[&str],
    seconds: u32,
) -> anyhow::Result<Comparison> {
    let bed = Bed::new(driver, |_| Ok(()))?;
    let (mut mount, mut below) = (Verdicts::new(), Verdicts::new());
    for stressor in stressors {
        let verdicts = stress_suite::run(bed.merged(), &[stressor], seconds)?;
        if verdicts.values().any(|verdict| *verdict != Verdict::Ok) {
            below.extend(stress_suite::run(bed.below(), &[stressor], seconds)?);
        }
        mount.extend(verdicts);
    }
    bed.close()?;
    Ok(compare(&mount, &below, known))
}
