//! Names: looking them up, creating, removing and renaming them.

use super::{Call, Failure};
use crate::files::Files;
use crate::readers::Readers;
use crate::wire::input::Request;
use crate::wire::output::{Reply, Valid, decode_rdev, kind_of};
use acetate_layer::UpperLayer;
use acetate_overlay::{NodeId, Overlay, RenameKind};
use rustix::fs::RenameFlags;

pub(super) fn answer<L: UpperLayer>(
    overlay: &Overlay<L>,
    files: &Files<'_>,
    readers: &Readers,
    call: &Call<'_>,
    reply: &mut Reply,
) -> Result<(), Failure> {
    let node = call.node();
    match call.request {
        Request::Lookup { name } => match overlay.lookup(node, name)? {
            Some(entry) => {
                readers.look_up(node, entry.attr.kind);
                reply.entry_out(&entry, files.valid(entry.node));
            }
            None => reply.no_entry_out(),
        },
        Request::ReadLink => {
            let target = overlay.readlink(node)?;
            if target.len() > reply.room() {
                return Err(Failure::TooLong);
            }
            reply.put(&target);
        }
        Request::Symlink { name, target } => {
            reply.entry_out(&overlay.symlink(node, name, target, &call.caller())?, Valid::Always);
        }
        Request::MkNod { name, mode, rdev, umask } => {
            let kind = kind_of(mode).ok_or(Failure::Invalid)?;
            let caller = call.caller_with(umask);
            let entry = overlay.mknod(node, name, kind, mode & 0o7777, decode_rdev(rdev), &caller)?;
            reply.entry_out(&entry, Valid::Always);
        }
        Request::MkDir { name, mode, umask } => {
            let caller = call.caller_with(umask);
            reply.entry_out(&overlay.mkdir(node, name, mode & 0o7777, &caller)?, Valid::Always);
        }
        Request::Link { node: linked, name } => {
            let entry = overlay.link(NodeId(linked), node, name)?;
            reply.entry_out(&entry, files.valid(entry.node));
        }
        Request::Unlink { name } => overlay.unlink(node, name)?,
        Request::RmDir { name } => overlay.rmdir(node, name)?,
        Request::Rename { name, new_parent, new_name, flags } => {
            overlay.rename(node, name, NodeId(new_parent), new_name, rename_kind(flags)?)?;
        }
        _ => return Err(Failure::Internal),
    }
    Ok(())
}

/// The kind of rename that flags of renameat2(2) ask for. Flags that exclude each other, or are unknown, are refused.
fn rename_kind(flags: u32) -> Result<RenameKind, Failure> {
    match RenameFlags::from_bits_retain(flags) {
        f if f.is_empty() => Ok(RenameKind::Replace),
        RenameFlags::NOREPLACE => Ok(RenameKind::NoReplace),
        RenameFlags::EXCHANGE => Ok(RenameKind::Exchange),
        RenameFlags::WHITEOUT => Ok(RenameKind::Whiteout),
        _ => Err(Failure::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rename_flags_stand_alone() {
        let kinds: Vec<_> = (0..=8).map(rename_kind).collect();
        let expected = [
            Ok(RenameKind::Replace),
            Ok(RenameKind::NoReplace),
            Ok(RenameKind::Exchange),
            Err(Failure::Invalid),
            Ok(RenameKind::Whiteout),
            Err(Failure::Invalid),
            Err(Failure::Invalid),
            Err(Failure::Invalid),
            Err(Failure::Invalid),
        ];
        assert_eq!(kinds, expected);
    }
}
