//! getattr, setattr, readlink and statfs.

use crate::copyup::Data;
use crate::error::{OpError, Result, Step};
use crate::node::Node;
use crate::protect::{self, Change};
use crate::{Attr, Caller, Changed, HandleId, NodeId, Overlay, SetAttr};
use acetate_layer::{Access, At, Errno, Kind, SetTime, Stat, StatFs, UpperLayer};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXEC: u32 = 0o010;

impl<L: UpperLayer> Overlay<L> {
    /// The attributes of a node, or of an open file that may have lost its names.
    ///
    /// # Errors
    /// [`OpError::Stale`], [`OpError::Layer`].
    pub fn getattr(&self, node: NodeId, _handle: Option<HandleId>) -> Result<Attr> {
        self.attr(&self.node(node)?)
    }

    /// Changes attributes and returns the new ones. The object is copied up first, even if nothing changes.
    ///
    /// # Errors
    /// [`OpError::ReadOnly`]; [`OpError::NotPermitted`] for append-only and immutable objects; those of a copy-up.
    pub fn setattr(
        &self,
        node: NodeId,
        handle: Option<HandleId>,
        set: &SetAttr,
        caller: &Caller,
    ) -> Result<Attr> {
        let node = self.node(node)?;
        let upper = self.upper()?;
        protect::check(&node, kind_of_change(set))?;
        if set.size.is_some() && node.kind != Kind::File {
            return Err(if node.kind == Kind::Dir { OpError::IsDir } else { OpError::Invalid });
        }
        // What takes set-id bits away comes as a change of nothing: a write by an unprivileged user, and chown(2) that
        // changes no id. So does the end of taking file capabilities away, by which root leaves set-id bits alone.
        let lost_capabilities = node.lost_capabilities.swap(false, Ordering::AcqRel);
        let keeps_bits = lost_capabilities && caller.uid == 0;
        let nothing = (*set == SetAttr::default() && !keeps_bits).then_some(caller);
        let empties = set.size == Some(0) && !node.data_in_upper() && self.stat(&node)?.size > 0;
        let data = match set.size {
            Some(_) if empties => Data::Nothing,
            Some(_) => Data::Whole,
            None => Data::Below,
        };
        // The answer carries the new attributes, so nobody has to be told of the copy.
        let copied = self.copy_up_untold(&node, data)?;
        let mut set = *set;
        if set.kill_set_ids.is_some() && caller.uid == 0 && (set.uid.is_some() || set.gid.is_some()) {
            // Every chown(2) comes with this wish. Root may keep the bit of files that the group may not execute, as
            // members of the group may.
            set.kill_set_ids = Some(self.stat(&node)?.gid);
        }
        let result = self.apply(upper, &node, handle, &set, empties, nothing);
        if lost_capabilities && let Some(record) = node.record() {
            record.set(crate::ledger::flag::LOST_CAPABILITIES, false);
        }
        if copied && result.is_err() {
            (self.changed)(node.id, Changed::Attributes);
        }
        result
    }

    /// Changes attributes of a node in upper. `empties`: its data was not even copied.
    fn apply(
        &self,
        upper: &L,
        node: &Arc<Node<L>>,
        handle: Option<HandleId>,
        set: &SetAttr,
        empties: bool,
        nothing: Option<&Caller>,
    ) -> Result<Attr> {
        if let Some(size) = set.size {
            if empties {
                // The copy is empty already, but its content has changed: ftruncate(2) sets the times.
                let real = self.open_real(node, Access::Write)?;
                upper.set_len(At::Open(real.file.as_ref()), 0).step("set the size")?;
            } else {
                self.set_size(upper, node, handle, size)?;
            }
        }
        if let Some(mode) = set.mode {
            self.open_before_mode(node, mode);
        }
        let state = node.state.read();
        let at = state.in_upper()?;
        if let Some(gid) = set.kill_set_ids {
            self.kill_set_ids(upper, at, gid)?;
        }
        let (uid, gid) = (set.uid, set.gid);
        if uid.is_some() || gid.is_some() || nothing.is_some() {
            match upper.set_owner(at, uid, gid) {
                Err(Errno::INVAL) => {
                    return Err(OpError::Layer { step: "set the owner", errno: Errno::OVERFLOW });
                }
                other => other.step("set the owner")?,
            }
        }
        // The filesystem below has asked whether this server is of the file's group, not whether the caller is.
        if let Some(caller) = nothing.filter(|caller| caller.uid != 0) {
            self.kill_set_gid(upper, at, caller.gid)?;
        }
        if let Some(mode) = set.mode {
            upper.set_mode(at, mode).step("set the mode")?;
        }
        if set.atime != SetTime::Keep || set.mtime != SetTime::Keep {
            upper.set_times(at, set.atime, set.mtime).step("set the times")?;
        }
        let stat = self.stat_state(&state)?;
        drop(state);
        Ok(self.attr_of(node, &stat))
    }

