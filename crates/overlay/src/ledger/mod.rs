//! What the kernel knows of a mount, kept in memory that outlives the process, for the server that takes the mount over.
//!
//! Records have fixed sizes and lie in chunks of one size each. The first word of a record is its owner's id; it is stored
//! last when the record is made and cleared first when it goes, so whenever the process is killed a record is there or is
//! not. What the layers can tell is not recorded: a node is a name below its parent, and is looked up again.
//!
//! A *node* record counts the references of the kernel; its names are *place* records. A *handle* record is an open file.
//! An *intent* says that a request has passed all checks and may have changed a name from now on, and stays until the
//! request is answered. The kernel keeps the directories of such a request locked until then, so whether the change was
//! made can be told from the layers later.
//!
//! Locks: all here are leaves below those of node.rs, and never held across a call to anything else; but for the one that
//! is held while a node is made again, which comes after the names of its directory.

mod intent;
mod lost;

pub(crate) use intent::{Before, Change, Intent, Saved};
pub(crate) use lost::{LostNode, OldHandle};

use crate::order::{Mutex, rank};
use crate::{HandleId, NodeId};
use acetate_layer::Kind;
use lost::Lost;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The size that a ledger's memory should have, in bytes. Only what is used takes memory: 128 bytes for most nodes.
pub const LEDGER_BYTES: usize = CHUNKS_AT * 8 + MOST_CHUNKS * CHUNK * 8;

/// The form of the records; another one is not understood.
const FORM: u64 = u64::from_le_bytes(*b"acetate1");

/// Words of the header.
const HEADER_FORM: usize = 0;
const NEXT_NODE: usize = 1;
const NEXT_HANDLE: usize = 2;
const GIVEN_UP: usize = 3;
const CHUNKS_USED: usize = 4;
const ANSWERED: usize = 5;
const LARGEST_REQUEST: usize = 6;
/// What the transport has to know.
const TRANSPORT: usize = 16;
/// How many words that is.
pub const TRANSPORT_WORDS: usize = 8;
/// Pairs of a request's number and how often it was begun again.
const ATTEMPTS: usize = 64;
const MOST_ATTEMPTED: usize = 64;

const INTENTS_AT: usize = 512;
const CLASSES_AT: usize = 16 * 1024;
const MOST_CHUNKS: usize = 64 * 1024;
const CHUNKS_AT: usize = CLASSES_AT + MOST_CHUNKS;
/// Words of a chunk.
const CHUNK: usize = 8192;

/// Words of the records of each class.
const SIZES: [usize; 5] = [8, 8, 16, 40, 8];
const NODE: usize = 0;
/// The classes of places, by the length of the name.
const PLACES: [usize; 3] = [1, 2, 3];
const HANDLE: usize = 4;
/// Words of a place before its name.
const PLACE_HEAD: usize = 3;

/// So many ids are set aside at a time.
const ID_BLOCK: u64 = 1024;
/// A request that was there when so many servers were killed is not tried again.
const MOST_BEGUN: u64 = 16;
/// A server that crashes counts as so many more than one that is killed: five are enough.
const BLAME: u64 = 3;

/// Flags of a node; and of an open file, beside how it was opened.
pub(crate) mod flag {
    /// It can be reached by names that the kernel has not looked up, so it has to be known before they are.
    pub const MANY_NAMES: u64 = 1 << 8;
    /// File capabilities were removed just now.
    pub const LOST_CAPABILITIES: u64 = 1 << 9;
    /// A descriptor of it is in safe keeping.
    pub const KEPT: u64 = 1 << 10;
}

/// What a descriptor is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeptFor {
    /// A file that no name leads to.
    Node(NodeId),
    /// An open file of upper that could not be opened again.
    Handle(HandleId),
}

/// Keeps descriptors of files for the next server.
pub trait Keeper: Send + Sync {
    /// Keeps a descriptor of a file whose data is in that lower layer, or in upper. Once this returns, it outlives the
    /// process.
    ///
    /// # Errors
    /// If it cannot be kept; the file is lost with this process then.
    fn keep(&self, what: KeptFor, lower: Option<usize>, file: BorrowedFd<'_>) -> std::io::Result<()>;

    /// Lets go of it.
    fn let_go(&self, what: KeptFor);
}

/// Memory that outlives the process.
pub type Memory = Box<dyn AsRef<[AtomicU64]> + Send + Sync>;

/// Why a ledger cannot be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// It is too small to be one.
    #[error("the ledger has another size")]
    Size,
    /// It was written by a version with another form.
    #[error("the ledger has another form")]
    Form,
    /// The server that wrote it could not record everything.
    #[error("not everything could be recorded")]
    Incomplete,
    /// What was being done cannot be told apart.
    #[error("it cannot be told how far the last requests got")]
    Unclear,
}

