//! Trees in the notation of the recording: as seen through a mount, and as a layer's directory holds them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, lgetxattr, llistxattr, openat, readlinkat, statat,
};
use rustix::io::Errno;

use crate::errno;

/// The longest content that is shown; a longer file shows its size in bytes.
const CONTENT_SHOWN: usize = 8;

/// What both notations write for a tree without entries.
const EMPTY: &str = "(empty)";

/// The names in the directory at `path`, sorted by bytes, without `.` and `..`.
pub(super) fn names(path: &Path) -> Result<Vec<OsString>, Errno> {
    let fd = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(fd)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}

/// The whole file at `path`.
pub(super) fn content(path: &Path) -> Result<Vec<u8>, Errno> {
    let fd = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(bytes)
}

/// Bytes as printable text: anything else is a dot.
pub(super) fn printable(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| if (b' '..=b'~').contains(&b) { b as char } else { '.' }).collect()
}

/// lstat(2).
pub(super) fn lstat(path: &Path) -> Result<Stat, Errno> {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
}

/// Everything below the mount point `root`: every directory listed, every name lstat'ed, every file read.
///
/// `p=content` (`p(n)` if long), `p/`, `p->target`, `p~` fifo, `p?c` device, `p!ERR` where lstat, readdir or read
/// failed; separated by spaces, sorted within each directory.
pub(super) fn visible(root: &Path) -> String {
    let mut out = Vec::new();
    visible_dir(root, "", &mut out);
    if out.is_empty() { EMPTY.to_owned() } else { out.join(" ") }
}

fn visible_dir(dir: &Path, prefix: &str, out: &mut Vec<String>) {
    let names = match names(dir) {
        Ok(names) => names,
        Err(error) => return out.push(format!("{prefix}!{}", errno::name(error))),
    };
    for name in names {
        let path = dir.join(&name);
        let shown = format!("{prefix}{}", printable(name.as_bytes()));
        let kind = match lstat(&path) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(error) => {
                out.push(format!("{shown}!{}", errno::name(error)));
                continue;
            }
        };
        match kind {
            FileType::Directory => {
                out.push(format!("{shown}/"));
                visible_dir(&path, &format!("{shown}/"), out);
            }
            FileType::RegularFile => out.push(match content(&path) {
                Ok(bytes) if bytes.len() > CONTENT_SHOWN => format!("{shown}({})", bytes.len()),
                Ok(bytes) => format!("{shown}={}", printable(&bytes)),
                Err(error) => format!("{shown}=!{}", errno::name(error)),
            }),
            FileType::Symlink => out.push(format!("{shown}->{}", link_target(&path))),
            FileType::Fifo => out.push(format!("{shown}~")),
            FileType::CharacterDevice | FileType::BlockDevice => out.push(format!("{shown}?c")),
            other => out.push(format!("{shown}?{other:?}")),
        }
    }
}

fn link_target(path: &Path) -> String {
    match readlinkat(CWD, path, Vec::new()) {
        Ok(target) => printable(target.to_bytes()),
        Err(error) => format!("!{}", errno::name(error)),
    }
}

/// An upper directory as it is on disk; the root comes first, as `.`, if it carries xattrs.
pub(super) fn upper(root: &Path) -> io::Result<String> {
    let mut lines = Vec::new();
    let attrs = attributes(root)?;
    if !attrs.is_empty() {
        lines.push(format!(".{attrs}"));
    }
    disk_dir(root, "", &mut lines)?;
    Ok(if lines.is_empty() { EMPTY.to_owned() } else { lines.join("; ") })
}

/// An index directory, or an empty string if there is none: staging names left out, handle names as `<FH>`.
///
/// Entries are sorted as shown, because the order of the handles is not repeatable.
pub(super) fn index(root: &Path) -> io::Result<String> {
    if !root.exists() {
        return Ok(String::new());
    }
    let mut lines = Vec::new();
    for name in names(root)? {
        let name = name.as_bytes();
        if name.starts_with(b"#") {
            continue;
        }
        let shown = if is_handle(name) { "<FH>".to_owned() } else { printable(name) };
        let path = root.join(OsString::from_vec(name.to_vec()));
        lines.push(disk_entry(&path, &shown)?);
    }
    lines.sort();
    lines.insert(0, format!(".{}", attributes(root)?));
    Ok(lines.join("; "))
}

