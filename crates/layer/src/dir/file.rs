//! Open files and references.

use crate::Access;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An open object of a [`DirLayer`](super::DirLayer).
#[derive(Debug)]
pub struct File {
    pub(super) fd: OwnedFd,
    /// How it is open; `None` for a mere reference (`O_PATH`).
    pub(super) access: Option<Access>,
}

impl File {
    /// Whether data can be written through it.
    pub(super) fn is_writable(&self) -> bool {
        matches!(self.access, Some(Access::Write | Access::ReadWrite))
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
