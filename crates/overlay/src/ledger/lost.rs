//! What the last server knew and this one has not needed yet.

use super::FORM;
use super::{
    CHUNK, CHUNKS_AT, CHUNKS_USED, CLASSES_AT, GIVEN_UP, HANDLE, HEADER_FORM, HandleRecord, KINDS, Keeper,
    Ledger, LedgerError, MOST_CHUNKS, Memory, NODE, PLACE_HEAD, Record, SIZES, Saved, flag,
};
use crate::order::{Guard, Mutex};
use crate::{HandleId, NodeId};
use acetate_layer::Kind;
use parking_lot::MutexGuard;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A node that the kernel knows and this server does not, as its record says.
#[derive(Clone, Debug)]
pub(crate) struct LostNode {
    at: usize,
    pub id: NodeId,
    pub kind: Kind,
    pub ino: u64,
    pub lookups: u64,
    flags: u64,
    /// The records of its names.
    places: Vec<usize>,
    /// Its names: parent and name.
    names: Vec<(NodeId, Box<[u8]>)>,
}

impl LostNode {
    /// See [`flag::LOST_CAPABILITIES`].
    pub(crate) fn lost_capabilities(&self) -> bool {
        self.flags & flag::LOST_CAPABILITIES != 0
    }

    /// Its names: parent and name.
    pub(crate) fn names(&self) -> &[(NodeId, Box<[u8]>)] {
        &self.names
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

/// Where the record of a node is, and that of its first name (zero: it has none). Records are counted in eights of words.
#[derive(Clone, Copy, Debug)]
struct Old {
    id: u64,
    /// Zero once the node has been made again.
    at: u32,
    place: u32,
}

/// Where the records of the last server's nodes are. There may be millions, so all else is read from the records.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// By id.
    nodes: Vec<Old>,
    /// How many of them are still to be made.
    left: usize,
    /// Further names of those that have several, by id.
    more: HashMap<u64, Vec<u32>>,
    /// Names by their digests, which nobody can foresee who makes names.
    names: Vec<(u32, u32)>,
    digests: RandomState,
    /// Names that nodes have got since.
    new_names: HashMap<(u64, Box<[u8]>), u64>,
}

impl Lost {
    fn index(&self, id: u64) -> Option<usize> {
        let index = self.nodes.binary_search_by_key(&id, |old| old.id).ok()?;
        (self.nodes[index].at != 0).then_some(index)
    }

    fn get(&self, id: u64) -> Option<Old> {
        Some(self.nodes[self.index(id)?])
    }

    fn digest(&self, parent: u64, name: &[u8]) -> u32 {
        self.digests.hash_one((parent, name)) as u32
    }

