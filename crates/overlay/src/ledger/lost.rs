//! What the last server knew and this one has not needed yet.

use super::FORM;
use super::{
    CHUNK, CHUNKS_AT, CHUNKS_USED, CLASSES_AT, GIVEN_UP, HANDLE, HEADER_FORM, HandleRecord, KINDS, Keeper,
    Ledger, LedgerError, MOST_CHUNKS, Memory, NODE, PLACE_HEAD, Record, SIZES, Saved, flag,
};
use crate::{HandleId, NodeId};
use acetate_layer::Kind;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A name that a node had.
#[derive(Clone, Debug)]
struct LostPlace {
    at: usize,
    parent: NodeId,
    name: Box<[u8]>,
}

/// A node that the kernel knows and this server does not.
#[derive(Clone, Debug)]
pub(crate) struct LostNode {
    at: usize,
    pub id: NodeId,
    pub kind: Kind,
    pub ino: u64,
    pub lookups: u64,
    flags: u64,
    places: Vec<LostPlace>,
}

impl LostNode {
    /// It is to be known before the kernel asks for it.
    pub(crate) fn is_urgent(&self) -> bool {
        self.flags & flag::MANY_NAMES != 0 || self.places.len() > 1
    }

    /// See [`flag::LOST_CAPABILITIES`].
    pub(crate) fn lost_capabilities(&self) -> bool {
        self.flags & flag::LOST_CAPABILITIES != 0
    }

    /// Its names: parent and name.
    pub(crate) fn names(&self) -> Vec<(NodeId, Box<[u8]>)> {
        self.places.iter().map(|place| (place.parent, place.name.clone())).collect()
    }
}

/// A file that was open.
#[derive(Clone, Debug)]
pub(crate) struct OldHandle {
    at: usize,
    pub id: HandleId,
    pub node: NodeId,
    pub how: u64,
    /// The request that opened it.
    pub unique: u64,
    /// What the transport has kept.
    pub note: u64,
}

#[derive(Debug, Default)]
pub(super) struct Lost {
    nodes: HashMap<u64, LostNode>,
    names: HashMap<(u64, Box<[u8]>), u64>,
}

impl Lost {
    fn at(&self, parent: NodeId, name: &[u8]) -> Option<&LostNode> {
        self.nodes.get(self.names.get(&(parent.0, name.into()))?)
    }
}

