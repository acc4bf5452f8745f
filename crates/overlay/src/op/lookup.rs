//! lookup and forget: how the kernel gets to know nodes.

use crate::children::NameHash;
use crate::error::{OpError, Result, Step};
use crate::merge::Found;
use crate::node::Node;
use crate::state::{Place, State};
use crate::{Attr, Entry, NodeId, Overlay};
use acetate_layer::{At, Kind, Stat, UpperLayer};
use std::sync::Arc;

impl<L: UpperLayer> Overlay<L> {
    /// Looks `name` up in the directory `parent`. `None` if there is no such name.
    ///
    /// # Errors
    /// [`OpError::NotDir`], [`OpError::NameTooLong`]; [`OpError::MarkRefused`], [`OpError::BrokenMark`] and
    /// [`OpError::LayerLoop`] for what a layer holds; [`OpError::Layer`].
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Option<Entry>> {
        let dir = self.dir(parent)?;
        let _names = dir.as_dir()?.ns.read();
        let Some((node, attr)) = self.child_with_attr(&dir, name, None)? else {
            return Ok(None);
        };
        self.nodes.refer(&node);
        Ok(Some(Entry { node: node.id, attr }))
    }

    /// Gives back `count` references to a node.
    pub fn forget(&self, node: NodeId, count: u64) {
        if let Some(ledger) = &self.ledger
            && !self.nodes.has(node)
        {
            ledger.forget_lost(node, count);
        }
        if let Some(node) = self.nodes.forget(node, count) {
            self.release_node(node);
        }
    }

    /// Drops a node that may be the last of its kind, and its entry in the directory with it.
    pub(crate) fn release_node(&self, node: Arc<Node<L>>) {
        let mut node = Some(node);
        while let Some(last) = node.take() {
            let places: Vec<_> = last.state.read().places().map(|place| place.to_place()).collect();
            drop(last);
            for place in places {
                let Ok(dir) = place.parent.as_dir() else {
                    continue;
                };
                if dir.children.lock().bury(NameHash::of(&place.name)) {
                    // The parent may have been kept by this child alone.
                    node = Some(place.parent);
                }
            }
        }
    }

    /// The node of a name and its attributes. The caller holds the directory's `ns` lock. `hint` is the lower layer that
    /// has the name topmost as of that many changes of the directory: the layers above are then not searched.
    pub(crate) fn child_with_attr(
        &self,
        dir: &Arc<Node<L>>,
        name: &[u8],
        hint: Option<(usize, u64)>,
    ) -> Result<Option<(Arc<Node<L>>, Attr)>> {
        let part = dir.as_dir()?;
        let _reviving = self.ledger.as_ref().and_then(|ledger| ledger.reviving(dir.id, name));
        loop {
            if let Some(node) = dir.child(name) {
                if !self.config.lower_changes || self.is_current(dir, name, &node)? {
                    self.known_names.hit();
                    let attr = self.attr(&node)?;
                    return Ok(Some((node, attr)));
                }
                self.part_with(dir, name, &node);
            }
            self.known_names.miss();
            let changes = part.listing.lock().changes;
            let layer = hint.filter(|(_, as_of)| *as_of == changes).map(|(layer, _)| layer);
            let found = {
                let state = dir.state.read();
                self.resolve(dir, &state, name, layer)?
            };
            let Some(found) = found else {
                // Who looks for a name that is not there is often about to make it.
                if !self.config.lower_changes {
                    part.listing.lock().note_missing(name, changes);
                }
                return Ok(None);
            };
            let mut stat = found.stat.clone();
            if let Some(node) = self.adopt(dir, name, found, changes)? {
                self.count_data_blocks(&node.state.read(), &mut stat)?;
                let attr = self.attr_of(&node, &stat);
                return Ok(Some((node, attr)));
            }
        }
    }

    /// The node of a name. The caller holds the directory's `ns` lock.
    pub(crate) fn child(&self, dir: &Arc<Node<L>>, name: &[u8]) -> Result<Option<Arc<Node<L>>>> {
        if let Some(node) = dir.child(name) {
            return Ok(Some(node));
        }
        if dir.as_dir()?.listing.lock().is_missing(name) {
            return Ok(None);
        }
        Ok(self.child_with_attr(dir, name, None)?.map(|(node, _)| node))
    }

