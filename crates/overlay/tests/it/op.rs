//! Random operations, as system calls on paths.

use std::collections::BTreeMap;
use std::fmt;

use acetate_layer::{Errno, Kind, Rdev, SetXattr, acl};
use proptest::prelude::*;

use crate::stack::{self, Path, content, path};

/// One operation. Symlinks lead nowhere, so following one is `ENOENT`; reading or writing what is neither a file nor
/// a directory is `ENXIO` without asking anybody.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    Create(Path, u32),
    Mkdir(Path, u32),
    Mknod(Path, Kind, Rdev),
    Symlink(Path),
    Link(Path, Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path, Flags),
    /// Opens for writing and, if there is something to write, writes it.
    Write(Path, u64, Vec<u8>),
    /// Opens with `O_TRUNC`.
    Empty(Path),
    Truncate(Path, u64),
    Chmod(Path, u32),
    Chown(Path, Option<u32>, Option<u32>),
    /// Sets the modification time.
    Touch(Path, i64),
    SetXattr(Path, &'static [u8], Vec<u8>, SetXattr),
    RemoveXattr(Path, &'static [u8]),
    /// Creates an unnamed file in the directory and gives it the second path.
    Unnamed(Path, Vec<u8>, Path),
    Read(Path),
    List(Path),
    ReadLink(Path),
}

/// What renameat2(2) may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    None,
    NoReplace,
    Exchange,
}

/// What an operation returns.
#[derive(Clone, PartialEq, Eq)]
pub enum Output {
    Nothing,
    Bytes(Vec<u8>),
    Names(BTreeMap<Vec<u8>, Kind>),
}

pub type Outcome = Result<Output, Errno>;

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "nothing"),
            Self::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Names(names) => f
                .debug_list()
                .entries(names.iter().map(|(name, kind)| format!("{} {kind:?}", name.escape_ascii())))
                .finish(),
        }
    }
}

impl fmt::Debug for Op {
    /// As Rust code for a regression test, given `p("/a/b")`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = |path: &Path| format!("p(b\"{}\")", stack::show(path));
        let b = |bytes: &[u8]| format!("b\"{}\"", bytes.escape_ascii());
        match self {
            Self::Create(path, mode) => write!(f, "Create({}, 0o{mode:o})", p(path)),
            Self::Mkdir(path, mode) => write!(f, "Mkdir({}, 0o{mode:o})", p(path)),
            Self::Mknod(path, kind, rdev) => write!(f, "Mknod({}, Kind::{kind:?}, {rdev:?})", p(path)),
            Self::Symlink(path) => write!(f, "Symlink({})", p(path)),
            Self::Link(old, new) => write!(f, "Link({}, {})", p(old), p(new)),
            Self::Unlink(path) => write!(f, "Unlink({})", p(path)),
            Self::Rmdir(path) => write!(f, "Rmdir({})", p(path)),
            Self::Rename(old, new, flags) => write!(f, "Rename({}, {}, Flags::{flags:?})", p(old), p(new)),
            Self::Write(path, offset, data) => {
                write!(f, "Write({}, {offset}, {}.to_vec())", p(path), b(data))
            }
            Self::Empty(path) => write!(f, "Empty({})", p(path)),
            Self::Truncate(path, size) => write!(f, "Truncate({}, {size})", p(path)),
            Self::Chmod(path, mode) => write!(f, "Chmod({}, 0o{mode:o})", p(path)),
            Self::Chown(path, uid, gid) => write!(f, "Chown({}, {uid:?}, {gid:?})", p(path)),
            Self::Touch(path, time) => write!(f, "Touch({}, {time})", p(path)),
            Self::SetXattr(path, name, value, how) => {
                write!(f, "SetXattr({}, {}, {}.to_vec(), SetXattr::{how:?})", p(path), b(name), b(value))
            }
            Self::RemoveXattr(path, name) => write!(f, "RemoveXattr({}, {})", p(path), b(name)),
            Self::Unnamed(dir, data, path) => {
                write!(f, "Unnamed({}, {}.to_vec(), {})", p(dir), b(data), p(path))
            }
            Self::Read(path) => write!(f, "Read({})", p(path)),
            Self::List(path) => write!(f, "List({})", p(path)),
            Self::ReadLink(path) => write!(f, "ReadLink({})", p(path)),
        }
    }
}

