//! The ioctls of `/dev/fuse`: files that the kernel reads and writes itself.
//!
//! Source: linux/fuse.h and fs/fuse/backing.c (Linux 6.9 and later).

use crate::{Result, check};
use rustix::ioctl::{Opcode, opcode};
use std::os::fd::{AsRawFd, BorrowedFd};

/// `FUSE_DEV_IOC_MAGIC`
const GROUP: u8 = 229;

/// `struct fuse_backing_map`
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

const BACKING_OPEN: Opcode = opcode::write::<BackingMap>(GROUP, 1);
const BACKING_CLOSE: Opcode = opcode::write::<u32>(GROUP, 2);

/// Registers the regular file `file` with the connection `device` and returns the number that replies to open name it
/// by. The kernel keeps it open until [`backing_close`], and as long as it uses it.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` in the initial user namespace; `ELOOP` if the file is on a stacked filesystem;
/// `EOPNOTSUPP` if it cannot be read and written by the kernel; `ENOTTY` before Linux 6.9.
pub fn backing_open(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<u32> {
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the kernel reads one `struct fuse_backing_map`, whose layout and size this is.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_OPEN as _, &raw const map) };
    // Numbers start at 1 and are ints.
    check(result.into()).map(|id| id as u32)
}

/// Takes back what [`backing_open`] has registered.
///
/// # Errors
/// `ENOENT` if there is no such number.
pub fn backing_close(device: BorrowedFd<'_>, id: u32) -> Result<()> {
    // SAFETY: the kernel reads one 32-bit number.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_CLOSE as _, &raw const id) };
    check(result.into()).map(drop)
}
