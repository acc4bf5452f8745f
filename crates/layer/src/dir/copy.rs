//! Copying the data of files.

use super::File;
use crate::{Errno, Result};
use rustix::fs::{OFlags, SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use std::sync::atomic::{AtomicBool, Ordering};

/// How much is copied by one system call, which cannot be interrupted: a moment's worth of a slow disk.
const CHUNK_BYTES: u64 = 16 << 20;
/// Up to this size reading and writing takes fewer calls than having the kernel copy.
const SMALL_BYTES: u64 = 64 << 10;
/// The buffer for filesystems between which the kernel does not copy.
const BUFFER_BYTES: usize = 1 << 20;

/// Copies a range by the kernel and returns the number of bytes, zero at the end of `from`.
///
/// # Errors
/// `EXDEV`, `EINVAL`, `EOPNOTSUPP` where the kernel cannot; copy_file_range(2).
pub(super) fn range(from: (&File, u64), to: (&File, u64), len: u64) -> Result<u64> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    // As the kernel's overlayfs, whose real files are opened with this flag: no access time moves.
    let flags = rustix::fs::fcntl_getfl(from.0)?;
    let keeps =
        flags.contains(OFlags::NOATIME) || rustix::fs::fcntl_setfl(from.0, flags | OFlags::NOATIME).is_err();
    let copied = acetate_sys::retry(|| {
        let (mut source, mut target) = (from.1, to.1);
        copy_file_range(from.0, Some(&mut source), to.0, Some(&mut target), len)
    });
    if !keeps {
        rustix::fs::fcntl_setfl(from.0, flags)?;
    }
    copied.map(|count| count as u64)
}

/// Makes the file `to`, which is empty or a hole, hold the first `size` bytes of `from`, sharing extents where the filesystem
/// can and leaving holes. `cannot_clone` is set once the filesystem of `to` has said that it shares none.
///
/// # Errors
/// Those of reading and writing (`ENOSPC`, `EIO`), and `EINTR` when `go_on`, which is asked before each piece, says no;
/// `to` then holds some of the data.
pub(super) fn data(
    from: &File,
    to: &File,
    size: u64,
    cannot_clone: &AtomicBool,
    go_on: &dyn Fn() -> bool,
) -> Result<()> {
    if size > 0 && !cloned(from, to, cannot_clone) && extents(from, to, size, go_on)? == size {
        return Ok(());
    }
    if rustix::fs::fstat(to)?.st_size.cast_unsigned() == size {
        // Nothing changes, and its time is not to change either.
        return Ok(());
    }
    // Ends a hole at the end, and cuts off what was appended to the source meanwhile.
    acetate_sys::retry(|| ftruncate(to, size))
}

/// Whether `to` shares the extents of `from` now. Whyever not: if it cannot be copied either, that error is the one that
/// matters.
fn cloned(from: &File, to: &File, cannot: &AtomicBool) -> bool {
    if cannot.load(Ordering::Relaxed) {
        return false;
    }
    let result = ioctl_ficlone(to, from);
    if result == Err(Errno::OPNOTSUPP) {
        cannot.store(true, Ordering::Relaxed);
    }
    result.is_ok()
}

/// Copies all that is not a hole up to `size`, and returns the end of what was written.
fn extents(from: &File, to: &File, size: u64, go_on: &dyn Fn() -> bool) -> Result<u64> {
    let mut by = if size <= SMALL_BYTES { By::Hand(vec![0; size as usize]) } else { By::Kernel };
    let mut written = 0;
    let mut offset = 0;
    while offset < size {
        let (start, end) = match seek(from, SeekFrom::Data(offset)) {
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(written),
            // The filesystem does not know: all may be data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => (offset, size),
            start => {
                let start = start?;
                match seek(from, SeekFrom::Hole(start)) {
                    // The source has become shorter.
                    Err(Errno::NXIO) => return Ok(written),
                    end => (start, end?),
                }
            }
        };
        let end = end.min(size);
        let mut at = start;
        while at < end {
            if !go_on() {
                return Err(Errno::INTR);
            }
            let count = step(&mut by, from, to, at, end - at)?;
            if count == 0 {
                // The source has become shorter.
                return Ok(written);
            }
            at += count;
            written = at;
        }
        offset = end;
    }
    Ok(written)
}

/// Who copies.
enum By {
    Kernel,
    /// Us, through this buffer.
    Hand(Vec<u8>),
}

/// Copies some bytes at `at`, at most `len`, and returns how many; zero at the end of `from`.
fn step(by: &mut By, from: &File, to: &File, at: u64, len: u64) -> Result<u64> {
    if let By::Kernel = by {
        match range((from, at), (to, at), len.min(CHUNK_BYTES)) {
            // Zero may also mean that the filesystem does not know the size of its files (copy_file_range(2)).
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                *by = By::Hand(vec![0; BUFFER_BYTES]);
            }
            other => return other,
        }
    }
    match by {
        By::Kernel => Ok(0),
        By::Hand(buffer) => by_hand(buffer, from, to, at, len),
    }
}

fn by_hand(buffer: &mut [u8], from: &File, to: &File, at: u64, len: u64) -> Result<u64> {
    let want = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
    let count = acetate_sys::retry(|| rustix::io::pread(from, &mut buffer[..want], at))?;
    let mut done = 0;
    while done < count {
        match acetate_sys::retry(|| rustix::io::pwrite(to, &buffer[done..count], at + done as u64))? {
            0 => return Err(Errno::IO),
            written => done += written,
        }
    }
    Ok(count as u64)
}
