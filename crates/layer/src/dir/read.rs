//! Reads of a directory layer.

use super::handle::Id;
use super::name::Name;
use super::target::Target;
use super::{Dir, DirLayer, File, Role};
use crate::mark::Digest;
use crate::{Access, At, Errno, FsId, Handle, Kind, Layer, RawEntry, Rdev, Result, Seek, Stat, StatFs, Time};
use acetate_sys::open::{open_below, reopen};
use acetate_sys::{retry, xattr};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Statx, StatxAttributes, StatxFlags, StatxTimestamp,
    statx,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

/// How much of a directory is read at once: as much as the kernel returns for large ones without much memory.
const LIST_BYTES: usize = 64 * 1024;
/// Most attribute values fit; longer ones cost two calls more.
const XATTR_BYTES: usize = 256;

impl Layer for DirLayer {
    type Dir = Dir;
    type File = File;

    fn root(&self) -> &Dir {
        &self.root
    }

    fn filesystem(&self) -> FsId {
        self.filesystem
    }

    fn stat(&self, at: At<'_, Self>) -> Result<Stat> {
        let target = Target::of(at)?;
        let stat = raw_stat(&target)?;
        if matches!(at, At::Name(..)) && stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            // This is the root of what is mounted there, which is not of this layer.
            return Err(Errno::XDEV);
        }
        convert(&stat, self.calls_all_immutable)
    }

    fn open_dir(&self, dir: &Dir, name: &[u8]) -> Result<Dir> {
        dir.open(name)
    }

    fn known_dir(&self, dir: &Dir, name: &[u8], stat: &Stat) -> Result<Dir> {
        dir.known(name, Id::from_stat(stat))
    }

    fn list(&self, dir: &Dir, each: &mut dyn FnMut(RawEntry<'_>)) -> Result<()> {
        // A descriptor of its own, as its offset is.
        let opened = self.open_to_list(&*dir.descriptor()?)?;
        let mut buffer = Vec::with_capacity(LIST_BYTES);
        let mut entries = RawDir::new(opened, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                each(RawEntry { name, ino: entry.ino(), kind: kind_of(entry.file_type()).ok() });
            }
        }
        Ok(())
    }

    fn read_link(&self, at: At<'_, Self>) -> Result<Vec<u8>> {
        let target = Target::of(at)?;
        Ok(rustix::fs::readlinkat(target.fd(), target.name(), Vec::new())?.into_bytes())
    }

    fn get_xattr(&self, at: At<'_, Self>, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let name = Name::any(name)?;
        let target = Target::of(at)?;
        match read_all(|buffer| xattr::get(target.xattr(), name.as_c_str(), buffer)) {
            Err(Errno::NODATA) => Ok(None),
            other => other.map(Some),
        }
    }

    fn list_xattrs(&self, at: At<'_, Self>) -> Result<Vec<Vec<u8>>> {
        let target = Target::of(at)?;
        let names = read_all(|buffer| xattr::list(target.xattr(), buffer))?;
        Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    fn open_file(&self, at: At<'_, Self>, access: Access) -> Result<File> {
        if access != Access::Read {
            self.writable()?;
        }
        // What turns out to be a fifo or a device shall neither block nor take over a terminal.
        let fd = self.open_object(at, access_flags(access) | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        match kind_of_open(fd.as_fd())? {
            Kind::File => Ok(File { fd, access: Some(access) }),
            Kind::Dir => Err(Errno::ISDIR),
            _ => Err(Errno::NXIO),
        }
    }

    fn keep_atime(&self, file: &File) -> Result<()> {
        let flags = rustix::fs::fcntl_getfl(file)?;
        rustix::fs::fcntl_setfl(file, flags | OFlags::NOATIME)
    }

    fn descriptor<'a>(&self, file: &'a File) -> Option<BorrowedFd<'a>> {
        Some(file.as_fd())
    }

    fn lend<'a>(&self, file: &'a File) -> Option<BorrowedFd<'a>> {
        // Whoever opens a file anew by it reads without O_NOATIME: only a copy of the mount keeps access times then.
        (self.role != Role::Lower).then(|| file.as_fd())
    }

    fn reopen(&self, fd: OwnedFd) -> Option<File> {
        let flags = rustix::fs::fcntl_getfl(&fd).ok()?;
        let access = match flags & OFlags::ACCMODE {
            _ if flags.contains(OFlags::PATH) => None,
            OFlags::RDWR => Some(Access::ReadWrite),
            OFlags::WRONLY => Some(Access::Write),
            _ => Some(Access::Read),
        };
        Some(File { fd, access })
    }

    fn hold(&self, dir: &Dir, name: &[u8]) -> Result<File> {
        let name = Name::component(name)?;
        let fd = open_below(dir.descriptor()?.as_fd(), name.as_c_str(), OFlags::PATH, Mode::empty())?;
        Ok(File { fd, access: None })
    }

    fn read_at(&self, file: &File, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(file, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                // What was read before counts; the error comes again if the caller goes on.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn seek(&self, file: &File, offset: u64, what: Seek) -> Result<u64> {
        rustix::fs::seek(
            file,
            match what {
                Seek::Data => SeekFrom::Data(offset),
                Seek::Hole => SeekFrom::Hole(offset),
            },
        )
    }

    fn inode_flags(&self, at: At<'_, Self>) -> Result<u32> {
        // What is open for its data is a regular file.
        if let At::Open(file) = at
            && file.access.is_some()
        {
            return Ok(rustix::fs::ioctl_getflags(file)?.bits());
        }
        let fd = self.open_for_flags(at)?;
        Ok(rustix::fs::ioctl_getflags(fd)?.bits())
    }

    fn verity(&self, file: &File) -> Result<Option<Digest>> {
        let measured = acetate_sys::verity::measure(file.as_fd())?;
        // The format has one byte for it.
        Ok(measured.and_then(|(algorithm, bytes)| {
            u8::try_from(algorithm).ok().map(|algorithm| Digest { algorithm, bytes })
        }))
    }

    fn handle(&self, at: At<'_, Self>) -> Result<Option<Handle>> {
        let target = Target::of(at)?;
        let (kind, bytes) = match acetate_sys::handle::of(target.fd(), target.name()) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::OVERFLOW) => return Ok(None),
            other => other?,
        };
        // The kernel's own overlay stores the type in one byte, and 255 means that there is none (FILEID_INVALID).
        let Some(kind) = u8::try_from(kind).ok().filter(|&kind| kind != u8::MAX) else { return Ok(None) };
        Ok(Some(Handle { kind, bytes, uuid: self.uuid()? }))
    }

    fn resolve(&self, handle: &Handle) -> Result<Option<Stat>> {
        if self.handles_refused.load(Ordering::Relaxed) || handle.uuid != self.uuid()? {
            return Ok(None);
        }
        let full = self.full()?;
        match acetate_sys::handle::open(full.as_fd(), handle.kind.into(), &handle.bytes) {
            Ok(fd) => {
                let stat = statx(fd, c"", AtFlags::EMPTY_PATH, STAT_MASK)?;
                // Deleted but still open somewhere: gone all the same.
                if stat.stx_nlink == 0 {
                    Ok(None)
                } else {
                    convert(&stat, self.calls_all_immutable).map(Some)
                }
            }
            // EINVAL: not a handle of this filesystem's; EOPNOTSUPP: it has none.
            Err(Errno::STALE | Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
            Err(Errno::PERM | Errno::NOSYS) => {
                self.handles_refused.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn statfs(&self) -> Result<StatFs> {
        let stat = rustix::fs::fstatvfs(&*self.root.descriptor()?)?;
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(StatFs {
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            bsize: small(stat.f_bsize),
            namelen: small(stat.f_namemax),
            frsize: small(stat.f_frsize),
        })
    }
}

impl DirLayer {
    /// Opens an object with `flags`, never following a symlink.
    pub(super) fn open_object(&self, at: At<'_, Self>, flags: OFlags) -> Result<OwnedFd> {
        let open = |flags| match at {
            At::Dir(dir) => self.open_at(&*dir.descriptor()?, c".", flags),
            At::Name(dir, name) => {
                self.open_at(&*dir.descriptor()?, Name::component(name)?.as_c_str(), flags)
            }
            At::Open(file) => self.keeping_atime(flags, |flags| reopen(file.as_fd(), flags)),
        };
        match open(flags) {
            // Somebody holds a lease on a regular file: wait for it. A fifo never says this of an open.
            Err(Errno::AGAIN) if self.stat(at)?.kind == Kind::File => open(flags - OFlags::NONBLOCK),
            other => other,
        }
    }

    /// Opens what has inode flags: regular files and directories (`ENOTTY` for all else, which is not opened).
    pub(super) fn open_for_flags(&self, at: At<'_, Self>) -> Result<OwnedFd> {
        match self.stat(at)?.kind {
            Kind::File | Kind::Dir => {
                self.open_object(at, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
            }
            _ => Err(Errno::NOTTY),
        }
    }
}

/// The open flags of an access.
pub(super) fn access_flags(access: Access) -> OFlags {
    match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
        Access::ReadWrite => OFlags::RDWR,
    }
}

/// What [`Stat`] needs.
const STAT_MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

fn raw_stat(target: &Target<'_>) -> Result<Statx> {
    let flags = target.flags() | AtFlags::NO_AUTOMOUNT;
    retry(|| statx(target.fd(), target.name(), flags, STAT_MASK))
}

fn kind_of_open(fd: BorrowedFd<'_>) -> Result<Kind> {
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    kind_of(FileType::from_raw_mode(stat.stx_mode.into()))
}

/// # Errors
/// `EIO` for a type that Linux does not have.
fn kind_of(kind: FileType) -> Result<Kind> {
    Ok(match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return Err(Errno::IO),
    })
}

fn convert(stat: &Statx, calls_all_immutable: bool) -> Result<Stat> {
    let time = |time: StatxTimestamp| Time { sec: time.tv_sec, nsec: time.tv_nsec };
    let mode = u32::from(stat.stx_mode);
    Ok(Stat {
        kind: kind_of(FileType::from_raw_mode(mode))?,
        mode: mode & 0o7777,
        ino: stat.stx_ino,
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: Rdev { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor },
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        blksize: stat.stx_blksize,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        btime: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(stat.stx_btime)),
        immutable: !calls_all_immutable && stat.stx_attributes.contains(StatxAttributes::IMMUTABLE),
        append_only: stat.stx_attributes.contains(StatxAttributes::APPEND),
    })
}

/// Reads something whose length is not known: `read` fills the buffer, or returns the length if it is empty.
fn read_all(mut read: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut small = [0; XATTR_BYTES];
    match read(&mut small) {
        Err(Errno::RANGE) => {}
        length => return Ok(small[..length?].to_vec()),
    }
    loop {
        let mut buffer = vec![0; read(&mut [])?];
        if buffer.is_empty() {
            return Ok(buffer);
        }
        match read(&mut buffer) {
            // It has grown in between.
            Err(Errno::RANGE) => {}
            length => {
                buffer.truncate(length?);
                return Ok(buffer);
            }
        }
    }
}
