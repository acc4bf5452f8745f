//! Replies: values to the kernel's bytes, in a buffer that is used again and again.

use super::flags::{FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE};
use acetate_layer::{Kind, Rdev, StatFs, Time};
use acetate_overlay::{Attr, DirItem, Entry, NodeId};

/// Length of `struct fuse_out_header` in bytes.
pub(crate) const HEADER: usize = 16;
/// How long names and attributes stay valid, in seconds: a year, since nothing changes behind the kernel's back that it
/// is not told of.
pub(crate) const VALID_SECS: u64 = 365 * 24 * 60 * 60;

/// Whether the kernel may remember attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Valid {
    /// Until it is told otherwise.
    Always,
    /// It has to ask each time: they change in ways that nobody is told of.
    Now,
}

/// File type bits of a mode.
const IFMT: u32 = 0o170_000;

/// The file type bits of a mode (`S_IFMT`).
pub(crate) fn type_bits(kind: Kind) -> u32 {
    match kind {
        Kind::Fifo => 0o010_000,
        Kind::CharDevice => 0o020_000,
        Kind::Dir => 0o040_000,
        Kind::BlockDevice => 0o060_000,
        Kind::File => 0o100_000,
        Kind::Symlink => 0o120_000,
        Kind::Socket => 0o140_000,
    }
}

/// The type that a mode says; `None` if it says none. No type bits mean a regular file (mknod(2)).
pub(crate) fn kind_of(mode: u32) -> Option<Kind> {
    Some(match mode & IFMT {
        0 | 0o100_000 => Kind::File,
        0o010_000 => Kind::Fifo,
        0o020_000 => Kind::CharDevice,
        0o040_000 => Kind::Dir,
        0o060_000 => Kind::BlockDevice,
        0o120_000 => Kind::Symlink,
        0o140_000 => Kind::Socket,
        _ => return None,
    })
}

/// A device number in 32 bits (`new_encode_dev`): 12 bits of major within 20 of minor.
fn encode_rdev(rdev: Rdev) -> u32 {
    (rdev.minor & 0xff) | (rdev.major & 0xfff) << 8 | (rdev.minor & 0xf_ff00) << 12
}

/// The device number that 32 bits say (`new_decode_dev`).
pub(crate) fn decode_rdev(bits: u32) -> Rdev {
    Rdev { major: bits >> 8 & 0xfff, minor: bits & 0xff | bits >> 12 & 0xf_ff00 }
}

/// The reply to one request.
///
/// The header stands before the body, so that the whole reply is one piece of memory and one write. The buffer keeps
/// its size; only what was put counts.
pub(crate) struct Reply {
    bytes: Vec<u8>,
    end: usize,
    /// The kernel may remember nothing: neither names and attributes nor pages and listings.
    expires: bool,
}

impl Reply {
    /// A buffer for bodies up to `room` bytes.
    pub(crate) fn with_room(room: usize) -> Reply {
        Reply { bytes: vec![0; HEADER + room], end: HEADER, expires: false }
    }

    /// A buffer for answers that, if `expires`, hold for one use only.
    pub(crate) fn expiring(self, expires: bool) -> Reply {
        Reply { expires, ..self }
    }

    /// How long something stays valid, in seconds.
    fn secs(&self, valid: Valid) -> u64 {
        match valid {
            Valid::Always if !self.expires => VALID_SECS,
            Valid::Always | Valid::Now => 0,
        }
    }

    /// Forgets the body.
    pub(crate) fn clear(&mut self) {
        self.end = HEADER;
    }

    /// The finished reply; `errno` is zero or positive, and a failure has no body.
    pub(crate) fn finish(&mut self, unique: u64, errno: i32) -> &[u8] {
        if errno != 0 {
            self.clear();
        }
        let length = self.end as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[4..8].copy_from_slice(&(-errno).to_ne_bytes());
        self.bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
        &self.bytes[..self.end]
    }

    /// How many bytes still fit.
    pub(crate) fn room(&self) -> usize {
        self.bytes.len() - self.end
    }

