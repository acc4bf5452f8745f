//! What the live tree consists of.

use super::layout::{Look, Seen};
use crate::error::Failure;
use crate::mountinfo;
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use std::path::{Path, PathBuf};

/// The mounts that can be reached by their paths. What another mount hides is not among them, and neither is what we may
/// not look at.
///
/// # Errors
/// Those of reading the mount table.
pub(super) fn mounts() -> Result<Vec<Seen>, Failure> {
    let table = mountinfo::mounts().map_err(|error| Failure::io("mount table", &error))?;
    let mut seen = Vec::new();
    for mount in table {
        let flags = AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
        let Ok(stat) = statx(CWD, &mount.point, flags, StatxFlags::TYPE | StatxFlags::MNT_ID) else {
            continue;
        };
        if stat.stx_mnt_id != u64::from(mount.id) {
            continue;
        }
        let words = |text: &std::ffi::OsStr| text.to_string_lossy().split(',').any(|word| word == "ro");
        seen.push(Seen {
            fstype: mount.fstype.to_string_lossy().into_owned(),
            read_only: words(&mount.flags) || words(&mount.options),
            is_file: FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory,
            point: mount.point,
        });
    }
    Ok(seen)
}

/// The tree as it is.
pub(super) struct Live;

impl Look for Live {
    fn dirs(&self, dir: &Path) -> Vec<PathBuf> {
        // What cannot be listed is not covered.
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut dirs: Vec<PathBuf> = dirs.map(|entry| entry.path()).collect();
        dirs.sort();
        dirs
    }

    fn is_dir(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|stat| stat.is_dir())
    }
}
