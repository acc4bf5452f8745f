//! Listings: the entries of a directory over all its layers, read once.
//!
//! A merged listing shows each name once, as the topmost layer has it, in the kernel's order: the lowest directory's
//! names first, then those of upper, then those in between (fs/overlayfs/readdir.c). The position of an entry is its
//! offset; names keep theirs as long as the directory is known, so offsets have gaps.

use crate::error::{Result, Step};
use crate::node::Node;
use crate::state::State;
use crate::{OpError, Overlay};
use acetate_layer::mark::{self, Mark};
use acetate_layer::work::WhiteoutForm;
use acetate_layer::{At, Errno, Kind, RawEntry, UpperLayer};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const STEP: &str = "list a directory of a layer";

/// An entry as a layer has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListEntry<'a> {
    pub name: &'a [u8],
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

/// Entries in little memory: their names lie one behind the other.
#[derive(Debug, Default)]
struct Entries {
    names: Vec<u8>,
    facts: Vec<Facts>,
}

/// What is known of an entry besides its name.
#[derive(Clone, Copy, Debug)]
struct Facts {
    ino: u64,
    /// Where its name ends.
    end: u32,
    /// [`UPPER`] or the number of a lower layer.
    layer: u16,
    kind: Kind,
    hidden: bool,
}

const UPPER: u16 = u16::MAX;

impl Entries {
    /// Adds an entry.
    ///
    /// # Errors
    /// `EOVERFLOW` for more than 4 GiB of names, or the entry of a layer below 65,000 others.
    fn push(&mut self, entry: &ListEntry<'_>) -> acetate_layer::Result<()> {
        let end = u32::try_from(self.names.len() + entry.name.len()).map_err(|_| Errno::OVERFLOW)?;
        let layer = match entry.lower {
            None => UPPER,
            Some(layer) => {
                u16::try_from(layer).ok().filter(|layer| *layer != UPPER).ok_or(Errno::OVERFLOW)?
            }
        };
        self.names.extend_from_slice(entry.name);
        let (ino, kind, hidden) = (entry.ino, entry.kind, entry.hidden);
        self.facts.push(Facts { ino, end, layer, kind, hidden });
        Ok(())
    }

    /// None yet, and room for as many as there are in `other`.
    fn with_room_of(other: &Entries) -> Entries {
        let names = Vec::with_capacity(other.names.len());
        Entries { names, facts: Vec::with_capacity(other.facts.len()) }
    }

    fn len(&self) -> usize {
        self.facts.len()
    }

    fn name(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.facts[before].end);
        &self.names[start as usize..self.facts[at].end as usize]
    }

    fn get(&self, at: usize) -> ListEntry<'_> {
        let Facts { ino, layer, kind, hidden, .. } = self.facts[at];
        let lower = (layer != UPPER).then_some(usize::from(layer));
        ListEntry { name: self.name(at), ino, kind, lower, hidden, position: at as u64 }
    }

    fn iter(&self) -> impl Iterator<Item = ListEntry<'_>> {
        self.from(0)
    }

    /// All from the one at `first` on. Listings are read again and again, so each name begins where the last one ended.
    fn from(&self, first: usize) -> impl Iterator<Item = ListEntry<'_>> {
        let first = first.min(self.len());
        let mut start = first.checked_sub(1).map_or(0, |before| self.facts[before].end);
        self.facts[first..].iter().zip(first as u64..).map(move |(facts, position)| {
            let Facts { ino, end, layer, kind, hidden } = *facts;
            let name = &self.names[start as usize..end as usize];
            start = end;
            let lower = (layer != UPPER).then_some(usize::from(layer));
            ListEntry { name, ino, kind, lower, hidden, position }
        })
    }
}

