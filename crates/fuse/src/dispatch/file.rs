//! Open files and their content.

use super::{Call, FMODE_EXEC, Failure, O_ACCMODE, O_APPEND, O_NOATIME, O_TRUNC};
use crate::files::{Files, Io, Opened};
use crate::wire::flags::{
    FOPEN_KEEP_CACHE, FOPEN_NOFLUSH, FOPEN_PASSTHROUGH, OPEN_KILL_SUIDGID, WRITE_KILL_SUIDGID,
};
use crate::wire::input::{CopyIn, CreateIn, Request};
use crate::wire::output::Reply;
use acetate_layer::{Access, Seek, UpperLayer};
use acetate_overlay::{Entry, HandleId, OpenFlags, Overlay};

/// How the kernel treats an open file: pages change through this mount only, and closing one of several descriptors
/// does nothing.
const FILE_FLAGS: u32 = FOPEN_KEEP_CACHE | FOPEN_NOFLUSH;
/// The handle of files that the kernel has opened by itself; the engine's begin with 1.
const UNOPENED: u64 = 0;
/// The most bytes that copy_file_range(2) can report in the 32 bits of its first form, in whole pages.
const MAX_COPY: u64 = 0xffff_f000;
/// `SEEK_DATA`
const SEEK_DATA: u32 = 3;
/// `SEEK_HOLE`
const SEEK_HOLE: u32 = 4;

pub(super) fn answer<L: UpperLayer>(
    overlay: &Overlay<L>,
    files: &Files<'_>,
    call: &Call<'_>,
    reply: &mut Reply,
) -> Result<(), Failure> {
    if opened_before(overlay, files, call, reply)? {
        return Ok(());
    }
    match call.request {
        // From then on the kernel opens and closes files by itself.
        Request::Open { .. } if files.end_opens() => return Err(Failure::NotOffered),
        Request::Open { flags, open_flags } => {
            let flags = how(flags, open_flags, call.header.gid);
            let handle = overlay.open(call.node(), flags)?;
            let (io, _) = files.opened(overlay, call.node(), handle, flags.access, Opened::Existing);
            files.count(overlay, call.node(), io);
            put_open(reply, handle, io);
        }
        Request::Create(create) => {
            let CreateIn { name, mode, flags, open_flags, .. } = create;
            let caller = call.caller_with(create.umask);
            let flags = how(flags, open_flags, call.header.gid);
            let created = overlay.create(call.node(), name, mode & 0o7777, flags, &caller)?;
            put_created(overlay, files, reply, &created, flags.access);
        }
        Request::TmpFile(create) => {
            let CreateIn { mode, flags, open_flags, .. } = create;
            let caller = call.caller_with(create.umask);
            let flags = how(flags, open_flags, call.header.gid);
            let created = overlay.tmpfile(call.node(), mode & 0o7777, flags, &caller)?;
            put_created(overlay, files, reply, &created, flags.access);
        }
        Request::Read(read) => reply.fill(read.size as usize, |buffer| match read.handle {
            UNOPENED => overlay.read_unopened(call.node(), read.offset, buffer),
            handle => overlay.read(HandleId(handle), read.offset, buffer),
        })?,
        Request::Write { handle, offset, data, write_flags } => {
            let kill_set_ids = (write_flags & WRITE_KILL_SUIDGID != 0).then_some(call.header.gid);
            let wrote = overlay.write(HandleId(handle), offset, data, kill_set_ids)?;
            reply.size_out(wrote as u32);
        }
        Request::Release { handle, flags } => {
            if overlay.release(HandleId(handle)) {
                files.released(call.node(), access(flags));
            }
        }
        // Nothing was written.
        Request::Fsync { handle: UNOPENED, .. } => {}
        Request::Fsync { handle, data_only } => overlay.fsync(HandleId(handle), data_only)?,
        Request::Fallocate { handle, offset, len, mode } => {
            overlay.fallocate(HandleId(handle), mode, offset, len)?;
        }
        Request::Seek { handle, offset, whence } => {
            // The kernel finds the other places itself.
            let what = match whence {
                SEEK_DATA => Seek::Data,
                SEEK_HOLE => Seek::Hole,
                _ => return Err(Failure::Invalid),
            };
            reply.u64(match handle {
                UNOPENED => overlay.lseek_unopened(call.node(), offset, what)?,
                handle => overlay.lseek(HandleId(handle), offset, what)?,
            });
        }
        Request::CopyFileRange(copy) => {
            let copied = copy_range(overlay, &CopyIn { len: copy.len.min(MAX_COPY), ..copy })?;
            reply.size_out(copied as u32);
        }
        Request::CopyFileRange64(copy) => reply.u64(copy_range(overlay, &copy)?),
        _ => return Err(Failure::Internal),
    }
    Ok(())
}

