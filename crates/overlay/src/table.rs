//! The tables of nodes and open handles, in shards so that threads seldom meet.

use crate::children::shrink;
use crate::handle::OpenFile;
use crate::ledger::{HandleRecord, Ledger};
use crate::node::Node;
use crate::order::{Mutex, rank};
use crate::{HandleId, NodeId, OpError, Result};
use acetate_layer::UpperLayer;
use hashbrown::HashTable;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

const SHARDS: usize = 16;

/// Ids that were never used: of a block of those that the ledger has set aside, where there is one.
struct Ids(parking_lot::Mutex<(u64, u64)>);

impl Ids {
    fn from(first: u64) -> Ids {
        Ids(parking_lot::Mutex::new((first, 0)))
    }

    fn next(&self, more: impl FnOnce() -> (u64, u64)) -> u64 {
        let (next, left) = &mut *self.0.lock();
        if *left == 0 {
            (*next, *left) = more();
        }
        (*next, *left) = (*next + 1, *left - 1);
        *next - 1
    }
}

fn shard(id: u64) -> usize {
    id as usize % SHARDS
}

/// Where a node of that id is to be looked for: ids are given one after the other.
fn place_of(id: u64) -> u64 {
    // Fibonacci hashing; the tables go by the highest and the lowest bits.
    (id / SHARDS as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

/// Nodes by id. Each counts its references itself; the lock of its table guards the count.
struct Shard<L: UpperLayer>(HashTable<Arc<Node<L>>>);

impl<L: UpperLayer> Shard<L> {
    fn get(&self, id: NodeId) -> Option<&Arc<Node<L>>> {
        self.0.find(place_of(id.0), |node| node.id == id)
    }

    /// Counts references to a node, which is added if it is new.
    fn refer(&mut self, node: &Arc<Node<L>>, count: u64) {
        if self.get(node.id).is_none() {
            self.0.insert_unique(place_of(node.id.0), node.clone(), |node| place_of(node.id.0));
        }
        node.lookups.fetch_add(count, Ordering::Relaxed);
    }

    /// Gives references back. Returns the node if there are none any more.
    fn forget(&mut self, id: NodeId, count: u64) -> Option<Arc<Node<L>>> {
        let found = self.0.find_entry(place_of(id.0), |node| node.id == id).ok()?;
        let left = found.get().lookups.load(Ordering::Relaxed).saturating_sub(count);
        found.get().lookups.store(left, Ordering::Relaxed);
        if let Some(record) = found.get().record() {
            record.forget(count);
        }
        if left > 0 {
            return None;
        }
        let (node, _) = found.remove();
        shrink(&mut self.0, |node| place_of(node.id.0));
        Some(node)
    }
}

/// Nodes by the device and inode number of a lower object.
type ByLower<L> = HashMap<(u64, u64), Weak<Node<L>>>;

/// Nodes by name in the index.
type ByIndexName<L> = HashMap<Box<[u8]>, Weak<Node<L>>>;

/// Nodes by id, each with the number of references the kernel holds.
pub(crate) struct NodeTable<L: UpperLayer> {
    shards: [Mutex<Shard<L>, { rank::LEAF }>; SHARDS],
    root: Option<Arc<Node<L>>>,
    ids: Ids,
    /// Upper non-directories with several names, by real inode number: all names are one node.
    linked: Mutex<HashMap<u64, Weak<Node<L>>>, { rank::LEAF }>,
    /// Files that are or will be indexed, by their name in the index.
    shared: Mutex<ByIndexName<L>, { rank::LEAF }>,
    /// Directories by the device and inode number of their topmost lower part.
    lower_dirs: Mutex<ByLower<L>, { rank::LEAF }>,
}

impl<L: UpperLayer> NodeTable<L> {
    pub fn new() -> NodeTable<L> {
        NodeTable {
            shards: std::array::from_fn(|_| Mutex::new(Shard(HashTable::new()))),
            root: None,
            ids: Ids::from(NodeId::ROOT.0 + 1),
            linked: Mutex::new(HashMap::new()),
            shared: Mutex::new(HashMap::new()),
            lower_dirs: Mutex::new(HashMap::new()),
        }
    }

    pub fn set_root(&mut self, root: Arc<Node<L>>) {
        self.root = Some(root);
    }

    /// An id that was never used.
    pub fn fresh_id(&self, ledger: Option<&Ledger>) -> NodeId {
        NodeId(self.ids.next(|| ledger.map_or((NodeId::ROOT.0 + 1, u64::MAX), Ledger::node_ids)))
    }

    pub fn get(&self, id: NodeId) -> Option<Arc<Node<L>>> {
        if id == NodeId::ROOT {
            return self.root.clone();
        }
        self.shards[shard(id.0)].lock().get(id).cloned()
    }

    /// Counts a reference that the kernel gets.
    pub fn refer(&self, node: &Arc<Node<L>>) {
        if node.id == NodeId::ROOT {
            return;
        }
        if let Some(record) = node.record() {
            record.refer(1);
        }
        self.shards[shard(node.id.0)].lock().refer(node, 1);
    }

    /// Adds a node to which the kernel held so many references before, which are recorded already.
    pub fn restore(&self, node: &Arc<Node<L>>, lookups: u64) {
        self.shards[shard(node.id.0)].lock().refer(node, lookups);
    }

    /// All that the kernel knows, with their types.
    pub fn all(&self) -> Vec<(NodeId, acetate_layer::Kind)> {
        let all = self
            .shards
            .iter()
            .flat_map(|shard| shard.lock().0.iter().map(|node| (node.id, node.kind)).collect::<Vec<_>>());
        all.collect()
    }

    /// Whether there is a node of that id.
    pub fn has(&self, id: NodeId) -> bool {
        self.shards[shard(id.0)].lock().get(id).is_some()
    }

    /// Gives back references. Returns the node if the kernel holds none any more.
    pub fn forget(&self, id: NodeId, count: u64) -> Option<Arc<Node<L>>> {
        self.shards[shard(id.0)].lock().forget(id, count)
    }

    /// The live node of an upper object with several names.
    pub fn linked(&self, ino: u64) -> Option<Arc<Node<L>>> {
        self.linked.lock().get(&ino)?.upgrade()
    }

    /// Records the node of an upper object with several names; returns another live one if there is.
    pub fn set_linked(&self, ino: u64, node: &Arc<Node<L>>) -> Option<Arc<Node<L>>> {
        let mut linked = self.linked.lock();
        if let Some(other) = linked.get(&ino).and_then(Weak::upgrade) {
            return (!Arc::ptr_eq(&other, node)).then_some(other);
        }
        if linked.len() >= 1024 && linked.len().is_power_of_two() {
            linked.retain(|_, node| node.strong_count() > 0);
        }
        linked.insert(ino, Arc::downgrade(node));
        None
    }

    /// The live node of the names that lead to that name in the index; a new one if there is none.
    pub fn shared(&self, key: Box<[u8]>, new: impl FnOnce() -> Arc<Node<L>>) -> Arc<Node<L>> {
        let mut shared = self.shared.lock();
        if let Some(node) = shared.get(&key).and_then(Weak::upgrade) {
            return node;
        }
        if shared.len() >= 1024 && shared.len().is_power_of_two() {
            shared.retain(|_, node| node.strong_count() > 0);
        }
        let node = new();
        shared.insert(key, Arc::downgrade(&node));
        node
    }

    /// Records which directory a lower directory is part of.
    ///
    /// # Errors
    /// [`OpError::Stale`] if it is already the topmost lower part of another live directory and one of the two is in
    /// upper: a copied redirect, or one whose target was uncovered. The kernel answers the same.
    pub fn claim_lower_dir(&self, key: (u64, u64), node: &Arc<Node<L>>) -> Result<()> {
        let mut dirs = self.lower_dirs.lock();
        if let Some(other) = dirs.get(&key).and_then(Weak::upgrade)
            && (other.in_upper() || node.in_upper())
            && conflicts(&other, node)
        {
            return Err(OpError::Stale);
        }
        if dirs.len() >= 1024 && dirs.len().is_power_of_two() {
            dirs.retain(|_, node| node.strong_count() > 0);
        }
        dirs.insert(key, Arc::downgrade(node));
        Ok(())
    }

    pub fn len(&self) -> usize {
        1 + self.shards.iter().map(|shard| shard.lock().0.len()).sum::<usize>()
    }
}

/// Whether two nodes are known by different names. Two lookups of one name at once make two nodes for a moment; a
/// removed directory has no name any more.
fn conflicts<L: UpperLayer>(a: &Node<L>, b: &Node<L>) -> bool {
    let (a, b) = (a.state.read(), b.state.read());
    match (a.place(), b.place()) {
        (Some(a), Some(b)) => !a.is(b.parent, b.name),
        _ => false,
    }
}

/// Open files by id.
pub(crate) struct HandleTable<L: UpperLayer> {
    shards: [Mutex<HashMap<u64, Arc<OpenFile<L>>>, { rank::LEAF }>; SHARDS],
    ids: Ids,
    /// Of each program that is open to be executed the number of such handles.
    executed: Mutex<HashMap<NodeId, u32>, { rank::LEAF }>,
    /// Files that were open and could not be opened again. The kernel is still to close them.
    buried: Mutex<HashMap<u64, HandleRecord>, { rank::LEAF }>,
}

impl<L: UpperLayer> HandleTable<L> {
    pub fn new() -> HandleTable<L> {
        HandleTable {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            ids: Ids::from(1),
            executed: Mutex::new(HashMap::new()),
            buried: Mutex::new(HashMap::new()),
        }
    }

    /// An id that was never used.
    pub fn fresh_id(&self, ledger: Option<&Ledger>) -> HandleId {
        HandleId(self.ids.next(|| ledger.map_or((1, u64::MAX), Ledger::handle_ids)))
    }

    pub fn insert(&self, id: HandleId, open: OpenFile<L>) {
        if open.executes() {
            *self.executed.lock().entry(open.node.id).or_default() += 1;
        }
        self.shards[shard(id.0)].lock().insert(id.0, Arc::new(open));
    }

    /// Notes a file that cannot be opened again.
    pub fn bury(&self, id: HandleId, record: HandleRecord) {
        self.buried.lock().insert(id.0, record);
    }

    /// Whether it was such a file; it is none any more.
    pub fn unearth(&self, id: HandleId) -> bool {
        self.buried.lock().remove(&id.0).is_some()
    }

    pub fn get(&self, id: HandleId) -> Option<Arc<OpenFile<L>>> {
        self.shards[shard(id.0)].lock().get(&id.0).cloned()
    }

    pub fn remove(&self, id: HandleId) -> Option<Arc<OpenFile<L>>> {
        let open = self.shards[shard(id.0)].lock().remove(&id.0)?;
        if open.executes()
            && let Entry::Occupied(mut count) = self.executed.lock().entry(open.node.id)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(open)
    }

    /// Whether a node is open to be executed.
    pub fn is_executed(&self, node: NodeId) -> bool {
        self.executed.lock().contains_key(&node)
    }

    /// Whether a node is open. Looks at all handles.
    pub fn has_open(&self, node: NodeId) -> bool {
        self.shards.iter().any(|shard| shard.lock().values().any(|open| open.node.id == node))
    }

    /// The open files of a node. Looks at all handles.
    pub fn open_of(&self, node: NodeId) -> Vec<Arc<OpenFile<L>>> {
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| {
                shard.lock().values().filter(|open| open.node.id == node).cloned().collect::<Vec<_>>()
            })
            .collect()
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}
