//! The system calls of a sequence, as values and as text.
//!
//! A call names an object by path (from the root of the mount) or by slot: `@3` is the descriptor
//! that an `open @3 ...` of the same user left open.

use anyhow::{Context, Result};

use super::acl;
use super::script::{Extent, Time};
use super::text::{escape, number, octal, unescape};

/// What a call acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A path from the root of the mount; empty for the root.
    Path(Vec<u8>),
    /// An open descriptor.
    Slot(u8),
}

/// A time argument of utimensat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    Omit,
    /// The current time.
    Now,
    /// This time.
    At(Time),
}

/// A named bit of a flags argument: the word used in scripts and the kernel's value.
pub type Flag = (&'static str, u32);

/// Flags of open; access modes first.
pub const OPEN_FLAGS: [Flag; 13] = [
    ("r", 0),
    ("w", libc::O_WRONLY as u32),
    ("rw", libc::O_RDWR as u32),
    ("tmpfile", libc::O_TMPFILE as u32),
    ("creat", libc::O_CREAT as u32),
    ("excl", libc::O_EXCL as u32),
    ("trunc", libc::O_TRUNC as u32),
    ("append", libc::O_APPEND as u32),
    ("directory", libc::O_DIRECTORY as u32),
    ("nofollow", libc::O_NOFOLLOW as u32),
    ("nonblock", libc::O_NONBLOCK as u32),
    ("path", libc::O_PATH as u32),
    ("dsync", libc::O_DSYNC as u32),
];
/// Flags of renameat2.
pub const RENAME_FLAGS: [Flag; 4] = [
    ("plain", 0),
    ("noreplace", libc::RENAME_NOREPLACE),
    ("exchange", libc::RENAME_EXCHANGE),
    ("whiteout", libc::RENAME_WHITEOUT),
];
/// Flags of setxattr.
pub const XATTR_FLAGS: [Flag; 3] =
    [("any", 0), ("create", libc::XATTR_CREATE as u32), ("replace", libc::XATTR_REPLACE as u32)];
/// Modes of fallocate.
pub const FALLOCATE_MODES: [Flag; 6] = [
    ("plain", 0),
    ("keep_size", libc::FALLOC_FL_KEEP_SIZE as u32),
    ("punch_hole", libc::FALLOC_FL_PUNCH_HOLE as u32),
    ("zero_range", libc::FALLOC_FL_ZERO_RANGE as u32),
    ("collapse_range", libc::FALLOC_FL_COLLAPSE_RANGE as u32),
    ("insert_range", libc::FALLOC_FL_INSERT_RANGE as u32),
];
/// Where a seek starts.
pub const WHENCE: [Flag; 5] = [
    ("set", libc::SEEK_SET as u32),
    ("cur", libc::SEEK_CUR as u32),
    ("end", libc::SEEK_END as u32),
    ("data", libc::SEEK_DATA as u32),
    ("hole", libc::SEEK_HOLE as u32),
];
/// Types of mknod.
pub const NODE_TYPES: [Flag; 5] = [
    ("reg", libc::S_IFREG),
    ("fifo", libc::S_IFIFO),
    ("sock", libc::S_IFSOCK),
    ("chr", libc::S_IFCHR),
    ("blk", libc::S_IFBLK),
];

/// One system call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the arguments of the call the variant is named after")]
pub enum Op {
    Open {
        slot: u8,
        path: Vec<u8>,
        flags: u32,
        mode: u32,
    },
    Close {
        slot: u8,
    },
    Mkdir {
        path: Vec<u8>,
        mode: u32,
    },
    Mknod {
        path: Vec<u8>,
        kind: u32,
        mode: u32,
        major: u32,
        minor: u32,
    },
    Symlink {
        target: Vec<u8>,
        path: Vec<u8>,
    },
    /// From a slot: linkat with AT_EMPTY_PATH.
    Link {
        old: Target,
        new: Vec<u8>,
    },
    Unlink {
        path: Vec<u8>,
    },
    Rmdir {
        path: Vec<u8>,
    },
    Rename {
        old: Vec<u8>,
        new: Vec<u8>,
        flags: u32,
    },
    Truncate {
        target: Target,
        len: u64,
    },
    Chmod {
        target: Target,
        mode: u32,
    },
    /// By path: lchown; an id left out is -1.
    Chown {
        target: Target,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    /// By path: without following a final symlink.
    Utimens {
        target: Target,
        atime: SetTime,
        mtime: SetTime,
    },
    Setxattr {
        target: Target,
        name: Vec<u8>,
        value: Vec<u8>,
        flags: u32,
    },
    Removexattr {
        target: Target,
        name: Vec<u8>,
    },
    Getxattr {
        target: Target,
        name: Vec<u8>,
    },
    Listxattr {
        target: Target,
    },
    /// By path: lstat.
    Stat {
        target: Target,
    },
    Access {
        path: Vec<u8>,
        mode: u32,
    },
    Readlink {
        path: Vec<u8>,
    },
    /// The whole directory from its start; by path with an own descriptor.
    List {
        target: Target,
    },
    /// pread, or read where no offset is given.
    Read {
        slot: u8,
        offset: Option<u64>,
        len: u64,
    },
    /// pwrite at the extent's offset, or write where `sequential`.
    Write {
        slot: u8,
        data: Extent,
        sequential: bool,
    },
    Fallocate {
        slot: u8,
        mode: u32,
        offset: u64,
        len: u64,
    },
    Seek {
        slot: u8,
        whence: u32,
        offset: i64,
    },
    CopyRange {
        from: u8,
        from_offset: u64,
        to: u8,
        to_offset: u64,
        len: u64,
    },
    Fsync {
        slot: u8,
    },
    Fdatasync {
        slot: u8,
    },
}

/// Returns the words of `value` joined by commas: the first flag of `table` equal to its low bits
/// (the kinds that exclude one another), then each further bit.
fn words(table: &[Flag], value: u32) -> String {
    let mut left = value;
    let mut names = Vec::new();
    for (name, bits) in table.iter().filter(|(_, bits)| *bits != 0) {
        if left & bits == *bits {
            names.push(*name);
            left &= !bits;
        }
    }
    if names.is_empty() || (table == OPEN_FLAGS && value & 3 == 0) {
        names.insert(0, table.first().map_or("", |(name, _)| name));
    }
    names.join(",")
}

/// Returns the number that `word` stands for in a table whose values exclude one another.
fn exact_word(table: &[Flag], value: u32) -> &'static str {
    table.iter().find(|(_, bits)| *bits == value).map_or("?", |(name, _)| name)
}

fn bits(table: &[Flag], token: &str) -> Result<u32> {
    token.split(',').try_fold(0, |all, word| {
        let found = table.iter().find(|(name, _)| *name == word);
        Ok(all | found.with_context(|| format!("unknown flag {word:?}"))?.1)
    })
}

fn slot(token: &str) -> Result<u8> {
    let digits = token.strip_prefix('@').with_context(|| format!("{token:?} is not a slot"))?;
    digits.parse().context("slot")
}

fn path(token: &str) -> Result<Vec<u8>> {
    if token == "/" { Ok(Vec::new()) } else { unescape(token) }
}

fn path_token(path: &[u8]) -> String {
    if path.is_empty() { "/".to_owned() } else { escape(path) }
}

fn target(token: &str) -> Result<Target> {
    if token.starts_with('@') { slot(token).map(Target::Slot) } else { path(token).map(Target::Path) }
}

fn id(token: &str) -> Result<Option<u32>> {
    if token == "-" { Ok(None) } else { token.parse().map(Some).context("id") }
}

fn id_token(id: Option<u32>) -> String {
    id.map_or_else(|| "-".to_owned(), |id| id.to_string())
}

impl SetTime {
    fn parse(token: &str) -> Result<Self> {
        match token {
            "omit" => Ok(Self::Omit),
            "now" => Ok(Self::Now),
            _ => Time::parse(token).map(Self::At),
        }
    }
}

impl std::fmt::Display for SetTime {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Omit => out.write_str("omit"),
            Self::Now => out.write_str("now"),
            Self::At(time) => write!(out, "{time}"),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => out.write_str(&path_token(path)),
            Self::Slot(slot) => write!(out, "@{slot}"),
        }
    }
}

