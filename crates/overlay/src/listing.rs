//! Listings: the entries of a directory over all its layers, read once.
//!
//! A merged listing shows each name once, as the topmost layer has it, in the kernel's order: the lowest directory's
//! names first, then those of upper, then those in between (fs/overlayfs/readdir.c). The position of an entry is its
//! offset; names keep theirs as long as the directory is known, so offsets have gaps.

use crate::error::{Result, Step};
use crate::node::{Node, State};
use crate::{OpError, Overlay};
use acetate_layer::mark::{self, Mark};
use acetate_layer::work::WhiteoutForm;
use acetate_layer::{At, Kind, RawEntry, UpperLayer};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An entry as a layer has it.
#[derive(Debug)]
pub(crate) struct ListEntry {
    pub name: Box<[u8]>,
    /// The inode number in the overlay, as far as the layer alone can tell.
    pub ino: u64,
    pub kind: Kind,
    /// The layer that it is from; `None` is upper.
    pub lower: Option<usize>,
    /// A whiteout: keeps its position and is not shown.
    pub hidden: bool,
    /// Where it stands in this and all later listings of the directory.
    pub position: u64,
}

/// The entries of a directory, without `.` and `..`.
#[derive(Debug)]
pub(crate) struct Listing {
    pub entries: Vec<ListEntry>,
    /// Entries of upper may have another number than their own: objects with an origin are among them.
    pub impure: bool,
    /// Several parts are merged, or were once.
    pub merged: bool,
    /// How many changes the directory had seen before it was read.
    pub as_of: u64,
    /// The first position that no entry of this or an earlier listing has had.
    pub end: u64,
    /// Positions below this one are of a listing that an earlier server has read, and that cannot be gone on with.
    pub base: u64,
}

/// How whiteouts are treated in the part of a directory that one layer has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whiteouts {
    /// A plain listing: they are shown.
    Shown,
    /// Devices are hidden.
    Devices,
    /// Devices and empty files with the mark are hidden.
    All,
}

impl<L: UpperLayer> Overlay<L> {
    /// The current listing of a directory: the remembered one, or a new one.
    pub(crate) fn listing(&self, node: &Node<L>) -> Result<Arc<Listing>> {
        let part = node.as_dir()?;
        // Listings are read one after the other, so that each knows the positions of the one before.
        let _reading = part.reading.lock();
        let (changes, previous) = {
            let remembered = part.listing.lock();
            match &remembered.last {
                Some(listing) if listing.as_of == remembered.changes => {
                    self.known_listings.hit();
                    return Ok(listing.clone());
                }
                last => (remembered.changes, last.clone()),
            }
        };
        self.known_listings.miss();
        let listing = {
            let state = node.state.read();
            Arc::new(self.read_listing(node, &state, changes, previous.as_deref())?)
        };
        if let Some(record) = node.record.get() {
            record.set_listing(listing.end, digest(&listing.entries));
        }
        part.listing.lock().last = Some(listing.clone());
        Ok(listing)
    }

    fn read_listing(
        &self,
        node: &Node<L>,
        state: &State<L>,
        as_of: u64,
        previous: Option<&Listing>,
    ) -> Result<Listing> {
        let merged = self.lists_merged(node, state)?;
        let impure = self.is_impure(node, state)?;
        let mut parts: Vec<Vec<ListEntry>> = Vec::with_capacity(state.parts());
        if let Some(dir) = state.upper.as_ref().and_then(|real| real.dir()) {
            let own_xattr_form = self.config.whiteouts == WhiteoutForm::Xattr;
            let whiteouts = match (merged, own_xattr_form) {
                (false, false) => Whiteouts::Shown,
                (_, true) => Whiteouts::All,
                (true, false) => Whiteouts::Devices,
            };
            parts.push(self.read_part(self.upper_layer()?, dir, None, whiteouts)?);
        }
        let last = state.lowers.len().saturating_sub(1);
        for (position, lower) in state.lowers.iter().enumerate() {
            let Some(dir) = lower.real.dir() else {
                continue;
            };
            let whiteouts = if !merged && !self.lowers[lower.layer].hides_whiteouts() {
                Whiteouts::Shown
            } else if lower.xattr_whiteouts && position != last {
                Whiteouts::All
            } else {
                Whiteouts::Devices
            };
            parts.push(self.read_part(&self.lowers[lower.layer], dir, Some(lower.layer), whiteouts)?);
        }
        let mut entries = merge(parts);
        let mut end = place(&mut entries, previous);
        let mut base = previous.map_or(0, |listing| listing.base);
        // Readers may go on in a listing that an earlier server has read.
        if previous.is_none()
            && let Some((old_end, old)) = node.record.get().map(|record| record.listing())
            && old != 0
            && old != digest(&entries)
        {
            base = old_end + 1;
            entries.iter_mut().for_each(|entry| entry.position += base);
            end += base;
        }
        Ok(Listing { entries, impure, merged, as_of, end, base })
    }

