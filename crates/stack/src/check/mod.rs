//! What is wrong with an upper layer and its work directory.
//!
//! Checking reads; [`repair::Mender`] changes, one finding at a time.

mod index;
pub mod repair;
mod walk;

use std::path::Path;

use acetate_layer::dir::DirLayer;
use acetate_layer::{At, Errno, Layer};

use crate::{Error, Result, Stack};
pub use repair::{Mender, Repair};

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which kind.
    pub kind: Kind,
    /// The directory that `path` is in.
    pub place: Place,
    /// Where; empty for the directory itself.
    pub path: Vec<u8>,
    /// What is wrong, in words.
    pub what: String,
    /// What would mend it; nothing if that is for people to decide.
    pub repair: Option<Repair>,
}

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the upper layer.
    Upper,
    /// In the work directory.
    Work,
}

/// Kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A redirect that is malformed, leads nowhere, or is not followed by this mount.
    RedirectBroken,
    /// Two paths lead to one lower directory, which no mount shows twice.
    RedirectDuplicate,
    /// A whiteout that hides nothing.
    WhiteoutOrphan,
    /// A copy whose origin is gone, or whose origin mark cannot be read.
    OriginStale,
    /// A merged directory whose origin is another lower directory than the one at its path: the lower layers were
    /// changed or replaced.
    LowerChanged,
    /// An entry of the index without the object that it stands for, or an index of another upper layer.
    IndexStale,
    /// A metacopy file whose data is nowhere.
    MetacopyNoData,
    /// A directory with copies in it that is not marked so; its listings show wrong inode numbers.
    ImpureMissing,
    /// What a process that was killed left in the staging directory.
    WorkLeftover,
    /// A feature that keeps others from mounting, or a volatile mount that did not end well.
    WorkIncompatible,
    /// Marks that another program or format made.
    ForeignMark,
}

impl Kind {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::RedirectBroken => "redirect-broken",
            Self::RedirectDuplicate => "redirect-duplicate",
            Self::WhiteoutOrphan => "whiteout-orphan",
            Self::OriginStale => "origin-stale",
            Self::LowerChanged => "lower-changed",
            Self::IndexStale => "index-stale",
            Self::MetacopyNoData => "metacopy-no-data",
            Self::ImpureMissing => "impure-missing",
            Self::WorkLeftover => "work-leftover",
            Self::WorkIncompatible => "work-incompatible",
            Self::ForeignMark => "foreign-mark",
        }
    }
}

/// All that is wrong with the upper layer of a stack and its work directory.
///
/// Origins are not looked at where file handles cannot be resolved (that takes `CAP_DAC_READ_SEARCH`).
///
/// # Errors
/// A layer that cannot be read.
pub fn check(stack: &Stack, work: Option<&Path>) -> Result<Vec<Finding>> {
    if !stack.has_upper() {
        return Ok(Vec::new());
    }
    let origins = Origins { stack, usable: handles_work(stack)? };
    let mut found = walk::Walk::new(stack, &origins).run()?;
    if let Some(work) = work {
        let layer =
            DirLayer::open_lower(work).map_err(|errno| Error::Open { path: work.to_owned(), errno })?;
        found.extend(index::staging(&layer)?);
        found.extend(index::index(&layer, stack, &origins)?);
    }
    Ok(found)
}

/// Whether file handles of the lower layers can be resolved: asked of their roots.
fn handles_work(stack: &Stack) -> Result<bool> {
    for number in 1..stack.depth() {
        let layer = stack.layer(number);
        let handle = layer.handle(At::Dir(layer.root())).map_err(crate::failed(b"", "get a handle"))?;
        let Some(handle) = handle else { return Ok(false) };
        match layer.resolve(&handle) {
            Ok(Some(_)) => {}
            Ok(None) | Err(Errno::PERM) => return Ok(false),
            Err(errno) => return Err(crate::failed(b"", "resolve a handle")(errno)),
        }
    }
    Ok(stack.depth() > 1)
}

/// Finds lower objects by their handles.
struct Origins<'a> {
    stack: &'a Stack,
    usable: bool,
}

/// What an origin mark leads to.
enum Origin {
    /// It cannot be told.
    Unknown,
    /// The value is none.
    Invalid,
    /// Nothing.
    Gone,
    /// This object, by device and inode number.
    Object(u64, u64),
}

impl Origins<'_> {
    fn find(&self, path: &[u8], value: &[u8]) -> Result<Origin> {
        let handle = match acetate_layer::mark::Origin::decode(value) {
            acetate_layer::mark::Origin::Known(handle) => handle,
            acetate_layer::mark::Origin::Unknown => return Ok(Origin::Unknown),
            acetate_layer::mark::Origin::Invalid => return Ok(Origin::Invalid),
        };
        if !self.usable {
            return Ok(Origin::Unknown);
        }
        for number in 1..self.stack.depth() {
            let found = self.stack.layer(number).resolve(&handle);
            if let Some(stat) = found.map_err(crate::failed(path, "find the origin"))? {
                return Ok(Origin::Object(stat.dev, stat.ino));
            }
        }
        Ok(Origin::Gone)
    }
}
