//! Carries out one call of a sequence by the real system call.
//!
//! Descriptors that a sequence keeps open live in [`Slots`]. The result is words only, so that it
//! can cross a pipe and be compared: `ok` with fields, or the name of the error.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, SeekFrom,
    Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::attrs::{Fields, XATTR_MAX, fields_text, stat_fields, type_word, xattr_names};
use super::op::{Op, SetTime, Target};
use super::text::{brief, escape, hash};
use crate::errno;

/// The descriptors that one user's calls left open, by slot.
pub type Slots = BTreeMap<u8, OwnedFd>;

type Called = Result<Fields, Errno>;

/// What one call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Success, and what the call returned.
    Done(Fields),
    /// The symbolic name of the error.
    Failed(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(fields) if fields.is_empty() => out.write_str("ok"),
            Self::Done(fields) => write!(out, "ok {}", fields_text(fields)),
            Self::Failed(name) => out.write_str(name),
        }
    }
}

impl Outcome {
    /// Parses what `Display` wrote.
    pub fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        match words.next() {
            Some("ok") => Self::Done(
                words
                    .filter_map(|word| word.split_once('='))
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect(),
            ),
            first => Self::Failed(first.unwrap_or_default().to_owned()),
        }
    }
}

/// Carries out `op` below the directory `root`.
pub fn execute(root: &Path, slots: &mut Slots, op: &Op) -> Outcome {
    let result = match op {
        Op::Open { .. } | Op::Close { .. } => open_or_close(root, slots, op),
        Op::Mkdir { .. } | Op::Mknod { .. } | Op::Symlink { .. } | Op::Link { .. } => create(root, slots, op),
        Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename { .. } => remove(root, op),
        Op::Stat { .. } | Op::Access { .. } | Op::Readlink { .. } | Op::List { .. } => look(root, slots, op),
        Op::Truncate { .. } | Op::Chmod { .. } | Op::Chown { .. } | Op::Utimens { .. } => {
            change(root, slots, op)
        }
        Op::Setxattr { .. } | Op::Removexattr { .. } | Op::Getxattr { .. } | Op::Listxattr { .. } => {
            xattr(root, slots, op)
        }
        _ => data(slots, op),
    };
    match result {
        Ok(fields) => Outcome::Done(fields),
        Err(error) => Outcome::Failed(errno::name(error)),
    }
}

/// Returns the type of the object that a slot holds, and the path by which the kernel knows it, with ` (deleted)` behind
/// the name that it had.
pub fn whereabouts(slots: &Slots, slot: u8) -> Outcome {
    let look = || {
        let file = held(slots, slot)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
        let path = rustix::fs::readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new())?;
        let mut fields = one("type", type_word(kind));
        fields.extend(one("path", escape(path.as_bytes())));
        Ok(fields)
    };
    match look() {
        Ok(fields) => Outcome::Done(fields),
        Err(error) => Outcome::Failed(errno::name(error)),
    }
}

fn full(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { root.to_path_buf() } else { root.join(OsStr::from_bytes(path)) }
}

fn held(slots: &Slots, slot: u8) -> Result<BorrowedFd<'_>, Errno> {
    slots.get(&slot).map(AsFd::as_fd).ok_or(Errno::BADF)
}

fn one(key: &str, value: impl ToString) -> Fields {
    vec![(key.to_owned(), value.to_string())]
}

fn done(_: ()) -> Fields {
    Fields::new()
}

fn open_or_close(root: &Path, slots: &mut Slots, op: &Op) -> Called {
    match op {
        Op::Open { slot, path, flags, mode } => {
            slots.remove(slot);
            let flags = OFlags::from_bits_retain(*flags) | OFlags::CLOEXEC | OFlags::NOCTTY;
            let fd = rustix::fs::open(full(root, path), flags, Mode::from_raw_mode(*mode))?;
            slots.insert(*slot, fd);
            Ok(Fields::new())
        }
        Op::Close { slot } => slots.remove(slot).map(|_| Fields::new()).ok_or(Errno::BADF),
        _ => Err(Errno::NOSYS),
    }
}

