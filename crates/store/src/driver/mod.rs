//! How a stack of layers becomes a tree that can be used.
//!
//! A *driver* is one way to make a workspace of layers: [`kernel`] and `fuse` show the layers merged, [`btrfs`] takes a
//! snapshot, `reflink` and `copy` make a [`tree`] of their own. [`probe`] tries which of them work in a directory;
//! nothing is guessed from names or versions. What each one costs: docs/drivers.md.

pub mod btrfs;
pub mod kernel;
mod probe;
pub mod tree;

pub use probe::{ProbeError, Verdict, choose, probe};

use acetate_sys::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The ways to make a workspace, in the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverName {
    /// An overlayfs mount of the kernel.
    Kernel,
    /// A mount that the `acetate mount` daemon serves.
    Fuse,
    /// A snapshot of a btrfs subvolume.
    Btrfs,
    /// A tree of clones (FICLONE).
    Reflink,
    /// A tree of copies.
    Copy,
}

impl DriverName {
    /// All of them, in the order of preference.
    pub const ALL: [DriverName; 5] =
        [DriverName::Kernel, DriverName::Fuse, DriverName::Btrfs, DriverName::Reflink, DriverName::Copy];

    /// The name as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            DriverName::Kernel => "kernel",
            DriverName::Fuse => "fuse",
            DriverName::Btrfs => "btrfs",
            DriverName::Reflink => "reflink",
            DriverName::Copy => "copy",
        }
    }

    /// What a workspace costs, in a few words.
    pub const fn cost(self) -> &'static str {
        match self {
            DriverName::Kernel => "a mount; a file is copied when it is first changed",
            DriverName::Fuse => "a mount and a process; a file is copied when it is first changed",
            DriverName::Btrfs => "a snapshot; changed blocks only",
            DriverName::Reflink => "an inode for each file; changed blocks only",
            DriverName::Copy => "a full copy of all files",
        }
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a driver's work failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Making a tree.
    #[error(transparent)]
    Tree(#[from] tree::TreeError),
    /// Work on subvolumes.
    #[error(transparent)]
    Btrfs(#[from] btrfs::BtrfsError),
    /// Trying what works.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// Mounting.
    #[error(transparent)]
    Mount(#[from] kernel::MountError),
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Tree(error) => error.hint(),
            Error::Btrfs(error) => error.hint(),
            Error::Probe(error) => error.hint(),
            Error::Mount(error) => error.hint(),
        }
    }
}

/// A word that names no driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no driver is called {0:?}: there are kernel, fuse, btrfs, reflink and copy")]
pub struct UnknownDriver(pub String);

impl FromStr for DriverName {
    type Err = UnknownDriver;

    fn from_str(word: &str) -> Result<DriverName, UnknownDriver> {
        let named = DriverName::ALL.into_iter().find(|driver| driver.as_str() == word);
        named.ok_or_else(|| UnknownDriver(word.to_owned()))
    }
}

/// What an errno means, in lower case and without its number.
fn cause(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for driver in DriverName::ALL {
            assert_eq!(driver.to_string().parse(), Ok(driver));
            assert_eq!(serde_json::to_string(&driver).unwrap(), format!("\"{driver}\""));
        }
        assert_eq!("Kernel".parse::<DriverName>(), Err(UnknownDriver("Kernel".into())));
    }
}
