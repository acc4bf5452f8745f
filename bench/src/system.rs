//! The systems that are compared.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use acetate_testkit::driver::{Driver, Mounted, Stack, is_mounted};
use acetate_testkit::need;
use anyhow::{Context, bail};
use clap::ValueEnum;
use rustix::mount::{UnmountFlags, unmount};

/// How long mounting or unmounting may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A system by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The kernel's overlayfs
    Kernel,
    /// This project
    Acetate,
    /// The published crate, if it is installed
    FuseOverlayfs,
}

/// A system that can mount.
#[derive(Debug)]
pub enum System {
    /// One that the testkit's driver knows.
    Driver(Driver),
    /// `fuse-overlayfs -o ... MERGED`.
    FuseOverlayfs(PathBuf),
}

impl System {
    /// The systems asked for, or all; in that case fuse-overlayfs may be missing, and stderr says so.
    pub fn find(asked: &[Choice]) -> anyhow::Result<Vec<Self>> {
        let all = asked.is_empty();
        let choices = if all { Choice::value_variants() } else { asked };
        let mut systems = Vec::new();
        for choice in choices {
            match choice {
                Choice::Kernel => systems.push(Self::Driver(Driver::Kernel)),
                Choice::Acetate => systems.push(Self::Driver(Driver::acetate()?)),
                Choice::FuseOverlayfs => match need::tool("fuse-overlayfs") {
                    Some(bin) => systems.push(Self::FuseOverlayfs(bin)),
                    None if all => {
                        eprintln!("fuse-overlayfs is not installed: left out. hint: tests/install --bench")
                    }
                    None => bail!("fuse-overlayfs is not installed; tests/install --bench builds it"),
                },
            }
        }
        Ok(systems)
    }

    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Driver(driver) => driver.name(),
            Self::FuseOverlayfs(_) => "fuse-overlayfs",
        }
    }

    /// Mounts `stack` on `target`.
    pub fn mount(&self, stack: &Stack, target: &Path) -> anyhow::Result<Mount> {
        match self {
            Self::Driver(driver) => Ok(Mount::Driver(driver.mount(stack, target, "")?)),
            Self::FuseOverlayfs(bin) => {
                // In the foreground, to see its end: it unmounts its place once more then, whatever is mounted there.
                let mut command = Command::new(bin);
                command.arg("-f").arg("-o").arg(stack.options("")).arg(target);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let child = command.spawn().context("starting fuse-overlayfs")?;
                let mut mount = Detach { target: target.to_path_buf(), child };
                let deadline = Instant::now() + LIMIT;
                while !is_mounted(target)? {
                    if let Some(status) = mount.child.try_wait()? {
                        bail!("fuse-overlayfs mounted nothing: {status}");
                    }
                    if Instant::now() > deadline {
                        bail!("fuse-overlayfs mounted nothing within {LIMIT:?}");
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(Mount::FuseOverlayfs(mount))
            }
        }
    }
}

/// A live mount; detached lazily when dropped.
#[derive(Debug)]
pub enum Mount {
    /// By the testkit's driver.
    Driver(Mounted),
    /// By fuse-overlayfs.
    FuseOverlayfs(Detach),
}

/// A mount point with its server; it is detached when dropped.
#[derive(Debug)]
pub struct Detach {
    target: PathBuf,
    child: Child,
}

impl Drop for Detach {
    fn drop(&mut self) {
        if is_mounted(&self.target).unwrap_or(true)
            && let Err(errno) = unmount(&self.target, UnmountFlags::DETACH)
        {
            eprintln!("acetate-bench: cannot detach {}: {errno}", self.target.display());
        }
        // It may be gone already.
        let _ended = self.child.kill();
        if let Err(error) = self.child.wait() {
            eprintln!("acetate-bench: fuse-overlayfs: {error}");
        }
    }
}

impl Mount {
    /// The merged directory.
    pub fn path(&self) -> &Path {
        match self {
            Self::Driver(mounted) => mounted.path(),
            Self::FuseOverlayfs(detach) => &detach.target,
        }
    }

    /// Unmounts, and waits until the mount is gone.
    pub fn unmount(self) -> anyhow::Result<()> {
        match self {
            Self::Driver(mounted) => mounted.unmount(),
            Self::FuseOverlayfs(mut detach) => {
                unmount(&detach.target, UnmountFlags::empty()).context("unmounting fuse-overlayfs")?;
                detach.child.wait().context("waiting for fuse-overlayfs")?;
                Ok(())
            }
        }
    }
}
