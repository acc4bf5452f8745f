//! Makes the layers of a script on disk.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::script::{Body, Entry, Layer, Script, Time};
use crate::driver::Stack;

/// The directories of one side of a case.
#[derive(Debug, Clone)]
pub struct Side {
    /// Lower directories, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// The upper directory.
    pub upper: PathBuf,
    /// The work directory.
    pub work: PathBuf,
    /// The mount point.
    pub merged: PathBuf,
}

impl Side {
    /// Makes the directories of one side below `base`, which must not exist, and fills the layers.
    ///
    /// # Errors
    /// An item cannot be made, for instance because an earlier one took its place.
    pub fn build(base: &Path, script: &Script) -> Result<Self> {
        let make = |name: &str| -> Result<PathBuf> {
            let path = base.join(name);
            std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            Ok(path)
        };
        let lowers =
            (1..=script.lower_count()).map(|n| make(&format!("l{n}"))).collect::<Result<Vec<_>>>()?;
        let side = Self { lowers, upper: make("upper")?, work: make("work")?, merged: make("m/merged")? };
        let mut times = Vec::new();
        let mut made = BTreeSet::new();
        for dir in side.lowers.iter().chain([&side.upper]) {
            plain_dir(dir)?;
            made.insert(dir.clone());
            times.push((dir.clone(), Entry::OLD));
        }
        for entry in &script.entries {
            side.build_entry(entry, &mut made, &mut times).with_context(|| format!("cannot make {entry}"))?;
        }
        // Children first: making one changes the times of its directory.
        for (path, time) in times.iter().rev() {
            set_times(path, *time)?;
        }
        Ok(side)
    }

    /// Returns the stack as the drivers want it.
    pub fn stack(&self) -> Stack {
        Stack::writable(&self.lowers, &self.upper, &self.work)
    }

    fn layer(&self, layer: Layer) -> &Path {
        match layer {
            Layer::Upper => &self.upper,
            Layer::Lower(number) => &self.lowers[number - 1],
        }
    }

    fn build_entry(
        &self,
        entry: &Entry,
        made: &mut BTreeSet<PathBuf>,
        times: &mut Vec<(PathBuf, Time)>,
    ) -> Result<()> {
        let root = self.layer(entry.layer);
        let path = below(root, &entry.path);
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(dir) = above.filter(|dir| dir.starts_with(root) && !made.contains(*dir)) {
            missing.push(dir.to_path_buf());
            above = dir.parent();
        }
        for dir in missing.into_iter().rev() {
            std::fs::create_dir(&dir)?;
            plain_dir(&dir)?;
            times.push((dir.clone(), Entry::OLD));
            made.insert(dir);
        }
        make_object(root, &path, entry, made.contains(&path))?;
        made.insert(path.clone());
        if matches!(entry.body, Body::Link(_)) {
            return Ok(());
        }
        set_attributes(&path, entry)?;
        times.push((path, entry.mtime));
        Ok(())
    }
}

/// Returns `path` (bytes relative to a root) below `root`.
pub fn below(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { root.to_path_buf() } else { root.join(OsStr::from_bytes(path)) }
}

fn plain_dir(path: &Path) -> Result<()> {
    // Not what the umask of the caller left.
    rustix::fs::chmod(path, Mode::from_raw_mode(0o755)).with_context(|| format!("chmod {}", path.display()))
}

fn set_times(path: &Path, time: Time) -> Result<()> {
    let time = Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("cannot set times of {}", path.display()))
}

fn make_object(root: &Path, path: &Path, entry: &Entry, exists: bool) -> Result<()> {
    let node = |kind: FileType, major: u32, minor: u32| {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device)
    };
    match &entry.body {
        // A directory line after another one (or after an implied parent) only sets attributes.
        Body::Dir if exists => {}
        Body::Dir => std::fs::create_dir(path)?,
        Body::File { data, size } => {
            let file = File::create_new(path)?;
            for extent in data {
                file.write_all_at(&extent.bytes(), extent.offset)?;
            }
            if *size != 0 {
                file.set_len(*size)?;
            }
            if *size != 0 || data.iter().any(|extent| extent.offset != 0) {
                // Where the holes are must not depend on when the kernel writes the data back.
                file.sync_data()?;
            }
        }
        Body::Symlink(target) => rustix::fs::symlink(OsStr::from_bytes(target), path)?,
        Body::Fifo => node(FileType::Fifo, 0, 0)?,
        Body::Socket => node(FileType::Socket, 0, 0)?,
        Body::Char(major, minor) => node(FileType::CharacterDevice, *major, *minor)?,
        Body::Block(major, minor) => node(FileType::BlockDevice, *major, *minor)?,
        Body::Whiteout => node(FileType::CharacterDevice, 0, 0)?,
        Body::Link(target) => rustix::fs::link(below(root, target), path)?,
    }
    Ok(())
}

fn set_attributes(path: &Path, entry: &Entry) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).context("chown")?;
    if !matches!(entry.body, Body::Symlink(_)) {
        rustix::fs::chmod(path, Mode::from_raw_mode(entry.mode)).context("chmod")?;
    }
    // After chown, which drops security.capability.
    for (name, value) in &entry.xattrs {
        rustix::fs::lsetxattr(path, name.as_slice(), value, XattrFlags::empty()).context("setxattr")?;
    }
    Ok(())
}