/// Answers with what an earlier server has opened for the same request, if it got that far.
fn opened_before<L: UpperLayer>(
    overlay: &Overlay<L>,
    files: &Files<'_>,
    call: &Call<'_>,
    reply: &mut Reply,
) -> Result<bool, Failure> {
    let creates = match call.request {
        Request::Open { .. } => false,
        Request::Create(_) | Request::TmpFile(_) => true,
        _ => return Ok(false),
    };
    let Some((before, io)) = files.before(overlay) else {
        return Ok(false);
    };
    if creates {
        reply.entry_out(&overlay.entry(before.node)?, files.valid(before.node));
    }
    put_open(reply, before.handle, io);
    Ok(true)
}

fn put_created<L: UpperLayer>(
    overlay: &Overlay<L>,
    files: &Files<'_>,
    reply: &mut Reply,
    (entry, handle): &(Entry, HandleId),
    access: Access,
) {
    let (io, valid) = files.opened(overlay, entry.node, *handle, access, Opened::New);
    reply.entry_out(entry, valid);
    put_open(reply, *handle, io);
}

fn put_open(reply: &mut Reply, handle: HandleId, io: Io) {
    match io {
        Io::Cached => reply.open_out(handle.0, FILE_FLAGS, 0),
        // Without FOPEN_KEEP_CACHE: pages from before are of no use any more once the file is written to.
        Io::Direct(backing) => reply.open_out(handle.0, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, backing),
    }
}

fn copy_range<L: UpperLayer>(overlay: &Overlay<L>, copy: &CopyIn) -> Result<u64, Failure> {
    // There are no flags yet (copy_file_range(2)).
    if copy.flags != 0 {
        return Err(Failure::Invalid);
    }
    let (from, to) = (copy.from, copy.to);
    Ok(overlay.copy_file_range((HandleId(from.0), from.1), (HandleId(to.0), to.1), copy.len)?)
}

/// What flags of open(2) and those of the request ask for. Access mode 3 checks permissions for both reading and
/// writing and gives neither; ioctl(2) is all it is for. `gid`: the caller's group.
fn how(flags: u32, open_flags: u32, gid: u32) -> OpenFlags {
    OpenFlags {
        access: access(flags),
        truncate: flags & O_TRUNC != 0,
        append: flags & O_APPEND != 0,
        kill_set_ids: (open_flags & OPEN_KILL_SUIDGID != 0).then_some(gid),
        keep_atime: flags & O_NOATIME != 0,
        execute: flags & FMODE_EXEC != 0,
    }
}

/// The access that flags of open(2) ask for.
fn access(flags: u32) -> Access {
    match flags & O_ACCMODE {
        1 => Access::Write,
        2 => Access::ReadWrite,
        _ => Access::Read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_open() {
        assert_eq!(how(0, 0, 7), OpenFlags::READ);
        assert_eq!(how(3, 0, 7), OpenFlags::READ);
        assert_eq!(how(2 | 0o100, 0, 7), OpenFlags::READ_WRITE);
        let expected = OpenFlags {
            access: Access::Write,
            truncate: true,
            append: true,
            kill_set_ids: Some(7),
            keep_atime: false,
            execute: false,
        };
        assert!(how(FMODE_EXEC, 0, 7).execute);
        assert_eq!(how(1 | O_TRUNC | O_APPEND, 1, 7), expected);
    }
}
