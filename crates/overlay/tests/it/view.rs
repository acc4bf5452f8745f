//! What a user sees of a tree, as one value.

use std::collections::BTreeMap;
use std::fmt;

use acetate_layer::{Kind, Rdev};

use crate::op::{Op, Outcome};
use crate::stack::{Path, show};

/// When the content was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// At this time, which nobody but the test has set.
    At(i64),
    /// Since the test began.
    Now,
    /// Not said.
    Unknown,
}

impl Changed {
    /// What a clock that started far ahead of all times set by the tests says.
    pub fn from_seconds(seconds: i64) -> Self {
        if seconds < 1_000_000 { Self::At(seconds) } else { Self::Now }
    }
}

/// One name and the object behind it.
#[derive(Clone, PartialEq, Eq)]
pub struct View {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: Rdev,
    /// Of a file, or the target of a symlink.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub changed: Changed,
    /// The first path in order with the same inode number.
    pub same_as: Path,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, mode, uid, gid, nlink, rdev, changed, .. } = self;
        write!(f, "{kind:?} {mode:04o} {uid}:{gid} links {nlink} {}:{} {changed:?}", rdev.major, rdev.minor)?;
        let start = self.content.len().saturating_sub(40);
        write!(f, " {} bytes \"{}\"", self.content.len(), self.content[start..].escape_ascii())?;
        for (name, value) in &self.xattrs {
            write!(f, " {}=\"{}\"", name.escape_ascii(), value.escape_ascii())?;
        }
        write!(f, " as {}", show(&self.same_as))
    }
}

/// All names of a tree, the root's empty path among them.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<Path, View>);

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, view) in &self.0 {
            writeln!(f, "{} {view:?}", show(path))?;
        }
        Ok(())
    }
}

impl Tree {
    /// The lines in which `self` (what should be) and `other` (what is) differ; `None` if they agree. Times that
    /// `self` does not know are not compared.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let mut text = String::new();
        let paths: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        for path in paths {
            let (expected, mut got) = (self.0.get(path), other.0.get(path).cloned());
            if let (Some(expected), Some(got)) = (expected, &mut got)
                && expected.changed == Changed::Unknown
            {
                got.changed = Changed::Unknown;
            }
            if expected != got.as_ref() {
                let line = |view: Option<&View>| view.map_or("absent".to_owned(), |view| format!("{view:?}"));
                text += &format!(
                    "{}\n  should be {}\n  is        {}\n",
                    show(path),
                    line(expected),
                    line(got.as_ref())
                );
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

/// An overlay under test.
pub trait Subject {
    /// Performs one operation.
    fn apply(&mut self, op: &Op) -> Outcome;

    /// Looks at everything.
    fn walk(&mut self) -> Tree;

    /// Inode numbers of all paths.
    fn numbers(&mut self) -> BTreeMap<Path, u64>;

    /// Ends the mount and mounts the same layers again.
    fn remount(&mut self);
}
