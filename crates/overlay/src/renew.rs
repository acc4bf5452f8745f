//! Lower layers that change while they are mounted (`lower=revalidate`).
//!
//! What a lookup had found is compared with what is there each time the name is looked up. A file that is another one by
//! now is a new node; the old one goes on for those who have it open, as after a removal. A directory that the mount has
//! changed, or whose topmost part is still the same, stays the same node, and merges what it merges now.

use crate::error::{OpError, Result, Step};
use crate::node::{Lower, Node};
use crate::order::{Mutex, rank};
use crate::state::State;
use crate::{NodeId, Overlay};
use acetate_layer::{At, Errno, Kind, Layer, Stat, UpperLayer};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Open lower files by node, so that what was replaced has attributes as long as it is open.
pub(crate) struct Kept<L: UpperLayer>(Mutex<ByNode<L>, { rank::LEAF }>);

/// The layer of a file and the file.
type ByNode<L> = HashMap<NodeId, (usize, Weak<<L as Layer>::File>)>;

impl<L: UpperLayer> Kept<L> {
    pub fn new() -> Kept<L> {
        Kept(Mutex::new(HashMap::new()))
    }

    /// Remembers the file of a layer that a node was opened by.
    pub fn opened(&self, node: NodeId, layer: usize, file: &Arc<L::File>) {
        self.0.lock().insert(node, (layer, Arc::downgrade(file)));
    }

    /// Forgets what is closed.
    pub fn closed(&self, node: NodeId) {
        let mut kept = self.0.lock();
        if kept.get(&node).is_some_and(|(_, file)| file.strong_count() == 0) {
            kept.remove(&node);
        }
    }

    fn of(&self, node: NodeId) -> Option<(usize, Arc<L::File>)> {
        let kept = self.0.lock();
        let (layer, file) = kept.get(&node)?;
        Some((*layer, file.upgrade()?))
    }
}

impl<L: UpperLayer> Overlay<L> {
    /// Whether the node of a name is still what the layers have there; a directory is brought up to date. The caller holds
    /// the `ns` lock of `dir`.
    ///
    /// # Errors
    /// Those of a lookup.
    pub(crate) fn is_current(&self, dir: &Arc<Node<L>>, name: &[u8], node: &Arc<Node<L>>) -> Result<bool> {
        if node.kind != Kind::Dir && node.data_in_upper() {
            return Ok(true);
        }
        let found = {
            let state = dir.state.read();
            self.resolve(dir, &state, name, None)?
        };
        // What is in upper is changed by this mount only.
        let Some(found) = found else {
            return Ok(node.in_upper());
        };
        if found.stat.kind != node.kind {
            return Ok(node.in_upper());
        }
        let mut state = node.state.write();
        if found.upper.is_some() != state.has_upper() {
            // It is being copied up, or is by another name.
            return Ok(state.has_upper());
        }
        if !state.has_upper() && found.ino != state.ino {
            return Ok(false);
        }
        if node.kind != Kind::Dir {
            if !state.has_upper() || state.metacopy() {
                state.set_lowers(found.lowers);
                state.set_data_path(found.data_path);
            }
            return Ok(true);
        }
        if !self.same_parts(&state, &found.lowers)? {
            state.set_lowers(found.lowers);
            drop(state);
            node.forget_listing();
        }
        Ok(true)
    }

    /// Whether two lists of parts are the same directories.
    fn same_parts(&self, old: &State<L>, new: &[Lower<L>]) -> Result<bool> {
        if old.lowers().len() != new.len() {
            return Ok(false);
        }
        for (old, new) in old.lowers().zip(new) {
            if old.layer != new.layer {
                return Ok(false);
            }
            let layer = &self.lowers[old.layer];
            let [old, new] = [old.at(), new.real.at()].map(|at| layer.stat(at));
            let new = new.step("stat a directory of a layer")?;
            if !old.is_ok_and(|old| (old.dev, old.ino) == (new.dev, new.ino)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes a name from a node that is not there any more.
    pub(crate) fn part_with(&self, dir: &Arc<Node<L>>, name: &[u8], node: &Arc<Node<L>>) {
        dir.remove_child(name, node);
        node.state.write().lose_place(dir, name, None);
        dir.forget_listing();
    }

    /// Whether a lower object is the one that a node was made of.
    pub(crate) fn is_same_lower(&self, state: &State<L>, layer: usize, stat: &Stat) -> bool {
        self.inodes.lower(layer, stat.ino) == state.ino
    }

    /// The attributes of a lower object, if it is the one that the node was made of; else of the open file of the node.
    ///
    /// # Errors
    /// [`OpError::Stale`] if it has gone and is not open; those of the layer.
    pub(crate) fn stat_unchanged(&self, node: &Node<L>) -> Result<Stat> {
        let state = node.state.read();
        let found = self.stat_state(&state);
        let (Some(lower), None) = (state.lower(), state.upper_at()) else {
            return found;
        };
        if node.kind == Kind::Dir {
            return found;
        }
        match found {
            Ok(stat) if self.is_same_lower(&state, lower.layer, &stat) => return Ok(stat),
            Ok(_) | Err(OpError::Layer { errno: Errno::NOENT | Errno::NOTDIR | Errno::STALE, .. }) => {}
            Err(error) => return Err(error),
        }
        drop(state);
        let (layer, file) = self.kept.of(node.id).ok_or(OpError::Stale)?;
        self.lowers[layer].stat(At::Open(file.as_ref())).step("stat an open lower file")
    }
}
