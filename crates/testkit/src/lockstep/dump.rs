//! A tree as values that can be compared: what a mount shows, or what lies in a layer.
//!
//! Reading leaves no trace where that is possible (`O_NOATIME`). An error met on the way is a value
//! like any other: two mounts have to fail alike too.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, StatxFlags, statx};
use rustix::io::Errno;

use super::acl;
use super::attrs::{Fields, stat_fields, type_word, xattrs};
use super::setup::{Side, below};
use super::text::{brief, escape, hash};
use crate::errno;

/// What a dump looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// A mount: what its users see.
    Mount,
    /// A layer on disk: private marks too, their machine-dependent parts left out.
    Layer,
}

/// The names of a tree with what is known about each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// By path from the root (empty for the root itself): fields that identical runs agree on.
    pub entries: BTreeMap<Vec<u8>, Fields>,
    /// By path: the plain inode number.
    pub inodes: BTreeMap<Vec<u8>, u64>,
}

/// Inode numbers of the lower layers, with the first path that has each as `l1:a/f`.
///
/// Lower files are never removed, so such a number stays what it is; numbers of upper files may be
/// used again for another file.
pub type LowerInodes = HashMap<u64, String>;

/// Walks the lower layers of a side.
///
/// # Errors
/// A layer cannot be read.
pub fn lower_inodes(side: &Side) -> Result<LowerInodes> {
    let mut found = LowerInodes::new();
    for (index, lower) in side.lowers.iter().enumerate() {
        for (path, ino) in dump(lower, View::Layer, &LowerInodes::new())?.inodes {
            found.entry(ino).or_insert_with(|| format!("l{}:{}", index + 1, escape(&path)));
        }
    }
    Ok(found)
}

/// Walks the tree at `root`.
///
/// # Errors
/// The root itself cannot be looked at.
pub fn dump(root: &Path, view: View, lowers: &LowerInodes) -> Result<Tree> {
    let stat = rustix::fs::lstat(root).with_context(|| format!("cannot stat {}", root.display()))?;
    let mut walk =
        Walk { root, view, device: stat.st_dev, entries: BTreeMap::new(), inodes: BTreeMap::new() };
    walk.visit(Vec::new(), None);
    let mut entries = walk.entries;
    name_inodes(&mut entries, &walk.inodes, lowers, view);
    Ok(Tree { entries, inodes: walk.inodes })
}

/// Replaces inode numbers by what two runs can agree on: the lower file whose number it is, or
/// the first name that has it.
fn name_inodes(
    entries: &mut BTreeMap<Vec<u8>, Fields>,
    inodes: &BTreeMap<Vec<u8>, u64>,
    lowers: &LowerInodes,
    view: View,
) {
    let mut first: HashMap<u64, &Vec<u8>> = HashMap::new();
    for (path, ino) in inodes {
        first.entry(*ino).or_insert(path);
    }
    for (path, fields) in entries.iter_mut() {
        let whiteout = fields.iter().any(|(key, value)| key == "type" && value == "whiteout");
        for (_, value) in fields.iter_mut().filter(|(key, _)| key == "ino") {
            let Some(ino) = inodes.get(path) else { continue };
            *value = match (lowers.get(ino), first.get(ino)) {
                // Whether whiteouts share an inode is the maker's choice.
                _ if whiteout && view == View::Layer => "any".to_owned(),
                (Some(label), _) => label.clone(),
                (None, Some(name)) => format!("as:{}", escape(name)),
                (None, None) => "unknown".to_owned(),
            };
        }
    }
}

struct Walk<'a> {
    root: &'a Path,
    view: View,
    device: u64,
    entries: BTreeMap<Vec<u8>, Fields>,
    inodes: BTreeMap<Vec<u8>, u64>,
}

/// A directory entry as readdir gives it.
struct Listed {
    name: Vec<u8>,
    kind: FileType,
    ino: u64,
}