/// Whether `name` is a file handle in hexadecimal.
fn is_handle(name: &[u8]) -> bool {
    name.len() >= 10 && name.len().is_multiple_of(2) && name.iter().all(u8::is_ascii_hexdigit)
}

fn disk_dir(dir: &Path, prefix: &str, lines: &mut Vec<String>) -> io::Result<()> {
    for name in names(dir)? {
        let path = dir.join(&name);
        let shown = format!("{prefix}{}", printable(name.as_bytes()));
        lines.push(disk_entry(&path, &shown)?);
        if FileType::from_raw_mode(lstat(&path)?.st_mode) == FileType::Directory {
            disk_dir(&path, &format!("{shown}/"), lines)?;
        }
    }
    Ok(())
}

/// One entry: name, kind, mode if unusual, owner if not root, link count of files, xattrs in braces.
fn disk_entry(path: &Path, shown: &str) -> io::Result<String> {
    let stat = lstat(path)?;
    let mode = stat.st_mode & 0o7777;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut line = shown.to_owned();
    match kind {
        FileType::CharacterDevice if stat.st_rdev == 0 => {
            line.push_str(" WH");
            return Ok(line);
        }
        FileType::Directory => line.push('/'),
        FileType::RegularFile => line.push_str(&format!(" f{}", stat.st_size)),
        FileType::Symlink => line.push_str(&format!("->{}", link_target(path))),
        FileType::Fifo => line.push_str(" fifo"),
        FileType::CharacterDevice => line.push_str(" chr"),
        FileType::BlockDevice => line.push_str(" blk"),
        other => line.push_str(&format!(" {other:?}")),
    }
    let usual = match kind {
        FileType::Directory => Some(0o755),
        FileType::RegularFile => Some(0o644),
        FileType::Symlink => Some(mode),
        _ => None,
    };
    if usual != Some(mode) {
        line.push_str(&format!(" {mode:04o}"));
    }
    // The recording leaves out who owns fifos and devices.
    if usual.is_some() && (stat.st_uid, stat.st_gid) != (0, 0) {
        line.push_str(&format!(" {}:{}", stat.st_uid, stat.st_gid));
    }
    if kind == FileType::RegularFile && stat.st_nlink > 1 {
        line.push_str(&format!(" nl={}", stat.st_nlink));
    }
    line.push_str(&attributes(path)?);
    Ok(line)
}

/// All xattrs but the overlay's uuid and the machine's own label, sorted by full name, in braces; empty if none.
fn attributes(path: &Path) -> io::Result<String> {
    let mut list = Vec::with_capacity(1 << 16);
    llistxattr(path, spare_capacity(&mut list))?;
    let mut names: Vec<String> =
        list.split(|&b| b == 0).filter(|name| !name.is_empty()).map(printable).collect();
    names.sort();
    let mut shown = Vec::new();
    for name in names {
        let short = name.strip_prefix("trusted.overlay.");
        let private = short.or_else(|| name.strip_prefix("user.overlay."));
        if private == Some("uuid") || name == "security.selinux" {
            continue;
        }
        let mut value = Vec::with_capacity(1 << 16);
        lgetxattr(path, name.as_str(), spare_capacity(&mut value))?;
        shown.push(match (short, private) {
            // Binary or without meaning of its own: that it is there is all there is to say.
            (_, Some("origin")) if value.is_empty() => "origin(0)".to_owned(),
            (_, Some(mark @ ("origin" | "upper" | "impure"))) => mark.to_owned(),
            (Some(mark @ ("opaque" | "redirect" | "nlink" | "metacopy" | "protattr")), _) => {
                format!("{mark}={}", printable(&value))
            }
            (Some(other), _) => format!("T.o.{other}={}", printable(&value)),
            _ if name.starts_with("system.posix_acl_") => format!("{name}[{}]", value.len()),
            _ => format!("{name}={}", printable(&value)),
        });
    }
    Ok(if shown.is_empty() { String::new() } else { format!("{{{}}}", shown.join(",")) })
}
