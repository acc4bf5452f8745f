//! Everything that can be seen of a tree, in a form that can be compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

/// How many differences a message names.
const SHOWN: usize = 20;

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Number of links.
    pub links: u64,
    /// The first path, in order of walking, of the same inode; the entry's own if it is the first.
    pub first: PathBuf,
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Change time, seconds and nanoseconds; `None` where it was left out.
    pub ctime: Option<(i64, i64)>,
    /// Extended attributes, those of overlayfs itself and ACLs included if they can be seen.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What is in it.
    pub content: Content,
}

/// What is in a file, by type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Length in bytes and a hash of them.
    File(u64, u64),
    /// Target of a symbolic link.
    Link(PathBuf),
    /// Device number.
    Device(u64),
    /// A directory, FIFO or socket: nothing.
    None,
}

/// All entries of a tree by path relative to its root; the root has the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The entries.
    pub entries: BTreeMap<PathBuf, Entry>,
}

impl Fingerprint {
    /// Reads the whole tree at `root`, following no symbolic link and entering no other filesystem.
    pub fn take(root: &Path) -> anyhow::Result<Self> {
        let mut walk = Walk { root, device: None, first: HashMap::new(), entries: BTreeMap::new() };
        walk.visit(PathBuf::new())?;
        Ok(Self { entries: walk.entries })
    }

    /// Without what a faithful copy cannot keep: change times and link counts of directories.
    #[must_use]
    pub fn portable(mut self) -> Self {
        for entry in self.entries.values_mut() {
            entry.ctime = None;
            if entry.mode & libc::S_IFMT == libc::S_IFDIR {
                entry.links = 0;
            }
        }
        self
    }

    /// With the number of names found for each object in place of its link count: without `index`, an overlay goes on
    /// counting names of a lower file that have been removed.
    #[must_use]
    pub fn with_names_counted(mut self) -> Self {
        let mut names: BTreeMap<PathBuf, u64> = BTreeMap::new();
        for entry in self.entries.values() {
            *names.entry(entry.first.clone()).or_default() += 1;
        }
        for entry in self.entries.values_mut().filter(|entry| entry.links != 0) {
            entry.links = names.get(&entry.first).copied().unwrap_or_default();
        }
        self
    }

    /// Without the change time of the root, which mounting may set: the kernel keeps a mark of its own there.
    #[must_use]
    pub fn without_root_ctime(mut self) -> Self {
        if let Some(root) = self.entries.get_mut(Path::new("")) {
            root.ctime = None;
        }
        self
    }

    /// Fails unless `other` is the same; the message names the first differences.
    pub fn expect(&self, other: &Self, what: &str) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for (path, entry) in &self.entries {
            match other.entries.get(path) {
                None => lines.push(format!("{} is gone", path.display())),
                Some(now) if now != entry => {
                    lines.push(format!("{} was {entry:?}, is {now:?}", path.display()));
                }
                Some(_) => {}
            }
        }
        let new = other.entries.keys().filter(|path| !self.entries.contains_key(*path));
        lines.extend(new.map(|path| format!("{} is new", path.display())));
        if lines.is_empty() {
            return Ok(());
        }
        let count = lines.len();
        lines.truncate(SHOWN);
        bail!("{what} differs in {count} entries:\n  {}", lines.join("\n  "))
    }
}

struct Walk<'a> {
    root: &'a Path,
    device: Option<u64>,
    /// First path of each inode with several names.
    first: HashMap<(u64, u64), PathBuf>,
    entries: BTreeMap<PathBuf, Entry>,
}

impl Walk<'_> {
    fn visit(&mut self, relative: PathBuf) -> anyhow::Result<()> {
        // Joining an empty path would add a slash, which follows a symbolic link.
        let path = if relative.as_os_str().is_empty() { self.root.into() } else { self.root.join(&relative) };
        let about = || format!("reading {}", path.display());
        let meta = std::fs::symlink_metadata(&path).with_context(about)?;
        let is_dir = meta.is_dir();
        // Files of a merged tree may tell the device of their layer; a mount point is a directory.
        let foreign = is_dir && *self.device.get_or_insert(meta.dev()) != meta.dev();
        let mut names = Vec::new();
        if is_dir && !foreign {
            for entry in std::fs::read_dir(&path).with_context(about)? {
                names.push(entry.with_context(about)?.file_name());
            }
            names.sort();
        }
        let entry = self.entry(&path, &relative, &meta).with_context(about)?;
        self.entries.insert(relative.clone(), entry);
        for name in names {
            self.visit(relative.join(name))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, relative: &Path, meta: &Metadata) -> anyhow::Result<Entry> {
        let kind = meta.file_type();
        let content = if kind.is_file() {
            Content::File(meta.len(), hash(path)?)
        } else if kind.is_symlink() {
            Content::Link(std::fs::read_link(path)?)
        } else if kind.is_char_device() || kind.is_block_device() {
            Content::Device(meta.rdev())
        } else {
            Content::None
        };
        let first = if meta.is_dir() || meta.nlink() < 2 {
            relative.to_path_buf()
        } else {
            let id = (meta.dev(), meta.ino());
            self.first.entry(id).or_insert_with(|| relative.to_path_buf()).clone()
        };
        Ok(Entry {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            links: meta.nlink(),
            first,
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: Some((meta.ctime(), meta.ctime_nsec())),
            xattrs: xattrs(path)?,
            content,
        })
    }
}

fn hash(path: &Path) -> anyhow::Result<u64> {
    let mut file = File::open(path)?;
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.write(&buffer[..count]),
        }
    }
}

fn xattrs(path: &Path) -> anyhow::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    // The largest list and value that Linux has (xattr(7)).
    let mut buffer = vec![0; 65536];
    let length = match llistxattr(path, &mut buffer) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno).context("listing extended attributes"),
    };
    let names: Vec<Vec<u8>> = buffer[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    let mut map = BTreeMap::new();
    for name in names {
        let length = lgetxattr(path, OsStr::from_bytes(&name), &mut buffer)
            .with_context(|| format!("reading {}", String::from_utf8_lossy(&name)))?;
        map.insert(name, buffer[..length].to_vec());
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn every_change_is_seen() {
        let scratch = Scratch::new("fingerprint-test").unwrap();
        let root = scratch.dir("t").unwrap();
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/f"), "one").unwrap();
        std::fs::hard_link(root.join("d/f"), root.join("g")).unwrap();
        let before = Fingerprint::take(&root).unwrap();
        assert_eq!(before.entries.len(), 4);
        assert_eq!(before.entries[Path::new("g")].first, Path::new("d/f"));
        before.expect(&Fingerprint::take(&root).unwrap(), "nothing").unwrap();

        let mtime = std::fs::metadata(root.join("g")).unwrap().modified().unwrap();
        std::fs::write(root.join("g"), "two").unwrap();
        File::options().write(true).open(root.join("g")).unwrap().set_modified(mtime).unwrap();
        let after = Fingerprint::take(&root).unwrap().portable();
        let error = before.clone().portable().expect(&after, "content").unwrap_err().to_string();
        assert!(error.contains("content differs in 2 entries"), "{error}");

        std::fs::remove_file(root.join("g")).unwrap();
        let error = before.expect(&Fingerprint::take(&root).unwrap(), "names").unwrap_err().to_string();
        assert!(error.contains("g is gone"), "{error}");
    }
}
