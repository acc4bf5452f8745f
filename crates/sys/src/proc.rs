//! Objects by way of `/proc/self/fd`.

use crate::{Errno, Result};
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Runs `call` for a path relative to `/proc/self/fd/<fd>`, which reaches an object through a descriptor that the
/// call itself would not take (`O_PATH`). `name` is appended as a component unless empty.
///
/// # Errors
/// Those of `call`; `EINVAL` if the name holds NUL.
pub(crate) fn with_proc_path<T>(
    fd: BorrowedFd<'_>,
    name: &[u8],
    call: impl FnOnce(&CStr) -> Result<T>,
) -> Result<T> {
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    call(&path)
}
