//! Taking a mount over from a server that has ended, and recording what the next one will need ([`Ledger`]).
//!
//! First it is decided how far the requests got that were not answered: each had passed its checks and has its directories
//! locked by the kernel, so its names show whether it changed them. Then what must not be looked up late is made again:
//! files with several names, open files and what they are open on. All else is looked up when it is asked for.

use crate::error::{OpError, Result};
use crate::handle::{OpenFile, RealFile};
use crate::ledger::{Before, Change, Intent, KeptFor, Ledger, LedgerError, LostNode, OldHandle, Saved};
use crate::node::{Lower, Node, Real};
use crate::state::State;
use crate::{Changed, Entry, HandleId, NodeId, OpenFlags, Overlay};
use acetate_layer::{Access, At, Errno, Kind, UpperLayer};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Descriptors in safe keeping, each with the lower layer that its data is in; `None` is upper.
pub type KeptFiles = HashMap<KeptFor, (Option<usize>, OwnedFd)>;

/// An open file of the last server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptHandle {
    /// The handle.
    pub handle: HandleId,
    /// The file.
    pub node: NodeId,
    /// As it was opened.
    pub access: Access,
    /// What [`Overlay::note`] has kept.
    pub note: u64,
    /// The number of the request that opened it.
    pub unique: u64,
}

/// What was taken over.
#[derive(Debug, Default)]
pub struct TakenOver {
    /// All open files, also those that cannot be used any more.
    pub handles: Vec<KeptHandle>,
    /// How many of them cannot be used: their operations fail with `ESTALE`.
    pub lost_handles: usize,
}

impl<L: UpperLayer> Overlay<L> {
    /// Records in `ledger`, which is new, what the kernel gets to know of this mount.
    #[must_use]
    pub fn recording(mut self, ledger: Ledger) -> Overlay<L> {
        let ledger = Arc::new(ledger);
        if let Ok(root) = self.node(NodeId::ROOT)
            && let Some(record) = ledger.node(NodeId::ROOT, Kind::Dir, 0)
        {
            // Nobody has set it before.
            root.set_record(record);
        }
        self.ledger = Some(ledger);
        self
    }

    /// Takes the mount over that `ledger` is of.
    ///
    /// # Errors
    /// [`LedgerError`] if it cannot be done for sure; nothing was changed then.
    pub fn taking_over(
        mut self,
        ledger: Ledger,
        mut files: KeptFiles,
    ) -> std::result::Result<(Overlay<L>, TakenOver), LedgerError> {
        let ledger = Arc::new(ledger);
        let (intents, handles) = ledger.read_all()?;
        self.ledger = Some(ledger.clone());
        if let (Ok(root), Some(old)) = (self.node(NodeId::ROOT), ledger.lost(NodeId::ROOT)) {
            root.set_record(ledger.record_of(&old));
            ledger.found(NodeId::ROOT);
        }
        self.decide(intents)?;
        for node in ledger.urgent() {
            self.revive(node);
        }
        let mut taken = TakenOver::default();
        for old in &handles {
            let access = access_of(old.how);
            let (handle, node, note, unique) = (old.id, old.node, old.note, old.unique);
            taken.handles.push(KeptHandle { handle, node, access, note, unique });
            if self.open_again(old, &mut files).is_none() {
                taken.lost_handles += 1;
            }
        }
        // Nobody can come to these any more: they are not open, and no name leads to them.
        files.keys().for_each(|what| ledger.let_go(*what));
        Ok((self, taken))
    }