/// The path that `/a/b` stands for.
pub fn p(path: &[u8]) -> Path {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

fn mode() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0o644, 0o600, 0o755, 0o777, 0o2755, 0o4755, 0o6771, 0o1777, 0])
}

fn id() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(prop::sample::select(vec![0, 5, 1000]))
}

/// A list with a named user, so that it is more than a mode.
pub fn acl_value() -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 7u16, u32::MAX), (2, 6, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 1, u32::MAX)]
    {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&perm.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

fn attribute() -> impl Strategy<Value = (&'static [u8], Vec<u8>)> {
    let plain = prop::sample::select(vec![
        b"user.x".as_slice(),
        b"trusted.x",
        b"security.x",
        b"trusted.overlay.opaque",
        b"trusted.overlay.overlay.x",
        b"user.overlay.opaque",
        b"other.x",
    ]);
    let value = prop_oneof![Just(b"".to_vec()), Just(b"y".to_vec())];
    let list = prop::sample::select(vec![acl::ACCESS, acl::DEFAULT]).prop_map(|name| (name, acl_value()));
    prop_oneof![3 => (plain, value), 1 => list]
}

/// A list of directory contents for a directory that may be the root.
fn directory() -> impl Strategy<Value = Path> {
    prop::collection::vec(stack::name(), 0..=2)
}

pub fn op() -> impl Strategy<Value = Op> {
    let flags =
        prop::sample::select(vec![Flags::None, Flags::None, Flags::None, Flags::NoReplace, Flags::Exchange]);
    let node = prop::sample::select(vec![
        (Kind::Fifo, 0, 0),
        (Kind::Socket, 0, 0),
        (Kind::CharDevice, 77, 7),
        (Kind::BlockDevice, 0, 0),
        (Kind::CharDevice, 0, 0),
        (Kind::File, 0, 0),
    ]);
    let how = prop::sample::select(vec![SetXattr::Any, SetXattr::Any, SetXattr::Create, SetXattr::Replace]);
    let offset = prop::sample::select(vec![0u64, 3, 4096, 10_000]);
    prop_oneof![
        3 => (path(), mode()).prop_map(|(path, mode)| Op::Create(path, mode)),
        3 => (path(), mode()).prop_map(|(path, mode)| Op::Mkdir(path, mode)),
        1 => (path(), node).prop_map(|(path, (kind, major, minor))| Op::Mknod(path, kind, Rdev { major, minor })),
        1 => path().prop_map(Op::Symlink),
        3 => (path(), path()).prop_map(|(old, new)| Op::Link(old, new)),
        5 => path().prop_map(Op::Unlink),
        4 => path().prop_map(Op::Rmdir),
        8 => (path(), path(), flags).prop_map(|(old, new, flags)| Op::Rename(old, new, flags)),
        2 => (path(), offset.clone(), content()).prop_map(|(path, offset, data)| Op::Write(path, offset, data)),
        1 => path().prop_map(Op::Empty),
        1 => (path(), offset).prop_map(|(path, size)| Op::Truncate(path, size)),
        2 => (directory(), mode()).prop_map(|(path, mode)| Op::Chmod(path, mode)),
        2 => (directory(), id(), id()).prop_map(|(path, uid, gid)| Op::Chown(path, uid, gid)),
        1 => (path(), 0i64..3).prop_map(|(path, time)| Op::Touch(path, time)),
        2 => (directory(), attribute(), how).prop_map(|(path, (name, value), how)| Op::SetXattr(path, name, value, how)),
        1 => (path(), attribute()).prop_map(|(path, (name, _))| Op::RemoveXattr(path, name)),
        1 => (directory(), content(), path()).prop_map(|(dir, data, path)| Op::Unnamed(dir, data, path)),
        1 => path().prop_map(Op::Read),
        1 => directory().prop_map(Op::List),
        1 => path().prop_map(Op::ReadLink),
    ]
}
