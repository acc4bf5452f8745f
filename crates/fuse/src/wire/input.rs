//! Requests: from the kernel's bytes to values that borrow from them.

use super::flags::{FSYNC_FDATASYNC, GETATTR_FH, fattr};
use super::op::Op;
use super::take::Rest;

/// Why bytes are not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// It ends before its last field.
    #[error("the request is too short")]
    TooShort,
    /// Its length is not the one it says.
    #[error("the request has another length than it says")]
    Length,
    /// A text has no NUL at its end.
    #[error("a name has no end")]
    NoEnd,
    /// A name is no single path component.
    #[error("a name is not a single component")]
    NotAName,
}

/// `struct fuse_in_header`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Number of the operation.
    pub(crate) opcode: u32,
    /// Names the request in its reply.
    pub(crate) unique: u64,
    /// The node it is about.
    pub(crate) node: u64,
    /// fsuid of the caller.
    pub(crate) uid: u32,
    /// fsgid of the caller.
    pub(crate) gid: u32,
    /// The thread that waits, as this process sees it; 0 if there is none or it cannot be seen.
    pub(crate) thread: u32,
}

impl Header {
    /// Splits a request into its header and its body without extensions.
    pub(crate) fn split(bytes: &[u8]) -> Result<(Header, &[u8]), Malformed> {
        let mut rest = Rest(bytes);
        let length = rest.u32()?;
        let opcode = rest.u32()?;
        let unique = rest.u64()?;
        let node = rest.u64()?;
        let (uid, gid, thread) = (rest.u32()?, rest.u32()?, rest.u32()?);
        let extensions = usize::from(rest.u16()?) * 8;
        rest.skip(2)?;
        if length as usize != bytes.len() {
            return Err(Malformed::Length);
        }
        let header = Header { opcode, unique, node, uid, gid, thread };
        let body = rest.0.len().checked_sub(extensions).ok_or(Malformed::TooShort)?;
        Ok((header, &rest.0[..body]))
    }
}

/// What the handshake has settled about the layout of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetXattrForm {
    /// The first eight bytes of `struct fuse_setxattr_in`.
    Short,
    /// All of it (FUSE_SETXATTR_EXT).
    Extended,
}

/// `struct fuse_setattr_in` as far as it is used; which fields hold something is in `valid` ([`fattr`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetAttrIn {
    pub(crate) valid: u32,
    pub(crate) handle: Option<u64>,
    pub(crate) size: u64,
    pub(crate) atime: (i64, u32),
    pub(crate) mtime: (i64, u32),
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// `struct fuse_create_in`, and the name behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CreateIn<'a> {
    pub(crate) name: &'a [u8],
    /// Flags of open(2).
    pub(crate) flags: u32,
    pub(crate) mode: u32,
    pub(crate) umask: u32,
    /// [`OPEN_KILL_SUIDGID`](super::flags::OPEN_KILL_SUIDGID)
    pub(crate) open_flags: u32,
}

/// `struct fuse_read_in`, for files and directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadIn {
    pub(crate) handle: u64,
    pub(crate) offset: u64,
    pub(crate) size: u32,
}

/// `struct fuse_copy_file_range_in`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopyIn {
    pub(crate) from: (u64, u64),
    pub(crate) to: (u64, u64),
    pub(crate) len: u64,
    pub(crate) flags: u64,
}

/// `struct fuse_ioctl_in`, and the data behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IoctlIn<'a> {
    pub(crate) command: u32,
    pub(crate) data: &'a [u8],
    /// The longest result in bytes.
    pub(crate) out_size: u32,
}

/// `struct fuse_init_in` as far as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InitIn {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    /// Both words of flags, the second one in the upper half.
    pub(crate) flags: u64,
}

/// The entries of a FUSE_BATCH_FORGET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForgetList<'a>(&'a [u8]);

/// Length of `struct fuse_forget_one` in bytes.
const FORGET_ONE: usize = 16;

impl ForgetList<'_> {
    /// The nodes, and how many references of each are given back.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let (entries, _) = self.0.as_chunks::<FORGET_ONE>();
        entries.iter().map(|entry| {
            let mut rest = Rest(entry);
            // An entry is as long as its two fields.
            (rest.u64().unwrap_or_default(), rest.u64().unwrap_or_default())
        })
    }
}

