//! Trees as text, to compare them as a whole.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::state::{Body, Inode, State};
use super::{MemDir, MemLayer};
use crate::{Kind, Result, acl};

/// Content up to this size is written out.
const SHORT: u64 = 256;

impl MemLayer {
    /// The tree below the root, one line an object, parents first, names in byte order: path, type, mode, owner,
    /// content, inode flags, attributes. Objects with several names in the tree have a number after `link`, the same
    /// for each. Times and inode numbers are left out.
    pub fn dump(&self) -> Result<String> {
        self.dump_dir(&self.root)
    }

    /// As [`dump`](Self::dump), for the staging directory.
    pub fn dump_work(&self) -> Result<String> {
        self.dump_dir(&self.work)
    }

    /// As [`dump`](Self::dump), for any directory.
    pub fn dump_dir(&self, dir: &MemDir) -> Result<String> {
        let state = self.fs.state.lock();
        let mut paths = Vec::new();
        collect(&state, dir.ino, b".", &mut paths)?;
        let mut names: BTreeMap<u64, usize> = BTreeMap::new();
        for (_, ino) in &paths {
            *names.entry(*ino).or_default() += 1;
        }
        let mut groups: BTreeMap<u64, usize> = BTreeMap::new();
        let mut text = String::new();
        for (path, ino) in &paths {
            line(&mut text, path, state.get(*ino)?);
            if names.get(ino).is_some_and(|names| *names > 1) {
                let next = groups.len() + 1;
                put(&mut text, format_args!(" link {}", groups.entry(*ino).or_insert(next)));
            }
            text.push('\n');
        }
        Ok(text)
    }
}

/// Formatting into a string cannot fail.
fn put(text: &mut String, args: std::fmt::Arguments<'_>) {
    let _infallible = text.write_fmt(args);
}

fn collect(state: &State, ino: u64, path: &[u8], paths: &mut Vec<(Vec<u8>, u64)>) -> Result<()> {
    paths.push((path.to_vec(), ino));
    if let Body::Dir { entries, .. } = &state.get(ino)?.body {
        for (name, child) in entries {
            let path = if path == b"." { name.clone() } else { [path, b"/", name].concat() };
            collect(state, *child, &path, paths)?;
        }
    }
    Ok(())
}

fn line(text: &mut String, path: &[u8], inode: &Inode) {
    let kind = match inode.kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "char",
        Kind::BlockDevice => "block",
    };
    let (uid, gid) = (inode.uid, inode.gid);
    put(text, format_args!("{} {kind} {:04o} {uid}:{gid}", path.escape_ascii(), inode.mode));
    match &inode.body {
        Body::File(data) if data.size() <= SHORT => {
            put(text, format_args!(" \"{}\"", data.to_vec().escape_ascii()));
        }
        Body::File(data) => {
            let sum = data
                .to_vec()
                .iter()
                .fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            put(text, format_args!(" {} bytes, sum {sum:x}", data.size()));
        }
        Body::Symlink(target) => put(text, format_args!(" -> {}", target.escape_ascii())),
        Body::Special if matches!(inode.kind, Kind::CharDevice | Kind::BlockDevice) => {
            put(text, format_args!(" {}:{}", inode.rdev.major, inode.rdev.minor));
        }
        Body::Dir { .. } | Body::Special => {}
    }
    if inode.flags != 0 {
        put(text, format_args!(" flags {:x}", inode.flags));
    }
    for (name, value) in &inode.xattrs {
        put(text, format_args!(" {}={}", name.escape_ascii(), value_text(name, value)));
    }
}

/// An attribute's value; access control lists entry by entry.
fn value_text(name: &[u8], value: &[u8]) -> String {
    if !matches!(name, acl::ACCESS | acl::DEFAULT) {
        return format!("\"{}\"", value.escape_ascii());
    }
    match acl::Acl::parse(value) {
        Ok(Some(list)) => {
            let entries = list.entries().iter().map(|entry| format!("{:?}:{:o}", entry.tag, entry.perm));
            entries.collect::<Vec<_>>().join(",")
        }
        _ => format!("\"{}\"", value.escape_ascii()),
    }
}
