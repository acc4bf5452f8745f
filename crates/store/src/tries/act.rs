//! Applying, undoing, and going on where either was interrupted.

use super::OpenTry;
use super::journal::{self, Attributes, Journal, Phase, Swap};
use super::place::Place;
use super::seal::{Reach, seal};
use super::stage::Stager;
use crate::error::{Error, Result, Step};
use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::{At, Errno, Kind, Layer, Rename, SetTime, SetXattr, Stat, Time, UpperLayer};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;

/// What a directory's owner needs to change names in it.
const OWNER_ALL: u32 = 0o700;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// So many changes were applied.
    Applied(usize),
    /// So many changes were undone.
    Undone(usize),
    /// There was nothing to do.
    Nothing,
}

/// How much is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Everything that was applied.
    All,
    /// What was applied last.
    Last,
}

/// The directories of the overlays, opened when first needed.
type Places = BTreeMap<usize, Place>;

impl OpenTry<'_> {
    /// Applies changes to the live tree. Interrupted at any point, [`OpenTry::resume`] goes on and [`OpenTry::undo`] goes
    /// back.
    ///
    /// # Errors
    /// [`Error::TryConflict`], and nothing has been changed; [`Error::TryBusy`] if something was interrupted before;
    /// [`Error::Path`].
    pub fn apply(&mut self, selected: &BTreeSet<usize>) -> Result<Done> {
        let journals = journal::all(&self.dir)?;
        if journals.iter().any(|journal| !journal.is_done()) {
            return Err(self.interrupted());
        }
        if selected.is_empty() {
            return Ok(Done::Nothing);
        }
        self.check(selected)?;
        let number = journals.last().map_or(1, |last| last.number + 1);
        let mut journal = self.plan(selected, number)?;
        journal.enter(&self.dir, Phase::Staging)?;
        self.go_on(&mut journal)
    }

    /// Fails if there are conflicts.
    fn check(&self, selected: &BTreeSet<usize>) -> Result<()> {
        let conflicts = self.conflicts(selected)?;
        if conflicts.is_empty() {
            return Ok(());
        }
        let conflicts = conflicts
            .into_iter()
            .filter_map(|(index, why)| {
                let path = self.items.get(index)?.full(&self.tried);
                Some(super::Conflict { path, why })
            })
            .collect();
        Err(Error::TryConflict { name: self.tried.name.clone(), conflicts })
    }

    /// Does what a journal says, from whatever phase it is in.
    fn go_on(&mut self, journal: &mut Journal) -> Result<Done> {
        let mut places = Places::new();
        if journal.phase == Phase::Staging {
            let selected = journal.items.iter().copied().collect();
            // Again, because making everything ready may have taken long.
            let ready = self.stage(journal, &mut places).and_then(|()| self.check(&selected));
            if let Err(error) = ready {
                journal.enter(&self.dir, Phase::Undone)?;
                self.clear(journal)?;
                return Err(error);
            }
            journal.enter(&self.dir, Phase::Applying)?;
        }
        match journal.phase {
            Phase::Staging | Phase::Applied => Ok(Done::Nothing),
            Phase::Applying => {
                self.forward(journal, &mut places)?;
                journal.enter(&self.dir, Phase::Applied)?;
                Ok(Done::Applied(journal.items.len()))
            }
            Phase::Undoing => {
                self.back(journal, &mut places)?;
                journal.enter(&self.dir, Phase::Undone)?;
                self.clear(journal)
            }
            Phase::Undone => self.clear(journal),
        }
    }

    fn clear(&self, journal: &Journal) -> Result<Done> {
        journal.remove_kept()?;
        journal.remove(&self.dir)?;
        Ok(Done::Undone(journal.items.len()))
    }

    /// Goes on with what was interrupted.
    ///
    /// # Errors
    /// As [`OpenTry::apply`].
    pub fn resume(&mut self) -> Result<Done> {
        let interrupted = journal::all(&self.dir)?.into_iter().rev().find(|journal| !journal.is_done());
        match interrupted {
            Some(mut journal) => self.go_on(&mut journal),
            None => Ok(Done::Nothing),
        }
    }

    /// Takes back what was applied, the last first; also what was applied in part only.
    ///
    /// # Errors
    /// [`Error::TryConflict`] if something has been changed since it was applied; then what was applied after it has been
    /// undone. [`Error::Path`].
    pub fn undo(&mut self, what: Undo) -> Result<Done> {
        let mut count = 0;
        let journals = journal::all(&self.dir)?.into_iter().rev();
        for mut journal in journals.take(if what == Undo::Last { 1 } else { usize::MAX }) {
            match journal.phase {
                Phase::Staging => journal.enter(&self.dir, Phase::Undone)?,
                Phase::Applying => journal.enter(&self.dir, Phase::Undoing)?,
                Phase::Applied => {
                    let conflicts = self.changed_since(&journal)?;
                    if !conflicts.is_empty() {
                        return Err(Error::TryConflict { name: self.tried.name.clone(), conflicts });
                    }
                    journal.enter(&self.dir, Phase::Undoing)?;
                }
                Phase::Undoing | Phase::Undone => {}
            }
            self.go_on(&mut journal)?;
            count += journal.items.len();
        }
        Ok(if count == 0 { Done::Nothing } else { Done::Undone(count) })
    }

    /// Makes all new objects ready in their slots.
    fn stage(&self, journal: &mut Journal, places: &mut Places) -> Result<()> {
        journal.remove_kept()?;
        for side in &journal.sides {
            let made =
                journal::keeping_times(side.path(), || DirBuilder::new().mode(0o700).create(side.path()));
            made.step("make", side.path())?;
        }
        let wanted: HashSet<(usize, &[u8])> = journal
            .items
            .iter()
            .filter_map(|index| self.items.get(*index))
            .map(|item| (item.cover, &*item.path.0))
            .collect();
        for cover in 0..self.tried.covers.len() {
            if !journal.swaps.iter().any(|swap| swap.cover == cover) {
                continue;
            }
            let place = self.place(places, cover)?;
            let mut stager = Stager::new(&self.upper(cover), self.store.options().dialect, place)?;
            self.know_links(cover, place, &journal.items, &mut stager)?;
            for (number, swap) in journal.swaps.iter_mut().enumerate().filter(|(_, swap)| swap.cover == cover)
            {
                if !swap.brings {
                    continue;
                }
                let path = self.full(swap);
                let Some(side) = journal.sides.get(swap.side) else { continue };
                let side = place.absolute(side.path()).step("open", side.path())?;
                let wants = |path: &[u8]| wanted.contains(&(cover, path));
                let made = stager.bring(&swap.path.0, &side, number.to_string().as_bytes(), &wants);
                let made = made.step("make ready", path)?;
                swap.new = Some(made.ino);
                swap.new_time = (made.kind == Kind::Dir).then_some((made.mtime.sec, made.mtime.nsec));
            }
            place.layer.sync_fs().step("sync", self.point(cover))?;
        }
        Ok(())
    }

    /// New names of a file that has not been changed, or that has been applied, become names of the file in the live
    /// tree.
    fn know_links(
        &self,
        cover: usize,
        place: &Place,
        coming: &[usize],
        stager: &mut Stager<'_>,
    ) -> Result<()> {
        let coming: BTreeSet<usize> = coming.iter().copied().collect();
        let applied: BTreeSet<usize> = self.applied()?.difference(&coming).copied().collect();
        let to_come = self.items.iter().enumerate().filter(|(index, _)| !applied.contains(index));
        let to_come: HashSet<&[u8]> =
            to_come.filter(|(_, item)| item.cover == cover).map(|(_, item)| &*item.path.0).collect();
        let linked = stager.linked().step("look through", self.upper(cover))?;
        for (ino, (written, names)) in linked {
            for name in names.iter().filter(|name| !to_come.contains(&name[..])) {
                let Ok((dir, last)) = place.parent(name) else { continue };
                let Ok(stat) = place.layer.stat(At::Name(&dir, last)) else { continue };
                let what = |stat: &Stat| (stat.kind, stat.size, stat.mtime, stat.mode, stat.uid, stat.gid);
                if what(&stat) == what(&written) {
                    stager.know(stat.dev, ino, dir, last);
                }
            }
        }
        Ok(())
    }

    /// The directory of an overlay in the live tree.
    pub(super) fn place<'p>(&self, places: &'p mut Places, cover: usize) -> Result<&'p Place> {
        match places.entry(cover) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                Ok(entry.insert(Place::open(&self.point(cover))?))
            }
        }
    }

    fn point(&self, cover: usize) -> std::path::PathBuf {
        self.tried.covers.get(cover).map_or_else(|| "/".into(), |cover| cover.point.path().to_owned())
    }

    fn full(&self, swap: &Swap) -> std::path::PathBuf {
        self.point(swap.cover).join(swap.path.path())
    }

    /// Brings the live tree to the new state.
    fn forward(&self, journal: &mut Journal, places: &mut Places) -> Result<()> {
        self.open_up(journal, places)?;
        for number in 0..journal.swaps.len() {
            self.exchange(journal, number, Way::Forward, places)?;
        }
        self.set_stays(journal, Way::Forward, places)?;
        self.sync(journal, places)?;
        for swap in &mut journal.swaps {
            let place = self.place(places, swap.cover)?;
            let now = place.with(&swap.path.0, |at| seal(&place.layer, at, Reach::Applied));
            let point = self.tried.covers.get(swap.cover).map(|cover| cover.point.path().to_owned());
            let path = point.unwrap_or_default().join(swap.path.path());
            swap.applied = now.step("look at", path)?.map(|sealed| sealed.seal);
        }
        Ok(())
    }

    /// Brings the live tree back to the old state.
    fn back(&mut self, journal: &mut Journal, places: &mut Places) -> Result<()> {
        self.open_up(journal, places)?;
        for number in (0..journal.swaps.len()).rev() {
            self.exchange(journal, number, Way::Back, places)?;
        }
        self.set_stays(journal, Way::Back, places)?;
        self.sync(journal, places)?;
        // The originals are back, but have been renamed, which counts as a change.
        let mut now_there = BTreeMap::new();
        for swap in journal.swaps.iter().filter(|swap| swap.old.is_some()) {
            let place = self.place(places, swap.cover)?;
            let now = place.with(&swap.path.0, |at| seal(&place.layer, at, Reach::Whole));
            let now = now.step("look at", self.full(swap))?.map(|sealed| sealed.seal);
            now_there.insert((swap.cover, swap.path.clone()), now);
        }
        for item in &mut self.items {
            if let Some(now) = now_there.remove(&(item.cover, item.path.clone())) {
                item.original = now;
            }
        }
        self.save_items()
    }

    fn sync(&self, journal: &Journal, places: &mut Places) -> Result<()> {
        let covers: BTreeSet<usize> = journal
            .swaps
            .iter()
            .map(|swap| swap.cover)
            .chain(journal.stays.iter().map(|stays| stays.cover))
            .collect();
        for cover in covers {
            self.place(places, cover)?.layer.sync_fs().step("sync", self.point(cover))?;
        }
        Ok(())
    }

    /// Lets us change names in directories of ours whose mode forbids it, for as long as it takes.
    fn open_up(&self, journal: &Journal, places: &mut Places) -> Result<()> {
        // Those above first.
        for stays in journal.stays.iter().rev() {
            let place = self.place(places, stays.cover)?;
            let opened = place.with(&stays.path.0, |at| {
                let mode = place.layer.stat(at)?.mode;
                if mode & OWNER_ALL == OWNER_ALL {
                    Ok(())
                } else {
                    place.layer.set_mode(at, mode | OWNER_ALL)
                }
            });
            opened.step("change the mode of", self.point(stays.cover).join(stays.path.path()))?;
        }
        Ok(())
    }

    fn set_stays(&self, journal: &Journal, way: Way, places: &mut Places) -> Result<()> {
        for stays in &journal.stays {
            let place = self.place(places, stays.cover)?;
            let wanted = if way == Way::Forward { &stays.after } else { &stays.before };
            let set = place.with(&stays.path.0, |at| set_attributes(&place.layer, at, wanted));
            set.step("set the attributes of", self.point(stays.cover).join(stays.path.path()))?;
        }
        Ok(())
    }

    /// Does one exchange, or what is left of it.
    fn exchange(&self, journal: &Journal, number: usize, way: Way, places: &mut Places) -> Result<()> {
        let Some(swap) = journal.swaps.get(number) else { return Ok(()) };
        let Some(side) = journal.sides.get(swap.side) else { return Ok(()) };
        let place = self.place(places, swap.cover)?;
        let slots = place.absolute(side.path()).step("open", side.path())?;
        let step = if way == Way::Forward { "apply" } else { "undo" };
        let path = self.full(swap);
        let (dir, name) = place.parent(&swap.path.0).step(step, &path)?;
        let (comes, goes) = if way == Way::Forward { (swap.new, swap.old) } else { (swap.old, swap.new) };
        let exchange = Exchange {
            layer: &place.layer,
            live: (&dir, name),
            slot: (&slots, number.to_string()),
            comes,
            goes,
        };
        exchange.run().step(step, &path)?;
        let time = if way == Way::Forward { swap.new_time } else { swap.old_time };
        let Some((sec, nsec)) = time else { return Ok(()) };
        let time = SetTime::To(Time { sec, nsec });
        match place.layer.set_times(At::Name(&dir, name), SetTime::Keep, time) {
            // Not ours: then it is as the filesystem has left it.
            Err(Errno::PERM) => Ok(()),
            other => other.step(step, path),
        }
    }
}

