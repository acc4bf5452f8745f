//! Plain trees made of layers: for the drivers `btrfs`, `reflink` and `copy`.
//!
//! A plain tree holds what an overlay mount of the layers would show: whiteouts and opaque directories are applied,
//! private attributes are gone. Kept are owner, mode, times to the nanosecond, extended attributes with ACLs and
//! capabilities, holes, devices, fifos, sockets, symlinks, and the hard links within one layer.
//!
//! Trees are made bottom to top: applying a layer to the tree of those below it gives the tree with it. That is the same
//! as looking each name up from the top, as a mount does, because a layer decides about a name or leaves it alone.

pub(crate) mod attributes;
mod data;
mod merge;
mod remove;

use acetate_layer::dir::{DirLayer, is_within};
use acetate_layer::mark::Dialect;
use acetate_layer::{Errno, Layer};
use merge::Merge;
use std::fs::DirBuilder;
use std::ops::AddAssign;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// How the data of files is brought over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Shared until it is changed (FICLONE) where source and target are on one filesystem that can, else copied.
    Clone,
    /// Read and written, so that nothing is shared.
    Copy,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Directories made or given new attributes.
    pub dirs: u64,
    /// Regular files made.
    pub files: u64,
    /// Further names of files and other objects.
    pub links: u64,
    /// Symlinks, devices, fifos and sockets made.
    pub others: u64,
    /// Names removed by whiteouts, opaque directories and objects of another type; of directories only the topmost.
    pub removed: u64,
    /// Size of the files made in bytes, holes and shared data included.
    pub bytes: u64,
    /// Extended attributes that the target cannot hold or that we may not set; never ACLs or capabilities.
    pub xattrs_lost: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, more: Totals) {
        self.dirs += more.dirs;
        self.files += more.files;
        self.links += more.links;
        self.others += more.others;
        self.removed += more.removed;
        self.bytes += more.bytes;
        self.xattrs_lost += more.xattrs_lost;
    }
}

/// Why a tree was not made.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A directory cannot be opened.
    #[error("{path:?} cannot be opened")]
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The new directory cannot be made.
    #[error("{path:?} cannot be made")]
    Make {
        /// Which one.
        path: PathBuf,
        /// Why; `EEXIST` if there is something already.
        #[source]
        errno: Errno,
    },
    /// One of the two directories lies within the other.
    #[error("{inner:?} lies within {outer:?}")]
    Overlap {
        /// The one within.
        inner: PathBuf,
        /// The one around it.
        outer: PathBuf,
    },
    /// A layer was made with features that only a mount can resolve.
    #[error("{path:?} carries the mark {mark}, which only a mount can follow")]
    Unsupported {
        /// The object.
        path: PathBuf,
        /// The name of the mark without its prefix.
        mark: &'static str,
    },
    /// A step failed.
    #[error("{what} {path:?}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// With which object.
        path: PathBuf,
        /// Why it failed.
        #[source]
        errno: Errno,
    },
}

impl TreeError {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            TreeError::Open { .. } => "check that it is a directory, and its permissions",
            TreeError::Make { errno: Errno::EXIST, .. } => "choose a path that does not exist yet",
            TreeError::Make { .. } => "check the directory above it and its permissions",
            TreeError::Overlap { .. } => "choose a target apart from the layers",
            TreeError::Unsupported { .. } => {
                "use the driver kernel or fuse, or make the layer with redirect_dir=off"
            }
            TreeError::Failed { errno: Errno::NOSPC | Errno::DQUOT, .. } => {
                "make room, or use a driver that copies nothing (acetate driver)"
            }
            TreeError::Failed { errno: Errno::PERM | Errno::ACCESS, .. } => {
                "owners, devices and attributes of other users need root"
            }
            TreeError::Failed { .. } => "the tree is incomplete: remove it and try again",
        }
    }
}

/// Makes the new directory `target` the merged tree of `lowers`, topmost first, whose marks are in the namespace `marks`.
///
/// Nothing is synced. On failure what was made is removed again.
///
/// # Errors
/// [`TreeError`].
pub fn flatten(lowers: &[PathBuf], target: &Path, marks: Dialect, how: How) -> Result<Totals, TreeError> {
    in_new_dir(target, |target| {
        let mut totals = Totals::default();
        for layer in lowers.iter().rev() {
            totals += apply(layer, target, marks, how)?;
        }
        Ok(totals)
    })
}

/// Applies one layer, whose marks are in the namespace `marks`, to the plain tree `target`.
///
/// The root of the tree takes on the attributes of the layer's root. On failure the tree is left half changed, and is of
/// no use but to be removed. Sets the umask of the process to zero.
///
/// # Errors
/// [`TreeError`].
pub fn apply(layer: &Path, target: &Path, marks: Dialect, how: How) -> Result<Totals, TreeError> {
    bring(layer, target, Some(marks), how)
}

/// Makes the new directory `to` a copy of the plain tree `from`: no attribute and no device in it has a meaning.
///
/// # Errors
/// [`TreeError`]. What was made is removed again.
pub fn clone_tree(from: &Path, to: &Path, how: How) -> Result<Totals, TreeError> {
    in_new_dir(to, |to| bring(from, to, None, how))
}

/// Removes whatever is at `path` with all below it, however deep; modes that forbid it to its owner are changed. Returns
/// whether there was anything. A symlink at `path` is removed itself. Subvolumes in it have to be empty.
///
/// # Errors
/// [`TreeError::Open`] about the directory above, [`TreeError::Failed`].
pub fn remove_tree(path: &Path) -> Result<bool, TreeError> {
    let failed = |errno| TreeError::Failed { what: "remove", path: path.into(), errno };
    let name = path.file_name().ok_or_else(|| failed(Errno::INVAL))?;
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    let layer = DirLayer::open_upper(above).map_err(|errno| TreeError::Open { path: above.into(), errno })?;
    remove::remove(&layer, layer.root(), name.as_bytes()).map_err(failed)
}

fn bring(from: &Path, to: &Path, marks: Option<Dialect>, how: How) -> Result<Totals, TreeError> {
    let open_error = |path: &Path| {
        let path = path.to_path_buf();
        move |errno| TreeError::Open { path, errno }
    };
    let source = DirLayer::open_lower(from).map_err(open_error(from))?;
    let target = DirLayer::open_upper(to).map_err(open_error(to))?;
    for (inner, outer) in [(to, from), (from, to)] {
        if is_within(inner, outer).map_err(open_error(inner))? {
            return Err(TreeError::Overlap { inner: inner.into(), outer: outer.into() });
        }
    }
    Merge::new(&source, &target, marks, how).run().map_err(|stopped| stopped.explain(from, to))
}

/// Makes a directory and fills it; removes it again if that fails.
fn in_new_dir(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<Totals, TreeError>,
) -> Result<Totals, TreeError> {
    DirBuilder::new().mode(0o700).create(path).map_err(|error| TreeError::Make {
        path: path.into(),
        errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    })?;
    fill(path).inspect_err(|_| {
        // Why it failed matters more than what is left of it.
        let _left_behind = remove_tree(path);
    })
}
