//! The bound on open directory descriptors.
//!
//! Every directory handle may hold a descriptor; this keeps their number below a limit by closing those that have
//! not been used for a while (second chance). A closed one is opened again at its next use.

use super::handle::Node;
use crate::{Counted, Tally};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Weak};

/// At most this many descriptors by default, however many the process may have.
const MOST: u64 = 4096;

/// Shared by all layers of the process unless they are given another.
static COMMON: LazyLock<Arc<DirCache>> = LazyLock::new(|| {
    // The other half is for files, connections and what else the process opens.
    let limit = (acetate_sys::process::nofile_limit() / 2).clamp(16, MOST);
    DirCache::new(usize::try_from(limit).unwrap_or(usize::MAX))
});

/// A bound on the number of directory descriptors of the layers that share it.
///
/// Layer roots and removed directories that are still in use cannot be opened again: they keep their descriptors
/// and do not count.
pub struct DirCache {
    limit: usize,
    /// Those that got a descriptor, in the order in which it may be taken away. Some may be gone by now.
    ring: Mutex<VecDeque<Weak<Node>>>,
    uses: Tally,
}

impl DirCache {
    /// A cache of at most `limit` descriptors (at least one).
    pub fn new(limit: usize) -> Arc<DirCache> {
        Arc::new(DirCache { limit: limit.max(1), ring: Mutex::new(VecDeque::new()), uses: Tally::new() })
    }

    /// The cache of the process: half the descriptors that it may have open when this is first called, but not more
    /// than 4096. Raise the limit first ([`acetate_sys::process::raise_nofile_limit`]).
    pub fn common() -> Arc<DirCache> {
        COMMON.clone()
    }

    /// How often a descriptor was open when it was needed, and how often it had to be opened.
    pub fn uses(&self) -> Counted {
        self.uses.counted()
    }

    /// Counts a use of a descriptor.
    pub(super) fn note_use(&self, open: bool) {
        if open { self.uses.hit() } else { self.uses.miss() }
    }

    /// Notes that `node` has got a descriptor, and takes away others' if there are too many.
    pub(super) fn admit(&self, node: &Arc<Node>) {
        // What is taken away is closed only after the lock is released: closing can block, and it can end a handle.
        let mut closing = Vec::new();
        let mut ring = self.ring.lock();
        ring.push_back(Arc::downgrade(node));
        // Everyone gets at most one second chance a call, so this ends even if all are in use again at once.
        let mut chances = ring.len();
        while ring.len() > self.limit {
            let Some(candidate) = ring.pop_front() else { break };
            let Some(candidate) = candidate.upgrade() else { continue };
            if chances > 0 && candidate.take_used() {
                chances -= 1;
                ring.push_back(Arc::downgrade(&candidate));
                closing.push((None, candidate));
                continue;
            }
            closing.push((candidate.take_descriptor(), candidate));
        }
        drop(ring);
        drop(closing);
    }
}
