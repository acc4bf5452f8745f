//! Calls that only tests make: they look at a mount from outside, the way a program would.

use std::ffi::CString;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A shared, read-only mapping of the beginning of a file; unmapped on drop.
#[derive(Debug)]
pub struct SharedMap {
    /// Address of the mapping; never dereferenced, only handed back to the kernel.
    address: usize,
    /// Length in bytes, as mapped.
    length: NonZeroUsize,
    /// `/proc/self/mem`, through which the mapping is read.
    memory: File,
}

impl SharedMap {
    /// Maps the first `length` bytes of `file` (`MAP_SHARED`, `PROT_READ`).
    ///
    /// # Errors
    /// Those of mmap(2), among them `EINVAL` for length 0; those of opening /proc/self/mem.
    pub fn new(file: &File, length: usize) -> Result<Self, Errno> {
        let length = NonZeroUsize::new(length).ok_or(Errno::INVAL)?;
        let memory =
            File::open("/proc/self/mem").map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        // SAFETY: no address is asked for, so no existing mapping is replaced; the new one is private to this value
        // and no reference into it is ever made.
        let address =
            unsafe { mmap(std::ptr::null_mut(), length.get(), ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
        Ok(Self { address: address.addr(), length, memory })
    }

    /// The bytes that the mapping shows now.
    ///
    /// Read through /proc/self/mem: a page beyond the end of the file is `EIO` then, not a fatal signal.
    pub fn read(&self) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; self.length.get()];
        self.memory
            .read_exact_at(&mut bytes, self.address as u64)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        Ok(bytes)
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        let address = std::ptr::with_exposed_provenance_mut(self.address);
        // SAFETY: exactly the range that `new` mapped, and nothing points into it.
        let unmapped = unsafe { munmap(address, self.length.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

/// truncate(2): sets the length of the file at `path`, in bytes, without opening it. Follows symlinks.
///
/// # Errors
/// Those of truncate(2); `EINVAL` if `length` is above `i64::MAX` or the path holds a zero byte.
pub fn truncate(path: &Path, length: u64) -> Result<(), Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let length = i64::try_from(length).map_err(|_| Errno::INVAL)?;
    // SAFETY: `path` is a live string that ends in zero; the call writes no memory of ours.
    let result = unsafe { libc::truncate64(path.as_ptr(), length) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_mapping_shows_later_writes_and_survives_a_shrink() {
        let path = std::env::temp_dir().join(format!("acetate-probe-{}", std::process::id()));
        std::fs::write(&path, "old").unwrap();
        let map = SharedMap::new(&File::open(&path).unwrap(), 3).unwrap();
        assert_eq!(map.read().unwrap(), b"old");
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"new", 0).unwrap();
        assert_eq!(map.read().unwrap(), b"new");
        truncate(&path, 0).unwrap();
        assert_eq!(map.read(), Err(Errno::IO));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(truncate(&path, 0), Err(Errno::NOENT));
    }
}
