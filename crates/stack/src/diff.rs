//! What upper changes, from upper alone: only what it holds is looked at below.
//!
//! Two views of one stack are walked side by side, with and without upper. Where a directory is made of the same lower
//! parts in both, only the names that its upper part holds can differ; where it is not (opaque, redirected), all are
//! compared.
//!
//! Not compared: times, inode numbers, inode flags, and how much space a file takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

use acetate_layer::mark::{Mark, Origin};
use acetate_layer::{Kind, Layer};

use crate::node::Node;
use crate::view::View;
use crate::{Error, Result, Stack, failed, joined};

/// How much of two files is read at once to be compared.
const CHUNK_BYTES: usize = 256 * 1024;

/// What of an object differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differs {
    /// Other data: of a file, a symlink's target, a device's number; always set with `kind`.
    pub content: bool,
    /// Another mode, owner, group, extended attribute or access control list.
    pub metadata: bool,
    /// Another type of object.
    pub kind: bool,
    /// It has another name now, which is a change of its own.
    pub links: bool,
}

impl Differs {
    /// Whether anything does.
    pub fn any(self) -> bool {
        self.content || self.metadata || self.kind || self.links
    }
}

/// How a path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// It is gone, and all that was below it.
    Deleted,
    /// There was nothing.
    Added,
    /// It was at another path. What is below it has changes of its own.
    Renamed {
        /// Where it was.
        from: Vec<u8>,
        /// What else has changed.
        differs: Differs,
    },
    /// It was something else.
    Changed(Differs),
    /// It was copied to upper, and equals what is below.
    Touched,
}

/// One path that upper changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path from the root of the tree, without a slash at its start; empty for the root itself.
    pub path: Vec<u8>,
    /// How it differs.
    pub how: How,
    /// The type of the new object; of the old one if it is deleted.
    pub kind: Kind,
    /// Length in bytes of that object's file data or symlink target; 0 for all other types.
    pub size: u64,
    /// How many objects below a directory vanish with it, if it is deleted or becomes something else.
    pub below: u64,
    /// The first other path with the same object in upper, if it is a hard link.
    pub link: Option<Vec<u8>>,
}

/// What is to be found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Finds renames: of directories by their redirects, of files by their origins. Without, one is a deletion and
    /// additions.
    pub renames: bool,
    /// Keeps objects that were copied to upper and equal what is below.
    pub touched: bool,
}

/// What the upper layer of a stack changes, sorted by path. Of a stack without upper, all is new.
///
/// # Errors
/// A layer that cannot be read; [`Error::Broken`] for a mark that leads nowhere.
pub fn diff(stack: &Stack, options: Options) -> Result<Vec<Change>> {
    between(stack.below(), stack.merged(), options)
}

/// What one view changes relative to another one. Only views of one stack have renames.
///
/// # Errors
/// As [`diff`].
pub fn between(old: View<'_>, new: View<'_>, options: Options) -> Result<Vec<Change>> {
    let same = std::ptr::eq(old.stack, new.stack);
    let walk =
        Walk { old, new, same, options, found: Vec::new(), moved: BTreeSet::new(), links: HashMap::new() };
    let mut walk = walk.run()?;
    walk.link()?;
    if options.renames && same {
        walk.rename_files()?;
        let moved = std::mem::take(&mut walk.moved);
        walk.found.retain(|change| change.how != How::Deleted || !moved.contains(&change.path));
    }
    if !options.touched {
        walk.found.retain(|change| change.how != How::Touched);
    }
    // A path that is deleted and taken by what was renamed has two changes.
    let rank = |how: &How| u8::from(*how != How::Deleted);
    walk.found.sort_by(|a, b| a.path.cmp(&b.path).then_with(|| rank(&a.how).cmp(&rank(&b.how))));
    Ok(walk.found)
}

/// A directory of both views that is still to be looked into.
struct Pair {
    path: Vec<u8>,
    /// Where the old one is, which is elsewhere if it was renamed.
    old_path: Vec<u8>,
    old: Node,
    new: Node,
}

