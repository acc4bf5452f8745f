//! The mount point.

use crate::daemon::unmount::{Unmount, unmount};
use crate::error::Failure;
use crate::mountinfo;
use crate::out::{note, shown};
use rustix::fs::{FileType, stat};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// A directory to mount on.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Absolute, without symlinks.
    pub(crate) path: PathBuf,
}

impl Target {
    /// Finds the mount point. What a daemon that was killed has left mounted there is cleared away.
    ///
    /// # Errors
    /// If it cannot be reached or is no directory.
    pub(crate) fn find(path: &Path) -> Result<Target, Failure> {
        let mut looked = look(path);
        if looked == Err(Errno::NOTCONN) && clear_dead(path)? {
            looked = look(path);
        }
        let (resolved, kind) = looked.map_err(|errno| {
            let failure = Failure::path("mount point", path, errno);
            match errno {
                Errno::NOENT => failure.hint("make the directory first"),
                Errno::NOTCONN => {
                    failure.hint("another FUSE mount there has lost its daemon: umount --lazy it")
                }
                _ => failure.hint("name a directory that you can reach"),
            }
        })?;
        if kind != FileType::Directory {
            return Err(Failure::path("mount point", path, Errno::NOTDIR).hint("name a directory"));
        }
        Ok(Target { path: resolved })
    }
}

fn look(path: &Path) -> Result<(PathBuf, FileType), Errno> {
    let stat = stat(path)?;
    // The attributes of a dead mount may still be remembered; its sizes are asked for.
    rustix::fs::statfs(path)?;
    let resolved =
        std::fs::canonicalize(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok((resolved, FileType::from_raw_mode(stat.st_mode)))
}

/// Detaches the mount at `path` if it is one of ours whose daemon is gone.
fn clear_dead(path: &Path) -> Result<bool, Failure> {
    let failed = |error: std::io::Error| Failure::io("mount table", &error);
    let point = mount_point(path).map_err(failed)?;
    if !mountinfo::at(&point).map_err(failed)?.is_some_and(|mount| mount.is_ours()) {
        return Ok(false);
    }
    unmount(&point, Unmount::Detach).map_err(|errno| {
        Failure::path("clear the dead mount", &point, errno).hint("unmount it as who mounted it")
    })?;
    note(format_args!("{}: cleared the mount of a daemon that is gone", shown(&point)));
    Ok(true)
}

/// The absolute path of a mount point, found without asking the filesystem that is mounted there.
///
/// # Errors
/// If the directory above it cannot be reached.
pub(crate) fn mount_point(path: &Path) -> std::io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let point = std::fs::canonicalize(parent)?.join(name);
            // A symlink to a mount point is as good as its name.
            match std::fs::read_link(&point) {
                Ok(_) => std::fs::canonicalize(&point),
                Err(_) => Ok(point),
            }
        }
        _ => std::fs::canonicalize(path),
    }
}