/// Which state is brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
}

/// An exchange of what is at a name of the live tree and what is in a slot.
struct Exchange<'a> {
    layer: &'a DirLayer,
    live: (&'a Dir, &'a [u8]),
    slot: (&'a Dir, String),
    /// The inode that comes to the live tree, and the one that leaves it.
    comes: Option<u64>,
    goes: Option<u64>,
}

impl Exchange<'_> {
    /// Each turn of the loop is one rename, after which the state is one that the next turn, or the next run, knows.
    ///
    /// # Errors
    /// `EBUSY` if neither the one nor the other is where it should be: somebody else has been there.
    fn run(&self) -> acetate_layer::Result<()> {
        let slot = (self.slot.0, self.slot.1.as_bytes());
        let spare = format!("{}.old", self.slot.1);
        let spare = (self.slot.0, spare.as_bytes());
        loop {
            let (live, kept, aside) = (self.ino(self.live)?, self.ino(slot)?, self.ino(spare)?);
            let replaces = self.comes.is_some() && self.goes.is_some();
            if live == self.comes && kept == self.goes {
                return Ok(());
            }
            let (from, to, how) = if live == self.goes && kept == self.comes && aside.is_none() {
                match (self.comes, self.goes) {
                    (Some(_), Some(_)) => (slot, self.live, Rename::Exchange),
                    (Some(_), None) => (slot, self.live, Rename::NoReplace),
                    _ => (self.live, slot, Rename::NoReplace),
                }
            } else if replaces && live.is_none() && kept == self.comes && aside == self.goes {
                (slot, self.live, Rename::NoReplace)
            } else if replaces && live == self.comes && kept.is_none() && aside == self.goes {
                (spare, slot, Rename::NoReplace)
            } else {
                return Err(Errno::BUSY);
            };
            match self.layer.rename(from, to, how) {
                // No such exchange on this filesystem (NFS): by way of a third name.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if how == Rename::Exchange => {
                    self.layer.rename(self.live, spare, Rename::Replace)?;
                }
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if how == Rename::NoReplace => {
                    self.layer.rename(from, to, Rename::Replace)?;
                }
                other => other?,
            }
        }
    }

    fn ino(&self, (dir, name): (&Dir, &[u8])) -> acetate_layer::Result<Option<u64>> {
        match self.layer.stat(At::Name(dir, name)) {
            Err(Errno::NOENT) => Ok(None),
            other => Ok(Some(other?.ino)),
        }
    }
}

