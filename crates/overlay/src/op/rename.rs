//! rename.
//!
//! Which real rename is needed follows from two questions, whether a lower layer provides the source name and whether
//! upper holds a whiteout at the target name; the table is in docs/semantics.md, "rename".

use crate::copyup::Data;
use crate::error::{OpError, Result, Step};
use crate::ledger::{self, Intent, Saved};
use crate::node::{Node, Real};
use crate::op::lookup::Slot;
use crate::op::remove::real_dir;
use crate::protect::{self, Change};
use crate::redirect::Goes;
use crate::state::{Place, State};
use crate::{Changed, NodeId, Overlay, Redirects, RenameKind};
use acetate_layer::mark::{self, Mark, Opaque};
use acetate_layer::work::WhiteoutForm;
use acetate_layer::{At, Errno, Kind, Owner, Rename, SetTime, SetXattr, UpperLayer};
use std::sync::Arc;

/// One side of a rename.
struct Side<'a, L: UpperLayer> {
    dir: &'a Arc<Node<L>>,
    name: &'a [u8],
}

impl<L: UpperLayer> Overlay<L> {
    /// Renames `name` in the directory `parent` to `new_name` in `new_parent`.
    ///
    /// # Errors
    /// [`OpError::NotFound`], [`OpError::Exists`], [`OpError::NotDir`], [`OpError::IsDir`], [`OpError::NotEmpty`],
    /// [`OpError::Invalid`] (a directory into itself; `RENAME_WHITEOUT`), [`OpError::CrossesLayers`] for directories
    /// with lower parts, unless redirects are made, [`OpError::NotPermitted`]; those of a copy-up; [`OpError::Layer`].
    pub fn rename(
        &self,
        parent: NodeId,
        name: &[u8],
        new_parent: NodeId,
        new_name: &[u8],
        kind: RenameKind,
    ) -> Result<()> {
        if kind == RenameKind::Whiteout {
            return Err(OpError::Invalid);
        }
        let (old_dir, new_dir) = (self.dir(parent)?, self.dir(new_parent)?);
        let (old, new) = (Side { dir: &old_dir, name }, Side { dir: &new_dir, name: new_name });
        self.upper()?;
        if Arc::ptr_eq(&old_dir, &new_dir) {
            let _names = old_dir.as_dir()?.ns.write();
            return self.rename_locked(&old, &new, kind);
        }
        // As the kernel's s_vfs_rename_mutex: ancestry does not change while the order of the locks depends on it.
        let _ancestry = self.renaming.lock();
        let new_first =
            is_below(&old_dir, &new_dir) || !is_below(&new_dir, &old_dir) && new_dir.id < old_dir.id;
        let (first, second) = if new_first { (&new_dir, &old_dir) } else { (&old_dir, &new_dir) };
        let _first = first.as_dir()?.ns.write();
        let _second = second.as_dir()?.ns.write();
        self.rename_locked(&old, &new, kind)
    }

