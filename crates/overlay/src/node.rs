//! Nodes: the objects of the overlay that the kernel knows.
//!
//! # Locks
//! In this order; whoever holds one may only take later ones:
//! 1. `ns` of directories, two of them by node id: read to look a name up, write to change names;
//! 2. `copy` of a node: held for a whole copy-up, data included, and by nobody else;
//! 3. `reading` of a directory: held while its listing is read;
//! 4. `state` of a node: read to use its real objects, write for the instant in which they change;
//! 5. `children`, `listing`, tables: leaves, never held across a call to a layer.
//!
//! A copy-up takes `copy` of the ancestors before that of the node, never both at once.

use crate::NodeId;
use crate::ledger::Record;
use crate::listing::Listing;
use crate::order::{Mutex, RwLock, rank};
use acetate_layer::mark::{ProtAttr, Redirect};
use acetate_layer::{At, Kind, UpperLayer};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Where an object of a layer is.
pub(crate) enum Real<L: UpperLayer> {
    /// A directory.
    Dir(L::Dir),
    /// Anything else, by one name below a directory.
    Named(L::Dir, Box<[u8]>),
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

    /// The directory, if it is one.
    pub fn dir(&self) -> Option<&L::Dir> {
        match self {
            Real::Dir(dir) => Some(dir),
            _ => None,
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

/// A name of a node.
pub(crate) struct Place<L: UpperLayer> {
    /// The directory.
    pub parent: Arc<Node<L>>,
    /// The name in it.
    pub name: Box<[u8]>,
    /// Upper has the object at this name. An indexed one may have others only.
    pub in_upper: bool,
}

impl<L: UpperLayer> Place<L> {
    /// Whether it is this name in this directory.
    pub fn is(&self, parent: &Arc<Node<L>>, name: &[u8]) -> bool {
        Arc::ptr_eq(&self.parent, parent) && *self.name == *name
    }
}

impl<L: UpperLayer> Clone for Place<L> {
    fn clone(&self) -> Self {
        Place { parent: self.parent.clone(), name: self.name.clone(), in_upper: self.in_upper }
    }
}

/// How many names a file has over all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Links {
    /// Names in the overlay.
    pub union: u32,
    /// Links of the lower file.
    pub below: u32,
}

/// What a node is made of; changes by copy-up, rename and removal.
pub(crate) struct State<L: UpperLayer> {
    /// The names it is known by; none for the root and for what has been removed.
    pub places: Vec<Place<L>>,
    /// The directory that it was removed from, as long as it is in lower only: where a copy of it would have gone.
    pub removed_from: Option<Arc<Node<L>>>,
    /// Its upper part.
    pub upper: Option<Real<L>>,
    /// Its lower parts: all that a directory merges; of other objects those that are not in upper, which of a regular
    /// file are two if one layer has its attributes and another one its data.
    pub lowers: Vec<Lower<L>>,
    /// The upper part of a regular file holds attributes only: the data is that of its last lower part.
    pub metacopy: bool,
    /// Where in the data-only layers the data of a regular file is, as long as nobody has needed it.
    pub data_path: Option<Box<[Vec<u8>]>>,
    /// The name of its upper part in the index.
    pub index: Option<Box<[u8]>>,
    /// The number of its names, where the real one does not count.
    pub links: Option<Links>,
    /// Where its upper part says that it goes on below.
    pub redirect: Option<Redirect>,
    /// An object in upper whose number is that of the lower object it was copied from.
    pub has_origin: bool,
    /// The inode number.
    pub ino: u64,
    /// Append-only and immutable, real or as marked.
    pub prot: ProtAttr,
}

impl<L: UpperLayer> State<L> {
    /// A state without any real object.
    pub fn new(ino: u64) -> State<L> {
        State {
            places: Vec::new(),
            removed_from: None,
            upper: None,
            lowers: Vec::new(),
            metacopy: false,
            data_path: None,
            index: None,
            links: None,
            redirect: None,
            has_origin: false,
            ino,
            prot: ProtAttr::default(),
        }
    }

    /// Records that the node has lost a name. Its upper object is then found by another name, or held.
    pub fn lose_place(&mut self, parent: &Arc<Node<L>>, name: &[u8], held: Option<Arc<L::File>>) {
        self.places.retain(|place| !place.is(parent, name));
        if self.places.is_empty() && self.upper.is_none() {
            self.removed_from = Some(parent.clone());
        }
        if let Some(held) = held {
            self.upper = Some(Real::Held(held));
        } else {
            self.follow_place();
        }
    }

    /// Records that a name of the node is another one now, in the upper directory `dir`.
    pub fn move_place(&mut self, parent: &Arc<Node<L>>, name: &[u8], new: Place<L>, dir: L::Dir) {
        self.places.retain(|place| !place.is(parent, name) && !place.is(&new.parent, &new.name));
        if self.index.is_none() && matches!(self.upper, Some(Real::Named(..))) {
            self.upper = Some(Real::Named(dir, new.name.clone()));
        }
        self.places.push(new);
    }

    /// Finds the upper object of a non-directory by its first known name.
    pub fn follow_place(&mut self) {
        // What is indexed is found there.
        if self.index.is_some() || !matches!(self.upper, Some(Real::Named(..))) {
            return;
        }
        let Some(place) = self.places.first() else {
            return;
        };
        // A parent is never locked for writing by whoever holds the state of a child.
        let dir = place.parent.state.read().upper.as_ref().and_then(Real::dir).cloned();
        if let Some(dir) = dir {
            self.upper = Some(Real::Named(dir, place.name.clone()));
        }
    }

    /// Whether the data of a regular file lies in another layer than its attributes.
    pub fn data_is_apart(&self) -> bool {
        self.metacopy || self.data_path.is_some() || self.upper.is_none() && self.lowers.len() > 1
    }

    /// How many real directories a directory merges.
    pub fn parts(&self) -> usize {
        usize::from(self.upper.is_some()) + self.lowers.len()
    }
}

/// The listing of a directory.
#[derive(Default)]
pub(crate) struct Remembered {
    /// Counts changes of names and copy-ups of entries, so that what was read meanwhile is not taken for current.
    pub changes: u64,
    /// The listing that was read last; current if it is as of that many changes.
    pub last: Option<Arc<Listing>>,
}

/// Live nodes by name.
pub(crate) type Children<L> = HashMap<Box<[u8]>, Weak<Node<L>>>;

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
    /// Handles by which the file is executed.
    pub executions: AtomicU32,
    /// Open files of it.
    pub handles: AtomicU32,
    /// What the next server will be told of it.
    pub record: OnceLock<Box<Record>>,
    dir: Option<Box<DirPart<L>>>,
}

impl<L: UpperLayer> Node<L> {
    /// A node of that type.
    pub fn new(id: NodeId, kind: Kind, state: State<L>) -> Node<L> {
        let dir = (kind == Kind::Dir).then(|| {
            Box::new(DirPart {
                ns: RwLock::new(()),
                children: Mutex::new(HashMap::new()),
                reading: Mutex::new(()),
                listing: Mutex::new(Remembered::default()),
                default_acl: Mutex::new(None),
                impure: AtomicBool::new(false),
            })
        });
        let in_upper = AtomicBool::new(state.upper.is_some());
        let data_in_upper = AtomicBool::new(state.upper.is_some() && !state.metacopy);
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
            executions: AtomicU32::new(0),
            handles: AtomicU32::new(0),
            record: OnceLock::new(),
            dir,
        }
    }

    /// What only directories have; an error for anything else.
    pub fn as_dir(&self) -> crate::Result<&DirPart<L>> {
        self.dir.as_deref().ok_or(crate::OpError::NotDir)
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
        self.dir.as_ref()?.children.lock().get(name)?.upgrade()
    }

    /// Records the node of a name.
    pub fn set_child(&self, name: &[u8], child: &Arc<Node<L>>) {
        if let Some(dir) = &self.dir {
            dir.children.lock().insert(name.into(), Arc::downgrade(child));
        }
    }

    /// Forgets the node of a name.
    pub fn remove_child(&self, name: &[u8]) {
        if let Some(dir) = &self.dir {
            dir.children.lock().remove(name);
        }
    }

    /// Forgets the remembered listing: an entry was added or removed, or moved to upper.
    pub fn forget_listing(&self) {
        if let Some(dir) = &self.dir {
            dir.listing.lock().changes += 1;
        }
    }
}
