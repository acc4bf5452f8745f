//! From changes that were chosen to operations on the live tree.

use super::conflict::above;
use super::journal::{Attributes, Journal, Stays, Swap};
use super::place::{Place, split};
use super::{Bytes, Item, OpenTry, What};
use crate::driver::tree::attributes::Extras;
use crate::error::{Error, Result, Step};
use crate::record;
use acetate_layer::dir::DirLayer;
use acetate_layer::mark::Dialect;
use acetate_layer::{At, Kind, Layer, Stat};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Directories of slots by the directory that they are in.
type Sides = BTreeMap<PathBuf, usize>;

impl OpenTry<'_> {
    /// The changes at or below these absolute paths that have not been applied, with the new directories that they are in;
    /// all of them if no path is given.
    ///
    /// # Errors
    /// [`Error::NotChanged`] for a path at or below which nothing is changed.
    pub fn select(&self, paths: &[PathBuf]) -> Result<BTreeSet<usize>> {
        let applied = self.applied()?;
        let mut selected = BTreeSet::new();
        for path in paths {
            let count = selected.len();
            let below = |item: &Item| item.full(&self.tried).starts_with(path);
            let mut known = false;
            for (index, _) in self.items.iter().enumerate().filter(|(_, item)| below(item)) {
                known = true;
                selected.insert(index);
            }
            if !known && selected.len() == count {
                return Err(self.not_changed(path));
            }
        }
        if paths.is_empty() {
            selected.extend(0..self.items.len());
        }
        let dirs = self.items.iter().enumerate().filter(|(_, item)| item.is_new_dir());
        let dirs: BTreeMap<(usize, &[u8]), usize> =
            dirs.map(|(index, item)| ((item.cover, &*item.path.0), index)).collect();
        let chosen: Vec<&Item> = selected.iter().filter_map(|index| self.items.get(*index)).collect();
        for item in chosen {
            selected.extend(above(&item.path.0).filter_map(|dir| dirs.get(&(item.cover, dir))));
        }
        Ok(selected.difference(&applied).copied().collect())
    }

    fn not_changed(&self, path: &Path) -> Error {
        let whole = self.items.iter().find(|item| {
            let gone = matches!(item.what, What::Deleted | What::Changed { kind: true, .. });
            gone && path.starts_with(item.full(&self.tried))
        });
        Error::NotChanged { path: path.to_owned(), whole: whole.map(|item| item.full(&self.tried)) }
    }

    /// What has to be done to apply the selected changes.
    pub(super) fn plan(&self, selected: &BTreeSet<usize>, number: u64) -> Result<Journal> {
        let mut journal = Journal::new(number, selected.iter().copied().collect());
        let mut sides = Sides::new();
        for cover in 0..self.tried.covers.len() {
            let items: Vec<&Item> = selected
                .iter()
                .filter_map(|index| self.items.get(*index))
                .filter(|item| item.cover == cover)
                .collect();
            if !items.is_empty() {
                self.plan_cover(cover, &items, &mut sides, &mut journal)?;
            }
        }
        journal.sides = vec![Bytes::default(); sides.len()];
        for (dir, index) in sides {
            let name = match dir == self.dir {
                true => format!("kept-{number}"),
                false => format!(".acetate-try-{}-{}", self.tried.name, record::random_name()?),
            };
            if let Some(side) = journal.sides.get_mut(index) {
                *side = dir.join(name).as_os_str().into();
            }
        }
        Ok(journal)
    }

    fn plan_cover(
        &self,
        cover: usize,
        items: &[&Item],
        sides: &mut Sides,
        journal: &mut Journal,
    ) -> Result<()> {
        let Some(record) = self.tried.covers.get(cover) else { return Ok(()) };
        let place = Place::open(record.point.path())?;
        let new_dirs: BTreeSet<&[u8]> =
            items.iter().filter(|item| item.is_new_dir()).map(|item| &*item.path.0).collect();
        // Directories that stay: `true` if their own attributes change.
        let mut stays: BTreeMap<&[u8], bool> = BTreeMap::new();
        for item in items {
            if item.is_dir_in_place() {
                stays.insert(&item.path.0, true);
            } else if !above(&item.path.0).any(|dir| new_dirs.contains(dir)) {
                let (parent, _) = split(&item.path.0);
                stays.entry(parent).or_insert(false);
                let full = item.full(&self.tried);
                let side = place.side(parent, &self.dir).step("keep the original of", &full)?;
                let next = sides.len();
                let side = *sides.entry(side).or_insert(next);
                let old = place.with(&item.path.0, |at| place.layer.stat(at));
                let old = if item.what == What::Added { None } else { Some(old.step("look at", full)?) };
                journal.swaps.push(Swap {
                    cover,
                    path: item.path.clone(),
                    side,
                    brings: item.what != What::Deleted,
                    new: None,
                    old: old.as_ref().map(|stat| stat.ino),
                    new_time: None,
                    old_time: old
                        .filter(|stat| stat.kind == Kind::Dir)
                        .map(|stat| (stat.mtime.sec, stat.mtime.nsec)),
                    applied: None,
                });
            }
        }
        self.plan_stays(cover, &place, stays, journal)
    }

    fn plan_stays(
        &self,
        cover: usize,
        place: &Place,
        dirs: BTreeMap<&[u8], bool>,
        journal: &mut Journal,
    ) -> Result<()> {
        let upper = self.upper(cover);
        let layer = DirLayer::open_lower(&upper).step("open", &upper)?;
        let user = rustix::process::geteuid();
        let mut dirs: Vec<(&[u8], bool)> = dirs.into_iter().collect();
        // What is below may need what is above to be as it was.
        dirs.sort_by_key(|(path, _)| std::cmp::Reverse(path.iter().filter(|byte| **byte == b'/').count()));
        for (path, own) in dirs {
            let named = Path::new(std::ffi::OsStr::from_bytes(path));
            let before = place
                .dir(path)
                .and_then(|dir| read(&place.layer, At::Dir(&dir), None))
                .step("look at", place_path(place, named))?;
            if !own && !user.is_root() && before.owner.0 != user.as_raw() {
                // Its times are not ours to set.
                continue;
            }
            let mut dir = layer.root().clone();
            for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
                dir = layer.open_dir(&dir, name).step("open", upper.join(named))?;
            }
            let written = read(&layer, At::Dir(&dir), Some(self.store.options().dialect))
                .step("look at", upper.join(named))?;
            let after = match own {
                true => written,
                false => Attributes { mtime: written.mtime, ..before.clone() },
            };
            journal.stays.push(Stays { cover, path: Bytes(path.to_vec()), before, after });
        }
        Ok(())
    }
}

fn place_path(place: &Place, path: &Path) -> PathBuf {
    place.point.join(path)
}

/// The attributes of a directory; `marks` says which of them are an overlay's own.
fn read(layer: &DirLayer, at: At<'_, DirLayer>, marks: Option<Dialect>) -> acetate_layer::Result<Attributes> {
    let stat: Stat = layer.stat(at)?;
    let extras = Extras::read(layer, at, &stat, marks)?;
    Ok(Attributes {
        mode: stat.mode,
        owner: (stat.uid, stat.gid),
        mtime: (stat.mtime.sec, stat.mtime.nsec),
        xattrs: extras.xattrs.into_iter().map(|(name, value)| (Bytes(name), Bytes(value))).collect(),
    })
}