    fn rename_locked(&self, old: &Side<'_, L>, new: &Side<'_, L>, kind: RenameKind) -> Result<()> {
        let exchange = kind == RenameKind::Exchange;
        let change = if exchange { ledger::Change::Exchange } else { ledger::Change::Rename };
        if self.is_done(change) {
            return Ok(());
        }
        let source = self.child(old.dir, old.name)?.ok_or(OpError::NotFound)?;
        let target = self.child(new.dir, new.name)?;
        // Two names of one object: nothing happens (rename(2)).
        if target.as_ref().is_some_and(|target| Arc::ptr_eq(target, &source)) {
            return if kind == RenameKind::NoReplace { Err(OpError::Exists) } else { Ok(()) };
        }
        self.check_rename(old, new, &source, target.as_ref(), kind)?;
        let overwritten = target.as_ref().filter(|_| !exchange);
        let victim = overwritten.filter(|node| node.kind == Kind::Dir);
        let _no_new_entries = match victim {
            Some(dir) => Some(dir.as_dir()?.ns.write()),
            None => None,
        };
        let victim_holds_whiteouts = match victim {
            Some(dir) => self.check_empty(dir, false)?,
            None => false,
        };
        // Plan.
        let covered = self.needs_whiteout(old.dir, &source, old.name)?;
        self.copy_up_name(&source, old.dir, old.name, Data::Below)?;
        self.copy_up(new.dir, Data::Whole)?;
        if exchange && let Some(target) = &target {
            self.copy_up_name(target, new.dir, new.name, Data::Below)?;
        }
        if let Some(node) = overwritten {
            self.before_losing_name(node, new.dir, new.name)?;
        }
        self.mark_moved(old, new, &source, target.as_ref().filter(|_| exchange))?;
        if victim_holds_whiteouts && let Some(dir) = victim {
            self.clear_whiteouts(dir, new)?;
        }
        let upper = self.upper()?;
        let held = match overwritten {
            Some(node) if node.kind != Kind::Dir => self.hold(upper, node, new.dir, new.name)?,
            _ => None,
        };
        if let Some(node) = overwritten {
            self.keep_reachable(node, held.as_ref());
        }
        // Act.
        self.intend(&Intent {
            change,
            place: (old.dir.id, old.name),
            new_place: (new.dir.id, new.name),
            node: Some(source.id),
            other: target.as_ref().map(|node| node.id),
            ino: match &self.ledger {
                // By it the next server knows what was exchanged, or has two names because it was being moved.
                Some(_) if exchange || covered && self.staging.form() == WhiteoutForm::Xattr => {
                    self.upper_ino(&source)?
                }
                _ => 0,
            },
        });
        if exchange {
            let target = target.as_ref().ok_or(OpError::NotFound)?;
            let exchanged = self.act_exchange(old, new, &source, target);
            return exchanged.inspect_err(|_| self.tell_of_failure([old.dir, new.dir, &source, target]));
        }
        let (mut source_state, victim_state) = lock_states(&source, overwritten);
        self.act_move(old, new, &mut source_state, source.kind, covered)
            .inspect_err(|_| self.tell_of_failure([old.dir, new.dir, &source]))?;
        // Record.
        if let Some(mut state) = victim_state {
            state.lose_place(new.dir, new.name, held);
            overwritten.iter().for_each(|node| node.record_places(&state));
            if let Some(node) = overwritten {
                self.after_losing_name(upper, node, &mut state);
            }
        }
        source.record_places(&source_state);
        drop(source_state);
        if let Some(node) = overwritten {
            node.forget_listing();
        }
        old.dir.remove_child(old.name, &source);
        if let Some(node) = overwritten {
            new.dir.remove_child(new.name, node);
        }
        new.dir.set_child(new.name, &source);
        old.dir.forget_listing();
        new.dir.forget_listing();
        Ok(())
    }

    /// A filesystem that fails to rename may have given the directories new times nevertheless: ext4 does when it
    /// takes the whiteout back that it had put at the source name. What was to move may have been marked.
    fn tell_of_failure<const N: usize>(&self, nodes: [&Arc<Node<L>>; N]) {
        for node in nodes {
            (self.changed)(node.id, Changed::Attributes);
        }
    }

