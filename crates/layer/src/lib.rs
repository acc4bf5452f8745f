//! One layer of an overlay and the marks in it.
//!
//! [`Layer`] is what the engine may do to every layer: read. [`UpperLayer`] adds the changes, and each of its
//! methods is one atomic change on disk: it happened or it did not. Everything that takes several steps is
//! prepared in the work directory ([`work`]) and published by one rename or link.
//!
//! This crate knows nothing of merging: it never looks at two layers at once.

pub mod acl;
pub mod dir;
pub mod fault;
pub mod mark;
pub mod mem;
mod tally;
mod types;
pub mod view;
pub mod work;

pub use acetate_sys::Errno;
pub use tally::{Counted, Tally};
pub use types::*;

use std::os::fd::{BorrowedFd, OwnedFd};

/// What a layer operation returns. The error is the filesystem's own errno, unchanged.
pub type Result<T> = std::result::Result<T, Errno>;

/// Reads of one layer.
///
/// Objects are named by [`At`]: a directory handle, one name below a directory handle, or an open object.
/// Names are single components (never `.`, `..`, empty, or holding `/` or NUL), symlinks are never followed
/// and nothing outside the layer can be reached. All calls may block on the filesystem below.
pub trait Layer: Send + Sync + Sized + 'static {
    /// A directory of this layer. Cheap to clone; stays valid when the directory is renamed.
    type Dir: Clone + Send + Sync + 'static;
    /// An open object: data access, or a mere reference (`O_PATH`) that keeps an object reachable without a name.
    type File: Send + Sync + 'static;

    /// The root directory of the layer.
    fn root(&self) -> &Self::Dir;

    /// Which filesystem the layer is on. Layers with equal ids share inode numbers and can be linked.
    fn filesystem(&self) -> FsId;

    /// Attributes of an object (`lstat` semantics).
    fn stat(&self, at: At<'_, Self>) -> Result<Stat>;

    /// Opens the directory `name` in `dir`; `ENOTDIR` if it is something else (a symlink included).
    fn open_dir(&self, dir: &Self::Dir, name: &[u8]) -> Result<Self::Dir>;

    /// The directory `name` in `dir`, whose attributes [`stat`](Layer::stat) has just said to be `stat`. It may be opened
    /// only when it is first used; `ESTALE` then if others have put another one there.
    fn known_dir(&self, dir: &Self::Dir, name: &[u8], _stat: &Stat) -> Result<Self::Dir> {
        self.open_dir(dir, name)
    }

    /// Calls `each` for every entry of `dir` except `.` and `..`, in the filesystem's order.
    fn list(&self, dir: &Self::Dir, each: &mut dyn FnMut(RawEntry<'_>)) -> Result<()>;

    /// Whether whiteouts are hidden in every listing of this layer. Else they are shown where nothing lies below, as
    /// the kernel's overlayfs shows them.
    fn hides_whiteouts(&self) -> bool {
        false
    }

    /// The target of a symlink.
    fn read_link(&self, at: At<'_, Self>) -> Result<Vec<u8>>;

    /// The value of an extended attribute; `None` if there is none of that name (`ENODATA`).
    /// `EOPNOTSUPP` where the filesystem or the object's type has no such attributes.
    fn get_xattr(&self, at: At<'_, Self>, name: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The names of all extended attributes.
    fn list_xattrs(&self, at: At<'_, Self>) -> Result<Vec<Vec<u8>>>;

    /// Opens a regular file. Lower layers are opened such that no access time changes, where that is possible.
    fn open_file(&self, at: At<'_, Self>, access: Access) -> Result<Self::File>;

    /// Makes reads through `file` leave its access time alone (`O_NOATIME`); `EPERM` if it is not the mounter's to
    /// decide. Memory layers never move access times.
    fn keep_atime(&self, _file: &Self::File) -> Result<()> {
        Ok(())
    }

    /// The descriptor of an open file, for safe keeping; `None` if there is no such thing.
    fn descriptor<'a>(&self, _file: &'a Self::File) -> Option<BorrowedFd<'a>> {
        None
    }

    /// The descriptor of an open file, for whoever can do its reads and writes without this layer; `None` if nobody can.
    fn lend<'a>(&self, _file: &'a Self::File) -> Option<BorrowedFd<'a>> {
        None
    }

    /// The file behind a descriptor that [`Layer::descriptor`] has given, perhaps in another process, open as it was then;
    /// `None` where there is no such thing.
    fn reopen(&self, _file: OwnedFd) -> Option<Self::File> {
        None
    }

    /// A reference to the object `name` in `dir` that outlives the name.
    fn hold(&self, dir: &Self::Dir, name: &[u8]) -> Result<Self::File>;

    /// Reads at `offset` into `buf`; returns the number of bytes, fewer than `buf` only at the end of the file.
    fn read_at(&self, file: &Self::File, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// The next data or hole at or after `offset`; `ENXIO` past the end (lseek(2)).
    fn seek(&self, file: &Self::File, offset: u64, what: Seek) -> Result<u64>;

    /// The inode flags of FS_IOC_GETFLAGS. `EOPNOTSUPP` or `ENOTTY` where the filesystem has none.
    fn inode_flags(&self, at: At<'_, Self>) -> Result<u32>;

    /// What fs-verity says of the content of a file, open for reading; `None` if it says nothing.
    fn verity(&self, _file: &Self::File) -> Result<Option<mark::Digest>> {
        Ok(None)
    }

    /// The filesystem's handle of an object, `None` where it has none (name_to_handle_at(2)).
    fn handle(&self, at: At<'_, Self>) -> Result<Option<Handle>>;

    /// The object behind a handle of this layer's filesystem: its attributes, or `None` if it is gone or
    /// handles cannot be resolved here (`open_by_handle_at(2)` needs CAP_DAC_READ_SEARCH).
    fn resolve(&self, handle: &Handle) -> Result<Option<Stat>>;

    /// Sizes and limits of the filesystem.
    fn statfs(&self) -> Result<StatFs>;
}

/// Changes of the writable layer. Every method is one atomic change.
pub trait UpperLayer: Layer {
    /// The staging directory: `<workdir>/work`, same filesystem as the root, invisible to users.
    fn work(&self) -> &Self::Dir;

    /// Creates the regular file `name` exclusively and opens it for reading and writing.
    ///
    /// `mode` holds the permission bits as they shall be (the umask is already applied); the filesystem adds
    /// default ACLs and set-group-id inheritance of `dir`. `owner` becomes the owner as a user's own creation
    /// would (fsuid and fsgid), while the permission to do so is the mounter's.
    fn create(&self, dir: &Self::Dir, name: &[u8], mode: u32, owner: Owner) -> Result<Self::File>;

    /// Creates an unnamed regular file on the filesystem of `dir` (`O_TMPFILE`), open for reading and writing.
    /// `EOPNOTSUPP` where the filesystem has none.
    fn create_unnamed(&self, dir: &Self::Dir, mode: u32, owner: Owner) -> Result<Self::File>;

    /// Creates a directory.
    fn make_dir(&self, dir: &Self::Dir, name: &[u8], mode: u32, owner: Owner) -> Result<()>;

    /// Creates a fifo, socket, device or empty regular file. `kind` is never `Dir` or `Symlink`.
    fn make_node(
        &self,
        dir: &Self::Dir,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: Rdev,
        owner: Owner,
    ) -> Result<()>;

    /// Creates a symlink to `target`.
    fn make_symlink(&self, dir: &Self::Dir, name: &[u8], target: &[u8], owner: Owner) -> Result<()>;

    /// Gives an existing non-directory another name; also for unnamed files ([`At::Open`]).
    fn link(&self, from: At<'_, Self>, dir: &Self::Dir, name: &[u8]) -> Result<()>;

    /// Removes a non-directory.
    fn unlink(&self, dir: &Self::Dir, name: &[u8]) -> Result<()>;

    /// Removes an empty directory.
    fn rmdir(&self, dir: &Self::Dir, name: &[u8]) -> Result<()>;

    /// Renames (renameat2(2)). Handles of a renamed directory stay valid and follow it.
    fn rename(&self, from: (&Self::Dir, &[u8]), to: (&Self::Dir, &[u8]), how: Rename) -> Result<()>;

    /// Writes `data` at `offset`; returns the number of bytes written.
    fn write_at(&self, file: &Self::File, data: &[u8], offset: u64) -> Result<usize>;

    /// Sets the size of a regular file.
    fn set_len(&self, at: At<'_, Self>, size: u64) -> Result<()>;

    /// fallocate(2); `mode` holds its FALLOC_FL_* bits.
    fn allocate(&self, file: &Self::File, mode: u32, offset: u64, len: u64) -> Result<()>;

    /// copy_file_range(2) within the filesystem; returns the number of bytes copied.
    fn copy_range(&self, from: (&Self::File, u64), to: (&Self::File, u64), len: u64) -> Result<u64>;

    /// Copies the data of `from` (of any layer) into the empty `to`: as a clone where the filesystem can, else
    /// by copy_file_range, else by reading and writing; holes stay holes and the size becomes `size`.
    ///
    /// `go_on` is asked before each piece; once it says no, this fails with `EINTR`, and `to` holds some of the data.
    fn copy_data(
        &self,
        from: &Self::File,
        to: &Self::File,
        size: u64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<()>;

    /// Sets permission bits, set-id bits and sticky bit. Symlinks: `EOPNOTSUPP`.
    fn set_mode(&self, at: At<'_, Self>, mode: u32) -> Result<()>;

    /// Sets owner and group; `None` leaves as is.
    fn set_owner(&self, at: At<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> Result<()>;

    /// Gives a copy, which was `made` so, the owner of the object `from` of the layer `layer`, whose attributes are
    /// `stat`. Returns whether that changed anything.
    fn copy_owner(
        &self,
        at: At<'_, Self>,
        made: &Stat,
        _layer: &Self,
        _from: At<'_, Self>,
        stat: &Stat,
    ) -> Result<bool> {
        let uid = (made.uid != stat.uid).then_some(stat.uid);
        let gid = (made.gid != stat.gid).then_some(stat.gid);
        if uid.is_none() && gid.is_none() {
            return Ok(false);
        }
        self.set_owner(at, uid, gid).map(|()| true)
    }

    /// Sets access and modification time.
    fn set_times(&self, at: At<'_, Self>, atime: SetTime, mtime: SetTime) -> Result<()>;

    /// Sets an extended attribute.
    fn set_xattr(&self, at: At<'_, Self>, name: &[u8], value: &[u8], how: SetXattr) -> Result<()>;

    /// Removes an extended attribute; `ENODATA` if there is none.
    fn remove_xattr(&self, at: At<'_, Self>, name: &[u8]) -> Result<()>;

    /// Sets the inode flags of FS_IOC_SETFLAGS.
    fn set_inode_flags(&self, at: At<'_, Self>, flags: u32) -> Result<()>;

    /// Makes a file's content (and, unless `data_only`, its metadata) durable.
    fn sync(&self, at: At<'_, Self>, data_only: bool) -> Result<()>;

    /// Makes sure that no name or change that `file`, open for writing, gets after this call survives a crash without
    /// the data that was written before. The file itself need not be durable then, so this can be much cheaper than
    /// [`sync`](UpperLayer::sync).
    fn put_data_first(&self, file: &Self::File) -> Result<()>;

    /// Whether a name survives a crash only together with the length that its file had when it got the name.
    fn orders_lengths(&self) -> bool {
        false
    }

    /// Whether writing a file's data in the background has failed since it was opened; starts no writing.
    ///
    /// # Errors
    /// Why it has failed.
    fn failed_writes(&self, _file: &Self::File) -> Result<()> {
        Ok(())
    }

    /// Makes the whole filesystem durable (syncfs(2)).
    fn sync_fs(&self) -> Result<()>;
}