/// The body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Init(InitIn),
    Lookup {
        name: &'a [u8],
    },
    Forget {
        count: u64,
    },
    BatchForget(ForgetList<'a>),
    GetAttr {
        handle: Option<u64>,
    },
    Statx {
        handle: Option<u64>,
    },
    SetAttr(SetAttrIn),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MkNod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
        umask: u32,
    },
    MkDir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    RmDir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Link {
        node: u64,
        name: &'a [u8],
    },
    Open {
        flags: u32,
        open_flags: u32,
    },
    Create(CreateIn<'a>),
    TmpFile(CreateIn<'a>),
    Read(ReadIn),
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
        write_flags: u32,
    },
    Release {
        handle: u64,
        /// Flags of open(2), as the file was opened.
        flags: u32,
    },
    Fsync {
        handle: u64,
        data_only: bool,
    },
    FsyncDir {
        data_only: bool,
    },
    OpenDir,
    ReadDir(ReadIn),
    ReadDirPlus(ReadIn),
    ReleaseDir,
    StatFs,
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
        setxattr_flags: u32,
    },
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    Fallocate {
        handle: u64,
        offset: u64,
        len: u64,
        mode: u32,
    },
    Seek {
        handle: u64,
        offset: u64,
        whence: u32,
    },
    CopyFileRange(CopyIn),
    CopyFileRange64(CopyIn),
    Ioctl(IoctlIn<'a>),
    SyncFs,
    Destroy,
    NotifyReply,
    /// An operation that is not offered, so that the kernel does what it does without it.
    NotOffered,
}

/// Reads the body of a request.
pub(crate) fn decode(op: Op, body: &[u8], form: SetXattrForm) -> Result<Request<'_>, Malformed> {
    let rest = Rest(body);
    match op {
        Op::Init => init(rest),
        Op::Lookup | Op::Unlink | Op::RmDir | Op::Symlink | Op::MkNod | Op::MkDir | Op::Link => {
            name(op, rest)
        }
        Op::Rename | Op::Rename2 => rename(op, rest),
        Op::Forget | Op::BatchForget => forget(op, rest),
        Op::GetAttr | Op::Statx | Op::SetAttr => attr(op, rest),
        Op::Open | Op::Create | Op::TmpFile => open(op, rest),
        Op::Read | Op::ReadDir | Op::ReadDirPlus => read(op, rest),
        Op::Write => write(rest),
        Op::Release | Op::ReleaseDir | Op::Fsync | Op::FsyncDir => handle(op, rest),
        Op::Fallocate | Op::Seek | Op::CopyFileRange | Op::CopyFileRange64 => range(op, rest),
        Op::SetXattr => set_xattr(rest, form),
        Op::GetXattr | Op::ListXattr | Op::RemoveXattr => xattr(op, rest),
        Op::Ioctl => ioctl(rest),
        Op::ReadLink => Ok(Request::ReadLink),
        Op::OpenDir => Ok(Request::OpenDir),
        Op::StatFs => Ok(Request::StatFs),
        Op::SyncFs => Ok(Request::SyncFs),
        Op::Destroy => Ok(Request::Destroy),
        Op::NotifyReply => Ok(Request::NotifyReply),
        Op::Flush | Op::Access | Op::Interrupt | Op::Bmap | Op::Poll => Ok(Request::NotOffered),
    }
}

fn init(mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    let (major, minor) = (rest.u32()?, rest.u32()?);
    let (max_readahead, low) = (rest.u32()?, rest.u32()?);
    // The second word came with protocol 7.36; it is there if the first one says so.
    let high = if low & crate::init::INIT_EXT != 0 { rest.u32()? } else { 0 };
    let flags = u64::from(high) << 32 | u64::from(low);
    Ok(Request::Init(InitIn { major, minor, max_readahead, flags }))
}

fn name(op: Op, mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    Ok(match op {
        Op::Unlink => Request::Unlink { name: rest.name()? },
        Op::RmDir => Request::RmDir { name: rest.name()? },
        Op::Symlink => {
            let name = rest.name()?;
            Request::Symlink { name, target: rest.text()? }
        }
        Op::MkNod => {
            let (mode, rdev, umask) = (rest.u32()?, rest.u32()?, rest.u32()?);
            rest.skip(4)?;
            Request::MkNod { name: rest.name()?, mode, rdev, umask }
        }
        Op::MkDir => {
            let (mode, umask) = (rest.u32()?, rest.u32()?);
            Request::MkDir { name: rest.name()?, mode, umask }
        }
        Op::Link => {
            let node = rest.u64()?;
            Request::Link { node, name: rest.name()? }
        }
        _ => Request::Lookup { name: rest.name()? },
    })
}

fn rename(op: Op, mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    let new_parent = rest.u64()?;
    let flags = if op == Op::Rename2 { rest.u32()? } else { 0 };
    if op == Op::Rename2 {
        rest.skip(4)?;
    }
    let name = rest.name()?;
    Ok(Request::Rename { name, new_parent, new_name: rest.name()?, flags })
}

fn forget(op: Op, mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    if op == Op::Forget {
        return Ok(Request::Forget { count: rest.u64()? });
    }
    let count = rest.u32()? as usize;
    rest.skip(4)?;
    let length = count.checked_mul(FORGET_ONE).ok_or(Malformed::TooShort)?;
    Ok(Request::BatchForget(ForgetList(rest.bytes(length)?)))
}

