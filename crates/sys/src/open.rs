//! Opening below a directory without ever leaving it.

use crate::proc::with_proc_path;
use crate::{Errno, Result, check, nr, retry};
use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, Timestamps, linkat, openat, openat2,
    statx, utimensat,
};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;

/// Whether openat2(2) can be used. Asked once, of `/`: an `EPERM` of a seccomp filter could not be told from one of
/// the file otherwise.
static HAS_OPENAT2: LazyLock<bool> = LazyLock::new(|| {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(rustix::fs::CWD, c"/", flags, Mode::empty(), ResolveFlags::empty()).is_ok()
});

/// How often an open is tried that fails for what others do meanwhile.
const MAX_ATTEMPTS: u32 = 32;

fn has_openat2() -> bool {
    #[cfg(test)]
    if tests::OLD_KERNEL.get() {
        return false;
    }
    *HAS_OPENAT2
}

/// Opens `name` in `dir`, close-on-exec, following no symlink and crossing no mount.
///
/// `name` is one component. `mode` matters with `O_CREAT` only.
///
/// # Errors
/// `ELOOP` (or `ENOTDIR` with `O_DIRECTORY`) for a symlink, unless `O_PATH` is given; `EXDEV` if something is
/// mounted at `name`; else those of openat(2).
pub fn open_below(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if has_openat2() {
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_XDEV
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS;
        let mut attempts = 0;
        loop {
            match openat2(dir, name, flags, mode, resolve) {
                Err(Errno::INTR) => {}
                // Something was renamed or mounted during the walk, which openat2(2) says to try again.
                Err(Errno::AGAIN) if attempts < MAX_ATTEMPTS => attempts += 1,
                other => return other.map_err(|error| symlink_error(flags, error)),
            }
        }
    }
    let fd = retry(|| openat(dir, name, flags, mode))?;
    if name != c"." && is_mount_root(fd.as_fd())? {
        return Err(Errno::XDEV);
    }
    Ok(fd)
}

/// With `O_DIRECTORY` openat2 says `ELOOP` of a symlink where openat says `ENOTDIR`.
fn symlink_error(flags: OFlags, error: Errno) -> Errno {
    if error == Errno::LOOP && flags.contains(OFlags::DIRECTORY) { Errno::NOTDIR } else { error }
}

/// Whether the object is the root of a mount (false on kernels before 5.8, which do not tell).
fn is_mount_root(fd: BorrowedFd<'_>) -> Result<bool> {
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Opens the object of a descriptor once more, with other access; `O_PATH` descriptors will do.
///
/// # Errors
/// Those of openat(2); `ENOENT` if `/proc` is not mounted; `ELOOP` for a symlink.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
    with_proc_path(fd, b"", |path| {
        retry(|| openat(rustix::fs::CWD, path, flags | OFlags::CLOEXEC, Mode::empty()))
    })
}

/// truncate(2) of the file that `object` refers to, which may be an `O_PATH` descriptor. Unlike ftruncate(2) it leaves
/// the times alone if the length stays. A symlink is not followed: it cannot be truncated.
///
/// # Errors
/// Those of truncate(2); `EINVAL` if `length` is above `i64::MAX`.
pub fn set_len(object: BorrowedFd<'_>, length: u64) -> Result<()> {
    let length = i64::try_from(length).map_err(|_| Errno::INVAL)?;
    with_proc_path(object, b"", |path| {
        // SAFETY: `path` is a live string that ends in zero; the call writes no memory of ours.
        let result = unsafe { libc::truncate64(path.as_ptr(), length) };
        crate::check(result.into()).map(|_| ())
    })
}

/// Sets the permission bits of `name` in `dir`, or of `dir` itself (`O_PATH` will do) if the name is empty.
/// Symlinks are not followed.
///
/// # Errors
/// `EOPNOTSUPP` for a symlink; else those of fchmodat(2).
pub fn set_mode(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { libc::AT_SYMLINK_NOFOLLOW };
    #[cfg(test)]
    if tests::OLD_KERNEL.get() {
        return set_mode_by_proc(dir, name, mode);
    }
    if let Some(number) = nr::FCHMODAT2 {
        // SAFETY: `name` ends with NUL and outlives the call; the rest are numbers.
        let result = unsafe { libc::syscall(number, dir.as_raw_fd(), name.as_ptr(), mode, flags) };
        match check(result) {
            // Before Linux 6.6, or a seccomp filter; a genuine EPERM comes out the same the other way.
            Err(Errno::NOSYS | Errno::PERM) => {}
            other => return other.map(drop),
        }
    }
    set_mode_by_proc(dir, name, mode)
}