    fn check_rename(
        &self,
        old: &Side<'_, L>,
        new: &Side<'_, L>,
        source: &Arc<Node<L>>,
        target: Option<&Arc<Node<L>>>,
        kind: RenameKind,
    ) -> Result<()> {
        let exchange = kind == RenameKind::Exchange;
        protect::check(old.dir, Change::RemoveEntry)?;
        protect::check(new.dir, if target.is_some() { Change::RemoveEntry } else { Change::AddEntry })?;
        protect::check(source, Change::Name)?;
        if let Some(target) = target {
            protect::check(target, Change::Name)?;
        }
        if source.kind == Kind::Dir && is_below(new.dir, source) {
            return Err(OpError::Invalid);
        }
        match (kind, target) {
            (RenameKind::NoReplace, Some(_)) => return Err(OpError::Exists),
            (RenameKind::Exchange, None) => return Err(OpError::NotFound),
            (RenameKind::Exchange, Some(target)) if target.kind == Kind::Dir && is_below(old.dir, target) => {
                return Err(OpError::Invalid);
            }
            (RenameKind::Replace, Some(target)) => match (source.kind, target.kind) {
                (Kind::Dir, Kind::Dir) => {}
                (Kind::Dir, _) => return Err(OpError::NotDir),
                (_, Kind::Dir) => return Err(OpError::IsDir),
                _ => {}
            },
            _ => {}
        }
        let stays = |node: &Node<L>| self.config.redirects != Redirects::Make && merges(node);
        if stays(source) || exchange && target.is_some_and(|target| stays(target)) {
            return Err(OpError::CrossesLayers);
        }
        Ok(())
    }

    /// Sets the marks that the moved objects need in their new places.
    fn mark_moved(
        &self,
        old: &Side<'_, L>,
        new: &Side<'_, L>,
        source: &Node<L>,
        exchanged: Option<&Arc<Node<L>>>,
    ) -> Result<()> {
        if !Arc::ptr_eq(old.dir, new.dir) {
            let is_copy = |node: &Node<L>| self.is_copy(&node.state.read());
            if is_copy(source)? {
                self.mark_impure(new.dir)?;
            }
            if let Some(exchanged) = exchanged
                && is_copy(exchanged)?
            {
                self.mark_impure(old.dir)?;
            }
        }
        self.mark_for_place(source, old, new.dir)?;
        match exchanged {
            Some(target) => self.mark_for_place(target, new, old.dir),
            None => Ok(()),
        }
    }

    /// What has lower parts must find them from its new place, what has none must not get any there.
    fn mark_for_place(&self, node: &Node<L>, now: &Side<'_, L>, dir: &Arc<Node<L>>) -> Result<()> {
        if merges(node) || node.state.read().metacopy() {
            let aside = Arc::ptr_eq(now.dir, dir) && !self.has_lower_links(node)?;
            let goes = if aside { Goes::Aside } else { Goes::Away };
            return self.set_redirect(node, now.dir, now.name, goes);
        }
        self.make_opaque_in(node, dir)
    }

    /// Whether a file below has several names: a relative redirect would lead from only one of them.
    fn has_lower_links(&self, node: &Node<L>) -> Result<bool> {
        if node.kind == Kind::Dir {
            return Ok(false);
        }
        let lower = node.state.read().lower().map(|lower| lower.to_lower()).ok_or(OpError::Stale)?;
        let stat = self.lowers[lower.layer].stat(lower.real.at()).step("stat the lower object")?;
        Ok(stat.nlink > 1)
    }

    /// A plain upper directory must not merge with what lower layers have at its new place.
    fn make_opaque_in(&self, node: &Node<L>, dir: &Node<L>) -> Result<()> {
        const STEP: &str = "mark a moved directory opaque";
        if node.kind != Kind::Dir || !dir.state.read().has_lowers() {
            return Ok(());
        }
        let upper = self.upper()?;
        let state = node.state.read();
        let at = state.in_upper()?;
        if mark::opaque(self.mark(upper, at, Mark::Opaque).step(STEP)?.as_deref()) == Opaque::Yes {
            return Ok(());
        }
        if !self.config.opaque_storable {
            return Err(OpError::CrossesLayers);
        }
        upper.set_xattr(at, self.config.dialect.name(Mark::Opaque), b"y", SetXattr::Any).step(STEP)
    }