    /// Appends bytes.
    ///
    /// What does not fit is left out, which makes the reply one that the kernel refuses. All replies of a fixed size
    /// fit; those that depend on data look at [`room`](Self::room) first.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.end..self.end + bytes.len()) {
            place.copy_from_slice(bytes);
            self.end += bytes.len();
        }
    }

    /// Lets `fill` write up to `room` bytes itself; it returns how many it wrote.
    pub(crate) fn fill<E>(
        &mut self,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let room = room.min(self.room());
        let wrote = fill(&mut self.bytes[self.end..self.end + room])?;
        self.end += wrote.min(room);
        Ok(())
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.put(&value.to_ne_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.put(&value.to_ne_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.put(&value.to_ne_bytes());
    }

    /// Appends zeros: padding and reserved fields.
    pub(crate) fn zeros(&mut self, count: usize) {
        const ZEROS: [u8; 128] = [0; 128];
        self.put(&ZEROS[..count.min(ZEROS.len())]);
    }

    /// `struct fuse_attr`
    fn attr(&mut self, attr: &Attr) {
        self.u64(attr.ino);
        self.u64(attr.size);
        self.u64(attr.blocks);
        for time in [attr.atime, attr.mtime, attr.ctime] {
            self.u64(time.sec.cast_unsigned());
        }
        for time in [attr.atime, attr.mtime, attr.ctime] {
            self.u32(time.nsec);
        }
        self.u32(mode(attr));
        self.u32(attr.nlink);
        self.u32(attr.uid);
        self.u32(attr.gid);
        self.u32(encode_rdev(attr.rdev));
        self.u32(attr.blksize);
        self.u32(0);
    }

    /// `struct fuse_attr_out`
    pub(crate) fn attr_out(&mut self, attr: &Attr, valid: Valid) {
        self.u64(self.secs(valid));
        self.zeros(8);
        self.attr(attr);
    }

    /// `struct fuse_entry_out`. Node ids are never reused, so that there is but one generation.
    pub(crate) fn entry_out(&mut self, entry: &Entry, valid: Valid) {
        self.entry_head(entry.node, valid);
        self.attr(&entry.attr);
    }

    /// `struct fuse_entry_out` that says that there is no such name.
    pub(crate) fn no_entry_out(&mut self) {
        self.entry_head(NodeId(0), Valid::Always);
        self.zeros(88);
    }

    fn entry_head(&mut self, node: NodeId, valid: Valid) {
        self.u64(node.0);
        self.u64(0);
        self.u64(self.secs(Valid::Always));
        self.u64(self.secs(valid));
        self.zeros(8);
    }

    /// `struct fuse_open_out`
    ///
    /// `backing` only counts with [`FOPEN_PASSTHROUGH`](super::flags::FOPEN_PASSTHROUGH).
    pub(crate) fn open_out(&mut self, handle: u64, flags: u32, backing: u32) {
        let flags = if self.expires { flags & !(FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR) } else { flags };
        self.u64(handle);
        self.u32(flags);
        self.u32(backing);
    }

    /// `struct fuse_write_out`, also that of getxattr(2) and listxattr(2) asked for a length.
    pub(crate) fn size_out(&mut self, size: u32) {
        self.u32(size);
        self.zeros(4);
    }

    /// `struct fuse_statfs_out`
    pub(crate) fn statfs_out(&mut self, stat: &StatFs) {
        for count in [stat.blocks, stat.bfree, stat.bavail, stat.files, stat.ffree] {
            self.u64(count);
        }
        for number in [stat.bsize, stat.namelen, stat.frsize] {
            self.u32(number);
        }
        self.zeros(28);
    }

    /// `struct fuse_statx_out`
    pub(crate) fn statx_out(&mut self, attr: &Attr, valid: Valid) {
        self.u64(self.secs(valid));
        self.zeros(24);
        self.statx(attr);
    }

    /// `struct fuse_statx`
    fn statx(&mut self, attr: &Attr) {
        /// `STATX_BASIC_STATS`
        const BASIC: u32 = 0x7ff;
        /// `STATX_BTIME`
        const BTIME: u32 = 0x800;
        self.u32(if attr.btime.is_some() { BASIC | BTIME } else { BASIC });
        self.u32(attr.blksize);
        self.u64(0);
        self.u32(attr.nlink);
        self.u32(attr.uid);
        self.u32(attr.gid);
        self.u16(mode(attr) as u16);
        self.u16(0);
        self.u64(attr.ino);
        self.u64(attr.size);
        self.u64(attr.blocks);
        self.u64(0);
        for time in [attr.atime, attr.btime.unwrap_or_default(), attr.ctime, attr.mtime] {
            self.statx_time(time);
        }
        self.u32(attr.rdev.major);
        self.u32(attr.rdev.minor);
        self.zeros(8 + 14 * 8);
    }

    fn statx_time(&mut self, time: Time) {
        self.u64(time.sec.cast_unsigned());
        self.u32(time.nsec);
        self.zeros(4);
    }
}

/// The mode with its type bits.
fn mode(attr: &Attr) -> u32 {
    type_bits(attr.kind) | attr.mode & 0o7777
}

/// Whether entries of a listing carry attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    /// FUSE_READDIR
    Plain,
    /// FUSE_READDIRPLUS
    Plus,
}

/// Length of `struct fuse_dirent` without the name.
const DIRENT: usize = 24;
/// Length of `struct fuse_entry_out`.
const ENTRY: usize = 128;

impl Reply {
    /// Appends an entry of a listing unless the body would get longer than `limit` bytes; returns whether it did.
    pub(crate) fn dirent(
        &mut self,
        limit: usize,
        item: &DirItem<'_>,
        entry: Option<(&Entry, Valid)>,
        how: Listing,
    ) -> bool {
        let length = DIRENT + item.name.len();
        let padding = length.next_multiple_of(8) - length;
        let plus = if how == Listing::Plus { ENTRY } else { 0 };
        let used = self.end - HEADER;
        if plus + length + padding > limit.saturating_sub(used).min(self.room()) {
            return false;
        }
        if how == Listing::Plus {
            match entry {
                Some((entry, valid)) => self.entry_out(entry, valid),
                // The kernel takes no node from it.
                None => self.zeros(ENTRY),
            }
        }
        self.u64(item.ino);
        self.u64(item.next);
        self.u32(item.name.len() as u32);
        self.u32(type_bits(item.kind) >> 12);
        self.put(item.name);
        self.zeros(padding);
        true
    }
}
