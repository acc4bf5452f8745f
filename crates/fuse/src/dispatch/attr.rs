//! Attributes of nodes and of the whole filesystem.

use super::{Call, Failure};
use crate::files::Files;
use crate::wire::flags::fattr;
use crate::wire::input::{Request, SetAttrIn};
use crate::wire::output::Reply;
use acetate_layer::{SetTime, Time, UpperLayer};
use acetate_overlay::{HandleId, Overlay, SetAttr};

pub(super) fn answer<L: UpperLayer>(
    overlay: &Overlay<L>,
    files: &Files<'_>,
    call: &Call<'_>,
    reply: &mut Reply,
) -> Result<(), Failure> {
    match call.request {
        Request::GetAttr { handle } => {
            let attr = overlay.getattr(call.node(), handle.map(HandleId))?;
            reply.attr_out(&attr, files.valid(call.node()));
        }
        Request::Statx { handle } => {
            let attr = overlay.getattr(call.node(), handle.map(HandleId))?;
            reply.statx_out(&attr, files.valid(call.node()));
        }
        Request::SetAttr(set) => {
            let handle = set.handle.map(HandleId);
            let attr =
                overlay.setattr(call.node(), handle, &changes(&set, call.header.gid), &call.caller())?;
            reply.attr_out(&attr, files.valid(call.node()));
        }
        Request::StatFs => reply.statfs_out(&overlay.statfs()?),
        _ => return Err(Failure::Internal),
    }
    Ok(())
}

/// What a request asks to change. The kernel also sends the change time and a lock owner, which are its own business.
fn changes(set: &SetAttrIn, caller_gid: u32) -> SetAttr {
    let given = |flag: u32| set.valid & flag != 0;
    let time = |flag: u32, now: u32, (sec, nsec): (i64, u32)| match (given(flag), given(now)) {
        (_, true) => SetTime::Now,
        (true, false) => SetTime::To(Time { sec, nsec }),
        (false, false) => SetTime::Keep,
    };
    SetAttr {
        mode: given(fattr::MODE).then_some(set.mode & 0o7777),
        uid: given(fattr::UID).then_some(set.uid),
        gid: given(fattr::GID).then_some(set.gid),
        size: given(fattr::SIZE).then_some(set.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, set.atime),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, set.mtime),
        kill_set_ids: given(fattr::KILL_SUIDGID).then_some(caller_gid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: SetAttrIn = SetAttrIn {
        valid: 0,
        handle: None,
        size: 7,
        atime: (-1, 2),
        mtime: (3, 4),
        mode: 0o106_755,
        uid: 5,
        gid: 6,
    };

    #[test]
    fn only_valid_fields_change() {
        assert_eq!(changes(&NOTHING, 8), SetAttr::default());
        let all = SetAttrIn { valid: 0x83f | fattr::KILL_SUIDGID, ..NOTHING };
        let expected = SetAttr {
            mode: Some(0o6755),
            uid: Some(5),
            gid: Some(6),
            size: Some(7),
            atime: SetTime::To(Time { sec: -1, nsec: 2 }),
            mtime: SetTime::To(Time { sec: 3, nsec: 4 }),
            kill_set_ids: Some(8),
        };
        assert_eq!(changes(&all, 8), expected);
    }

    #[test]
    fn now_wins_over_a_time() {
        let valid = fattr::ATIME | fattr::ATIME_NOW | fattr::MTIME_NOW;
        let expected = SetAttr { atime: SetTime::Now, mtime: SetTime::Now, ..SetAttr::default() };
        assert_eq!(changes(&SetAttrIn { valid, ..NOTHING }, 8), expected);
    }
}
