//! Locks that know their place in the order of all locks (node.rs). Debug builds panic when one is taken out of order, also
//! where it happens to do no harm; release builds check nothing.

use std::ops::{Deref, DerefMut};

/// The places in the order. Whoever holds a lock may take only those of the same or a later place.
pub(crate) mod rank {
    /// The renaming lock.
    pub const RENAMING: u8 = 0;
    /// `ns` of directories; several at a time, ancestors first, then by id.
    pub const NS: u8 = 1;
    /// That of the ledger, while a node that the last server knew is made again.
    pub const REVIVING: u8 = 2;
    /// `copy` of one node.
    pub const COPY: u8 = 3;
    /// `reading` of one directory.
    pub const READING: u8 = 4;
    /// `state` of nodes.
    pub const STATE: u8 = 5;
    /// Leaves: children, listings, tables, records of the ledger. Names of a directory may be recorded in its listing, and
    /// records are taken and given back while others are looked at; nothing else is nested.
    pub const LEAF: u8 = 6;
}

/// A mutex at a place in the order.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T, const RANK: u8>(parking_lot::Mutex<T>);

impl<T, const RANK: u8> Mutex<T, RANK> {
    pub fn new(value: T) -> Self {
        Mutex(parking_lot::Mutex::new(value))
    }

    pub fn lock(&self) -> Guard<parking_lot::MutexGuard<'_, T>> {
        let held = Held::new(RANK);
        Guard { guard: self.0.lock(), _held: held }
    }
}

/// A reader-writer lock at a place in the order.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T, const RANK: u8>(parking_lot::RwLock<T>);

impl<T, const RANK: u8> RwLock<T, RANK> {
    pub fn new(value: T) -> Self {
        RwLock(parking_lot::RwLock::new(value))
    }

    pub fn read(&self) -> Guard<parking_lot::RwLockReadGuard<'_, T>> {
        let held = Held::new(RANK);
        Guard { guard: self.0.read(), _held: held }
    }

    /// Whoever does not wait need not keep the order, but what is taken while it holds this does.
    pub fn try_read(&self) -> Option<Guard<parking_lot::RwLockReadGuard<'_, T>>> {
        self.0.try_read().map(|guard| Guard { guard, _held: Held::new(RANK) })
    }

    pub fn write(&self) -> Guard<parking_lot::RwLockWriteGuard<'_, T>> {
        let held = Held::new(RANK);
        Guard { guard: self.0.write(), _held: held }
    }
}

/// A lock that is held.
pub(crate) struct Guard<G> {
    guard: G,
    _held: Held,
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

#[cfg(not(debug_assertions))]
struct Held;

#[cfg(not(debug_assertions))]
impl Held {
    fn new(_rank: u8) -> Held {
        Held
    }
}

#[cfg(debug_assertions)]
use checked::Held;

#[cfg(debug_assertions)]
mod checked {
    use super::rank;
    use std::cell::RefCell;

    thread_local! {
        /// The places of the locks that this thread holds, or waits for.
        static HELD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) struct Held(u8);

    impl Held {
        pub(super) fn new(rank: u8) -> Held {
            HELD.with_borrow_mut(|held| {
                let several = matches!(rank, rank::NS | rank::STATE | rank::LEAF);
                let fits = |before: &u8| *before < rank || several && *before == rank;
                assert!(held.iter().all(fits), "a lock of place {rank} is taken while {held:?} are held");
                held.push(rank);
            });
            Held(rank)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.with_borrow_mut(|held| {
                if let Some(at) = held.iter().rposition(|rank| *rank == self.0) {
                    held.remove(at);
                }
            });
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept() {
        let (ns, state) = (RwLock::<_, { rank::NS }>::new(()), RwLock::<_, { rank::STATE }>::new(1));
        let leaf = Mutex::<_, { rank::LEAF }>::new(());
        {
            let _names = (ns.read(), ns.read());
            *state.write() += 1;
            let _both = (state.read(), leaf.lock());
        }
        let out_of_order = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _leaf = leaf.lock();
            let _state = state.read();
        }));
        assert!(out_of_order.is_err());
        // What a panic let go of is held no more.
        let _names = ns.write();
    }
}