    /// Decides how far each request got, those of directories before those of what is below them.
    fn decide(&self, mut open: Vec<Saved>) -> std::result::Result<(), LedgerError> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        open.retain(|intent| !matches!(intent.change, Change::SetXattr | Change::RemoveXattr));
        while !open.is_empty() {
            let moving: Vec<NodeId> =
                open.iter().flat_map(|intent| [intent.node, intent.other]).filter(|id| id.0 != 0).collect();
            let is_ready = |intent: &Saved| {
                let mut above = vec![intent.place.0, intent.new_place.0];
                let mut depth = 0;
                while let Some(id) = above.pop() {
                    depth += 1;
                    if moving.contains(&id) || depth > MOST_STEPS {
                        return false;
                    }
                    above.extend(ledger.lost(id).iter().flat_map(LostNode::names).map(|(parent, _)| *parent));
                }
                true
            };
            let next = open.iter().position(is_ready).ok_or(LedgerError::Unclear)?;
            let intent = open.swap_remove(next);
            if self.is_half_moved(&intent).map_err(|_| LedgerError::Unclear)? {
                self.finish_move(&intent).map_err(|_| LedgerError::Unclear)?;
            }
            let done = self.was_done(&intent).map_err(|_| LedgerError::Unclear)?;
            if done {
                self.record_done(ledger, &intent);
            }
            ledger.decide(&intent, done);
        }
        Ok(())
    }

    /// Whether the names show the change. Nobody else can have made it.
    fn was_done(&self, intent: &Saved) -> Result<bool> {
        let shown = |(dir, name): &(NodeId, Box<[u8]>)| self.shows(*dir, name);
        Ok(match intent.change {
            Change::Make | Change::Link => shown(&intent.place)?.is_some(),
            Change::Remove | Change::Rename => shown(&intent.place)?.is_none(),
            Change::Exchange => shown(&intent.new_place)? == Some(intent.ino),
            Change::SetXattr | Change::RemoveXattr => false,
        })
    }

    /// The real inode number of what is at a name, without making a node of it.
    fn shows(&self, dir: NodeId, name: &[u8]) -> Result<Option<u64>> {
        let dir = self.dir(dir)?;
        let found = self.resolve(&dir, &dir.state.read(), name, None)?;
        Ok(found.map(|found| found.stat.ino))
    }

    /// Records names as they are after a change.
    fn record_done(&self, ledger: &Ledger, intent: &Saved) {
        let ((dir, name), (new_dir, new_name)) = (&intent.place, &intent.new_place);
        match intent.change {
            Change::Link => ledger.gain_name(intent.node, *dir, name),
            Change::Remove => ledger.lose_name(intent.node, *dir, name),
            Change::Rename | Change::Exchange => {
                ledger.lose_name(intent.node, *dir, name);
                ledger.lose_name(intent.other, *new_dir, new_name);
                ledger.gain_name(intent.node, *new_dir, new_name);
                if intent.change == Change::Exchange {
                    ledger.gain_name(intent.other, *dir, name);
                }
            }
            Change::Make | Change::SetXattr | Change::RemoveXattr => {}
        }
    }

    /// Makes a node again that the last server knew, and its ancestors. `None` if nothing of it is left, or this is
    /// another object by now.
    pub(crate) fn revive(&self, id: NodeId) -> Option<Arc<Node<L>>> {
        let old = self.ledger.as_ref()?.lost(id)?;
        let mut found = None;
        // All its names: each that the kernel knows has to lead to this node.
        for (parent, name) in old.names() {
            let Ok(dir) = self.dir(*parent) else { continue };
            let Ok(part) = dir.as_dir() else { continue };
            let _names = part.ns.read();
            if let Ok(Some(node)) = self.child(&dir, name)
                && node.id == id
            {
                found = Some(node);
            }
        }
        // Somebody else may have been faster.
        found.or_else(|| self.nodes.get(id))
    }

    /// Makes a node again that no name leads to, of the descriptor that was kept.
    fn revive_unnamed(&self, id: NodeId, files: &mut KeptFiles) -> Option<Arc<Node<L>>> {
        let ledger = self.ledger.as_ref()?;
        let old = ledger.lost(id).filter(|old| old.kind == Kind::File)?;
        let (lower, file) = files.remove(&KeptFor::Node(id))?;
        let layer = match lower {
            Some(number) => self.lowers.get(number)?,
            None => self.upper.as_ref()?,
        };
        let real = Real::Held(Arc::new(layer.reopen(file)?));
        let mut state = State::new(old.ino);
        match lower {
            Some(layer) => state.add_lower(Lower { layer, real, xattr_whiteouts: false }),
            None => {
                state.set_prot(self.read_protection(layer, real.at(), None).ok()?);
                state.set_upper(real);
            }
        }
        let node = Arc::new(Node::new(id, old.kind, state));
        node.set_record(ledger.record_of(&old));
        if lower.is_none() {
            let stat = self.stat(&node).ok()?;
            if stat.nlink > 0 {
                // Its other names are to lead here, too.
                let _same_node = self.nodes.set_linked(stat.ino, &node);
            }
        }
        self.settle(&node);
        Some(node)
    }

    /// Opens a file again. Until it is closed its record stays, even if that fails.
    fn open_again(&self, old: &OldHandle, files: &mut KeptFiles) -> Option<()> {
        let ledger = self.ledger.as_ref()?;
        let node = self.node(old.node).ok().or_else(|| self.revive_unnamed(old.node, files));
        let record = ledger.handle_record_of(old);
        let opened = node.and_then(|node| {
            let kept = self.open_kept(old.id, files);
            let real = kept.or_else(|| self.open_real(&node, access_of(old.how)).ok())?;
            let flags = flags_of(old.how);
            self.honour_atime(&real, flags.keep_atime);
            Some(OpenFile::new(node, flags, Some(real)))
        });
        match opened {
            Some(open) => {
                let _first = open.record.set(record);
                self.handles.insert(old.id, open);
                Some(())
            }
            None => {
                self.handles.bury(old.id, record);
                None
            }
        }
    }

    /// An open file of upper whose descriptor was kept.
    fn open_kept(&self, handle: HandleId, files: &mut KeptFiles) -> Option<RealFile<L>> {
        let (_, file) = files.remove(&KeptFor::Handle(handle))?;
        let file = Arc::new(self.upper.as_ref()?.reopen(file)?);
        Some(RealFile { file, lower: None })
    }

    /// This thread begins with a request of that number, which may have been sent to an earlier server. `false` if it must
    /// not be tried again, because it has brought down too many of them.
    pub fn begin(&self, unique: u64, again: bool) -> bool {
        self.ledger.as_ref().is_none_or(|ledger| ledger.begin(unique, again))
    }

    /// The request of this thread is about to be answered.
    pub fn finish(&self, success: bool) {
        if let Some(ledger) = &self.ledger {
            ledger.finish(success);
        }
    }

    /// The request of this thread has been answered.
    pub fn end(&self) {
        if let Some(ledger) = &self.ledger {
            ledger.end();
        }
    }

    /// What the transport has to know to go on; recorded if there is a ledger.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_deref()
    }

    /// Keeps what the transport has to know of an open file (not zero); the answer to the open comes after that.
    pub fn note(&self, handle: HandleId, word: u64) {
        if let Some(open) = self.handles.get(handle)
            && let Some(record) = open.record.get()
        {
            record.note(word);
        }
    }

    /// Whether an earlier server was sent the request of this thread.
    pub fn again(&self) -> Option<u64> {
        self.ledger.as_ref()?.again()
    }

    /// A node that the kernel gets one more reference to: the answer to a request that was carried out by an earlier server.
    ///
    /// # Errors
    /// [`OpError::Stale`] if it is gone; [`OpError::Layer`].
    pub fn entry(&self, node: NodeId) -> Result<Entry> {
        let node = self.node(node)?;
        let attr = self.attr(&node)?;
        self.nodes.refer(&node);
        Ok(Entry { node: node.id, attr })
    }

    /// Records what is about to be done.
    pub(crate) fn intend(&self, intent: &Intent<'_>) {
        if let Some(ledger) = &self.ledger {
            ledger.intend(intent);
        }
    }

    /// How far an earlier server got with the request of this thread.
    pub(crate) fn before(&self, change: Change) -> Before {
        self.ledger.as_ref().map_or(Before::Nothing, |ledger| ledger.before(change))
    }

    /// An earlier server has made this change already.
    pub(crate) fn is_done(&self, change: Change) -> bool {
        self.before(change) == Before::Done
    }

    /// A new node for a name that was found, or the one that the last server made of it. [`Overlay::settle`] follows.
    pub(crate) fn make_node(
        &self,
        dir: &Arc<Node<L>>,
        name: &[u8],
        kind: Kind,
        mut state: State<L>,
    ) -> Arc<Node<L>> {
        let old = self.ledger.as_ref().and_then(|ledger| ledger.lost_at(dir.id, name));
        let (Some(ledger), Some(old)) = (&self.ledger, old.filter(|old| old.kind == kind)) else {
            return self.new_node(kind, state);
        };
        // The number that it had: a copy may have another one of its own.
        state.ino = old.ino;
        let node = Arc::new(Node::new(old.id, kind, state));
        node.lost_capabilities.store(old.lost_capabilities(), Ordering::Release);
        node.set_record(ledger.record_of(&old));
        node
    }

    /// A node that the kernel has never known.
    pub(crate) fn new_node(&self, kind: Kind, state: State<L>) -> Arc<Node<L>> {
        let ino = state.ino;
        let node = Arc::new(Node::new(self.nodes.fresh_id(self.ledger.as_deref()), kind, state));
        if let Some(record) = self.ledger.as_ref().and_then(|ledger| ledger.node(node.id, kind, ino)) {
            node.set_record(record);
        }
        node
    }

    /// A node that was made can be found by others from now on.
    pub(crate) fn settle(&self, node: &Arc<Node<L>>) {
        let Some(ledger) = &self.ledger else { return };
        if let Some(lookups) = ledger.lost(node.id).map(|old| old.lookups) {
            self.nodes.restore(node, lookups);
            ledger.found(node.id);
        }
        node.record_places(&node.state.read());
    }

    /// Puts a descriptor of a file that is open, and is about to lose its last name, into safe keeping. `held`: its object
    /// in upper.
    pub(crate) fn keep_reachable(&self, node: &Node<L>, held: Option<&Arc<L::File>>) {
        let (Some(ledger), Some(record)) = (&self.ledger, node.record()) else { return };
        if node.kind != Kind::File || !self.handles.has_open(node.id) {
            return;
        }
        if let Some(file) = held {
            if let Some(fd) = self.upper.as_ref().and_then(|upper| upper.descriptor(file)) {
                ledger.keep_file(record, node.id, None, fd);
            }
            return;
        }
        let lower = {
            let state = node.state.read();
            let known = state.places().count() < 2 && !state.has_upper() && !state.data_is_apart();
            state.lower().filter(|_| known).map(|lower| lower.to_lower())
        };
        let Some(lower) = lower else { return };
        let layer = &self.lowers[lower.layer];
        if let Ok(file) = layer.open_file(lower.real.at(), Access::Read)
            && let Some(fd) = layer.descriptor(&file)
        {
            ledger.keep_file(record, node.id, Some(lower.layer), fd);
        }
    }

    /// Tells the kernel to ask anew for what it may have been told only in part: attributes of all objects that it knew
    /// from the last server, and listings of directories. May take long, and needs somebody to answer requests.
    pub fn tell_all(&self) {
        let Some(ledger) = &self.ledger else { return };
        for node in ledger.all_lost().into_iter().chain(self.nodes.all()) {
            (self.changed)(node.0, Changed::Attributes);
            if node.1 == Kind::Dir {
                (self.changed)(node.0, Changed::Listing);
            }
        }
    }

    /// The real inode number of a node in upper.
    pub(crate) fn upper_ino(&self, node: &Node<L>) -> Result<u64> {
        let state = node.state.read();
        let at: At<'_, L> = state.in_upper()?;
        let stat = self.upper_layer()?.stat(at);
        stat.map(|stat| stat.ino).map_err(|errno: Errno| OpError::Layer { step: "stat in upper", errno })
    }
}

