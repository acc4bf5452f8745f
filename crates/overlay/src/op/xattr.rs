//! Extended attributes, with the overlay's own ones hidden.

use super::tell::Told;
use crate::copyup::Data;
use crate::error::{OpError, Result, Step};
use crate::ledger::{self, Before, Intent};
use crate::node::Node;
use crate::protect::{self, Change};
use crate::{Caller, NodeId, Overlay};
use acetate_layer::mark::{Dialect, Mark};
use acetate_layer::{At, Errno, Kind, SetXattr, UpperLayer, acl, mark};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const STEP: &str = "access an xattr";
const STICKY: u32 = 0o1000;
const SET_GID: u32 = 0o2000;

impl<L: UpperLayer> Overlay<L> {
    /// The value of an attribute.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    pub fn getxattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        let node = self.node(node)?;
        let value = match Told::of(name) {
            Some(told) => self.tell(&node, told)?,
            None => self.read_xattr(&node, name)?,
        };
        value.ok_or(OpError::Layer { step: STEP, errno: Errno::NODATA })
    }

    fn read_xattr(&self, node: &Node<L>, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let name = mark::to_disk(self.config.dialect, name).step(STEP)?;
        let state = node.state.read();
        if let Some(at) = state.upper_at() {
            return self.upper_layer()?.get_xattr(at, &name).step(STEP);
        }
        let lower = state.lower().ok_or(OpError::Stale)?;
        self.lowers[lower.layer].get_xattr(lower.at(), &name).step(STEP)
    }

    /// The names of all attributes, each ended by NUL; `trusted.*` only for root.
    ///
    /// # Errors
    /// [`OpError::Layer`].
    pub fn listxattr(&self, node: NodeId, caller: &Caller) -> Result<Vec<u8>> {
        let node = self.node(node)?;
        let state = node.state.read();
        let names = if let Some(at) = state.upper_at() {
            self.upper_layer()?.list_xattrs(at)
        } else {
            let lower = state.lower().ok_or(OpError::Stale)?;
            self.lowers[lower.layer].list_xattrs(lower.at())
        };
        let mut list = Vec::new();
        for name in names.step("list xattrs")? {
            let Some(name) = mark::to_user(self.config.dialect, &name) else {
                continue;
            };
            if caller.uid == 0 || !name.starts_with(b"trusted.") {
                list.extend_from_slice(&name);
                list.push(0);
            }
        }
        Ok(list)
    }

    /// Sets an attribute. The object is copied up first, even if setting then fails, as in the kernel.
    /// `clear_set_gid`: an ACL set by someone outside the file's group takes its set-group-id bit away.
    ///
    /// # Errors
    /// `EEXIST` and `ENODATA` as `how` says; `EPERM` for what no layer holds; `EOPNOTSUPP` for names that cannot be escaped; those of a copy-up.
    pub fn setxattr(
        &self,
        node: NodeId,
        name: &[u8],
        value: &[u8],
        how: SetXattr,
        caller: &Caller,
        clear_set_gid: bool,
    ) -> Result<()> {
        let node = self.node(node)?;
        let upper = self.upper()?;
        if Told::of(name).is_some() {
            return Err(OpError::NotPermitted);
        }
        self.check_sticky_root(&node, name, caller)?;
        protect::check(&node, Change::Content)?;
        let disk = mark::to_disk(self.config.dialect, name).step(STEP)?;
        // It would keep mounts away from the layer: they do not ask in which dialect its marks are.
        if node.id == NodeId::ROOT && *disk == *Dialect::User.name(Mark::Compat) {
            return Err(OpError::NotPermitted);
        }
        self.copy_up(&node, Data::Below)?;
        if name == acl::ACCESS {
            // It may say anything of the owner.
            self.open_before_mode(&node, 0);
        }
        let state = node.state.read();
        let at = state.in_upper()?;
        let how = self.how_to_set(upper, node.id, at, &disk, how)?;
        upper.set_xattr(at, &disk, value, how).step("set an xattr")?;
        if clear_set_gid {
            clear_set_gid_of(upper, at)?;
        }
        drop(state);
        self.xattr_changed(&node, name);
        Ok(())
    }

    /// Only its owner changes `user.*` of a sticky directory (`xattr_permission`, fs/xattr.c). The kernel decides, but for the
    /// root of a new mount, whose mode it has not asked for yet.
    fn check_sticky_root(&self, node: &Node<L>, name: &[u8], caller: &Caller) -> Result<()> {
        if node.id != NodeId::ROOT || caller.uid == 0 || !name.starts_with(b"user.") {
            return Ok(());
        }
        let stat = self.stat(node)?;
        let is_others = stat.mode & STICKY != 0 && stat.uid != caller.uid;
        if is_others { Err(OpError::NotPermitted) } else { Ok(()) }
    }

    /// Removes an attribute. One that is missing is not worth a copy-up. An access ACL takes the set-group-id bit with it,
    /// unless root removes it or who is of the file's group.
    ///
    /// # Errors
    /// `ENODATA`; `EPERM` for what no layer holds; those of a copy-up.
    pub fn removexattr(&self, node: NodeId, name: &[u8], caller: &Caller) -> Result<()> {
        let node = self.node(node)?;
        let upper = self.upper()?;
        if Told::of(name).is_some() {
            return Err(OpError::NotPermitted);
        }
        self.check_sticky_root(&node, name, caller)?;
        protect::check(&node, Change::Content)?;
        // What cannot have a default ACL has lost it.
        if name == acl::DEFAULT && node.kind != Kind::Dir {
            return Ok(());
        }
        if name == acl::ACCESS && caller.uid != 0 {
            let stat = self.stat(&node)?;
            if stat.mode & SET_GID != 0 && stat.gid != caller.gid {
                // First, and whether there is an ACL or not (ovl_set_acl, fs/overlayfs/inode.c).
                self.copy_up(&node, Data::Below)?;
                let state = node.state.read();
                clear_set_gid_of(upper, state.in_upper()?)?;
            }
        }
        // In upper the filesystem decides: removing a missing ACL succeeds.
        let before = self.before(ledger::Change::RemoveXattr);
        if before == Before::Done {
            return Ok(());
        }
        if !node.in_upper() && self.read_xattr(&node, name)?.is_none() {
            return Err(OpError::Layer { step: STEP, errno: Errno::NODATA });
        }
        let disk = mark::to_disk(self.config.dialect, name).step(STEP)?;
        self.copy_up(&node, Data::Below)?;
        let state = node.state.read();
        let at = state.in_upper()?;
        if self.ledger.is_some()
            && before == Before::Nothing
            && upper.get_xattr(at, &disk).step(STEP)?.is_some()
        {
            self.intend(&Intent::at(ledger::Change::RemoveXattr, node.id, b"", None));
        }
        match upper.remove_xattr(at, &disk) {
            // It was there, and the last server has removed it.
            Err(Errno::NODATA) if before == Before::Checked => {}
            other => other.step("remove an xattr")?,
        }
        if name == b"security.capability" {
            node.lost_capabilities.store(true, Ordering::Release);
            if let Some(record) = node.record() {
                record.set(ledger::flag::LOST_CAPABILITIES, true);
            }
        }
        drop(state);
        self.xattr_changed(&node, name);
        Ok(())
    }

    /// How an attribute is to be set: one that must not be there was looked for by an earlier server, if it was sent the
    /// same request.
    fn how_to_set(
        &self,
        upper: &L,
        node: NodeId,
        at: At<'_, L>,
        disk: &[u8],
        how: SetXattr,
    ) -> Result<SetXattr> {
        if self.ledger.is_none() || how != SetXattr::Create {
            return Ok(how);
        }
        if self.before(ledger::Change::SetXattr) != Before::Nothing {
            return Ok(SetXattr::Any);
        }
        if upper.get_xattr(at, disk).step(STEP)?.is_none() {
            self.intend(&Intent::at(ledger::Change::SetXattr, node, b"", None));
        }
        Ok(how)
    }

    fn xattr_changed(&self, node: &Arc<Node<L>>, name: &[u8]) {
        if name == acl::DEFAULT
            && node.kind == Kind::Dir
            && let Ok(dir) = node.as_dir()
        {
            *dir.default_acl.lock() = None;
        }
    }
}

/// Takes the set-group-id bit of an upper object away.
fn clear_set_gid_of<L: UpperLayer>(upper: &L, at: At<'_, L>) -> Result<()> {
    let mode = upper.stat(at).step("stat the upper object")?.mode;
    if mode & SET_GID != 0 {
        upper.set_mode(at, mode & !SET_GID).step("take the set-group-id bit away")?;
    }
    Ok(())
}
