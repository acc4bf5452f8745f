//! What an upper directory changes relative to what lies below it, and what one tree changes relative to another.
//!
//! Two views are walked side by side ([`compare`]). What a stack of layers shows is asked of the engine ([`view`]), so
//! that marks, whiteouts and redirects mean here what they mean in a mount.
//!
//! Not compared: times, inode numbers, link counts, inode flags, and how much space a file takes.

mod compare;
mod view;

use std::path::{Path, PathBuf};

use acetate_layer::dir::DirLayer;
use acetate_layer::mark::Dialect;
use acetate_layer::{Errno, Kind};
use acetate_overlay::OpError;

/// How an object differs from what was at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is gone, and all that was below it.
    Deleted,
    /// There was nothing at its path.
    Added,
    /// There was something at its path already. At least one of the three is set.
    Changed {
        /// Other data: of a file, a symlink's target, a device's number; always set with `kind`.
        content: bool,
        /// Another mode, owner, group, extended attribute or access control list.
        metadata: bool,
        /// Another type of object.
        kind: bool,
    },
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path from the root of the tree, without a slash at its start; empty for the root itself.
    pub path: Vec<u8>,
    /// How it differs.
    pub what: ChangeKind,
    /// The type of the new object; of the old one if it is deleted.
    pub kind: Kind,
    /// Length in bytes of that object's file data or symlink target; 0 for all other types.
    pub size: u64,
    /// How many objects below a directory vanish with it, if it is deleted or becomes something else. They have no
    /// changes of their own.
    pub below: u64,
}

/// Why trees could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root of a tree cannot be opened.
    #[error("{}: {errno}", path.display())]
    Open {
        /// The root.
        path: PathBuf,
        /// The answer of the filesystem.
        errno: Errno,
    },
    /// The layers make no stack.
    #[error("{}: cannot be put over the layers below: {source}", upper.display())]
    Stack {
        /// The upper directory.
        upper: PathBuf,
        /// The engine's answer.
        source: OpError,
    },
    /// An object cannot be looked at.
    #[error("{}: {step}: {errno}", path.escape_ascii())]
    Read {
        /// The path from the root of the tree.
        path: Vec<u8>,
        /// What was being done.
        step: &'static str,
        /// The answer of the filesystem or the engine.
        errno: Errno,
    },
}

/// What the directory `upper` changes when it lies over `lowers` (topmost first; none is an empty tree).
///
/// A copied-up object that equals the one below is no change, and neither is a directory whose own attributes are as
/// below. Nothing is written, to no layer; what is mounted below a layer's root does not count, where the caller may
/// make a copy of its mount. The changes come in the order of [`by_path`].
///
/// # Errors
/// A layer that cannot be opened or read; a mark that the engine does not follow (`metacopy`), with `EPERM`.
pub fn of_upper(upper: &Path, lowers: &[PathBuf], dialect: Dialect) -> Result<Vec<Change>, Error> {
    let mut changes = compare::of_upper(upper, lowers, dialect)?;
    by_path(&mut changes);
    Ok(changes)
}

/// What the tree `new` changes relative to the tree `old`. Both are taken as they are: a character device 0:0 is a
/// device and no extended attribute is private. The changes come in the order of [`by_path`].
///
/// # Errors
/// A tree that cannot be opened or read.
pub fn between(old: &Path, new: &Path) -> Result<Vec<Change>, Error> {
    let views = (view::Plain::new(open(old)?), view::Plain::new(open(new)?));
    let mut changes = compare::whole(&views.0, &views.1)?;
    by_path(&mut changes);
    Ok(changes)
}

/// What the plain tree `new` changes relative to what `lowers` (topmost first) show merged. The changes come in the
/// order of [`by_path`].
///
/// # Errors
/// As [`of_upper`].
pub fn of_tree(new: &Path, lowers: &[PathBuf], dialect: Dialect) -> Result<Vec<Change>, Error> {
    let mut changes = compare::of_tree(new, lowers, dialect)?;
    by_path(&mut changes);
    Ok(changes)
}

/// All objects below the directory `path` of the tree `root`, as paths from the root, parents before children.
///
/// # Errors
/// A tree that cannot be opened or read; `ENOENT` if there is no such directory.
pub fn objects_below(root: &Path, path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let view = view::Plain::new(open(root)?);
    let dir = view::find(&view, path)?;
    let mut below = compare::below(&view, path, &dir)?;
    below.sort();
    Ok(below)
}

/// Sorts by the bytes of the paths.
pub fn by_path(changes: &mut [Change]) {
    changes.sort_by(|a, b| a.path.cmp(&b.path));
}

/// The place of a change in the order of [`by_importance`].
pub(crate) fn rank(what: ChangeKind) -> u8 {
    match what {
        ChangeKind::Deleted => 0,
        ChangeKind::Changed { kind: true, .. } => 1,
        ChangeKind::Changed { .. } => 2,
        ChangeKind::Added => 3,
    }
}

/// Sorts by what a reader has to see first: deletions, then what becomes another type, other changes, additions; each by
/// the bytes of the paths.
pub fn by_importance(changes: &mut [Change]) {
    changes.sort_by(|a, b| rank(a.what).cmp(&rank(b.what)).then_with(|| a.path.cmp(&b.path)));
}

/// Opens a directory for reading, whatever is to be read of it.
fn open(path: &Path) -> Result<DirLayer, Error> {
    DirLayer::open_lower(path).map_err(|errno| Error::Open { path: path.to_owned(), errno })
}

/// The path of the entry `name` of the directory `dir`.
fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
