//! Namespaces, and the processes that live in them.

use crate::{Errno, Result, check};
use rustix::process::Pid;
use rustix::thread::UnshareFlags;
use std::os::fd::AsRawFd;

/// What a process can have for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// User and group ids, and privileges.
    User,
    /// Mounts.
    Mount,
    /// Process ids: those of the children, not of the caller.
    Pid,
    /// The host's name.
    Uts,
    /// System V objects and POSIX message queues.
    Ipc,
    /// Network devices.
    Network,
}

impl Namespace {
    fn flag(self) -> UnshareFlags {
        match self {
            Namespace::User => UnshareFlags::NEWUSER,
            Namespace::Mount => UnshareFlags::NEWNS,
            Namespace::Pid => UnshareFlags::NEWPID,
            Namespace::Uts => UnshareFlags::NEWUTS,
            Namespace::Ipc => UnshareFlags::NEWIPC,
            Namespace::Network => UnshareFlags::NEWNET,
        }
    }
}

/// Gives the process new namespaces of these kinds.
///
/// # Errors
/// Those of unshare(2): `EPERM` without CAP_SYS_ADMIN unless a user namespace is among them, or where user namespaces
/// are forbidden; `ENOSPC` at the limit of namespaces; `EINVAL` for a user or mount namespace if the process has threads.
pub fn unshare(namespaces: &[Namespace]) -> Result<()> {
    let flags = namespaces.iter().map(|namespace| namespace.flag()).fold(UnshareFlags::empty(), |a, b| a | b);
    // SAFETY: none of the flags concerns the table of file descriptors.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Which of two processes returns from [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The new one.
    Child,
    /// The old one, with the id of the new one.
    Parent(Pid),
}

/// Makes a copy of this process, which must have a single thread: another thread's locks would stay locked in the copy
/// for ever.
///
/// # Errors
/// `EBUSY` if there are more threads, and those of fork(2).
pub fn fork() -> Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(|error| errno(&error))?.count();
    if threads != 1 {
        return Err(Errno::BUSY);
    }
    // SAFETY: this is the only thread, so that no lock is held by one that the copy does not have.
    let pid = unsafe { libc::fork() };
    let pid = check(libc::c_long::from(pid))?;
    let pid = i32::try_from(pid).map_err(|_| Errno::RANGE)?;
    Ok(Pid::from_raw(pid).map_or(Forked::Child, Forked::Parent))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Switches the loopback device of this network namespace on.
///
/// # Errors
/// Those of socket(2) and netdevice(7).
pub fn loopback_up() -> Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: a struct of numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request reads a struct ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(libc::c_long::from(result)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_copied() {
        // The test harness runs tests in threads of their own.
        let other = std::thread::spawn(|| fork().map(|_| ()));
        assert!(matches!(other.join(), Ok(Err(Errno::BUSY))));
    }
}
