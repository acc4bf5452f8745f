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

/// Whether a thread of this machine has been killed and is only waiting for the end of a system call.
///
/// Any signal that ends a process without a core dump counts: the kernel makes `SIGKILL` of it for each thread
/// (`complete_signal` in kernel/signal.c). False for a thread that cannot be looked at.
pub fn is_killed(thread: u32) -> bool {
    std::fs::read(format!("/proc/{thread}/status")).is_ok_and(|status| has_sigkill(&status))
}

/// Whether `SIGKILL` is among the pending signals that a `/proc/PID/status` shows.
fn has_sigkill(status: &[u8]) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    status.split(|&byte| byte == b'\n').any(|line| {
        let pending = line.strip_prefix(b"SigPnd:").or_else(|| line.strip_prefix(b"ShdPnd:"));
        pending
            .and_then(|set| str::from_utf8(set.trim_ascii()).ok())
            .and_then(|set| u64::from_str_radix(set, 16).ok())
            .is_some_and(|set| set & SIGKILL != 0)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_signals() {
        let status = |own: &str, shared: &str| {
            format!("Name:\tx\nSigQ:\t1/100\nSigPnd:\t{own}\nShdPnd:\t{shared}\nSigBlk:\t0000000000000100\n")
        };
        let (none, kill, term) = ("0000000000000000", "0000000000000100", "0000000000004000");
        assert!(!has_sigkill(status(none, none).as_bytes()));
        assert!(!has_sigkill(status(term, term).as_bytes()));
        assert!(has_sigkill(status(kill, none).as_bytes()));
        assert!(has_sigkill(status(none, kill).as_bytes()));
        assert!(!has_sigkill(b""));
        assert!(!is_killed(std::process::id()));
        assert!(!is_killed(0));
    }
}