/// Gives a directory attributes. What it has already is not set, for who may not set it.
fn set_attributes(layer: &DirLayer, at: At<'_, DirLayer>, wanted: &Attributes) -> acetate_layer::Result<()> {
    let now = layer.stat(at)?;
    if (now.uid, now.gid) != wanted.owner {
        layer.set_owner(at, Some(wanted.owner.0), Some(wanted.owner.1))?;
    }
    let names = match layer.list_xattrs(at) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        other => other?,
    };
    for name in names {
        if !wanted.xattrs.keys().any(|wanted| wanted.0 == name) {
            layer.remove_xattr(at, &name)?;
        }
    }
    for (name, value) in &wanted.xattrs {
        if layer.get_xattr(at, &name.0)?.as_ref() != Some(&value.0) {
            layer.set_xattr(at, &name.0, &value.0, SetXattr::Any)?;
        }
    }
    if layer.stat(at)?.mode != wanted.mode {
        layer.set_mode(at, wanted.mode)?;
    }
    let mtime = Time { sec: wanted.mtime.0, nsec: wanted.mtime.1 };
    layer.set_times(at, SetTime::Keep, SetTime::To(mtime))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// Every state that an exchange by way of a third name passes through ends in the same one.
    #[test]
    fn an_exchange_is_finished_from_any_state() {
        let root = std::env::temp_dir().join(format!("acetate-exchange-{}", std::process::id()));
        // What is at the path, in the slot and under the third name: `o` the old object, `n` the new one.
        let states = [["o", "n", ""], ["", "n", "o"], ["n", "", "o"], ["n", "o", ""]];
        for (state, back) in states.iter().flat_map(|state| [(state, false), (state, true)]) {
            std::fs::create_dir(&root).unwrap();
            let layer = DirLayer::open_upper(&root).unwrap();
            for object in ["o", "n"] {
                std::fs::write(root.join(object), object).unwrap();
            }
            let ino = |name: &str| Some(std::fs::metadata(root.join(name)).unwrap().ino());
            let (old, new) = (ino("o"), ino("n"));
            // Going back, the old object is the one that comes.
            let (comes, goes) = if back { (old, new) } else { (new, old) };
            for (object, place) in state.iter().zip(["live", "0", "0.old"]) {
                let object = match (*object, back) {
                    ("o", true) => "n",
                    ("n", true) => "o",
                    (object, _) => object,
                };
                if !object.is_empty() {
                    std::fs::rename(root.join(object), root.join(place)).unwrap();
                }
            }
            let dir = layer.root().clone();
            let exchange =
                Exchange { layer: &layer, live: (&dir, b"live"), slot: (&dir, "0".into()), comes, goes };
            exchange.run().unwrap();
            assert_eq!(
                (ino("live"), ino("0"), root.join("0.old").exists()),
                (comes, goes, false),
                "{state:?}"
            );
            // Once more changes nothing, and a stranger in between is not touched.
            exchange.run().unwrap();
            std::fs::rename(root.join("live"), root.join("taken")).unwrap();
            std::fs::write(root.join("live"), "stranger").unwrap();
            assert_eq!(exchange.run(), Err(Errno::BUSY));
            assert_eq!(std::fs::read(root.join("live")).unwrap(), b"stranger");
            std::fs::remove_dir_all(&root).unwrap();
        }
    }
}
