//! Ending a mount.

pub(crate) use acetate_fuse::Unmount;

use crate::out::warn;
use acetate_fuse::UnmountError;
use rustix::io::Errno;
use std::path::Path;

/// Unmounts what is mounted at `point`, by ourselves or through fusermount3.
///
/// # Errors
/// The errno of umount2(2), or what fusermount3's refusal comes to; its own words are printed.
pub(crate) fn unmount(point: &Path, how: Unmount) -> Result<(), Errno> {
    match acetate_fuse::unmount(point, how) {
        Ok(()) => Ok(()),
        Err(UnmountError::Refused(errno)) => Err(errno),
        Err(UnmountError::NoHelper) => Err(Errno::PERM),
        Err(UnmountError::Helper(text)) => {
            // It prints the cause in the language of the C library's messages (fusermount3 sets no locale).
            if text.contains("busy") {
                return Err(Errno::BUSY);
            }
            warn(format_args!("fusermount3: {text}"));
            Err(Errno::PERM)
        }
    }
}