/// The entries of a directory, without `.` and `..`.
#[derive(Debug)]
pub(crate) struct Listing {
    entries: Entries,
    /// The positions of the entries, in ascending order, where they do not follow one upon the other.
    positions: Option<Box<[u64]>>,
    /// Entries of upper may have another number than their own: objects with an origin are among them.
    pub impure: bool,
    /// Several parts are merged, or were once.
    pub merged: bool,
    /// How many changes the directory had seen before it was read.
    pub as_of: u64,
    /// The first position that no entry of this or an earlier listing has had.
    pub end: u64,
    /// Positions below this one are of a listing that an earlier server has read, and that cannot be gone on with. The first
    /// entry has this position where they follow one upon the other.
    pub base: u64,
}

impl Listing {
    /// The entries from a position on.
    pub fn from(&self, position: u64) -> impl Iterator<Item = ListEntry<'_>> {
        let first = match &self.positions {
            Some(positions) => positions.partition_point(|known| *known < position),
            None => usize::try_from(position.saturating_sub(self.base)).unwrap_or(usize::MAX),
        };
        self.entries.from(first).map(|entry| {
            let at = entry.position;
            let position = self.positions.as_ref().map_or(self.base + at, |positions| positions[at as usize]);
            ListEntry { position, ..entry }
        })
    }

    /// Whether an entry may have another number than it is listed with.
    pub fn number_is_unknown(&self, entry: &ListEntry<'_>) -> bool {
        self.impure && entry.lower.is_none()
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = ListEntry<'_>> {
        self.from(0)
    }
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
        if let Some(record) = node.record() {
            record.set_listing(listing.end, digest(&listing));
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
        let mut parts: Vec<Entries> = Vec::with_capacity(state.parts());
        if let Some(dir) = state.upper_dir() {
            let own_xattr_form = self.config.whiteouts == WhiteoutForm::Xattr;
            let whiteouts = match (merged, own_xattr_form) {
                (false, false) => Whiteouts::Shown,
                (_, true) => Whiteouts::All,
                (true, false) => Whiteouts::Devices,
            };
            parts.push(self.read_part(self.upper_layer()?, dir, None, whiteouts)?);
        }
        let last = state.lowers().len().saturating_sub(1);
        for (position, lower) in state.lowers().enumerate() {
            let Some(dir) = lower.dir() else {
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
        let (entries, positions, end) = place(merge(parts).step(STEP)?, previous).step(STEP)?;
        let base = previous.map_or(0, |listing| listing.base);
        let mut listing = Listing { entries, positions, impure, merged, as_of, end, base };
        // Readers may go on in a listing that an earlier server has read.
        if previous.is_none()
            && let Some((old_end, old)) = node.record().map(|record| record.listing())
            && old != 0
            && old != digest(&listing)
        {
            listing.base = old_end + 1;
            listing.end += listing.base;
        }
        Ok(listing)
    }

    /// Reads the part of a directory that one layer has.
    fn read_part(
        &self,
        layer: &L,
        dir: &L::Dir,
        lower: Option<usize>,
        whiteouts: Whiteouts,
    ) -> Result<Entries> {
        let mut entries = Entries::default();
        let mut fits = Ok(());
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
                let entry = ListEntry { name: entry.name, ino, kind, lower, hidden: false, position: 0 };
                fits = fits.and_then(|()| entries.push(&entry));
            })
            .step(STEP)?;
        fits.step(STEP)?;
        for index in unclear {
            let at = At::Name(dir, entries.name(index));
            let stat = match layer.stat(at) {
                Ok(stat) => stat,
                // Gone in between: nobody can have it.
                Err(Errno::NOENT) => {
                    entries.facts[index].hidden = true;
                    continue;
                }
                Err(errno) => return Err(OpError::Layer { step: "stat a listed entry", errno }),
            };
            let hidden = match whiteouts {
                Whiteouts::Shown => false,
                Whiteouts::Devices => mark::is_device_whiteout(&stat),
                Whiteouts::All => self.is_whiteout(layer, at, &stat)?,
            };
            let facts = &mut entries.facts[index];
            (facts.kind, facts.hidden) = (stat.kind, hidden);
        }
        Ok(entries)
    }

    /// Whether a directory is listed as a merged one: it has several parts, or upper says that it once had.
    fn lists_merged(&self, node: &Node<L>, state: &State<L>) -> Result<bool> {
        if state.parts() > 1 || node.id == crate::NodeId::ROOT {
            return Ok(true);
        }
        match state.upper_at() {
            Some(at) => {
                let origin = self.mark(self.upper_layer()?, at, Mark::Origin);
                Ok(origin.step("read the origin mark")?.is_some())
            }
            None => Ok(false),
        }
    }

    /// Whether upper entries of the directory may have a number other than their own.
    fn is_impure(&self, node: &Node<L>, state: &State<L>) -> Result<bool> {
        let part = node.as_dir()?;
        let Some(at) = state.upper_at() else {
            return Ok(false);
        };
        if part.impure.load(Ordering::Acquire) {
            return Ok(true);
        }
        let mark = self.mark(self.upper_layer()?, at, Mark::Impure);
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
        if !covered && !state.has_lowers() && !self.lists_merged(node, &state)? {
            return Ok(false);
        }
        let mut holds_whiteouts = false;
        let upper = state.upper_dir();
        let mut parts = Vec::new();
        if let Some(dir) = upper {
            let whiteouts = match self.config.whiteouts {
                WhiteoutForm::Xattr => Whiteouts::All,
                WhiteoutForm::Device => Whiteouts::Devices,
            };
            parts.push(self.read_part(self.upper_layer()?, dir, None, whiteouts)?);
        }
        for lower in state.lowers() {
            let Some(dir) = lower.dir() else {
                continue;
            };
            let whiteouts = if lower.xattr_whiteouts { Whiteouts::All } else { Whiteouts::Devices };
            parts.push(self.read_part(&self.lowers[lower.layer], dir, Some(lower.layer), whiteouts)?);
        }
        if upper.is_some() {
            holds_whiteouts = parts.first().is_some_and(|part| part.iter().any(|entry| entry.hidden));
        }
        if merge(parts).step(STEP)?.iter().any(|entry| !entry.hidden) {
            return Err(OpError::NotEmpty);
        }
        Ok(holds_whiteouts)
    }
}

