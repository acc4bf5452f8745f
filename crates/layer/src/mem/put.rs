//! Building trees in a layer.

use super::data::Data;
use super::state::{Body, New, State};
use super::{MemDir, MemLayer};
use crate::{Errno, Kind, Owner, Rdev, Result, Time, acl};

/// An object to put into a [`MemLayer`], with exactly these attributes: nothing is inherited or checked.
#[derive(Clone, Debug)]
pub struct Put {
    kind: Kind,
    mode: u32,
    rdev: Rdev,
    uid: u32,
    gid: u32,
    content: Vec<u8>,
    size: Option<u64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    flags: u32,
    times: Option<(Time, Time)>,
}

impl Put {
    fn new(kind: Kind, mode: u32, content: &[u8]) -> Self {
        Self {
            kind,
            mode,
            rdev: Rdev::default(),
            uid: 0,
            gid: 0,
            content: content.to_vec(),
            size: None,
            xattrs: Vec::new(),
            flags: 0,
            times: None,
        }
    }

    /// A regular file, mode 0644.
    pub fn file(content: &[u8]) -> Self {
        Self::new(Kind::File, 0o644, content)
    }

    /// A directory, mode 0755.
    pub fn dir() -> Self {
        Self::new(Kind::Dir, 0o755, b"")
    }

    /// A symlink.
    pub fn symlink(target: &[u8]) -> Self {
        Self::new(Kind::Symlink, 0o777, target)
    }

    /// A fifo, socket or device, mode 0644.
    pub fn node(kind: Kind, rdev: Rdev) -> Self {
        Self { rdev, ..Self::new(kind, 0o644, b"") }
    }

    /// A whiteout in its device form.
    pub fn whiteout() -> Self {
        Self::new(Kind::CharDevice, 0, b"")
    }

    /// Permission, set-id and sticky bits.
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// Owner and group.
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// An extended attribute.
    pub fn xattr(mut self, name: &[u8], value: &[u8]) -> Self {
        self.xattrs.push((name.to_vec(), value.to_vec()));
        self
    }

    /// Inode flags (`FS_*_FL`).
    pub fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    /// Times of access and change. Putting something below a directory changes it later.
    pub fn times(self, atime: Time, mtime: Time) -> Self {
        Self { times: Some((atime, mtime)), ..self }
    }

    /// Size of a regular file, a hole behind its content.
    pub fn size(self, size: u64) -> Self {
        Self { size: Some(size), ..self }
    }

    fn body(&self) -> Result<Body> {
        Ok(match self.kind {
            Kind::File => {
                let mut data = Data::default();
                data.write(&self.content, 0)?;
                data.set_len(self.size.unwrap_or(data.size()))?;
                Body::File(data)
            }
            Kind::Symlink => Body::Symlink(self.content.clone()),
            Kind::Dir => New::dir(0, Owner::Mounter).body,
            _ => Body::Special,
        })
    }

    fn dress(&self, state: &mut State, ino: u64) -> Result<()> {
        let mut mode = self.mode;
        for (name, value) in &self.xattrs {
            if name == acl::ACCESS {
                mode = mode & !0o777 | acl::mode_of(value)?;
            }
        }
        let inode = state.get_mut(ino)?;
        (inode.mode, inode.uid, inode.gid, inode.flags) = (mode, self.uid, self.gid, self.flags);
        inode.xattrs = self.xattrs.iter().cloned().collect();
        if let Some((atime, mtime)) = self.times {
            (inode.atime, inode.mtime) = (atime, mtime);
        }
        Ok(())
    }
}

impl MemLayer {
    /// Puts an object at `path` (components separated by `/`, below the root), missing parents included. The path
    /// `.` is the root itself: it gets the attributes.
    ///
    /// # Errors
    /// `EEXIST` if there is something, except that a directory put over a directory gives it its attributes.
    pub fn put(&self, path: &[u8], put: Put) -> Result<()> {
        let mut state = self.fs.state.lock();
        if path == b"." {
            return put.dress(&mut state, self.root.ino);
        }
        let (dir, name) = place(&mut state, &self.root, path)?;
        let ino = match state.find(dir, name) {
            Ok(ino) if put.kind == Kind::Dir && state.entries(ino).is_ok() => ino,
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {
                let (kind, mode, rdev, body) = (put.kind, put.mode, put.rdev, put.body()?);
                state.create(dir, name, New { kind, mode, rdev, owner: Owner::Mounter, body })?
            }
            Err(errno) => return Err(errno),
        };
        put.dress(&mut state, ino)
    }

    /// Gives the object at `old` the further name `new`.
    pub fn put_link(&self, old: &[u8], new: &[u8]) -> Result<()> {
        let mut state = self.fs.state.lock();
        let (dir, name) = place(&mut state, &self.root, old)?;
        let ino = state.find(dir, name)?;
        let (dir, name) = place(&mut state, &self.root, new)?;
        state.link(ino, dir, name)
    }
}

/// The directory and the name that `path` ends in; directories on the way are made.
fn place<'a>(state: &mut State, root: &MemDir, path: &'a [u8]) -> Result<(u64, &'a [u8])> {
    let mut dir = root.ino;
    let mut names = path.split(|&byte| byte == b'/').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return Ok((dir, name));
        }
        dir = match state.find(dir, name) {
            Err(Errno::NOENT) => state.create(dir, name, New::dir(0o755, Owner::Mounter))?,
            found => found?,
        };
    }
    Err(Errno::INVAL)
}
