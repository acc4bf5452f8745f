//! How much room btrfs has for metadata.
//!
//! btrfs allots its devices in chunks to data or to metadata. When all is allotted to data, no metadata can be written
//! although `df` shows gigabytes free: creating a file fails with `ENOSPC`, then making a snapshot. So the free
//! bytes say nothing here; what counts is the *headroom*: what metadata has left beyond the filesystem's own reserve,
//! plus what unallotted space can still become metadata.

use super::{BtrfsError, open_dir};
use acetate_sys::Errno;
use acetate_sys::btrfs::{Device, SpaceInfo, devices, spaces};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Below this headroom nothing new is made.
///
/// The kernel calls the filesystem full at 4 MiB (`btrfs_statfs` sets `f_bavail` to zero), and a snapshot fails at
/// about 2.5 MiB, because it reserves 256 KiB a tree item (16 KiB nodes, Linux 6.18). Twice the kernel's mark leaves room
/// for programs that run in workspaces, and for the transactions of deletions.
const EXHAUSTED_BYTES: u64 = 8 << 20;
/// Below an eighth of the metadata there is a warning, within these bounds. The lower one is some hundred snapshots; the
/// upper one is the largest chunk, so a filesystem that can still allot one is not low.
const LOW_BYTES: std::ops::RangeInclusive<u64> = 32 << 20..=1 << 30;
/// The beginning of each device, which is never allotted (`BTRFS_DEVICE_RANGE_RESERVED`).
const DEVICE_RESERVED_BYTES: u64 = 1 << 20;

/// The space of a btrfs filesystem. Bytes; all but `unallocated` as users count them: a mirrored byte is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Allotted to metadata.
    pub metadata_total: u64,
    /// Of these in use.
    pub metadata_used: u64,
    /// Kept free by the filesystem for itself, so that deleting always works (the global reserve).
    pub metadata_reserved: u64,
    /// Not allotted to anything yet, over all devices.
    pub unallocated: u64,
    /// How much metadata the unallotted space can become, with the copies that the profile makes.
    pub allocatable: u64,
    /// Allotted to file data.
    pub data_total: u64,
    /// Of these in use.
    pub data_used: u64,
}

impl Space {
    /// How many bytes of metadata can still be written.
    pub fn headroom(&self) -> u64 {
        let taken = self.metadata_used.saturating_add(self.metadata_reserved);
        self.metadata_total.saturating_sub(taken).saturating_add(self.allocatable)
    }

    /// What this headroom means for those who want to create.
    pub fn pressure(self) -> Pressure {
        let low = (self.metadata_total / 8).clamp(*LOW_BYTES.start(), *LOW_BYTES.end());
        match self.headroom() {
            room if room < EXHAUSTED_BYTES => Pressure::Exhausted(self),
            room if room < low => Pressure::Low(self),
            _ => Pressure::Fine(self),
        }
    }
}

impl fmt::Display for Space {
    /// One line, in units of 2^20 bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        write!(
            f,
            "{} of metadata space left ({} of {} used, {} reserved, {} of the disk unallocated)",
            mib(self.headroom()),
            mib(self.metadata_used),
            mib(self.metadata_total),
            mib(self.metadata_reserved),
            mib(self.unallocated),
        )
    }
}

/// Whether there is room to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// There is.
    Fine(Space),
    /// There is, but it comes to an end: warn.
    Low(Space),
    /// Nothing shall be created, while deleting still works.
    Exhausted(Space),
}

impl Pressure {
    /// What it was judged by.
    pub fn space(&self) -> &Space {
        match self {
            Pressure::Fine(space) | Pressure::Low(space) | Pressure::Exhausted(space) => space,
        }
    }

    /// One word: `fine`, `low` or `exhausted`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Pressure::Fine(_) => "fine",
            Pressure::Low(_) => "low",
            Pressure::Exhausted(_) => "exhausted",
        }
    }
}

/// The space of the filesystem of the directory `path`.
///
/// # Errors
/// [`BtrfsError::Open`], [`BtrfsError::NotBtrfs`], [`BtrfsError::Failed`].
pub fn space(path: &Path) -> Result<Space, BtrfsError> {
    space_at(&open_dir(path)?).map_err(|errno| match errno {
        Errno::NOTTY => BtrfsError::NotBtrfs(path.into()),
        errno => BtrfsError::Failed { what: "read the space of", path: path.into(), errno },
    })
}

/// Whether there is room to create on the filesystem of the directory `path`.
///
/// # Errors
/// As [`space`].
pub fn pressure(path: &Path) -> Result<Pressure, BtrfsError> {
    space(path).map(Space::pressure)
}

pub(super) fn pressure_at(dir: &OwnedFd) -> Result<Pressure, Errno> {
    space_at(dir).map(Space::pressure)
}

