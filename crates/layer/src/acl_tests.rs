//! The rules compared with those of the filesystem below the temporary directory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, XattrFlags, getxattr, mkdir, mkfifoat, setxattr};

use super::*;

/// A directory that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    /// `None` (with a note) if the filesystem has no access control lists.
    fn new(test: &str) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("acetate-acl-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let scratch = Self(path);
        match set(&scratch.0, DEFAULT, &list(&[(1, 7), (4, 5), (32, 5)])) {
            Ok(()) => Some(scratch),
            Err(Errno::OPNOTSUPP) => {
                println!("not run: no access control lists below {}", scratch.0.display());
                None
            }
            Err(errno) => panic!("cannot set an access control list: {errno}"),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn name(attribute: &[u8]) -> &str {
    std::str::from_utf8(attribute).unwrap()
}

fn set(path: &Path, attribute: &[u8], value: &[u8]) -> Result<()> {
    setxattr(path, name(attribute), value, XattrFlags::empty())
}

fn get(path: &Path, attribute: &[u8]) -> Option<Vec<u8>> {
    let mut buf = vec![0; 4096];
    match getxattr(path, name(attribute), &mut buf) {
        Ok(len) => Some(buf[..len].to_vec()),
        Err(Errno::NODATA) => None,
        Err(errno) => panic!("{}: {errno}", path.display()),
    }
}

/// The binary form of entries `(tag, perm)`; named ones get the id 1000 plus their position.
fn list(entries: &[(u16, u16)]) -> Vec<u8> {
    let mut value = VERSION.to_le_bytes().to_vec();
    for (at, (tag, perm)) in entries.iter().enumerate() {
        let id = if matches!(tag, 2 | 8) { 1000 + at as u32 } else { UNDEFINED_ID };
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&perm.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// Lists of all shapes: with and without named entries and mask, tight and loose.
fn lists() -> Vec<Vec<u8>> {
    vec![
        list(&[(1, 7), (4, 5), (32, 5)]),
        list(&[(1, 0), (4, 0), (32, 0)]),
        list(&[(1, 7), (4, 7), (16, 7), (32, 7)]),
        list(&[(1, 6), (4, 7), (16, 4), (32, 1)]),
        list(&[(1, 7), (2, 7), (4, 5), (16, 7), (32, 5)]),
        list(&[(1, 7), (2, 6), (2, 1), (4, 5), (8, 7), (8, 0), (16, 5), (32, 4)]),
        list(&[(1, 5), (4, 7), (8, 2), (16, 0), (32, 7)]),
    ]
}

const MODES: [u32; 10] = [0o000, 0o777, 0o755, 0o750, 0o640, 0o666, 0o070, 0o707, 0o1777, 0o6755];

#[test]
fn new_objects_inherit_as_on_a_real_filesystem() {
    let Some(scratch) = Scratch::new("inherit") else { return };
    for (at, default) in lists().into_iter().enumerate() {
        let dir = scratch.0.join(at.to_string());
        fs::create_dir(&dir).unwrap();
        set(&dir, DEFAULT, &default).unwrap();
        for (kind, mode) in
            [Kind::File, Kind::Dir, Kind::Fifo].iter().flat_map(|kind| MODES.map(|mode| (*kind, mode)))
        {
            // mkdir(2) does not take the set-id bits.
            let mode = if kind == Kind::Dir { mode & 0o1777 } else { mode };
            let path = dir.join(format!("{kind:?}{mode:o}"));
            match kind {
                Kind::File => {
                    fs::OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(mode)
                        .open(&path)
                        .map(drop)
                        .unwrap();
                }
                Kind::Dir if !path.exists() => mkdir(&path, Mode::from_bits_truncate(mode)).unwrap(),
                Kind::Dir => continue,
                _ => mkfifoat(rustix::fs::CWD, &path, Mode::from_bits_truncate(mode)).unwrap(),
            }
            let real = Inherited {
                access_acl: get(&path, ACCESS),
                default_acl: if kind == Kind::Dir { get(&path, DEFAULT) } else { None },
                mode: fs::metadata(&path).unwrap().mode() & 0o7777,
            };
            assert_eq!(inherit(&default, mode, kind), Ok(real), "list {at}, {kind:?} with mode {mode:o}");
        }
    }
}

#[test]
fn symlinks_inherit_nothing() {
    let default = list(&[(1, 7), (4, 5), (32, 0)]);
    let expected = Inherited { access_acl: None, default_acl: None, mode: 0o777 };
    assert_eq!(inherit(&default, 0o777, Kind::Symlink), Ok(expected));
}

#[test]
fn access_lists_and_modes_follow_each_other_as_on_a_real_filesystem() {
    let Some(scratch) = Scratch::new("mode") else { return };
    for (at, value) in lists().into_iter().enumerate() {
        let path = scratch.0.join(format!("file{at}"));
        fs::write(&path, b"").unwrap();
        set(&path, ACCESS, &value).unwrap();
        let acl = Acl::parse(&value).unwrap().unwrap();
        let stored = (!acl.is_mode()).then(|| acl.encode());
        assert_eq!(get(&path, ACCESS), stored, "list {at}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode_of(&value).unwrap(), "list {at}");
        for mode in MODES {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let changed = stored.is_some().then(|| acl.with_mode(mode).encode());
            assert_eq!(get(&path, ACCESS), changed, "list {at} after chmod {mode:o}");
        }
    }
}

#[test]
fn lists_are_valid_when_a_real_filesystem_takes_them() {
    let Some(scratch) = Scratch::new("valid") else { return };
    let path = scratch.0.join("file");
    fs::write(&path, b"").unwrap();
    let full: [(u16, u16); 6] = [(1, 7), (2, 7), (4, 5), (8, 5), (16, 5), (32, 5)];
    let mut values = vec![
        vec![],
        vec![2, 0, 0],
        vec![2, 0, 0, 0],
        vec![1, 0, 0, 0],
        list(&[(1, 8), (4, 0), (32, 0)]),
        list(&[(1, 7), (4, 0), (64, 0)]),
    ];
    // Every subset, and every one with two entries swapped or one repeated.
    for bits in 0..1 << full.len() {
        let subset: Vec<_> =
            full.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, e)| *e).collect();
        values.push(list(&subset));
        for at in 0..subset.len() {
            let mut twice = subset.clone();
            twice.insert(at, subset[at]);
            values.push(list(&twice));
            let mut swapped = subset.clone();
            swapped.swap(0, at);
            values.push(list(&swapped));
        }
    }
    values.push([list(&full), vec![0]].concat());
    let mut undefined = list(&full);
    undefined[16..20].copy_from_slice(&UNDEFINED_ID.to_le_bytes());
    values.push(undefined);
    for value in values.into_iter().filter(|value| !value.is_empty()) {
        let real = set(&path, ACCESS, &value);
        assert_eq!(Acl::parse(&value).map(drop), real, "{value:?}");
    }
}
