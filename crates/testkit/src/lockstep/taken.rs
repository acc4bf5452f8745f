//! Where the kernel loses what has taken a name (docs/semantics.md, difference 31).
//!
//! A special file or directory of a lower layer is open, and its name is another object's by now, or has a whiteout.
//! A change through the descriptor makes the kernel copy it up to that name, over what is there. Acetate refuses the
//! change and keeps what is there. That this has happened is read off the upper layers, not off what the calls said.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FileType, lstat};
use rustix::io::Errno;

use super::attrs::type_word;
use super::exec::Outcome;
use super::op::{Op, Target};
use super::text::unescape;

/// An object of a layer, as far as it takes to know whether it is still the same one.
type Object = (u64, FileType);

/// The name that an open object has lost, and what has it instead in each upper layer.
#[derive(Debug)]
pub struct Taken {
    /// Relative to the root of the mount.
    name: PathBuf,
    /// The word for the type of the open object.
    kind: String,
    objects: [Option<Object>; 2],
}

/// Returns the slot through which `op` changes an object, if any.
pub fn changed_slot(op: &Op) -> Option<u8> {
    match op {
        Op::Chmod { target: Target::Slot(slot), .. }
        | Op::Chown { target: Target::Slot(slot), .. }
        | Op::Utimens { target: Target::Slot(slot), .. }
        | Op::Setxattr { target: Target::Slot(slot), .. }
        | Op::Removexattr { target: Target::Slot(slot), .. }
        | Op::Link { old: Target::Slot(slot), .. } => Some(*slot),
        _ => None,
    }
}

impl Taken {
    /// Looks before a call what has the name of the open object that the worker of the kernel's side described as
    /// `there` ([`super::exec::whereabouts`]). `None` if the object still has its name, is a regular file (the kernel
    /// links those, and links replace nothing), or nothing has the name.
    ///
    /// # Errors
    /// The upper layers cannot be read, or the object is not below `merged`.
    pub fn look(there: &Outcome, merged: &Path, uppers: [&Path; 2]) -> Result<Option<Self>> {
        let Outcome::Done(fields) = there else { return Ok(None) };
        let field = |key: &str| {
            let found = fields.iter().find(|(name, _)| name == key);
            found.map(|(_, value)| value.as_str()).with_context(|| format!("no {key} in {there}"))
        };
        let kind = field("type")?.to_owned();
        let path = unescape(field("path")?)?;
        let Some(path) = path.strip_suffix(b" (deleted)") else { return Ok(None) };
        if kind == "file" {
            return Ok(None);
        }
        let root = merged.canonicalize().with_context(|| format!("cannot resolve {}", merged.display()))?;
        let path = Path::new(OsStr::from_bytes(path));
        let name = path.strip_prefix(&root).with_context(|| format!("{} is elsewhere", path.display()))?;
        let objects = [object(&uppers[0].join(name))?, object(&uppers[1].join(name))?];
        Ok(Some(Self { name: name.to_path_buf(), kind, objects }))
    }

    /// Returns whether the call has put a copy of the open object in the place of what has its name, on that side.
    ///
    /// # Errors
    /// The upper layer cannot be read.
    pub fn is_lost(&self, side: usize, uppers: [&Path; 2]) -> Result<bool> {
        let now = object(&uppers[side].join(&self.name))?;
        let copied = now.is_some_and(|(_, kind)| type_word(kind) == self.kind);
        Ok(copied && self.objects[side].is_some() && now != self.objects[side])
    }

    /// Returns why `outcome` of the call on a side that must not lose anything is wrong; `None` if it is right.
    ///
    /// # Errors
    /// The upper layer cannot be read.
    pub fn wrong(&self, side: usize, uppers: [&Path; 2], outcome: &Outcome) -> Result<Option<String>> {
        let refusal = if self.kind == "dir" { "ENOTDIR" } else { "EEXIST" };
        if *outcome != Outcome::Failed(refusal.to_owned()) {
            return Ok(Some(format!("{outcome} instead of {refusal}")));
        }
        let kept = object(&uppers[side].join(&self.name))? == self.objects[side];
        Ok((!kept).then(|| format!("{} is another object now", self.name.display())))
    }
}

/// What lies at a path, if anything does.
fn object(path: &Path) -> Result<Option<Object>> {
    match lstat(path) {
        Ok(stat) => Ok(Some((stat.st_ino, FileType::from_raw_mode(stat.st_mode)))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot stat {}", path.display())),
    }
}
