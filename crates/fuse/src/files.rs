//! Who does the reads and writes of open files: the kernel by itself, on a real file that it was lent, or the kernel's
//! page cache and this server.
//!
//! All opens of a file at a time are of the same sort; the kernel refuses a mixture (fs/fuse/iomode.c). A file is lent
//! only if its real file stays what it is, so never one that is still to be copied up. The counts here are never below
//! the kernel's: it learns of an open after us and we learn of a close after it.

use crate::device::Device;
use crate::notify::changed;
use crate::opens::Opens;
use crate::wire::output::Valid;
use acetate_layer::{Access, UpperLayer};
use acetate_overlay::{Changed, HandleId, KeptHandle, NodeId, Overlay};
use acetate_sys::Errno;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const SHARDS: usize = 16;

/// How an open file is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Io {
    /// Through the kernel's page cache, with requests.
    Cached,
    /// By the kernel itself, on the file lent under this number.
    Direct(u32),
}

/// [`Io`] in one word that is not zero, for the next server.
const NOTE_CACHED: u64 = 1;
/// As [`NOTE_CACHED`]; the number is in the lower half.
const NOTE_DIRECT: u64 = 1 << 32;

impl Io {
    fn to_note(self) -> u64 {
        match self {
            Io::Cached => NOTE_CACHED,
            Io::Direct(id) => NOTE_DIRECT | u64::from(id),
        }
    }

    fn from_note(note: u64) -> Io {
        if note & NOTE_DIRECT != 0 { Io::Direct(note as u32) } else { Io::Cached }
    }
}

/// How a file came to be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// It was there before.
    Existing,
    /// It was created for it, and is empty.
    New,
}

/// An open file, all of its handles.
#[derive(Debug)]
struct Open {
    io: Io,
    handles: u32,
    /// Handles of `Direct` that writable mappings can be made of: the kernel does not tell of what they change.
    mappable: u32,
}

/// All open files by node. Lock order: the shards come before all locks of the engine, which never calls this.
#[derive(Debug)]
pub(crate) struct Files<'a> {
    device: &'a Device,
    shards: [Mutex<HashMap<u64, Open>>; SHARDS],
    /// Files may be lent: the kernel offers it and has not refused yet.
    lends: AtomicBool,
    /// Whether the kernel asks for opens.
    opens: Opens,
    /// The sum of `mappable`, so that most questions need no lock.
    mappable: AtomicUsize,
    /// Files that an earlier server has opened, by the number of the request.
    before: HashMap<u64, KeptHandle>,
}

impl<'a> Files<'a> {
    /// No open files. `lends`: files may be lent to the kernel.
    pub(crate) fn new(device: &'a Device, lends: bool) -> Files<'a> {
        Files {
            device,
            shards: std::array::from_fn(|_| Mutex::default()),
            lends: AtomicBool::new(lends),
            opens: Opens::default(),
            mappable: AtomicUsize::new(0),
            before: HashMap::new(),
        }
    }

    /// Opening a file means nothing: the kernel may be told to do it by itself.
    #[must_use]
    pub(crate) fn without_opens(self) -> Files<'a> {
        Files { opens: Opens::new(true), ..self }
    }