/// The records of one mount.
pub struct Ledger {
    memory: Memory,
    keeper: Box<dyn Keeper>,
    free: [Mutex<Vec<u32>, { rank::LEAF }>; SIZES.len()],
    lost: Mutex<Lost, { rank::LEAF }>,
    has_lost: AtomicBool,
    /// Held while something that was known before is made a node again.
    reviving: Mutex<(), { rank::REVIVING }>,
}

impl Ledger {
    /// An empty ledger for a new mount.
    ///
    /// # Errors
    /// [`LedgerError::Size`] unless the memory has [`LEDGER_BYTES`].
    pub fn new(memory: Memory, keeper: Box<dyn Keeper>) -> Result<Ledger, LedgerError> {
        let ledger = Ledger::over(memory, keeper)?;
        ledger.word(NEXT_NODE).store(NodeId::ROOT.0 + 1, Ordering::Release);
        ledger.word(NEXT_HANDLE).store(1, Ordering::Release);
        ledger.word(HEADER_FORM).store(FORM, Ordering::Release);
        Ok(ledger)
    }

    fn over(memory: Memory, keeper: Box<dyn Keeper>) -> Result<Ledger, LedgerError> {
        if (*memory).as_ref().len() * 8 != LEDGER_BYTES {
            return Err(LedgerError::Size);
        }
        Ok(Ledger {
            memory,
            keeper,
            free: Default::default(),
            lost: Mutex::default(),
            has_lost: AtomicBool::new(false),
            reviving: Mutex::new(()),
        })
    }

    fn words(&self) -> &[AtomicU64] {
        (*self.memory).as_ref()
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words()[at]
    }

    fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }

    fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }

    /// Not everything can be recorded any more: this mount ends with its server.
    pub fn give_up(&self, why: &str) {
        if self.word(GIVEN_UP).swap(1, Ordering::SeqCst) == 0 {
            eprintln!("acetate: the mount will not outlive this server: {why}");
        }
    }

    /// Whether the mount ends with its server.
    pub fn is_given_up(&self) -> bool {
        self.load(GIVEN_UP) != 0
    }

    /// The first of a block of ids that were never used.
    fn set_aside(&self, header: usize) -> u64 {
        self.word(header).fetch_add(ID_BLOCK, Ordering::SeqCst)
    }

    /// Sets node ids aside; returns the first one and how many.
    pub(crate) fn node_ids(&self) -> (u64, u64) {
        (self.set_aside(NEXT_NODE), ID_BLOCK)
    }

    /// As [`node_ids`](Self::node_ids), of handles.
    pub(crate) fn handle_ids(&self) -> (u64, u64) {
        (self.set_aside(NEXT_HANDLE), ID_BLOCK)
    }

    /// Keeps what the transport has to know.
    pub fn keep_transport(&self, words: [u64; TRANSPORT_WORDS]) {
        for (at, word) in words.into_iter().enumerate() {
            self.store(TRANSPORT + at, word);
        }
    }

    /// What the transport has kept.
    pub fn transport(&self) -> [u64; TRANSPORT_WORDS] {
        std::array::from_fn(|at| self.load(TRANSPORT + at))
    }

    /// Keeps how many bytes a request has had.
    pub fn note_request(&self, length: usize) {
        self.word(LARGEST_REQUEST).fetch_max(length as u64, Ordering::AcqRel);
    }

    /// How many bytes the largest request has had so far, of all servers.
    pub fn largest_request(&self) -> usize {
        self.load(LARGEST_REQUEST) as usize
    }

    /// How many requests the server has answered that writes this memory; `None` if it cannot be taken over from.
    pub fn progress(memory: &[AtomicU64]) -> Option<u64> {
        let word = |at: usize| memory.get(at).map(|word| word.load(Ordering::Acquire));
        if word(HEADER_FORM) != Some(FORM) || word(GIVEN_UP) != Some(0) {
            return None;
        }
        word(ANSWERED)
    }

    /// The server that writes this memory has crashed: each request that was tried again and not answered counts as tried
    /// a few times more, so that what brings servers down by itself is given up sooner than what was only there when one
    /// was killed.
    pub fn blame(memory: &[AtomicU64]) {
        for pair in memory.get(ATTEMPTS..ATTEMPTS + 2 * MOST_ATTEMPTED).unwrap_or_default().chunks_exact(2) {
            if pair[0].load(Ordering::Acquire) != 0 {
                pair[1].fetch_add(BLAME, Ordering::AcqRel);
            }
        }
    }

    /// Makes a record and returns its first word, still without its owner.
    fn take(&self, class: usize) -> Option<usize> {
        let mut free = self.free[class].lock();
        if let Some(record) = free.pop() {
            return Some(record as usize * 8);
        }
        let chunk = self.load(CHUNKS_USED) as usize;
        // One class at a time takes chunks: the count is the lock.
        let chunk = self
            .word(CHUNKS_USED)
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                ((used as usize) < MOST_CHUNKS).then_some(used + 1)
            })
            .map_or(chunk.max(MOST_CHUNKS), |used| used as usize);
        if chunk >= MOST_CHUNKS {
            drop(free);
            self.give_up("it knows too many objects");
            return None;
        }
        self.store(CLASSES_AT + chunk, class as u64 + 1);
        let first = CHUNKS_AT + chunk * CHUNK;
        let size = SIZES[class];
        free.extend((1..CHUNK / size).rev().map(|index| ((first + index * size) / 8) as u32));
        Some(first)
    }

    /// Gives a record back.
    fn give_back(&self, class: usize, at: usize) {
        self.store(at, 0);
        self.free[class].lock().push((at / 8) as u32);
    }

    /// Records a node without names.
    pub(crate) fn node(self: &Arc<Self>, id: NodeId, kind: Kind, ino: u64) -> Option<Box<Record>> {
        let at = self.take(NODE)?;
        for (word, value) in [(1, 0), (2, kind_number(kind)), (3, ino), (4, 0), (5, 0)] {
            self.store(at + word, value);
        }
        self.store(at, id.0);
        Some(Box::new(Record { ledger: self.clone(), at, places: Mutex::default() }))
    }

    /// Records a name of a node.
    fn place(&self, node: u64, parent: u64, name: &[u8], in_upper: bool) -> Option<usize> {
        let words = name.len().div_ceil(8);
        let Some(class) = PLACES.into_iter().find(|class| words <= SIZES[*class] - PLACE_HEAD) else {
            self.give_up("a name is too long");
            return None;
        };
        let at = self.take(class)?;
        self.store(at + 1, parent);
        self.store(at + 2, name.len() as u64 | u64::from(in_upper) << 32);
        self.put_bytes(at + PLACE_HEAD, name);
        self.store(at, node);
        Some(at)
    }

    fn put_bytes(&self, at: usize, bytes: &[u8]) {
        for (word, part) in bytes.chunks(8).enumerate() {
            let mut eight = [0; 8];
            eight[..part.len()].copy_from_slice(part);
            self.word(at + word).store(u64::from_le_bytes(eight), Ordering::Relaxed);
        }
    }

    fn bytes(&self, at: usize, length: usize) -> Box<[u8]> {
        let words = (0..length.div_ceil(8)).flat_map(|word| self.load(at + word).to_le_bytes());
        words.take(length).collect()
    }

    /// The class of the chunk that a record is in.
    fn class_of(&self, at: usize) -> usize {
        self.load(CLASSES_AT + (at - CHUNKS_AT) / CHUNK) as usize - 1
    }

    /// Records an open file. `how`: as it was opened, for [`OldHandle`].
    pub(crate) fn handle(self: &Arc<Self>, id: HandleId, node: NodeId, how: u64) -> Option<HandleRecord> {
        let at = self.take(HANDLE)?;
        for (word, value) in [(1, node.0), (2, how), (3, intent::current()), (4, 0)] {
            self.store(at + word, value);
        }
        self.store(at, id.0);
        Some(HandleRecord { ledger: self.clone(), at })
    }

    /// Lets go of a descriptor that is not needed after all. What it was kept for may keep the flag, and ask for it once more.
    pub(crate) fn let_go(&self, what: KeptFor) {
        self.keeper.let_go(what);
    }

    /// Keeps a descriptor of a file that is about to lose its last name.
    pub(crate) fn keep_file(
        &self,
        record: &Record,
        node: NodeId,
        lower: Option<usize>,
        file: BorrowedFd<'_>,
    ) {
        match self.keeper.keep(KeptFor::Node(node), lower, file) {
            Ok(()) => record.set(flag::KEPT, true),
            Err(error) => {
                eprintln!("acetate: an open file without a name will not outlive this server: {error}")
            }
        }
    }
}

