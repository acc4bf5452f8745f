//! Operations on the data of open files.

use crate::error::{OpError, Result, Step};
use crate::handle::{OpenFile, RealFile};
use crate::{Durability, HandleId, NodeId, Overlay};
use acetate_layer::{Access, At, Errno, Seek, UpperLayer};
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

/// What a volatile mount answers once data has been lost.
const LOST: OpError = OpError::Layer { step: "write data in the background", errno: Errno::IO };

/// From this size on, in bytes, reads of a file are worth more than what it costs to lend it at each open: its content is
/// more than one small request, and what the mount keeps of it is kept in single pages.
const LARGE: u64 = 128 << 10;

impl<L: UpperLayer> Overlay<L> {
    /// Runs `act` on an open regular file.
    fn with_file<T>(
        &self,
        id: HandleId,
        act: impl FnOnce(&OpenFile<L>, RealFile<L>) -> Result<T>,
    ) -> Result<T> {
        let open = self.handle(id)?;
        let real = self.real_file(&open)?;
        act(&open, real)
    }

    /// As `with_file`, for files open for writing.
    fn with_writable<T>(
        &self,
        id: HandleId,
        act: impl FnOnce(&L, &OpenFile<L>, RealFile<L>) -> Result<T>,
    ) -> Result<T> {
        self.with_file(id, |open, real| {
            if open.access == Access::Read || real.lower.is_some() {
                return Err(OpError::Stale);
            }
            act(self.upper()?, open, real)
        })
    }

    /// Runs `act` on the descriptor of the real file behind an open file, if that file is the node's for good and worth
    /// it: one in upper, which no copy-up replaces, or a large one of an overlay that has no upper layer.
    pub fn with_fixed_file<T>(&self, handle: HandleId, act: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let open = self.handle(handle).ok()?;
        // What is still to be copied up is not opened for this.
        if self.upper.is_some() && !open.node.data_in_upper() {
            return None;
        }
        let real = self.real_file(&open).ok()?;
        let layer = self.layer_of(&real).ok()?;
        if real.lower.is_some() && layer.stat(At::Open(real.file.as_ref())).ok()?.size < LARGE {
            return None;
        }
        layer.lend(&real.file).map(act)
    }

    /// Reads at `offset`; returns the number of bytes, fewer than `buf` only at the end of the file.
    ///
    /// # Errors
    /// [`OpError::Layer`].
    pub fn read(&self, handle: HandleId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.with_file(handle, |_, real| {
            let layer = self.layer_of(&real)?;
            layer.read_at(&real.file, buf, offset).step("read a file")
        })
    }

    /// As [`read`](Self::read), of a regular file that was not opened ([`Overlay::opens_mean_nothing`]).
    ///
    /// # Errors
    /// [`OpError::Invalid`] for anything but a regular file; those of opening it; [`OpError::Layer`].
    pub fn read_unopened(&self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let real = self.open_real(&*self.node(node)?, Access::Read)?;
        self.layer_of(&real)?.read_at(&real.file, buf, offset).step("read a file")
    }

    /// Writes at `offset`; returns the number of bytes written. `kill_set_ids`: the writer is not privileged
    /// and of that group, so set-id bits and capabilities go.
    ///
    /// # Errors
    /// [`OpError::Layer`].
    pub fn write(
        &self,
        handle: HandleId,
        offset: u64,
        data: &[u8],
        kill_set_ids: Option<u32>,
    ) -> Result<usize> {
        self.with_writable(handle, |upper, _, real| {
            if let Some(gid) = kill_set_ids {
                self.kill_set_ids(upper, At::Open(real.file.as_ref()), gid)?;
            }
            upper.write_at(&real.file, data, offset).step("write a file")
        })
    }

    /// fallocate(2) with its FALLOC_FL_* bits.
    ///
    /// # Errors
    /// [`OpError::Layer`].
    pub fn fallocate(&self, handle: HandleId, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.with_writable(handle, |upper, _, real| {
            upper.allocate(&real.file, mode, offset, len).step("allocate in a file")
        })
    }

    /// The next data or hole at or after `offset`.
    ///
    /// # Errors
    /// `ENXIO` past the end.
    pub fn lseek(&self, handle: HandleId, offset: u64, what: Seek) -> Result<u64> {
        self.with_file(handle, |_, real| {
            self.layer_of(&real)?.seek(&real.file, offset, what).step("seek in a file")
        })
    }

    /// As [`lseek`](Self::lseek), of a regular file that was not opened.
    ///
    /// # Errors
    /// As [`read_unopened`](Self::read_unopened); `ENXIO` past the end.
    pub fn lseek_unopened(&self, node: NodeId, offset: u64, what: Seek) -> Result<u64> {
        let real = self.open_real(&*self.node(node)?, Access::Read)?;
        self.layer_of(&real)?.seek(&real.file, offset, what).step("seek in a file")
    }

    /// copy_file_range(2) between open files; returns the number of bytes copied.
    ///
    /// # Errors
    /// `EXDEV` if the layers are on different filesystems that cannot do it; [`OpError::Layer`].
    pub fn copy_file_range(&self, from: (HandleId, u64), to: (HandleId, u64), len: u64) -> Result<u64> {
        let source = self.with_file(from.0, |_, real| Ok(real))?;
        self.with_writable(to.0, |upper, _, target| {
            upper.copy_range((&source.file, from.1), (&target.file, to.1), len).step("copy between files")
        })
    }

    /// Makes a file durable. Nothing to do for lower files.
    ///
    /// # Errors
    /// [`OpError::Layer`].
    pub fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        if self.config.durability == Durability::Nothing {
            return self.with_file(handle, |_, real| self.check_background(&real));
        }
        self.with_file(handle, |open, real| match real.lower {
            // Of a copy of attributes these are what there is to sync.
            Some(_) => match open.node.state.read().upper_at() {
                Some(upper) if !data_only => {
                    self.upper_layer()?.sync(upper, false).step("sync the attributes of a file")
                }
                _ => Ok(()),
            },
            None => self.upper_layer()?.sync(At::Open(real.file.as_ref()), data_only).step("sync a file"),
        })
    }

    /// On a volatile mount: fails if data has been lost since it was mounted, as far as that is known. Nothing is made
    /// durable, but who relies on what was written learns that it cannot be.
    fn check_background(&self, real: &RealFile<L>) -> Result<()> {
        if real.lower.is_none() && self.upper_layer()?.failed_writes(&real.file).is_err() {
            self.lost_data.store(true, Ordering::Release);
        }
        if self.lost_data.load(Ordering::Acquire) { Err(LOST) } else { Ok(()) }
    }

    /// Makes the entries of a directory durable. Nothing to do for lower directories.
    ///
    /// # Errors
    /// [`OpError::Layer`].
    pub fn fsyncdir(&self, node: NodeId, data_only: bool) -> Result<()> {
        if self.config.durability == Durability::Nothing {
            return if self.lost_data.load(Ordering::Acquire) { Err(LOST) } else { Ok(()) };
        }
        let node = self.dir(node)?;
        let state = node.state.read();
        match state.upper_at() {
            Some(at) => self.upper_layer()?.sync(at, data_only).step("sync a directory"),
            None => Ok(()),
        }
    }

    /// Makes everything written to the upper filesystem durable.
    ///
    /// # Errors
    /// [`OpError::Layer`].
    pub fn sync(&self) -> Result<()> {
        match &self.upper {
            Some(upper) if self.config.durability != Durability::Nothing => {
                upper.sync_fs().step("sync the upper filesystem")
            }
            _ => Ok(()),
        }
    }
}
