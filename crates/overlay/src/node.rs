//! Nodes: the objects of the overlay that the kernel knows.
//!
//! # Locks
//! In this order; whoever holds one may only take later ones:
//! 1. `ns` of directories, two of them by node id: read to look a name up, write to change names;
//! 2. that of the ledger (`reviving`), while a node that the last server knew is made again;
//! 3. `copy` of a node: held for a whole copy-up, data included, and by nobody else;
//! 4. `reading` of a directory: held while its listing is read;
//! 5. `state` of a node: read to use its real objects, write for the instant in which they change;
//! 6. `children`, `listing`, tables: leaves, never held across a call to a layer.
//!
//! A copy-up takes `copy` of the ancestors before that of the node, never both at once.

use crate::NodeId;
use crate::children::{Children, NameHash};
use crate::ledger::Record;
use crate::listing::Listing;
use crate::name::Name;
use crate::order::{Mutex, RwLock, rank};
use crate::state::State;
use acetate_layer::{At, Kind, UpperLayer};
use once_cell::race::OnceBox;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Where an object of a layer is.
pub(crate) enum Real<L: UpperLayer> {
    /// A directory.
    Dir(L::Dir),
    /// Anything else, by one name below a directory.
    Named(L::Dir, Name),
    /// Anything else that has no name any more, or none yet.
    Held(Arc<L::File>),
}

impl<L: UpperLayer> Real<L> {
    /// For layer operations.
    pub fn at(&self) -> At<'_, L> {
        match self {
            Real::Dir(dir) => At::Dir(dir),
            Real::Named(dir, name) => At::Name(dir, name),
            Real::Held(file) => At::Open(file.as_ref()),
        }
    }
}

impl<L: UpperLayer> Clone for Real<L> {
    fn clone(&self) -> Self {
        match self {
            Real::Dir(dir) => Real::Dir(dir.clone()),
            Real::Named(dir, name) => Real::Named(dir.clone(), name.clone()),
            Real::Held(file) => Real::Held(file.clone()),
        }
    }
}

/// A part of a node in a lower layer.
pub(crate) struct Lower<L: UpperLayer> {
    /// Index of the layer, 0 topmost.
    pub layer: usize,
    /// The object.
    pub real: Real<L>,
    /// The directory is marked `opaque=x`: empty files in it may be whiteouts.
    pub xattr_whiteouts: bool,
}

impl<L: UpperLayer> Clone for Lower<L> {
    fn clone(&self) -> Self {
        Lower { layer: self.layer, real: self.real.clone(), xattr_whiteouts: self.xattr_whiteouts }
    }
}

/// The listing of a directory.
#[derive(Default)]
pub(crate) struct Remembered {
    /// Counts changes of names and copy-ups of entries, so that what was read meanwhile is not taken for current.
    pub changes: u64,
    /// The listing that was read last; current if it is as of that many changes.
    pub last: Option<Arc<Listing>>,
    /// The name that was looked for last and found in no layer, when there were that many changes.
    missing: Option<Box<(Name, u64)>>,
}

impl Remembered {
    /// No layer has had that name when there were so many changes.
    pub fn note_missing(&mut self, name: &[u8], changes: u64) {
        *self.missing.get_or_insert_with(|| Box::new((Name::from(&[][..]), 0))).as_mut() =
            (name.into(), changes);
    }

    /// Whether it is known that no layer has that name.
    pub fn is_missing(&self, name: &[u8]) -> bool {
        self.missing.as_ref().is_some_and(|missing| missing.1 == self.changes && *missing.0 == *name)
    }
}

/// What only directories have.
pub(crate) struct DirPart<L: UpperLayer> {
    /// Guards the names in the directory against changes.
    pub ns: RwLock<(), { rank::NS }>,
    /// The nodes of names that the kernel has looked up.
    pub children: Mutex<Children<L>, { rank::LEAF }>,
    /// Held while a listing is read. Taken after `ns`, before `state`.
    pub reading: Mutex<(), { rank::READING }>,
    /// The listing, and whether anything has changed since.
    pub listing: Mutex<Remembered, { rank::LEAF }>,
    /// The default ACL of the directory, once it has been read.
    pub default_acl: Mutex<Option<Option<Arc<[u8]>>>, { rank::LEAF }>,
    /// The upper directory is known to be marked impure.
    pub impure: AtomicBool,
}

/// An object of the overlay.
pub(crate) struct Node<L: UpperLayer> {
    /// Its id, unique for the life of the mount.
    pub id: NodeId,
    /// Its type; never changes.
    pub kind: Kind,
    /// What it is made of.
    pub state: RwLock<State<L>, { rank::STATE }>,
    /// Held while it is copied up.
    pub copy: Mutex<(), { rank::COPY }>,
    /// The object is in upper.
    pub in_upper: AtomicBool,
    /// So is its data: open files of it have to be opened anew.
    pub data_in_upper: AtomicBool,
    /// File capabilities were removed, and the change of nothing by which the kernel ends this is still to come.
    pub lost_capabilities: AtomicBool,
    /// Data below has been found to have the digest that is recorded.
    pub verified: AtomicBool,
    /// The lower file that holds its data has been opened for reading.
    pub opened_below: AtomicBool,
    /// References that the kernel holds; for the table of nodes alone.
    pub lookups: AtomicU64,
    apart: OnceBox<Apart<L>>,
}

