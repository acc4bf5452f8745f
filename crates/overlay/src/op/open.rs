//! open and release.

use crate::copyup::Data;
use crate::error::{OpError, Result, Step};
use crate::handle::OpenFile;
use crate::node::Node;
use crate::protect::{self, Change};
use crate::{HandleId, NodeId, OpenFlags, Overlay, Verity};
use acetate_layer::{Access, At, Kind, UpperLayer};
use std::sync::Arc;

impl<L: UpperLayer> Overlay<L> {
    /// Opens a regular file. Opening for writing or truncating copies it up.
    ///
    /// # Errors
    /// [`OpError::Invalid`] for anything but a regular file; [`OpError::NotPermitted`] for append-only and immutable
    /// files; [`OpError::Executed`] for truncating a running program; those of a copy-up.
    pub fn open(&self, node: NodeId, flags: OpenFlags) -> Result<HandleId> {
        let node = self.node(node)?;
        let handle = self.open_node(&node, flags)?;
        Ok(self.add_handle(handle))
    }

    /// Whether opening a file does nothing that reading it would not do: there is nothing to copy it to, no lower layer
    /// that may have another one by now, and no digest that it has to have before it counts as open.
    pub fn opens_mean_nothing(&self) -> bool {
        self.upper.is_none() && !self.config.lower_changes && self.config.verity == Verity::Off
    }

    fn open_node(&self, node: &Arc<Node<L>>, flags: OpenFlags) -> Result<OpenFile<L>> {
        if node.kind != Kind::File {
            return Err(if node.kind == Kind::Dir { OpError::IsDir } else { OpError::Invalid });
        }
        let writes = flags.access != Access::Read;
        if !writes && !flags.truncate {
            let real = (!self.opens_later(node)).then(|| self.open_real(node, flags.access)).transpose()?;
            if let Some(real) = &real {
                self.honour_atime(real, flags.keep_atime);
            }
            return Ok(OpenFile::new(node.clone(), flags, real));
        }
        // The kernel keeps a program from being opened for writing while it runs, but asks a FUSE server to truncate by
        // a read-only open before it checks that.
        if !writes && self.handles.is_executed(node.id) {
            return Err(OpError::Executed);
        }
        let append = flags.append && !flags.truncate;
        protect::check(node, if append { Change::Append } else { Change::Content })?;
        self.copy_up(node, if flags.truncate { Data::Nothing } else { Data::Whole })?;
        let real = self.open_real(node, flags.access)?;
        if flags.truncate {
            let upper = self.upper()?;
            // Truncating by opening sets the times even if the size stays, as ftruncate(2) on a writable file does.
            let writable = if writes { real.clone() } else { self.open_real(node, Access::Write)? };
            upper.set_len(At::Open(writable.file.as_ref()), 0).step("truncate the file")?;
            if let Some(gid) = flags.kill_set_ids {
                self.kill_set_ids(upper, At::Open(real.file.as_ref()), gid)?;
            }
        }
        self.honour_atime(&real, flags.keep_atime);
        Ok(OpenFile::new(node.clone(), flags, Some(real)))
    }

    /// Closes a file. Unknown handles are ignored: nobody waits for an answer. Returns whether it was known.
    pub fn release(&self, id: HandleId) -> bool {
        let Some(handle) = self.handles.remove(id) else {
            return self.handles.unearth(id);
        };
        let node = handle.node.clone();
        drop(handle);
        if self.config.lower_changes {
            self.kept.closed(node.id);
        }
        self.release_node(node);
        true
    }
}
