//! The journal: what is to be done to the live tree, written before anything is.
//!
//! An operation exchanges what is at a path with what waits in a *slot*; either side may be empty. So adding, replacing
//! and deleting are one rename each, undoing is the same again, and which of the two states holds is seen by the inode
//! numbers, which the journal records. Attributes of directories that stay are set in place, any number of times.

use super::Bytes;
use super::seal::Seal;
use crate::error::{Error, Result, Step};
use crate::record;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const SCHEMA: &str = "acetate-try-journal-1";

/// How far applying is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// New objects are being made ready; the live tree is as it was.
    Staging,
    /// They are ready; operations are being done.
    Applying,
    /// All are done; originals are kept.
    Applied,
    /// Operations are being undone.
    Undoing,
    /// All are undone; what was kept is being removed.
    Undone,
}

/// One exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Swap {
    /// The overlay, and the path below its directory.
    pub cover: usize,
    pub path: Bytes,
    /// Which directory of slots; the slot's name there is the number of the operation.
    pub side: usize,
    /// Something new comes to the path; its inode number once it is ready.
    pub brings: bool,
    pub new: Option<u64>,
    /// The inode number of the original, if there is one.
    pub old: Option<u64>,
    /// Modification times of directories, the new one's and the original's: a filesystem may change them at a rename.
    pub new_time: Option<(i64, u32)>,
    pub old_time: Option<(i64, u32)>,
    /// What is at the path once all is applied.
    pub applied: Option<Seal>,
}

/// Attributes of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Bytes, Bytes>,
}

/// A directory that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stays {
    pub cover: usize,
    pub path: Bytes,
    pub before: Attributes,
    pub after: Attributes,
}

/// One application of some or all changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    schema: String,
    pub number: u64,
    pub phase: Phase,
    /// The changes that it applies, by their place in changes.json.
    pub items: Vec<usize>,
    /// The directories of slots.
    pub sides: Vec<Bytes>,
    pub swaps: Vec<Swap>,
    /// Deepest first.
    pub stays: Vec<Stays>,
}

impl Journal {
    pub(super) fn new(number: u64, items: Vec<usize>) -> Journal {
        Journal {
            schema: SCHEMA.into(),
            number,
            phase: Phase::Staging,
            items,
            sides: Vec::new(),
            swaps: Vec::new(),
            stays: Vec::new(),
        }
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Applied
    }

    fn path(&self, dir: &Path) -> PathBuf {
        dir.join("journal").join(self.number.to_string())
    }

    /// Records a phase, durably.
    pub(super) fn enter(&mut self, dir: &Path, phase: Phase) -> Result<()> {
        self.phase = phase;
        record::write_json(&self.path(dir), &dir.join("journal.new"), self)
    }

    /// Removes the directories of slots with all that is in them.
    pub(super) fn remove_kept(&self) -> Result<()> {
        for side in &self.sides {
            keeping_times(side.path(), || crate::root::remove(side.path()))?;
        }
        Ok(())
    }

    /// Removes the record itself.
    pub(super) fn remove(&self, dir: &Path) -> Result<()> {
        let path = self.path(dir);
        fs::remove_file(&path).step("remove", &path)?;
        record::sync_parent(&path)
    }
}

/// Makes or removes something in a directory of the live tree, which keeps its times where they are ours to set.
pub(super) fn keeping_times<T>(path: &Path, change: impl FnOnce() -> T) -> T {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, stat, utimensat};
    let parent = path.parent().unwrap_or(Path::new("/"));
    let before = stat(parent);
    let result = change();
    if let Ok(before) = before {
        let time = |sec, nsec: u64| Timespec { tv_sec: sec, tv_nsec: nsec.cast_signed() };
        let times = Timestamps {
            last_access: time(before.st_atime, before.st_atime_nsec),
            last_modification: time(before.st_mtime, before.st_mtime_nsec),
        };
        // Nothing depends on them.
        let _not_ours = utimensat(CWD, parent, &times, AtFlags::empty());
    }
    result
}

/// The journals of a try, oldest first.
pub(super) fn all(dir: &Path) -> Result<Vec<Journal>> {
    let part = dir.join("journal");
    let mut journals: Vec<Journal> = Vec::new();
    if !part.is_dir() {
        return Ok(journals);
    }
    for name in record::names(&part)? {
        journals.extend(record::read_json::<Journal>(&part.join(name))?);
    }
    if let Some(other) = journals.iter().find(|journal| journal.schema != SCHEMA) {
        let reason = format!("it has schema {}, this program knows {SCHEMA}", other.schema);
        return Err(Error::Record { path: other.path(dir), reason });
    }
    journals.sort_by_key(|journal| journal.number);
    Ok(journals)
}
