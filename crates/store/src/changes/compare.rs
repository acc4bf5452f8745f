//! Walking two views side by side.

use std::path::{Path, PathBuf};

use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::mark::{self, Dialect, Mark, Opaque};
use acetate_layer::{At, Errno, Kind, Layer};
use acetate_overlay::{Config, Overlay, Redirects, Stack};

use super::view::{Answer, Facts, Merged, Plain, View, names_of};
use super::{Change, ChangeKind, Error, joined, open};

/// How much of two files is read at once to be compared.
const CHUNK_BYTES: usize = 256 * 1024;

/// The changes of a stack; see [`super::of_upper`].
pub(super) fn of_upper(upper: &Path, lowers: &[PathBuf], dialect: Dialect) -> Result<Vec<Change>, Error> {
    // Opened as a lower layer, an upper one cannot be written to by any mistake.
    let new = merged(upper, Some(open(upper)?), lowers, dialect)?;
    if lowers.is_empty() {
        return everything(&&new);
    }
    let old = merged(upper, None, lowers, dialect)?;
    let guide = Guide { layer: open(upper)?, dialect };
    let start = Some(guide.layer.root().clone());
    Walk { old: &&old, new: &&new, guide: Some(guide), found: Vec::new() }.run(start)
}

/// The changes of a plain tree; see [`super::of_tree`].
pub(super) fn of_tree(new: &Path, lowers: &[PathBuf], dialect: Dialect) -> Result<Vec<Change>, Error> {
    let view = Plain::new(open(new)?);
    if lowers.is_empty() {
        return everything(&view);
    }
    let old = merged(new, None, lowers, dialect)?;
    whole(&&old, &view)
}

/// What a stack of layers shows. `shown` is named in errors.
fn merged(
    shown: &Path,
    upper: Option<DirLayer>,
    lowers: &[PathBuf],
    dialect: Dialect,
) -> Result<Merged, Error> {
    let lowers = lowers.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let redirects = match dialect {
        Dialect::Trusted => Redirects::Follow,
        Dialect::User => Redirects::Refuse,
    };
    let config = Config { dialect, redirects, ..Config::default() };
    let overlay = Overlay::new(Stack { upper, lowers, data: Vec::new() }, config, Box::new(|_, _| {}));
    overlay.map(Merged::new).map_err(|source| Error::Stack { upper: shown.to_owned(), source })
}

/// The changes between two views, every object of which is looked at.
pub(super) fn whole<O: View, N: View>(old: &O, new: &N) -> Result<Vec<Change>, Error> {
    Walk { old, new, guide: None, found: Vec::new() }.run(None)
}

/// All of a view as additions, but for its root.
fn everything<V: View>(view: &V) -> Result<Vec<Change>, Error> {
    let (root, _) = view.root().map_err(failed(b"", "stat"))?;
    let mut found = Vec::new();
    visit(view, b"", &root, &mut |path, facts| {
        found.push(change(path.to_vec(), ChangeKind::Added, facts, 0))
    })?;
    Ok(found)
}

/// The paths below a directory of a view.
pub(super) fn below<V: View>(view: &V, path: &[u8], dir: &V::Node) -> Result<Vec<Vec<u8>>, Error> {
    let mut paths = Vec::new();
    visit(view, path, dir, &mut |path, _| paths.push(path.to_vec()))?;
    Ok(paths)
}

/// Tells which names of a merged directory can differ: those that the upper directory holds.
struct Guide {
    layer: DirLayer,
    dialect: Dialect,
}

impl Guide {
    /// The upper directory `name`, if what it does not hold is as in the same directory below: if it neither hides
    /// that nor goes on elsewhere.
    fn enter(&self, dir: &Dir, name: &[u8]) -> Answer<Option<Dir>> {
        let inner = self.layer.open_dir(dir, name)?;
        let mark = |mark| match self.layer.get_xattr(At::Dir(&inner), self.dialect.name(mark)) {
            Err(Errno::OPNOTSUPP) => Ok(None),
            other => other,
        };
        let elsewhere =
            mark::opaque(mark(Mark::Opaque)?.as_deref()) == Opaque::Yes || mark(Mark::Redirect)?.is_some();
        Ok((!elsewhere).then_some(inner))
    }
}

