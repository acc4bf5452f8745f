//! Open files. Directories are listed by node, without being opened.

use crate::error::{OpError, Result, Step};
use crate::ledger::HandleRecord;
use crate::node::Node;
use crate::{HandleId, OpenFlags, Overlay};
use acetate_layer::{Access, At, Kind, UpperLayer};
use parking_lot::RwLock;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

const OWNER_READ: u32 = 0o400;
const OWNER_WRITE: u32 = 0o200;

/// An open regular file.
pub(crate) struct OpenFile<L: UpperLayer> {
    /// The file.
    pub node: Arc<Node<L>>,
    /// As it was opened.
    pub access: Access,
    /// Reads leave the access time alone.
    keep_atime: bool,
    /// Open to be executed.
    execute: bool,
    /// The real file, once it has been needed.
    real: RwLock<Option<RealFile<L>>>,
    /// What the next server will be told of it.
    pub record: OnceLock<HandleRecord>,
}

/// The real file behind an open file.
pub(crate) struct RealFile<L: UpperLayer> {
    /// Open for what the handle may do.
    pub file: Arc<L::File>,
    /// The lower layer it is in; `None` is upper.
    pub lower: Option<usize>,
}

impl<L: UpperLayer> Clone for RealFile<L> {
    fn clone(&self) -> Self {
        RealFile { file: self.file.clone(), lower: self.lower }
    }
}

impl<L: UpperLayer> OpenFile<L> {
    /// `real`: the real file, or none if it may be opened when it is needed.
    pub fn new(node: Arc<Node<L>>, flags: OpenFlags, real: Option<RealFile<L>>) -> OpenFile<L> {
        OpenFile {
            node,
            access: flags.access,
            keep_atime: flags.keep_atime,
            execute: flags.execute,
            real: RwLock::new(real),
            record: OnceLock::new(),
        }
    }

    /// Whether it is open to be executed.
    pub fn executes(&self) -> bool {
        self.execute
    }

    /// As it was opened.
    pub fn flags(&self) -> OpenFlags {
        let (access, keep_atime, execute) = (self.access, self.keep_atime, self.execute);
        OpenFlags { access, keep_atime, execute, ..OpenFlags::READ }
    }
}

impl<L: UpperLayer> Overlay<L> {
    /// Adds an open file, and records it for the next server.
    pub(crate) fn add_handle(&self, open: OpenFile<L>) -> HandleId {
        let id = self.handles.fresh_id(self.ledger.as_deref());
        if let Some(ledger) = &self.ledger
            && let Some(record) = ledger.handle(id, open.node.id, crate::takeover::how(open.flags()))
        {
            let _first = open.record.set(record);
        }
        self.handles.insert(id, open);
        id
    }

    /// Adds the open file of a node that was just created with that mode, which may be one that it cannot be opened with.
    pub(crate) fn add_new_handle(
        &self,
        node: &Arc<Node<L>>,
        flags: OpenFlags,
        file: Arc<L::File>,
        mode: u32,
    ) -> HandleId {
        let real = RealFile { file, lower: None };
        let id = self.add_handle(OpenFile::new(node.clone(), flags, Some(real.clone())));
        if !self.config.overrides_modes
            && let Some(open) = self.handles.get(id)
        {
            self.keep_open(&open, &real, mode);
        }
        id
    }

    /// An open file.
    pub(crate) fn handle(&self, id: HandleId) -> Result<Arc<OpenFile<L>>> {
        self.handles.get(id).ok_or(OpError::Stale)
    }

    /// The real file of an open file: always the current one, which is upper's once the file was copied up.
    pub(crate) fn real_file(&self, open: &OpenFile<L>) -> Result<RealFile<L>> {
        let is_current = |real: &RealFile<L>| real.lower.is_none() || !open.node.data_in_upper();
        if let Some(real) = open.real.read().as_ref().filter(|real| is_current(real)) {
            return Ok(real.clone());
        }
        let opened = self.open_real(&open.node, open.access)?;
        self.honour_atime(&opened, open.keep_atime);
        let mut real = open.real.write();
        // Somebody else may have been faster, and may have met a later state.
        Ok(match real.take().filter(is_current) {
            Some(current) => real.insert(current).clone(),
            None => real.insert(opened).clone(),
        })
    }

