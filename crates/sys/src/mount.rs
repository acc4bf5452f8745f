//! Mounts: FUSE filesystems, and private copies of others.

use crate::{Errno, Result, check, nr};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags, open_tree};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What to mount a FUSE filesystem with.
#[derive(Debug)]
pub struct FuseMount<'a> {
    /// An open `/dev/fuse`, which becomes the connection of this mount.
    pub device: BorrowedFd<'a>,
    /// The filesystem type as `/proc/mounts` shows it: `fuse` or `fuse.SUBTYPE`.
    pub fstype: &'a [u8],
    /// The source as `/proc/mounts` shows it; any text.
    pub source: &'a [u8],
    /// Where to mount. A symlink is followed.
    pub target: &'a Path,
    /// Further options of the FUSE filesystem (`default_permissions,allow_other,max_read=N`); may be empty.
    pub options: &'a [u8],
    /// Mount flags: `RDONLY`, `NOSUID`, `NODEV`, `NOATIME` and so on.
    pub flags: MountFlags,
}

/// Mounts a FUSE filesystem whose root is a directory; it becomes usable once the device is served.
///
/// # Errors
/// Those of mount(2): `EPERM` without CAP_SYS_ADMIN in the mount namespace, `EINVAL` for an option that the
/// kernel does not know, `ENODEV` if it knows no FUSE; `EINVAL` also if a text holds NUL.
pub fn mount_fuse(mount: &FuseMount<'_>) -> Result<()> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let device = mount.device.as_raw_fd();
    let mut data = format!("fd={device},rootmode=40000,user_id={uid},group_id={gid}").into_bytes();
    if !mount.options.is_empty() {
        data.push(b',');
        data.extend_from_slice(mount.options);
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(mount.source, mount.target, mount.fstype, mount.flags, data.as_c_str())
}

/// Whether an unmount waits for users of the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Fails with `EBUSY` while the mount is in use.
    WhenIdle,
    /// Detaches it at once; it ends when its last user does (`MNT_DETACH`).
    Detach,
    /// Ends its connection first, so that all requests fail, running ones and those to come (`MNT_FORCE`), then detaches
    /// it. For a daemon that hangs.
    Abort,
}

/// Unmounts what is mounted at `target`; a symlink is not followed.
///
/// # Errors
/// Those of umount2(2): `EBUSY`, `EINVAL` if nothing is mounted there, `EPERM`.
pub fn umount(target: &Path, how: Unmount) -> Result<()> {
    let detach = match how {
        Unmount::WhenIdle => UnmountFlags::empty(),
        Unmount::Detach => UnmountFlags::DETACH,
        Unmount::Abort => UnmountFlags::FORCE | UnmountFlags::DETACH,
    };
    rustix::mount::unmount(target, detach | UnmountFlags::NOFOLLOW)
}

/// Makes a private, read-only copy of the mount at `path` whose root is that directory.
///
/// Nothing that is mounted below it is visible in the copy, nothing can be changed through it, and reading through
/// it changes no access time. It exists as long as the descriptor (`O_PATH`) or one opened below it.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN in the mount namespace, `EINVAL` if the mount may not be copied (it has children
/// that are locked to it), `ENOSYS` before Linux 5.12.
pub fn private_read_only_copy(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path.as_os_str().as_bytes(), flags)?;
    set_read_only(&tree, libc::MOUNT_ATTR_NOATIME, Extent::Alone).or_else(|error| match error {
        // The access time setting of a mount made by a more privileged user is locked.
        Errno::PERM => set_read_only(&tree, 0, Extent::Alone),
        other => Err(other),
    })?;
    Ok(tree)
}

/// What of a tree of mounts is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// One mount without those below it.
    Alone,
    /// With all that is mounted below it.
    Whole,
}

/// Makes a copy of the mount at `path`, whose root is that directory or file, which can be attached elsewhere
/// ([`attach`](crate::fscontext::attach)). A symlink is not followed.
///
/// # Errors
/// As [`private_read_only_copy`]; a copy without children that are locked to the mount fails with `EINVAL`.
pub fn copy(path: &Path, extent: Extent) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    flags.set(OpenTreeFlags::AT_RECURSIVE, extent == Extent::Whole);
    open_tree(CWD, path.as_os_str().as_bytes(), flags)
}

/// [`copy`] through which nothing can be changed.
///
/// # Errors
/// As there.
pub fn read_only_copy(path: &Path, extent: Extent) -> Result<OwnedFd> {
    let tree = copy(path, extent)?;
    set_read_only(&tree, 0, extent)?;
    Ok(tree)
}

/// `struct mount_attr`
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Makes mounts read-only and sets its access time mode, if one is given.
fn set_read_only(mount: &OwnedFd, atime: u64, extent: Extent) -> Result<()> {
    let number = nr::MOUNT_SETATTR.ok_or(Errno::NOSYS)?;
    let recursive = if extent == Extent::Whole { libc::AT_RECURSIVE } else { 0 };
    let attr = MountAttr {
        attr_set: libc::MOUNT_ATTR_RDONLY | atime,
        // The mode is a field of several bits, which has to be cleared to be set (mount_setattr(2)).
        attr_clr: if atime == 0 { 0 } else { libc::MOUNT_ATTR__ATIME },
        ..MountAttr::default()
    };
    // SAFETY: the path is an empty C string, and `attr` has the layout and size of the kernel's first version of
    // the struct; both outlive the call.
    let result = unsafe {
        libc::syscall(
            number,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}