/// A digest of names and their positions (FNV-1a); never zero.
fn digest(listing: &Listing) -> u64 {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for entry in listing.iter() {
        add(entry.name);
        add(&[0]);
        add(&entry.position.to_le_bytes());
    }
    digest | 1
}

/// Entries with their positions and the first free one.
type Placed = (Entries, Option<Box<[u64]>>, u64);

/// Gives the entries their positions and returns these, unless each follows upon the one before, and the first free one.
/// Names that an earlier listing had keep theirs, and new ones come after all that there ever were: a reader who goes on in a
/// later listing misses no name that was there all the time, and meets none twice.
fn place(mut entries: Entries, previous: Option<&Listing>) -> acetate_layer::Result<Placed> {
    let Some(previous) = previous else {
        entries.names.shrink_to_fit();
        entries.facts.shrink_to_fit();
        let end = entries.len() as u64;
        return Ok((entries, None, end));
    };
    let mut end = previous.end;
    let known: HashMap<&[u8], u64> = previous.iter().map(|entry| (entry.name, entry.position)).collect();
    let mut order: Vec<(u64, usize)> = Vec::with_capacity(entries.len());
    for (at, entry) in entries.iter().enumerate() {
        let position = known.get(entry.name).copied().unwrap_or_else(|| {
            end += 1;
            end - 1
        });
        order.push((position, at));
    }
    order.sort_unstable();
    let mut sorted = Entries::with_room_of(&entries);
    for (_, at) in &order {
        sorted.push(&entries.get(*at))?;
    }
    Ok((sorted, Some(order.into_iter().map(|(position, _)| position).collect()), end))
}

/// Which part has a name topmost.
struct Topmost {
    part: usize,
    at: usize,
    /// The lowest part has it, too.
    in_lowest: bool,
}

