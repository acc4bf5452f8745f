//! What identifies a filesystem.

use crate::{Result, check};
use rustix::fs::fstatfs;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `f_type` of btrfs (`BTRFS_SUPER_MAGIC`).
const BTRFS_MAGIC: i64 = 0x9123_683e;
/// `_IOR(0x15, 0, struct fsuuid2)`, since Linux 6.9.
const FS_IOC_GETFSUUID: u32 = 0x8011_1500;
/// `_IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)`
const BTRFS_IOC_FS_INFO: u32 = 0x8400_941f;

/// `struct fsuuid2`
#[repr(C)]
struct FsUuid {
    len: u8,
    uuid: [u8; 16],
}

/// `struct btrfs_ioctl_fs_info_args`, of which only the UUID matters here.
#[repr(C)]
struct BtrfsInfo {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    rest: [u64; 124],
}

/// Whether `fd` is on btrfs, whose subvolumes have device numbers of their own.
///
/// # Errors
/// Those of fstatfs(2).
pub fn is_btrfs(fd: BorrowedFd<'_>) -> Result<bool> {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    Ok(fstatfs(fd)?.f_type as i64 == BTRFS_MAGIC)
}

/// The UUID of the filesystem that `fd` is on. `O_PATH` descriptors will not do.
///
/// # Errors
/// `ENOTTY` where the filesystem has none or the kernel does not tell.
pub fn fs_uuid(fd: BorrowedFd<'_>) -> Result<[u8; 16]> {
    if is_btrfs(fd)? {
        return btrfs_uuid(fd);
    }
    let mut uuid = FsUuid { len: 0, uuid: [0; 16] };
    // SAFETY: the kernel writes one `struct fsuuid2`, whose layout this is.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFSUUID as _, &raw mut uuid) };
    check(result.into())?;
    Ok(uuid.uuid)
}

/// The UUID that all subvolumes and devices of a btrfs share.
fn btrfs_uuid(fd: BorrowedFd<'_>) -> Result<[u8; 16]> {
    let mut info = BtrfsInfo { max_id: 0, num_devices: 0, fsid: [0; 16], rest: [0; 124] };
    // SAFETY: the kernel reads and writes one `struct btrfs_ioctl_fs_info_args` of 1024 bytes, whose size this is.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), BTRFS_IOC_FS_INFO as _, &raw mut info) };
    check(result.into())?;
    Ok(info.fsid)
}

const _: () = assert!(size_of::<BtrfsInfo>() == 1024 && size_of::<FsUuid>() == 17);
