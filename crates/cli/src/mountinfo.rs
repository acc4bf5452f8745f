//! The mount table of this process (`/proc/self/mountinfo`, proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The filesystem type of our mounts.
pub(crate) const FSTYPE: &str = "fuse.acetate";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Id of the mount; grows with each new mount, but for those that reuse the id of one that is gone.
    pub(crate) id: u32,
    /// Device number of the filesystem.
    pub(crate) device: (u32, u32),
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// Options of the mount itself (`rw,nosuid`).
    pub(crate) flags: OsString,
    /// Type of the filesystem with its subtype.
    pub(crate) fstype: OsString,
    /// The source, as the mounter named it.
    pub(crate) source: OsString,
    /// Options of the filesystem (`rw,lowerdir=...`), escapes undone.
    pub(crate) options: OsString,
}

/// All mounts, in the order of the table: a mount that covers another one comes after it.
///
/// # Errors
/// Those of reading /proc/self/mountinfo.
pub(crate) fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The topmost mount at exactly this path, if any. The path is compared as it is: absolute and without symlinks.
///
/// # Errors
/// Those of [`mounts`].
pub(crate) fn at(point: &Path) -> io::Result<Option<Mount>> {
    let all = mounts()?;
    Ok(all.into_iter().rev().find(|mount| mount.point.as_os_str() == point.as_os_str()))
}

fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// One line: `ID PARENT MAJOR:MINOR ROOT POINT FLAGS [TAG...] - TYPE SOURCE OPTIONS`.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|&byte| byte == b' ');
    let id = text(words.next()?)?.parse().ok()?;
    let (major, minor) = text(words.nth(1)?)?.split_once(':')?;
    let point = unescape(words.nth(1)?);
    let flags = unescape(words.next()?);
    let mut rest = words.skip_while(|word| *word != b"-").skip(1);
    Some(Mount {
        id,
        device: (major.parse().ok()?, minor.parse().ok()?),
        point: point.into(),
        flags,
        fstype: unescape(rest.next()?),
        source: unescape(rest.next()?),
        options: unescape(rest.next()?),
    })
}

fn text(word: &[u8]) -> Option<&str> {
    std::str::from_utf8(word).ok()
}

/// Undoes the `\ooo` escapes.
fn unescape(text: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        let value = digits.map(|d| d.iter().fold(0u8, |n, b| n.wrapping_mul(8).wrapping_add(b - b'0')));
        out.push(value.unwrap_or(first));
        rest = if value.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(out)
}

impl Mount {
    /// Whether it is one of ours.
    pub(crate) fn is_ours(&self) -> bool {
        self.fstype == FSTYPE
    }

    /// Whether it is an overlay that the kernel serves.
    pub(crate) fn is_kernels(&self) -> bool {
        self.fstype == "overlay"
    }

    /// The upper and work directories of a kernel overlay, as its mounter wrote them: a relative path is relative to a
    /// directory that is not known any more.
    pub(crate) fn overlay_dirs(&self) -> Vec<PathBuf> {
        if !self.is_kernels() {
            return Vec::new();
        }
        // The kernel accepted these options, so whatever fails to parse is none of the two.
        let parsed =
            crate::options::parse(&[&self.options], crate::options::Unknown::Ignore).unwrap_or_default();
        [parsed.options.upper, parsed.options.work].into_iter().flatten().map(PathBuf::from).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = b"36 35 0:52 / /m\\040x rw,nosuid shared:1 master:2 - fuse.acetate a\\134b rw,user_id=0\n";
        let expected = Mount {
            id: 36,
            device: (0, 52),
            point: "/m x".into(),
            flags: "rw,nosuid".into(),
            fstype: "fuse.acetate".into(),
            source: r"a\b".into(),
            options: "rw,user_id=0".into(),
        };
        assert_eq!(parse(line), [expected]);
        assert_eq!(parse(b"36 35 x / /m rw - t s o\n\nshort\n"), []);
    }

    #[test]
    fn this_process_has_mounts() {
        assert_eq!(at(Path::new("/proc")).unwrap().unwrap().fstype, "proc");
        assert_eq!(at(Path::new("/proc/self")).unwrap(), None);
    }
}
