//! Which system calls change something, and which only look.

use super::Kind;

/// `FS_IOC_SETFLAGS`, `FS_IOC_FSSETXATTR`, `FICLONE` and `FICLONERANGE`.
const CHANGING_IOCTLS: [u64; 4] = [0x4008_6602, 0x401c_5820, 0x4004_9409, 0x4020_940d];
/// `O_CREAT`, and the bit that tells `O_TMPFILE` from `O_DIRECTORY`.
const CREATING: u64 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64;

/// Calls that change, by number and name. The newest are not in the libc crate.
const CHANGES: &[(i64, &str)] = &[
    (libc::SYS_rename, "rename"),
    (libc::SYS_renameat, "renameat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_link, "link"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_rmdir, "rmdir"),
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_mknodat, "mknodat"),
    (libc::SYS_symlink, "symlink"),
    (libc::SYS_symlinkat, "symlinkat"),
    (libc::SYS_chmod, "chmod"),
    (libc::SYS_fchmod, "fchmod"),
    (libc::SYS_fchmodat, "fchmodat"),
    (452, "fchmodat2"),
    (libc::SYS_fchown, "fchown"),
    (libc::SYS_fchownat, "fchownat"),
    (libc::SYS_utimensat, "utimensat"),
    (libc::SYS_setxattr, "setxattr"),
    (libc::SYS_lsetxattr, "lsetxattr"),
    (libc::SYS_fsetxattr, "fsetxattr"),
    (463, "setxattrat"),
    (libc::SYS_removexattr, "removexattr"),
    (libc::SYS_lremovexattr, "lremovexattr"),
    (libc::SYS_fremovexattr, "fremovexattr"),
    (466, "removexattrat"),
    (libc::SYS_truncate, "truncate"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_fallocate, "fallocate"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_pwritev, "pwritev"),
    (libc::SYS_copy_file_range, "copy_file_range"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_syncfs, "syncfs"),
    (libc::SYS_sync_file_range, "sync_file_range"),
];

/// Calls that look, and may fail.
const LOOKS: &[(i64, &str)] = &[
    (libc::SYS_statx, "statx"),
    (libc::SYS_fstat, "fstat"),
    (libc::SYS_newfstatat, "newfstatat"),
    (libc::SYS_fstatfs, "fstatfs"),
    (libc::SYS_getxattr, "getxattr"),
    (libc::SYS_lgetxattr, "lgetxattr"),
    (libc::SYS_fgetxattr, "fgetxattr"),
    (464, "getxattrat"),
    (libc::SYS_listxattr, "listxattr"),
    (libc::SYS_llistxattr, "llistxattr"),
    (libc::SYS_flistxattr, "flistxattr"),
    (465, "listxattrat"),
    (libc::SYS_readlinkat, "readlinkat"),
    (libc::SYS_getdents64, "getdents64"),
    (libc::SYS_lseek, "lseek"),
    (libc::SYS_pread64, "pread64"),
    (libc::SYS_name_to_handle_at, "name_to_handle_at"),
    (libc::SYS_open_by_handle_at, "open_by_handle_at"),
];

/// What a call is about to do, and its name; `None` for calls that files have nothing to do with. `word` reads a word of
/// the program's memory, `to_device` says whether a descriptor is one of a FUSE device.
pub(super) fn classify(
    number: i64,
    args: [u64; 3],
    word: impl Fn(u64) -> Option<u64>,
    to_device: impl Fn(u64) -> bool,
) -> Option<(Kind, &'static str)> {
    let named =
        |list: &[(i64, &'static str)]| list.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    if let Some(name) = named(CHANGES) {
        return Some((Kind::Change, name));
    }
    if let Some(name) = named(LOOKS) {
        return Some((Kind::Look, name));
    }
    let opened =
        |flags: u64, name| Some((if flags & CREATING == 0 { Kind::Look } else { Kind::Change }, name));
    match number {
        libc::SYS_openat => opened(args[2], "openat"),
        // The flags come first in `struct open_how`.
        libc::SYS_openat2 => opened(word(args[2]).unwrap_or(0), "openat2"),
        libc::SYS_ioctl if CHANGING_IOCTLS.contains(&args[1]) => Some((Kind::Change, "ioctl")),
        libc::SYS_ioctl => Some((Kind::Look, "ioctl")),
        libc::SYS_write | libc::SYS_writev if to_device(args[0]) => Some((Kind::Answer, "write")),
        _ => None,
    }
}
