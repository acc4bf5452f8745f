//! Directory handles, which follow renames and survive removal.
//!
//! A handle knows its parent and its name there, so its descriptor can be closed ([`DirCache`]) and opened again.
//! All handles of a directory share one [`Node`], found by name in the parent's node, which is how a rename reaches
//! it. Changes made behind our back are noticed when a directory is opened again: it has to be the same inode.
//!
//! Locks: `names` of one directory, or of two in the order of their addresses; under it `place`, `descriptor` and
//! `children`, one at a time and never while another node may be dropped.

use super::cache::DirCache;
use super::name::Name;
use crate::{Errno, Result, Stat};
use acetate_sys::open::open_below;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, statx};
use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// How directories are held open: for passing through, which needs no permission on the directory itself.
pub(super) const HOLD_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// How often a directory is looked for again that is renamed meanwhile.
const MAX_ATTEMPTS: u32 = 64;

/// An inode of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    dev: (u32, u32),
    ino: u64,
}

impl Id {
    /// The inode behind a descriptor.
    pub(super) fn of(fd: impl AsFd) -> Result<Id> {
        let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
        Ok(Id { dev: (stat.stx_dev_major, stat.stx_dev_minor), ino: stat.stx_ino })
    }

    /// The inode with these attributes.
    pub(super) fn from_stat(stat: &Stat) -> Id {
        Id { dev: (rustix::fs::major(stat.dev), rustix::fs::minor(stat.dev)), ino: stat.ino }
    }
}

/// A directory of a [`DirLayer`](super::DirLayer).
#[derive(Clone)]
pub struct Dir(Arc<Node>);

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dir").field(&self.0.id).finish()
    }
}

/// A directory, however many handles it has.
pub(super) struct Node {
    id: Id,
    place: Mutex<Place>,
    descriptor: RwLock<Option<Arc<OwnedFd>>>,
    /// Used since the cache last looked.
    used: AtomicBool,
    /// The descriptor has to stay, because there is no other way back to the directory.
    pinned: AtomicBool,
    /// Held for writing while names of directories here change, for reading while they are looked up.
    names: RwLock<()>,
    children: Mutex<Children>,
    cache: Arc<DirCache>,
}

/// The live nodes of directories in a directory, by name. Most have none.
#[derive(Default)]
struct Children(Option<Box<ByName>>);

type ByName = HashMap<Box<[u8]>, Weak<Node>>;

impl Children {
    fn get(&self, name: &[u8]) -> Option<&Weak<Node>> {
        self.0.as_ref()?.get(name)
    }

    fn insert(&mut self, name: &[u8], node: &Arc<Node>) {
        self.0.get_or_insert_default().insert(name.into(), Arc::downgrade(node));
    }

    fn remove(&mut self, name: &[u8]) {
        if let Some(nodes) = &mut self.0 {
            nodes.remove(name);
            if nodes.is_empty() {
                self.0 = None;
            }
        }
    }
}

/// Where a directory can be opened from.
enum Place {
    /// Nowhere: the root of a layer or a removed directory.
    Nowhere,
    /// By its name in another.
    Below(Dir, Box<[u8]>),
}

/// Why a directory was not opened from its place.
enum Missed {
    /// It has just been renamed: look again.
    Moved,
    Failed(Errno),
}

impl Dir {
    /// A directory that is not reached from another one, by its `O_PATH` descriptor.
    pub(super) fn root(descriptor: OwnedFd, cache: Arc<DirCache>) -> Result<Dir> {
        let node = Node::new(Id::of(&descriptor)?, Place::Nowhere, cache);
        node.pinned.store(true, Ordering::Relaxed);
        *node.descriptor.write() = Some(Arc::new(descriptor));
        Ok(Dir(Arc::new(node)))
    }

    /// A handle of nothing: every use of it fails with `ESTALE`.
    pub(super) fn nothing() -> Dir {
        let id = Id { dev: (0, 0), ino: 0 };
        Dir(Arc::new(Node::new(id, Place::Nowhere, DirCache::new(1))))
    }

    /// The bound that its descriptor counts for.
    pub(super) fn cache(&self) -> Arc<DirCache> {
        self.0.cache.clone()
    }

    /// An `O_PATH` descriptor of the directory, which stays open as long as it is held.
    ///
    /// # Errors
    /// `ESTALE` if the directory is not where we left it: others have renamed or removed it.
    pub(super) fn descriptor(&self) -> Result<Arc<OwnedFd>> {
        let cached = self.0.cached();
        self.0.cache.note_use(cached.is_some());
        if let Some(descriptor) = cached {
            return Ok(descriptor);
        }
        for _ in 0..MAX_ATTEMPTS {
            match self.open_again() {
                Ok(descriptor) => return Ok(descriptor),
                Err(Missed::Moved) => {}
                Err(Missed::Failed(error)) => return Err(error),
            }
        }
        Err(Errno::STALE)
    }