    /// The records of the names of a node.
    fn places(&self, old: &Old) -> Vec<usize> {
        let first = (old.place != 0).then_some(old.place);
        let more = self.more.get(&old.id).into_iter().flatten().copied();
        first.into_iter().chain(more).map(|place| place as usize * 8).collect()
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
        let (mut nodes, mut places, mut handles) = (Vec::new(), Vec::new(), Vec::new());
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
                    NODE => nodes.push(self.old_node(owner, at)?),
                    HANDLE => handles.push(self.old_handle(owner, at)),
                    _ => places.push((owner, (at / 8) as u32)),
                }
            }
        }
        nodes.sort_unstable_by_key(|old| old.id);
        let mut more: HashMap<u64, Vec<u32>> = HashMap::new();
        for (owner, place) in places {
            match nodes.binary_search_by_key(&owner, |old| old.id) {
                Ok(index) if nodes[index].place == 0 => nodes[index].place = place,
                Ok(_) => more.entry(owner).or_default().push(place),
                // Its node was about to be recorded, or has just gone.
                Err(_) => self.give_back_place(place as usize * 8),
            }
        }
        // A handle without a note was never answered.
        let (known, unknown): (Vec<_>, Vec<_>) = handles.into_iter().partition(|handle| handle.note != 0);
        unknown.iter().for_each(|handle| self.give_back(HANDLE, handle.at));
        let mut lost = Lost { nodes, more, ..Lost::default() };
        self.drop_unneeded(&mut lost, &known);
        lost.left = lost.nodes.len();
        let further = lost.more.values().flatten();
        let all = lost.nodes.iter().map(|old| old.place).filter(|place| *place != 0).chain(further.copied());
        let mut names: Vec<_> = all
            .map(|place| {
                let (parent, name) = self.name_at(place as usize * 8);
                (lost.digest(parent.0, &name), place)
            })
            .collect();
        names.sort_unstable();
        lost.names = names;
        self.has_lost.store(true, Ordering::Release);
        *self.lost.lock() = lost;
        Ok((intents, known))
    }

    fn old_node(&self, id: u64, at: usize) -> Result<Old, LedgerError> {
        let kind = self.load(at + 2) & 0xff;
        if KINDS.get(kind as usize).is_none() {
            return Err(LedgerError::Form);
        }
        Ok(Old { id, at: (at / 8) as u32, place: 0 })
    }

    fn lost_node(&self, lost: &Lost, old: &Old) -> LostNode {
        let at = old.at as usize * 8;
        let kind = self.load(at + 2);
        let places = lost.places(old);
        LostNode {
            at,
            id: NodeId(old.id),
            lookups: self.load(at + 1),
            // Looked at before.
            kind: KINDS.get((kind & 0xff) as usize).copied().unwrap_or(Kind::File),
            flags: kind & !0xff,
            ino: self.load(at + 3),
            names: places.iter().map(|place| self.name_at(*place)).collect(),
            places,
        }
    }

    /// A name that is recorded: parent and name.
    fn name_at(&self, at: usize) -> (NodeId, Box<[u8]>) {
        let room = (SIZES[self.class_of(at)] - PLACE_HEAD) * 8;
        let length = (self.load(at + 2) & 0xffff_ffff) as usize;
        (NodeId(self.load(at + 1)), self.bytes(at + PLACE_HEAD, length.min(room)))
    }

    fn give_back_place(&self, at: usize) {
        self.give_back(self.class_of(at), at);
    }

    /// The node that had this name and is still to be made.
    fn find_at(&self, lost: &Lost, parent: NodeId, name: &[u8]) -> Option<Old> {
        if !lost.new_names.is_empty()
            && let Some(id) = lost.new_names.get(&(parent.0, name.into()))
        {
            return lost.get(*id);
        }
        let digest = lost.digest(parent.0, name);
        let first = lost.names.partition_point(|known| known.0 < digest);
        let same = lost.names[first..].iter().take_while(|known| known.0 == digest);
        same.map(|(_, place)| *place as usize * 8).find_map(|place| {
            // The record may be that of another name by now.
            let old = lost.get(self.load(place))?;
            let (its_parent, its_name) = self.name_at(place);
            (its_parent == parent && *its_name == *name).then_some(old)
        })
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
    fn drop_unneeded(&self, lost: &mut Lost, handles: &[OldHandle]) {
        let mut needed = vec![false; lost.nodes.len()];
        let referred =
            lost.nodes.iter().filter(|old| self.load(old.at as usize * 8 + 1) > 0).map(|old| old.id);
        let mut todo: Vec<u64> = referred.chain(handles.iter().map(|handle| handle.node.0)).collect();
        todo.push(NodeId::ROOT.0);
        while let Some(id) = todo.pop() {
            let Some(index) = lost.index(id) else { continue };
            if !std::mem::replace(&mut needed[index], true) {
                let places = lost.places(&lost.nodes[index]);
                todo.extend(places.into_iter().map(|place| self.load(place + 1)));
            }
        }
        for old in
            (0..).zip(&lost.nodes).filter(|(index, _): &(usize, _)| !needed[*index]).map(|(_, old)| old)
        {
            lost.places(old).into_iter().for_each(|place| self.give_back_place(place));
            self.give_back(NODE, old.at as usize * 8);
        }
        let mut index = 0;
        lost.nodes.retain(|_| {
            index += 1;
            needed[index - 1]
        });
        let Lost { nodes, more, .. } = lost;
        more.retain(|id, _| nodes.binary_search_by_key(id, |old| old.id).is_ok());
    }

    /// Waits until nobody else makes a node of this name that the last server knew; `None` if it did not know it.
    pub(crate) fn reviving(&self, parent: NodeId, name: &[u8]) -> Option<Guard<MutexGuard<'_, ()>>> {
        let known =
            self.has_lost.load(Ordering::Acquire) && self.find_at(&self.lost.lock(), parent, name).is_some();
        known.then(|| self.reviving.lock())
    }

    /// The node that had this name.
    pub(crate) fn lost_at(&self, parent: NodeId, name: &[u8]) -> Option<LostNode> {
        if !self.has_lost.load(Ordering::Acquire) {
            return None;
        }
        let lost = self.lost.lock();
        let old = self.find_at(&lost, parent, name)?;
        Some(self.lost_node(&lost, &old))
    }

    /// The node of that id.
    pub(crate) fn lost(&self, id: NodeId) -> Option<LostNode> {
        if !self.has_lost.load(Ordering::Acquire) {
            return None;
        }
        let lost = self.lost.lock();
        let old = lost.get(id.0)?;
        Some(self.lost_node(&lost, &old))
    }

    /// Whether a node of that id is still to be made.
    pub(super) fn is_lost(&self, id: NodeId) -> bool {
        self.has_lost.load(Ordering::Acquire) && self.lost.lock().get(id.0).is_some()
    }

    /// All that the kernel knows and this server does not, with their types.
    pub(crate) fn all_lost(&self) -> Vec<(NodeId, Kind)> {
        let lost = self.lost.lock();
        let alive = lost.nodes.iter().filter(|old| old.at != 0);
        let kind = |old: &Old| KINDS.get((self.load(old.at as usize * 8 + 2) & 0xff) as usize).copied();
        alive.filter_map(|old| Some((NodeId(old.id), kind(old)?))).collect()
    }

    /// Those that can be reached by names that the kernel has not looked up: they are to be known before it does.
    pub(crate) fn urgent(&self) -> Vec<NodeId> {
        let lost = self.lost.lock();
        let many = |old: &&Old| {
            old.at != 0
                && (lost.more.contains_key(&old.id)
                    || self.load(old.at as usize * 8 + 2) & flag::MANY_NAMES != 0)
        };
        lost.nodes.iter().filter(many).map(|old| NodeId(old.id)).collect()
    }

    /// The record of a node that is being made again. It stays in the ledger until [`found`](Self::found).
    pub(crate) fn record_of(self: &Arc<Self>, node: &LostNode) -> Box<Record> {
        Box::new(Record { ledger: self.clone(), at: node.at, places: Mutex::new(node.places.clone()) })
    }

    /// A node has been made again.
    pub(crate) fn found(&self, id: NodeId) {
        if !self.has_lost.load(Ordering::Acquire) {
            return;
        }
        let mut lost = self.lost.lock();
        let Some(index) = lost.index(id.0) else { return };
        lost.nodes[index].at = 0;
        lost.left -= 1;
        if lost.left == 0 {
            *lost = Lost::default();
            self.has_lost.store(false, Ordering::Release);
        }
    }

    /// The kernel gives back references to a node that has not been made again.
    pub(crate) fn forget_lost(&self, id: NodeId, count: u64) {
        if !self.has_lost.load(Ordering::Acquire) {
            return;
        }
        let lost = self.lost.lock();
        if let Some(old) = lost.get(id.0) {
            let at = old.at as usize * 8 + 1;
            self.store(at, self.load(at).saturating_sub(count));
        }
    }

    /// Records that a node has lost a name.
    pub(crate) fn lose_name(&self, node: NodeId, parent: NodeId, name: &[u8]) {
        let lost = &mut *self.lost.lock();
        let Some(index) = lost.index(node.0) else { return };
        let places = lost.places(&lost.nodes[index]);
        let is_it = |place: &&usize| {
            let (its_parent, its_name) = self.name_at(**place);
            its_parent == parent && *its_name == *name
        };
        let Some(gone) = places.iter().find(is_it).copied() else { return };
        self.give_back_place(gone);
        let mut rest = places.into_iter().filter(|place| *place != gone).map(|place| (place / 8) as u32);
        lost.nodes[index].place = rest.next().unwrap_or(0);
        let rest: Vec<u32> = rest.collect();
        match rest.is_empty() {
            true => drop(lost.more.remove(&node.0)),
            false => drop(lost.more.insert(node.0, rest)),
        }
        let key = (parent.0, name.into());
        if lost.new_names.get(&key) == Some(&node.0) {
            lost.new_names.remove(&key);
        }
    }

    /// Records that a node has got a name.
    pub(crate) fn gain_name(&self, node: NodeId, parent: NodeId, name: &[u8]) {
        let lost = &mut *self.lost.lock();
        let Some(index) = lost.index(node.0) else { return };
        let old = lost.nodes[index];
        let known = lost.places(&old).into_iter().any(|place| {
            let (its_parent, its_name) = self.name_at(place);
            its_parent == parent && *its_name == *name
        });
        if !known && let Some(at) = self.place(node.0, parent.0, name, true) {
            let place = (at / 8) as u32;
            match old.place {
                0 => lost.nodes[index].place = place,
                _ => lost.more.entry(node.0).or_default().push(place),
            }
        }
        lost.new_names.insert((parent.0, name.into()), node.0);
    }

    /// The record of a file that is open again.
    pub(crate) fn handle_record_of(self: &Arc<Self>, handle: &OldHandle) -> HandleRecord {
        HandleRecord { ledger: self.clone(), at: handle.at }
    }
}
