//! Changes of a writable directory layer.

use super::name::Name;
use super::read::access_flags;
use super::target::Target;
use super::{Dir, DirLayer, File, copy};
use crate::{Access, At, Errno, Kind, Layer, Owner, Rdev, Rename, Result, SetTime, SetXattr, UpperLayer};
use acetate_sys::creds::ActAs;
use acetate_sys::open::{open_below, set_mode};
use acetate_sys::{retry, xattr};
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, IFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// mkdir(2) ignores these bits.
const SET_ID_BITS: u32 = 0o6000;

impl UpperLayer for DirLayer {
    fn work(&self) -> &Dir {
        &self.work
    }

    fn create(&self, dir: &Dir, name: &[u8], mode: u32, owner: Owner) -> Result<File> {
        let (fd, name) = self.entry(dir, name)?;
        let _acting = act_as(owner)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let fd = open_below(fd.as_fd(), name.as_c_str(), flags, Mode::from_raw_mode(mode))?;
        Ok(File { fd, access: Some(Access::ReadWrite) })
    }

    fn create_unnamed(&self, dir: &Dir, mode: u32, owner: Owner) -> Result<File> {
        self.writable()?;
        let fd = dir.descriptor()?;
        let _acting = act_as(owner)?;
        let flags = OFlags::RDWR | OFlags::TMPFILE;
        match open_below(fd.as_fd(), c".", flags, Mode::from_raw_mode(mode)) {
            // Kernels without it see only its directory part (open(2)).
            Err(Errno::ISDIR) => Err(Errno::OPNOTSUPP),
            fd => Ok(File { fd: fd?, access: Some(Access::ReadWrite) }),
        }
    }

    fn make_dir(&self, dir: &Dir, name: &[u8], mode: u32, owner: Owner) -> Result<()> {
        let (fd, c_name) = self.entry(dir, name)?;
        let acting = act_as(owner)?;
        rustix::fs::mkdirat(&*fd, c_name.as_c_str(), Mode::from_raw_mode(mode & !SET_ID_BITS))?;
        drop(acting);
        if mode & SET_ID_BITS == 0 {
            return Ok(());
        }
        let set = self
            .stat(At::Name(dir, name))
            .and_then(|stat| set_mode(fd.as_fd(), c_name.as_c_str(), stat.mode | mode & SET_ID_BITS));
        if set.is_err() {
            // As if it had never been; if even this fails, its error is the more serious one.
            rustix::fs::unlinkat(&*fd, c_name.as_c_str(), AtFlags::REMOVEDIR)?;
        }
        set
    }

    fn make_node(
        &self,
        dir: &Dir,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: Rdev,
        owner: Owner,
    ) -> Result<()> {
        let kind = match kind {
            Kind::File => FileType::RegularFile,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Dir | Kind::Symlink => return Err(Errno::INVAL),
        };
        let (fd, name) = self.entry(dir, name)?;
        let _acting = act_as(owner)?;
        let rdev = rustix::fs::makedev(rdev.major, rdev.minor);
        rustix::fs::mknodat(&*fd, name.as_c_str(), kind, Mode::from_raw_mode(mode), rdev)
    }

    fn make_symlink(&self, dir: &Dir, name: &[u8], target: &[u8], owner: Owner) -> Result<()> {
        let (fd, name) = self.entry(dir, name)?;
        let _acting = act_as(owner)?;
        rustix::fs::symlinkat(target, &*fd, name.as_c_str())
    }

    fn link(&self, from: At<'_, Self>, dir: &Dir, name: &[u8]) -> Result<()> {
        let (fd, name) = self.entry(dir, name)?;
        let source = Target::of(from)?;
        match from {
            At::Dir(_) => Err(Errno::PERM),
            At::Name(..) => {
                rustix::fs::linkat(source.fd(), source.name(), &*fd, name.as_c_str(), AtFlags::empty())
            }
            At::Open(_) => acetate_sys::open::link_open(source.fd(), fd.as_fd(), name.as_c_str()),
        }
    }

    fn unlink(&self, dir: &Dir, name: &[u8]) -> Result<()> {
        let (fd, name) = self.entry(dir, name)?;
        rustix::fs::unlinkat(&*fd, name.as_c_str(), AtFlags::empty())
    }

    fn rmdir(&self, dir: &Dir, name: &[u8]) -> Result<()> {
        self.writable()?;
        let c_name = Name::component(name)?;
        dir.removing(name, |fd| rustix::fs::unlinkat(fd, c_name.as_c_str(), AtFlags::REMOVEDIR))
    }

    fn rename(&self, from: (&Dir, &[u8]), to: (&Dir, &[u8]), how: Rename) -> Result<()> {
        self.writable()?;
        let names = (Name::component(from.1)?, Name::component(to.1)?);
        let flags = match how {
            Rename::Replace => RenameFlags::empty(),
            Rename::NoReplace => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
            Rename::Whiteout => RenameFlags::WHITEOUT,
        };
        Dir::renaming(from, to, how == Rename::Exchange, |source, target| {
            rustix::fs::renameat_with(source, names.0.as_c_str(), target, names.1.as_c_str(), flags)
        })
    }

