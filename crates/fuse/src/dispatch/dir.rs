//! Listings of directories. Nothing depends on a directory being open: they are listed by node.

use super::{Call, Failure};
use crate::files::Files;
use crate::readers::Readers;
use crate::wire::flags::{FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE};
use crate::wire::input::Request;
use crate::wire::output::{Listing, Reply};
use acetate_layer::UpperLayer;
use acetate_overlay::{Overlay, Room};

/// How the kernel treats an open directory: it keeps the listing, also for others who open the directory, until a name
/// is added or removed through this mount or it is told otherwise.
const DIR_FLAGS: u32 = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE;

pub(super) fn answer<L: UpperLayer>(
    overlay: &Overlay<L>,
    files: &Files<'_>,
    readers: &Readers,
    call: &Call<'_>,
    reply: &mut Reply,
) -> Result<(), Failure> {
    match call.request {
        // From then on the kernel opens and closes directories by itself, with those flags.
        Request::OpenDir if call.opens_dirs_itself => return Err(Failure::NotOffered),
        Request::OpenDir => reply.open_out(0, DIR_FLAGS, 0),
        Request::ReadDir(read) => {
            let limit = read.size as usize;
            overlay.readdir(call.node(), read.offset, &mut |item| {
                room(reply.dirent(limit, &item, None, Listing::Plain))
            })?;
        }
        Request::ReadDirPlus(read) => {
            let limit = read.size as usize;
            let look_up = readers.list(call.header.thread, call.node(), read.offset);
            overlay.readdirplus(call.node(), read.offset, look_up, &mut |item, entry| {
                let entry = entry.map(|entry| (entry, files.valid(entry.node)));
                room(reply.dirent(limit, &item, entry, Listing::Plus))
            })?;
        }
        Request::ReleaseDir => {}
        Request::FsyncDir { data_only } => overlay.fsyncdir(call.node(), data_only)?,
        _ => return Err(Failure::Internal),
    }
    Ok(())
}

fn room(taken: bool) -> Room {
    if taken { Room::Taken } else { Room::Full }
}
