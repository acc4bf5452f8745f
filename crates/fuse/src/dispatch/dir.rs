//! Open directories and their listings.

use super::{Call, Failure};
use crate::wire::input::Request;
use crate::wire::output::{Listing, Reply};
use acetate_layer::UpperLayer;
use acetate_overlay::{HandleId, Overlay, Room};

pub(super) fn answer<L: UpperLayer>(
    overlay: &Overlay<L>,
    call: &Call<'_>,
    reply: &mut Reply,
) -> Result<(), Failure> {
    match call.request {
        Request::OpenDir => reply.open_out(overlay.opendir(call.node())?.0, 0),
        Request::ReadDir(read) => {
            let limit = read.size as usize;
            overlay.readdir(HandleId(read.handle), read.offset, &mut |item| {
                room(reply.dirent(limit, &item, None, Listing::Plain))
            })?;
        }
        Request::ReadDirPlus(read) => {
            let limit = read.size as usize;
            overlay.readdirplus(HandleId(read.handle), read.offset, &mut |item, entry| {
                room(reply.dirent(limit, &item, entry, Listing::Plus))
            })?;
        }
        Request::ReleaseDir { handle } => overlay.release(HandleId(handle)),
        Request::FsyncDir { handle, data_only } => overlay.fsyncdir(HandleId(handle), data_only)?,
        _ => return Err(Failure::Internal),
    }
    Ok(())
}

fn room(taken: bool) -> Room {
    if taken { Room::Taken } else { Room::Full }
}