/// What only some nodes have: directories, and all where there is to be another server.
struct Apart<L: UpperLayer> {
    dir: Option<DirPart<L>>,
    record: OnceBox<Record>,
}

impl<L: UpperLayer> Node<L> {
    /// A node of that type.
    pub fn new(id: NodeId, kind: Kind, state: State<L>) -> Node<L> {
        let apart = OnceBox::new();
        if kind == Kind::Dir {
            let dir = DirPart {
                ns: RwLock::new(()),
                children: Mutex::new(Children::new()),
                reading: Mutex::new(()),
                listing: Mutex::new(Remembered::default()),
                default_acl: Mutex::new(None),
                impure: AtomicBool::new(false),
            };
            // It was empty.
            let _set = apart.set(Box::new(Apart { dir: Some(dir), record: OnceBox::new() }));
        }
        let in_upper = AtomicBool::new(state.has_upper());
        let data_in_upper = AtomicBool::new(state.has_upper() && !state.metacopy());
        let lost_capabilities = AtomicBool::new(false);
        Node {
            id,
            kind,
            state: RwLock::new(state),
            copy: Mutex::new(()),
            in_upper,
            data_in_upper,
            lost_capabilities,
            verified: AtomicBool::new(false),
            opened_below: AtomicBool::new(false),
            lookups: AtomicU64::new(0),
            apart,
        }
    }

    /// What only directories have; an error for anything else.
    pub fn as_dir(&self) -> crate::Result<&DirPart<L>> {
        self.dir().ok_or(crate::OpError::NotDir)
    }

    fn dir(&self) -> Option<&DirPart<L>> {
        self.apart.get()?.dir.as_ref()
    }

    /// What the next server will be told of it.
    pub fn record(&self) -> Option<&Record> {
        self.apart.get()?.record.get()
    }

    /// Sets [`record`](Self::record), once, before others know the node.
    pub fn set_record(&self, record: Box<Record>) {
        let apart = self.apart.get_or_init(|| Box::new(Apart { dir: None, record: OnceBox::new() }));
        // There is none yet.
        let _first = apart.record.set(record);
    }

    /// Whether it is in upper.
    pub fn in_upper(&self) -> bool {
        self.in_upper.load(Ordering::Acquire)
    }

    /// Whether it is in upper with its data.
    pub fn data_in_upper(&self) -> bool {
        self.data_in_upper.load(Ordering::Acquire)
    }

    /// The live node of a name.
    pub fn child(&self, name: &[u8]) -> Option<Arc<Node<L>>> {
        let known = self.dir()?.children.lock().with(NameHash::of(name));
        known.iter().find(|child| child.is_at(self, name)).cloned()
    }

    /// Whether it has that name in that directory.
    fn is_at(&self, dir: &Node<L>, name: &[u8]) -> bool {
        self.state.read().places().any(|place| place.is(dir, name))
    }

    /// Records the node of a name, which is among its places, unless the name has one. `None` if the directory has changed
    /// since it had seen so many changes.
    ///
    /// # Errors
    /// [`OpError::NotDir`](crate::OpError::NotDir).
    pub fn add_child(
        &self,
        name: &[u8],
        child: &Arc<Node<L>>,
        changes: u64,
    ) -> crate::Result<Option<Arc<Node<L>>>> {
        let (part, hash) = (self.as_dir()?, NameHash::of(name));
        loop {
            // What they are called is not to be asked under the lock.
            let known = part.children.lock().with(hash);
            if let Some(other) = known.iter().find(|other| other.is_at(self, name)) {
                return Ok(Some(other.clone()));
            }
            let mut children = part.children.lock();
            if children.has_more_than(hash, &known) {
                continue;
            }
            // Whoever was copied up since, and is forgotten by now, has counted a change before.
            if part.listing.lock().changes != changes {
                return Ok(None);
            }
            children.insert(hash, child);
            return Ok(Some(child.clone()));
        }
    }

    /// Records the node of a name, which is among its places.
    pub fn set_child(&self, name: &[u8], child: &Arc<Node<L>>) {
        if let Some(dir) = self.dir() {
            dir.children.lock().insert(NameHash::of(name), child);
        }
    }

    /// Forgets that a node has a name.
    pub fn remove_child(&self, name: &[u8], child: &Node<L>) {
        if let Some(dir) = self.dir() {
            dir.children.lock().remove(NameHash::of(name), child);
        }
    }

    /// Forgets the remembered listing: an entry was added or removed, or moved to upper.
    pub fn forget_listing(&self) {
        if let Some(dir) = self.dir() {
            dir.listing.lock().changes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use acetate_layer::dir::DirLayer;

    /// There may be millions of them; `testkit load` measures what they take with all that belongs to them.
    #[test]
    fn nodes_are_small() {
        // With the two counts of an `Arc`.
        assert_eq!(size_of::<Node<DirLayer>>() + 16, 120);
    }
}
