//! The walk through all layers.

use std::collections::{HashMap, HashSet};

use acetate_layer::Kind;
use acetate_layer::mark::Opaque;

use super::{Entry, Fate, Part, Survey, Totals};
use crate::node::{Hidden, How, Node, Seen, What};
use crate::view::View;
use crate::{Result, joined};

/// What hides a layer's objects at a path: the lowest layer that does so, where, and how.
type Cover = Option<(usize, usize, How)>;

/// A directory that is being walked.
struct Frame {
    entry: usize,
    path: Vec<u8>,
    node: Node,
    /// For each layer, what hides everything that it has here.
    covers: Vec<Cover>,
    names: std::vec::IntoIter<Vec<u8>>,
}

struct Link {
    entry: usize,
    is_shown: bool,
}

struct Walk<'a> {
    view: View<'a>,
    entries: Vec<Entry>,
    /// Objects with several names, by layer, device and inode number: the part of the first one, and whether any of them
    /// is shown.
    links: HashMap<(usize, u64, u64), Link>,
    /// What is shown at another path than its own: the layer and the path in it.
    moved: HashSet<(usize, Vec<u8>)>,
}

impl Survey {
    /// Walks all layers of a view.
    ///
    /// # Errors
    /// A layer that cannot be read. Marks that lead nowhere are none.
    pub fn of(view: View<'_>) -> Result<Survey> {
        let mut walk = Walk { view, entries: Vec::new(), links: HashMap::new(), moved: HashSet::new() };
        walk.run()?;
        let Walk { mut entries, links, moved, .. } = walk;
        for ((layer, ..), link) in links.into_iter().filter(|(_, link)| link.is_shown) {
            let mut parts = entries[link.entry].parts.iter_mut();
            // The first name has the bytes, and another one shows them.
            if let Some(part) = parts.find(|part| part.layer == layer && part.fate.is_hidden()) {
                part.fate = Fate::Elsewhere;
            }
        }
        let layers = vec![Totals::default(); view.stack().paths().len()];
        if !moved.is_empty() {
            let paths = Survey { entries, layers: Vec::new() };
            let elsewhere = elsewhere(&paths, &moved);
            entries = paths.entries;
            for (entry, part) in elsewhere {
                entries[entry].parts[part].fate = Fate::Elsewhere;
            }
        }
        let mut survey = Survey { entries, layers };
        survey.count();
        Ok(survey)
    }
}

