//! Writing the pages of a file to its disk without waiting for the journal.

use crate::{Result, check, retry};
use rustix::fs::{AtFlags, StatxFlags, fstatfs, statx};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// `f_type` of ext4, and of ext2 and ext3, which its driver serves too (`EXT4_SUPER_MAGIC`).
const EXT4_MAGIC: i64 = 0xef53;
/// `f_type` of xfs (`XFS_SUPER_MAGIC`).
const XFS_MAGIC: i64 = 0x5846_5342;
/// `f_type` of tmpfs (`TMPFS_MAGIC`), of which nothing survives.
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// The inode of a journal within its filesystem (`EXT4_JOURNAL_INO`).
const EXT4_JOURNAL_INODE: u32 = 8;

/// Writes all changed pages of the file and waits until the disk has them. Unlike fdatasync(2) neither the disk's cache
/// is flushed nor the journal written.
///
/// # Errors
/// Those of sync_file_range(2): `EIO`, `ENOSPC`, ...
pub fn write_pages(fd: BorrowedFd<'_>) -> Result<()> {
    let all =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    retry(|| {
        // SAFETY: a descriptor that is open and numbers; a length of zero means up to the end.
        let result = unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, all) };
        check(result.into()).map(drop)
    })
}

/// Waits for pages of an open file that are being written just now; starts no writing. So it tells at no great cost
/// whether writing in the background has failed since the file was opened.
///
/// # Errors
/// `EIO` or `ENOSPC`, once for each descriptor (sync_file_range(2)).
pub fn failed_writes(fd: BorrowedFd<'_>) -> Result<()> {
    retry(|| {
        // SAFETY: a descriptor that is open and numbers; a length of zero means up to the end.
        let result =
            unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WAIT_BEFORE) };
        check(result.into()).map(drop)
    })
}

/// Whether the filesystem of `fd` orders what comes after [`write_pages`] behind it: whatever is done to a file then,
/// such as giving it a name, survives a crash only together with those pages and the file's length.
///
/// True of ext4 with a journal within the filesystem. The end of a page's writing includes the change of its extent
/// from unwritten to written and of the file's length, in the running transaction (`ext4_end_io_end`,
/// `mpage_map_and_submit_extent`); the name goes into the same transaction or a later one; and the commit record of a
/// transaction is written behind a flush of the disk's cache (`jbd2_journal_commit_transaction`). Not with
/// `journal_async_commit`, which gives up the latter. Of other filesystems it is not known here. Source: Linux 6.18.
///
/// # Errors
/// Those of fstatfs(2) and statx(2). What `/proc` and `/sys` do not tell counts as no.
pub fn orders_names_behind_pages(fd: BorrowedFd<'_>) -> Result<bool> {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    if fstatfs(fd)?.f_type as i64 != EXT4_MAGIC {
        return Ok(false);
    }
    let stat = statx(fd.as_fd(), c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    let device = format!("/sys/dev/block/{}:{}", stat.stx_dev_major, stat.stx_dev_minor);
    let Ok(device) = std::fs::read_link(device) else { return Ok(false) };
    let Some(name) = device.file_name().and_then(|name| name.to_str()) else { return Ok(false) };
    // A journal on a device of its own has that device's name here: its commits flush the other disk at most.
    let journal = format!("/proc/fs/jbd2/{name}-{EXT4_JOURNAL_INODE}");
    let Ok(options) = std::fs::read_to_string(format!("/proc/fs/ext4/{name}/options")) else {
        return Ok(false);
    };
    Ok(Path::new(&journal).exists() && !options.lines().any(|option| option == "journal_async_commit"))
}

/// Whether changes of the filesystem of `fd` that are none of data survive a crash in the order in which they were made: a
/// name only together with the length of its file. True of xfs, whose transactions are ordered, as of all that
/// [`orders_names_behind_pages`] is true of, which is not asked here. Not of btrfs: syncing a directory there logs the inodes of new names with a length of zero unless they were synced
/// themselves (`LOG_INODE_EXISTS`, fs/btrfs/tree-log.c). Of other filesystems it is not known here. Source: Linux 6.18.
///
/// # Errors
/// Those of fstatfs(2).
pub fn orders_lengths(fd: BorrowedFd<'_>) -> Result<bool> {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    let kind = fstatfs(fd)?.f_type as i64;
    Ok(matches!(kind, XFS_MAGIC | TMPFS_MAGIC))
}
