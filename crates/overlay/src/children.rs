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

struct Child<L: UpperLayer> {
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

/// Nodes by the hash of a name. Nodes that have just lost the name, or are gone, may be among them for a moment.
pub(crate) struct Children<L: UpperLayer>(HashTable<Child<L>>);

impl<L: UpperLayer> Children<L> {
    pub fn new() -> Children<L> {
        Children(HashTable::new())
    }

    fn of(&self, hash: NameHash) -> impl Iterator<Item = &Weak<Node<L>>> {
        self.0.iter_hash(hash.0).filter(move |child| child.hash == hash).map(|child| &child.node)
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
        if !self.of(hash).any(|known| known.ptr_eq(&node)) {
            self.0.insert_unique(hash.0, Child { hash, node }, |child| child.hash.0);
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
        let Ok(found) = self.0.find_entry(hash.0, |child| child.hash == hash && which(&child.node)) else {
            return false;
        };
        drop(found.remove());
        shrink(&mut self.0, |child| child.hash.0);
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
