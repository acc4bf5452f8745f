//! What a stat, an xattr list and an error say, in a form that two runs can be compared by.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::text::escape;

/// Times after this moment (2020) were assigned by the kernel during the run: every time that a
/// script sets lies before it. Seconds since 1970.
const NEW_SINCE_SEC: i64 = 1_577_836_800;

/// Named values in the order in which they are printed.
pub type Fields = Vec<(String, String)>;

/// Returns an exact old time, or `now` for one that the kernel assigned during the run.
pub fn time_class(sec: i64, nsec: u64) -> String {
    if sec >= NEW_SINCE_SEC { "now".to_owned() } else { format!("{sec}.{nsec}") }
}

/// Returns the word for a file type.
pub fn type_word(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "sock",
        FileType::CharacterDevice => "chr",
        FileType::BlockDevice => "blk",
        FileType::Unknown => "unknown",
    }
}

/// Returns what a stat says that two mounts of identical stacks must agree on, and `ino` and `dev`
/// as plain numbers, which the caller has to replace by something comparable.
///
/// The size of a directory is left out: it says how the filesystem below packs names.
pub fn stat_fields(stat: &Stat) -> Fields {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut fields = vec![
        ("type".to_owned(), type_word(kind).to_owned()),
        ("mode".to_owned(), format!("{:o}", stat.st_mode & 0o7777)),
        ("uid".to_owned(), stat.st_uid.to_string()),
        ("gid".to_owned(), stat.st_gid.to_string()),
        ("nlink".to_owned(), stat.st_nlink.to_string()),
        ("atime".to_owned(), time_class(stat.st_atime, stat.st_atime_nsec)),
        ("mtime".to_owned(), time_class(stat.st_mtime, stat.st_mtime_nsec)),
        ("ino".to_owned(), stat.st_ino.to_string()),
        ("dev".to_owned(), stat.st_dev.to_string()),
    ];
    if kind != FileType::Directory {
        fields.push(("size".to_owned(), stat.st_size.to_string()));
    }
    if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        fields.push(("rdev".to_owned(), format!("{major}:{minor}")));
    }
    fields
}

/// Splits the answer of listxattr into names, sorted.
pub fn xattr_names(list: &[u8]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> =
        list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort();
    names
}

/// The largest xattr value and the largest list of names that Linux allows, bytes.
pub const XATTR_MAX: usize = 65536;

/// An xattr with its value, or why that cannot be read.
pub type Xattr = (Vec<u8>, Result<Vec<u8>, Errno>);

/// Reads all xattrs of `path` itself (not of what a symlink points to), sorted by name. A value
/// that cannot be read stands as its error, since a listed name without value is a difference too.
///
/// # Errors
/// Only when the names cannot be listed.
pub fn xattrs(path: &Path) -> Result<Vec<Xattr>> {
    let mut list = Vec::with_capacity(XATTR_MAX);
    match rustix::fs::llistxattr(path, spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list xattrs of {}", path.display())),
    }
    let read = |name: Vec<u8>| {
        let mut value = Vec::with_capacity(XATTR_MAX);
        let got = rustix::fs::lgetxattr(path, name.as_slice(), spare_capacity(&mut value));
        (name, got.map(|_| value))
    };
    Ok(xattr_names(&list).into_iter().map(read).collect())
}

/// Returns fields as `key=value` words.
pub fn fields_text(fields: &Fields) -> String {
    let words: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={value}")).collect();
    words.join(" ")
}

/// Returns a value as it stands in a field: without the spaces and `=` that would end it.
pub fn field_value(bytes: &[u8]) -> String {
    escape(bytes)
}
