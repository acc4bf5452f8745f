//! The layer traits over a filesystem in memory.

use super::data::BLOCK;
use super::state::{APPEND, Body, IMMUTABLE, Inode, New, SET_GID, SET_UID, State, check_target};
use super::{MemDir, MemFile, MemFs, MemLayer, xattr};
use crate::{
    Access, At, Errno, FsId, Handle, Kind, Layer, Owner, RawEntry, Rdev, Rename, Result, Seek, SetTime,
    SetXattr, Stat, StatFs, Time, UpperLayer, acl,
};

const HANDLE_KIND: u8 = 0x81;
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 0x10;
const COPY_CHUNK: usize = 1 << 16;

/// The inode of a directory of this filesystem. A handle of another one is a mistake of the caller: `EXDEV`.
fn own(fs: &MemFs, dir: &MemDir) -> Result<u64> {
    if dir.fs.is(fs) { Ok(dir.ino) } else { Err(Errno::XDEV) }
}

fn find(fs: &MemFs, state: &State, at: At<'_, MemLayer>) -> Result<u64> {
    match at {
        At::Dir(dir) => own(fs, dir),
        At::Name(dir, name) => state.find(own(fs, dir)?, name),
        At::Open(file) if file.fs.is(fs) => Ok(file.ino),
        At::Open(_) => Err(Errno::XDEV),
    }
}

fn stat(layer: &MemLayer, ino: u64, inode: &Inode) -> Stat {
    let (size, blocks) = match &inode.body {
        Body::File(data) => (data.size(), data.allocated()),
        Body::Dir { .. } => (BLOCK, BLOCK / 512),
        Body::Symlink(target) => (target.len() as u64, 0),
        Body::Special => (0, 0),
    };
    Stat {
        kind: inode.kind,
        mode: inode.mode,
        ino,
        dev: layer.fs.id.0,
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        size,
        blocks,
        blksize: BLOCK as u32,
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        btime: Some(inode.btime),
        immutable: inode.flags & IMMUTABLE != 0,
        append_only: inode.flags & APPEND != 0,
    }
}

/// The filesystem's UUID: its id, repeated.
fn uuid(id: FsId) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&id.0.to_le_bytes());
    uuid[8..].copy_from_slice(&id.0.to_be_bytes());
    uuid
}

