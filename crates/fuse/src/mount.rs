//! Mounting and unmounting: by the system calls where we may, else with the help of fusermount3.

use crate::helper;
use acetate_sys::Errno;
use acetate_sys::mount::{FuseMount, Unmount, mount_fuse, umount};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The device of the kernel's FUSE.
const DEVICE: &str = "/dev/fuse";
/// The subtype that the mount table shows: `fuse.acetate`.
pub(crate) const SUBTYPE: &str = "acetate";

/// How a filesystem is mounted.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// What the mount table shows as the source.
    pub source: Vec<u8>,
    /// Flags of the mount: read-only, nosuid, noatime and so on.
    pub flags: MountFlags,
    /// Users other than the mounter may look at the mount. Always so for root; an ordinary user needs
    /// `user_allow_other` in /etc/fuse.conf.
    pub allow_other: bool,
    /// SELinux labels, as words for mount(2) (`context="..."`). They take the right to mount.
    pub labels: Vec<Vec<u8>>,
}

impl Default for MountSpec {
    fn default() -> Self {
        MountSpec {
            source: SUBTYPE.into(),
            flags: MountFlags::empty(),
            allow_other: false,
            labels: Vec::new(),
        }
    }
}

/// Why nothing was mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// `/dev/fuse` cannot be opened.
    #[error("/dev/fuse cannot be opened")]
    Device(#[source] Errno),
    /// The system refused, for a reason that privilege does not change.
    #[error("mount refused")]
    Refused(#[source] Errno),
    /// We may not mount, and there is no fusermount3 that could.
    #[error("no privilege to mount, and fusermount3 was not found")]
    NoHelper,
    /// fusermount3 refused; the text is what it said.
    #[error("fusermount3: {0}")]
    Helper(String),
}

/// Mounts a FUSE filesystem at `target` and returns its device.
///
/// # Errors
/// [`MountError`].
pub(crate) fn mount(target: &Path, spec: &MountSpec) -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(MountError::Device)?;
    let privileged = rustix::process::geteuid().is_root();
    let options = if spec.allow_other || privileged {
        "default_permissions,allow_other"
    } else {
        "default_permissions"
    };
    let mut options = options.as_bytes().to_vec();
    for label in &spec.labels {
        options.push(b',');
        options.extend_from_slice(label);
    }
    let fstype = format!("fuse.{SUBTYPE}");
    let result = mount_fuse(&FuseMount {
        device: device.as_fd(),
        fstype: fstype.as_bytes(),
        source: &spec.source,
        target,
        options: &options,
        flags: spec.flags,
    });
    match result {
        Ok(()) => Ok(device),
        Err(Errno::PERM | Errno::ACCESS) => {
            drop(device);
            helper::mount(target, spec)
        }
        Err(errno) => Err(MountError::Refused(errno)),
    }
}

/// Why something is still mounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// The system refused: `EBUSY`, `EINVAL` if nothing is mounted there, and others of umount2(2).
    #[error("unmount refused")]
    Refused(#[source] Errno),
    /// We may not unmount, and there is no fusermount3 that could.
    #[error("no privilege to unmount, and fusermount3 was not found")]
    NoHelper,
    /// fusermount3 refused; the text is what it said.
    #[error("fusermount3: {0}")]
    Helper(String),
}

/// Unmounts what is mounted at `target`. Does not look at the mount itself, which may be dead.
///
/// # Errors
/// [`UnmountError`].
pub fn unmount(target: &Path, how: Unmount) -> Result<(), UnmountError> {
    match umount(target, how) {
        Ok(()) => Ok(()),
        // No helper ends connections.
        Err(Errno::PERM | Errno::ACCESS) if how != Unmount::Abort => helper::unmount(target, how),
        Err(errno) => Err(UnmountError::Refused(errno)),
    }
}
