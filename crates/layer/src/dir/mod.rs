//! A layer that is a directory of this machine.
//!
//! Nothing outside the directory can be reached: every name is one component, opened without following symlinks or
//! crossing mounts. Lower layers are read through a private, read-only copy of their mount where we may make one.
//!
//! A writable layer is opened in steps, because the work directory has to be cleaned and made first, which is not
//! this module's business:
//! ```no_run
//! # use acetate_layer::{Layer, UpperLayer, Owner, Errno, dir::DirLayer};
//! # use std::path::Path;
//! # fn main() -> Result<(), Errno> {
//! let mut layer = DirLayer::open_upper(Path::new("/upper"))?;
//! let workdir = layer.open_workdir(Path::new("/workdir"))?;
//! layer.make_dir(&workdir, b"work", 0, Owner::Mounter)?;
//! layer.set_work(layer.open_dir(&workdir, b"work")?);
//! # Ok(())
//! # }
//! ```

mod cache;
mod copy;
mod features;
mod file;
mod handle;
mod name;
mod read;
mod target;
mod write;

#[cfg(test)]
mod tests;

pub use cache::DirCache;
pub use features::{Features, Handles, UpperFeatures};
pub use file::File;
pub use handle::Dir;

use crate::{Errno, FsId, Result};
use acetate_sys::mount::private_read_only_copy;
use acetate_sys::open::{open_below, reopen};
use acetate_sys::writeback::{orders_lengths, orders_names_behind_pages};
use acetate_sys::{ident, retry};
use handle::{HOLD_DIR, Id};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, openat, statx};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

/// A directory tree as a layer.
#[derive(Debug)]
pub struct DirLayer {
    root: Dir,
    role: Role,
    filesystem: FsId,
    /// UUID of the filesystem, zeros if it has none.
    uuid: OnceLock<[u8; 16]>,
    /// A full descriptor of the root, for calls that refuse `O_PATH`; opened when first needed.
    full: Mutex<Option<Arc<OwnedFd>>>,
    /// open_by_handle_at(2) has said `EPERM`: there is no use in asking again.
    handles_refused: AtomicBool,
    /// The filesystem has said that files cannot share data.
    cannot_clone: AtomicBool,
    /// The filesystem says of every file that it cannot be changed, which says nothing of the file.
    calls_all_immutable: bool,
    /// The filesystem writes a name to the disk only after the data that was written before.
    orders_names: bool,
    /// It writes a name only with the length of the file.
    orders_lengths: bool,
    /// Where objects are staged; nothing until it is set.
    work: Dir,
}

/// What a layer is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Reading, through a copy of the mount that keeps access times as they are.
    LowerCopy,
    /// Reading, through the mount itself.
    Lower,
    /// Reading and writing.
    Upper,
}

impl DirLayer {
    /// Opens a directory as a lower layer. A symlink at `path` is followed.
    ///
    /// Where we may, its mount is copied: then what is mounted below it is not visible, as in a kernel overlay, and
    /// access times stay. Else opening what something is mounted on fails with `EXDEV`.
    ///
    /// # Errors
    /// `ENOTDIR` if it is none; else those of openat(2).
    pub fn open_lower(path: &Path) -> Result<DirLayer> {
        DirLayer::open_lower_in(path, &DirCache::common())
    }

    /// [`DirLayer::open_lower`] with a descriptor cache of one's own.
    ///
    /// # Errors
    /// As there.
    pub fn open_lower_in(path: &Path, cache: &Arc<DirCache>) -> Result<DirLayer> {
        // Why the copy failed does not matter: if it is the path, the plain open says so.
        match private_read_only_copy(path) {
            Ok(copy) if is_dir(&copy)? => DirLayer::new(copy, Role::LowerCopy, cache),
            Ok(_) => Err(Errno::NOTDIR),
            Err(_) => DirLayer::open_lower_plain(path, cache),
        }
    }

    /// Opens a lower layer without copying its mount.
    fn open_lower_plain(path: &Path, cache: &Arc<DirCache>) -> Result<DirLayer> {
        DirLayer::new(open_path(path)?, Role::Lower, cache)
    }