/// The hidden parts that a redirect shows elsewhere, as an entry and a place among its parts.
fn elsewhere(survey: &Survey, moved: &HashSet<(usize, Vec<u8>)>) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (number, entry) in survey.entries.iter().enumerate() {
        let path = survey.path(number);
        for (place, part) in entry.parts.iter().enumerate() {
            let is_hidden = part.fate.is_hidden() && part.from.is_none();
            if is_hidden && part.kind.is_some() && moved.contains(&(part.layer, path.clone())) {
                found.push((number, place));
            }
        }
    }
    found
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let root = self.view.root()?;
        let covers = vec![None; self.view.stack().paths().len()];
        let mut todo = Vec::new();
        todo.extend(self.enter(Vec::new(), Vec::new(), 0, root, covers)?);
        // A list and no recursion: trees may be deeper than the stack of a thread.
        while let Some(frame) = todo.last_mut() {
            let Some(name) = frame.names.next() else {
                todo.pop();
                continue;
            };
            let node = self.view.lookup(&frame.node, &name)?;
            let (path, parent) = (joined(&frame.path, &name), frame.entry);
            let covers = frame.covers.clone();
            todo.extend(self.enter(path, name, parent, node, covers)?);
        }
        Ok(())
    }

    /// Records what is at a path; returns what is to be walked if any layer has a directory there.
    fn enter(
        &mut self,
        path: Vec<u8>,
        name: Vec<u8>,
        parent: usize,
        node: Node,
        mut covers: Vec<Cover>,
    ) -> Result<Option<Frame>> {
        let entry = self.entries.len();
        let parts = self.parts(entry, &path, &node, &mut covers);
        if parts.is_empty() && entry > 0 {
            // Removed since it was listed.
            return Ok(None);
        }
        let has_dir = parts.iter().any(|part| part.kind == Some(Kind::Dir));
        self.entries.push(Entry { name, parent, parts });
        if !has_dir {
            return Ok(None);
        }
        let names = self.names(&path, &node)?.into_iter();
        Ok(Some(Frame { entry, path, node, covers, names }))
    }

    /// The names that any layer has in a directory, hidden ones included.
    fn names(&self, path: &[u8], node: &Node) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for seen in &node.seen {
            if let What::Object(object) = &seen.what {
                names.extend(self.view.names_in(path, seen.layer, object)?);
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// What the layers hold, and what hides it. `covers` comes as what hides each layer in the directory above, and goes
    /// as what hides it here.
    fn parts(&mut self, entry: usize, path: &[u8], node: &Node, covers: &mut [Cover]) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        // Those above, the lowest first, with how they hide directories and other objects.
        let mut above: Vec<(usize, Option<How>, Option<How>)> = Vec::new();
        let mut has_winner = false;
        for seen in &node.seen {
            let kind = match &seen.what {
                What::Absent => None,
                What::Whiteout(_) => Some(None),
                What::Object(object) => Some(Some(object.stat.kind)),
            };
            let is_dir = kind.is_none() || kind == Some(Some(Kind::Dir));
            let hides = |(layer, dir, other): &(usize, Option<How>, Option<How>)| {
                (if is_dir { *dir } else { *other }).map(|how| (*layer, entry, how))
            };
            let cover = above.iter().rev().find_map(hides);
            let inherited = covers[seen.layer];
            // The lowest: it was the first to hide what it hides.
            covers[seen.layer] = match (cover, inherited) {
                (Some(near), Some(far)) if far.0 > near.0 => Some(far),
                (Some(near), _) => Some(near),
                (None, far) => far,
            };
            let Some(kind) = kind else { continue };
            let fate = self.fate(seen, covers[seen.layer], entry, has_winner && kind.is_some());
            has_winner |= kind.is_some() && fate == Fate::Shown;
            let part = self.part(seen, entry, path, kind, fate);
            above.push((seen.layer, hides_dirs(seen), hides_others(seen)));
            parts.push(part);
        }
        parts
    }

    fn fate(&self, seen: &Seen, cover: Cover, entry: usize, has_winner: bool) -> Fate {
        match &seen.hidden {
            Some(Hidden { by, how, .. }) => {
                let (by, at, how) = cover.unwrap_or((*by, entry, *how));
                Fate::Hidden { by, at, how }
            }
            None if has_winner => Fate::Part,
            None => Fate::Shown,
        }
    }

    fn part(&mut self, seen: &Seen, entry: usize, path: &[u8], kind: Option<Kind>, fate: Fate) -> Part {
        let from = (seen.path != path).then(|| seen.path.clone());
        if from.is_some() && matches!(fate, Fate::Shown | Fate::Part) {
            self.moved.insert((seen.layer, seen.path.clone()));
        }
        let What::Object(object) = &seen.what else {
            return Part { layer: seen.layer, kind, opaque: false, bytes: 0, from, fate };
        };
        let is_data = object.stat.kind == Kind::File && !object.metacopy;
        let (dev, ino) = object.id();
        let mut is_first = true;
        if is_data && object.stat.nlink > 1 {
            let link = self.links.entry((seen.layer, dev, ino)).or_insert(Link { entry, is_shown: false });
            link.is_shown |= !fate.is_hidden();
            is_first = link.entry == entry;
        }
        Part {
            layer: seen.layer,
            kind,
            opaque: object.opaque == Opaque::Yes,
            bytes: if is_data && is_first { object.stat.size } else { 0 },
            from,
            fate,
        }
    }
}

/// How what a layer holds hides directories below it.
fn hides_dirs(seen: &Seen) -> Option<How> {
    match &seen.what {
        What::Absent => None,
        What::Whiteout(_) => Some(How::Whiteout),
        What::Object(object) if object.stat.kind != Kind::Dir => Some(How::Object),
        What::Object(object) => (object.opaque == Opaque::Yes).then_some(How::Opaque),
    }
}

/// How it hides other objects below it. The data of a metacopy file is not hidden by it.
fn hides_others(seen: &Seen) -> Option<How> {
    match &seen.what {
        What::Object(object) if object.metacopy => None,
        What::Object(object) if object.opaque != Opaque::Yes => Some(How::Object),
        _ => hides_dirs(seen),
    }
}
