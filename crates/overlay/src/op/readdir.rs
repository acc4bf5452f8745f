//! readdir, with and without attributes.

use crate::error::{OpError, Result};
use crate::listing::{ListEntry, Listing};
use crate::node::Node;
use crate::{Attr, Changed, DirItem, Entry, Index, LookUp, NodeId, Overlay, Room};
use acetate_layer::mark::Mark;
use acetate_layer::{Errno, Kind, UpperLayer};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Offsets: 0 is before `.`, 1 before `..`, and the entry at position k ends at k + 3.
const FIRST_ENTRY: u64 = 2;

impl<L: UpperLayer> Overlay<L> {
    /// Lists a directory from `offset` on until `sink` is full. Whoever goes on at an offset may still get what the
    /// directory held when a reader last began; each name that has been there all the time comes exactly once.
    ///
    /// # Errors
    /// [`OpError::NotDir`], [`OpError::Layer`].
    pub fn readdir(
        &self,
        node: NodeId,
        offset: u64,
        sink: &mut dyn FnMut(DirItem<'_>) -> Room,
    ) -> Result<()> {
        self.list_from(node, offset, &mut |item, _| sink(item), None)
    }

    /// As [`Overlay::readdir`], and looks entries up. An entry counts as a lookup if `sink` takes it. There is no
    /// entry for `.` and `..`, and for names that cannot be looked up.
    ///
    /// # Errors
    /// [`OpError::Layer`].
    pub fn readdirplus(
        &self,
        node: NodeId,
        offset: u64,
        look_up: LookUp,
        sink: &mut dyn FnMut(DirItem<'_>, Option<&Entry>) -> Room,
    ) -> Result<()> {
        self.list_from(node, offset, sink, Some(look_up))
    }

    fn list_from(
        &self,
        node: NodeId,
        offset: u64,
        sink: &mut dyn FnMut(DirItem<'_>, Option<&Entry>) -> Room,
        look_up: Option<LookUp>,
    ) -> Result<()> {
        let node = self.dir(node)?;
        let Some(listing) = self.listing_at(&node, offset)? else {
            // A removed directory holds nothing.
            let _end = dots(&node, offset, sink);
            return Ok(());
        };
        if listing.impure {
            self.drop_needless_impure(&node, &listing)?;
        }
        if dots(&node, offset, sink) == Room::Full {
            return Ok(());
        }
        let from = offset.saturating_sub(FIRST_ENTRY);
        if from > 0 && from < listing.base {
            // Whoever has seen it all has come to the end.
            return if from + 1 == listing.base { Ok(()) } else { Err(OpError::Stale) };
        }
        for entry in listing.from(from) {
            if entry.hidden {
                continue;
            }
            let next = entry.position + FIRST_ENTRY + 1;
            let item = DirItem { name: entry.name, ino: entry.ino, kind: entry.kind, next };
            let room = if needs_nothing(&listing, &entry, look_up) {
                sink(item, None)
            } else {
                self.emit(&node, &listing, &entry, item, sink, look_up)?
            };
            if room == Room::Full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Hands an entry out that has to be looked up for it.
    fn emit(
        &self,
        dir: &Arc<Node<L>>,
        listing: &Listing,
        entry: &ListEntry<'_>,
        mut item: DirItem<'_>,
        sink: &mut dyn FnMut(DirItem<'_>, Option<&Entry>) -> Room,
        look_up: Option<LookUp>,
    ) -> Result<Room> {
        let number_unknown = listing.number_is_unknown(entry);
        let plus = is_wanted(entry, look_up);
        let _names = dir.as_dir()?.ns.read();
        match self.listed_child(dir, listing, entry) {
            Ok(Some((node, attr))) => {
                item.ino = attr.ino;
                if !plus {
                    return Ok(sink(item, None));
                }
                self.nodes.refer(&node);
                let found = Entry { node: node.id, attr };
                let room = sink(item, Some(&found));
                if room == Room::Full {
                    self.forget(node.id, 1);
                }
                Ok(room)
            }
            // What may be listed and not searched has names only.
            Err(error) if error.errno() == Errno::ACCESS => Ok(sink(item, None)),
            // A merged listing leaves out an entry whose number is needed and cannot be found out, as in the kernel.
            Ok(None) | Err(_) if number_unknown && listing.merged => Ok(Room::Taken),
            // Gone since it was listed, or a whiteout in a plain listing: the name stays in this listing.
            Ok(None) => Ok(sink(item, None)),
            Err(_) => Ok(sink(item, None)),
        }
    }

    /// Looks a listed entry up. What the current listing says is where the name is, so only that layer is searched; an
    /// old one may have been overtaken by a copy-up.
    fn listed_child(
        &self,
        dir: &Arc<Node<L>>,
        listing: &Listing,
        entry: &ListEntry<'_>,
    ) -> Result<Option<(Arc<Node<L>>, Attr)>> {
        let layer = entry.lower.filter(|_| entry.kind != Kind::Dir);
        self.child_with_attr(dir, entry.name, layer.map(|layer| (layer, listing.as_of)))
    }

    /// The listing that a reader at `offset` works on; `None` for a removed directory. Whoever goes on is content with
    /// the last one: to read a large directory anew for each part of its listing while it is being emptied would take
    /// quadratic time.
    fn listing_at(&self, node: &Arc<Node<L>>, offset: u64) -> Result<Option<Arc<Listing>>> {
        if node.id != NodeId::ROOT && node.state.read().place().is_none() {
            return Ok(None);
        }
        let part = node.as_dir()?;
        if offset > 0
            && let Some(listing) = &part.listing.lock().last
        {
            self.known_listings.hit();
            return Ok(Some(listing.clone()));
        }
        if self.config.lower_changes {
            node.forget_listing();
        }
        let _names = part.ns.read();
        self.listing(node).map(Some)
    }

    /// Takes the impure mark from a plain upper directory in which every number is its own.
    fn drop_needless_impure(&self, dir: &Arc<Node<L>>, listing: &Listing) -> Result<()> {
        if dir.state.read().has_lowers() || dir.id == NodeId::ROOT {
            return Ok(());
        }
        // The numbers of copies that others have made are not known then.
        if self.config.index != Index::Nothing && !self.config.handles_open {
            return Ok(());
        }
        let _names = dir.as_dir()?.ns.read();
        // Where everything is indexed, or handles cannot be opened, a copy may have its own number here, and have that of the
        // lower object on mounts with other options.
        let has_its_own = |child: &Node<L>, ino| {
            let state = child.state.read();
            state.ino == ino && matches!(self.is_copy(&state), Ok(false))
        };
        for entry in listing.iter() {
            match self.child(dir, entry.name) {
                Ok(Some(child)) if has_its_own(&child, entry.ino) => {}
                Ok(None) => {}
                // "Cannot tell" keeps the mark.
                Ok(Some(_)) | Err(_) => return Ok(()),
            }
        }
        let state = dir.state.read();
        if let (Some(at), Ok(upper)) = (state.upper_at(), self.upper_layer()) {
            let name = self.config.dialect.name(Mark::Impure);
            if upper.remove_xattr(at, name).is_ok() {
                dir.as_dir()?.impure.store(false, Ordering::Release);
                drop(state);
                (self.changed)(dir.id, Changed::Attributes);
                dir.forget_listing();
            }
        }
        Ok(())
    }
}

/// Whether the attributes of an entry are wanted.
fn is_wanted(entry: &ListEntry<'_>, look_up: Option<LookUp>) -> bool {
    match look_up {
        Some(LookUp::All) => true,
        Some(LookUp::Directories) => entry.kind == Kind::Dir,
        None => false,
    }
}

/// Whether an entry can be handed out as it is listed: the number of a directory is that of its topmost lower part.
fn needs_nothing(listing: &Listing, entry: &ListEntry<'_>, look_up: Option<LookUp>) -> bool {
    !is_wanted(entry, look_up)
        && !listing.number_is_unknown(entry)
        && (entry.kind != Kind::Dir || entry.lower.is_some())
}

/// Lists `.` and `..`.
fn dots<L: UpperLayer>(
    dir: &Node<L>,
    offset: u64,
    sink: &mut dyn FnMut(DirItem<'_>, Option<&Entry>) -> Room,
) -> Room {
    let (own, parent) = dot_numbers(dir);
    for (position, name, ino) in [(0, &b"."[..], own), (1, &b".."[..], parent)] {
        let item = DirItem { name, ino, kind: Kind::Dir, next: position + 1 };
        if offset <= position && sink(item, None) == Room::Full {
            return Room::Full;
        }
    }
    Room::Taken
}

/// The inode numbers of `.` and `..`.
fn dot_numbers<L: UpperLayer>(dir: &Node<L>) -> (u64, u64) {
    let state = dir.state.read();
    let own = state.ino;
    let parent = state.place().map(|place| place.parent.clone());
    drop(state);
    (own, parent.map_or(own, |parent| parent.state.read().ino))
}
