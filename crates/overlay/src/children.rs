//! The live nodes of a directory, found by name.
//!
//! The names are those of the nodes' places. They are not held a second time: a node is found by the hash of the name and
//! asked whether it has it.

use crate::node::Node;
use acetate_layer::UpperLayer;
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Weak};

/// Secret, so that nobody can choose names whose hashes are the same.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The hash of a name, by which [`Children`] finds a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameHash(u64);

impl NameHash {
    pub fn of(name: &[u8]) -> NameHash {
        NameHash(HASHES.hash_one(name))
    }
}

/// A node with a name of that hash.
pub(crate) struct Child<L: UpperLayer> {
    hash: NameHash,
    node: Weak<Node<L>>,
}

/// Nodes that may have a name: nearly always one or none.
pub(crate) struct Namesakes<L: UpperLayer>(Option<Arc<Node<L>>>, Vec<Arc<Node<L>>>);

impl<L: UpperLayer> Namesakes<L> {
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Node<L>>> {
        self.0.iter().chain(&self.1)
    }
}

/// So many are looked through one after the other: a list of them takes half the memory of a table.
const FEW: usize = 32;

/// Nodes by the hash of a name. Nodes that have just lost the name, or are gone, may be among them for a moment.
pub(crate) enum Children<L: UpperLayer> {
    Few(Vec<Child<L>>),
    Many(HashTable<Child<L>>),
}

impl<L: UpperLayer> Children<L> {
    pub fn new() -> Children<L> {
        Children::Few(Vec::new())
    }

    fn of(&self, hash: NameHash) -> impl Iterator<Item = &Weak<Node<L>>> {
        let (few, many) = match self {
            Children::Few(list) => (Some(list.iter()), None),
            Children::Many(table) => (None, Some(table.iter_hash(hash.0))),
        };
        let all = few.into_iter().flatten().chain(many.into_iter().flatten());
        all.filter(move |child| child.hash == hash).map(|child| &child.node)
    }

    /// The live nodes that may have a name of that hash.
    pub fn with(&self, hash: NameHash) -> Namesakes<L> {
        let mut live = self.of(hash).filter_map(Weak::upgrade);
        Namesakes(live.next(), live.collect())
    }

    /// Whether there is a live node with a name of that hash that is none of these.
    pub fn has_more_than(&self, hash: NameHash, known: &Namesakes<L>) -> bool {
        let is_known = |node: &Weak<Node<L>>| known.iter().any(|known| std::ptr::eq(&**known, node.as_ptr()));
        self.of(hash).any(|node| node.strong_count() > 0 && !is_known(node))
    }

    /// Adds a node with a name of that hash.
    pub fn insert(&mut self, hash: NameHash, node: &Arc<Node<L>>) {
        while self.take(hash, |child| child.strong_count() == 0) {}
        let node = Arc::downgrade(node);
        if self.of(hash).any(|known| known.ptr_eq(&node)) {
            return;
        }
        let child = Child { hash, node };
        match self {
            Children::Few(list) if list.len() < FEW => {
                if list.len() == list.capacity() {
                    list.reserve_exact(FEW / 8);
                }
                list.push(child);
            }
            Children::Few(list) => {
                let mut table = HashTable::with_capacity(FEW + 1);
                for child in list.drain(..).chain([child]) {
                    table.insert_unique(child.hash.0, child, |child| child.hash.0);
                }
                *self = Children::Many(table);
            }
            Children::Many(table) => {
                table.insert_unique(hash.0, child, |child| child.hash.0);
            }
        }
    }

    /// Takes that node from that name.
    pub fn remove(&mut self, hash: NameHash, node: &Node<L>) {
        self.take(hash, |child| std::ptr::eq(child.as_ptr(), node));
    }

    /// Drops what is left of a node that had a name of that hash. Returns whether there was anything.
    pub fn bury(&mut self, hash: NameHash) -> bool {
        self.take(hash, |child| child.strong_count() == 0)
    }

    fn take(&mut self, hash: NameHash, which: impl Fn(&Weak<Node<L>>) -> bool) -> bool {
        let is_it = |child: &Child<L>| child.hash == hash && which(&child.node);
        match self {
            Children::Few(list) => {
                let Some(at) = list.iter().position(is_it) else { return false };
                list.swap_remove(at);
                if list.is_empty() {
                    *list = Vec::new();
                }
            }
            Children::Many(table) => {
                let Ok(found) = table.find_entry(hash.0, is_it) else { return false };
                drop(found.remove());
                if table.len() < FEW / 2 {
                    *self = Children::Few(table.drain().collect());
                } else {
                    shrink(table, |child| child.hash.0);
                }
            }
        }
        true
    }
}

/// Gives memory back once most of a table is empty.
pub(crate) fn shrink<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    /// Fewer are not worth the while.
    const SMALL: usize = 64;
    if table.capacity() > SMALL && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2, hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;
    use crate::state::State;
    use acetate_layer::Kind;
    use acetate_layer::dir::DirLayer;

    /// In a list, in a table, and on the way from one to the other and back.
    #[test]
    fn children_are_found_however_many_they_are() {
        let nodes: Vec<_> = (0..4 * FEW as u64)
            .map(|id| Arc::new(Node::<DirLayer>::new(NodeId(id), Kind::File, State::new(id))))
            .collect();
        let hash = |node: &Node<DirLayer>| NameHash::of(&node.id.0.to_le_bytes());
        let mut children = Children::new();
        let check = |children: &Children<DirLayer>, known: &[Arc<Node<DirLayer>>]| {
            for node in &nodes {
                let found = children.with(hash(node)).iter().any(|found| found.id == node.id);
                assert_eq!(found, known.iter().any(|known| known.id == node.id));
            }
        };
        for (at, node) in nodes.iter().enumerate() {
            children.insert(hash(node), node);
            children.insert(hash(node), node);
            check(&children, &nodes[..=at]);
        }
        for (at, node) in nodes.iter().enumerate() {
            children.remove(hash(node), node);
            check(&children, &nodes[at + 1..]);
        }
        assert!(matches!(children, Children::Few(list) if list.capacity() == 0));
    }

    #[test]
    fn what_is_left_of_nodes_is_dropped() {
        let mut children = Children::new();
        let name = NameHash::of(b"name");
        for id in 0..3 {
            children.insert(name, &Arc::new(Node::<DirLayer>::new(NodeId(id), Kind::File, State::new(id))));
        }
        assert!(children.with(name).iter().next().is_none());
        assert!(children.bury(name));
        assert!(!children.bury(name));
    }
}
