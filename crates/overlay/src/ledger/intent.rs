//! Requests that may have changed a name or an attribute and are not answered yet.

use super::{
    ANSWERED, ATTEMPTS, INTENTS_AT, Ledger, LedgerError, MOST_ATTEMPTED, MOST_BEGUN, NodeId, Ordering,
};
use std::cell::Cell;

/// How many there can be.
const MOST: usize = 64;
/// Words of an intent.
const SIZE: usize = 128;
/// The longest name in bytes.
const NAME: usize = 256;

const PHASE: usize = 1;
const NAME_AT: usize = 10;
const NEW_NAME_AT: usize = NAME_AT + NAME / 8;

const BEGUN: u64 = 1;
const DONE: u64 = 2;
const NOT_DONE: u64 = 3;

/// A server that has answered so many requests has been sent all again that its predecessor had left.
const ENOUGH: u64 = 1024;

thread_local! {
    /// The request that this thread carries out.
    static CURRENT: Cell<Current> = const { Cell::new(Current { unique: 0, again: false, slot: None }) };
}

#[derive(Clone, Copy)]
struct Current {
    unique: u64,
    /// It was sent to an earlier server, too.
    again: bool,
    /// Its intent.
    slot: Option<usize>,
}

/// The number of the request that this thread carries out; 0 if none.
pub(super) fn current() -> u64 {
    CURRENT.get().unique
}

/// What a request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A new name of a new object.
    Make = 1,
    /// A new name of a known one.
    Link = 2,
    /// A name goes.
    Remove = 3,
    /// A name becomes another one.
    Rename = 4,
    /// Two names are exchanged.
    Exchange = 5,
    /// An attribute that was not there.
    SetXattr = 6,
    /// An attribute that was there goes.
    RemoveXattr = 7,
}

const CHANGES: [Change; 7] = [
    Change::Make,
    Change::Link,
    Change::Remove,
    Change::Rename,
    Change::Exchange,
    Change::SetXattr,
    Change::RemoveXattr,
];

/// What is about to be done.
#[derive(Clone, Copy)]
pub(crate) struct Intent<'a> {
    pub change: Change,
    /// The directory and the name in it that changes.
    pub place: (NodeId, &'a [u8]),
    /// The other one, of a rename.
    pub new_place: (NodeId, &'a [u8]),
    /// The object that is at the name, or gets it.
    pub node: Option<NodeId>,
    /// The one at the other name.
    pub other: Option<NodeId>,
    /// The inode number of the object in upper, which tells whether two names were exchanged.
    pub ino: u64,
}

impl<'a> Intent<'a> {
    /// One that concerns a single name.
    pub(crate) fn at(change: Change, dir: NodeId, name: &'a [u8], node: Option<NodeId>) -> Intent<'a> {
        Intent { change, place: (dir, name), new_place: (NodeId(0), b""), node, other: None, ino: 0 }
    }
}

/// An intent that an earlier server has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub slot: usize,
    pub change: Change,
    pub place: (NodeId, Box<[u8]>),
    pub new_place: (NodeId, Box<[u8]>),
    pub node: NodeId,
    pub other: NodeId,
    pub ino: u64,
}

/// How far a request got that is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// It did not change anything.
    Nothing,
    /// It was carried out.
    Done,
    /// It had passed its checks, and may have been carried out.
    Checked,
}

fn slot_at(slot: usize) -> usize {
    INTENTS_AT + slot * SIZE
}

impl Ledger {
    /// This thread begins with a request; `again` if it was sent before. `false` if it has brought down too many servers to
    /// be tried once more.
    pub(crate) fn begin(&self, unique: u64, again: bool) -> bool {
        let slot = if again { (0..MOST).find(|slot| self.load(slot_at(*slot)) == unique) } else { None };
        CURRENT.set(Current { unique, again, slot });
        !again || self.count_attempt(unique) <= MOST_BEGUN
    }

    /// The request of this thread is about to be answered. From then on others may change the same, so how far it got has
    /// to be known: it succeeded, or changed nothing.
    pub(crate) fn finish(&self, success: bool) {
        if let Some(slot) = CURRENT.get().slot {
            self.store(slot_at(slot) + PHASE, if success { DONE } else { NOT_DONE });
        }
    }

    /// The request of this thread has been answered.
    pub(crate) fn end(&self) {
        let Current { unique, again, slot } =
            CURRENT.replace(Current { unique: 0, again: false, slot: None });
        if let Some(slot) = slot {
            self.store(slot_at(slot) + PHASE, 0);
            self.store(slot_at(slot), 0);
        }
        if again && let Some(at) = self.attempt(unique) {
            self.store(at + 1, 0);
            self.store(at, 0);
        }
        self.word(ANSWERED).fetch_add(1, Ordering::Relaxed);
    }