/// The record of a node; it goes with the node.
pub(crate) struct Record {
    ledger: Arc<Ledger>,
    at: usize,
    places: Mutex<Vec<usize>, { rank::LEAF }>,
}

impl Record {
    /// Records the names that the node has now: parent, name, and whether upper has it.
    pub(crate) fn set_places<'a>(&self, names: impl Iterator<Item = (NodeId, &'a [u8], bool)>) {
        let ledger = &self.ledger;
        let node = ledger.load(self.at);
        let mut places = self.places.lock();
        let mut kept = Vec::with_capacity(1);
        for (parent, name, in_upper) in names {
            let known = places.iter().position(|at| {
                let head = (ledger.load(at + 1), ledger.load(at + 2));
                head == (parent.0, name.len() as u64 | u64::from(in_upper) << 32)
                    && *ledger.bytes(at + PLACE_HEAD, name.len()) == *name
            });
            match known {
                Some(index) => kept.push(places.swap_remove(index)),
                None => kept.extend(ledger.place(node, parent.0, name, in_upper)),
            }
        }
        for gone in std::mem::replace(&mut *places, kept) {
            ledger.give_back(ledger.class_of(gone), gone);
        }
    }

    /// Counts references that the kernel gets.
    pub(crate) fn refer(&self, count: u64) {
        self.ledger.word(self.at + 1).fetch_add(count, Ordering::AcqRel);
    }

    /// Counts references that it gives back.
    pub(crate) fn forget(&self, count: u64) {
        let less = |known: u64| Some(known.saturating_sub(count));
        // It always says what it found.
        let _before = self.ledger.word(self.at + 1).fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Sets or clears one of the flags.
    pub(crate) fn set(&self, flag: u64, on: bool) {
        let word = self.ledger.word(self.at + 2);
        if on {
            word.fetch_or(flag, Ordering::AcqRel)
        } else {
            word.fetch_and(!flag, Ordering::AcqRel)
        };
    }

    fn has(&self, flag: u64) -> bool {
        self.ledger.load(self.at + 2) & flag != 0
    }

    /// Records the end of the listing that was read last, and a digest of it.
    pub(crate) fn set_listing(&self, end: u64, digest: u64) {
        self.ledger.store(self.at + 5, 0);
        self.ledger.store(self.at + 4, end);
        self.ledger.store(self.at + 5, digest);
    }

    /// What [`set_listing`](Self::set_listing) has recorded; a digest of zero says nothing.
    pub(crate) fn listing(&self) -> (u64, u64) {
        (self.ledger.load(self.at + 4), self.ledger.load(self.at + 5))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let node = NodeId(self.ledger.load(self.at));
        if self.ledger.is_lost(node) {
            // Nobody got to know the node that was being made of it.
            return;
        }
        if self.has(flag::KEPT) {
            self.ledger.keeper.let_go(KeptFor::Node(node));
        }
        let places = std::mem::take(&mut *self.places.lock());
        self.ledger.give_back(NODE, self.at);
        for place in places {
            self.ledger.give_back(self.ledger.class_of(place), place);
        }
    }
}

/// The record of an open file; it goes with it.
pub(crate) struct HandleRecord {
    ledger: Arc<Ledger>,
    at: usize,
}

impl HandleRecord {
    /// Keeps what the transport has to know of the file. Not zero: that says that nobody knows of the handle yet.
    pub(crate) fn note(&self, word: u64) {
        self.ledger.store(self.at + 4, word);
    }

    /// Keeps a descriptor of the file, once.
    pub(crate) fn keep(&self, file: BorrowedFd<'_>) {
        if self.is_kept() {
            return;
        }
        match self.ledger.keeper.keep(self.kept_for(), None, file) {
            Ok(()) => drop(self.ledger.word(self.at + 2).fetch_or(flag::KEPT, Ordering::AcqRel)),
            Err(error) => eprintln!("acetate: an open file will not outlive this server: {error}"),
        }
    }

    fn is_kept(&self) -> bool {
        self.ledger.load(self.at + 2) & flag::KEPT != 0
    }

    fn kept_for(&self) -> KeptFor {
        KeptFor::Handle(HandleId(self.ledger.load(self.at)))
    }
}

impl Drop for HandleRecord {
    fn drop(&mut self) {
        if self.is_kept() {
            self.ledger.keeper.let_go(self.kept_for());
        }
        self.ledger.give_back(HANDLE, self.at);
    }
}

fn kind_number(kind: Kind) -> u64 {
    KINDS.iter().position(|known| *known == kind).unwrap_or(0) as u64
}

const KINDS: [Kind; 7] =
    [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];