    fn write_at(&self, file: &File, data: &[u8], offset: u64) -> Result<usize> {
        self.writable()?;
        retry(|| rustix::io::pwrite(file, data, offset))
    }

    fn set_len(&self, at: At<'_, Self>, size: u64) -> Result<()> {
        self.writable()?;
        if let At::Open(file) = at
            && file.is_writable()
        {
            return retry(|| rustix::fs::ftruncate(file, size));
        }
        if let At::Open(file) = at {
            return retry(|| acetate_sys::open::set_len(file.as_fd(), size));
        }
        let object = self.open_object(at, OFlags::PATH)?;
        retry(|| acetate_sys::open::set_len(object.as_fd(), size))
    }

    fn allocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.writable()?;
        retry(|| rustix::fs::fallocate(file, FallocateFlags::from_bits_retain(mode), offset, len))
    }

    fn copy_range(&self, from: (&File, u64), to: (&File, u64), len: u64) -> Result<u64> {
        self.writable()?;
        copy::range(from, to, len)
    }

    fn copy_data(&self, from: &File, to: &File, size: u64, go_on: &dyn Fn() -> bool) -> Result<()> {
        self.writable()?;
        copy::data(from, to, size, &self.cannot_clone, go_on)
    }

    fn set_mode(&self, at: At<'_, Self>, mode: u32) -> Result<()> {
        self.writable()?;
        let target = Target::of(at)?;
        set_mode(target.fd(), target.name(), mode)
    }

    fn set_owner(&self, at: At<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.writable()?;
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            // The call would take it as "leave as is".
            return Err(Errno::INVAL);
        }
        let target = Target::of(at)?;
        let ids = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(target.fd(), target.name(), ids.0, ids.1, target.flags())
    }

    fn set_times(&self, at: At<'_, Self>, atime: SetTime, mtime: SetTime) -> Result<()> {
        self.writable()?;
        let target = Target::of(at)?;
        let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
        acetate_sys::open::set_times(target.fd(), target.name(), &times)
    }

    fn set_xattr(&self, at: At<'_, Self>, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        self.writable()?;
        let flags = match how {
            SetXattr::Any => XattrFlags::empty(),
            SetXattr::Create => XattrFlags::CREATE,
            SetXattr::Replace => XattrFlags::REPLACE,
        };
        let name = Name::any(name)?;
        xattr::set(Target::of(at)?.xattr(), name.as_c_str(), value, flags)
    }

    fn remove_xattr(&self, at: At<'_, Self>, name: &[u8]) -> Result<()> {
        self.writable()?;
        let name = Name::any(name)?;
        xattr::remove(Target::of(at)?.xattr(), name.as_c_str())
    }

    fn set_inode_flags(&self, at: At<'_, Self>, flags: u32) -> Result<()> {
        self.writable()?;
        let fd = self.open_for_flags(at)?;
        rustix::fs::ioctl_setflags(fd, IFlags::from_bits_retain(flags))
    }

    fn sync(&self, at: At<'_, Self>, data_only: bool) -> Result<()> {
        self.writable()?;
        let opened;
        let fd = match at {
            At::Open(file) if file.access.is_some() => file.as_fd(),
            _ => {
                opened = match self.stat(at)?.kind {
                    Kind::File | Kind::Dir => {
                        self.open_object(at, access_flags(Access::Read) | OFlags::NONBLOCK)?
                    }
                    // fsync(2) says so of what has no data.
                    _ => return Err(Errno::INVAL),
                };
                opened.as_fd()
            }
        };
        retry(|| if data_only { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) })
    }

    fn orders_lengths(&self) -> bool {
        self.orders_lengths
    }

    fn put_data_first(&self, file: &File) -> Result<()> {
        self.writable()?;
        if self.orders_names {
            return acetate_sys::writeback::write_pages(file.as_fd());
        }
        self.sync(At::Open(file), false)
    }

    fn failed_writes(&self, file: &File) -> Result<()> {
        self.writable()?;
        acetate_sys::writeback::failed_writes(file.as_fd())
    }

    fn sync_fs(&self) -> Result<()> {
        self.writable()?;
        rustix::fs::syncfs(&*self.full()?)
    }
}

impl DirLayer {
    /// A name to create or remove.
    fn entry(&self, dir: &Dir, name: &[u8]) -> Result<(Arc<OwnedFd>, Name)> {
        self.writable()?;
        Ok((dir.descriptor()?, Name::component(name)?))
    }
}

/// Makes the thread create as `owner` until the result is dropped.
fn act_as(owner: Owner) -> Result<Option<ActAs>> {
    match owner {
        Owner::Mounter => Ok(None),
        Owner::User { uid, gid } => ActAs::user(uid, gid).map(Some),
    }
}

fn timespec(time: SetTime) -> Timespec {
    match time {
        SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        SetTime::To(time) => Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() },
    }
}