impl Op {
    /// Returns the first word of the call's text: which call it is.
    pub fn verb(&self) -> String {
        self.to_string().split(' ').next().unwrap_or_default().to_owned()
    }

    /// Parses the words of a call.
    ///
    /// # Errors
    /// An unknown call or an argument that does not fit it.
    pub fn parse(words: &[&str]) -> Result<Self> {
        if let Some(op) = Self::parse_names(words)? {
            return Ok(op);
        }
        if let Some(op) = Self::parse_metadata(words)? {
            return Ok(op);
        }
        Self::parse_data(words)?.with_context(|| format!("unknown call {words:?}"))
    }

    /// Calls that make, remove or look at names.
    fn parse_names(words: &[&str]) -> Result<Option<Self>> {
        Ok(Some(match *words {
            ["open", into, at, flags, mode] => Self::Open {
                slot: slot(into)?,
                path: path(at)?,
                flags: bits(&OPEN_FLAGS, flags)?,
                mode: octal(mode)?,
            },
            ["close", which] => Self::Close { slot: slot(which)? },
            ["mkdir", at, mode] => Self::Mkdir { path: path(at)?, mode: octal(mode)? },
            ["mknod", at, kind, mode, major, minor] => Self::Mknod {
                path: path(at)?,
                kind: bits(&NODE_TYPES, kind)?,
                mode: octal(mode)?,
                major: major.parse().context("major")?,
                minor: minor.parse().context("minor")?,
            },
            ["symlink", to, at] => Self::Symlink { target: unescape(to)?, path: path(at)? },
            ["link", old, new] => Self::Link { old: target(old)?, new: path(new)? },
            ["unlink", at] => Self::Unlink { path: path(at)? },
            ["rmdir", at] => Self::Rmdir { path: path(at)? },
            ["rename", old, new, flags] => {
                Self::Rename { old: path(old)?, new: path(new)?, flags: bits(&RENAME_FLAGS, flags)? }
            }
            ["access", at, mode] => Self::Access { path: path(at)?, mode: octal(mode)? },
            ["readlink", at] => Self::Readlink { path: path(at)? },
            ["list", of] => Self::List { target: target(of)? },
            _ => return Ok(None),
        }))
    }