    /// Truncates through the open file if there is one: it may be allowed where the mode says no.
    fn set_size(&self, upper: &L, node: &Arc<Node<L>>, handle: Option<HandleId>, size: u64) -> Result<()> {
        let open = handle.map(|id| self.handle(id)).transpose()?;
        if let Some(open) = open.filter(|open| open.access != acetate_layer::Access::Read) {
            let real = self.real_file(&open)?;
            return upper.set_len(At::Open(real.file.as_ref()), size).step("set the size");
        }
        let state = node.state.read();
        let at = state.in_upper()?;
        upper.set_len(at, size).step("set the size")
    }

    /// Takes set-id bits away, as a write by an unprivileged process of the group `gid` does. File capabilities go with
    /// any write or truncation of the real file.
    pub(crate) fn kill_set_ids(&self, upper: &L, at: At<'_, L>, gid: u32) -> Result<()> {
        let stat = upper.stat(at).step("stat the upper file")?;
        let mut kept = stat.mode & !SET_UID;
        if loses_set_gid(&stat, gid) {
            kept &= !SET_GID;
        }
        if kept != stat.mode {
            upper.set_mode(at, kept).step("take set-id bits away")?;
        }
        Ok(())
    }

    /// Takes the set-group-id bit away if an unprivileged process of the group `gid` changes the file.
    fn kill_set_gid(&self, upper: &L, at: At<'_, L>, gid: u32) -> Result<()> {
        let stat = upper.stat(at).step("stat the upper file")?;
        if stat.kind == Kind::File && loses_set_gid(&stat, gid) {
            upper.set_mode(at, stat.mode & !SET_GID).step("take the set-group-id bit away")?;
        }
        Ok(())
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// [`OpError::Invalid`] for anything else.
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        let node = self.node(node)?;
        if node.kind != Kind::Symlink {
            return Err(OpError::Invalid);
        }
        let state = node.state.read();
        if let Some(at) = state.upper_at() {
            return self.upper_layer()?.read_link(at).step("read the upper symlink");
        }
        let lower = state.lower().ok_or(OpError::Stale)?;
        self.lowers[lower.layer].read_link(lower.at()).step("read the lower symlink")
    }

    /// Sizes of the filesystem that writes go to, or of the topmost layer; the longest name of all layers.
    ///
    /// # Errors
    /// [`OpError::Layer`].
    pub fn statfs(&self) -> Result<StatFs> {
        let layer = self.upper.as_ref().or(self.lowers.first()).ok_or(OpError::Stale)?;
        let mut statfs = layer.statfs().step("statfs of a layer")?;
        statfs.namelen = self.namelen as u32;
        Ok(statfs)
    }
}

/// Setting both times to now is what touch(1) does to an append-only file, and allowed.
fn kind_of_change(set: &SetAttr) -> Change {
    let times_only = set.mode.is_none() && set.uid.is_none() && set.gid.is_none() && set.size.is_none();
    let now = |time| matches!(time, SetTime::Now | SetTime::Keep);
    if times_only && now(set.atime) && now(set.mtime) { Change::Append } else { Change::Content }
}

/// Whether a change by an unprivileged process of the group `gid` takes the set-group-id bit away: always where the group
/// may execute the file; else the bit means mandatory locking (chmod(2)), which members of the file's group may keep
/// (fs/attr.c, `setattr_should_drop_sgid`). Further groups of the process are not known here.
fn loses_set_gid(stat: &Stat, gid: u32) -> bool {
    stat.mode & SET_GID != 0 && (stat.mode & GROUP_EXEC != 0 || stat.gid != gid)
}