    /// Opens a directory as a writable layer, still without a staging directory. A symlink at `path` is followed.
    ///
    /// Sets the umask of the process to zero: the creating methods take final modes.
    ///
    /// # Errors
    /// `ENOTDIR` if it is no directory; else those of openat(2).
    pub fn open_upper(path: &Path) -> Result<DirLayer> {
        DirLayer::open_upper_in(path, &DirCache::common())
    }

    /// [`DirLayer::open_upper`] with a descriptor cache of one's own.
    ///
    /// # Errors
    /// As there.
    pub fn open_upper_in(path: &Path, cache: &Arc<DirCache>) -> Result<DirLayer> {
        acetate_sys::process::clear_umask();
        DirLayer::new(open_path(path)?, Role::Upper, cache)
    }

    /// Opens the work directory of this writable layer. Its handle takes part in all methods, so that it can be
    /// prepared with them; objects can be renamed between it and the root.
    ///
    /// # Errors
    /// `EINVAL` if it is not on the same mount, or one of the two is the other or below it; `EROFS` for a lower
    /// layer; `ENOTDIR` if it is no directory; else those of openat(2).
    pub fn open_workdir(&self, path: &Path) -> Result<Dir> {
        self.writable()?;
        let workdir = open_path(path)?;
        let root = self.root.descriptor()?;
        if !same_mount(&root, &workdir)? || is_below(&workdir, &root)? || is_below(&root, &workdir)? {
            return Err(Errno::INVAL);
        }
        Dir::root(workdir, self.root.cache())
    }

    /// Sets the staging directory, a handle got below [`DirLayer::open_workdir`]. Until then staging fails with
    /// `ESTALE`.
    pub fn set_work(&mut self, work: Dir) {
        self.work = work;
    }

    /// Whether what is mounted below this layer is hidden from it, as the kernel does (see
    /// [`DirLayer::open_lower`]).
    pub fn hides_submounts(&self) -> bool {
        self.role == Role::LowerCopy
    }

    fn new(root: OwnedFd, role: Role, cache: &Arc<DirCache>) -> Result<DirLayer> {
        let filesystem = filesystem_of(&root)?;
        let orders_names = role == Role::Upper && orders_names_behind_pages(root.as_fd())?;
        let orders_lengths = role == Role::Upper && (orders_names || orders_lengths(root.as_fd())?);
        let calls_all_immutable = is_erofs(&root)?;
        Ok(DirLayer {
            root: Dir::root(root, cache.clone())?,
            role,
            filesystem,
            calls_all_immutable,
            uuid: OnceLock::new(),
            full: Mutex::new(None),
            handles_refused: AtomicBool::new(false),
            cannot_clone: AtomicBool::new(false),
            orders_names,
            orders_lengths,
            work: Dir::nothing(),
        })
    }

    /// `EROFS` unless this is a writable layer.
    fn writable(&self) -> Result<()> {
        if self.role == Role::Upper { Ok(()) } else { Err(Errno::ROFS) }
    }

    /// Opens a directory to list it. Its access time stays, in upper too: the kernel's overlayfs lists a directory once
    /// for all its readers.
    fn open_to_list(&self, dir: &OwnedFd) -> Result<OwnedFd> {
        let open = |flags| match open_below(dir.as_fd(), c".", flags, Mode::empty()) {
            // Its name in itself is for those who may search it.
            Err(Errno::ACCESS) => reopen(dir.as_fd(), flags),
            other => other,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags),
            other => other,
        }
    }

    /// Opens `name` in a directory for reading or writing, keeping its access time if this is a lower layer.
    fn open_at(&self, dir: &OwnedFd, name: &std::ffi::CStr, flags: OFlags) -> Result<OwnedFd> {
        self.keeping_atime(flags, |flags| open_below(dir.as_fd(), name, flags, Mode::empty()))
    }

    /// Opens with `O_NOATIME` where that keeps a promise, and without if it is not our file (open(2)).
    fn keeping_atime(&self, flags: OFlags, open: impl Fn(OFlags) -> Result<OwnedFd>) -> Result<OwnedFd> {
        if self.role == Role::Lower {
            match open(flags | OFlags::NOATIME) {
                Err(Errno::PERM) => {}
                other => return other,
            }
        }
        open(flags)
    }

    /// A full descriptor of the root.
    fn full(&self) -> Result<Arc<OwnedFd>> {
        let mut full = self.full.lock();
        if let Some(full) = &*full {
            return Ok(full.clone());
        }
        let root = self.root.descriptor()?;
        let opened = Arc::new(self.open_at(&root, c".", OFlags::RDONLY | OFlags::DIRECTORY)?);
        Ok(full.insert(opened).clone())
    }

    /// The UUID of the filesystem, zeros if it has none.
    fn uuid(&self) -> Result<[u8; 16]> {
        if let Some(uuid) = self.uuid.get() {
            return Ok(*uuid);
        }
        let uuid = match ident::fs_uuid(self.full()?.as_fd()) {
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => [0; 16],
            other => other?,
        };
        Ok(*self.uuid.get_or_init(|| uuid))
    }
}