struct Walk<'a> {
    old: View<'a>,
    new: View<'a>,
    /// Both views are of the same layers.
    same: bool,
    options: Options,
    found: Vec<Change>,
    /// Old paths that are not deleted but renamed.
    moved: BTreeSet<Vec<u8>>,
    /// The names of objects of upper that have several, by device and inode number.
    links: HashMap<(u64, u64), Vec<Vec<u8>>>,
}

impl Walk<'_> {
    fn run(mut self) -> Result<Self> {
        let (old, new) = (self.old.root()?, self.new.root()?);
        if old.winner().is_some() {
            self.compare(b"", b"", &old, &new)?;
        }
        let mut todo = vec![Pair { path: Vec::new(), old_path: Vec::new(), old, new }];
        while let Some(pair) = todo.pop() {
            for name in self.names(&pair)? {
                todo.extend(self.name(&pair, &name)?);
            }
        }
        Ok(self)
    }

    /// The names that can differ.
    fn names(&self, pair: &Pair) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let lower = self.old.top;
        if self.same && pair.old.ids_from(lower) == pair.new.ids_from(lower) {
            for (number, part) in pair.new.parts().filter(|(number, _)| *number < lower) {
                names.extend(self.new.names_in(&pair.path, number, part)?);
            }
        } else {
            names = self.new.names(&pair.path, &pair.new)?;
            names.extend(self.old.names(&pair.old_path, &pair.old)?);
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Compares what both views have at a name; a directory in both is still to be looked into.
    fn name(&mut self, pair: &Pair, name: &[u8]) -> Result<Option<Pair>> {
        let (path, old_path) = (joined(&pair.path, name), joined(&pair.old_path, name));
        let old = self.old.lookup(&pair.old, name)?;
        let new = self.new.lookup(&pair.new, name)?;
        for (path, node) in [(&old_path, &old), (&path, &new)] {
            if let Some(problem) = node.problem {
                return Err(Error::Broken { path: path.clone(), problem });
            }
        }
        self.note_links(&path, &new);
        if new.winner().is_none() {
            if old.winner().is_some() {
                self.delete(&path, &old_path, &old)?;
            }
            return Ok(None);
        }
        if let Some(source) = self.renamed_dir(&pair.old_path, &path, &new)? {
            if old.winner().is_some() {
                self.delete(&path, &old_path, &old)?;
            }
            let (from, old) = source;
            let differs = self.differs(&from, &path, &old, &new)?;
            self.push(&path, How::Renamed { from: from.clone(), differs }, &new, 0)?;
            self.moved.insert(from.clone());
            return Ok(Some(Pair { path, old_path: from, old, new }));
        }
        if old.winner().is_none() {
            self.add(&path, &new)?;
            return Ok(None);
        }
        self.compare(&old_path, &path, &old, &new)?;
        if old.is_dir() && new.is_dir() {
            return Ok(Some(Pair { path, old_path, old, new }));
        }
        self.add_below(&path, &new)?;
        Ok(None)
    }

    fn note_links(&mut self, path: &[u8], node: &Node) {
        if let Some((number, object)) = node.winner()
            && number < self.old.top
            && object.stat.kind != Kind::Dir
            && object.stat.nlink > 1
        {
            self.links.entry(object.id()).or_default().push(path.to_vec());
        }
    }

    /// Where a directory of upper was before it was renamed, and what it was there. `dir` is the old path of its parent.
    fn renamed_dir(&self, dir: &[u8], path: &[u8], new: &Node) -> Result<Option<(Vec<u8>, Node)>> {
        let lower = self.old.top;
        if !self.options.renames || !self.same || !new.is_dir() {
            return Ok(None);
        }
        let Some(redirect) = new.part(0).filter(|_| lower > 0).and_then(|part| part.follows()) else {
            return Ok(None);
        };
        let from = match redirect {
            acetate_layer::mark::Redirect::Relative(name) => joined(dir, &name),
            acetate_layer::mark::Redirect::Absolute(names) => names.join(&b'/'),
        };
        let old = self.old.find(&from)?;
        let ids = new.ids_from(lower);
        if from == path || ids.is_empty() || old.ids_from(lower) != ids {
            return Ok(None);
        }
        // What is still shown at its old place is not renamed.
        let stays = self.new.find(&from)?.ids_from(lower) == ids;
        Ok((!stays).then_some((from, old)))
    }

    fn delete(&mut self, path: &[u8], old_path: &[u8], old: &Node) -> Result<()> {
        let below = self.count_below(old_path, old)?;
        // Deleted at the place that it has in the old tree, which a rename above may have moved.
        let gone = if self.options.renames { old_path } else { path };
        let change = self.change(gone, How::Deleted, old, below, self.old)?;
        self.found.push(change);
        Ok(())
    }

    fn add(&mut self, path: &[u8], new: &Node) -> Result<()> {
        self.push(path, How::Added, new, 0)?;
        self.add_below(path, new)
    }

    /// Adds everything below a new directory.
    fn add_below(&mut self, path: &[u8], new: &Node) -> Result<()> {
        if !new.is_dir() {
            return Ok(());
        }
        let view = self.new;
        view.visit(path, new, &mut |path, node| {
            self.note_links(path, node);
            self.push(path, How::Added, node, 0)
        })
    }

    fn compare(&mut self, old_path: &[u8], path: &[u8], old: &Node, new: &Node) -> Result<()> {
        let differs = self.differs(old_path, path, old, new)?;
        if differs.any() {
            let below = if differs.kind { self.count_below(old_path, old)? } else { 0 };
            self.push(path, How::Changed(differs), new, below)
        } else if !path.is_empty() && new.winner().is_some_and(|(number, _)| number < self.old.top) {
            self.push(path, How::Touched, new, 0)
        } else {
            Ok(())
        }
    }

    fn differs(&self, old_path: &[u8], path: &[u8], old: &Node, new: &Node) -> Result<Differs> {
        differs((self.old, old_path, old), (self.new, path, new))
    }

    fn count_below(&self, path: &[u8], old: &Node) -> Result<u64> {
        let mut count = 0;
        if old.is_dir() {
            self.old.visit(path, old, &mut |_, _| {
                count += 1;
                Ok(())
            })?;
        }
        Ok(count)
    }

    fn push(&mut self, path: &[u8], how: How, node: &Node, below: u64) -> Result<()> {
        let change = self.change(path, how, node, below, self.new)?;
        self.found.push(change);
        Ok(())
    }

    fn change(&self, path: &[u8], how: How, node: &Node, below: u64, view: View<'_>) -> Result<Change> {
        let (_, object) = view.shown(path, node)?;
        let kind = object.stat.kind;
        let size = if matches!(kind, Kind::File | Kind::Symlink) { object.stat.size } else { 0 };
        Ok(Change { path: path.to_vec(), how, kind, size, below, link: None })
    }

    /// Says which changes are names of one object. An object that only has got another name differs by that.
    fn link(&mut self) -> Result<()> {
        let mut at: HashMap<Vec<u8>, usize> = HashMap::new();
        for (index, change) in self.found.iter().enumerate() {
            if change.how != How::Deleted {
                at.insert(change.path.clone(), index);
            }
        }
        for names in self.links.values_mut() {
            names.sort();
            names.dedup();
            let indices: Vec<usize> = names.iter().filter_map(|name| at.get(name).copied()).collect();
            let changed = indices.iter().any(|&index| self.found[index].how != How::Touched);
            for &index in &indices {
                let change = &mut self.found[index];
                if names.len() > 1 && changed && change.how == How::Touched {
                    change.how = How::Changed(Differs { links: true, ..Differs::default() });
                }
                change.link = names.iter().find(|name| **name != change.path).cloned();
            }
        }
        Ok(())
    }

    /// Makes one change of the deletion of a file and the addition of its copy, which knows its origin.
    fn rename_files(&mut self) -> Result<()> {
        let added: Vec<usize> = (0..self.found.len())
            .filter(|&index| self.found[index].how == How::Added && self.found[index].kind != Kind::Dir)
            .collect();
        let gone: Vec<Vec<u8>> =
            self.found.iter().filter(|c| c.how == How::Deleted).map(|c| c.path.clone()).collect();
        if added.is_empty() || gone.is_empty() {
            return Ok(());
        }
        let mut deleted = self.deleted_objects(&gone)?;
        for index in added {
            let path = self.found[index].path.clone();
            let new = self.new.find(&path)?;
            let Some(from) = self.origin_of(&path, &new)?.and_then(|id| deleted.remove(&id)) else {
                continue;
            };
            let old = self.old.find(&from)?;
            if old.kind() != new.kind() {
                continue;
            }
            let differs = self.differs(&from, &path, &old, &new)?;
            self.found[index].how = How::Renamed { from: from.clone(), differs };
            self.moved.insert(from);
        }
        Ok(())
    }

    /// The old paths of all that is deleted and has one name only, by device and inode number.
    fn deleted_objects(&self, gone: &[Vec<u8>]) -> Result<BTreeMap<(u64, u64), Vec<u8>>> {
        let mut deleted = BTreeMap::new();
        let mut note = |path: &[u8], node: &Node| {
            if let Some((_, object)) = node.winner()
                && object.stat.kind != Kind::Dir
                && object.stat.nlink == 1
            {
                deleted.insert(object.id(), path.to_vec());
            }
            Ok(())
        };
        for path in gone {
            let node = self.old.find(path)?;
            note(path, &node)?;
            if node.is_dir() {
                self.old.visit(path, &node, &mut note)?;
            }
        }
        Ok(deleted)
    }

    /// The lower object that an object of upper says it is a copy of.
    fn origin_of(&self, path: &[u8], node: &Node) -> Result<Option<(u64, u64)>> {
        let Some(object) = node.part(0) else { return Ok(None) };
        let stack = self.new.stack;
        let value = self.new.mark(stack.layer(0), object.at(), Mark::Origin);
        let Some(value) = value.map_err(failed(path, "read the origin mark"))? else { return Ok(None) };
        let Origin::Known(handle) = Origin::decode(&value) else { return Ok(None) };
        for number in self.old.top..stack.depth() {
            let found = stack.layer(number).resolve(&handle).map_err(failed(path, "find the origin"))?;
            if let Some(stat) = found {
                return Ok(Some((stat.dev, stat.ino)));
            }
        }
        Ok(None)
    }
}