    /// Calls on attributes.
    fn parse_metadata(words: &[&str]) -> Result<Option<Self>> {
        Ok(Some(match *words {
            ["stat", of] => Self::Stat { target: target(of)? },
            ["chmod", of, mode] => Self::Chmod { target: target(of)?, mode: octal(mode)? },
            ["chown", of, uid, gid] => Self::Chown { target: target(of)?, uid: id(uid)?, gid: id(gid)? },
            ["utimens", of, atime, mtime] => Self::Utimens {
                target: target(of)?,
                atime: SetTime::parse(atime)?,
                mtime: SetTime::parse(mtime)?,
            },
            ["setxattr", of, name, value, flags] => Self::Setxattr {
                target: target(of)?,
                name: unescape(name)?,
                value: acl::value_bytes(value)?,
                flags: bits(&XATTR_FLAGS, flags)?,
            },
            ["removexattr", of, name] => Self::Removexattr { target: target(of)?, name: unescape(name)? },
            ["getxattr", of, name] => Self::Getxattr { target: target(of)?, name: unescape(name)? },
            ["listxattr", of] => Self::Listxattr { target: target(of)? },
            _ => return Ok(None),
        }))
    }

    /// Calls on the content of open files.
    fn parse_data(words: &[&str]) -> Result<Option<Self>> {
        Ok(Some(match *words {
            ["truncate", of, len] => Self::Truncate { target: target(of)?, len: number(len)? },
            ["read", from, len] => Self::Read { slot: slot(from)?, offset: None, len: number(len)? },
            ["pread", from, offset, len] => {
                Self::Read { slot: slot(from)?, offset: Some(number(offset)?), len: number(len)? }
            }
            ["write", to, data] => {
                Self::Write { slot: slot(to)?, data: Extent::parse(data)?, sequential: true }
            }
            ["pwrite", to, data] => {
                Self::Write { slot: slot(to)?, data: Extent::parse(data)?, sequential: false }
            }
            ["fallocate", of, mode, offset, len] => Self::Fallocate {
                slot: slot(of)?,
                mode: bits(&FALLOCATE_MODES, mode)?,
                offset: number(offset)?,
                len: number(len)?,
            },
            ["seek", of, whence, offset] => Self::Seek {
                slot: slot(of)?,
                whence: bits(&WHENCE, whence)?,
                offset: offset.parse().context("offset")?,
            },
            ["copy_range", from, from_offset, to, to_offset, len] => Self::CopyRange {
                from: slot(from)?,
                from_offset: number(from_offset)?,
                to: slot(to)?,
                to_offset: number(to_offset)?,
                len: number(len)?,
            },
            ["fsync", of] => Self::Fsync { slot: slot(of)? },
            ["fdatasync", of] => Self::Fdatasync { slot: slot(of)? },
            _ => return Ok(None),
        }))
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open { slot, path, flags, mode } => {
                write!(out, "open @{slot} {} {} {mode:o}", path_token(path), words(&OPEN_FLAGS, *flags))
            }
            Self::Close { slot } => write!(out, "close @{slot}"),
            Self::Mkdir { path, mode } => write!(out, "mkdir {} {mode:o}", path_token(path)),
            Self::Mknod { path, kind, mode, major, minor } => {
                write!(
                    out,
                    "mknod {} {} {mode:o} {major} {minor}",
                    path_token(path),
                    exact_word(&NODE_TYPES, *kind)
                )
            }
            Self::Symlink { target, path } => write!(out, "symlink {} {}", escape(target), path_token(path)),
            Self::Link { old, new } => write!(out, "link {old} {}", path_token(new)),
            Self::Unlink { path } => write!(out, "unlink {}", path_token(path)),
            Self::Rmdir { path } => write!(out, "rmdir {}", path_token(path)),
            Self::Rename { old, new, flags } => {
                write!(out, "rename {} {} {}", path_token(old), path_token(new), words(&RENAME_FLAGS, *flags))
            }
            Self::Truncate { target, len } => write!(out, "truncate {target} {len}"),
            Self::Chmod { target, mode } => write!(out, "chmod {target} {mode:o}"),
            Self::Chown { target, uid, gid } => {
                write!(out, "chown {target} {} {}", id_token(*uid), id_token(*gid))
            }
            Self::Utimens { target, atime, mtime } => write!(out, "utimens {target} {atime} {mtime}"),
            Self::Setxattr { target, name, value, flags } => {
                let value = acl::value_token(name, value);
                write!(out, "setxattr {target} {} {value} {}", escape(name), words(&XATTR_FLAGS, *flags))
            }
            Self::Removexattr { target, name } => write!(out, "removexattr {target} {}", escape(name)),
            Self::Getxattr { target, name } => write!(out, "getxattr {target} {}", escape(name)),
            Self::Listxattr { target } => write!(out, "listxattr {target}"),
            Self::Stat { target } => write!(out, "stat {target}"),
            Self::Access { path, mode } => write!(out, "access {} {mode:o}", path_token(path)),
            Self::Readlink { path } => write!(out, "readlink {}", path_token(path)),
            Self::List { target } => write!(out, "list {target}"),
            Self::Read { slot, offset: None, len } => write!(out, "read @{slot} {len}"),
            Self::Read { slot, offset: Some(offset), len } => write!(out, "pread @{slot} {offset} {len}"),
            Self::Write { slot, data, sequential: true } => write!(out, "write @{slot} {data}"),
            Self::Write { slot, data, sequential: false } => write!(out, "pwrite @{slot} {data}"),
            Self::Fallocate { slot, mode, offset, len } => {
                write!(out, "fallocate @{slot} {} {offset} {len}", words(&FALLOCATE_MODES, *mode))
            }
            Self::Seek { slot, whence, offset } => {
                write!(out, "seek @{slot} {} {offset}", exact_word(&WHENCE, *whence))
            }
            Self::CopyRange { from, from_offset, to, to_offset, len } => {
                write!(out, "copy_range @{from} {from_offset} @{to} {to_offset} {len}")
            }
            Self::Fsync { slot } => write!(out, "fsync @{slot}"),
            Self::Fdatasync { slot } => write!(out, "fdatasync @{slot}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_and_calls_agree() {
        let lines = [
            "open @0 a/\\xff rw,creat,excl 4755",
            "open @1 / r,directory 0",
            "open @2 d rw,tmpfile 600",
            "open @2 d w,tmpfile,excl 600",
            "open @2 s r,nofollow,path 0",
            "close @1",
            "mkdir d 1777",
            "mknod n chr 644 1 5",
            "mknod n reg 644 0 0",
            "symlink \\e s",
            "link @2 d/t",
            "link a b",
            "unlink a",
            "rmdir /",
            "rename a b plain",
            "rename a b noreplace,exchange",
            "truncate a 5",
            "truncate @0 5",
            "chmod a 2755",
            "chown a - 7",
            "utimens @0 omit 77.000000005",
            "utimens a now omit",
            "setxattr a user.k \\e create",
            "setxattr a system.posix_acl_access acl:u::rw-,g::r--,o::--- any",
            "removexattr a user.k",
            "getxattr a user.k",
            "listxattr /",
            "stat @0",
            "access a 2",
            "readlink s",
            "list d",
            "read @0 10",
            "pread @0 5 10",
            "write @0 0+5*1",
            "pwrite @0 9+5*1",
            "fallocate @0 keep_size,punch_hole 0 4096",
            "fallocate @0 plain 0 4096",
            "seek @0 hole -1",
            "copy_range @0 0 @1 5 100",
            "fsync @0",
            "fdatasync @0",
        ];
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let printed = Op::parse(&words).unwrap().to_string();
            let expected = line.replace("77.000000005", "77.5");
            assert_eq!(printed, expected);
        }
    }
}
