//! What lies where in a stack of layers: looked up, explained, compared, without mounting it.
//!
//! The rules of lookup are those of the kernel's `ovl_lookup` (docs/semantics.md, "Lookup"), written a second time and
//! for another purpose: the engine finds what a mount shows, this crate also what it does not show, and why. It reads
//! layers through `acetate-layer` only, and it follows `metacopy` marks.

pub mod change;
pub mod check;
pub mod diff;
pub mod explain;
mod lookup;
mod node;

pub mod survey;
pub mod tar;
pub mod text;
mod view;

pub use node::{Hidden, How, Node, Object, Problem, Seen, What};
pub use view::{Data, Facts, View};

use std::path::{Path, PathBuf};

use acetate_layer::Errno;
use acetate_layer::dir::DirLayer;
use acetate_layer::mark::Dialect;

/// Why something could not be found out or done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root of a layer cannot be opened.
    #[error("layer {}: {errno}", path.display())]
    Open {
        /// The root.
        path: PathBuf,
        /// The answer of the filesystem.
        errno: Errno,
    },
    /// An object of a layer cannot be looked at or changed.
    #[error("{}: {step}: {errno}", path.escape_ascii())]
    Object {
        /// The path from the root of the layer.
        path: Vec<u8>,
        /// What was being done.
        step: &'static str,
        /// The answer of the filesystem.
        errno: Errno,
    },
    /// A mark that leads nowhere.
    #[error("{}: {problem}", path.escape_ascii())]
    Broken {
        /// The path from the root of the stack.
        path: Vec<u8>,
        /// What is wrong.
        problem: Problem,
    },
    /// Something cannot be expressed in the form that was asked for.
    #[error("{}: {reason}", path.escape_ascii())]
    Inexpressible {
        /// The path from the root of the stack.
        path: Vec<u8>,
        /// Why not.
        reason: &'static str,
    },
    /// The work directory says that the last mount did not end well, or needs what we do not know.
    #[error("{}: work/incompat is not empty: a volatile mount did not end well", .0.display())]
    Unfinished(PathBuf),
    /// The index of the work directory holds names that only a mount understands.
    #[error("{}: its index is in use (index=on)", .0.display())]
    Indexed(PathBuf),
    /// A lower layer is not on the filesystem of the work directory.
    #[error("{}: it is on another filesystem than the upper layer", .0.display())]
    Elsewhere(PathBuf),
    /// An archive cannot be written.
    #[error("write the archive: {0}")]
    Write(#[from] std::io::Error),
}

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the object and the step that failed.
fn failed(path: &[u8], step: &'static str) -> impl FnOnce(Errno) -> Error {
    let path = path.to_vec();
    move |errno| Error::Object { path, step, errno }
}

/// The path of the entry `name` of the directory `dir`; paths have no slash at their start.
fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// The path of the directory above, and the last component; `None` for the root.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    })
}

/// Whether a layer was written with `compat=extended` (docs/semantics.md, "Where directories can be renamed").
pub(crate) fn is_extended(layer: &DirLayer, dialect: Dialect) -> acetate_layer::Result<bool> {
    let compat = acetate_layer::work::compat(layer)?;
    Ok(dialect == Dialect::User && compat.as_deref() == Some(acetate_layer::mark::EXTENDED))
}

/// Layers over one another, open for reading.
#[derive(Debug)]
pub struct Stack {
    /// The topmost first.
    layers: Vec<DirLayer>,
    paths: Vec<PathBuf>,
    /// How many of them, the last ones, only hold data.
    data: usize,
    has_upper: bool,
    dialect: Dialect,
    /// The upper layer was written with `compat=extended`: its redirects and metacopy marks are followed though they are
    /// `user.overlay.*`.
    extended: bool,
}

impl Stack {
    /// Opens layers, `lowers` with the topmost first. Of the layers `data` nothing is shown: only files that say where in
    /// them their data is are looked for there (overlayfs.rst, "Data-only lower layers"). Nothing can be written through a stack, to no layer; what is
    /// mounted below a layer's root is not seen, where the caller may make a copy of its mount.
    ///
    /// # Errors
    /// A layer that cannot be opened.
    pub fn open_with_data(
        upper: Option<&Path>,
        lowers: &[PathBuf],
        data: &[PathBuf],
        dialect: Dialect,
    ) -> Result<Stack> {
        let all = [lowers, data].concat();
        Ok(Stack { data: data.len(), ..Stack::open(upper, &all, dialect)? })
    }

    /// [`Stack::open_with_data`] without data-only layers.
    ///
    /// # Errors
    /// As there.
    pub fn open(upper: Option<&Path>, lowers: &[PathBuf], dialect: Dialect) -> Result<Stack> {
        let paths: Vec<PathBuf> =
            upper.map(Path::to_owned).into_iter().chain(lowers.iter().cloned()).collect();
        let open = |path: &PathBuf| {
            DirLayer::open_lower(path).map_err(|errno| Error::Open { path: path.clone(), errno })
        };
        let layers = paths.iter().map(open).collect::<Result<Vec<_>>>()?;
        let extended = match (layers.first(), upper) {
            (Some(layer), Some(_)) => is_extended(layer, dialect).map_err(failed(b"", "read a mark"))?,
            _ => false,
        };
        Ok(Stack { layers, paths, data: 0, has_upper: upper.is_some(), dialect, extended })
    }

    /// What all layers show together.
    pub fn merged(&self) -> View<'_> {
        View { stack: self, top: 0 }
    }

    /// What the layers below upper show.
    pub fn below(&self) -> View<'_> {
        View { stack: self, top: usize::from(self.has_upper) }
    }

    /// Whether the topmost layer is the writable one.
    pub fn has_upper(&self) -> bool {
        self.has_upper
    }

    /// The roots of the layers, the topmost first.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Whose marks count.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// A layer; 0 is the topmost, and data-only ones come last.
    pub fn layer(&self, number: usize) -> &DirLayer {
        &self.layers[number]
    }

    /// How many layers there are, data-only ones left out.
    pub fn depth(&self) -> usize {
        self.layers.len() - self.data
    }

    /// The numbers of the data-only layers.
    pub(crate) fn data_layers(&self) -> std::ops::Range<usize> {
        self.depth()..self.layers.len()
    }
}
