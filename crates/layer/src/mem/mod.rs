//! Layers in memory, for tests.
//!
//! A [`MemFs`] behaves as a Linux filesystem as far as the layer traits show it: link counts, unlinked objects that
//! live on while held, attribute namespaces, access control lists, set-id bits, holes, inode flags, handles. Its clock
//! is a counter, so runs can be repeated. [`Abilities`] takes away what real filesystems may lack.

mod data;
mod dump;
mod layer;
mod put;
mod state;
mod xattr;

use std::sync::Arc;

use parking_lot::Mutex;

pub use put::Put;

use crate::work::WORK;
use crate::{Access, FsId, Owner, Result};
use state::{New, State};

/// What a filesystem in memory can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Extended attributes other than access control lists; without them `EOPNOTSUPP`.
    pub xattrs: bool,
    /// Attributes `trusted.*`; without them they seem absent and setting them is `EPERM`, as in a user namespace.
    pub trusted: bool,
    /// Access control lists; without them `EOPNOTSUPP`.
    pub acls: bool,
    /// Files without a name (`O_TMPFILE`).
    pub unnamed_files: bool,
    /// [`Rename::Whiteout`](crate::Rename::Whiteout).
    pub rename_whiteout: bool,
    /// Handles of objects, and their resolution.
    pub handles: bool,
    /// Handles can be resolved: the mounter has `CAP_DAC_READ_SEARCH`.
    pub handles_open: bool,
    /// Device nodes other than char 0:0; without them `EPERM`.
    pub devices: bool,
    /// Inode flags; without them `ENOTTY`.
    pub flags: bool,
    /// Largest number of names of one object.
    pub max_links: u32,
    /// Inode numbers of forgotten objects are given to new ones.
    pub reuse_numbers: bool,
}

impl Default for Abilities {
    fn default() -> Self {
        Self {
            xattrs: true,
            trusted: true,
            acls: true,
            unnamed_files: true,
            rename_whiteout: true,
            handles: true,
            handles_open: true,
            devices: true,
            flags: true,
            max_links: 65000,
            reuse_numbers: true,
        }
    }
}

/// A filesystem in memory. Clones are the same filesystem.
#[derive(Clone)]
pub struct MemFs {
    id: FsId,
    state: Arc<Mutex<State>>,
}

impl MemFs {
    /// An empty filesystem that can do everything.
    pub fn new(id: FsId) -> Self {
        Self::with(id, Abilities::default())
    }

    /// An empty filesystem.
    pub fn with(id: FsId, abilities: Abilities) -> Self {
        Self { id, state: Arc::new(Mutex::new(State::new(abilities))) }
    }

    /// Adds a layer: an empty root directory and, beside it, a work directory with an empty staging directory. All
    /// layers of a filesystem share inode numbers and can be linked.
    pub fn layer(&self) -> Result<MemLayer> {
        let mut state = self.state.lock();
        let name = format!("{:04}", state.entries(State::top())?.len());
        let home = state.create(State::top(), name.as_bytes(), New::dir(0o755, Owner::Mounter))?;
        let root = state.create(home, b"root", New::dir(0o755, Owner::Mounter))?;
        let workdir = state.create(home, b"workdir", New::dir(0o755, Owner::Mounter))?;
        let work = state.create(workdir, WORK, New::dir(0, Owner::Mounter))?;
        drop(state);
        Ok(MemLayer {
            fs: self.clone(),
            root: self.dir(root)?,
            workdir: self.dir(workdir)?,
            work: self.dir(work)?,
        })
    }

    /// What would be found after a crash or remount: a copy of everything that has a name. It shares nothing with
    /// this filesystem but its id; see [`MemLayer::on`].
    pub fn snapshot(&self) -> Self {
        Self { id: self.id, state: Arc::new(Mutex::new(self.state.lock().snapshot())) }
    }

    /// Changes what the filesystem can do from now on.
    pub fn set_abilities(&self, abilities: Abilities) {
        self.state.lock().abilities = abilities;
    }

    /// The number of objects, held ones without a name included.
    pub fn objects(&self) -> u64 {
        self.state.lock().count()
    }

    /// Whether both are the very same filesystem; snapshots are not.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    fn dir(&self, ino: u64) -> Result<MemDir> {
        MemDir::new(self, &self.state.lock(), ino)
    }

    fn open(&self, dir: &MemDir, name: &[u8]) -> Result<MemDir> {
        let ino = self.state.lock().find(dir.ino, name)?;
        self.dir(ino)
    }
}

/// One layer of a [`MemFs`]. Clones are the same layer.
#[derive(Clone)]
pub struct MemLayer {
    fs: MemFs,
    root: MemDir,
    workdir: MemDir,
    work: MemDir,
}

impl MemLayer {
    /// A layer on a filesystem of its own.
    pub fn new(id: FsId) -> Result<Self> {
        MemFs::new(id).layer()
    }

    /// The filesystem that it is on.
    pub fn fs(&self) -> &MemFs {
        &self.fs
    }

    /// The work directory, which holds the staging directory.
    pub fn workdir(&self) -> &MemDir {
        &self.workdir
    }

    /// Sets the staging directory, once it was made anew ([`work::prepare`](crate::work::prepare)).
    pub fn set_work(&mut self, work: MemDir) {
        self.work = work;
    }

    /// The same layer on a [snapshot](MemFs::snapshot) of its filesystem, with the staging directory that is there.
    pub fn on(&self, fs: &MemFs) -> Result<Self> {
        let workdir = fs.dir(self.workdir.ino)?;
        let work = fs.open(&workdir, WORK)?;
        Ok(Self { fs: fs.clone(), root: fs.dir(self.root.ino)?, workdir, work })
    }
}

/// A directory of a [`MemLayer`].
#[derive(Clone)]
pub struct MemDir {
    fs: MemFs,
    ino: u64,
    _pin: Arc<()>,
}

impl MemDir {
    fn new(fs: &MemFs, state: &State, ino: u64) -> Result<Self> {
        state.entries(ino)?;
        Ok(Self { fs: fs.clone(), ino, _pin: Arc::clone(&state.get(ino)?.pin) })
    }
}

/// An open or held object of a [`MemLayer`].
pub struct MemFile {
    fs: MemFs,
    ino: u64,
    /// `None` if merely held.
    access: Option<Access>,
    _pin: Arc<()>,
}

impl MemFile {
    fn new(fs: &MemFs, state: &State, ino: u64, access: Option<Access>) -> Result<Self> {
        Ok(Self { fs: fs.clone(), ino, access, _pin: Arc::clone(&state.get(ino)?.pin) })
    }
}

#[cfg(test)]
mod tests;