    /// Whether a file may be opened for reading without its real file, which is then opened when it is needed. Most reads
    /// need none: the kernel has the content. That there is such a file, and that it can be opened, has to be known before.
    pub(crate) fn opens_later(&self, node: &Node<L>) -> bool {
        // Without an upper layer the kernel may be lent the real file, and layers that change are to be looked at.
        self.upper.is_some()
            && !self.config.lower_changes
            && !node.data_in_upper()
            && node.opened_below.load(Ordering::Acquire)
    }

    /// A file is about to get that mode. Whoever has it open may go on reading and writing, so what is still to be opened
    /// is opened now, where modes bind this server.
    pub(crate) fn open_before_mode(&self, node: &Node<L>, mode: u32) {
        if self.config.overrides_modes || node.kind != Kind::File {
            return;
        }
        for open in self.handles.open_of(node.id) {
            // Who reads is told of what cannot be opened.
            if let Ok(real) = self.real_file(&open) {
                self.keep_open(&open, &real, mode);
            }
        }
    }

    /// Has the descriptor of an open file of upper, which has that mode or is about to get it, kept for the next server, if
    /// that one could not open it again.
    pub(crate) fn keep_open(&self, open: &OpenFile<L>, real: &RealFile<L>, mode: u32) {
        // What is made in upper without privilege belongs to the mounter.
        let needed = match open.access {
            Access::Read => OWNER_READ,
            Access::Write => OWNER_WRITE,
            Access::ReadWrite => OWNER_READ | OWNER_WRITE,
        };
        if self.config.overrides_modes || mode & needed == needed || real.lower.is_some() {
            return;
        }
        if let (Some(record), Some(upper)) = (open.record.get(), &self.upper)
            && let Some(file) = upper.descriptor(&real.file)
        {
            record.keep(file);
        }
    }

    /// Makes reads of a real file leave its access time alone, if so asked.
    pub(crate) fn honour_atime(&self, real: &RealFile<L>, keep: bool) {
        if keep && let Ok(layer) = self.layer_of(real) {
            // A mounter without the right to say so moves the time; nothing else depends on it.
            let _cosmetic = layer.keep_atime(&real.file);
        }
    }

    /// Opens the real object that holds the data of a regular file.
    pub(crate) fn open_real(&self, node: &Node<L>, access: Access) -> Result<RealFile<L>> {
        if node.kind != Kind::File {
            return Err(OpError::Invalid);
        }
        if let Some(at) = node.state.read().upper_at()
            && node.data_in_upper()
        {
            let file = self.upper_layer()?.open_file(at, access).step("open the upper file")?;
            return Ok(RealFile { file: Arc::new(file), lower: None });
        }
        let Some(lower) = self.data_part(node)? else {
            // Copied up in between.
            let state = node.state.read();
            let at = state.in_upper()?;
            let file = self.upper_layer()?.open_file(at, access).step("open the upper file")?;
            return Ok(RealFile { file: Arc::new(file), lower: None });
        };
        let layer = &self.lowers[lower.layer];
        let file = layer.open_file(lower.real.at(), access).step("open the lower file")?;
        self.verify_data(node, layer, &file)?;
        let file = Arc::new(file);
        if self.config.lower_changes {
            let state = node.state.read();
            let stat = layer.stat(At::Open(file.as_ref())).step("stat the lower file")?;
            // Its attributes may be in another layer than its data.
            if !state.data_is_apart() && !self.is_same_lower(&state, lower.layer, &stat) {
                return Err(OpError::Stale);
            }
            self.kept.opened(node.id, lower.layer, &file);
        }
        node.opened_below.store(true, Ordering::Release);
        Ok(RealFile { file, lower: Some(lower.layer) })
    }

    /// The layer of a real file.
    pub(crate) fn layer_of(&self, real: &RealFile<L>) -> Result<&L> {
        match real.lower {
            Some(layer) => Ok(&self.lowers[layer]),
            None => self.upper_layer(),
        }
    }
}