impl Walk<'_> {
    /// Notes the object at `path` and everything below it; `listed` is what its directory said.
    fn visit(&mut self, path: Vec<u8>, listed: Option<&Listed>) {
        let full = below(self.root, &path);
        let mut fields = Fields::new();
        if let Some(listed) = listed {
            fields.push(("d_type".to_owned(), type_word(listed.kind).to_owned()));
        }
        let stat = match rustix::fs::lstat(&full) {
            Ok(stat) => stat,
            Err(error) => {
                fields.push(("stat".to_owned(), errno::name(error)));
                self.entries.insert(path, fields);
                return;
            }
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        fields.extend(self.stat_values(&stat, kind));
        fields.extend(outdated(&full, &stat).map(|word| ("outdated".to_owned(), word)));
        if let Some(listed) = listed.filter(|_| self.view == View::Mount) {
            let word = if listed.ino == stat.st_ino { "is-ino" } else { "differs" };
            fields.push(("d_ino".to_owned(), word.to_owned()));
        }
        self.inodes.insert(path.clone(), stat.st_ino);
        fields.extend(self.xattr_values(&full));
        let children = match kind {
            FileType::RegularFile => {
                fields.push(("content".to_owned(), result_text(content(&full))));
                Vec::new()
            }
            FileType::Symlink => {
                let target = rustix::fs::readlink(&full, Vec::new()).map(|target| brief(target.as_bytes()));
                fields.push(("target".to_owned(), result_text(target)));
                Vec::new()
            }
            FileType::Directory => match list(&full) {
                Ok(children) => children,
                Err(error) => {
                    fields.push(("list".to_owned(), errno::name(error)));
                    Vec::new()
                }
            },
            _ => Vec::new(),
        };
        self.note(path.clone(), fields);
        for child in &children {
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend(&child.name);
            self.visit(below, Some(child));
        }
    }

    /// Stores the fields of a path; a name that its directory lists twice becomes visible as such.
    fn note(&mut self, path: Vec<u8>, fields: Fields) {
        if let Some(earlier) = self.entries.insert(path.clone(), fields) {
            let mut fields = earlier;
            fields.push(("listed".to_owned(), "twice".to_owned()));
            self.entries.insert(path, fields);
        }
    }

    fn stat_values(&self, stat: &Stat, kind: FileType) -> Fields {
        let mut fields = stat_fields(stat);
        let whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        for (key, value) in &mut fields {
            match key.as_str() {
                "dev" => (if stat.st_dev == self.device { "root's" } else { "other" }).clone_into(value),
                "type" if whiteout => "whiteout".clone_into(value),
                // Reading the target, as this walk does too, sets it.
                "atime" if kind == FileType::Symlink => "any".clone_into(value),
                // Whiteouts share an inode or not as their maker likes.
                "nlink" if whiteout && self.view == View::Layer => "any".clone_into(value),
                _ => {}
            }
        }
        fields
    }

    fn xattr_values(&self, full: &Path) -> Fields {
        let all = match xattrs(full) {
            Ok(all) => all,
            Err(error) => return vec![("xattrs".to_owned(), escape(format!("{error:#}").as_bytes()))],
        };
        all.into_iter()
            .map(|(name, value)| {
                let text = match value {
                    Ok(value) if self.view == View::Layer && is_machine_dependent(&name) => {
                        (if value.is_empty() { "empty" } else { "present" }).to_owned()
                    }
                    Ok(value) if value.len() > 200 => brief(&value),
                    Ok(value) => acl::value_token(&name, &value),
                    Err(error) => errno::name(error),
                };
                (format!("x:{}", escape(&name)), text)
            })
            .collect()
    }
}

/// Returns whether the value of a private mark names inodes or filesystems of this machine.
fn is_machine_dependent(name: &[u8]) -> bool {
    [b"trusted.overlay.".as_slice(), b"user.overlay."].iter().any(|prefix| {
        name.strip_prefix(*prefix).is_some_and(|rest| matches!(rest, b"origin" | b"uuid" | b"upper"))
    })
}

fn result_text(result: Result<String, Errno>) -> String {
    result.unwrap_or_else(errno::name)
}

/// Returns which attributes were shown although they are not so (any more): those that a filesystem's server has at
/// this moment are others. Allocated blocks come with writeback, access times with reading.
fn outdated(path: &Path, shown: &Stat) -> Option<String> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    let now = match statx(CWD, path, flags, StatxFlags::BASIC_STATS) {
        Ok(now) => now,
        Err(error) => return Some(errno::name(error)),
    };
    let compared: [(&str, i128, i128); 8] = [
        ("mode", shown.st_mode.into(), now.stx_mode.into()),
        ("nlink", shown.st_nlink.into(), now.stx_nlink.into()),
        ("uid", shown.st_uid.into(), now.stx_uid.into()),
        ("gid", shown.st_gid.into(), now.stx_gid.into()),
        ("size", shown.st_size.into(), now.stx_size.into()),
        ("ino", shown.st_ino.into(), now.stx_ino.into()),
        ("mtime", nanoseconds(shown.st_mtime, shown.st_mtime_nsec), stamp(now.stx_mtime)),
        ("ctime", nanoseconds(shown.st_ctime, shown.st_ctime_nsec), stamp(now.stx_ctime)),
    ];
    let differ: Vec<&str> =
        compared.iter().filter(|(_, shown, now)| shown != now).map(|(name, ..)| *name).collect();
    if differ.is_empty() { None } else { Some(differ.join("+")) }
}

fn nanoseconds(seconds: impl Into<i128>, part: impl Into<i128>) -> i128 {
    seconds.into() * 1_000_000_000 + part.into()
}

fn stamp(time: rustix::fs::StatxTimestamp) -> i128 {
    nanoseconds(time.tv_sec, time.tv_nsec)
}

/// Opens without leaving an access time behind.
fn open_quietly(path: &Path, flags: OFlags) -> Result<File, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOATIME;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

fn content(path: &Path) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    open_quietly(path, OFlags::NONBLOCK)?
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(format!("{}bytes:{:016x}", bytes.len(), hash(&bytes)))
}

/// Lists a directory without `.` and `..`, sorted by name.
fn list(path: &Path) -> Result<Vec<Listed>, Errno> {
    let dir = open_quietly(path, OFlags::DIRECTORY)?;
    let mut buffer = vec![MaybeUninit::uninit(); 32768];
    let mut entries = Vec::new();
    let mut raw = RawDir::new(&dir, &mut buffer);
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push(Listed { name: name.to_vec(), kind: entry.file_type(), ino: entry.ino() });
        }
    }
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(entries)
}
