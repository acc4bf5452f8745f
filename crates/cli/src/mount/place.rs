//! One directory of a mount, found and looked at but not yet opened as a layer.

use crate::error::Failure;
use crate::options::Role;
use crate::out::shown;
use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, StatxFlags, fstatvfs, open, openat, statx};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A directory that plays a role in a mount.
#[derive(Debug)]
pub(super) struct Place {
    /// Its role.
    pub(super) role: Role,
    /// As the user wrote it.
    pub(super) path: PathBuf,
    /// Which directory it is.
    pub(super) id: Id,
    /// A reference to it (`O_PATH`).
    pub(super) fd: OwnedFd,
}

/// Identifies a directory, and the mount that it was reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    /// Device number and inode number: the same directory, whatever the way to it.
    pub(super) inode: (u32, u32, u64),
    /// The mount; 0 on kernels that do not tell.
    pub(super) mount: u64,
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::DIRECTORY);

impl Id {
    fn of(fd: &OwnedFd) -> Result<Id, Errno> {
        let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)?;
        Ok(Id { inode: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino), mount: stat.stx_mnt_id })
    }
}

impl Place {
    /// Finds a directory. A symlink is followed.
    ///
    /// # Errors
    /// If it cannot be reached, is no directory, or is to be written and cannot.
    pub(super) fn find(role: Role, path: &OsString) -> Result<Place, Failure> {
        let path = PathBuf::from(path);
        let what = role.words();
        let option = role.option();
        let fd = open(&path, DIRECTORY, Mode::empty()).map_err(|errno| {
            let failure = Failure::path(what, &path, errno);
            match errno {
                Errno::NOENT => failure.hint(format_args!("make the directory, or correct {option}")),
                Errno::NOTDIR => failure.hint(format_args!("{option} takes directories only")),
                Errno::ACCESS => failure.hint("you have to be able to pass all directories above it"),
                Errno::NOTCONN => failure.hint(format_args!(
                    "a FUSE mount on the way has lost its daemon; clear it: umount --lazy {}",
                    shown(&path)
                )),
                _ => failure.hint(format_args!("correct {option}")),
            }
        })?;
        let id = Id::of(&fd).map_err(|errno| Failure::path(what, &path, errno))?;
        let place = Place { role, path, id, fd };
        if matches!(role, Role::Upper | Role::Work) {
            place.check_writable()?;
        }
        Ok(place)
    }

    fn check_writable(&self) -> Result<(), Failure> {
        let what = self.role.words();
        let stat = fstatvfs(&self.fd).map_err(|errno| Failure::path(what, &self.path, errno))?;
        if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Failure::path(what, &self.path, Errno::ROFS)
                .hint("remount it writable, or leave out upperdir and workdir for a read-only mount"));
        }
        Ok(())
    }

    /// The directories above it on the same mount, nearest first, until `stop` says that it has seen enough.
    pub(super) fn climb(&self, mut stop: impl FnMut(Id) -> bool) -> Result<(), Failure> {
        let failed = |errno| Failure::path(self.role.words(), &self.path, errno);
        let mut current = self.id;
        let mut above: Option<OwnedFd> = None;
        loop {
            let from = above.as_ref().unwrap_or(&self.fd);
            let next = match openat(from, c"..", DIRECTORY, Mode::empty()) {
                // Who may not go up cannot find out what is there.
                Err(Errno::ACCESS) => return Ok(()),
                other => other.map_err(failed)?,
            };
            let id = Id::of(&next).map_err(failed)?;
            if id.inode == current.inode || id.mount != current.mount || stop(id) {
                return Ok(());
            }
            current = id;
            above = Some(next);
        }
    }

    /// Whether it is `other` or below it on the same mount.
    pub(super) fn is_within(&self, other: &Place) -> Result<bool, Failure> {
        let mut found = self.id.inode == other.id.inode;
        if !found {
            self.climb(|id| {
                found = id.inode == other.id.inode;
                found
            })?;
        }
        Ok(found)
    }
}

/// A directory that was made for a mount and goes again if the mount fails.
#[derive(Debug)]
pub(super) struct Made(PathBuf);

impl Made {
    /// Removes it, unless something has been put there.
    pub(super) fn remove(self) {
        // The user sees why the mount failed; an empty directory that stays is no further news.
        let _stays_at_worst = std::fs::remove_dir(&self.0);
    }
}

/// Makes the work directory unless it is there.
///
/// # Errors
/// Those of mkdir(2).
pub(super) fn make(work: &OsString) -> Result<Option<Made>, Failure> {
    let work = Path::new(work);
    match std::fs::DirBuilder::new().mode(0o700).create(work) {
        Ok(()) => Ok(Some(Made(work.into()))),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(Failure::io(format_args!("make the work directory: {}", shown(work)), &error)
            .hint("name another one on the same mount as the upper layer: --work DIRECTORY")),
    }
}
