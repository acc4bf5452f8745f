//! The `btrfs` driver: layer chains are subvolumes, workspaces are snapshots of them.
//!
//! Whoever may create here may make subvolumes; removing them needs CAP_SYS_ADMIN or the mount option
//! `user_subvol_rm_allowed` (btrfs(5)). Every creation first looks at the metadata space ([`pressure`]).

mod space;

pub use space::{Pressure, Space, pressure, space};

use acetate_sys::{Errno, btrfs, ident};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long [`settle`] waits before it looks again: at first, and at most.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Why something about a subvolume failed.
#[derive(Debug, thiserror::Error)]
pub enum BtrfsError {
    /// A directory cannot be opened.
    #[error("{path:?} cannot be opened")]
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The directory is on another filesystem.
    #[error("{0:?} is not on btrfs")]
    NotBtrfs(PathBuf),
    /// The path ends in no name.
    #[error("{0:?} names no entry of a directory")]
    NoName(PathBuf),
    /// There is something of that name.
    #[error("{0:?} exists already")]
    Exists(PathBuf),
    /// The directory is no subvolume.
    #[error("{0:?} is no subvolume")]
    NotSubvolume(PathBuf),
    /// A subvolume cannot be removed because another one is in it.
    #[error("{0:?} holds another subvolume")]
    HoldsSubvolume(PathBuf),
    /// A subvolume may not be removed.
    #[error("{0:?} may not be removed: that needs CAP_SYS_ADMIN or the mount option user_subvol_rm_allowed")]
    Privilege(PathBuf),
    /// There is too little room for metadata to make a subvolume; removing them still works.
    #[error("{path:?} is not made: {space}")]
    Exhausted {
        /// What was to be made.
        path: PathBuf,
        /// What there is.
        space: Space,
    },
    /// Any other failure.
    #[error("{what} {path:?}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// With which object.
        path: PathBuf,
        /// Why it failed.
        #[source]
        errno: Errno,
    },
}

impl BtrfsError {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            BtrfsError::Open { .. } | BtrfsError::NoName(_) | BtrfsError::Failed { .. } => {
                "check the path and its permissions"
            }
            BtrfsError::NotBtrfs(_) => "use another driver here (acetate driver)",
            BtrfsError::Exists(_) => "choose another name",
            BtrfsError::NotSubvolume(_) => {
                "only subvolumes are removed or snapshotted, not plain directories"
            }
            BtrfsError::HoldsSubvolume(_) => "remove the inner one first (btrfs subvolume list -o)",
            BtrfsError::Privilege(_) => "be root, or mount the filesystem with user_subvol_rm_allowed",
            BtrfsError::Exhausted { .. } => {
                "remove workspaces, or give data space back to metadata: btrfs balance start -dusage=50 MOUNTPOINT"
            }
        }
    }
}

/// Whether `path`, a directory or file that exists, is on btrfs. A symlink is followed.
///
/// # Errors
/// [`BtrfsError::Open`].
pub fn is_btrfs(path: &Path) -> Result<bool, BtrfsError> {
    let failed = |errno| BtrfsError::Open { path: path.into(), errno };
    let fd = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    ident::is_btrfs(fd.as_fd()).map_err(failed)
}

/// Whether `path` is the root of a subvolume; a symlink, followed by nobody, is none.
///
/// # Errors
/// [`BtrfsError::Open`] if there is nothing at `path`.
pub fn is_subvolume(path: &Path) -> Result<bool, BtrfsError> {
    let failed = |errno| BtrfsError::Open { path: path.into(), errno };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
    btrfs::is_subvolume(fd.as_fd()).map_err(failed)
}

/// Makes the empty subvolume `path`, owned by the caller, of mode 0755 less the umask.
///
/// # Errors
/// [`BtrfsError::Exhausted`] before anything is tried, and where the kernel has no space after all; the others as they
/// say. Nothing is left behind.
pub fn create(path: &Path) -> Result<(), BtrfsError> {
    let place = Place::of(path)?;
    place.check_room()?;
    btrfs::create(place.parent.as_fd(), &place.name).map_err(|errno| place.error("make the subvolume", errno))
}

/// Makes `to` a snapshot of the subvolume `from`: all its content at this moment, but empty directories in place of
/// subvolumes in it.
///
/// # Errors
/// As [`create`]; [`BtrfsError::NotSubvolume`] about `from`.
pub fn snapshot(from: &Path, to: &Path, read_only: bool) -> Result<(), BtrfsError> {
    let place = Place::of(to)?;
    let source = open_dir(from)?;
    match btrfs::is_subvolume(source.as_fd()) {
        Ok(true) => {}
        Ok(false) => return Err(BtrfsError::NotSubvolume(from.into())),
        Err(errno) => return Err(BtrfsError::Open { path: from.into(), errno }),
    }
    place.check_room()?;
    btrfs::snapshot(source.as_fd(), place.parent.as_fd(), &place.name, read_only)
        .map_err(|errno| place.error("make the snapshot", errno))
}