    fn attempt(&self, unique: u64) -> Option<usize> {
        (0..MOST_ATTEMPTED).map(|index| ATTEMPTS + index * 2).find(|at| self.load(*at) == unique)
    }

    /// Counts that a request is begun again, and returns how often it has been.
    fn count_attempt(&self, unique: u64) -> u64 {
        if let Some(at) = self.attempt(unique) {
            return self.word(at + 1).fetch_add(1, Ordering::AcqRel) + 1;
        }
        let free = (0..MOST_ATTEMPTED).map(|index| ATTEMPTS + index * 2).find(|at| {
            self.word(*at).compare_exchange(0, unique, Ordering::AcqRel, Ordering::Acquire).is_ok()
        });
        if let Some(at) = free {
            self.store(at + 1, 1);
        }
        1
    }

    /// Records that the request of this thread is about to change something; everything that could refuse it has been
    /// looked at, and it is answered before anybody else can change the same.
    pub(crate) fn intend(&self, intent: &Intent<'_>) {
        let current = CURRENT.get();
        if current.unique == 0 {
            return;
        }
        let claim = |slot: &usize| {
            let word = self.word(slot_at(*slot));
            word.compare_exchange(0, current.unique, Ordering::AcqRel, Ordering::Acquire).is_ok()
        };
        let Some(slot) = current.slot.or_else(|| (0..MOST).find(claim)) else {
            return self.give_up("too many requests are in flight");
        };
        let names = (intent.place.1, intent.new_place.1);
        if names.0.len() > NAME || names.1.len() > NAME {
            return self.give_up("a name is too long");
        }
        let at = slot_at(slot);
        self.store(at + PHASE, 0);
        let id = |node: Option<NodeId>| node.map_or(0, |node| node.0);
        let words = [
            intent.change as u64,
            intent.place.0.0,
            intent.new_place.0.0,
            id(intent.node),
            id(intent.other),
            intent.ino,
            names.0.len() as u64 | (names.1.len() as u64) << 32,
            0,
        ];
        for (word, value) in words.into_iter().enumerate() {
            self.store(at + 2 + word, value);
        }
        self.put_bytes(at + NAME_AT, names.0);
        self.put_bytes(at + NEW_NAME_AT, names.1);
        self.store(at + PHASE, BEGUN);
        CURRENT.set(Current { slot: Some(slot), ..current });
    }

    /// How far an earlier server got with the request of this thread, which would make this change.
    pub(crate) fn before(&self, change: Change) -> Before {
        let current = CURRENT.get();
        let Some(slot) = current.slot.filter(|_| current.again) else {
            return Before::Nothing;
        };
        let at = slot_at(slot);
        match self.load(at + PHASE) {
            _ if self.load(at + 2) != change as u64 => Before::Nothing,
            DONE => Before::Done,
            BEGUN => Before::Checked,
            _ => Before::Nothing,
        }
    }

    /// Whether the request of this thread was sent before, and if so its number.
    pub(crate) fn again(&self) -> Option<u64> {
        let current = CURRENT.get();
        current.again.then_some(current.unique)
    }

    /// The intents that were begun and of which nobody knows how far they got. Those of requests that have been answered
    /// are cleared away.
    pub(super) fn take_over_intents(&self) -> Result<Vec<Saved>, LedgerError> {
        let answered = self.word(ANSWERED).swap(0, Ordering::AcqRel);
        let mut begun = Vec::new();
        for slot in 0..MOST {
            let at = slot_at(slot);
            let old = self.load(at + 9) != 0 && answered >= ENOUGH;
            let phase = self.load(at + PHASE);
            if phase == 0 || old {
                self.store(at + PHASE, 0);
                self.store(at, 0);
                continue;
            }
            self.store(at + 9, 1);
            if phase != BEGUN {
                continue;
            }
            let number = self.load(at + 2);
            let change =
                CHANGES.into_iter().find(|change| *change as u64 == number).ok_or(LedgerError::Form)?;
            let lengths = self.load(at + 8);
            let length = |bytes: u64| (bytes & 0xffff_ffff).min(NAME as u64) as usize;
            begun.push(Saved {
                slot,
                change,
                place: (NodeId(self.load(at + 3)), self.bytes(at + NAME_AT, length(lengths))),
                new_place: (NodeId(self.load(at + 4)), self.bytes(at + NEW_NAME_AT, length(lengths >> 32))),
                node: NodeId(self.load(at + 5)),
                other: NodeId(self.load(at + 6)),
                ino: self.load(at + 7),
            });
        }
        Ok(begun)
    }

    /// Records how far an intent got.
    pub(crate) fn decide(&self, intent: &Saved, done: bool) {
        self.store(slot_at(intent.slot) + PHASE, if done { DONE } else { NOT_DONE });
    }
}
