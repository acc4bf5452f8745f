//! The ioctls of btrfs: subvolumes, snapshots, and how space is allotted.
//!
//! Source: linux/btrfs.h and linux/btrfs_tree.h; btrfs(5). Descriptors are of directories open for reading, `O_PATH`
//! will not do.

use crate::{Errno, Result, check};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::ioctl::{Opcode, opcode};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `BTRFS_IOCTL_MAGIC`
const GROUP: u8 = 0x94;
/// `BTRFS_FIRST_FREE_OBJECTID`: the inode number of the root of every subvolume.
const SUBVOLUME_ROOT: u64 = 256;
/// `BTRFS_SUBVOL_RDONLY`
const READ_ONLY: u64 = 1 << 1;
/// Room for a name in [`Volume`] (`BTRFS_SUBVOL_NAME_MAX` and a NUL).
const NAME_BYTES: usize = 4040;
/// Room for a name in [`OldVolume`] (`BTRFS_PATH_NAME_MAX` and a NUL).
const OLD_NAME_BYTES: usize = 4088;
/// `BTRFS_SUBVOL_SYNC_COUNT`
const COUNT_QUEUED: u32 = 2;

/// `struct btrfs_ioctl_vol_args_v2`
#[repr(C)]
struct Volume {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_BYTES],
}

/// `struct btrfs_ioctl_vol_args`
#[repr(C)]
struct OldVolume {
    fd: i64,
    name: [u8; OLD_NAME_BYTES],
}

/// `struct btrfs_ioctl_fs_info_args`
#[repr(C)]
struct FsInfo {
    max_id: u64,
    num_devices: u64,
    rest: [u64; 126],
}

/// `struct btrfs_ioctl_dev_info_args`
#[repr(C)]
struct DevInfo {
    devid: u64,
    uuid: [u8; 16],
    bytes_used: u64,
    total_bytes: u64,
    rest: [u64; 507],
}

/// How many kinds of space are asked for at once: there are at most 4 types with 10 profiles each.
const SPACES: usize = 64;

/// `struct btrfs_ioctl_space_args` with its array.
#[repr(C)]
struct SpaceArgs {
    space_slots: u64,
    total_spaces: u64,
    spaces: [SpaceInfo; SPACES],
}

/// `struct btrfs_ioctl_subvol_wait` (since Linux 6.13)
#[repr(C)]
struct Wait {
    subvolid: u64,
    mode: u32,
    count: u32,
}

const _: () = assert!(size_of::<Volume>() == 4096 && size_of::<OldVolume>() == 4096);
const _: () = assert!(size_of::<FsInfo>() == 1024 && size_of::<DevInfo>() == 4096);
const _: () = assert!(size_of::<SpaceArgs>() == 16 + 24 * SPACES && size_of::<Wait>() == 16);

// Of these the number says 16 bytes, whatever follows: `struct btrfs_ioctl_space_args` ends in a flexible array.
const SPACE_INFO: Opcode = opcode::read_write::<[u64; 2]>(GROUP, 20);
const SNAP_CREATE_V2: Opcode = opcode::write::<Volume>(GROUP, 23);
const SUBVOL_CREATE_V2: Opcode = opcode::write::<Volume>(GROUP, 24);
const SYNC: Opcode = opcode::none(GROUP, 8);
const SNAP_DESTROY: Opcode = opcode::write::<OldVolume>(GROUP, 15);
const DEV_INFO: Opcode = opcode::read_write::<DevInfo>(GROUP, 30);
const FS_INFO: Opcode = opcode::read::<FsInfo>(GROUP, 31);
const SUBVOL_SYNC_WAIT: Opcode = opcode::write::<Wait>(GROUP, 65);

// The numbers as most architectures have them.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
const _: () = assert!(SPACE_INFO == 0xc010_9414 && SNAP_DESTROY == 0x5000_940f && FS_INFO == 0x8400_941f);