/// Merges parts given top to bottom: the names of the lowest directory come first, but as their topmost layer has them, then
/// the others.
fn merge(mut parts: Vec<Entries>) -> acetate_layer::Result<Entries> {
    let bottom = parts.len().saturating_sub(1);
    if bottom == 0 {
        return Ok(parts.pop().unwrap_or_default());
    }
    let hashes = RandomState::new();
    let mut names: HashTable<Topmost> = HashTable::new();
    let name = |top: &Topmost| parts[top.part].name(top.at);
    let hash_of = |top: &Topmost| hashes.hash_one(name(top));
    let mut order = Vec::new();
    for (part, entries) in parts.iter().enumerate() {
        for (at, entry) in entries.iter().enumerate() {
            let same = |top: &Topmost| name(top) == entry.name;
            match names.entry(hashes.hash_one(entry.name), same, hash_of) {
                Slot::Vacant(slot) => {
                    if part == bottom {
                        order.push((part, at));
                    }
                    slot.insert(Topmost { part, at, in_lowest: part == bottom });
                }
                Slot::Occupied(mut slot) if part == bottom && !slot.get().in_lowest => {
                    slot.get_mut().in_lowest = true;
                    order.push((slot.get().part, slot.get().at));
                }
                Slot::Occupied(_) => {}
            }
        }
    }
    let mut rest: Vec<_> = names.iter().filter(|top| !top.in_lowest).map(|top| (top.part, top.at)).collect();
    rest.sort_unstable();
    let mut merged = Entries::default();
    for (part, at) in order.into_iter().chain(rest) {
        merged.push(&parts[part].get(at))?;
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(lower: Option<usize>, names: &[&str]) -> Entries {
        let mut entries = Entries::default();
        for name in names {
            let name = name.as_bytes();
            let entry = ListEntry { name, ino: 0, kind: Kind::File, lower, hidden: false, position: 0 };
            assert_eq!(entries.push(&entry), Ok(()));
        }
        entries
    }

    #[test]
    fn the_lowest_names_come_first_and_the_topmost_object_wins() {
        let merged =
            merge(vec![part(None, &["b", "c"]), part(Some(0), &["d", "c"]), part(Some(1), &["a", "b"])]);
        let merged = merged.unwrap_or_default();
        let shown: Vec<(&[u8], Option<usize>)> =
            merged.iter().map(|entry| (entry.name, entry.lower)).collect();
        let expected: [(&[u8], Option<usize>); 4] =
            [(b"a", Some(1)), (b"b", None), (b"c", None), (b"d", Some(0))];
        assert_eq!(shown, expected);
    }

    #[test]
    fn names_keep_their_positions() {
        let listing = |names: &[&str], previous: Option<&Listing>| {
            let placed = place(part(None, names), previous);
            let (entries, positions, end) = placed.unwrap_or_default();
            Listing { entries, positions, impure: false, merged: false, as_of: 0, end, base: 0 }
        };
        let shown = |listing: &Listing, from: u64| -> Vec<(String, u64)> {
            let name = |entry: &ListEntry<'_>| String::from_utf8_lossy(entry.name).into_owned();
            listing.from(from).map(|entry| (name(&entry), entry.position)).collect()
        };
        let owned = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
            pairs.iter().map(|(name, position)| ((*name).to_owned(), *position)).collect()
        };
        let first = listing(&["a", "b", "c"], None);
        assert_eq!(shown(&first, 0), owned(&[("a", 0), ("b", 1), ("c", 2)]));
        assert_eq!((shown(&first, 2), shown(&first, 9)), (owned(&[("c", 2)]), vec![]));
        let second = listing(&["n", "c", "b"], Some(&first));
        assert_eq!(shown(&second, 0), owned(&[("b", 1), ("c", 2), ("n", 3)]));
        // A position that was given up is not given again.
        let third = listing(&["m", "b"], Some(&second));
        assert_eq!(shown(&third, 0), owned(&[("b", 1), ("m", 4)]));
        assert_eq!(shown(&third, 2), owned(&[("m", 4)]));
    }
}
