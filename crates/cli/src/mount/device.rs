//! Whether FUSE can be used at all.

use crate::error::Failure;
use rustix::fs::{FileType, Mode, OFlags, fstat, open, stat};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// The device of the kernel's FUSE.
const DEVICE: &str = "/dev/fuse";

/// What to do about something else in its place.
const RIGHT_DEVICE: &str =
    "it should be the character device 10:229: rm /dev/fuse; mknod -m 666 /dev/fuse c 10 229";

/// Checks that we may open `/dev/fuse`, and so may `fusermount3`, which opens it with its caller's identity.
///
/// # Errors
/// Why not, and what to do about it.
pub(crate) fn check() -> Result<(), Failure> {
    let errno = match open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(opened) => return is_device(&opened),
        Err(errno) => errno,
    };
    let failure = Failure::path("FUSE device", DEVICE, errno);
    Err(match errno {
        Errno::NOENT => failure
            .hint("load the module (modprobe fuse); in a container, pass the device in (--device /dev/fuse)"),
        Errno::NODEV | Errno::NXIO => {
            failure.hint("this kernel has no FUSE: load the module (modprobe fuse)")
        }
        Errno::ACCESS | Errno::PERM => closed(errno),
        _ => failure.hint(RIGHT_DEVICE),
    })
}

/// Refuses what was put in the place of the device, such as the empty file of a bind mount gone wrong.
fn is_device(opened: impl AsFd) -> Result<(), Failure> {
    let stat = fstat(opened).map_err(|errno| Failure::path("FUSE device", DEVICE, errno))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice {
        return Ok(());
    }
    Err(Failure::new(format_args!("FUSE device: {DEVICE}: is no character device"), RIGHT_DEVICE))
}

/// The device is there but not for us.
fn closed(errno: Errno) -> Failure {
    let mode = match stat(DEVICE) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice => {
            format!("mode is {:04o}, should be 0666", stat.st_mode & 0o7777)
        }
        Ok(_) => "is no character device".into(),
        Err(_) => "cannot be looked at".into(),
    };
    Failure::errno(format_args!("FUSE device: {DEVICE}: {mode}"), errno).hint(
        "as root: chmod 666 /dev/fuse; to keep it, a udev rule: KERNEL==\"fuse\", MODE=\"0666\"; \
         in a container, allow the device (--device /dev/fuse)",
    )
}
