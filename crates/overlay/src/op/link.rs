//! link: another name for a non-directory.

use crate::copyup::Data;
use crate::error::{OpError, Result, Step};
use crate::ledger::{self, Intent};
use crate::node::Real;
use crate::op::lookup::Slot;
use crate::protect::{self, Change};
use crate::redirect::Goes;
use crate::state::{Links, Place};
use crate::{Entry, NodeId, Overlay};
use acetate_layer::{At, Errno, Kind, UpperLayer};

impl<L: UpperLayer> Overlay<L> {
    /// Gives a node the further name `name` in the directory `parent`. Both are copied up first.
    ///
    /// # Errors
    /// [`OpError::NotPermitted`] for directories; [`OpError::Exists`]; [`OpError::NotFound`] for a removed
    /// lower file; those of a copy-up; [`OpError::Layer`].
    pub fn link(&self, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Entry> {
        const STEP: &str = "make a hard link";
        // Check.
        let node = self.node(node)?;
        let dir = self.dir(parent)?;
        let upper = self.upper()?;
        if node.kind == Kind::Dir {
            return Err(OpError::NotPermitted);
        }
        let _names = dir.as_dir()?.ns.write();
        if self.is_done(ledger::Change::Link) {
            let (node, attr) = self.child_with_attr(&dir, name, None)?.ok_or(OpError::Stale)?;
            self.nodes.refer(&node);
            return Ok(Entry { node: node.id, attr });
        }
        protect::check(&dir, Change::AddEntry)?;
        protect::check(&node, Change::Name)?;
        if self.child(&dir, name)?.is_some() {
            return Err(OpError::Exists);
        }
        // A removed lower file cannot be copied up, even if another name of it is left below.
        if !node.in_upper() && node.state.read().place().is_none() {
            return Err(OpError::NotFound);
        }
        // Plan.
        self.copy_up(&node, Data::Below)?;
        self.copy_up(&dir, Data::Whole)?;
        let real_dir = {
            let state = dir.state.read();
            state.upper_dir().cloned().ok_or(OpError::Stale)?
        };
        if self.is_copy(&node.state.read())? {
            self.mark_impure(&dir)?;
        }
        let place = node.state.read().places().next_back().map(|place| place.to_place());
        if node.state.read().metacopy()
            && let Some(place) = place
        {
            self.set_redirect(&node, &place.parent, &place.name, Goes::Away)?;
        }
        self.store_links(upper, &node.state.read())?;
        // Act.
        self.intend(&Intent::at(ledger::Change::Link, dir.id, name, Some(node.id)));
        if let Some(record) = node.record() {
            record.set(ledger::flag::MANY_NAMES, true);
        }
        let mut state = node.state.write();
        let source = state.in_upper()?;
        let before = match upper.link(source, &real_dir, name) {
            Err(Errno::EXIST) => {
                if self.upper_slot(&real_dir, name)? != Slot::Whiteout {
                    return Err(OpError::Exists);
                }
                let link = |work: &L::Dir, staged: &[u8]| upper.link(source, work, staged);
                let (staged, ()) = self.staging.object(upper, link).step(STEP)?;
                staged.publish(&real_dir, name).step("publish a hard link")?;
                Slot::Whiteout
            }
            other => other.step(STEP).map(|()| Slot::Nothing)?,
        };
        let stat = self
            .stat_state(&state)
            .inspect_err(|_| self.take_back(upper, &real_dir, name, node.kind, before))?;
        // Record.
        state.add_place(Place { parent: dir.clone(), name: name.into(), in_upper: true });
        if let Some(links) = state.links() {
            state.set_links(Some(Links { union: links.union + 1, ..links }));
        }
        if matches!(state.upper_at(), Some(At::Open(_))) {
            state.set_upper(Real::Named(real_dir, name.into()));
        }
        node.record_places(&state);
        dir.set_child(name, &node);
        dir.forget_listing();
        drop(state);
        let _same_node = self.nodes.set_linked(stat.ino, &node);
        self.nodes.refer(&node);
        Ok(Entry { node: node.id, attr: self.attr_of(&node, &stat) })
    }
}