fn attr(op: Op, mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    if op != Op::SetAttr {
        // Both structures begin alike.
        let flags = rest.u32()?;
        rest.skip(4)?;
        let handle = rest.u64()?;
        let handle = (flags & GETATTR_FH != 0).then_some(handle);
        return Ok(if op == Op::Statx { Request::Statx { handle } } else { Request::GetAttr { handle } });
    }
    let valid = rest.u32()?;
    rest.skip(4)?;
    let (handle, size, _lock_owner) = (rest.u64()?, rest.u64()?, rest.u64()?);
    let (atime, mtime, _ctime) = (rest.u64()?, rest.u64()?, rest.u64()?);
    let (atime_nsec, mtime_nsec, _ctime_nsec) = (rest.u32()?, rest.u32()?, rest.u32()?);
    let mode = rest.u32()?;
    rest.skip(4)?;
    let (uid, gid) = (rest.u32()?, rest.u32()?);
    rest.skip(4)?;
    Ok(Request::SetAttr(SetAttrIn {
        valid,
        handle: (valid & fattr::FH != 0).then_some(handle),
        size,
        // Seconds before 1970 travel as they are in memory.
        atime: (atime.cast_signed(), atime_nsec),
        mtime: (mtime.cast_signed(), mtime_nsec),
        mode,
        uid,
        gid,
    }))
}

fn open(op: Op, mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    let flags = rest.u32()?;
    if op == Op::Open {
        return Ok(Request::Open { flags, open_flags: rest.u32()? });
    }
    let (mode, umask, open_flags) = (rest.u32()?, rest.u32()?, rest.u32()?);
    // The name of an unnamed file is what the kernel calls it in /proc; nobody looks it up.
    let name = if op == Op::Create { rest.name()? } else { b"" };
    let create = CreateIn { name, flags, mode, umask, open_flags };
    Ok(if op == Op::Create { Request::Create(create) } else { Request::TmpFile(create) })
}

fn read(op: Op, mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    let read = ReadIn { handle: rest.u64()?, offset: rest.u64()?, size: rest.u32()? };
    rest.skip(20)?;
    Ok(match op {
        Op::ReadDir => Request::ReadDir(read),
        Op::ReadDirPlus => Request::ReadDirPlus(read),
        _ => Request::Read(read),
    })
}

fn write(mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    let (handle, offset, size, write_flags) = (rest.u64()?, rest.u64()?, rest.u32()?, rest.u32()?);
    rest.skip(16)?;
    Ok(Request::Write { handle, offset, data: rest.bytes(size as usize)?, write_flags })
}

fn handle(op: Op, mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    let handle = rest.u64()?;
    let flags = rest.u32()?;
    let data_only = flags & FSYNC_FDATASYNC != 0;
    Ok(match op {
        Op::Fsync => Request::Fsync { handle, data_only },
        Op::FsyncDir => Request::FsyncDir { data_only },
        Op::ReleaseDir => Request::ReleaseDir,
        _ => Request::Release { handle, flags },
    })
}

fn range(op: Op, mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    let (handle, offset) = (rest.u64()?, rest.u64()?);
    match op {
        Op::Seek => return Ok(Request::Seek { handle, offset, whence: rest.u32()? }),
        Op::Fallocate => {
            return Ok(Request::Fallocate { handle, offset, len: rest.u64()?, mode: rest.u32()? });
        }
        _ => {}
    }
    let _node_out = rest.u64()?;
    let to = (rest.u64()?, rest.u64()?);
    let copy = CopyIn { from: (handle, offset), to, len: rest.u64()?, flags: rest.u64()? };
    Ok(if op == Op::CopyFileRange64 { Request::CopyFileRange64(copy) } else { Request::CopyFileRange(copy) })
}

fn set_xattr(mut rest: Rest<'_>, form: SetXattrForm) -> Result<Request<'_>, Malformed> {
    let (size, flags) = (rest.u32()?, rest.u32()?);
    let setxattr_flags = match form {
        SetXattrForm::Short => 0,
        SetXattrForm::Extended => {
            let flags = rest.u32()?;
            rest.skip(4)?;
            flags
        }
    };
    let name = rest.text()?;
    Ok(Request::SetXattr { name, value: rest.bytes(size as usize)?, flags, setxattr_flags })
}

fn xattr(op: Op, mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    if op == Op::RemoveXattr {
        return Ok(Request::RemoveXattr { name: rest.text()? });
    }
    let size = rest.u32()?;
    rest.skip(4)?;
    Ok(if op == Op::GetXattr {
        Request::GetXattr { name: rest.text()?, size }
    } else {
        Request::ListXattr { size }
    })
}

fn ioctl(mut rest: Rest<'_>) -> Result<Request<'_>, Malformed> {
    let (_handle, _flags, command) = (rest.u64()?, rest.u32()?, rest.u32()?);
    let (_argument, in_size, out_size) = (rest.u64()?, rest.u32()?, rest.u32()?);
    Ok(Request::Ioctl(IoctlIn { command, data: rest.bytes(in_size as usize)?, out_size }))
}