/// Whether the directory `inner` is `outer` or below it. Symlinks at both paths are followed.
///
/// # Errors
/// `ENOTDIR` if one is no directory; else those of openat(2).
pub fn is_within(inner: &Path, outer: &Path) -> Result<bool> {
    is_below(&open_path(inner)?, &open_path(outer)?)
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    retry(|| openat(CWD, path.as_os_str().as_bytes(), HOLD_DIR | OFlags::CLOEXEC, Mode::empty()))
}

fn is_dir(fd: &OwnedFd) -> Result<bool> {
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory)
}

/// Whether two objects are on the same mount. Kernels before 5.8 do not tell; then the filesystem has to do.
fn same_mount(a: &OwnedFd, b: &OwnedFd) -> Result<bool> {
    let [a, b] = [a, b].map(|fd| statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID));
    let (a, b) = (a?, b?);
    let told = [&a, &b].iter().all(|stat| stat.stx_mask & StatxFlags::MNT_ID.bits() != 0);
    let same_dev = (a.stx_dev_major, a.stx_dev_minor) == (b.stx_dev_major, b.stx_dev_minor);
    Ok(same_dev && (!told || a.stx_mnt_id == b.stx_mnt_id))
}

/// Whether `inner` is `outer` or below it: goes up until the root of the namespace, or until we may not.
fn is_below(inner: &OwnedFd, outer: &OwnedFd) -> Result<bool> {
    let outer = Id::of(outer)?;
    let mut current = Id::of(inner)?;
    let mut above = None;
    while current != outer {
        let from = above.as_ref().unwrap_or(inner);
        let next = match openat(from, c"..", HOLD_DIR | OFlags::CLOEXEC, Mode::empty()) {
            // Who may not pass cannot have come this way either.
            Err(Errno::ACCESS) => return Ok(false),
            other => other?,
        };
        let id = Id::of(&next)?;
        if id == current {
            return Ok(false);
        }
        current = id;
        above = Some(next);
    }
    Ok(true)
}

/// Whether the filesystem is that of a FUSE server.
fn is_fuse(root: &OwnedFd) -> Result<bool> {
    /// linux/magic.h, `FUSE_SUPER_MAGIC`
    const FUSE: u64 = 0x6573_5546;
    Ok(magic(root)? == FUSE)
}

/// The number that tells types of filesystems apart (statfs(2)).
fn magic(root: &OwnedFd) -> Result<u64> {
    let filesystem = acetate_sys::retry(|| rustix::fs::fstatfs(root))?;
    // The type of the number is the architecture's.
    Ok(u64::try_from(filesystem.f_type).map_or(0, |kind| kind & 0xFFFF_FFFF))
}

/// Whether the filesystem is erofs. It has the attribute `immutable` on everything, because nothing can be written there
/// (fs/erofs/inode.c, `erofs_getattr`); the kernel's overlayfs goes by the flags of inodes, which it leaves alone.
fn is_erofs(root: &OwnedFd) -> Result<bool> {
    /// linux/magic.h, `EROFS_SUPER_MAGIC_V1`
    const EROFS: u64 = 0xE0F5_E1E2;
    Ok(magic(root)? == EROFS)
}

/// The id of the filesystem: its device number, but for btrfs, whose subvolumes each have one of their own.
fn filesystem_of(root: &OwnedFd) -> Result<FsId> {
    let stat = statx(root, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    if ident::is_btrfs(root.as_fd())? {
        let full = open_below(root.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let uuid = u128::from_le_bytes(ident::fs_uuid(full.as_fd())?);
        // The top bit keeps it apart from device numbers.
        return Ok(FsId((uuid ^ (uuid >> 64)) as u64 | 1 << 63));
    }
    Ok(FsId(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)))
}