pub(super) fn space_at(dir: &OwnedFd) -> Result<Space, Errno> {
    Ok(summary(&spaces(dir.as_fd())?, &devices(dir.as_fd())?))
}

/// Adds up what the kernel tells. In mixed filesystems the same space counts as data and as metadata.
fn summary(spaces: &[SpaceInfo], devices: &[Device]) -> Space {
    let mut space = Space::default();
    let mut metadata_profiles = 0;
    for info in spaces {
        if info.flags & SpaceInfo::GLOBAL_RESERVE != 0 {
            // What is used of it is filled up again before anybody else gets anything.
            space.metadata_reserved = info.total_bytes;
            continue;
        }
        if info.flags & SpaceInfo::METADATA != 0 {
            space.metadata_total += info.total_bytes;
            space.metadata_used += info.used_bytes;
            metadata_profiles |= info.flags;
        }
        if info.flags & SpaceInfo::DATA != 0 {
            space.data_total += info.total_bytes;
            space.data_used += info.used_bytes;
        }
    }
    let free: Vec<u64> = devices
        .iter()
        .map(|device| {
            device.total_bytes.saturating_sub(device.used_bytes.saturating_add(DEVICE_RESERVED_BYTES))
        })
        .collect();
    space.unallocated = free.iter().sum();
    space.allocatable = match metadata_profiles {
        flags if flags & SpaceInfo::FOUR_DEVICES != 0 => on_devices(free, 4),
        flags if flags & SpaceInfo::THREE_DEVICES != 0 => on_devices(free, 3),
        flags if flags & SpaceInfo::TWO_DEVICES != 0 => on_devices(free, 2),
        flags if flags & SpaceInfo::DUP != 0 => space.unallocated / 2,
        _ => space.unallocated,
    };
    space
}

/// How many bytes can be stored in `copies` copies, each on another device, if the devices have this much free.
fn on_devices(mut free: Vec<u64>, mut copies: u64) -> u64 {
    free.sort_unstable();
    loop {
        let sum: u64 = free.iter().sum();
        match free.pop() {
            // The largest would hold more than one copy of something: it holds one of everything.
            Some(largest) if copies > 1 && largest > sum / copies => copies -= 1,
            _ => return sum / copies,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn info(flags: u64, total: u64, used: u64) -> SpaceInfo {
        SpaceInfo { flags, total_bytes: total * MIB, used_bytes: used * MIB }
    }

    fn device(total: u64, used: u64) -> Device {
        Device { total_bytes: total * MIB, used_bytes: used * MIB }
    }

    #[test]
    fn copies_need_different_devices() {
        for (free, copies, expected) in [
            (vec![10], 1, 10),
            (vec![10], 2, 0),
            (vec![10, 10], 2, 10),
            (vec![100, 10], 2, 10),
            (vec![10, 6, 4], 2, 10),
            (vec![30, 6, 4], 2, 10),
            (vec![30, 6, 4], 3, 4),
            (vec![5, 5, 5, 5], 3, 6),
            (vec![9, 9, 9], 4, 0),
            (vec![], 1, 0),
        ] {
            assert_eq!(on_devices(free.clone(), copies), expected, "{free:?} in {copies}");
        }
    }

    #[test]
    fn headroom_leaves_out_the_reserve_and_counts_what_can_be_allotted() {
        let reserve = info(SpaceInfo::METADATA | SpaceInfo::GLOBAL_RESERVE, 6, 1);
        let spaces = [info(SpaceInfo::DATA, 200, 50), info(SpaceInfo::METADATA, 20, 9), reserve];
        let full = summary(&spaces, &[device(224, 223)]);
        assert_eq!(full.headroom(), 5 * MIB);
        assert!(matches!(full.pressure(), Pressure::Exhausted(_)));
        let low = summary(&spaces, &[device(234, 223)]);
        assert_eq!((low.unallocated, low.headroom()), (10 * MIB, 15 * MIB));
        assert!(matches!(low.pressure(), Pressure::Low(_)));
        let fine = summary(&spaces, &[device(1224, 223)]);
        assert!(matches!(fine.pressure(), Pressure::Fine(_)));
        let dup = [info(SpaceInfo::METADATA | SpaceInfo::DUP, 20, 9), reserve];
        assert_eq!(summary(&dup, &[device(234, 223)]).headroom(), 10 * MIB);
    }

    #[test]
    fn mixed_space_is_both() {
        let mixed = summary(&[info(SpaceInfo::DATA | SpaceInfo::METADATA, 100, 40)], &[device(101, 100)]);
        assert_eq!((mixed.metadata_used, mixed.data_used, mixed.headroom()), (40 * MIB, 40 * MIB, 60 * MIB));
    }
}
