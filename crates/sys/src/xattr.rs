//! Extended attributes of an object below a directory, following no symlink.
//!
//! Linux 6.13 has calls that take a directory and a name (getxattrat(2)). Before it, and for descriptors that they
//! refuse (`O_PATH`), the object is reached through `/proc/self/fd`.

use crate::proc::with_proc_path;
use crate::{Errno, Result, check, nr};
use rustix::fs::XattrFlags;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::LazyLock;

/// What has the attribute.
#[derive(Clone, Copy, Debug)]
pub enum Object<'a> {
    /// The entry of that name in a directory (`O_PATH` will do).
    Name(BorrowedFd<'a>, &'a CStr),
    /// A directory itself (`O_PATH` will do).
    Dir(BorrowedFd<'a>),
    /// An open file, for reading or writing.
    File(BorrowedFd<'a>),
    /// The object of an `O_PATH` descriptor.
    Reference(BorrowedFd<'a>),
}

/// `struct xattr_args`
#[repr(C, align(8))]
struct Args {
    value: u64,
    size: u32,
    flags: u32,
}

/// Whether the kernel has the `*xattrat` calls and lets us use them. Asked once, of `/`: an `EPERM` of a seccomp
/// filter could not be told from one of the file otherwise.
static HAS_AT: LazyLock<bool> = LazyLock::new(|| {
    let Some(number) = nr::LISTXATTRAT else { return false };
    let null = std::ptr::null_mut::<u8>();
    // SAFETY: a path that ends with NUL, and no room for a result, which asks for its size.
    let result = unsafe { libc::syscall(number, libc::AT_FDCWD, c"/".as_ptr(), 0, null, 0) };
    !matches!(check(result), Err(Errno::NOSYS | Errno::PERM))
});

/// Runs `at` with a directory and a name if the kernel has such calls, else `file` or `path`.
fn dispatch<T>(
    object: Object<'_>,
    at: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<T>,
    file: impl FnOnce(BorrowedFd<'_>) -> Result<T>,
    path: impl FnOnce(&CStr, Follow) -> Result<T>,
) -> Result<T> {
    match object {
        Object::Name(dir, name) if *HAS_AT => at(dir, name),
        Object::Name(dir, name) => with_proc_path(dir, name.to_bytes(), |p| path(p, Follow::No)),
        Object::File(fd) => file(fd),
        // The last component is a magic link, which leads to the object itself, even if that is a symlink.
        Object::Dir(fd) | Object::Reference(fd) => with_proc_path(fd, b"", |p| path(p, Follow::Yes)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    Yes,
    No,
}

/// Asks the same of a directory by its entry `.` where that is possible, which is cheaper than by `/proc`; that
/// needs search permission on it, so `EACCES` has to be asked again the other way.
fn by_dot<T>(object: Object<'_>, mut ask: impl FnMut(Object<'_>) -> Result<T>) -> Result<T> {
    if let (Object::Dir(fd), true) = (object, *HAS_AT) {
        match ask(Object::Name(fd, c".")) {
            Err(Errno::ACCESS) => {}
            other => return other,
        }
    }
    ask(object)
}

/// Reads the value of an attribute into `value` and returns its length; with an empty `value` returns the length.
///
/// # Errors
/// `ENODATA` if there is none of that name, `ERANGE` if `value` is too short, `EOPNOTSUPP`; getxattr(2).
pub fn get(object: Object<'_>, name: &CStr, value: &mut [u8]) -> Result<usize> {
    by_dot(object, |object| {
        // Only one of the closures runs, but each needs the buffer.
        let value = std::cell::RefCell::new(&mut *value);
        dispatch(
            object,
            |dir, entry| get_at(dir, entry, name, &mut value.borrow_mut()),
            |fd| rustix::fs::fgetxattr(fd, name, &mut **value.borrow_mut()),
            |path, follow| match follow {
                Follow::Yes => rustix::fs::getxattr(path, name, &mut **value.borrow_mut()),
                Follow::No => rustix::fs::lgetxattr(path, name, &mut **value.borrow_mut()),
            },
        )
    })
}

/// Reads the names of all attributes into `names`, each with a NUL behind, and returns their length; with an empty
/// `names` returns the length.
///
/// # Errors
/// `ERANGE` if `names` is too short, `EOPNOTSUPP`; listxattr(2).
pub fn list(object: Object<'_>, names: &mut [u8]) -> Result<usize> {
    by_dot(object, |object| {
        let names = std::cell::RefCell::new(&mut *names);
        dispatch(
            object,
            |dir, entry| list_at(dir, entry, &mut names.borrow_mut()),
            |fd| rustix::fs::flistxattr(fd, &mut **names.borrow_mut()),
            |path, follow| match follow {
                Follow::Yes => rustix::fs::listxattr(path, &mut **names.borrow_mut()),
                Follow::No => rustix::fs::llistxattr(path, &mut **names.borrow_mut()),
            },
        )
    })
}

/// Sets an attribute.
///
/// # Errors
/// `EEXIST` and `ENODATA` as `flags` ask for, `EOPNOTSUPP`, `EPERM`, `ENOSPC`; setxattr(2).
pub fn set(object: Object<'_>, name: &CStr, value: &[u8], flags: XattrFlags) -> Result<()> {
    by_dot(object, |object| {
        dispatch(
            object,
            |dir, entry| set_at(dir, entry, name, value, flags),
            |fd| rustix::fs::fsetxattr(fd, name, value, flags),
            |path, follow| match follow {
                Follow::Yes => rustix::fs::setxattr(path, name, value, flags),
                Follow::No => rustix::fs::lsetxattr(path, name, value, flags),
            },
        )
    })
}

/// Removes an attribute.
///
/// # Errors
/// `ENODATA` if there is none of that name, `EOPNOTSUPP`, `EPERM`; removexattr(2).
pub fn remove(object: Object<'_>, name: &CStr) -> Result<()> {
    by_dot(object, |object| {
        dispatch(
            object,
            |dir, entry| remove_at(dir, entry, name),
            |fd| rustix::fs::fremovexattr(fd, name),
            |path, follow| match follow {
                Follow::Yes => rustix::fs::removexattr(path, name),
                Follow::No => rustix::fs::lremovexattr(path, name),
            },
        )
    })
}

fn get_at(dir: BorrowedFd<'_>, entry: &CStr, name: &CStr, value: &mut [u8]) -> Result<usize> {
    let number = nr::GETXATTRAT.ok_or(Errno::NOSYS)?;
    let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let mut args = Args { value: value.as_mut_ptr().expose_provenance() as u64, size, flags: 0 };
    // SAFETY: both names end with NUL; `args` has the layout and size of the kernel's struct and describes `value`,
    // which is borrowed for writing until the call returns.
    let result = unsafe {
        libc::syscall(
            number,
            dir.as_raw_fd(),
            entry.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            name.as_ptr(),
            &raw mut args,
            size_of::<Args>(),
        )
    };
    Ok(check(result)? as usize)
}

fn list_at(dir: BorrowedFd<'_>, entry: &CStr, names: &mut [u8]) -> Result<usize> {
    let number = nr::LISTXATTRAT.ok_or(Errno::NOSYS)?;
    // SAFETY: the name ends with NUL; `names` is writable for its length until the call returns.
    let result = unsafe {
        libc::syscall(
            number,
            dir.as_raw_fd(),
            entry.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            names.as_mut_ptr(),
            names.len(),
        )
    };
    Ok(check(result)? as usize)
}

fn set_at(dir: BorrowedFd<'_>, entry: &CStr, name: &CStr, value: &[u8], flags: XattrFlags) -> Result<()> {
    let number = nr::SETXATTRAT.ok_or(Errno::NOSYS)?;
    let size = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    let args = Args { value: value.as_ptr().expose_provenance() as u64, size, flags: flags.bits() };
    // SAFETY: both names end with NUL; `args` has the layout and size of the kernel's struct and describes `value`,
    // which the kernel only reads before the call returns.
    let result = unsafe {
        libc::syscall(
            number,
            dir.as_raw_fd(),
            entry.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            name.as_ptr(),
            &raw const args,
            size_of::<Args>(),
        )
    };
    check(result).map(drop)
}

fn remove_at(dir: BorrowedFd<'_>, entry: &CStr, name: &CStr) -> Result<()> {
    let number = nr::REMOVEXATTRAT.ok_or(Errno::NOSYS)?;
    // SAFETY: both names end with NUL and outlive the call.
    let result = unsafe {
        libc::syscall(number, dir.as_raw_fd(), entry.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, name.as_ptr())
    };
    check(result).map(drop)
}