/// Names in an order that is neither sorted nor that of creation, as hashed directories have it.
fn hash(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn readable(file: &MemFile) -> Result<u64> {
    if matches!(file.access, Some(Access::Read | Access::ReadWrite)) {
        Ok(file.ino)
    } else {
        Err(Errno::BADF)
    }
}

fn writable(file: &MemFile) -> Result<u64> {
    if matches!(file.access, Some(Access::Write | Access::ReadWrite)) {
        Ok(file.ino)
    } else {
        Err(Errno::BADF)
    }
}

impl Layer for MemLayer {
    type Dir = MemDir;
    type File = MemFile;

    fn root(&self) -> &MemDir {
        &self.root
    }

    fn filesystem(&self) -> FsId {
        self.fs.id
    }

    fn stat(&self, at: At<'_, Self>) -> Result<Stat> {
        let state = self.fs.state.lock();
        let ino = find(&self.fs, &state, at)?;
        Ok(stat(self, ino, state.get(ino)?))
    }

    fn open_dir(&self, dir: &MemDir, name: &[u8]) -> Result<MemDir> {
        let state = self.fs.state.lock();
        MemDir::new(&self.fs, &state, state.find(own(&self.fs, dir)?, name)?)
    }

    fn list(&self, dir: &MemDir, each: &mut dyn FnMut(RawEntry<'_>)) -> Result<()> {
        let state = self.fs.state.lock();
        let mut entries = Vec::new();
        for (name, ino) in state.entries(own(&self.fs, dir)?)? {
            entries.push((name.clone(), *ino, state.get(*ino)?.kind));
        }
        drop(state);
        entries.sort_by_key(|(name, ..)| hash(name));
        for (name, ino, kind) in &entries {
            each(RawEntry { name, ino: *ino, kind: Some(*kind) });
        }
        Ok(())
    }

    fn read_link(&self, at: At<'_, Self>) -> Result<Vec<u8>> {
        let state = self.fs.state.lock();
        match &state.get(find(&self.fs, &state, at)?)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::INVAL),
        }
    }

    fn get_xattr(&self, at: At<'_, Self>, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let state = self.fs.state.lock();
        xattr::get(&state, find(&self.fs, &state, at)?, name)
    }

    fn list_xattrs(&self, at: At<'_, Self>) -> Result<Vec<Vec<u8>>> {
        let state = self.fs.state.lock();
        xattr::list(&state, find(&self.fs, &state, at)?)
    }

    fn open_file(&self, at: At<'_, Self>, access: Access) -> Result<MemFile> {
        let state = self.fs.state.lock();
        let ino = find(&self.fs, &state, at)?;
        let inode = state.get(ino)?;
        match inode.kind {
            Kind::File => {}
            Kind::Dir => return Err(Errno::ISDIR),
            Kind::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        if access != Access::Read && inode.frozen() {
            return Err(Errno::PERM);
        }
        MemFile::new(&self.fs, &state, ino, Some(access))
    }

    fn hold(&self, dir: &MemDir, name: &[u8]) -> Result<MemFile> {
        let state = self.fs.state.lock();
        MemFile::new(&self.fs, &state, state.find(own(&self.fs, dir)?, name)?, None)
    }

    fn read_at(&self, file: &MemFile, buf: &mut [u8], offset: u64) -> Result<usize> {
        readable(file)?;
        Ok(file.fs.state.lock().get(file.ino)?.data()?.read(buf, offset))
    }

    fn seek(&self, file: &MemFile, offset: u64, what: Seek) -> Result<u64> {
        if file.access.is_none() {
            return Err(Errno::BADF);
        }
        file.fs.state.lock().get(file.ino)?.data()?.seek(offset, what)
    }

    fn inode_flags(&self, at: At<'_, Self>) -> Result<u32> {
        let state = self.fs.state.lock();
        let inode = state.get(find(&self.fs, &state, at)?)?;
        let able = state.abilities.flags && matches!(inode.kind, Kind::File | Kind::Dir);
        if able { Ok(inode.flags) } else { Err(Errno::NOTTY) }
    }

    fn handle(&self, at: At<'_, Self>) -> Result<Option<Handle>> {
        let state = self.fs.state.lock();
        let ino = find(&self.fs, &state, at)?;
        let generation = state.get(ino)?.generation;
        let bytes = [ino.to_le_bytes().as_slice(), &generation.to_le_bytes()].concat();
        Ok(state.abilities.handles.then(|| Handle { kind: HANDLE_KIND, bytes, uuid: uuid(self.fs.id) }))
    }

    fn resolve(&self, handle: &Handle) -> Result<Option<Stat>> {
        let state = self.fs.state.lock();
        let Some((ino, generation)) = handle.bytes.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let abilities = &state.abilities;
        let can = abilities.handles && abilities.handles_open;
        if !can || handle.kind != HANDLE_KIND || handle.uuid != uuid(self.fs.id) {
            return Ok(None);
        }
        let ino = u64::from_le_bytes(*ino);
        Ok(match state.get(ino) {
            Ok(inode) if inode.nlink > 0 && inode.generation.to_le_bytes() == generation => {
                Some(stat(self, ino, inode))
            }
            _ => None,
        })
    }

    fn statfs(&self) -> Result<StatFs> {
        let objects = self.fs.objects();
        Ok(StatFs {
            blocks: 1 << 20,
            bfree: 1 << 19,
            bavail: 1 << 18,
            files: 1 << 20,
            ffree: (1 << 20) - objects,
            bsize: BLOCK as u32,
            namelen: 255,
            frsize: BLOCK as u32,
        })
    }
}

impl MemLayer {
    fn change<T>(&self, at: At<'_, Self>, change: impl FnOnce(&mut Inode, Time) -> Result<T>) -> Result<T> {
        let mut state = self.fs.state.lock();
        let ino = find(&self.fs, &state, at)?;
        let now = state.tick();
        change(state.get_mut(ino)?, now)
    }
}

impl UpperLayer for MemLayer {
    fn work(&self) -> &MemDir {
        &self.work
    }

    fn create(&self, dir: &MemDir, name: &[u8], mode: u32, owner: Owner) -> Result<MemFile> {
        let mut state = self.fs.state.lock();
        let ino = state.create(own(&self.fs, dir)?, name, New::file(mode, owner))?;
        MemFile::new(&self.fs, &state, ino, Some(Access::ReadWrite))
    }

    fn create_unnamed(&self, dir: &MemDir, mode: u32, owner: Owner) -> Result<MemFile> {
        let mut state = self.fs.state.lock();
        let ino = state.create_unnamed(own(&self.fs, dir)?, mode, owner)?;
        MemFile::new(&self.fs, &state, ino, Some(Access::ReadWrite))
    }

    fn make_dir(&self, dir: &MemDir, name: &[u8], mode: u32, owner: Owner) -> Result<()> {
        self.fs.state.lock().create(own(&self.fs, dir)?, name, New::dir(mode, owner)).map(drop)
    }

    fn make_node(
        &self,
        dir: &MemDir,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: Rdev,
        owner: Owner,
    ) -> Result<()> {
        let mut state = self.fs.state.lock();
        let rdev = if matches!(kind, Kind::CharDevice | Kind::BlockDevice) { rdev } else { Rdev::default() };
        let is_whiteout = kind == Kind::CharDevice && rdev == Rdev::default();
        let body = match kind {
            Kind::Dir | Kind::Symlink => return Err(Errno::INVAL),
            Kind::CharDevice | Kind::BlockDevice if !is_whiteout && !state.abilities.devices => {
                return Err(Errno::PERM);
            }
            Kind::File => New::file(mode, owner).body,
            _ => Body::Special,
        };
        state.create(own(&self.fs, dir)?, name, New { kind, mode, rdev, owner, body }).map(drop)
    }

    fn make_symlink(&self, dir: &MemDir, name: &[u8], target: &[u8], owner: Owner) -> Result<()> {
        check_target(target)?;
        let body = Body::Symlink(target.to_vec());
        let new = New { kind: Kind::Symlink, mode: 0o777, rdev: Rdev::default(), owner, body };
        self.fs.state.lock().create(own(&self.fs, dir)?, name, new).map(drop)
    }

    fn link(&self, from: At<'_, Self>, dir: &MemDir, name: &[u8]) -> Result<()> {
        let mut state = self.fs.state.lock();
        if let At::Dir(_) = from {
            return Err(Errno::PERM);
        }
        let ino = find(&self.fs, &state, from)?;
        state.link(ino, own(&self.fs, dir)?, name)
    }

    fn unlink(&self, dir: &MemDir, name: &[u8]) -> Result<()> {
        self.fs.state.lock().unlink(own(&self.fs, dir)?, name)
    }

    fn rmdir(&self, dir: &MemDir, name: &[u8]) -> Result<()> {
        self.fs.state.lock().rmdir(own(&self.fs, dir)?, name)
    }

    fn rename(&self, from: (&MemDir, &[u8]), to: (&MemDir, &[u8]), how: Rename) -> Result<()> {
        self.fs.state.lock().rename((own(&self.fs, from.0)?, from.1), (own(&self.fs, to.0)?, to.1), how)
    }

    fn write_at(&self, file: &MemFile, data: &[u8], offset: u64) -> Result<usize> {
        writable(file)?;
        self.change(At::Open(file), |inode, now| {
            if !data.is_empty() {
                inode.content_changed(now)?.write(data, offset)?;
            }
            Ok(data.len())
        })
    }

    fn set_len(&self, at: At<'_, Self>, size: u64) -> Result<()> {
        self.change(at, |inode, now| {
            if inode.kind == Kind::Dir {
                return Err(Errno::ISDIR);
            }
            inode.data()?;
            if inode.frozen() {
                return Err(Errno::PERM);
            }
            inode.content_changed(now)?.set_len(size)
        })
    }

    fn allocate(&self, file: &MemFile, mode: u32, offset: u64, len: u64) -> Result<()> {
        if file.access.is_none() {
            return Err(Errno::BADF);
        }
        if len == 0 {
            return Err(Errno::INVAL);
        }
        writable(file)?;
        self.change(At::Open(file), |inode, now| {
            if offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
                return Err(Errno::FBIG);
            }
            const PUNCH: u32 = PUNCH_HOLE | KEEP_SIZE;
            const ZERO_KEEP: u32 = ZERO_RANGE | KEEP_SIZE;
            let data = match mode {
                0 | KEEP_SIZE | PUNCH | ZERO_RANGE | ZERO_KEEP => inode.content_changed(now)?,
                _ => return Err(Errno::OPNOTSUPP),
            };
            if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
                data.zero(offset, len);
            }
            if mode & KEEP_SIZE == 0 {
                data.extend(offset, len)?;
            }
            Ok(())
        })
    }

    fn copy_range(&self, from: (&MemFile, u64), to: (&MemFile, u64), len: u64) -> Result<u64> {
        readable(from.0)?;
        writable(to.0)?;
        if !from.0.fs.is(&to.0.fs) {
            return Err(Errno::XDEV);
        }
        let size = self.fs.state.lock().get(from.0.ino)?.data()?.size();
        let len = len.min(size.saturating_sub(from.1));
        let apart = from.1.abs_diff(to.1) >= len;
        if from.0.ino == to.0.ino && !apart {
            return Err(Errno::INVAL);
        }
        let mut buf = vec![0; len as usize];
        let got = self.read_at(from.0, &mut buf, from.1)?;
        self.write_at(to.0, &buf[..got], to.1).map(|written| written as u64)
    }

    fn copy_data(&self, from: &MemFile, to: &MemFile, size: u64, go_on: &dyn Fn() -> bool) -> Result<()> {
        readable(from)?;
        writable(to)?;
        let mut at = 0;
        let mut buf = vec![0; COPY_CHUNK];
        while at < size {
            at = match self.seek(from, at, Seek::Data) {
                Ok(next) => next,
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno),
            };
            let end = self.seek(from, at, Seek::Hole)?.min(size);
            while at < end {
                if !go_on() {
                    return Err(Errno::INTR);
                }
                let part = (end - at).min(COPY_CHUNK as u64) as usize;
                let got = self.read_at(from, &mut buf[..part], at)?;
                if got == 0 {
                    break;
                }
                at += self.write_at(to, &buf[..got], at)? as u64;
            }
        }
        if self.stat(At::Open(to))?.size == size {
            return Ok(());
        }
        self.set_len(At::Open(to), size)
    }

    fn set_mode(&self, at: At<'_, Self>, mode: u32) -> Result<()> {
        self.change(at, |inode, now| {
            if inode.kind == Kind::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            if inode.frozen() {
                return Err(Errno::PERM);
            }
            inode.mode = mode & 0o7777;
            inode.ctime = now;
            if let Some(value) = inode.xattrs.get_mut(acl::ACCESS)
                && let Some(list) = acl::Acl::parse(value)?
            {
                *value = list.with_mode(mode).encode();
            }
            Ok(())
        })
    }

    fn set_owner(&self, at: At<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.change(at, |inode, now| {
            if inode.frozen() {
                return Err(Errno::PERM);
            }
            inode.uid = uid.unwrap_or(inode.uid);
            inode.gid = gid.unwrap_or(inode.gid);
            inode.ctime = now;
            if inode.kind != Kind::Dir {
                inode.xattrs.remove(xattr::CAPABILITY);
                inode.mode &= !SET_UID;
                // Without group execution the bit stands for mandatory locks and stays.
                if inode.mode & 0o010 != 0 {
                    inode.mode &= !SET_GID;
                }
            }
            Ok(())
        })
    }

    fn set_times(&self, at: At<'_, Self>, atime: SetTime, mtime: SetTime) -> Result<()> {
        if (atime, mtime) == (SetTime::Keep, SetTime::Keep) {
            // The kernel does not even look at the object.
            return Ok(());
        }
        self.change(at, |inode, now| {
            let only_now = [atime, mtime].iter().all(|time| *time == SetTime::Now);
            if inode.flags & IMMUTABLE != 0 || inode.flags & APPEND != 0 && !only_now {
                return Err(Errno::PERM);
            }
            let apply = |old: Time, new: SetTime| match new {
                SetTime::Keep => old,
                SetTime::Now => now,
                SetTime::To(time) => time,
            };
            inode.atime = apply(inode.atime, atime);
            inode.mtime = apply(inode.mtime, mtime);
            inode.ctime = now;
            Ok(())
        })
    }

    fn set_xattr(&self, at: At<'_, Self>, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        let mut state = self.fs.state.lock();
        let ino = find(&self.fs, &state, at)?;
        xattr::set(&mut state, ino, name, value, how)
    }

    fn remove_xattr(&self, at: At<'_, Self>, name: &[u8]) -> Result<()> {
        let mut state = self.fs.state.lock();
        let ino = find(&self.fs, &state, at)?;
        xattr::remove(&mut state, ino, name)
    }

    fn set_inode_flags(&self, at: At<'_, Self>, flags: u32) -> Result<()> {
        let able = self.fs.state.lock().abilities.flags;
        self.change(at, |inode, now| {
            if !able || !matches!(inode.kind, Kind::File | Kind::Dir) {
                return Err(Errno::NOTTY);
            }
            inode.flags = flags;
            inode.ctime = now;
            Ok(())
        })
    }

    fn sync(&self, at: At<'_, Self>, _data_only: bool) -> Result<()> {
        self.stat(at).map(drop)
    }

    fn put_data_first(&self, file: &Self::File) -> Result<()> {
        self.stat(At::Open(file)).map(drop)
    }

    fn sync_fs(&self) -> Result<()> {
        Ok(())
    }
}