    /// Opens this directory and those above it that are closed, from the top.
    fn open_again(&self) -> std::result::Result<Arc<OwnedFd>, Missed> {
        let mut closed = vec![self.clone()];
        let mut current = self.clone();
        let mut descriptor = loop {
            let above = match &*current.0.place.lock() {
                Place::Below(above, _) => above.clone(),
                Place::Nowhere => return current.0.cached().ok_or(Missed::Failed(Errno::STALE)),
            };
            if let Some(descriptor) = above.0.cached() {
                closed.reverse();
                current = above;
                break descriptor;
            }
            closed.push(above.clone());
            current = above;
        };
        for dir in closed {
            descriptor = dir.open_from(&current, &descriptor)?;
            current = dir;
        }
        Ok(descriptor)
    }

    /// Opens this directory from the one that is believed to hold it.
    fn open_from(&self, above: &Dir, descriptor: &OwnedFd) -> std::result::Result<Arc<OwnedFd>, Missed> {
        let _names = above.0.names.read();
        let name = match &*self.0.place.lock() {
            Place::Below(actual, name) if Arc::ptr_eq(&actual.0, &above.0) => name.clone(),
            _ => return Err(Missed::Moved),
        };
        let opened = Name::any(&name)
            .and_then(|name| open_below(descriptor.as_fd(), name.as_c_str(), HOLD_DIR, Mode::empty()))
            .and_then(|opened| if Id::of(&opened)? == self.0.id { Ok(opened) } else { Err(Errno::STALE) })
            .map_err(|error| match error {
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Missed::Failed(Errno::STALE),
                other => Missed::Failed(other),
            })?;
        Ok(self.keep(opened))
    }

    /// Keeps a descriptor of this directory, unless there is one.
    fn keep(&self, opened: OwnedFd) -> Arc<OwnedFd> {
        let kept = {
            let mut slot = self.0.descriptor.write();
            if let Some(kept) = &*slot {
                return kept.clone();
            }
            slot.insert(Arc::new(opened)).clone()
        };
        self.0.cache.admit(&self.0);
        kept
    }

    /// Opens the directory `name` in this one. As long as a handle of it lives, the result shares its node.
    pub(super) fn open(&self, name: &[u8]) -> Result<Dir> {
        let component = Name::component(name)?;
        let descriptor = self.descriptor()?;
        let names = self.0.names.read();
        let opened = open_below(descriptor.as_fd(), component.as_c_str(), HOLD_DIR, Mode::empty())?;
        let dir = self.handle_of(name, Id::of(&opened)?);
        drop(names);
        dir.keep(opened);
        Ok(dir)
    }

    /// The directory `name` in this one, which is known to be that inode. It is opened when it is first used.
    pub(super) fn known(&self, name: &[u8], id: Id) -> Result<Dir> {
        Name::component(name)?;
        let _names = self.0.names.read();
        Ok(self.handle_of(name, id))
    }

    /// The shared handle of the directory `name`; the caller holds `names`.
    fn handle_of(&self, name: &[u8], id: Id) -> Dir {
        let mut children = self.0.children.lock();
        let known = children.get(name).and_then(Weak::upgrade);
        match &known {
            Some(node) if node.id == id => Dir(node.clone()),
            // None, or others have put another directory there.
            _ => {
                let place = Place::Below(self.clone(), name.into());
                let node = Arc::new(Node::new(id, place, self.0.cache.clone()));
                children.insert(name, &node);
                drop(children);
                Dir(node)
            }
        }
    }

    /// Runs `remove`, which removes the directory `name` from this one; live handles of it keep working.
    pub(super) fn removing(&self, name: &[u8], remove: impl FnOnce(&OwnedFd) -> Result<()>) -> Result<()> {
        let descriptor = self.descriptor()?;
        let _names = self.0.names.write();
        let victim = self.child(name);
        let pinned = victim.as_ref().map(|victim| victim.pin(&descriptor, name)).transpose()?;
        if let Err(error) = remove(&descriptor) {
            if let (Some(victim), Some(Pin::New)) = (victim, pinned) {
                victim.unpin();
            }
            return Err(error);
        }
        if let Some(victim) = victim {
            self.forget(name);
            victim.settle(Place::Nowhere);
        }
        Ok(())
    }

    /// Runs `rename`, which moves `from.1` to `to.1`, and makes live handles follow. `exchange` says that what was
    /// at the target comes to the source; otherwise it is removed, and live handles of it keep working.
    pub(super) fn renaming(
        from: (&Dir, &[u8]),
        to: (&Dir, &[u8]),
        exchange: bool,
        rename: impl FnOnce(&OwnedFd, &OwnedFd) -> Result<()>,
    ) -> Result<()> {
        let descriptors = (from.0.descriptor()?, to.0.descriptor()?);
        let _names = lock_both(from.0, to.0);
        let source = from.0.child(from.1);
        let target = to.0.child(to.1);
        let same = match (&source, &target) {
            (Some(source), Some(target)) => Arc::ptr_eq(&source.0, &target.0),
            _ => false,
        };
        let victim = target.as_ref().filter(|_| !exchange && !same);
        let pinned = victim.map(|victim| victim.pin(&descriptors.1, to.1)).transpose()?;
        if let Err(error) = rename(&descriptors.0, &descriptors.1) {
            if let (Some(victim), Some(Pin::New)) = (victim, pinned) {
                victim.unpin();
            }
            return Err(error);
        }
        if same {
            return Ok(());
        }
        from.0.forget(from.1);
        to.0.forget(to.1);
        if let Some(target) = target {
            if exchange {
                target.settle(Place::Below(from.0.clone(), from.1.into()));
                from.0.adopt(from.1, &target);
            } else {
                target.settle(Place::Nowhere);
            }
        }
        if let Some(source) = source {
            source.settle(Place::Below(to.0.clone(), to.1.into()));
            to.0.adopt(to.1, &source);
        }
        Ok(())
    }