/// Removes the subvolume `path` with everything in it, read-only or not. It is gone at once, its space comes back when
/// the filesystem gets to it ([`settle`]).
///
/// Works without free metadata too: the filesystem keeps a reserve for this.
///
/// # Errors
/// [`BtrfsError::NotSubvolume`], [`BtrfsError::HoldsSubvolume`], [`BtrfsError::Privilege`]; the others as they say.
pub fn delete(path: &Path) -> Result<(), BtrfsError> {
    let place = Place::of(path)?;
    if !is_subvolume(path)? {
        return Err(BtrfsError::NotSubvolume(path.into()));
    }
    let delete = || btrfs::delete(place.parent.as_fd(), &place.name);
    let deleted = match delete() {
        // What was freed lately can be used after a commit.
        Err(Errno::NOSPC) => rustix::fs::syncfs(&place.parent).and_then(|()| delete()),
        other => other,
    };
    deleted.map_err(|errno| match errno {
        Errno::NOTEMPTY => BtrfsError::HoldsSubvolume(path.into()),
        Errno::PERM | Errno::ACCESS => BtrfsError::Privilege(path.into()),
        errno => BtrfsError::Failed { what: "remove the subvolume", path: path.into(), errno },
    })
}

/// Commits what is under way on the filesystem of the directory `path` and waits until the space of deleted subvolumes
/// is free, however long that takes. Returns whether it could wait: `false` before Linux 6.13.
///
/// # Errors
/// [`BtrfsError::Open`], [`BtrfsError::Failed`].
pub fn settle(path: &Path) -> Result<bool, BtrfsError> {
    let dir = open_dir(path)?;
    settle_at(&dir).map_err(|errno| BtrfsError::Failed {
        what: "sync the filesystem of",
        path: path.into(),
        errno,
    })
}

fn settle_at(dir: &OwnedFd) -> Result<bool, Errno> {
    // The kernel's own call to wait looks again only after tens of seconds, while the cleaner, once woken, takes
    // milliseconds a subvolume.
    let mut pause = SHORTEST_PAUSE;
    loop {
        // Wakes the cleaner, and makes reusable what it has freed.
        btrfs::sync(dir.as_fd())?;
        match btrfs::deleted_waiting(dir.as_fd()) {
            Ok(0) => break,
            Ok(_) => std::thread::sleep(pause),
            Err(Errno::NOTTY) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    btrfs::sync(dir.as_fd())?;
    Ok(true)
}

/// Where a subvolume is or shall be.
struct Place<'a> {
    path: &'a Path,
    parent: OwnedFd,
    name: CString,
}

impl<'a> Place<'a> {
    fn of(path: &'a Path) -> Result<Place<'a>, BtrfsError> {
        let no_name = || BtrfsError::NoName(path.into());
        let name = path.file_name().map(OsStr::as_bytes).and_then(|name| CString::new(name).ok());
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => open_dir(Path::new("."))?,
            Some(parent) => open_dir(parent)?,
            None => return Err(no_name()),
        };
        Ok(Place { path, parent, name: name.ok_or_else(no_name)? })
    }

    /// Refuses to create where there is too little room to use what is created.
    fn check_room(&self) -> Result<(), BtrfsError> {
        match space::pressure_at(&self.parent) {
            Ok(Pressure::Exhausted(space)) => Err(BtrfsError::Exhausted { path: self.path.into(), space }),
            Ok(Pressure::Fine(_) | Pressure::Low(_)) => Ok(()),
            Err(errno) => Err(self.error("read the space for", errno)),
        }
    }

    fn error(&self, what: &'static str, errno: Errno) -> BtrfsError {
        let path = self.path.to_path_buf();
        match errno {
            Errno::NOTTY => BtrfsError::NotBtrfs(path),
            Errno::EXIST => BtrfsError::Exists(path),
            Errno::NOSPC => match space::space_at(&self.parent) {
                Ok(space) => BtrfsError::Exhausted { path, space },
                Err(_less_telling) => BtrfsError::Failed { what, path, errno },
            },
            errno => BtrfsError::Failed { what, path, errno },
        }
    }
}

/// Opens a directory for ioctls.
fn open_dir(path: &Path) -> Result<OwnedFd, BtrfsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|errno| BtrfsError::Open { path: path.into(), errno })
}
