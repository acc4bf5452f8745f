//! The operations of a scenario, each one system call (or a few) below the mount point.
//!
//! What an operation answers is text in the notation of the recording: `ok`, an errno by name, or what was read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use acetate_sys::probe::{SharedMap, truncate};
use anyhow::{Context, bail};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, IFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
    chmod, chownat, fchmod, fstat, getxattr, ioctl_getflags, ioctl_setflags, linkat, listxattr, makedev,
    mkdirat, mknodat, openat, removexattr, renameat_with, setxattr, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::render;

/// Why an operation did not answer with data.
#[derive(Debug)]
pub(super) enum Stop {
    /// The system call failed: this is a result to compare.
    Errno(Errno),
    /// The operation makes no sense here: the scenario or the runner is wrong.
    Broken(anyhow::Error),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => Self::Errno(errno),
            None => Self::Broken(error.into()),
        }
    }
}

/// What an operation answers.
pub(super) type Answer = Result<String, Stop>;

/// The state that operations share within one row.
#[derive(Debug)]
pub(super) struct Ops {
    /// The mount point.
    pub root: PathBuf,
    /// The topmost lower directory.
    pub lower: PathBuf,
    /// The upper directory, if there is one.
    pub upper: Option<PathBuf>,
    held: Held,
    saved: HashMap<String, (u64, u64)>,
}

/// What keeps the mount busy.
#[derive(Debug, Default)]
struct Held {
    reader: Option<File>,
    map: Option<SharedMap>,
    unnamed: Option<OwnedFd>,
}

const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
const DIR_MODE: Mode = Mode::from_raw_mode(0o755);

impl Ops {
    /// No descriptors held, nothing remembered.
    pub fn new(root: PathBuf, lower: PathBuf, upper: Option<PathBuf>) -> Self {
        Self { root, lower, upper, held: Held::default(), saved: HashMap::new() }
    }

    /// Closes what the scenario left open, so that the mount is not busy.
    pub fn release(&mut self) {
        self.held = Held::default();
    }