/// [`set_mode`] for kernels without fchmodat2(2).
fn set_mode_by_proc(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    let held;
    let object = if name.is_empty() {
        dir
    } else {
        held = open_below(dir, name, OFlags::PATH, Mode::empty())?;
        held.as_fd()
    };
    let kind = statx(object, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?.stx_mode;
    if u32::from(kind) & libc::S_IFMT == libc::S_IFLNK {
        // Some filesystems would change the mode of the symlink, which Linux does not have.
        return Err(Errno::OPNOTSUPP);
    }
    with_proc_path(object, b"", |path| {
        rustix::fs::chmodat(rustix::fs::CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
    })
}

/// Gives the object of a descriptor, which may have no name yet, the name `name` in `dir`.
///
/// # Errors
/// Those of linkat(2); `EPERM` for a directory; `ENOENT` if its last name is gone.
pub fn link_open(object: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match linkat(object, c"", dir, name, AtFlags::EMPTY_PATH) {
        // Without CAP_DAC_READ_SEARCH it works by /proc only (open(2)).
        Err(Errno::NOENT | Errno::PERM) => {}
        other => return other,
    }
    with_proc_path(object, b"", |path| linkat(rustix::fs::CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW))
}

/// Sets the times of `name` in `dir`, or of `dir` itself (`O_PATH` will do) if the name is empty. Symlinks are not
/// followed.
///
/// # Errors
/// Those of utimensat(2).
pub fn set_times(dir: BorrowedFd<'_>, name: &CStr, times: &Timestamps) -> Result<()> {
    if !name.is_empty() {
        return utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW);
    }
    match utimensat(dir, name, times, AtFlags::EMPTY_PATH) {
        // The flag is known since Linux 5.8.
        Err(Errno::INVAL) => {}
        other => return other,
    }
    with_proc_path(dir, b"", |path| utimensat(rustix::fs::CWD, path, times, AtFlags::empty()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{CWD, symlinkat};
    use std::cell::Cell;
    use std::os::unix::fs::PermissionsExt;

    thread_local! {
        /// Makes this thread do without openat2 and fchmodat2.
        pub(super) static OLD_KERNEL: Cell<bool> = const { Cell::new(false) };
    }

    #[test]
    fn old_kernels_give_the_same_answers() {
        let path = std::env::temp_dir().join(format!("acetate-sys-open-{}", std::process::id()));
        std::fs::create_dir_all(path.join("dir")).unwrap();
        std::fs::write(path.join("file"), b"").unwrap();
        symlinkat("dir", CWD, path.join("symlink")).unwrap();
        let dir = openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let dir = dir.as_fd();
        let root = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mode = |name: &str| path.join(name).metadata().unwrap().permissions().mode() & 0o7777;
        for old_kernel in [false, true] {
            OLD_KERNEL.set(old_kernel);
            let open = |name, flags| open_below(dir, name, flags, Mode::empty()).map(drop);
            assert_eq!(open(c"file", OFlags::RDONLY), Ok(()));
            assert_eq!(open(c".", OFlags::RDONLY | OFlags::DIRECTORY), Ok(()));
            assert_eq!(open(c"symlink", OFlags::PATH), Ok(()));
            assert_eq!(open(c"symlink", OFlags::RDONLY), Err(Errno::LOOP));
            assert_eq!(open(c"symlink", OFlags::PATH | OFlags::DIRECTORY), Err(Errno::NOTDIR));
            assert_eq!(open(c"file", OFlags::PATH | OFlags::DIRECTORY), Err(Errno::NOTDIR));
            assert_eq!(open(c"none", OFlags::PATH), Err(Errno::NOENT));
            let proc = open_below(root.as_fd(), c"proc", OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
            assert_eq!(proc.map(drop), Err(Errno::XDEV));
            set_mode(dir, c"file", 0o4641).unwrap();
            set_mode(dir, c"", 0o711).unwrap();
            let held = open_below(dir, c"dir", OFlags::PATH, Mode::empty()).unwrap();
            set_mode(held.as_fd(), c"", 0o1700).unwrap();
            assert_eq!((mode("file"), mode(""), mode("dir")), (0o4641, 0o711, 0o1700));
            assert_eq!(set_mode(dir, c"symlink", 0o777), Err(Errno::OPNOTSUPP));
            assert_eq!(set_mode(dir, c"none", 0o777), Err(Errno::NOENT));
        }
        std::fs::remove_dir_all(path).unwrap();
    }
}