    /// Reads the part of a directory that one layer has.
    fn read_part(
        &self,
        layer: &L,
        dir: &L::Dir,
        lower: Option<usize>,
        whiteouts: Whiteouts,
    ) -> Result<Vec<ListEntry>> {
        let mut entries = Vec::new();
        // Entries that only their attributes tell apart from whiteouts, or that have no type.
        let mut unclear = Vec::new();
        layer
            .list(dir, &mut |entry: RawEntry<'_>| {
                let kind = entry.kind.unwrap_or(Kind::File);
                let maybe = match kind {
                    Kind::CharDevice => whiteouts != Whiteouts::Shown,
                    Kind::File => whiteouts == Whiteouts::All,
                    _ => false,
                };
                if maybe || entry.kind.is_none() {
                    unclear.push(entries.len());
                }
                let ino = match lower {
                    Some(number) => self.inodes.lower(number, entry.ino),
                    None => self.inodes.upper(entry.ino),
                };
                entries.push(ListEntry {
                    name: entry.name.into(),
                    ino,
                    kind,
                    lower,
                    hidden: false,
                    position: 0,
                });
            })
            .step("list a directory of a layer")?;
        for index in unclear {
            let entry = &mut entries[index];
            let at = At::Name(dir, &entry.name);
            let stat = match layer.stat(at) {
                Ok(stat) => stat,
                // Gone in between: nobody can have it.
                Err(acetate_layer::Errno::NOENT) => {
                    entry.hidden = true;
                    continue;
                }
                Err(errno) => return Err(OpError::Layer { step: "stat a listed entry", errno }),
            };
            entry.kind = stat.kind;
            entry.hidden = match whiteouts {
                Whiteouts::Shown => false,
                Whiteouts::Devices => mark::is_device_whiteout(&stat),
                Whiteouts::All => self.is_whiteout(layer, at, &stat)?,
            };
        }
        Ok(entries)
    }

    /// Whether a directory is listed as a merged one: it has several parts, or upper says that it once had.
    fn lists_merged(&self, node: &Node<L>, state: &State<L>) -> Result<bool> {
        if state.parts() > 1 || node.id == crate::NodeId::ROOT {
            return Ok(true);
        }
        match &state.upper {
            Some(real) => {
                let origin = self.mark(self.upper_layer()?, real.at(), Mark::Origin);
                Ok(origin.step("read the origin mark")?.is_some())
            }
            None => Ok(false),
        }
    }

    /// Whether upper entries of the directory may have a number other than their own.
    fn is_impure(&self, node: &Node<L>, state: &State<L>) -> Result<bool> {
        let part = node.as_dir()?;
        let Some(real) = &state.upper else {
            return Ok(false);
        };
        if part.impure.load(Ordering::Acquire) {
            return Ok(true);
        }
        let mark = self.mark(self.upper_layer()?, real.at(), Mark::Impure);
        let impure = mark.step("read the impure mark")?.is_some_and(|value| value == b"y");
        if impure {
            part.impure.store(true, Ordering::Release);
        }
        Ok(impure)
    }

    /// Fails unless the directory shows no entries. Returns whether its upper part holds whiteouts. A plain upper
    /// directory is not looked at: removing it fails if it holds anything, stray whiteouts included. `covered`: a
    /// lower layer provides the name, so that a whiteout is going to take its place anyway.
    ///
    /// # Errors
    /// [`OpError::NotEmpty`].
    pub(crate) fn check_empty(&self, node: &Node<L>, covered: bool) -> Result<bool> {
        let state = node.state.read();
        if !covered && state.lowers.is_empty() && !self.lists_merged(node, &state)? {
            return Ok(false);
        }
        let mut holds_whiteouts = false;
        let upper = state.upper.as_ref().and_then(|real| real.dir());
        let mut parts = Vec::new();
        if let Some(dir) = upper {
            let whiteouts = match self.config.whiteouts {
                WhiteoutForm::Xattr => Whiteouts::All,
                WhiteoutForm::Device => Whiteouts::Devices,
            };
            parts.push(self.read_part(self.upper_layer()?, dir, None, whiteouts)?);
        }
        for lower in &state.lowers {
            let Some(dir) = lower.real.dir() else {
                continue;
            };
            let whiteouts = if lower.xattr_whiteouts { Whiteouts::All } else { Whiteouts::Devices };
            parts.push(self.read_part(&self.lowers[lower.layer], dir, Some(lower.layer), whiteouts)?);
        }
        if upper.is_some() {
            holds_whiteouts = parts.first().is_some_and(|part| part.iter().any(|entry| entry.hidden));
        }
        if merge(parts).iter().any(|entry| !entry.hidden) {
            return Err(OpError::NotEmpty);
        }
        Ok(holds_whiteouts)
    }
}

