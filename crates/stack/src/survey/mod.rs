//! Every path of every layer: which one is shown, what hides the others, and how many bytes that wastes.
//!
//! The walk looks every name up in all layers, also below what is hidden, so that a survey holds what a mount shows and
//! what it does not. It reads names and attributes only, never the content of files.

mod efficiency;
mod two;
mod walk;

pub use efficiency::Efficiency;

use acetate_layer::Kind;

use crate::node::How;

/// All paths of a stack. Layers are numbered as in the stack, 0 for the topmost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The root of the tree first, then every directory's entries, sorted by name, parents before what is below them.
    pub entries: Vec<Entry>,
    /// What each layer does.
    pub layers: Vec<Totals>,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The last component; empty for the root.
    pub name: Vec<u8>,
    /// The directory above, as an index into [`Survey::entries`]; the root's is itself.
    pub parent: usize,
    /// What layers hold there, the topmost first; never empty.
    pub parts: Vec<Part>,
}

/// What one layer holds at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The layer.
    pub layer: usize,
    /// The type of the object; `None` for a whiteout.
    pub kind: Option<Kind>,
    /// A directory that hides those below.
    pub opaque: bool,
    /// Bytes of file data that the layer holds for it. Further names of a hard link have 0, as in an archive; so have
    /// files whose data is in another layer (metacopy), and everything that is no regular file.
    pub bytes: u64,
    /// The path of the object in its layer, if a redirect above makes it another one.
    pub from: Option<Vec<u8>>,
    /// Whether it is shown.
    pub fate: Fate,
}

/// What becomes of a layer's object, or of its whiteout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is what is shown; or a whiteout that nothing above hides.
    Shown,
    /// It is a part of what is shown: a directory below another one, or the data of a metacopy file.
    Part,
    /// It is shown at another path: a redirect leads there, or it has another name there (a hard link).
    Elsewhere,
    /// Something above hides it.
    Hidden {
        /// The lowest layer of those that hide it: the one that did so first.
        by: usize,
        /// The entry at which that layer does so: the path itself or a directory above.
        at: usize,
        /// How.
        how: How,
    },
}

impl Fate {
    /// Whether something hides it, and no other path shows it.
    pub fn is_hidden(self) -> bool {
        matches!(self, Self::Hidden { .. })
    }
}

/// What a layer does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Objects in it, whiteouts and its root left out.
    pub objects: u64,
    /// Bytes of file data in it.
    pub bytes: u64,
    /// Objects at paths where the layers below show nothing.
    pub added: u64,
    /// Objects in place of what the layers below show; directories that merge with those below are none.
    pub changed: u64,
    /// Whiteouts that hide something.
    pub deleted: u64,
    /// Objects of the layers below that it is the first to hide.
    pub hides_objects: u64,
    /// Bytes of file data of these objects.
    pub hides_bytes: u64,
    /// Bytes of its own file data that the layers above hide.
    pub wasted_bytes: u64,
}

/// Bytes that one path wastes: data that what layers hold there hides in the layers below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waste {
    /// The path that hides them.
    pub at: usize,
    /// The topmost of the layers that do so.
    pub by: usize,
    /// How that one does.
    pub how: How,
    /// Hidden objects, at the entry and below it.
    pub objects: u64,
    /// Bytes of their file data.
    pub bytes: u64,
    /// The layers that hold them, the topmost first.
    pub layers: Vec<usize>,
}

impl Entry {
    /// What is shown at the path; `None` if nothing is.
    pub fn shown(&self) -> Option<&Part> {
        self.parts.iter().find(|part| part.kind.is_some() && part.fate == Fate::Shown)
    }

    /// The type of what is shown, or else of the topmost object.
    pub fn kind(&self) -> Option<Kind> {
        self.shown().or_else(|| self.parts.iter().find(|part| part.kind.is_some())).and_then(|part| part.kind)
    }

    /// What a layer holds at this very path.
    pub fn home(&self, layer: usize) -> Option<&Part> {
        self.parts.iter().find(|part| part.layer == layer && part.from.is_none())
    }
}

impl Survey {
    /// The path of an entry, without a slash at its start; empty for the root.
    pub fn path(&self, entry: usize) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = entry;
        while at != 0 {
            names.push(self.entries[at].name.as_slice());
            at = self.entries[at].parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Bytes of file data in all layers.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// Bytes of file data that no path shows.
    pub fn wasted_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.wasted_bytes).sum()
    }

    /// What wastes bytes, the most first.
    pub fn waste(&self) -> Vec<Waste> {
        let mut all = std::collections::BTreeMap::new();
        for part in self.entries.iter().flat_map(|entry| &entry.parts) {
            let Fate::Hidden { by, at, how } = part.fate else { continue };
            if part.kind.is_none() || part.from.is_some() {
                continue;
            }
            let empty = Waste { at, by, how, objects: 0, bytes: 0, layers: Vec::new() };
            let waste = all.entry(at).or_insert(empty);
            if by < waste.by {
                (waste.by, waste.how) = (by, how);
            }
            waste.objects += 1;
            waste.bytes += part.bytes;
            if let Err(place) = waste.layers.binary_search(&part.layer) {
                waste.layers.insert(place, part.layer);
            }
        }
        let mut all: Vec<Waste> = all.into_values().filter(|waste| waste.bytes > 0).collect();
        all.sort_by_key(|waste| std::cmp::Reverse(waste.bytes));
        all
    }

    /// Counts what each layer does.
    fn count(&mut self) {
        let mut layers = std::mem::take(&mut self.layers);
        for entry in self.entries.iter().skip(1) {
            for (place, part) in entry.parts.iter().enumerate().filter(|(_, part)| part.from.is_none()) {
                let below = &entry.parts[place + 1..];
                let totals = &mut layers[part.layer];
                totals.bytes += part.bytes;
                // What the layers below showed before this one came over them.
                let covered = below.iter().find(|below| below.was_shown_below(part.layer));
                match (part.kind, covered.map(|part| part.kind)) {
                    (None, covered) => totals.deleted += u64::from(covered.is_some()),
                    (Some(_), None) => totals.added += 1,
                    (Some(Kind::Dir), Some(Some(Kind::Dir))) if !part.opaque => {}
                    (Some(_), Some(_)) => totals.changed += 1,
                }
                totals.objects += u64::from(part.kind.is_some());
                if let Fate::Hidden { by, .. } = part.fate
                    && part.kind.is_some()
                {
                    totals.wasted_bytes += part.bytes;
                    layers[by].hides_objects += 1;
                    layers[by].hides_bytes += part.bytes;
                }
            }
        }
        self.layers = layers;
    }
}

impl Part {
    /// Whether this is an object that was shown before layer `above` came over it.
    fn was_shown_below(&self, above: usize) -> bool {
        self.kind.is_some()
            && match self.fate {
                Fate::Hidden { by, .. } => by <= above,
                Fate::Shown | Fate::Part | Fate::Elsewhere => true,
            }
    }
}