    /// Replaces the upper part of a directory that shows nothing, but holds whiteouts, by an empty opaque one, so
    /// that it can be renamed over.
    fn clear_whiteouts(&self, dir: &Arc<Node<L>>, place: &Side<'_, L>) -> Result<()> {
        const STEP: &str = "replace a directory of whiteouts";
        if !self.config.opaque_storable {
            return Err(OpError::Layer { step: STEP, errno: Errno::IO });
        }
        let upper = self.upper()?;
        let mut state = dir.state.write();
        let old = state.upper().ok_or(OpError::Stale)?;
        let stat = upper.stat(old.at()).step(STEP)?;
        let staged = self.staging.dir(upper, 0o700, Owner::Mounter).step(STEP)?;
        if stat.uid != 0 || stat.gid != 0 {
            upper.set_owner(staged.at(), Some(stat.uid), Some(stat.gid)).step(STEP)?;
        }
        for name in upper.list_xattrs(old.at()).step(STEP)? {
            if mark::is_private(self.config.dialect, &name) {
                continue;
            }
            if let Some(value) = upper.get_xattr(old.at(), &name).step(STEP)? {
                upper.set_xattr(staged.at(), &name, &value, SetXattr::Any).step(STEP)?;
            }
        }
        upper
            .set_xattr(staged.at(), self.config.dialect.name(Mark::Opaque), b"y", SetXattr::Any)
            .step(STEP)?;
        upper.set_mode(staged.at(), stat.mode).step(STEP)?;
        upper.set_times(staged.at(), SetTime::To(stat.atime), SetTime::To(stat.mtime)).step(STEP)?;
        let fresh = upper.open_dir(upper.work(), staged.name()).step(STEP)?;
        drop(staged.exchange(&real_dir(place.dir)?, place.name, true).step(STEP)?);
        state.set_upper(Real::Dir(fresh));
        // The opaque mark hides them for good.
        state.set_lowers(Vec::new());
        Ok(())
    }

    fn act_exchange(
        &self,
        old: &Side<'_, L>,
        new: &Side<'_, L>,
        source: &Arc<Node<L>>,
        target: &Arc<Node<L>>,
    ) -> Result<()> {
        let upper = self.upper()?;
        let (from, to) = (real_dir(old.dir)?, real_dir(new.dir)?);
        let (mut source_state, target_state) = lock_states(source, Some(target));
        upper
            .rename((&from, old.name), (&to, new.name), Rename::Exchange)
            .step("exchange two names in upper")?;
        source_state.move_place(old.dir, old.name, place_of(new), to);
        source.record_places(&source_state);
        if let Some(mut state) = target_state {
            state.move_place(new.dir, new.name, place_of(old), from);
            target.record_places(&state);
        }
        drop(source_state);
        old.dir.remove_child(old.name, source);
        new.dir.remove_child(new.name, target);
        new.dir.set_child(new.name, source);
        old.dir.set_child(old.name, target);
        old.dir.forget_listing();
        new.dir.forget_listing();
        Ok(())
    }

    /// The real rename, or the one that has the same effect.
    fn act_move(
        &self,
        old: &Side<'_, L>,
        new: &Side<'_, L>,
        source: &mut State<L>,
        kind: Kind,
        covered: bool,
    ) -> Result<()> {
        const STEP: &str = "rename in upper";
        let upper = self.upper()?;
        let (from, to) = (real_dir(old.dir)?, real_dir(new.dir)?);
        // A file takes the place of a whiteout as it does that of nothing.
        let over_whiteout =
            (covered || kind == Kind::Dir) && self.upper_slot(&to, new.name)? == Slot::Whiteout;
        if covered {
            self.admit_whiteouts(upper, &from)?;
        }
        let rename = |how| upper.rename((&from, old.name), (&to, new.name), how);
        match (covered, over_whiteout) {
            // The whiteout moves to the source name.
            (true, true) => rename(Rename::Exchange).step(STEP)?,
            (true, false) if self.staging.form() == WhiteoutForm::Device => {
                rename(Rename::Whiteout).step(STEP)?
            }
            (true, false) => self.move_leaving_whiteout(upper, &from, old.name, &to, new.name, kind)?,
            (false, true) if kind == Kind::Dir => {
                rename(Rename::Exchange).step(STEP)?;
                // Nothing lies below the source name: a whiteout left there hides nothing.
                let _needless = upper.unlink(&from, old.name);
            }
            (false, _) => rename(Rename::Replace).step(STEP)?,
        }
        source.move_place(old.dir, old.name, place_of(new), to);
        Ok(())
    }

