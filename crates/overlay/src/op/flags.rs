//! Inode flags (chattr(1)): sync and the like on the upper object, append-only and immutable as a mark.

use crate::copyup::Data;
use crate::error::{OpError, Result, Step};
use crate::{Caller, NodeId, Overlay};
use acetate_layer::mark::{Mark, ProtAttr};
use acetate_layer::{Errno, SetXattr, UpperLayer};

/// FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h.
const IMMUTABLE: u32 = 0x10;
const APPEND_ONLY: u32 = 0x20;

impl<L: UpperLayer> Overlay<L> {
    /// The inode flags of FS_IOC_GETFLAGS: the real ones, with append-only and immutable as they are in force.
    ///
    /// # Errors
    /// `ENOTTY` or `EOPNOTSUPP` where the filesystem below has none.
    pub fn inode_flags(&self, node: NodeId) -> Result<u32> {
        const STEP: &str = "read inode flags";
        let node = self.node(node)?;
        let state = node.state.read();
        let real = if let Some(at) = state.upper_at() {
            self.upper_layer()?.inode_flags(at).step(STEP)?
        } else {
            let lower = state.lower().ok_or(OpError::Stale)?;
            self.lowers[lower.layer].inode_flags(lower.at()).step(STEP)?
        };
        let marked = |set, bit| if set { bit } else { 0 };
        Ok(real | marked(state.prot().immutable, IMMUTABLE) | marked(state.prot().append_only, APPEND_ONLY))
    }

    /// Sets the inode flags. Who may set which is decided by the kernel.
    ///
    /// # Errors
    /// Those of a copy-up; `EOPNOTSUPP` where the mark or the flags cannot be stored.
    pub fn set_inode_flags(&self, node: NodeId, flags: u32, _caller: &Caller) -> Result<()> {
        let node = self.node(node)?;
        let upper = self.upper()?;
        self.copy_up(&node, Data::Below)?;
        let mut state = node.state.write();
        let at = state.in_upper()?;
        let prot = ProtAttr { immutable: flags & IMMUTABLE != 0, append_only: flags & APPEND_ONLY != 0 };
        let name = self.config.dialect.name(Mark::ProtAttr);
        if prot == ProtAttr::default() {
            match upper.remove_xattr(at, name) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(OpError::Layer { step: "remove the protattr mark", errno }),
            }
        } else {
            upper.set_xattr(at, name, prot.format(), SetXattr::Any).step("set the protattr mark")?;
        }
        let rest = flags & !(IMMUTABLE | APPEND_ONLY);
        if upper.inode_flags(at).step("read inode flags")? != rest {
            upper.set_inode_flags(at, rest).step("set inode flags")?;
        }
        state.set_prot(prot);
        Ok(())
    }
}