/// Makes the empty subvolume `name` in the directory `parent`.
///
/// # Errors
/// `EEXIST`; `ENOSPC`, which here often means metadata ([`spaces`]); `ENOTTY` where this is not btrfs;
/// `ENAMETOOLONG`.
pub fn create(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let mut args = volume(0, 0, name)?;
    // SAFETY: the kernel reads one `struct btrfs_ioctl_vol_args_v2`, whose layout and size this is.
    let result = unsafe { libc::ioctl(parent.as_raw_fd(), SUBVOL_CREATE_V2 as _, &raw mut *args) };
    check(result.into()).map(drop)
}

/// Makes a snapshot of the subvolume `source` as `name` in the directory `parent`.
///
/// # Errors
/// `EINVAL` if `source` is no subvolume's root; `EXDEV` if it is on another filesystem; else as [`create`].
pub fn snapshot(source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &CStr, read_only: bool) -> Result<()> {
    let flags = if read_only { READ_ONLY } else { 0 };
    let mut args = volume(source.as_raw_fd().into(), flags, name)?;
    // SAFETY: the kernel reads one `struct btrfs_ioctl_vol_args_v2`, whose layout and size this is; its descriptor is
    // borrowed until the call returns.
    let result = unsafe { libc::ioctl(parent.as_raw_fd(), SNAP_CREATE_V2 as _, &raw mut *args) };
    check(result.into()).map(drop)
}

/// Removes the subvolume `name` of the directory `parent` with all that is in it. Its space comes back later, when the
/// filesystem's cleaner gets to it ([`deleted_waiting`]).
///
/// # Errors
/// `ENOTEMPTY` if it holds another subvolume, `EPERM` without CAP_SYS_ADMIN (unless the filesystem is mounted with
/// `user_subvol_rm_allowed`) or for the default subvolume, `EINVAL` if it is no subvolume.
pub fn delete(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let mut args = Box::new(OldVolume { fd: 0, name: [0; OLD_NAME_BYTES] });
    put_name(&mut args.name, name)?;
    // SAFETY: the kernel reads one `struct btrfs_ioctl_vol_args`, whose layout and size this is.
    let result = unsafe { libc::ioctl(parent.as_raw_fd(), SNAP_DESTROY as _, &raw mut *args) };
    check(result.into()).map(drop)
}

/// Commits what is under way and wakes the cleaner, which syncfs(2) does not.
///
/// # Errors
/// `ENOTTY` where this is not btrfs; `EIO`, `ENOSPC`.
pub fn sync(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: this call takes no argument.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), SYNC as _, 0) }.into()).map(drop)
}

/// How many deleted subvolumes still wait for the cleaner or are being removed by it (since Linux 6.13).
///
/// # Errors
/// `ENOTTY` before that.
pub fn deleted_waiting(fd: BorrowedFd<'_>) -> Result<u32> {
    let mut args = Wait { subvolid: 0, mode: COUNT_QUEUED, count: 0 };
    // SAFETY: the kernel reads and writes one `struct btrfs_ioctl_subvol_wait`, whose layout and size this is.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), SUBVOL_SYNC_WAIT as _, &raw mut args) };
    check(result.into())?;
    Ok(args.count)
}

/// Whether the directory is the root of a subvolume.
///
/// # Errors
/// Those of fstatfs(2) and statx(2).
pub fn is_subvolume(fd: BorrowedFd<'_>) -> Result<bool> {
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok(stat.stx_ino == SUBVOLUME_ROOT && crate::ident::is_btrfs(fd)?)
}

/// What one kind of space has (`struct btrfs_ioctl_space_info`). Bytes as users count them: a mirrored byte is one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceInfo {
    /// Type and profile: [`SpaceInfo::DATA`] and the others.
    pub flags: u64,
    /// Allotted to this kind.
    pub total_bytes: u64,
    /// Of these in use.
    pub used_bytes: u64,
}