    /// Moves a file and leaves a whiteout where one rename cannot do both: the file has two names for a moment, and
    /// never none.
    fn move_leaving_whiteout(
        &self,
        upper: &L,
        from: &L::Dir,
        name: &[u8],
        to: &L::Dir,
        new_name: &[u8],
        kind: Kind,
    ) -> Result<()> {
        const STEP: &str = "move a file and leave a whiteout";
        if kind == Kind::Dir {
            return Err(OpError::CrossesLayers);
        }
        let whiteout = self.staging.whiteout(upper).step(STEP)?;
        let link = |work: &L::Dir, staged: &[u8]| upper.link(At::Name(from, name), work, staged);
        let (staged, ()) = self.staging.object(upper, link).step(STEP)?;
        staged.publish(to, new_name).step(STEP)?;
        whiteout.publish(from, name).step(STEP)
    }
}

type StateGuard<'a, L> = crate::order::Guard<parking_lot::RwLockWriteGuard<'a, State<L>>>;

/// Locks the states of one or two different nodes, in the order of their ids.
fn lock_states<'a, L: UpperLayer>(
    a: &'a Node<L>,
    b: Option<&'a Arc<Node<L>>>,
) -> (StateGuard<'a, L>, Option<StateGuard<'a, L>>) {
    match b {
        Some(b) if b.id < a.id => {
            let second = b.state.write();
            (a.state.write(), Some(second))
        }
        other => {
            let first = a.state.write();
            (first, other.map(|node| node.state.write()))
        }
    }
}

fn place_of<L: UpperLayer>(side: &Side<'_, L>) -> Place<L> {
    Place { parent: side.dir.clone(), name: side.name.into(), in_upper: true }
}

impl<L: UpperLayer> Overlay<L> {
    /// Whether [`Overlay::move_leaving_whiteout`] was stopped half-way: upper has the object at both names.
    pub(crate) fn is_half_moved(&self, intent: &Saved) -> Result<bool> {
        if intent.change != ledger::Change::Rename || intent.ino == 0 {
            return Ok(false);
        }
        let upper = self.upper()?;
        let is_there = |(dir, name): &(NodeId, Box<[u8]>)| {
            let dir = real_dir(&*self.dir(*dir)?)?;
            match upper.stat(At::Name(&dir, name)) {
                Ok(stat) => Ok(stat.ino == intent.ino),
                Err(Errno::NOENT) => Ok(false),
                Err(errno) => Err(OpError::Layer { step: "look at a name in upper", errno }),
            }
        };
        Ok(is_there(&intent.place)? && is_there(&intent.new_place)?)
    }

    /// Does the other half of [`Overlay::move_leaving_whiteout`].
    pub(crate) fn finish_move(&self, intent: &Saved) -> Result<()> {
        let (dir, name) = (self.dir(intent.place.0)?, &intent.place.1);
        self.cover(self.upper()?, &real_dir(&dir)?, name, true)
    }
}

/// Whether a node is a directory that goes on in lower layers.
fn merges<L: UpperLayer>(node: &Node<L>) -> bool {
    node.kind == Kind::Dir && node.state.read().has_lowers()
}

/// Whether a directory is another one or below it.
fn is_below<L: UpperLayer>(inner: &Arc<Node<L>>, outer: &Arc<Node<L>>) -> bool {
    let mut current = inner.clone();
    loop {
        if Arc::ptr_eq(&current, outer) {
            return true;
        }
        let parent = current.state.read().place().map(|place| place.parent.clone());
        match parent {
            Some(parent) => current = parent,
            None => return false,
        }
    }
}