/// A node of a view, with its path.
pub(crate) type Shown<'v> = (View<'v>, &'v [u8], &'v Node);

/// What differs between two objects that are shown.
///
/// # Errors
/// A layer that cannot be read.
pub(crate) fn differs(old: Shown<'_>, new: Shown<'_>) -> Result<Differs> {
    let kind = old.2.kind() != new.2.kind();
    Ok(Differs {
        kind,
        content: kind || other_content(old, new)?,
        metadata: old.0.facts(old.1, old.2)? != new.0.facts(new.1, new.2)?,
        links: false,
    })
}

fn other_content(old: Shown<'_>, new: Shown<'_>) -> Result<bool> {
    match new.2.kind() {
        Some(Kind::File) => other_data(old, new),
        Some(Kind::Symlink) => Ok(old.0.read_link(old.1, old.2)? != new.0.read_link(new.1, new.2)?),
        Some(Kind::CharDevice | Kind::BlockDevice) => {
            Ok(old.0.rdev(old.1, old.2)? != new.0.rdev(new.1, new.2)?)
        }
        Some(Kind::Dir | Kind::Fifo | Kind::Socket) | None => Ok(false),
    }
}

fn other_data(old: Shown<'_>, new: Shown<'_>) -> Result<bool> {
    let size = |node: &Node| node.winner().map(|(_, object)| object.stat.size);
    if size(old.2) != size(new.2) {
        return Ok(true);
    }
    let data = |node: &Node| node.data().map(|(_, object)| object.id());
    if data(old.2).is_some() && data(old.2) == data(new.2) {
        return Ok(false);
    }
    let (mut a, mut b) = (old.0.data(old.1, old.2)?, new.0.data(new.1, new.2)?);
    let (mut left, mut right) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    loop {
        let count = fill(&mut a, &mut left).map_err(read_failed(old.1))?;
        if fill(&mut b, &mut right).map_err(read_failed(new.1))? != count || left[..count] != right[..count] {
            return Ok(true);
        }
        if count < CHUNK_BYTES {
            return Ok(false);
        }
    }
}

/// Fills the buffer; less only at the end.
fn fill(data: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match data.read(&mut buffer[done..])? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

fn read_failed(path: &[u8]) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_vec();
    move |error| {
        let errno = acetate_layer::Errno::from_io_error(&error).unwrap_or(acetate_layer::Errno::IO);
        Error::Object { path, step: "read", errno }
    }
}
