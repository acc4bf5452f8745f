//! The values that operations take and return.

use acetate_layer::{Access, Kind, Rdev, SetTime, Time};

/// Names a node of a mounted overlay: an object that the kernel knows. Never reused within a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the overlay.
    pub const ROOT: NodeId = NodeId(1);
}

/// Names an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// Who asks. Whether they may is decided by the kernel before the request is sent (`default_permissions`); the
/// engine needs to know who owns what is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// fsuid
    pub uid: u32,
    /// fsgid
    pub gid: u32,
    /// The bits to leave out of the mode of new objects, unless the directory has a default ACL.
    pub umask: u32,
}

/// The attributes of an overlay object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// `st_ino`; stable across copy-up. Not the node id.
    pub ino: u64,
    /// Type.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits (`07777`).
    pub mode: u32,
    /// Number of names; 1 for merged directories.
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
    /// Birth of the topmost real object, where its filesystem records it.
    pub btime: Option<Time>,
}

/// The result of a lookup or creation. It counts as one reference that [`forget`](crate::Overlay::forget) gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node.
    pub node: NodeId,
    /// Its attributes.
    pub attr: Attr,
}

/// A change of attributes; `None` and [`SetTime::Keep`] leave things as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits with set-id and sticky bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: SetTime,
    /// Modification time.
    pub mtime: SetTime,
    /// The change takes set-id bits and file capabilities away: it is a truncation by an unprivileged process of that
    /// group.
    pub kill_set_ids: Option<u32>,
}

impl Default for SetAttr {
    fn default() -> Self {
        SetAttr {
            mode: None,
            uid: None,
            gid: None,
            size: None,
            atime: SetTime::Keep,
            mtime: SetTime::Keep,
            kill_set_ids: None,
        }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags {
    /// Reading, writing or both. Access mode 3 of open(2) counts as reading.
    pub access: Access,
    /// `O_TRUNC`
    pub truncate: bool,
    /// `O_APPEND`; only matters for append-only files, the kernel chooses the offsets.
    pub append: bool,
    /// A truncation takes set-id bits and file capabilities away: it is by an unprivileged process of that group.
    pub kill_set_ids: Option<u32>,
    /// `O_NOATIME`: reads leave the access time alone. The kernel has checked that the caller may say so.
    pub keep_atime: bool,
    /// The file is opened to be executed (`__FMODE_EXEC` of the kernel's execve).
    pub execute: bool,
}

impl OpenFlags {
    /// Plain reading.
    pub const READ: OpenFlags = OpenFlags {
        access: Access::Read,
        truncate: false,
        append: false,
        kill_set_ids: None,
        keep_atime: false,
        execute: false,
    };
    /// Plain reading and writing.
    pub const READ_WRITE: OpenFlags = OpenFlags { access: Access::ReadWrite, ..OpenFlags::READ };
}

/// The kinds of rename that a caller may ask for. The kernel's overlayfs refuses `RENAME_WHITEOUT` with `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameKind {
    /// Replaces an existing target.
    Replace,
    /// `EEXIST` if there is a target.
    NoReplace,
    /// Swaps the two.
    Exchange,
    /// `EINVAL`
    Whiteout,
}

/// What has changed of a node by an operation that was not asked to change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Its attributes.
    Attributes,
    /// Which entries the directory shows, or their inode numbers; its attributes as well.
    Listing,
}

/// An entry of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirItem<'a> {
    /// The name.
    pub name: &'a [u8],
    /// `d_ino`
    pub ino: u64,
    /// Type.
    pub kind: Kind,
    /// Where a listing goes on after this entry (`d_off`).
    pub next: u64,
}

/// Which entries of a listing are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookUp {
    /// All of them.
    All,
    /// Directories, which are likely to be listed next.
    Directories,
}

/// What the receiver of a listing answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The entry was taken.
    Taken,
    /// The entry did not fit; the listing ends before it.
    Full,
}