impl SpaceInfo {
    /// File data (`BTRFS_BLOCK_GROUP_DATA`).
    pub const DATA: u64 = 1 << 0;
    /// Metadata; with [`SpaceInfo::DATA`] in mixed filesystems (`BTRFS_BLOCK_GROUP_METADATA`).
    pub const METADATA: u64 = 1 << 2;
    /// Not a kind of its own: what is kept of the metadata for the filesystem itself (`BTRFS_SPACE_INFO_GLOBAL_RSV`).
    pub const GLOBAL_RESERVE: u64 = 1 << 49;
    /// Profiles that keep two copies on two devices (raid1, raid10; raid5 is as safe as two).
    pub const TWO_DEVICES: u64 = 1 << 4 | 1 << 6 | 1 << 7;
    /// Profiles that keep three copies on three devices (raid1c3; raid6 is as safe as three).
    pub const THREE_DEVICES: u64 = 1 << 8 | 1 << 9;
    /// The profile that keeps four copies on four devices (raid1c4).
    pub const FOUR_DEVICES: u64 = 1 << 10;
    /// The profile that keeps two copies on one device (dup).
    pub const DUP: u64 = 1 << 5;
}

/// How the space that is allotted is used, one element a type and profile.
///
/// # Errors
/// `ENOTTY` where this is not btrfs.
pub fn spaces(fd: BorrowedFd<'_>) -> Result<Vec<SpaceInfo>> {
    let mut args = Box::new(SpaceArgs {
        space_slots: SPACES as u64,
        total_spaces: 0,
        spaces: [SpaceInfo::default(); SPACES],
    });
    // SAFETY: the kernel reads and writes one `struct btrfs_ioctl_space_args` and at most `space_slots` elements of the
    // array behind it, which is that long.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), SPACE_INFO as _, &raw mut *args) };
    check(result.into())?;
    let count = usize::try_from(args.total_spaces).unwrap_or(SPACES).min(SPACES);
    Ok(args.spaces[..count].to_vec())
}

/// A device of a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// Of these allotted to a kind of space.
    pub used_bytes: u64,
}

/// The devices of the filesystem.
///
/// # Errors
/// `ENOTTY` where this is not btrfs.
pub fn devices(fd: BorrowedFd<'_>) -> Result<Vec<Device>> {
    let mut info = Box::new(FsInfo { max_id: 0, num_devices: 0, rest: [0; 126] });
    // SAFETY: the kernel reads and writes one `struct btrfs_ioctl_fs_info_args`, whose size this is.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), FS_INFO as _, &raw mut *info) };
    check(result.into())?;
    let mut devices = Vec::new();
    for devid in 1..=info.max_id {
        let mut args =
            Box::new(DevInfo { devid, uuid: [0; 16], bytes_used: 0, total_bytes: 0, rest: [0; 507] });
        // SAFETY: the kernel reads and writes one `struct btrfs_ioctl_dev_info_args`, whose layout and size this is.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), DEV_INFO as _, &raw mut *args) };
        match check(result.into()) {
            Ok(_) => {
                devices.push(Device { total_bytes: args.total_bytes, used_bytes: args.bytes_used });
            }
            // Ids of devices that were removed stay unused.
            Err(Errno::NODEV) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(devices)
}

/// Arguments about the subvolume `name`.
fn volume(fd: i64, flags: u64, name: &CStr) -> Result<Box<Volume>> {
    let mut args = Box::new(Volume { fd, transid: 0, flags, unused: [0; 4], name: [0; NAME_BYTES] });
    put_name(&mut args.name, name)?;
    Ok(args)
}

/// Writes `name` into `room`, which is zeroed and has to keep a NUL at its end.
fn put_name(room: &mut [u8], name: &CStr) -> Result<()> {
    let name = name.to_bytes();
    if name.len() >= room.len() {
        return Err(Errno::NAMETOOLONG);
    }
    room[..name.len()].copy_from_slice(name);
    Ok(())
}