/// A directory that is in both views and is still to be looked into.
struct Pair<O, N> {
    path: Vec<u8>,
    old: O,
    new: N,
    /// The upper directory whose names are the only ones that can differ; without one all do.
    guide: Option<Dir>,
}

/// A directory of two views.
type PairOf<O, N> = Pair<<O as View>::Node, <N as View>::Node>;

/// The walk through both views.
struct Walk<'a, O: View, N: View> {
    old: &'a O,
    new: &'a N,
    guide: Option<Guide>,
    found: Vec<Change>,
}

impl<O: View, N: View> Walk<'_, O, N> {
    fn run(mut self, guide: Option<Dir>) -> Result<Vec<Change>, Error> {
        let old = self.old.root().map_err(failed(b"", "stat"))?;
        let new = self.new.root().map_err(failed(b"", "stat"))?;
        self.compare(b"", &old, &new)?;
        // A list and no recursion: trees may be deeper than the stack.
        let mut todo = vec![Pair { path: Vec::new(), old: old.0, new: new.0, guide }];
        while let Some(pair) = todo.pop() {
            for name in self.names(&pair)? {
                todo.extend(self.name(&pair, &name)?);
            }
        }
        Ok(self.found)
    }

    /// The names that can differ.
    fn names(&self, pair: &Pair<O::Node, N::Node>) -> Result<Vec<Vec<u8>>, Error> {
        if let (Some(guide), Some(dir)) = (&self.guide, &pair.guide) {
            return names_of(&guide.layer, dir).map_err(failed(&pair.path, "list"));
        }
        let mut names = self.old.names(&pair.old).map_err(failed(&pair.path, "list"))?;
        names.extend(self.new.names(&pair.new).map_err(failed(&pair.path, "list"))?);
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Compares what both views have at a name; a directory in both is still to be looked into.
    fn name(&mut self, pair: &Pair<O::Node, N::Node>, name: &[u8]) -> Result<Option<PairOf<O, N>>, Error> {
        let path = joined(&pair.path, name);
        let old = self.old.child(&pair.old, name).map_err(failed(&path, "look up"))?;
        let new = self.new.child(&pair.new, name).map_err(failed(&path, "look up"))?;
        match (old, new) {
            (None, None) => {}
            (Some((node, facts)), None) => {
                let below = self.count_below(&path, &node, &facts)?;
                self.found.push(change(path, ChangeKind::Deleted, &facts, below));
            }
            (None, Some((node, facts))) => {
                self.found.push(change(path.clone(), ChangeKind::Added, &facts, 0));
                self.add_below(&path, &node, &facts)?;
            }
            (Some(old), Some(new)) => {
                self.compare(&path, &old, &new)?;
                if old.1.kind == Kind::Dir && new.1.kind == Kind::Dir {
                    let guide = match (&self.guide, &pair.guide) {
                        (Some(guide), Some(dir)) => guide.enter(dir, name).map_err(failed(&path, "open"))?,
                        _ => None,
                    };
                    return Ok(Some(Pair { path, old: old.0, new: new.0, guide }));
                }
                self.add_below(&path, &new.0, &new.1)?;
            }
        }
        Ok(None)
    }

    /// Compares two objects at one path, and not what is below them.
    fn compare(&mut self, path: &[u8], old: &(O::Node, Facts), new: &(N::Node, Facts)) -> Result<(), Error> {
        let kind = old.1.kind != new.1.kind;
        let content = kind || self.other_content(old, new).map_err(failed(path, "compare the content"))?;
        let metadata = self.other_metadata(old, new).map_err(failed(path, "compare the attributes"))?;
        if content || metadata {
            let below = if kind { self.count_below(path, &old.0, &old.1)? } else { 0 };
            let what = ChangeKind::Changed { content, metadata, kind };
            self.found.push(change(path.to_vec(), what, &new.1, below));
        }
        Ok(())
    }

    fn other_content(&self, old: &(O::Node, Facts), new: &(N::Node, Facts)) -> Answer<bool> {
        match old.1.kind {
            Kind::File => Ok(old.1.size != new.1.size || self.other_data(old, new)?),
            Kind::Symlink => Ok(self.old.read_link(&old.0)? != self.new.read_link(&new.0)?),
            Kind::CharDevice | Kind::BlockDevice => Ok(old.1.rdev != new.1.rdev),
            Kind::Dir | Kind::Fifo | Kind::Socket => Ok(false),
        }
    }

    /// Compares the data of two files of one size.
    fn other_data(&self, old: &(O::Node, Facts), new: &(N::Node, Facts)) -> Answer<bool> {
        if old.1.size == 0 || old.1.identity.is_some() && old.1.identity == new.1.identity {
            return Ok(false);
        }
        let files = (self.old.open(&old.0)?, self.new.open(&new.0)?);
        let (mut a, mut b) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
        let mut offset = 0;
        loop {
            let read = self.old.read(&files.0, offset, &mut a)?;
            if self.new.read(&files.1, offset, &mut b)? != read || a[..read] != b[..read] {
                return Ok(true);
            }
            if read < CHUNK_BYTES {
                return Ok(false);
            }
            offset += read as u64;
        }
    }

    fn other_metadata(&self, old: &(O::Node, Facts), new: &(N::Node, Facts)) -> Answer<bool> {
        // The mode of a symlink means nothing (symlink(7)).
        let mode = |facts: &Facts| if facts.kind == Kind::Symlink { 0 } else { facts.mode };
        Ok(mode(&old.1) != mode(&new.1)
            || old.1.owner != new.1.owner
            || self.old.xattrs(&old.0)? != self.new.xattrs(&new.0)?)
    }

    /// How many objects are below an old one.
    fn count_below(&self, path: &[u8], node: &O::Node, facts: &Facts) -> Result<u64, Error> {
        let mut count = 0;
        if facts.kind == Kind::Dir {
            visit(self.old, path, node, &mut |_, _| count += 1)?;
        }
        Ok(count)
    }

    /// Adds everything below a new object.
    fn add_below(&mut self, path: &[u8], node: &N::Node, facts: &Facts) -> Result<(), Error> {
        if facts.kind != Kind::Dir {
            return Ok(());
        }
        let found = &mut self.found;
        visit(self.new, path, node, &mut |path, facts| {
            found.push(change(path.to_vec(), ChangeKind::Added, facts, 0));
        })
    }
}