    /// Runs one operation, given as its words.
    pub fn run(&mut self, words: &[&str]) -> Answer {
        match words {
            ["inosave" | "inosame" | "inolower" | "inoupper" | "inoeq", ..] => self.numbers(words),
            [verb, ..] if verb.starts_with("fd") || verb.contains("map") || verb.contains("tmp") => {
                self.held(words)
            }
            ["chmod" | "chown" | "utime" | "chattr" | "setfacl" | "setx" | "setxc" | "rmx", ..] => {
                self.change(words)
            }
            [
                "rm" | "rmdir" | "mv" | "mvx" | "mvn" | "mvw" | "ln" | "sym" | "mkdir" | "mkfifo" | "mknod",
                ..,
            ] => self.names(words),
            ["ls" | "cat" | "stat" | "nlink" | "mode" | "owner" | "getx" | "listx" | "lsattr", ..] => {
                self.look(words)
            }
            _ => self.data(words),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn open(&self, path: &str, flags: OFlags) -> Result<File, Errno> {
        Ok(File::from(openat(CWD, self.at(path), flags | OFlags::CLOEXEC, FILE_MODE)?))
    }

    /// Changes of names.
    fn names(&self, words: &[&str]) -> Answer {
        let rename = |from, to, flags| renameat_with(CWD, self.at(from), CWD, self.at(to), flags);
        match words {
            ["rm", p] => unlinkat(CWD, self.at(p), AtFlags::empty())?,
            ["rmdir", p] => unlinkat(CWD, self.at(p), AtFlags::REMOVEDIR)?,
            ["mv", a, b] => rename(a, b, RenameFlags::empty())?,
            ["mvx", a, b] => rename(a, b, RenameFlags::EXCHANGE)?,
            ["mvn", a, b] => rename(a, b, RenameFlags::NOREPLACE)?,
            ["mvw", a, b] => rename(a, b, RenameFlags::WHITEOUT)?,
            ["ln", a, b] => linkat(CWD, self.at(a), CWD, self.at(b), AtFlags::empty())?,
            ["sym", target, p] => symlinkat(*target, CWD, self.at(p))?,
            ["mkdir", p] => mkdirat(CWD, self.at(p), DIR_MODE)?,
            ["mkfifo", p] => mknodat(CWD, self.at(p), FileType::Fifo, FILE_MODE, 0)?,
            ["mknod", p, kind @ ("c" | "b"), major, minor] => {
                let kind = if *kind == "c" { FileType::CharacterDevice } else { FileType::BlockDevice };
                mknodat(CWD, self.at(p), kind, FILE_MODE, makedev(number(major)?, number(minor)?))?;
            }
            _ => return unknown(words),
        }
        ok()
    }

    /// Opening and changing content.
    fn data(&self, words: &[&str]) -> Answer {
        match words {
            ["write", p, text] => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
                self.open(p, flags)?.write_all(text.as_bytes())?;
            }
            ["append", p, text] => {
                self.open(p, OFlags::WRONLY | OFlags::APPEND)?.write_all(text.as_bytes())?;
            }
            ["create", p] => drop(self.open(p, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?),
            ["openr", p] => drop(self.open(p, OFlags::RDONLY)?),
            ["openw", p] => drop(self.open(p, OFlags::WRONLY)?),
            ["openrw", p] => drop(self.open(p, OFlags::RDWR)?),
            ["opent", p] => drop(self.open(p, OFlags::WRONLY | OFlags::TRUNC)?),
            ["openrt", p] => drop(self.open(p, OFlags::RDONLY | OFlags::TRUNC)?),
            ["opencx", p] => drop(self.open(p, OFlags::RDONLY | OFlags::CREATE)?),
            ["trunc", p, length] => truncate(&self.at(p), number(length)?.into())?,
            _ => return unknown(words),
        }
        ok()
    }

    /// Changes of attributes.
    fn change(&self, words: &[&str]) -> Answer {
        match words {
            ["chmod", mode, p] => chmod(self.at(p), octal(mode)?)?,
            ["chown", owner, p] => {
                let (uid, gid) = owner.split_once(':').context("chown takes uid:gid")?;
                let (uid, gid) = (id(uid)?.map(Uid::from_raw), id(gid)?.map(Gid::from_raw));
                chownat(CWD, self.at(p), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            ["utime", p, accessed, modified] => {
                let time = |text: &str| Ok::<_, Stop>(Timespec { tv_sec: number(text)?.into(), tv_nsec: 0 });
                let times = Timestamps { last_access: time(accessed)?, last_modification: time(modified)? };
                utimensat(CWD, self.at(p), &times, AtFlags::empty())?;
            }
            ["chattr", change, p] => {
                let file = self.open(p, OFlags::RDONLY | OFlags::NONBLOCK)?;
                ioctl_setflags(&file, changed_flags(ioctl_getflags(&file)?, change)?)?;
            }
            ["setfacl", entry, p] => {
                let mode = render::lstat(&self.at(p))?.st_mode;
                let acl = acl_with_user(mode, entry)?;
                setxattr(self.at(p), "system.posix_acl_access", &acl, XattrFlags::empty())?;
            }
            ["setx", p, name, value] => setxattr(self.at(p), *name, value.as_bytes(), XattrFlags::empty())?,
            ["setxc", p, name, value] => setxattr(self.at(p), *name, value.as_bytes(), XattrFlags::CREATE)?,
            ["rmx", p, name] => removexattr(self.at(p), *name)?,
            _ => return unknown(words),
        }
        ok()
    }

    /// Reads that change nothing.
    fn look(&self, words: &[&str]) -> Answer {
        Ok(match words {
            ["ls", p] => {
                let names = render::names(&self.at(p))?;
                bracketed(names.iter().map(|name| render::printable(name.as_bytes())))
            }
            ["cat", p] => quoted(&render::content(&self.at(p))?),
            ["stat", p] => {
                let stat = render::lstat(&self.at(p))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => format!("sz={}", stat.st_size),
                    _ => format!("mode={:o}", stat.st_mode),
                }
            }
            ["nlink", p] => format!("nl={}", render::lstat(&self.at(p))?.st_nlink),
            ["mode", p] => format!("{:06o}", render::lstat(&self.at(p))?.st_mode),
            ["owner", p] => {
                let stat = render::lstat(&self.at(p))?;
                format!("{}:{}", stat.st_uid, stat.st_gid)
            }
            ["getx", p, name] => {
                let mut value = Vec::with_capacity(1 << 16);
                getxattr(self.at(p), *name, spare_capacity(&mut value))?;
                render::printable(&value)
            }
            ["listx", p] => {
                let mut list = Vec::with_capacity(1 << 16);
                listxattr(self.at(p), spare_capacity(&mut list))?;
                let mut names: Vec<_> =
                    list.split(|&b| b == 0).filter(|name| !name.is_empty()).map(render::printable).collect();
                names.retain(|name| name != "security.selinux");
                names.sort();
                bracketed(names)
            }
            ["lsattr", p] => {
                let flags = ioctl_getflags(self.open(p, OFlags::RDONLY | OFlags::NONBLOCK)?)?;
                FLAG_LETTERS
                    .iter()
                    .filter(|(_, flag)| flags.contains(*flag))
                    .map(|(letter, _)| *letter)
                    .collect()
            }
            _ => return unknown(words),
        })
    }

    /// Comparisons of device and inode numbers.
    fn numbers(&mut self, words: &[&str]) -> Answer {
        let both = |path: &Path| render::lstat(path).map(|stat| (stat.st_dev, stat.st_ino));
        let same = match words {
            ["inosave", p, key] => {
                let numbers = both(&self.at(p))?;
                self.saved.insert((*key).to_owned(), numbers);
                return ok();
            }
            ["inosame", p, key] => {
                let saved = self.saved.get(*key).with_context(|| format!("no number was saved as {key}"))?;
                both(&self.at(p))? == *saved
            }
            ["inoeq", a, b] => both(&self.at(a))? == both(&self.at(b))?,
            ["inolower", p] => both(&self.at(p))?.1 == both(&self.lower.join(p))?.1,
            ["inoupper", p] => {
                let upper = self.upper.as_ref().context("there is no upper layer")?;
                both(&self.at(p))?.1 == both(&upper.join(p))?.1
            }
            _ => return unknown(words),
        };
        Ok(if same { "same" } else { "DIFF" }.to_owned())
    }

    /// Operations on descriptors and mappings that stay open from one operation to the next.
    fn held(&mut self, words: &[&str]) -> Answer {
        match words {
            ["fdr", p] => self.held.reader = Some(self.open(p, OFlags::RDONLY)?),
            ["fdread"] => return Ok(quoted(&read_from_start(self.reader()?)?)),
            ["fdnlink"] => return Ok(format!("nl={}", fstat(self.reader()?)?.st_nlink)),
            ["fdchmod", mode] => fchmod(self.reader()?, octal(mode)?)?,
            ["fdclose"] => drop(self.held.reader.take().context("no descriptor is open")?),
            ["map"] => {
                let length = usize::try_from(fstat(self.reader()?)?.st_size).context("a negative size")?;
                self.held.map = Some(SharedMap::new(self.reader()?, length)?);
            }
            ["mapread"] => {
                let map = self.held.map.as_ref().context("nothing is mapped")?;
                return Ok(quoted(&map.read()?));
            }
            ["unmap"] => drop(self.held.map.take().context("nothing is mapped")?),
            ["tmpfile", dir] => {
                self.held.unnamed = Some(self.open(dir, OFlags::RDWR | OFlags::TMPFILE)?.into());
            }
            ["linktmp", p] => {
                let file = self.held.unnamed.as_ref().context("there is no unnamed file")?;
                linkat(file, "", CWD, self.at(p), AtFlags::EMPTY_PATH)?;
            }
            _ => return unknown(words),
        }
        ok()
    }

    fn reader(&self) -> anyhow::Result<&File> {
        self.held.reader.as_ref().context("no descriptor is open")
    }
}

/// Reads with pread until the end, leaving the file position alone.
fn read_from_start(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut block = [0; 4096];
    loop {
        let count = file.read_at(&mut block, bytes.len() as u64)?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&block[..count]);
    }
}

fn ok() -> Answer {
    Ok("ok".to_owned())
}

fn unknown(words: &[&str]) -> Answer {
    Err(Stop::Broken(anyhow::anyhow!("unknown operation {words:?}")))
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", render::printable(bytes))
}

fn bracketed(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(" "))
}

fn number(text: &str) -> anyhow::Result<u32> {
    text.parse().with_context(|| format!("{text:?} is no number"))
}

fn octal(text: &str) -> anyhow::Result<Mode> {
    let bits = u32::from_str_radix(text, 8).with_context(|| format!("{text:?} is no octal mode"))?;
    Ok(Mode::from_raw_mode(bits))
}

/// A user or group id; `-1` leaves it as it is.
fn id(text: &str) -> anyhow::Result<Option<u32>> {
    if text == "-1" { Ok(None) } else { number(text).map(Some) }
}

/// The letters of lsattr(1) that scenarios use, in its order.
const FLAG_LETTERS: [(char, IFlags); 4] =
    [('S', IFlags::SYNC), ('i', IFlags::IMMUTABLE), ('a', IFlags::APPEND), ('A', IFlags::NOATIME)];

/// `flags` after a change as chattr(1) takes it: `+` or `-` and letters.
fn changed_flags(flags: IFlags, change: &str) -> anyhow::Result<IFlags> {
    let mut letters = change.chars();
    let add = match letters.next() {
        Some('+') => true,
        Some('-') => false,
        _ => bail!("{change:?} does not start with + or -"),
    };
    let mut result = flags;
    for letter in letters {
        let (_, flag) = FLAG_LETTERS
            .iter()
            .find(|(known, _)| *known == letter)
            .with_context(|| format!("unknown inode flag {letter:?}"))?;
        result.set(*flag, add);
    }
    Ok(result)
}

/// The value of `system.posix_acl_access` for a file of `mode` with one more entry `u:ID:rwx`.
///
/// The mask is what group and named user may do together, as setfacl(1) computes it. Layout: acl(5),
/// `include/uapi/linux/posix_acl_xattr.h`: version 2, then tag, permissions and id of each entry, little endian.
fn acl_with_user(mode: u32, entry: &str) -> anyhow::Result<Vec<u8>> {
    const NO_ID: u32 = u32::MAX;
    let mut parts = entry.split(':');
    let (Some("u"), Some(uid), Some(letters), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        bail!("{entry:?} is not u:ID:PERMISSIONS");
    };
    let mut user = 0u16;
    for letter in letters.chars() {
        user |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => bail!("{letter:?} is no permission"),
        };
    }
    let class = |shift: u32| ((mode >> shift) & 7) as u16;
    let entries = [
        (0x01, class(6), NO_ID),
        (0x02, user, number(uid)?),
        (0x04, class(3), NO_ID),
        (0x10, class(3) | user, NO_ID),
        (0x20, class(0), NO_ID),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        let tag: u16 = tag;
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    Ok(bytes)
}