    /// The live handle of the directory `name` in this one.
    fn child(&self, name: &[u8]) -> Option<Dir> {
        self.0.children.lock().get(name).and_then(Weak::upgrade).map(Dir)
    }

    fn adopt(&self, name: &[u8], child: &Dir) {
        self.0.children.lock().insert(name, &child.0);
    }

    fn forget(&self, name: &[u8]) {
        self.0.children.lock().remove(name);
    }

    /// Notes where this directory is now.
    fn settle(&self, place: Place) {
        let before = std::mem::replace(&mut *self.0.place.lock(), place);
        // Dropped after the lock: it may hold the last handle of another directory.
        drop(before);
    }

    /// Makes sure that this directory, which is `name` in `above`, keeps a descriptor.
    fn pin(&self, above: &OwnedFd, name: &[u8]) -> Result<Pin> {
        let mut slot = self.0.descriptor.write();
        if slot.is_none() {
            let name = Name::any(name)?;
            match open_below(above.as_fd(), name.as_c_str(), HOLD_DIR, Mode::empty()) {
                Ok(opened) if Id::of(&opened)? == self.0.id => *slot = Some(Arc::new(opened)),
                // Others have taken it away: the handle is stale, whatever happens to the name.
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Pin::Stale),
                Err(error) => return Err(error),
            }
        }
        let before = self.0.pinned.swap(true, Ordering::Relaxed);
        Ok(if before { Pin::Old } else { Pin::New })
    }

    /// Undoes [`Dir::pin`].
    fn unpin(&self) {
        {
            // The lock orders this against the cache, which looks at the mark under it.
            let _slot = self.0.descriptor.write();
            self.0.pinned.store(false, Ordering::Relaxed);
        }
        self.0.cache.admit(&self.0);
    }
}

/// What [`Dir::pin`] found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pin {
    New,
    Old,
    Stale,
}

/// Locks the names of two directories, which may be the same.
fn lock_both<'a>(a: &'a Dir, b: &'a Dir) -> (RwLockWriteGuard<'a, ()>, Option<RwLockWriteGuard<'a, ()>>) {
    let (a, b) = (&a.0, &b.0);
    match Arc::as_ptr(a).cmp(&Arc::as_ptr(b)) {
        std::cmp::Ordering::Equal => (a.names.write(), None),
        std::cmp::Ordering::Less => {
            let first = a.names.write();
            (first, Some(b.names.write()))
        }
        std::cmp::Ordering::Greater => {
            let first = b.names.write();
            (first, Some(a.names.write()))
        }
    }
}

impl Node {
    fn new(id: Id, place: Place, cache: Arc<DirCache>) -> Node {
        Node {
            id,
            place: Mutex::new(place),
            descriptor: RwLock::new(None),
            used: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
            names: RwLock::new(()),
            children: Mutex::new(Children::default()),
            cache,
        }
    }

    /// The descriptor, if it is open.
    fn cached(&self) -> Option<Arc<OwnedFd>> {
        let descriptor = self.descriptor.read().clone()?;
        // Read first: most uses find it set, and writing would take the cache line from other threads.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        Some(descriptor)
    }

    /// Whether the descriptor was used since the last call.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Takes the descriptor away, unless it is pinned.
    pub(super) fn take_descriptor(&self) -> Option<Arc<OwnedFd>> {
        let mut slot = self.descriptor.write();
        if self.pinned.load(Ordering::Relaxed) { None } else { slot.take() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let this: *const Node = self;
        let mut place = std::mem::replace(self.place.get_mut(), Place::Nowhere);
        if let Place::Below(above, name) = &place {
            let mut children = above.0.children.lock();
            if children.get(name).is_some_and(|child| std::ptr::eq(child.as_ptr(), this)) {
                children.remove(name);
            }
        }
        // The last handle of a deep directory ends those above it: one by one, as the stack is not that deep.
        while let Place::Below(above, _) = place {
            let Some(mut node) = Arc::into_inner(above.0) else { break };
            let next = std::mem::replace(node.place.get_mut(), Place::Nowhere);
            if let Place::Below(above, name) = &next {
                // Its own drop no longer knows where it was.
                let mut children = above.0.children.lock();
                if children.get(name).is_some_and(|child| child.strong_count() == 0) {
                    children.remove(name);
                }
            }
            place = next;
        }
    }
}
