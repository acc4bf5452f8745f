//! One mount at a time writes to a directory.
//!
//! The daemon holds a lock (flock(2)) on its upper and work directories for as long as it may write to them. The
//! kernel's overlayfs knows nothing of locks, so its mounts are looked up in the mount table.

use super::place::Place;
use crate::error::Failure;
use crate::out::{exact, shown};
use crate::{mountinfo, record};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat, stat};
use rustix::io::Errno;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long to wait for a daemon whose mount is gone to let go of its directories.
const LINGERING: Duration = Duration::from_secs(10);

/// Locks on directories; given back on drop.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: Vec<OwnedFd>,
}

impl Locks {
    /// Locks that another server of the same mount has taken.
    pub(crate) fn inherited(held: Vec<OwnedFd>) -> Locks {
        Locks { held }
    }

    /// The descriptors that hold them.
    pub(crate) fn held(&self) -> &[OwnedFd] {
        &self.held
    }

    /// Takes the locks.
    ///
    /// # Errors
    /// If another mount uses one of the directories, or it cannot be read.
    pub(super) fn take(upper: &Place, work: &Place) -> Result<Locks, Failure> {
        let held = [upper, work].map(lock);
        let held = held.into_iter().collect::<Result<_, _>>()?;
        for place in [upper, work] {
            if let Some(point) = kernel_user(place).map_err(|error| Failure::io("mount table", &error))? {
                return Err(in_use(place, &format!("by the kernel overlay at {point}")));
            }
        }
        Ok(Locks { held })
    }
}

fn lock(place: &Place) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(&place.fd, c".", flags, Mode::empty()).map_err(|errno| {
        Failure::path(place.role.words(), &place.path, errno).hint("you have to own it, or to be root")
    })?;
    let deadline = Instant::now() + LINGERING;
    loop {
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(fd),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = holder(place);
                if holder.is_some() || Instant::now() > deadline {
                    return Err(in_use(place, &holder.unwrap_or_else(|| "by another process".into())));
                }
                // Unmounted, but its daemon is not through yet.
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(errno) => return Err(Failure::path("lock the directory", &place.path, errno)),
        }
    }
}

fn in_use(place: &Place, holder: &str) -> Failure {
    Failure::new(
        format_args!("{}: {}: in use {holder}", place.role.words(), shown(&place.path)),
        "two mounts that write to one directory destroy it: unmount the other one, or use other directories",
    )
}

/// The live mount of ours that uses a directory, as a text for messages.
fn holder(place: &Place) -> Option<String> {
    let mounted = mountinfo::mounts().unwrap_or_default();
    let is_place = |path: &Option<String>| {
        // Paths that are not plain text are compared as they were written.
        path.as_ref().is_some_and(|path| same_directory(path, place) || *path == exact(&place.path))
    };
    let found = record::all().into_iter().map(|found| found.record).find(|record| {
        let live = mounted.iter().any(|mount| mount.is_ours() && exact(&mount.point) == record.mountpoint);
        live && (is_place(&record.upper) || is_place(&record.work))
    })?;
    let mut text = format!("by the mount at {}", found.mountpoint);
    // Writing to a String cannot fail.
    let _infallible = write!(text, " (pid {})", found.pid);
    Some(text)
}

/// The kernel overlay that writes to a directory.
fn kernel_user(place: &Place) -> std::io::Result<Option<String>> {
    let mounts = mountinfo::mounts()?;
    let user =
        mounts.iter().find(|mount| mount.overlay_dirs().iter().any(|path| same_directory(path, place)));
    Ok(user.map(|mount| shown(&mount.point).to_string()))
}

fn same_directory(path: impl AsRef<std::path::Path>, place: &Place) -> bool {
    let (major, minor, ino) = place.id.inode;
    path.as_ref().is_absolute()
        && stat(path.as_ref())
            .is_ok_and(|stat| stat.st_ino == ino && stat.st_dev == rustix::fs::makedev(major, minor))
}