/// More steps up than any path has.
const MOST_STEPS: usize = 1 << 16;

impl<L: UpperLayer> Node<L> {
    /// Records the names that the node has.
    pub(crate) fn record_places(&self, state: &State<L>) {
        if let Some(record) = self.record() {
            let names = state.places().map(|place| (place.parent.id, place.name, place.in_upper));
            record.set_places(names);
        }
    }
}

const KEEP_ATIME: u64 = 1 << 2;
const EXECUTE: u64 = 1 << 3;

/// As a file was opened, in one word.
pub(crate) fn how(flags: OpenFlags) -> u64 {
    let access = match flags.access {
        Access::Read => 0,
        Access::Write => 1,
        Access::ReadWrite => 2,
    };
    access | if flags.keep_atime { KEEP_ATIME } else { 0 } | if flags.execute { EXECUTE } else { 0 }
}

fn access_of(how: u64) -> Access {
    match how & 3 {
        1 => Access::Write,
        2 => Access::ReadWrite,
        _ => Access::Read,
    }
}

fn flags_of(how: u64) -> OpenFlags {
    OpenFlags {
        access: access_of(how),
        keep_atime: how & KEEP_ATIME != 0,
        execute: how & EXECUTE != 0,
        ..OpenFlags::READ
    }
}