    /// The files that were open when an earlier server ended.
    #[must_use]
    pub(crate) fn with(mut self, kept: &[KeptHandle]) -> Files<'a> {
        for handle in kept {
            let io = Io::from_note(handle.note);
            let mut shard = self.shard(handle.node).lock();
            let open = shard.entry(handle.node.0).or_insert_with(|| {
                if io != Io::Cached {
                    // Nothing has ended loans yet.
                    let _counted = self.opens.begin_loan();
                }
                Open { io, handles: 0, mappable: 0 }
            });
            open.handles += 1;
            if io != Io::Cached && handle.access == Access::ReadWrite {
                open.mappable += 1;
                self.mappable.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.before = kept.iter().map(|handle| (handle.unique, *handle)).collect();
        self
    }

    /// What an earlier server has opened for the request of this thread, if it was sent that.
    pub(crate) fn before<L: UpperLayer>(&self, overlay: &Overlay<L>) -> Option<(KeptHandle, Io)> {
        let handle = self.before.get(&overlay.again()?)?;
        Some((*handle, Io::from_note(handle.note)))
    }

    fn shard(&self, node: NodeId) -> &Mutex<HashMap<u64, Open>> {
        &self.shards[node.0 as usize % SHARDS]
    }

    /// Notes that a file was opened and decides how it is read and written; also whether the attributes that go with
    /// the answer stay valid.
    ///
    /// Those of a new file do, however it is open: no mapping can change an empty file, and what gives it a length
    /// makes the kernel ask for its attributes or brings new ones.
    pub(crate) fn opened<L: UpperLayer>(
        &self,
        overlay: &Overlay<L>,
        node: NodeId,
        handle: HandleId,
        access: Access,
        how: Opened,
    ) -> (Io, Valid) {
        let mut shard = self.shard(node).lock();
        let open = shard.entry(node.0).or_insert_with(|| Open {
            io: self.lend(overlay, handle).map_or(Io::Cached, Io::Direct),
            handles: 0,
            mappable: 0,
        });
        open.handles += 1;
        let io = open.io;
        overlay.note(handle, io.to_note());
        if io == Io::Cached || access != Access::ReadWrite {
            let valid = if open.mappable == 0 { Valid::Always } else { Valid::Now };
            return (io, valid);
        }
        open.mappable += 1;
        let first = open.mappable == 1;
        self.mappable.fetch_add(1, Ordering::SeqCst);
        drop(shard);
        if how == Opened::New {
            return (io, Valid::Always);
        }
        if first {
            // What the kernel remembers was to be valid for good. It may have forgotten the node meanwhile.
            let _unknown = self.device.write(&changed(node, Changed::Attributes));
        }
        (io, Valid::Now)
    }

    /// Lends the real file of a handle, if that is possible.
    fn lend<L: UpperLayer>(&self, overlay: &Overlay<L>, handle: HandleId) -> Option<u32> {
        if !self.lends.load(Ordering::Relaxed) || !self.opens.begin_loan() {
            return None;
        }
        let lent = overlay.with_fixed_file(handle, |file| self.device.lend(file));
        if let Some(Ok(id)) = lent {
            return Some(id);
        }
        self.opens.end_loan();
        // All but these say that no file of this mount will ever be taken: no privilege, a stacked filesystem.
        if let Some(Err(errno)) = lent
            && !matches!(errno, Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::INTR)
        {
            self.lends.store(false, Ordering::Relaxed);
        }
        None
    }

    /// Whether the kernel is to open files by itself from now on.
    pub(crate) fn end_opens(&self) -> bool {
        self.opens.end(self.lends.load(Ordering::Relaxed))
    }

    /// Counts an open for [`end_opens`](Self::end_opens).
    pub(crate) fn count<L: UpperLayer>(&self, overlay: &Overlay<L>, node: NodeId, io: Io) {
        match io {
            _ if !self.opens.counts() => {}
            Io::Cached => self.opens.count_plain(),
            // Without a size it was worth nothing, at worst.
            Io::Direct(_) => {
                self.opens.count_lent(overlay.getattr(node, None).map_or(0, |attr| attr.size));
            }
        }
    }

    /// Notes that a handle, opened with this access, was closed.
    pub(crate) fn released(&self, node: NodeId, access: Access) {
        let mut shard = self.shard(node).lock();
        let Some(open) = shard.get_mut(&node.0) else {
            return;
        };
        if open.io != Io::Cached && access == Access::ReadWrite && open.mappable > 0 {
            open.mappable -= 1;
            self.mappable.fetch_sub(1, Ordering::SeqCst);
        }
        open.handles = open.handles.saturating_sub(1);
        if open.handles > 0 {
            return;
        }
        let io = open.io;
        shard.remove(&node.0);
        drop(shard);
        let Io::Direct(id) = io else {
            return;
        };
        self.opens.end_loan();
        if let Err(errno) = self.device.take_back(id) {
            eprintln!("acetate: the kernel keeps a file open that it was lent: {errno}");
        }
    }

    /// Whether the kernel may remember attributes of a node.
    pub(crate) fn valid(&self, node: NodeId) -> Valid {
        if self.mappable.load(Ordering::SeqCst) == 0 {
            return Valid::Always;
        }
        let shard = self.shard(node).lock();
        if shard.get(&node.0).is_some_and(|open| open.mappable > 0) { Valid::Now } else { Valid::Always }
    }
}
