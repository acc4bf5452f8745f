//! Who wants attributes with the listings that they read.
//!
//! To look an entry up costs several times what it costs to name it, and less than half of what a request for it costs later.
//! So the first listing that a thread reads brings the attributes of its first entries, the next ones those of directories
//! alone, and once somebody looks a file of such a listing up, the thread that has read it gets all of them.
//! The kernel's own way (`READDIRPLUS_AUTO`) brings them for the beginning of every listing, and gets to know only between
//! two parts of one listing that they are wanted for the rest.

use acetate_layer::Kind;
use acetate_overlay::{LookUp, NodeId};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many threads and how many listings are remembered at a time.
const SLOTS: usize = 64;
/// So many entries of its first listing a thread gets with attributes.
const FIRST_ENTRIES: u64 = 1024;

/// What is known of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    /// It has read this listing only.
    Unknown(NodeId),
    /// Names, as far as one can tell.
    Names,
    /// Attributes.
    All,
}

/// The threads that have read listings, and what they have read of late without attributes.
#[derive(Debug)]
pub(crate) struct Readers {
    threads: Mutex<[(u32, Wants); SLOTS]>,
    /// Ids of directories that were listed without attributes of files, and the threads that have read them.
    bare: [(AtomicU64, AtomicU64); SLOTS],
}

impl Readers {
    pub(crate) fn new() -> Readers {
        let bare = std::array::from_fn(|_| (AtomicU64::new(0), AtomicU64::new(0)));
        Readers { threads: Mutex::new([(0, Wants::Names); SLOTS]), bare }
    }

    /// A thread reads the listing of `dir` from `offset` on: which entries are to be looked up?
    pub(crate) fn list(&self, thread: u32, dir: NodeId, offset: u64) -> LookUp {
        let wants = {
            let known = &mut self.threads.lock()[thread as usize % SLOTS];
            if known.0 != thread {
                *known = (thread, Wants::Unknown(dir));
            }
            if known.1 != Wants::Unknown(dir) && known.1 != Wants::All {
                known.1 = Wants::Names;
            }
            known.1
        };
        match wants {
            Wants::All => LookUp::All,
            Wants::Unknown(_) if offset < FIRST_ENTRIES => LookUp::All,
            Wants::Unknown(_) | Wants::Names => {
                let (listed, by) = &self.bare[dir.0 as usize % SLOTS];
                by.store(thread.into(), Ordering::Relaxed);
                listed.store(dir.0, Ordering::Release);
                LookUp::Directories
            }
        }
    }

    /// Somebody has looked an object in `dir` up. Threads of one program share its work, so it need not be the one that has
    /// read the listing.
    pub(crate) fn look_up(&self, dir: NodeId, kind: Kind) {
        let (listed, by) = &self.bare[dir.0 as usize % SLOTS];
        if kind == Kind::Dir || listed.load(Ordering::Acquire) != dir.0 {
            return;
        }
        listed.store(0, Ordering::Relaxed);
        let reader = by.load(Ordering::Relaxed);
        let known = &mut self.threads.lock()[reader as usize % SLOTS];
        if u64::from(known.0) == reader {
            known.1 = Wants::All;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LookUp::{All, Directories};

    #[test]
    fn names_alone_after_the_first_listing() {
        let readers = Readers::new();
        let (first, second, third) = (NodeId(1), NodeId(2), NodeId(3));
        assert_eq!(readers.list(7, first, 0), All);
        assert_eq!(readers.list(7, first, FIRST_ENTRIES), Directories);
        assert_eq!(readers.list(7, second, 0), Directories);
        readers.look_up(second, Kind::Dir);
        assert_eq!((readers.list(7, third, 0), readers.list(7, first, 0)), (Directories, Directories));
        assert_eq!(readers.list(8, third, 0), All);
    }

    #[test]
    fn who_looks_files_up_gets_them_with_the_listing() {
        let readers = Readers::new();
        assert_eq!(readers.list(7, NodeId(1), 0), All);
        // Nothing was held back there.
        readers.look_up(NodeId(1), Kind::File);
        assert_eq!(readers.list(7, NodeId(2), 0), Directories);
        readers.look_up(NodeId(2), Kind::File);
        assert_eq!((readers.list(7, NodeId(2), 500), readers.list(7, NodeId(3), 0)), (All, All));
        // Another thread in the same place is another program.
        assert_eq!(readers.list(7 + SLOTS as u32, NodeId(3), 0), All);
        assert_eq!(readers.list(7 + SLOTS as u32, NodeId(4), 0), Directories);
    }
}
