//! Settings of the whole process.

use crate::Result;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// Sets the umask of the process to zero, so that creating calls use exactly the mode they are given.
///
/// The mask belongs to the process, not the thread: other code in it that relies on a mask is affected.
pub fn clear_umask() {
    umask(Mode::empty());
}

/// The number of descriptors that this process may have open (`RLIMIT_NOFILE`, soft).
pub fn nofile_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit of open descriptors to the hard limit and returns the limit now in force.
///
/// # Errors
/// Those of setrlimit(2); the limit is as before.
pub fn raise_nofile_limit() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(nofile_limit())
}

/// Fills `bytes` with random ones (getrandom(2)).
///
/// # Errors
/// Those of getrandom(2).
pub fn random(bytes: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += crate::retry(|| {
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
        })?;
    }
    Ok(())
}
