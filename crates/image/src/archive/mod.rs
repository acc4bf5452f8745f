//! tar archives as layers use them.
//!
//! The header itself is read and written by the `tar` crate. What is around it is done here, because that crate ends a
//! PAX record at the first newline byte (file capabilities and other binary attributes hold such bytes), does not know
//! sparse files of PAX format 1.0 (GNU tar manual, "Storing Sparse Files"), and does not tell data from the bytes
//! around it, which [`crate::split`] keeps.

mod pax;
mod read;
mod write;

pub use read::Reader;
pub use write::Writer;

use acetate_layer::{Kind, Rdev, Time};

/// What an entry of an archive makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// An object of its own.
    Object(Kind),
    /// Another name of an earlier entry.
    HardLink,
}

/// An entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path as the archive has it.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: EntryKind,
    /// The target of a symlink, or the path of the entry that a hard link names.
    pub link: Vec<u8>,
    /// Permission bits with set-id and sticky bits (`07777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Size of the file in bytes, holes included.
    pub size: u64,
    /// Device number of a device node, else zero.
    pub rdev: Rdev,
    /// Extended attributes, by the names that programs see.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offsets and lengths in bytes of the data in a sparse file; `None` where all of it is data.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// The unit of archives in bytes.
const BLOCK: usize = 512;

/// How many bytes fill up the last block of `size` bytes.
fn padding(size: u64) -> usize {
    (BLOCK as u64 - 1 - (size + BLOCK as u64 - 1) % BLOCK as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_the_last_block() {
        assert_eq!([0, 1, 511, 512, 513].map(padding), [0, 511, 1, 0, 511]);
    }
}
