//! File handles of the filesystem (name_to_handle_at(2)).

use crate::{Errno, Result, check};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The longest handle of any filesystem in bytes (`MAX_HANDLE_SZ`).
pub const MAX_BYTES: usize = 128;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct Raw {
    bytes: u32,
    kind: i32,
    data: [u8; MAX_BYTES],
}

/// The handle of `name` below `dir`, or of `dir` itself if the name is empty: its type and bytes.
/// Symlinks are not followed and `O_PATH` descriptors will do.
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem has no handles; `EOVERFLOW` if it is longer than [`MAX_BYTES`].
pub fn of(dir: BorrowedFd<'_>, name: &CStr) -> Result<(i32, Vec<u8>)> {
    let mut raw = Raw { bytes: MAX_BYTES as u32, kind: 0, data: [0; MAX_BYTES] };
    let mut mount_id: libc::c_int = 0;
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: `name` ends with NUL; `raw` has the layout of the kernel's struct with `bytes` bytes of room behind
    // it, and `mount_id` is an int to write to. All three outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            flags,
        )
    };
    check(result)?;
    let data = raw.data.get(..raw.bytes as usize).ok_or(Errno::OVERFLOW)?;
    Ok((raw.kind, data.to_vec()))
}

/// Opens the object behind a handle as an `O_PATH` descriptor.
///
/// `mount` is a descriptor on the filesystem, which older kernels want to be a full one (not `O_PATH`).
///
/// # Errors
/// `ESTALE` if it is gone, `EPERM` without CAP_DAC_READ_SEARCH, `EINVAL` if the handle is too long.
pub fn open(mount: BorrowedFd<'_>, kind: i32, bytes: &[u8]) -> Result<OwnedFd> {
    let mut raw = Raw { bytes: bytes.len() as u32, kind, data: [0; MAX_BYTES] };
    raw.data.get_mut(..bytes.len()).ok_or(Errno::INVAL)?.copy_from_slice(bytes);
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `raw` has the layout of the kernel's struct, holds `bytes` bytes, and outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut raw, flags) };
    let fd = i32::try_from(check(result)?).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