fn create(root: &Path, slots: &Slots, op: &Op) -> Called {
    match op {
        Op::Mkdir { path, mode } => rustix::fs::mkdir(full(root, path), Mode::from_raw_mode(*mode)),
        Op::Mknod { path, kind, mode, major, minor } => {
            let kind = FileType::from_raw_mode(*kind);
            let dev = rustix::fs::makedev(*major, *minor);
            rustix::fs::mknodat(CWD, full(root, path), kind, Mode::from_raw_mode(*mode), dev)
        }
        Op::Symlink { target, path } => rustix::fs::symlink(OsStr::from_bytes(target), full(root, path)),
        Op::Link { old: Target::Path(old), new } => rustix::fs::link(full(root, old), full(root, new)),
        Op::Link { old: Target::Slot(slot), new } => {
            rustix::fs::linkat(held(slots, *slot)?, "", CWD, full(root, new), AtFlags::EMPTY_PATH)
        }
        _ => Err(Errno::NOSYS),
    }
    .map(done)
}

fn remove(root: &Path, op: &Op) -> Called {
    match op {
        Op::Unlink { path } => rustix::fs::unlink(full(root, path)),
        Op::Rmdir { path } => rustix::fs::rmdir(full(root, path)),
        Op::Rename { old, new, flags } => {
            let flags = RenameFlags::from_bits_retain(*flags);
            rustix::fs::renameat_with(CWD, full(root, old), CWD, full(root, new), flags)
        }
        _ => Err(Errno::NOSYS),
    }
    .map(done)
}

fn look(root: &Path, slots: &Slots, op: &Op) -> Called {
    match op {
        Op::Stat { target: Target::Path(path) } => Ok(stat_fields(&rustix::fs::lstat(full(root, path))?)),
        Op::Stat { target: Target::Slot(slot) } => Ok(stat_fields(&rustix::fs::fstat(held(slots, *slot)?)?)),
        Op::Access { path, mode } => {
            // By effective ids, as the calls of this worker are judged too.
            let access = Access::from_bits_retain(*mode);
            rustix::fs::accessat(CWD, full(root, path), access, AtFlags::EACCESS).map(done)
        }
        Op::Readlink { path } => {
            let target = rustix::fs::readlink(full(root, path), Vec::new())?;
            Ok(one("target", brief(target.as_bytes())))
        }
        Op::List { target: Target::Path(path) } => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            list(rustix::fs::open(full(root, path), flags, Mode::empty())?.as_fd())
        }
        Op::List { target: Target::Slot(slot) } => list(held(slots, *slot)?),
        _ => Err(Errno::NOSYS),
    }
}

/// One entry of a directory: name, type, and the offset that continues behind it.
type Listed = (Vec<u8>, FileType, u64);

/// Reads a directory from where its descriptor stands to its end.
fn read_dir(dir: BorrowedFd<'_>) -> Result<Vec<Listed>, Errno> {
    let mut buffer = vec![MaybeUninit::uninit(); 32768];
    let mut entries = Vec::new();
    let mut raw = RawDir::new(dir, &mut buffer);
    while let Some(entry) = raw.next() {
        let entry = entry?;
        entries.push((entry.file_name().to_bytes().to_vec(), entry.file_type(), entry.next_entry_cookie()));
    }
    Ok(entries)
}

/// Lists a whole directory: `NAME:TYPE` sorted, and whether its offsets lead where they should.
///
/// The order is not compared: the filesystem below chooses it by creation order and hash seed.
fn list(dir: BorrowedFd<'_>) -> Called {
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    let entries = read_dir(dir)?;
    let mut names: Vec<String> =
        entries.iter().map(|(name, kind, _)| format!("{}:{}", escape(name), type_word(*kind))).collect();
    names.sort();
    let mut fields = one("entries", names.join(","));
    fields.extend(one("offsets", offsets_lead_back(dir, &entries)?));
    Ok(fields)
}

