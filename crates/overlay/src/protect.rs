//! Append-only and immutable objects (chattr +a, +i).
//!
//! The flags of lower objects are real; those of upper objects are kept in the mark `protattr`, so that the object
//! can still be worked with below (overlayfs since Linux 5.15). Either way the overlay has to enforce them.

use crate::Overlay;
use crate::error::{OpError, Result, Step};
use crate::node::Node;
use acetate_layer::mark::{Dialect, Mark, ProtAttr};
use acetate_layer::{At, Errno, Stat, UpperLayer};

/// What is going to happen to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Its content, size, mode, owner, times or xattrs.
    Content,
    /// Only data is added at its end, or its times are set to now.
    Append,
    /// It is removed, renamed or linked.
    Name,
    /// An entry is added to the directory.
    AddEntry,
    /// An entry is removed from the directory.
    RemoveEntry,
}

/// Refuses changes that the flags forbid.
pub(crate) fn check<L: UpperLayer>(node: &Node<L>, change: Change) -> Result<()> {
    let prot = node.state.read().prot();
    let allowed_if_append_only = matches!(change, Change::Append | Change::AddEntry);
    if prot.immutable || prot.append_only && !allowed_if_append_only {
        return Err(OpError::NotPermitted);
    }
    Ok(())
}

impl<L: UpperLayer> Overlay<L> {
    /// The flags of an upper object: its own ones and the marked ones.
    pub(crate) fn read_protection(&self, layer: &L, at: At<'_, L>, stat: Option<&Stat>) -> Result<ProtAttr> {
        let mut prot = stat.map(real_protection).unwrap_or_default();
        if let Some(value) = self.mark(layer, at, Mark::ProtAttr).step("read the protattr mark")?
            && let Some(marked) = ProtAttr::parse(&value)
        {
            prot.immutable |= marked.immutable;
            prot.append_only |= marked.append_only;
        }
        Ok(prot)
    }

    /// The value of a mark; where there are no such xattrs there is no mark. `user.*` attributes are for those who may read the
    /// object: what cannot be read says nothing, as in the kernel (`ovl_check_metacopy_xattr`, fs/overlayfs/util.c).
    pub(crate) fn mark(
        &self,
        layer: &L,
        at: At<'_, L>,
        mark: Mark,
    ) -> acetate_layer::Result<Option<Vec<u8>>> {
        match self.certain_mark(layer, at, mark) {
            Err(Errno::ACCESS) if self.config.dialect == Dialect::User => Ok(None),
            other => other,
        }
    }

    /// As [`mark`](Self::mark), but what cannot be read is `EACCES`: where something would come back, or have other data.
    pub(crate) fn certain_mark(
        &self,
        layer: &L,
        at: At<'_, L>,
        mark: Mark,
    ) -> acetate_layer::Result<Option<Vec<u8>>> {
        match layer.get_xattr(at, self.config.dialect.name(mark)) {
            Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(None),
            other => other,
        }
    }
}

/// The flags that statx(2) shows.
pub(crate) fn real_protection(stat: &Stat) -> ProtAttr {
    ProtAttr { immutable: stat.immutable, append_only: stat.append_only }
}
