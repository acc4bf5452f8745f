//! unlink and rmdir.
//!
//! What a lower layer still provides is covered by a whiteout, put in place by one rename; else the upper object is
//! simply removed. A directory goes as a whole, with the whiteouts in it, into the staging directory.

use crate::copyup::Data;
use crate::error::{OpError, Result, Step};
use crate::ledger::{self, Intent};
use crate::node::Node;
use crate::protect::{self, Change};
use crate::{NodeId, Overlay};
use acetate_layer::{At, Errno, Kind, UpperLayer};
use std::sync::Arc;

impl<L: UpperLayer> Overlay<L> {
    /// Removes the non-directory `name` from the directory `parent`.
    ///
    /// # Errors
    /// [`OpError::NotFound`], [`OpError::IsDir`], [`OpError::NotPermitted`]; those of a copy-up of the directory.
    pub fn unlink(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        // Check.
        let dir = self.dir(parent)?;
        let upper = self.upper()?;
        let _names = dir.as_dir()?.ns.write();
        if self.is_done(ledger::Change::Remove) {
            return Ok(());
        }
        let victim = self.child(&dir, name)?.ok_or(OpError::NotFound)?;
        if victim.kind == Kind::Dir {
            return Err(OpError::IsDir);
        }
        protect::check(&dir, Change::RemoveEntry)?;
        protect::check(&victim, Change::Name)?;
        // Plan.
        let covered = self.needs_whiteout(&dir, &victim, name)?;
        self.copy_up(&dir, Data::Whole)?;
        self.before_losing_name(&victim, &dir, name)?;
        let real_dir = real_dir(&dir)?;
        let held = self.hold(upper, &victim, &dir, name)?;
        self.keep_reachable(&victim, held.as_ref());
        // Act.
        self.intend(&Intent::at(ledger::Change::Remove, dir.id, name, Some(victim.id)));
        let mut state = victim.state.write();
        if covered {
            self.cover(upper, &real_dir, name, state.has_upper())?;
        } else {
            upper.unlink(&real_dir, name).step("remove a file from upper")?;
        }
        // Record.
        state.lose_place(&dir, name, held);
        victim.record_places(&state);
        self.after_losing_name(upper, &victim, &mut state);
        drop(state);
        dir.remove_child(name, &victim);
        dir.forget_listing();
        Ok(())
    }

    /// Removes the directory `name`, which must show no entries, from the directory `parent`.
    ///
    /// # Errors
    /// [`OpError::NotFound`], [`OpError::NotDir`], [`OpError::NotEmpty`], [`OpError::NotPermitted`]; those of a
    /// copy-up of the directory.
    pub fn rmdir(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        // Check.
        let dir = self.dir(parent)?;
        let upper = self.upper()?;
        let _names = dir.as_dir()?.ns.write();
        if self.is_done(ledger::Change::Remove) {
            return Ok(());
        }
        let victim = self.child(&dir, name)?.ok_or(OpError::NotFound)?;
        let _no_new_entries = victim.as_dir()?.ns.write();
        protect::check(&dir, Change::RemoveEntry)?;
        protect::check(&victim, Change::Name)?;
        let covered = self.needs_whiteout(&dir, &victim, name)?;
        let holds_whiteouts = self.check_empty(&victim, covered)?;
        // Plan.
        self.copy_up(&dir, Data::Whole)?;
        self.before_losing_name(&victim, &dir, name)?;
        let real_dir = real_dir(&dir)?;
        // Act.
        self.intend(&Intent::at(ledger::Change::Remove, dir.id, name, Some(victim.id)));
        let mut state = victim.state.write();
        let in_upper = state.has_upper();
        if covered && in_upper {
            let whiteout = self.staging.whiteout(upper).step("make a whiteout")?;
            self.admit_whiteouts(upper, &real_dir)?;
            drop(whiteout.exchange(&real_dir, name, true).step("put a whiteout in place")?);
        } else if covered {
            self.cover(upper, &real_dir, name, false)?;
        } else if holds_whiteouts {
            drop(self.staging.take(upper, &real_dir, name, true).step("remove a directory from upper")?);
        } else {
            match upper.rmdir(&real_dir, name) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Err(OpError::NotEmpty),
                other => other.step("remove a directory from upper")?,
            }
        }
        // Record.
        state.lose_place(&dir, name, None);
        victim.record_places(&state);
        self.after_losing_name(upper, &victim, &mut state);
        drop(state);
        dir.remove_child(name, &victim);
        dir.forget_listing();
        victim.forget_listing();
        Ok(())
    }

    /// Puts a whiteout at a name that upper does not have, or has as a non-directory.
    pub(crate) fn cover(&self, upper: &L, dir: &L::Dir, name: &[u8], in_upper: bool) -> Result<()> {
        self.admit_whiteouts(upper, dir)?;
        if !in_upper && self.staging.whiteout_in_place(upper, dir, name) {
            return Ok(());
        }
        let whiteout = self.staging.whiteout(upper).step("make a whiteout")?;
        whiteout.publish(dir, name).step("put a whiteout in place")
    }

    /// Whether the name would show again, or the object stay, if upper simply did not have it.
    pub(crate) fn needs_whiteout(&self, dir: &Node<L>, victim: &Node<L>, name: &[u8]) -> Result<bool> {
        Ok(!victim.in_upper() || self.lower_provides(&dir.state.read(), name)?)
    }

    /// Keeps the upper object of a node reachable if it is about to lose its last known name.
    pub(crate) fn hold(
        &self,
        upper: &L,
        node: &Node<L>,
        dir: &Arc<Node<L>>,
        name: &[u8],
    ) -> Result<Option<Arc<L::File>>> {
        let state = node.state.read();
        let other_names = match state.index() {
            // Names that nobody has looked up yet are names, too.
            Some(_) => !self.is_last_link(&state),
            None => state.places().any(|place| !place.is(dir, name)),
        };
        match state.upper_at() {
            Some(At::Name(real, name)) if !other_names => {
                Ok(Some(Arc::new(upper.hold(real, name).step("hold a file that loses its name")?)))
            }
            _ => Ok(None),
        }
    }

    /// Marks a directory as one that may hold xattr whiteouts, where such are made.
    pub(crate) fn admit_whiteouts(&self, upper: &L, dir: &L::Dir) -> Result<()> {
        use acetate_layer::SetXattr;
        use acetate_layer::mark::{Mark, Opaque, opaque};
        use acetate_layer::work::WhiteoutForm;
        if self.staging.form() != WhiteoutForm::Xattr {
            return Ok(());
        }
        let value = self.mark(upper, At::Dir(dir), Mark::Opaque).step("read the opaque mark")?;
        if opaque(value.as_deref()) != Opaque::No {
            return Ok(());
        }
        let name = self.config.dialect.name(Mark::Opaque);
        upper.set_xattr(At::Dir(dir), name, b"x", SetXattr::Any).step("mark a directory that holds whiteouts")
    }
}

/// The upper part of a directory that was copied up.
pub(crate) fn real_dir<L: UpperLayer>(dir: &Node<L>) -> Result<L::Dir> {
    dir.state.read().upper_dir().cloned().ok_or(OpError::Stale)
}
