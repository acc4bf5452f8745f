//! The values that layer operations take and return.

use crate::Layer;

/// Names an object of a layer.
pub enum At<'a, L: Layer> {
    /// The directory itself.
    Dir(&'a L::Dir),
    /// The object of that name in a directory; a symlink is not followed.
    Name(&'a L::Dir, &'a [u8]),
    /// An open or held object, whatever has become of its name.
    Open(&'a L::File),
}

impl<L: Layer> Clone for At<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L: Layer> Copy for At<'_, L> {}

/// Identifies a filesystem (superblock) among the layers of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FsId(pub u64);

/// The type of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl Kind {
    /// The type in a word or two, as reports and records have it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Dir => "directory",
            Kind::Symlink => "symlink",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::CharDevice => "character device",
            Kind::BlockDevice => "block device",
        }
    }
}

/// A device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rdev {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// A point in time: seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

/// The attributes of an object, as statx(2) gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Type.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits (`07777`).
    pub mode: u32,
    /// Inode number within the filesystem.
    pub ino: u64,
    /// Device number of the filesystem (`st_dev`); differs between btrfs subvolumes of one filesystem.
    pub dev: u64,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, else zero.
    pub rdev: Rdev,
    /// Size in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Preferred block size for I/O in bytes.
    pub blksize: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
    /// Birth, where the filesystem records it.
    pub btime: Option<Time>,
    /// The immutable flag is set (chattr +i).
    pub immutable: bool,
    /// The append-only flag is set (chattr +a).
    pub append_only: bool,
}

/// An entry of a directory as the filesystem lists it.
#[derive(Clone, Copy, Debug)]
pub struct RawEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The inode number.
    pub ino: u64,
    /// The type; `None` where the filesystem does not say.
    pub kind: Option<Kind>,
}

/// How a regular file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For writing.
    Write,
    /// For both.
    ReadWrite,
}

/// What [`Layer::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

/// A filesystem's own handle of an object (name_to_handle_at(2)), with the filesystem's UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// `handle_type`
    pub kind: u8,
    /// `f_handle`
    pub bytes: Vec<u8>,
    /// UUID of the filesystem (FS_IOC_GETFSUUID), zeros if it has none.
    pub uuid: [u8; 16],
}

/// Sizes of a filesystem (statvfs(3)), in the units it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Total blocks of `frsize` bytes.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for unprivileged users.
    pub bavail: u64,
    /// Total inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred block size in bytes.
    pub bsize: u32,
    /// Longest name in bytes.
    pub namelen: u32,
    /// Unit of the block counts in bytes.
    pub frsize: u32,
}

/// Who owns a new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The one who mounted; whiteouts and staging objects belong to them.
    Mounter,
    /// The caller of the operation.
    User {
        /// fsuid
        uid: u32,
        /// fsgid
        gid: u32,
    },
}

/// The kinds of rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// Replaces an existing target.
    Replace,
    /// `EEXIST` if there is a target.
    NoReplace,
    /// Swaps the two.
    Exchange,
    /// Leaves a whiteout (char 0:0) at the source.
    Whiteout,
}

/// A time to set (utimensat(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// Leaves it as it is.
    Keep,
    /// The current time.
    Now,
    /// This time.
    To(Time),
}

/// The kinds of setting an extended attribute (setxattr(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    /// Creates or replaces.
    Any,
    /// `EEXIST` if there is one.
    Create,
    /// `ENODATA` if there is none.
    Replace,
}
