//! Changes that cannot be applied, or undone, because somebody else has changed the same.

use super::journal::Journal;
use super::place::Place;
use super::seal::{Reach, Seal, seal};
use super::{Item, OpenTry, What};
use crate::error::Result;
use acetate_layer::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A path that others have changed, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The absolute path.
    pub path: PathBuf,
    /// What has happened to it.
    pub why: &'static str,
}

impl OpenTry<'_> {
    /// Which of the items cannot be applied, as the live tree is now.
    ///
    /// # Errors
    /// If the directory of an overlay cannot be opened.
    pub fn conflicts(&self, selected: &BTreeSet<usize>) -> Result<BTreeMap<usize, &'static str>> {
        let mut conflicts = BTreeMap::new();
        for (cover, record) in self.tried.covers.iter().enumerate() {
            let of_it = |index: &&usize| self.items.get(**index).is_some_and(|item| item.cover == cover);
            let indices: Vec<usize> = selected.iter().filter(of_it).copied().collect();
            if indices.is_empty() {
                continue;
            }
            let Ok(place) = Place::open(record.point.path()) else {
                conflicts.extend(indices.into_iter().map(|index| (index, "the directory it is in is gone")));
                continue;
            };
            let new_dirs: BTreeSet<&[u8]> = indices
                .iter()
                .filter_map(|index| self.items.get(*index))
                .filter(|item| item.is_new_dir())
                .map(|item| &*item.path.0)
                .collect();
            for index in indices {
                let Some(item) = self.items.get(index) else { continue };
                // What is in a new directory comes with it.
                if !above(&item.path.0).any(|dir| new_dirs.contains(dir))
                    && let Some(why) = conflict(item, &place)
                {
                    conflicts.insert(index, why);
                }
            }
        }
        Ok(conflicts)
    }

    /// Which paths have changed since they were applied.
    pub(super) fn changed_since(&self, journal: &Journal) -> Result<Vec<Conflict>> {
        let mut conflicts = Vec::new();
        let mut places = BTreeMap::new();
        for swap in &journal.swaps {
            let Some(cover) = self.tried.covers.get(swap.cover) else { continue };
            let place = self.place(&mut places, swap.cover)?;
            let now = place.with(&swap.path.0, |at| seal(&place.layer, at, Reach::Applied));
            let why = match (now, &swap.applied) {
                (Ok(None), None) => continue,
                (Ok(Some(now)), Some(applied)) if now.seal == *applied => continue,
                (Ok(None), Some(_)) => "it has been removed since it was applied",
                (Ok(Some(_)), None) => "it has been made anew since it was deleted",
                (Ok(Some(_)), Some(_)) => "it has been changed since it was applied",
                (Err(errno), _) => unreachable(errno),
            };
            conflicts.push(Conflict { path: cover.point.path().join(swap.path.path()), why });
        }
        Ok(conflicts)
    }
}

fn conflict(item: &Item, place: &Place) -> Option<&'static str> {
    let reach = if item.is_dir_in_place() { Reach::Alone } else { Reach::Whole };
    let now = match place.with(&item.path.0, |at| seal(&place.layer, at, reach)) {
        Ok(now) => now.map(|sealed| sealed.seal),
        Err(errno) => return Some(unreachable(errno)),
    };
    judge(item, now.as_ref())
}

fn judge(item: &Item, now: Option<&Seal>) -> Option<&'static str> {
    match (now, &item.original) {
        _ if item.raced && item.what == What::Added => Some("somebody else made it while the command ran"),
        _ if item.raced => Some("somebody else changed it while the command ran"),
        (None, None) => None,
        (Some(now), Some(original)) if now == original => None,
        (Some(_), None) => Some("something has been made there since"),
        (None, Some(_)) => Some("it has been removed since"),
        (Some(_), Some(_)) => Some("it has been changed since"),
    }
}

fn unreachable(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT | Errno::NOTDIR => "the directory it is in is gone",
        Errno::XDEV => "something is mounted there now",
        _ => "it cannot be looked at",
    }
}

/// The directories above a path, the nearest first.
pub(super) fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}
