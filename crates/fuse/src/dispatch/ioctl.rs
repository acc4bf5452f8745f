//! ioctl(2): the inode flags of chattr(1), in their old form and as part of `struct fsxattr`.
//!
//! The kernel asks with either form, depending on what the program used, and with four bytes or eight for the old one:
//! its own requests have four, those it passes on from programs have a long.

use super::{Call, Failure};
use crate::wire::input::IoctlIn;
use crate::wire::output::Reply;
use acetate_layer::UpperLayer;
use acetate_overlay::Overlay;

/// `_IOR('f', 1, long)`, with four bytes and with eight.
const GETFLAGS: [u32; 2] = [0x8004_6601, 0x8008_6601];
/// `_IOW('f', 2, long)`, with four bytes and with eight.
const SETFLAGS: [u32; 2] = [0x4004_6602, 0x4008_6602];
/// `_IOR('X', 31, struct fsxattr)`
const FSGETXATTR: u32 = 0x801c_581f;
/// `_IOW('X', 32, struct fsxattr)`
const FSSETXATTR: u32 = 0x401c_5820;
/// Length of `struct fsxattr` in bytes.
const FSXATTR: usize = 28;

/// The flags that both forms have: `FS_*_FL` and `FS_XFLAG_*` (fileattr_fill_flags in the kernel's fs/file_attr.c).
const COMMON: [(u32, u32); 7] = [
    // SYNC
    (0x8, 0x20),
    // IMMUTABLE
    (0x10, 0x8),
    // APPEND
    (0x20, 0x10),
    // NODUMP
    (0x40, 0x80),
    // NOATIME
    (0x80, 0x40),
    // PROJINHERIT
    (0x2000_0000, 0x200),
    // DAX
    (0x0200_0000, 0x8000),
];

pub(super) fn answer<L: UpperLayer>(
    overlay: &Overlay<L>,
    call: &Call<'_>,
    request: &IoctlIn<'_>,
    reply: &mut Reply,
) -> Result<(), Failure> {
    let node = call.node();
    match request.command {
        command if GETFLAGS.contains(&command) => {
            let flags = overlay.inode_flags(node)?;
            put_head(reply);
            put_flags(reply, flags, request.out_size)?;
        }
        command if SETFLAGS.contains(&command) => {
            overlay.set_inode_flags(node, word(request.data, 0)?, &call.caller())?;
            put_head(reply);
        }
        FSGETXATTR if request.out_size as usize >= FSXATTR => {
            let flags = overlay.inode_flags(node)?;
            put_head(reply);
            reply.u32(to_xflags(flags));
            reply.zeros(FSXATTR - 4);
        }
        FSSETXATTR => {
            // Extent sizes and projects are not offered, so that they can only be left at zero.
            let others_are_zero =
                request.data.get(4..FSXATTR).is_some_and(|rest| rest.iter().all(|b| *b == 0));
            let xflags = word(request.data, 0)?;
            let known = COMMON.iter().fold(0, |all, (_, xflag)| all | xflag);
            if !others_are_zero || xflags & !known != 0 {
                return Err(Failure::Invalid);
            }
            let flags = with_xflags(overlay.inode_flags(node)?, xflags);
            overlay.set_inode_flags(node, flags, &call.caller())?;
            put_head(reply);
        }
        _ => return Err(Failure::NoSuchIoctl),
    }
    Ok(())
}

/// `struct fuse_ioctl_out`: result zero, nothing to retry.
fn put_head(reply: &mut Reply) {
    reply.zeros(16);
}

/// Answers with flags in as many bytes as the kernel expects.
fn put_flags(reply: &mut Reply, flags: u32, out_size: u32) -> Result<(), Failure> {
    match out_size {
        4 => reply.u32(flags),
        // A long; on a big-endian machine, too, the flags are its low half.
        8 => reply.u64(u64::from(flags)),
        _ => return Err(Failure::NoSuchIoctl),
    }
    Ok(())
}

/// The 32 bits at `at` bytes. Programs pass flags as an int, whatever the command's number says of a long.
fn word(data: &[u8], at: usize) -> Result<u32, Failure> {
    data.get(at..)
        .and_then(|rest| rest.first_chunk())
        .map(|bytes| u32::from_ne_bytes(*bytes))
        .ok_or(Failure::Invalid)
}

fn to_xflags(flags: u32) -> u32 {
    COMMON.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, xflag)| all | xflag)
}

/// `flags` with those replaced that `struct fsxattr` can say.
fn with_xflags(flags: u32, xflags: u32) -> u32 {
    COMMON.iter().fold(flags, |all, (flag, xflag)| if xflags & xflag != 0 { all | flag } else { all & !flag })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_of_flags() {
        // Immutable and no dump; compression and extents are not sayable in the other form and stay.
        let flags = 0x10 | 0x40 | 0x4 | 0x8_0000;
        assert_eq!(to_xflags(flags), 0x8 | 0x80);
        assert_eq!(with_xflags(flags, 0x10), 0x20 | 0x4 | 0x8_0000);
        assert_eq!(with_xflags(flags, to_xflags(flags)), flags);
    }

    #[test]
    fn flags_in_four_bytes_or_eight() {
        let mut reply = Reply::with_room(64);
        assert_eq!(put_flags(&mut reply, 9, 5), Err(Failure::NoSuchIoctl));
        assert_eq!(put_flags(&mut reply, 9, 4), Ok(()));
        assert_eq!(put_flags(&mut reply, 9, 8), Ok(()));
        assert_eq!(&reply.finish(1, 0)[16..], [&9u32.to_ne_bytes()[..], &9u64.to_ne_bytes()].concat());
    }
}
