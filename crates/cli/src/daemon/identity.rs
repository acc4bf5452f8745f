//! Which mount it is that is at a place.

use crate::mountinfo;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::path::Path;

/// The number in `stx_mnt_id` is one that no other mount will get until the machine starts again (Linux 6.8).
const STATX_MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What tells a mount from those that were at its place before and come there later. A device number alone does not: the
/// next filesystem gets that of the one that has just gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: (u32, u32),
    /// `None` before Linux 6.8.
    unique: Option<u64>,
}

impl Identity {
    /// That of what is mounted at a place.
    ///
    /// The mount is not asked, since a daemon that asks its own waits for itself: the device is in the mount table, and for
    /// the number alone, of attributes that need not be current, no filesystem is called.
    pub(super) fn at(point: &Path) -> Option<Identity> {
        let device = mountinfo::at(point).ok().flatten()?.device;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let stat = statx(CWD, point, flags, STATX_MNT_ID_UNIQUE).ok();
        let told = stat.filter(|stat| stat.stx_mask & STATX_MNT_ID_UNIQUE.bits() != 0);
        Some(Identity { device, unique: told.map(|stat| stat.stx_mnt_id) })
    }
}
