//! From a request to the engine's operation and from its result to the reply; one file a group of operations.

#[cfg(test)]
mod arbitrary;
mod attr;
mod dir;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod harness;
mod ioctl;
mod namespace;
mod xattr;

use crate::files::Files;
use crate::init::{Feature, InForce};
use crate::readers::Readers;
use crate::wire::flags::fattr;
use crate::wire::input::{Header, Malformed, Request, decode};
use crate::wire::op::Op;
use crate::wire::output::Reply;
use acetate_layer::UpperLayer;
use acetate_overlay::{Caller, NodeId, OpError, Overlay};
use acetate_sys::Errno;

/// Access mode bits of open(2) flags.
const O_ACCMODE: u32 = 3;
/// `O_TRUNC`
const O_TRUNC: u32 = rustix::fs::OFlags::TRUNC.bits();
/// `O_APPEND`
const O_APPEND: u32 = rustix::fs::OFlags::APPEND.bits();
/// `O_NOATIME`
const O_NOATIME: u32 = rustix::fs::OFlags::NOATIME.bits();

/// What execve(2) opens a program with (`__FMODE_EXEC`, include/linux/fs.h; the bit is free in open(2) flags).
const FMODE_EXEC: u32 = 0x20;

/// Why a request gets no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The engine says so.
    #[error("{0}")]
    Op(#[from] OpError),
    /// It is no request.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The operation is not offered: the kernel does what it does without it, and does not ask again.
    #[error("not offered")]
    NotOffered,
    /// No such ioctl(2).
    #[error("no such ioctl")]
    NoSuchIoctl,
    /// The arguments make no sense.
    #[error("invalid argument")]
    Invalid,
    /// The value is longer than the caller has room.
    #[error("no room for the value")]
    NoRoom,
    /// The answer is longer than the kernel accepts.
    #[error("the answer is too long")]
    TooLong,
    /// The server failed.
    #[error("internal error")]
    Internal,
}

impl Failure {
    /// The errno of the reply; decided nowhere else.
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Op(error) => error.errno(),
            Self::Malformed(Malformed::NotAName) | Self::Invalid => Errno::INVAL,
            Self::Malformed(_) | Self::TooLong | Self::Internal => Errno::IO,
            Self::NotOffered => Errno::NOSYS,
            Self::NoSuchIoctl => Errno::NOTTY,
            Self::NoRoom => Errno::RANGE,
        }
    }
}

/// Whether the kernel waits for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The reply is ready.
    Reply,
    /// It expects none.
    Silence,
}

/// A request that has been understood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// Which node, and who asks.
    header: Header,
    /// What is asked.
    request: Request<'a>,
    /// The kernel can do without requests to open directories.
    opens_dirs_itself: bool,
}

impl<'a> Call<'a> {
    /// Reads the body of a request.
    pub(crate) fn new(header: Header, body: &'a [u8], in_force: &InForce) -> Result<Call<'a>, Failure> {
        let op = Op::from_number(header.opcode).ok_or(Failure::NotOffered)?;
        Ok(Call {
            header,
            request: decode(op, body, in_force.setxattr_form())?,
            opens_dirs_itself: in_force.has(Feature::NoOpenDirSupport),
        })
    }

    /// The node that it is about.
    fn node(&self) -> NodeId {
        NodeId(self.header.node)
    }

    /// Who asks, where no mask applies.
    fn caller(&self) -> Caller {
        self.caller_with(0)
    }

    /// Who asks, and the mask for what they create.
    fn caller_with(&self, umask: u32) -> Caller {
        Caller { uid: self.header.uid, gid: self.header.gid, umask: umask & 0o777 }
    }

    /// Whether the answer may take so long that others should not wait for it: it copies or syncs whole files.
    ///
    /// Other operations may turn out slow too, which the pool finds out by time. To name them here would cost each of
    /// them a wake-up.
    pub(crate) fn may_take_long(&self) -> bool {
        match self.request {
            Request::Open { flags, .. } => flags & (O_ACCMODE | O_TRUNC) != 0 && flags & O_ACCMODE != 3,
            Request::SetAttr(set) => set.valid & fattr::SIZE != 0,
            Request::Fsync { .. }
            | Request::FsyncDir { .. }
            | Request::SyncFs
            | Request::Fallocate { .. }
            | Request::CopyFileRange(_)
            | Request::CopyFileRange64(_) => true,
            _ => false,
        }
    }
}

/// Carries out a request and puts the result into `reply`, which is empty before.
pub(crate) fn dispatch<L: UpperLayer>(
    overlay: &Overlay<L>,
    files: &Files<'_>,
    readers: &Readers,
    call: &Call<'_>,
    reply: &mut Reply,
) -> Result<Answer, Failure> {
    match call.request {
        Request::Forget { count } => {
            overlay.forget(call.node(), count);
            return Ok(Answer::Silence);
        }
        Request::BatchForget(list) => {
            list.iter().for_each(|(node, count)| overlay.forget(NodeId(node), count));
            return Ok(Answer::Silence);
        }
        // The answer to a question that this server never asks.
        Request::NotifyReply => return Ok(Answer::Silence),
        // The handshake is over.
        Request::Init(_) => return Err(Failure::Internal),
        Request::NotOffered => return Err(Failure::NotOffered),
        Request::Destroy => {}
        Request::SyncFs => overlay.sync()?,
        Request::GetAttr { .. } | Request::Statx { .. } | Request::SetAttr(_) | Request::StatFs => {
            attr::answer(overlay, files, call, reply)?;
        }
        Request::Lookup { .. }
        | Request::ReadLink
        | Request::Symlink { .. }
        | Request::MkNod { .. }
        | Request::MkDir { .. }
        | Request::Unlink { .. }
        | Request::RmDir { .. }
        | Request::Rename { .. }
        | Request::Link { .. } => namespace::answer(overlay, files, readers, call, reply)?,
        Request::Open { .. }
        | Request::Create(_)
        | Request::TmpFile(_)
        | Request::Read(_)
        | Request::Write { .. }
        | Request::Release { .. }
        | Request::Fsync { .. }
        | Request::Fallocate { .. }
        | Request::Seek { .. }
        | Request::CopyFileRange(_)
        | Request::CopyFileRange64(_) => file::answer(overlay, files, call, reply)?,
        Request::OpenDir
        | Request::ReadDir(_)
        | Request::ReadDirPlus(_)
        | Request::ReleaseDir
        | Request::FsyncDir { .. } => dir::answer(overlay, files, readers, call, reply)?,
        Request::SetXattr { .. }
        | Request::GetXattr { .. }
        | Request::ListXattr { .. }
        | Request::RemoveXattr { .. } => xattr::answer(overlay, call, reply)?,
        Request::Ioctl(request) => ioctl::answer(overlay, call, &request, reply)?,
    }
    Ok(Answer::Reply)
}
