//! fs-verity: what the kernel vouches for about the content of a file (linux/fsverity.h).

use crate::{Errno, Result, check};
use rustix::ioctl::{Opcode, opcode};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The longest digest that the call can return, in bytes (SHA-512).
const LONGEST: usize = 64;

/// `struct fsverity_digest`, with room for a digest.
#[repr(C)]
struct Digest {
    algorithm: u16,
    size: u16,
    bytes: [u8; LONGEST],
}

/// `FS_IOC_MEASURE_VERITY`; the number says four bytes, as the digest is a flexible array.
const MEASURE: Opcode = opcode::read_write::<[u16; 2]>(b'f', 134);

/// The algorithm (`FS_VERITY_HASH_ALG_*`) and the digest of a file, open for reading; `None` if verity is not enabled on
/// it, or its filesystem has none.
///
/// # Errors
/// Those of the filesystem.
pub fn measure(file: BorrowedFd<'_>) -> Result<Option<(u16, Vec<u8>)>> {
    match call(file) {
        Ok(digest) => {
            let size = usize::from(digest.size).min(LONGEST);
            Ok(Some((digest.algorithm, digest.bytes[..size].to_vec())))
        }
        Err(Errno::NODATA | Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether a filesystem has fs-verity; `object` is anything on it, open for reading, a directory too.
///
/// # Errors
/// Those of the filesystem.
pub fn is_known(object: BorrowedFd<'_>) -> Result<bool> {
    match call(object) {
        Ok(_) | Err(Errno::NODATA) => Ok(true),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::ISDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Asks for the digest.
fn call(file: BorrowedFd<'_>) -> Result<Digest> {
    let mut digest = Digest { algorithm: 0, size: LONGEST as u16, bytes: [0; LONGEST] };
    // SAFETY: the kernel writes at most `size` bytes behind the four of the header, for which there is room.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), MEASURE as _, &raw mut digest) };
    check(result.into()).map(|_| digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_number_is_the_headers() {
        assert_eq!(MEASURE as u64, 0xc004_6686);
    }

    #[test]
    fn an_ordinary_file_is_not_vouched_for() -> Result<()> {
        let file = rustix::fs::open("/proc/self/exe", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())?;
        assert_eq!(measure(file.as_fd()), Ok(None));
        Ok(())
    }
}
