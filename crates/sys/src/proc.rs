//! Objects by way of `/proc/self/fd`.

use crate::{Errno, Result};
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The working directory is `/proc/self/fd`.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// Makes `/proc/self/fd` the working directory for good, so that objects can be reached wherever `/proc` is moved, or
/// whatever covers it: who serves the root filesystem is started before it, in a tree that loses its `/proc`. For
/// processes that use no relative paths and do not fork any more.
///
/// # Errors
/// Those of chdir(2), where there is no `/proc`; nothing has changed then.
pub fn enter_descriptors() -> Result<()> {
    rustix::process::chdir(c"/proc/self/fd")?;
    ENTERED.store(true, Ordering::Relaxed);
    Ok(())
}

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
    let prefix = if ENTERED.load(Ordering::Relaxed) { "" } else { "/proc/self/fd/" };
    let mut path = format!("{prefix}{}", fd.as_raw_fd()).into_bytes();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    call(&path)
}
