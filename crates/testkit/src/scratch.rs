//! Places for layers: fresh directories, on the default filesystem or on a small one made for the occasion.
//!
//! Everything lies under `$TMPDIR` (else `/tmp`) and is unmounted and removed when its [`Scratch`] is dropped.
//! Directories are mode 0755, so that tests may act below them as an ordinary user.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use rustix::fs::{Mode, chmod};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A filesystem that a scratch directory can be put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    /// ext4 in a sparse image on a loop device.
    Ext4,
    /// xfs in a sparse image; mkfs.xfs wants at least 300 MiB.
    Xfs,
    /// btrfs in a sparse image; mkfs.btrfs wants at least 110 MiB.
    Btrfs,
    /// A tmpfs of its own.
    Tmpfs,
}

impl FsKind {
    /// The type name that mount(8) and mkfs(8) use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
        }
    }

    /// Arguments that let mkfs work silently, at once, on an image that is no block device.
    pub(crate) fn mkfs_args(self) -> &'static [&'static str] {
        match self {
            // Without lazy initialisation no kernel thread goes on writing after the mount.
            Self::Ext4 => &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            Self::Xfs => &["-q", "-f"],
            Self::Btrfs => &["-q", "-f"],
            Self::Tmpfs => &[],
        }
    }
}

/// A directory that is removed on drop, together with the filesystem made for it, if any.
#[derive(Debug)]
pub struct Scratch {
    /// The directory under the temporary directory; removed on drop.
    base: PathBuf,
    /// The mount point inside `base` if there is a filesystem.
    mounted: Option<PathBuf>,
}

impl Scratch {
    /// A fresh, empty directory whose name starts with `name`.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let parent = std::fs::canonicalize(std::env::temp_dir()).context("no temporary directory")?;
        // Names of an earlier process with this id may have stayed behind if it was killed.
        loop {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let base = parent.join(format!("{name}-{}-{n}", std::process::id()));
            match std::fs::create_dir(&base) {
                Ok(()) => {
                    chmod(&base, Mode::from_raw_mode(0o755))?;
                    return Ok(Self { base, mounted: None });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot create {}", base.display()));
                }
            }
        }
    }

    /// A fresh filesystem of `kind` with `size_mib` MiB, empty but for what mkfs puts there (`lost+found`).
    ///
    /// Needs root and, unless it is a tmpfs, mkfs for that kind and a free loop device.
    pub fn on(kind: FsKind, name: &str, size_mib: u64) -> anyhow::Result<Self> {
        let mut scratch = Self::new(name)?;
        let point = scratch.base.join("fs");
        std::fs::create_dir(&point)?;
        if kind == FsKind::Tmpfs {
            let data = std::ffi::CString::new(format!("size={size_mib}m,mode=0755"))?;
            mount("tmpfs", &point, "tmpfs", MountFlags::empty(), data.as_c_str())
                .context("cannot mount a tmpfs")?;
        } else {
            let image = scratch.base.join("image");
            std::fs::File::create(&image)?.set_len(size_mib << 20)?;
            let mkfs = format!("mkfs.{}", kind.name());
            command(Command::new(mkfs).args(kind.mkfs_args()).arg(&image))?;
            command(Command::new("mount").args(["-t", kind.name(), "-o", "loop"]).arg(&image).arg(&point))?;
        }
        scratch.mounted = Some(point);
        chmod(scratch.path(), Mode::from_raw_mode(0o755))?;
        Ok(scratch)
    }

    /// A fresh, empty directory for gigabytes: in memory where twice `size_mib` MiB are free there, else on the default
    /// filesystem. Test machines often have more of the former.
    ///
    /// Needs root.
    pub fn roomy(name: &str, size_mib: u64) -> anyhow::Result<Self> {
        let info = std::fs::read_to_string("/proc/meminfo")?;
        let available = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
        let kib = available.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        if kib.is_some_and(|kib| kib / 1024 >= 2 * size_mib) {
            return Self::on(FsKind::Tmpfs, name, size_mib);
        }
        Self::new(name)
    }

    /// The directory to work in.
    pub fn path(&self) -> &Path {
        self.mounted.as_deref().unwrap_or(&self.base)
    }

    /// Creates the directory `name`, mode 0755, inside and returns its path.
    pub fn dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        chmod(&path, Mode::from_raw_mode(0o755))?;
        Ok(path)
    }
}

/// Runs a tool to its end; an error carries what it printed.
fn command(command: &mut Command) -> anyhow::Result<()> {
    let tool = command.get_program().to_owned();
    let output = command.output().with_context(|| format!("cannot run {}", tool.display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", tool.display(), output.status, stderr.trim_end());
    }
    Ok(())
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(point) = &self.mounted {
            // Lazily: a test that failed may have left a descriptor open.
            if let Err(errno) = unmount(point, UnmountFlags::DETACH) {
                eprintln!("testkit: cannot unmount {}: {errno}", point.display());
                return;
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.base) {
            eprintln!("testkit: cannot remove {}: {error}", self.base.display());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_vanishes_with_its_handle() {
        let scratch = Scratch::new("scratch-test").unwrap();
        let inner = scratch.dir("d").unwrap();
        assert!(inner.is_dir());
        let base = scratch.path().to_path_buf();
        drop(scratch);
        assert!(!base.exists());
    }
}