/// Calls `each` for every object below a directory, parents before children.
fn visit<V: View>(
    view: &V,
    path: &[u8],
    dir: &V::Node,
    each: &mut dyn FnMut(&[u8], &Facts),
) -> Result<(), Error> {
    let mut todo = Vec::new();
    let mut list = |path: &[u8], dir: &V::Node, todo: &mut Vec<(Vec<u8>, V::Node)>| {
        for name in view.names(dir).map_err(failed(path, "list"))? {
            let path = joined(path, &name);
            // What is gone since it was listed, and a stray whiteout, are nothing.
            let Some((node, facts)) = view.child(dir, &name).map_err(failed(&path, "look up"))? else {
                continue;
            };
            each(&path, &facts);
            if facts.kind == Kind::Dir {
                todo.push((path, node));
            }
        }
        Ok(())
    };
    list(path, dir, &mut todo)?;
    while let Some((path, dir)) = todo.pop() {
        list(&path, &dir, &mut todo)?;
    }
    Ok(())
}

/// A change of the object with those attributes.
fn change(path: Vec<u8>, what: ChangeKind, facts: &Facts, below: u64) -> Change {
    let size = if matches!(facts.kind, Kind::File | Kind::Symlink) { facts.size } else { 0 };
    Change { path, what, kind: facts.kind, size, below }
}

/// Names the object and the step that failed.
fn failed(path: &[u8], step: &'static str) -> impl FnOnce(Errno) -> Error {
    let path = path.to_vec();
    move |errno| Error::Read { path, step, errno }
}
