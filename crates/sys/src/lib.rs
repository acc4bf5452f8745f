//! The system calls that the engine needs, as safe functions.
//!
//! This is the only crate that may use `unsafe`. Most calls are re-exported from or built on `rustix`; what it does
//! not wrap is wrapped here, one call a function. Nothing here knows of layers.

pub mod btrfs;
pub mod creds;
pub mod fscontext;
pub mod fuse;
pub mod handle;
pub mod ident;
pub mod memory;
pub mod mount;
pub mod namespace;
mod nr;
pub mod open;
pub mod privilege;
pub mod probe;
pub mod proc;
pub mod process;
pub mod signal;
pub mod verity;
pub mod writeback;
pub mod xattr;

pub use rustix::io::Errno;

/// What a system call returns.
pub type Result<T> = std::result::Result<T, Errno>;

/// Turns the result of a libc call into a `Result`: -1 becomes the thread's errno.
fn check(result: libc::c_long) -> Result<u64> {
    u64::try_from(result).map_err(|_| last_errno())
}

/// The errno of the calling thread's last failed libc call.
fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Repeats a call that a signal interrupted before it did anything.
pub fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