impl Ledger {
    /// Reads the ledger of a server that has ended, and returns what it had begun.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub fn load_from(memory: Memory, keeper: Box<dyn Keeper>) -> Result<Ledger, LedgerError> {
        let ledger = Ledger::over(memory, keeper)?;
        if ledger.load(HEADER_FORM) != FORM {
            return Err(LedgerError::Form);
        }
        if ledger.load(GIVEN_UP) != 0 {
            return Err(LedgerError::Incomplete);
        }
        Ok(ledger)
    }

    /// Reads all records; returns the intents that were begun, and the files that were open.
    pub(crate) fn read_all(&self) -> Result<(Vec<Saved>, Vec<OldHandle>), LedgerError> {
        let intents = self.take_over_intents()?;
        let mut nodes: HashMap<u64, LostNode> = HashMap::new();
        let mut places: Vec<(u64, LostPlace)> = Vec::new();
        let mut handles = Vec::new();
        let used = (self.load(CHUNKS_USED) as usize).min(MOST_CHUNKS);
        for chunk in 0..used {
            let Some(class) = (self.load(CLASSES_AT + chunk) as usize).checked_sub(1) else {
                // Its class was about to be recorded.
                self.store(CLASSES_AT + chunk, NODE as u64 + 1);
                continue;
            };
            let size = *SIZES.get(class).ok_or(LedgerError::Form)?;
            for index in 0..CHUNK / size {
                let at = CHUNKS_AT + chunk * CHUNK + index * size;
                let owner = self.load(at);
                match class {
                    _ if owner == 0 => self.give_back(class, at),
                    NODE => drop(nodes.insert(owner, self.lost_node(owner, at)?)),
                    HANDLE => handles.push(self.old_handle(owner, at)),
                    _ => places.push((owner, self.lost_place(at))),
                }
            }
        }
        for (owner, place) in places {
            match nodes.get_mut(&owner) {
                Some(node) => node.places.push(place),
                // Its node was about to be recorded, or has just gone.
                None => self.give_back(self.class_of(place.at), place.at),
            }
        }
        // A handle without a note was never answered.
        let (known, unknown): (Vec<_>, Vec<_>) = handles.into_iter().partition(|handle| handle.note != 0);
        unknown.iter().for_each(|handle| self.give_back(HANDLE, handle.at));
        self.drop_unneeded(&mut nodes, &known);
        let names = nodes.values().flat_map(|node| {
            node.places.iter().map(|place| ((place.parent.0, place.name.clone()), node.id.0))
        });
        let names = names.collect();
        self.has_lost.store(true, Ordering::Release);
        *self.lost.lock() = Lost { nodes, names };
        Ok((intents, known))
    }

    fn lost_node(&self, id: u64, at: usize) -> Result<LostNode, LedgerError> {
        let kind = self.load(at + 2);
        Ok(LostNode {
            at,
            id: NodeId(id),
            lookups: self.load(at + 1),
            kind: KINDS.get((kind & 0xff) as usize).copied().ok_or(LedgerError::Form)?,
            flags: kind & !0xff,
            ino: self.load(at + 3),
            places: Vec::new(),
        })
    }

    fn lost_place(&self, at: usize) -> LostPlace {
        let room = (SIZES[self.class_of(at)] - PLACE_HEAD) * 8;
        let length = (self.load(at + 2) & 0xffff_ffff) as usize;
        LostPlace {
            at,
            parent: NodeId(self.load(at + 1)),
            name: self.bytes(at + PLACE_HEAD, length.min(room)),
        }
    }

    fn old_handle(&self, id: u64, at: usize) -> OldHandle {
        OldHandle {
            at,
            id: HandleId(id),
            node: NodeId(self.load(at + 1)),
            how: self.load(at + 2),
            unique: self.load(at + 3),
            note: self.load(at + 4),
        }
    }

    /// Drops the nodes that neither the kernel nor an open file refers to, nor a node below.
    fn drop_unneeded(&self, nodes: &mut HashMap<u64, LostNode>, handles: &[OldHandle]) {
        let mut needed: HashSet<u64> = HashSet::from([NodeId::ROOT.0]);
        let referred = nodes.values().filter(|node| node.lookups > 0).map(|node| node.id.0);
        let mut todo: Vec<u64> = referred.chain(handles.iter().map(|handle| handle.node.0)).collect();
        while let Some(id) = todo.pop() {
            if needed.insert(id)
                && let Some(node) = nodes.get(&id)
            {
                todo.extend(node.places.iter().map(|place| place.parent.0));
            }
        }
        nodes.retain(|id, node| {
            let keep = needed.contains(id);
            if !keep {
                self.give_back(NODE, node.at);
                node.places.iter().for_each(|place| self.give_back(self.class_of(place.at), place.at));
            }
            keep
        });
    }

    /// Waits until nobody else makes a node of this name that the last server knew; `None` if it did not know it.
    pub(crate) fn reviving(&self, parent: NodeId, name: &[u8]) -> Option<MutexGuard<'_, ()>> {
        let known = self.has_lost.load(Ordering::Acquire) && self.lost.lock().at(parent, name).is_some();
        known.then(|| self.reviving.lock())
    }

    /// The node that had this name.
    pub(crate) fn lost_at(&self, parent: NodeId, name: &[u8]) -> Option<LostNode> {
        if !self.has_lost.load(Ordering::Acquire) {
            return None;
        }
        self.lost.lock().at(parent, name).cloned()
    }

    /// The node of that id.
    pub(crate) fn lost(&self, id: NodeId) -> Option<LostNode> {
        if !self.has_lost.load(Ordering::Acquire) {
            return None;
        }
        self.lost.lock().nodes.get(&id.0).cloned()
    }

    /// Whether a node of that id is still to be made.
    pub(super) fn is_lost(&self, id: NodeId) -> bool {
        self.has_lost.load(Ordering::Acquire) && self.lost.lock().nodes.contains_key(&id.0)
    }

    /// All that the kernel knows.
    pub(crate) fn all_lost(&self) -> Vec<LostNode> {
        self.lost.lock().nodes.values().cloned().collect()
    }

    /// The record of a node that is being made again. It stays in the ledger until [`found`](Self::found).
    pub(crate) fn record_of(self: &Arc<Self>, node: &LostNode) -> Box<Record> {
        let places = node.places.iter().map(|place| place.at).collect();
        Box::new(Record { ledger: self.clone(), at: node.at, places: Mutex::new(places) })
    }

    /// A node has been made again. Returns how many references to it the kernel holds; `None` if it was none of the last
    /// server's.
    pub(crate) fn found(&self, id: NodeId) -> Option<u64> {
        if !self.has_lost.load(Ordering::Acquire) {
            return None;
        }
        let mut lost = self.lost.lock();
        let node = lost.nodes.remove(&id.0)?;
        for place in node.places {
            lost.names.remove(&(place.parent.0, place.name));
        }
        Some(node.lookups)
    }

    /// The kernel gives back references to a node that has not been made again.
    pub(crate) fn forget_lost(&self, id: NodeId, count: u64) {
        if !self.has_lost.load(Ordering::Acquire) {
            return;
        }
        if let Some(node) = self.lost.lock().nodes.get_mut(&id.0) {
            node.lookups = node.lookups.saturating_sub(count);
            self.store(node.at + 1, node.lookups);
        }
    }

    /// Records that a node has lost a name.
    pub(crate) fn lose_name(&self, node: NodeId, parent: NodeId, name: &[u8]) {
        let mut lost = self.lost.lock();
        let Some(node) = lost.nodes.get_mut(&node.0) else { return };
        let Some(index) = node.places.iter().position(|place| place.parent == parent && *place.name == *name)
        else {
            return;
        };
        let place = node.places.swap_remove(index);
        self.give_back(self.class_of(place.at), place.at);
        let id = node.id.0;
        let key = (parent.0, name.into());
        if lost.names.get(&key) == Some(&id) {
            lost.names.remove(&key);
        }
    }

    /// Records that a node has got a name.
    pub(crate) fn gain_name(&self, node: NodeId, parent: NodeId, name: &[u8]) {
        let mut lost = self.lost.lock();
        let Some(node) = lost.nodes.get_mut(&node.0) else { return };
        let known = node.places.iter().any(|place| place.parent == parent && *place.name == *name);
        if !known && let Some(at) = self.place(node.id.0, parent.0, name, true) {
            node.places.push(LostPlace { at, parent, name: name.into() });
        }
        let id = node.id.0;
        lost.names.insert((parent.0, name.into()), id);
    }

    /// The record of a file that is open again.
    pub(crate) fn handle_record_of(self: &Arc<Self>, handle: &OldHandle) -> HandleRecord {
        HandleRecord { ledger: self.clone(), at: handle.at }
    }
}