/// Returns whether reading on at the offset of the middle entry gives exactly the entries behind it.
fn offsets_lead_back(dir: BorrowedFd<'_>, entries: &[Listed]) -> Result<&'static str, Errno> {
    let Some((_, _, offset)) = entries.get(entries.len() / 2) else { return Ok("none") };
    let Ok(offset) = i64::try_from(*offset) else { return Ok("negative") };
    rustix::fs::seek(dir, SeekFrom::Start(offset.unsigned_abs()))?;
    let rest = read_dir(dir)?;
    let expected = entries[entries.len() / 2 + 1..].iter().map(|(name, ..)| name);
    Ok(if rest.iter().map(|(name, ..)| name).eq(expected) { "good" } else { "bad" })
}

fn timespec(time: SetTime) -> Timespec {
    match time {
        SetTime::Omit => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        SetTime::At(time) => Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() },
    }
}

fn change(root: &Path, slots: &Slots, op: &Op) -> Called {
    let owner = |uid: &Option<u32>, gid: &Option<u32>| (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    match op {
        Op::Truncate { target: Target::Path(path), len } => {
            let len = i64::try_from(*len).map_err(|_| Errno::INVAL)?;
            nix::unistd::truncate(&full(root, path), len)
                .map_err(|error| Errno::from_raw_os_error(error as i32))
        }
        Op::Truncate { target: Target::Slot(slot), len } => rustix::fs::ftruncate(held(slots, *slot)?, *len),
        Op::Chmod { target: Target::Path(path), mode } => {
            rustix::fs::chmod(full(root, path), Mode::from_raw_mode(*mode))
        }
        Op::Chmod { target: Target::Slot(slot), mode } => {
            rustix::fs::fchmod(held(slots, *slot)?, Mode::from_raw_mode(*mode))
        }
        // Comes to a FUSE server as the same request as a write that takes set-id bits away, so it cannot be refused.
        Op::Chown { uid: None, gid: None, .. } if !rustix::process::geteuid().is_root() => Err(Errno::PERM),
        // Such a request that follows the loss of capabilities is that of a write by root, which leaves the bits alone.
        Op::Chown { uid: None, gid: None, target } if has_capabilities(root, slots, target) => {
            Err(Errno::PERM)
        }
        Op::Chown { target: Target::Path(path), uid, gid } => {
            let (uid, gid) = owner(uid, gid);
            rustix::fs::chownat(CWD, full(root, path), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        }
        Op::Chown { target: Target::Slot(slot), uid, gid } => {
            let (uid, gid) = owner(uid, gid);
            rustix::fs::fchown(held(slots, *slot)?, uid, gid)
        }
        Op::Utimens { target, atime, mtime } => {
            let times = Timestamps { last_access: timespec(*atime), last_modification: timespec(*mtime) };
            match target {
                Target::Path(path) => {
                    rustix::fs::utimensat(CWD, full(root, path), &times, AtFlags::SYMLINK_NOFOLLOW)
                }
                Target::Slot(slot) => rustix::fs::futimens(held(slots, *slot)?, &times),
            }
        }
        _ => Err(Errno::NOSYS),
    }
    .map(done)
}

fn has_capabilities(root: &Path, slots: &Slots, target: &Target) -> bool {
    let mut nothing = [0_u8; 0];
    let name = "security.capability";
    match target {
        Target::Path(path) => rustix::fs::lgetxattr(full(root, path), name, &mut nothing),
        Target::Slot(slot) => {
            held(slots, *slot).and_then(|file| rustix::fs::fgetxattr(file, name, &mut nothing))
        }
    }
    .is_ok()
}

fn xattr(root: &Path, slots: &Slots, op: &Op) -> Called {
    let mut buffer = Vec::with_capacity(XATTR_MAX);
    match op {
        Op::Setxattr { target, name, value, flags } => {
            let flags = XattrFlags::from_bits_retain(*flags);
            match target {
                Target::Path(path) => rustix::fs::lsetxattr(full(root, path), name.as_slice(), value, flags),
                Target::Slot(slot) => {
                    rustix::fs::fsetxattr(held(slots, *slot)?, name.as_slice(), value, flags)
                }
            }
            .map(done)
        }
        Op::Removexattr { target, name } => match target {
            Target::Path(path) => rustix::fs::lremovexattr(full(root, path), name.as_slice()),
            Target::Slot(slot) => rustix::fs::fremovexattr(held(slots, *slot)?, name.as_slice()),
        }
        .map(done),
        Op::Getxattr { target, name } => {
            match target {
                Target::Path(path) => {
                    rustix::fs::lgetxattr(full(root, path), name.as_slice(), spare_capacity(&mut buffer))
                }
                Target::Slot(slot) => {
                    rustix::fs::fgetxattr(held(slots, *slot)?, name.as_slice(), spare_capacity(&mut buffer))
                }
            }?;
            Ok(one("value", brief(&buffer)))
        }
        Op::Listxattr { target } => {
            match target {
                Target::Path(path) => rustix::fs::llistxattr(full(root, path), spare_capacity(&mut buffer)),
                Target::Slot(slot) => {
                    rustix::fs::flistxattr(held(slots, *slot)?, spare_capacity(&mut buffer))
                }
            }?;
            let names: Vec<String> = xattr_names(&buffer).iter().map(|name| escape(name)).collect();
            Ok(one("names", names.join(",")))
        }
        _ => Err(Errno::NOSYS),
    }
}

fn data(slots: &Slots, op: &Op) -> Called {
    match op {
        Op::Read { slot, offset, len } => {
            let mut buffer = vec![0; usize::try_from(*len).map_err(|_| Errno::INVAL)?];
            let fd = held(slots, *slot)?;
            let count = match offset {
                Some(offset) => rustix::io::pread(fd, &mut buffer, *offset)?,
                None => rustix::io::read(fd, &mut buffer)?,
            };
            let mut fields = one("count", count);
            fields.extend(one("hash", format!("{:016x}", hash(&buffer[..count]))));
            Ok(fields)
        }
        Op::Write { slot, data, sequential } => {
            let fd = held(slots, *slot)?;
            let bytes = data.bytes();
            let count = if *sequential {
                rustix::io::write(fd, &bytes)
            } else {
                rustix::io::pwrite(fd, &bytes, data.offset)
            };
            Ok(one("count", count?))
        }
        Op::Fallocate { slot, mode, offset, len } => {
            let mode = FallocateFlags::from_bits_retain(*mode);
            // The kernel lets FUSE servers have these modes only (fuse_file_fallocate); others are a refusal on
            // either side.
            let known = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
            if !known.contains(mode) {
                return Err(Errno::OPNOTSUPP);
            }
            rustix::fs::fallocate(held(slots, *slot)?, mode, *offset, *len).map(done)
        }
        Op::Seek { slot, whence, offset } => {
            let unsigned = u64::try_from(*offset).map_err(|_| Errno::INVAL);
            let from = match i32::try_from(*whence).map_err(|_| Errno::INVAL)? {
                libc::SEEK_SET => SeekFrom::Start(unsigned?),
                libc::SEEK_CUR => SeekFrom::Current(*offset),
                libc::SEEK_END => SeekFrom::End(*offset),
                libc::SEEK_DATA => SeekFrom::Data(unsigned?),
                _ => SeekFrom::Hole(unsigned?),
            };
            let file = held(slots, *slot)?;
            // The kernel seeks in FUSE directories by itself, and knows no end, data or holes of them; where a listing
            // stands is the filesystem's own business. Such a seek is a refusal on either side.
            let plain = matches!(from, SeekFrom::Start(_));
            if !plain && FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Directory {
                return Err(Errno::INVAL);
            }
            Ok(one("offset", rustix::fs::seek(file, from)?))
        }
        Op::CopyRange { from, from_offset, to, to_offset, len } => {
            let (mut from_offset, mut to_offset) = (*from_offset, *to_offset);
            let len = usize::try_from(*len).map_err(|_| Errno::INVAL)?;
            let (from, to) = (held(slots, *from)?, held(slots, *to)?);
            let count =
                rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), len)?;
            Ok(one("count", count))
        }
        Op::Fsync { slot } => rustix::fs::fsync(held(slots, *slot)?).map(done),
        Op::Fdatasync { slot } => rustix::fs::fdatasync(held(slots, *slot)?).map(done),
        _ => Err(Errno::NOSYS),
    }
}
