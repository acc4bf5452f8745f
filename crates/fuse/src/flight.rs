//! Requests in flight: which there are, and word of those that take long.
//!
//! Each thread has a slot that says what it is at. Time is counted in ticks of a second by a thread of its own, so that a
//! request need not look at a clock; while there are no requests that thread sleeps.

use crate::wire::op::Op;
use acetate_overlay::NodeId;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// One tick.
const TICK: Duration = Duration::from_secs(1);
/// Requests that take at least so many ticks are slow.
pub(crate) const SLOW_TICKS: u64 = 5;
/// After so many ticks without a request the counting thread sleeps until the next one.
const QUIET_TICKS: u32 = 10;
/// How many slow requests are told of: a filesystem that hangs for days shall not fill a log.
const MOST_TOLD: u32 = 1000;

/// What one thread is at.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The tick in which it began, counted from one; zero between requests.
    since: AtomicU64,
    opcode: AtomicU32,
    node: AtomicU64,
    /// It has been told of.
    told: AtomicBool,
}

/// A request that has been read and not yet been answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// The operation (`Read`, or a number that this server does not know).
    pub operation: String,
    /// The node that it is about.
    pub node: NodeId,
    /// For how long, in seconds, rounded down.
    pub seconds: u64,
}

/// All requests in flight on one connection.
#[derive(Debug)]
pub struct Flights {
    slots: Mutex<Vec<Weak<Slot>>>,
    tick: AtomicU64,
    sleeps: AtomicBool,
    ended: AtomicBool,
    /// What the counting thread sleeps on.
    lock: Mutex<()>,
    wake: Condvar,
    told: AtomicU32,
}

impl Default for Flights {
    fn default() -> Self {
        Flights {
            slots: Mutex::default(),
            tick: AtomicU64::new(1),
            sleeps: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            told: AtomicU32::new(0),
        }
    }
}

impl Flights {
    /// A slot for a new thread.
    pub(crate) fn slot(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        let mut slots = self.slots.lock();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(&slot));
        slot
    }

    /// A thread begins with a request.
    pub(crate) fn begin(&self, slot: &Slot, opcode: u32, node: u64) {
        slot.opcode.store(opcode, Ordering::Relaxed);
        slot.node.store(node, Ordering::Relaxed);
        slot.since.store(self.tick.load(Ordering::Relaxed), Ordering::SeqCst);
        if self.sleeps.load(Ordering::SeqCst) {
            // Under the lock, so that the counting thread waits by now, or has yet to look at the slots.
            let _lock = self.lock.lock();
            self.wake.notify_one();
        }
    }

    /// The thread has answered. Returns how many seconds it took, if that was told of while it was at it.
    pub(crate) fn end(&self, slot: &Slot) -> Option<u64> {
        let since = slot.since.swap(0, Ordering::SeqCst);
        let told = slot.told.load(Ordering::Relaxed) && slot.told.swap(false, Ordering::Relaxed);
        told.then(|| self.tick.load(Ordering::Relaxed).saturating_sub(since))
    }

    /// The requests in flight.
    pub fn list(&self) -> Vec<Flight> {
        let slots: Vec<Arc<Slot>> = self.slots.lock().iter().filter_map(Weak::upgrade).collect();
        slots.iter().filter_map(|slot| self.flight(slot)).collect()
    }

    fn flight(&self, slot: &Slot) -> Option<Flight> {
        let since = slot.since.load(Ordering::SeqCst);
        let opcode = slot.opcode.load(Ordering::Relaxed);
        (since != 0).then(|| Flight {
            operation: Op::from_number(opcode).map_or_else(|| opcode.to_string(), |op| format!("{op:?}")),
            node: NodeId(slot.node.load(Ordering::Relaxed)),
            seconds: self.tick.load(Ordering::Relaxed).saturating_sub(since),
        })
    }

    /// Counts ticks until [`stop`](Self::stop), and calls `slow` once for each request that takes long.
    pub(crate) fn watch(&self, slow: impl Fn(&Flight)) {
        let mut quiet = 0;
        let mut lock = self.lock.lock();
        while !self.ended.load(Ordering::SeqCst) {
            if quiet < QUIET_TICKS {
                self.wake.wait_for(&mut lock, TICK);
            } else {
                self.sleeps.store(true, Ordering::SeqCst);
                // A request that begins after this look finds that this thread sleeps.
                if self.list().is_empty() {
                    self.wake.wait(&mut lock);
                }
                self.sleeps.store(false, Ordering::SeqCst);
                quiet = 0;
                continue;
            }
            self.tick.fetch_add(1, Ordering::Relaxed);
            let slots: Vec<Arc<Slot>> = self.slots.lock().iter().filter_map(Weak::upgrade).collect();
            let mut busy = false;
            for slot in slots {
                let Some(flight) = self.flight(&slot) else { continue };
                busy = true;
                if flight.seconds >= SLOW_TICKS
                    && !slot.told.load(Ordering::Relaxed)
                    && self.told.fetch_add(1, Ordering::Relaxed) < MOST_TOLD
                {
                    slot.told.store(true, Ordering::Relaxed);
                    slow(&flight);
                }
            }
            quiet = if busy { 0 } else { quiet + 1 };
        }
    }

    /// Ends [`watch`](Self::watch).
    pub(crate) fn stop(&self) {
        self.ended.store(true, Ordering::SeqCst);
        let _lock = self.lock.lock();
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_at_work_is_listed_and_told_of_once_it_takes_long() {
        let flights = Flights::default();
        let (slot, idle) = (flights.slot(), flights.slot());
        flights.begin(&slot, Op::Read as u32, 7);
        let read = |seconds| Flight { operation: "Read".into(), node: NodeId(7), seconds };
        assert_eq!(flights.list(), [read(0)]);
        let told = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| flights.watch(|flight| told.lock().push(flight.clone())));
            while told.lock().is_empty() {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(flights.end(&slot).unwrap() >= SLOW_TICKS);
            assert_eq!(flights.end(&idle), None);
            flights.stop();
        });
        assert_eq!(told.lock()[..], [read(SLOW_TICKS)]);
        assert!(flights.list().is_empty());
    }
}
