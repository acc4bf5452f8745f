//! Memory that outlives the process: a memory file (memfd_create(2)) that several processes map one after another.

use crate::{Errno, Result};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// A mapped memory file. What is stored there is there for whoever maps it next, also if this process is killed.
#[derive(Debug)]
pub struct SharedMemory {
    start: NonNull<AtomicU64>,
    bytes: usize,
    fd: OwnedFd,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only reached as atomics.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes a memory file of zeros. It takes memory only where something is stored.
    ///
    /// # Errors
    /// Those of memfd_create(2), ftruncate(2) and mmap(2).
    pub fn create(bytes: usize) -> Result<SharedMemory> {
        let fd = memfd_create(c"acetate", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, bytes as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        SharedMemory::map(fd)
    }

    /// Maps a memory file that [`SharedMemory::create`] has made, perhaps in another process.
    ///
    /// # Errors
    /// `EINVAL` if it can shrink; those of mmap(2).
    pub fn map(fd: OwnedFd) -> Result<SharedMemory> {
        if !fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) {
            return Err(Errno::INVAL);
        }
        let bytes = usize::try_from(fstat(&fd)?.st_size).map_err(|_| Errno::INVAL)?;
        let (read_write, shared) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, read_write, shared, &fd, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::FAULT)?;
        Ok(SharedMemory { start, bytes, fd })
    }

    /// For handing it to another process.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRef<[AtomicU64]> for SharedMemory {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is of that length, aligned to a page, and lives as long as this; any bytes are numbers; the
        // file cannot shrink under it, which its seal says.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes / size_of::<AtomicU64>()) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made above, and no reference to it outlives this.
        let _cannot_fail = unsafe { munmap(self.start.as_ptr().cast::<c_void>(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn what_is_stored_is_there_for_the_next() {
        let first = SharedMemory::create(1 << 32).unwrap();
        first.as_ref()[1 << 20].store(7, Ordering::Release);
        let fd = first.as_fd().try_clone_to_owned().unwrap();
        drop(first);
        let second = SharedMemory::map(fd).unwrap();
        assert_eq!(second.as_ref()[1 << 20].load(Ordering::Acquire), 7);
        let unsealed = memfd_create(c"x", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(SharedMemory::map(unsealed).map(drop), Err(Errno::INVAL));
    }
}
