//! Extended attributes of an object below a directory, following no symlink.
//!
//! Linux 6.13 has calls that take a directory and a name (getxattrat(2)). Before it, and for descriptors that they
//! refuse (`O_PATH`), the object is reached through `/proc/self/fd`.

use crate::proc::with_proc_path;
use crate::{Errno, Result, check, nr};
use rustix::fs::XattrFlags;
use std::cell::RefCell;
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

fn has_at() -> bool {
    #[cfg(test)]
    if tests::OLD_KERNEL.get() {
        return false;
    }
    *HAS_AT
}

/// Runs `at` with a directory and a name if the kernel has such calls, else `file` or `path`.
fn dispatch<T>(
    object: Object<'_>,
    at: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<T>,
    file: impl FnOnce(BorrowedFd<'_>) -> Result<T>,
    path: impl FnOnce(&CStr, Follow) -> Result<T>,
) -> Result<T> {
    match object {
        Object::Name(dir, name) if has_at() => at(dir, name),
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
    if let (Object::Dir(fd), true) = (object, has_at()) {
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
    use rustix::fs::{fgetxattr, fgetxattr_query, getxattr, getxattr_query, lgetxattr, lgetxattr_query};
    let query = value.is_empty();
    by_dot(object, |object| {
        // Only one of the closures runs, but each needs the buffer.
        let value = RefCell::new(&mut *value);
        let file = |fd: BorrowedFd<'_>| match query {
            true => fgetxattr_query(fd, name),
            false => fgetxattr(fd, name, &mut **value.borrow_mut()),
        };
        let path = |path: &CStr, follow| match (follow, query) {
            (Follow::Yes, true) => getxattr_query(path, name),
            (Follow::Yes, false) => getxattr(path, name, &mut **value.borrow_mut()),
            (Follow::No, true) => lgetxattr_query(path, name),
            (Follow::No, false) => lgetxattr(path, name, &mut **value.borrow_mut()),
        };
        dispatch(object, |dir, entry| get_at(dir, entry, name, &mut value.borrow_mut()), file, path)
    })
}

/// Reads the names of all attributes into `names`, each with a NUL behind, and returns their length; with an empty
/// `names` returns the length.
///
/// # Errors
/// `ERANGE` if `names` is too short, `EOPNOTSUPP`; listxattr(2).
pub fn list(object: Object<'_>, names: &mut [u8]) -> Result<usize> {
    use rustix::fs::{
        flistxattr, flistxattr_query, listxattr, listxattr_query, llistxattr, llistxattr_query,
    };
    let query = names.is_empty();
    by_dot(object, |object| {
        let names = RefCell::new(&mut *names);
        let file = |fd: BorrowedFd<'_>| match query {
            true => flistxattr_query(fd),
            false => flistxattr(fd, &mut **names.borrow_mut()),
        };
        let path = |path: &CStr, follow| match (follow, query) {
            (Follow::Yes, true) => listxattr_query(path),
            (Follow::Yes, false) => listxattr(path, &mut **names.borrow_mut()),
            (Follow::No, true) => llistxattr_query(path),
            (Follow::No, false) => llistxattr(path, &mut **names.borrow_mut()),
        };
        dispatch(object, |dir, entry| list_at(dir, entry, &mut names.borrow_mut()), file, path)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags, open, symlinkat};
    use std::cell::Cell;
    use std::os::fd::AsFd;

    thread_local! {
        /// Makes this thread do without the calls of Linux 6.13.
        pub(super) static OLD_KERNEL: Cell<bool> = const { Cell::new(false) };
    }

    fn value(object: Object<'_>, name: &CStr) -> Result<Vec<u8>> {
        let mut value = vec![0; get(object, name, &mut [])?];
        let length = get(object, name, &mut value)?;
        assert_eq!(length, value.len());
        Ok(value)
    }

    #[test]
    fn all_ways_to_an_object_agree() {
        let path = std::env::temp_dir().join(format!("acetate-sys-xattr-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), b"").unwrap();
        symlinkat("file", CWD, path.join("symlink")).unwrap();
        let dir = open(&path, OFlags::PATH, Mode::empty()).unwrap();
        let file = open(path.join("file"), OFlags::RDONLY, Mode::empty()).unwrap();
        let held = open(path.join("file"), OFlags::PATH, Mode::empty()).unwrap();
        let link = open(path.join("symlink"), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
        let long = vec![7; 1000];
        for old_kernel in [false, true] {
            OLD_KERNEL.set(old_kernel);
            for object in [
                Object::Name(dir.as_fd(), c"file"),
                Object::File(file.as_fd()),
                Object::Reference(held.as_fd()),
                Object::Dir(dir.as_fd()),
            ] {
                assert_eq!(value(object, c"user.a"), Err(Errno::NODATA));
                assert_eq!(set(object, c"user.a", b"", XattrFlags::REPLACE), Err(Errno::NODATA));
                set(object, c"user.a", &long, XattrFlags::CREATE).unwrap();
                assert_eq!(value(object, c"user.a"), Ok(long.clone()));
                assert_eq!(get(object, c"user.a", &mut [0; 999]), Err(Errno::RANGE));
                set(object, c"user.b", b"", XattrFlags::empty()).unwrap();
                assert_eq!(value(object, c"user.b"), Ok(vec![]));
                let mut names = vec![0; list(object, &mut []).unwrap()];
                assert_eq!(list(object, &mut names), Ok(names.len()));
                assert_eq!(list(object, &mut vec![0; names.len() - 1]), Err(Errno::RANGE));
                let mut names: Vec<_> =
                    names.split(|&byte| byte == 0).filter(|n| n.starts_with(b"user.")).collect();
                names.sort();
                assert_eq!(names, [b"user.a", b"user.b"]);
                remove(object, c"user.a").unwrap();
                remove(object, c"user.b").unwrap();
                assert_eq!(remove(object, c"user.b"), Err(Errno::NODATA));
            }
            // A symlink has no user attributes (xattr(7)), its target would.
            for object in [Object::Name(dir.as_fd(), c"symlink"), Object::Reference(link.as_fd())] {
                assert_eq!(set(object, c"user.a", b"", XattrFlags::empty()), Err(Errno::PERM));
            }
        }
        std::fs::remove_dir_all(path).unwrap();
    }
}
