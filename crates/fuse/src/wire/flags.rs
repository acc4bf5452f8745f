//! Flags within requests and replies. Those of the handshake are in [`crate::init`].

/// `setattr_in.valid`: which fields hold something.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const FH: u32 = 1 << 6;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// `getattr_in.getattr_flags` and `statx_in.getattr_flags`: the handle field holds one.
pub(crate) const GETATTR_FH: u32 = 1 << 0;
/// `open_in.open_flags`: a truncation takes set-id bits away.
pub(crate) const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `write_in.write_flags`: the write takes set-id bits away.
pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `fsync_in.fsync_flags`: the content only.
pub(crate) const FSYNC_FDATASYNC: u32 = 1 << 0;
/// `setxattr_in.setxattr_flags`: setting the access ACL takes the set-group-id bit away.
pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;

/// `open_out.open_flags`: pages cached earlier stay valid.
pub(crate) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// `open_out.open_flags`: the kernel may keep the listing of the directory.
pub(crate) const FOPEN_CACHE_DIR: u32 = 1 << 3;
/// `open_out.open_flags`: no request at close(2).
pub(crate) const FOPEN_NOFLUSH: u32 = 1 << 5;

/// `open_out.open_flags`: reads, writes and mappings go to the file that `backing_id` names.
pub(crate) const FOPEN_PASSTHROUGH: u32 = 1 << 7;

/// `notify_code`: attributes (and pages) of a node are no longer valid.
pub(crate) const NOTIFY_INVAL_INODE: i32 = 2;
/// `notify_code`: what was read and not answered is to come again.
pub(crate) const NOTIFY_RESEND: i32 = 7;
/// The bit of a request's number that says that it comes again (`FUSE_UNIQUE_RESEND`).
pub(crate) const UNIQUE_RESEND: u64 = 1 << 63;