    /// Makes a node of what a name was found to be, or finds the one that it already is. `None` if entries of the
    /// directory have been copied up since it had seen that many changes: what was found may be the old object.
    fn adopt(
        &self,
        dir: &Arc<Node<L>>,
        name: &[u8],
        found: Found<L>,
        changes: u64,
    ) -> Result<Option<Arc<Node<L>>>> {
        if let Some(key) = found.shared.clone() {
            return self.adopt_shared(dir, name, found, key).map(Some);
        }
        let named_upper = found.upper.as_ref().filter(|_| found.stat.kind != Kind::Dir);
        let linked = named_upper.is_some() && found.stat.nlink > 1;
        // Also of what has one name now: the name by which it was known may be gone.
        if let Some(real) = named_upper
            && let Some(node) = self.nodes.linked(found.stat.ino)
        {
            let mut state = node.state.write();
            if !state.has_place(dir, name) {
                state.add_place(Place { parent: dir.clone(), name: name.into(), in_upper: true });
                if matches!(state.upper_at(), Some(At::Open(_))) {
                    state.set_upper(real.clone());
                }
                node.record_places(&state);
            }
            drop(state);
            dir.set_child(name, &node);
            return Ok(Some(node));
        }
        let (kind, lower_dir, ino) = (found.stat.kind, found.lower_dir, found.stat.ino);
        let node = self.make_node(dir, name, kind, state_of(dir, name, found));
        if let Some(key) = lower_dir {
            self.nodes.claim_lower_dir(key, &node)?;
        }
        if linked && let Some(other) = self.nodes.set_linked(ino, &node) {
            // Two names of one file were looked up at once.
            let mut state = other.state.write();
            state.add_place(Place { parent: dir.clone(), name: name.into(), in_upper: true });
            other.record_places(&state);
            drop(state);
            dir.set_child(name, &other);
            return Ok(Some(other));
        }
        // Two lookups of one name may race: the first one to get here wins.
        match dir.add_child(name, &node, changes)? {
            Some(first) if Arc::ptr_eq(&first, &node) => {}
            other => return Ok(other),
        }
        self.settle(&node);
        if linked && let Some(record) = node.record() {
            record.set(crate::ledger::flag::MANY_NAMES, true);
        }
        Ok(Some(node))
    }

    /// The node of one of the names of an indexed file: the one that the others have, if it lives. The name that was
    /// looked up last comes last.
    fn adopt_shared(
        &self,
        dir: &Arc<Node<L>>,
        name: &[u8],
        found: Found<L>,
        key: Box<[u8]>,
    ) -> Result<Arc<Node<L>>> {
        let in_upper = found.in_upper;
        let kind = found.stat.kind;
        let node = self.nodes.shared(key, || self.make_node(dir, name, kind, state_of(dir, name, found)));
        self.settle(&node);
        if let Some(record) = node.record() {
            record.set(crate::ledger::flag::MANY_NAMES, true);
        }
        let mut state = node.state.write();
        let known = state.remove_place(dir, name);
        let place = known.unwrap_or_else(|| Place { parent: dir.clone(), name: name.into(), in_upper });
        state.add_place(place);
        node.record_places(&state);
        drop(state);
        dir.set_child(name, &node);
        Ok(node)
    }

    /// The current attributes of a node.
    pub(crate) fn attr(&self, node: &Arc<Node<L>>) -> Result<Attr> {
        let stat = self.stat(node)?;
        Ok(self.attr_of(node, &stat))
    }

    /// The attributes of the topmost real object of a node.
    pub(crate) fn stat(&self, node: &Node<L>) -> Result<Stat> {
        if self.config.lower_changes {
            return self.stat_unchanged(node);
        }
        let state = node.state.read();
        self.stat_state(&state)
    }

    /// The attributes of the topmost real object.
    pub(crate) fn stat_state(&self, state: &State<L>) -> Result<Stat> {
        let mut stat = if let Some(at) = state.upper_at() {
            self.upper_layer()?.stat(at).step("stat the upper object")?
        } else {
            let lower = state.lower().ok_or(OpError::Stale)?;
            self.lowers[lower.layer].stat(lower.at()).step("stat the lower object")?
        };
        self.count_data_blocks(state, &mut stat)?;
        Ok(stat)
    }

    /// Overlay attributes from real ones.
    pub(crate) fn attr_of(&self, node: &Node<L>, stat: &Stat) -> Attr {
        let state = node.state.read();
        let merged = node.kind == Kind::Dir && state.parts() > 1;
        Attr {
            ino: state.ino,
            kind: node.kind,
            mode: stat.mode,
            nlink: if merged { 1 } else { state.links().map_or(stat.nlink, |links| links.union) },
            uid: stat.uid,
            gid: stat.gid,
            rdev: stat.rdev,
            size: stat.size,
            blocks: stat.blocks,
            blksize: stat.blksize,
            atime: stat.atime,
            mtime: stat.mtime,
            ctime: stat.ctime,
            btime: stat.btime,
        }
    }

    /// Whether an object that a layer holds at a place of its own is nothing to the overlay: nothing or a whiteout.
    pub(crate) fn upper_slot(&self, dir: &L::Dir, name: &[u8]) -> Result<Slot> {
        let layer = self.upper_layer()?;
        let at = At::Name(dir, name);
        match layer.stat(at) {
            Ok(stat) if self.is_whiteout(layer, at, &stat)? => Ok(Slot::Whiteout),
            Ok(_) => Ok(Slot::Object),
            Err(acetate_layer::Errno::NOENT) => Ok(Slot::Nothing),
            Err(errno) => Err(OpError::Layer { step: "look at a name in upper", errno }),
        }
    }
}

/// The state of what a name was found to be.
fn state_of<L: UpperLayer>(dir: &Arc<Node<L>>, name: &[u8], found: Found<L>) -> State<L> {
    let place = Place { parent: dir.clone(), name: name.into(), in_upper: found.in_upper };
    let mut state = State::at(found.ino, place);
    if let Some(real) = found.upper {
        state.set_upper(real);
        state.set_origin(found.has_origin);
        if !found.in_upper {
            state.set_in_index_only();
        }
    }
    state.set_lowers(found.lowers);
    state.set_metacopy(found.metacopy);
    state.set_data_path(found.data_path);
    state.set_index(found.index);
    state.set_links(found.links);
    state.set_redirect(found.redirect);
    state.set_prot(found.prot);
    state
}

/// What the upper directory holds at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Nothing,
    Whiteout,
    Object,
}