/// A digest of names and their positions (FNV-1a); never zero.
fn digest(entries: &[ListEntry]) -> u64 {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for entry in entries {
        add(&entry.name);
        add(&[0]);
        add(&entry.position.to_le_bytes());
    }
    digest | 1
}

/// Gives the entries their positions and returns the first free one. Names that an earlier listing had keep theirs, and
/// new ones come after all that there ever were: a reader who goes on in a later listing misses no name that was there
/// all the time, and meets none twice.
fn place(entries: &mut [ListEntry], previous: Option<&Listing>) -> u64 {
    let mut end = previous.map_or(0, |listing| listing.end);
    let known: HashMap<&[u8], u64> = previous
        .map(|listing| listing.entries.iter().map(|entry| (&*entry.name, entry.position)).collect())
        .unwrap_or_default();
    for entry in &mut *entries {
        entry.position = known.get(&*entry.name).copied().unwrap_or_else(|| {
            end += 1;
            end - 1
        });
    }
    if previous.is_some() {
        entries.sort_unstable_by_key(|entry| entry.position);
    }
    end
}

/// Merges parts given top to bottom.
fn merge(mut parts: Vec<Vec<ListEntry>>) -> Vec<ListEntry> {
    if parts.len() < 2 {
        return parts.pop().unwrap_or_default();
    }
    // For each name the part that has it topmost.
    let mut topmost: HashMap<Box<[u8]>, usize> = HashMap::new();
    for (number, part) in parts.iter().enumerate() {
        for entry in part {
            topmost.entry(entry.name.clone()).or_insert(number);
        }
    }
    let bottom = parts.len() - 1;
    let order: Vec<Box<[u8]>> = parts[bottom].iter().map(|entry| entry.name.clone()).collect();
    let mut merged = Vec::with_capacity(topmost.len());
    // Names of the lowest directory come first, but as their topmost layer has them.
    let mut shadowing: HashMap<Box<[u8]>, ListEntry> = HashMap::new();
    let lowest: std::collections::HashSet<&[u8]> = order.iter().map(|name| &**name).collect();
    let mut rest = Vec::new();
    let mut own: HashMap<Box<[u8]>, ListEntry> = HashMap::new();
    for (number, part) in parts.into_iter().enumerate() {
        for entry in part {
            if topmost.get(&entry.name) != Some(&number) {
                continue;
            }
            if number == bottom {
                own.insert(entry.name.clone(), entry);
            } else if lowest.contains(&*entry.name) {
                shadowing.insert(entry.name.clone(), entry);
            } else {
                rest.push(entry);
            }
        }
    }
    for name in &order {
        if let Some(entry) = shadowing.remove(name).or_else(|| own.remove(name)) {
            merged.push(entry);
        }
    }
    merged.append(&mut rest);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(lower: Option<usize>, names: &[&str]) -> Vec<ListEntry> {
        let entry = |name: &&str| ListEntry {
            name: name.as_bytes().into(),
            ino: 0,
            kind: Kind::File,
            lower,
            hidden: false,
            position: 0,
        };
        names.iter().map(entry).collect()
    }

    #[test]
    fn the_lowest_names_come_first_and_the_topmost_object_wins() {
        let merged =
            merge(vec![part(None, &["b", "c"]), part(Some(0), &["d", "c"]), part(Some(1), &["a", "b"])]);
        let shown: Vec<(&[u8], Option<usize>)> =
            merged.iter().map(|entry| (&*entry.name, entry.lower)).collect();
        let expected: [(&[u8], Option<usize>); 4] =
            [(b"a", Some(1)), (b"b", None), (b"c", None), (b"d", Some(0))];
        assert_eq!(shown, expected);
    }

    #[test]
    fn names_keep_their_positions() {
        let listing = |names: &[&str], previous: Option<&Listing>| {
            let mut entries = part(None, names);
            let end = place(&mut entries, previous);
            Listing { entries, impure: false, merged: false, as_of: 0, end, base: 0 }
        };
        let shown = |listing: &Listing| -> Vec<(String, u64)> {
            let name = |entry: &ListEntry| String::from_utf8_lossy(&entry.name).into_owned();
            listing.entries.iter().map(|entry| (name(entry), entry.position)).collect()
        };
        let owned = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
            pairs.iter().map(|(name, position)| ((*name).to_owned(), *position)).collect()
        };
        let first = listing(&["a", "b", "c"], None);
        assert_eq!(shown(&first), owned(&[("a", 0), ("b", 1), ("c", 2)]));
        let second = listing(&["n", "c", "b"], Some(&first));
        assert_eq!(shown(&second), owned(&[("b", 1), ("c", 2), ("n", 3)]));
        // A position that was given up is not given again.
        let third = listing(&["m", "b"], Some(&second));
        assert_eq!(shown(&third), owned(&[("b", 1), ("m", 4)]));
    }
}
