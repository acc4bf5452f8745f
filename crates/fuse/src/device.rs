//! The descriptor of a FUSE connection.

use acetate_sys::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{read, write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An open `/dev/fuse` of a mounted filesystem. Any number of threads may read and write it: each read takes one
/// request, each write answers one.
#[derive(Debug)]
pub(crate) struct Device(OwnedFd);

/// What reading the device brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// A request of this many bytes.
    Request(usize),
    /// Nothing, try again: a signal came, or the request was taken back.
    Nothing,
    /// The filesystem is no longer mounted.
    Unmounted,
    /// The connection was aborted.
    Aborted,
    /// The device fails.
    Failed(Errno),
}

impl Device {
    pub(crate) fn new(fd: OwnedFd) -> Device {
        Device(fd)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Waits for a request and reads it. The buffer has to hold the largest one.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Got {
        match read(&self.0, buffer) {
            // The device itself never says so; a socket in its place does when it is closed.
            Ok(0) => Got::Unmounted,
            Ok(length) => Got::Request(length),
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => Got::Nothing,
            Err(Errno::NODEV) => Got::Unmounted,
            Err(Errno::CONNABORTED) => Got::Aborted,
            Err(errno) => Got::Failed(errno),
        }
    }

    /// Whether a request waits already.
    pub(crate) fn has_pending(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        // A poll that fails says nothing of a queue.
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
            && fds[0].revents().contains(PollFlags::IN)
    }

    /// Lets the kernel read and write `file` itself, wherever replies name it by the result.
    ///
    /// # Errors
    /// [`acetate_sys::fuse::backing_open`]
    pub(crate) fn lend(&self, file: BorrowedFd<'_>) -> Result<u32, Errno> {
        acetate_sys::fuse::backing_open(self.0.as_fd(), file)
    }

    /// Ends [`lend`](Self::lend) for opens to come.
    ///
    /// # Errors
    /// `ENOENT` for an unknown number.
    pub(crate) fn take_back(&self, id: u32) -> Result<(), Errno> {
        acetate_sys::fuse::backing_close(self.0.as_fd(), id)
    }

    /// Writes a reply or a notification.
    ///
    /// # Errors
    /// `ENOENT` if nobody waits for it any more or knows the node; `ENODEV` once unmounted; `EINVAL` if the kernel
    /// refuses it, in which case the caller of the request gets `EIO`.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match write(&self.0, bytes) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}
