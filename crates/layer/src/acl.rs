//! POSIX access control lists in the binary form of `system.posix_acl_access` and `system.posix_acl_default`.
//!
//! Pure functions on bytes: what a new object inherits, and how lists and mode bits follow each other. The rules are
//! those of Linux (fs/posix_acl.c), checked against a real filesystem by the tests.

use crate::{Errno, Kind, Result};

/// Attribute name of the access list.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Attribute name of a directory's default list.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const UNDEFINED_ID: u32 = u32::MAX;

/// Whom an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The owner.
    UserObj,
    /// This user.
    User(u32),
    /// The owning group.
    GroupObj,
    /// This group.
    Group(u32),
    /// Upper bound for all but owner and others.
    Mask,
    /// Everybody else.
    Other,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it is about.
    pub tag: Tag,
    /// Permission bits, `0..=7`.
    pub perm: u32,
}

/// A list, in the order in which it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// The entries; valid in the sense of [`Acl::parse`].
    entries: Vec<Entry>,
}

/// What a new object gets from the default list of its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// Value of [`ACCESS`], `None` if the mode says it all.
    pub access_acl: Option<Vec<u8>>,
    /// Value of [`DEFAULT`]; directories only.
    pub default_acl: Option<Vec<u8>>,
    /// The mode, its permission bits limited by the list; other bits as given.
    pub mode: u32,
}

impl Acl {
    /// Reads and checks a list. `None` if it has no entries, which stands for "no list".
    ///
    /// # Errors
    /// `EOPNOTSUPP` for another version; `EINVAL` for anything else that the kernel would not take: a broken length,
    /// unknown tags or permissions, missing or repeated entries, wrong order.
    pub fn parse(value: &[u8]) -> Result<Option<Self>> {
        let Some((version, rest)) = value.split_first_chunk::<4>() else {
            return Err(Errno::INVAL);
        };
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Errno::OPNOTSUPP);
        }
        let (chunks, remainder) = rest.as_chunks::<8>();
        if !remainder.is_empty() {
            return Err(Errno::INVAL);
        }
        let entries = chunks.iter().map(parse_entry).collect::<Result<Vec<_>>>()?;
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Self { entries };
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Errno::INVAL) }
    }

    /// The bytes that the kernel gives back for this list.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            let (tag, id) = match entry.tag {
                Tag::UserObj => (0x01u16, UNDEFINED_ID),
                Tag::User(id) => (0x02, id),
                Tag::GroupObj => (0x04, UNDEFINED_ID),
                Tag::Group(id) => (0x08, id),
                Tag::Mask => (0x10, UNDEFINED_ID),
                Tag::Other => (0x20, UNDEFINED_ID),
            };
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&(entry.perm as u16).to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// The list with the ids of users and groups changed; `None` if one of them has no counterpart.
    pub fn with_ids(
        &self,
        user: impl Fn(u32) -> Option<u32>,
        group: impl Fn(u32) -> Option<u32>,
    ) -> Option<Acl> {
        let change = |entry: &Entry| {
            let tag = match entry.tag {
                Tag::User(id) => Tag::User(user(id)?),
                Tag::Group(id) => Tag::Group(group(id)?),
                other => other,
            };
            Some(Entry { tag, perm: entry.perm })
        };
        Some(Acl { entries: self.entries.iter().map(change).collect::<Option<Vec<_>>>()? })
    }

    /// The entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The permission bits (`0777`) of an object with this access list; the group bits are the mask's if there is one.
    pub fn mode(&self) -> u32 {
        let mut mode = 0;
        let mut mask = None;
        for entry in &self.entries {
            match entry.tag {
                Tag::UserObj => mode |= entry.perm << 6,
                Tag::GroupObj => mode |= entry.perm << 3,
                Tag::Other => mode |= entry.perm,
                Tag::Mask => mask = Some(entry.perm),
                Tag::User(_) | Tag::Group(_) => {}
            }
        }
        mask.map_or(mode, |mask| mode & !0o070 | mask << 3)
    }

    /// Whether the permission bits say the same, so that no list has to be stored.
    pub fn is_mode(&self) -> bool {
        !self.entries.iter().any(|entry| matches!(entry.tag, Tag::User(_) | Tag::Group(_) | Tag::Mask))
    }

    /// The list after chmod(2) to `mode`.
    pub fn with_mode(&self, mode: u32) -> Self {
        let masked = self.entries.iter().any(|entry| entry.tag == Tag::Mask);
        let entries = self.entries.iter().map(|entry| {
            let perm = match entry.tag {
                Tag::UserObj => mode >> 6 & 7,
                Tag::GroupObj if !masked => mode >> 3 & 7,
                Tag::Mask => mode >> 3 & 7,
                Tag::Other => mode & 7,
                _ => entry.perm,
            };
            Entry { perm, ..*entry }
        });
        Self { entries: entries.collect() }
    }

    /// The order and the entries that Linux insists on (posix_acl_valid).
    fn is_valid(&self) -> bool {
        let rank = |tag: Tag| match tag {
            Tag::UserObj => 0,
            Tag::User(_) => 1,
            Tag::GroupObj => 2,
            Tag::Group(_) => 3,
            Tag::Mask => 4,
            Tag::Other => 5,
        };
        let count = |wanted: u32| self.entries.iter().filter(|entry| rank(entry.tag) == wanted).count();
        let named = count(1) + count(3) > 0;
        self.entries.is_sorted_by_key(|entry| rank(entry.tag))
            && (count(0), count(2), count(5)) == (1, 1, 1)
            && (count(4) == 1 || count(4) == 0 && !named)
    }
}

fn parse_entry(chunk: &[u8; 8]) -> Result<Entry> {
    let [t0, t1, p0, p1, id @ ..] = *chunk;
    let id = u32::from_le_bytes(id);
    let tag = match u16::from_le_bytes([t0, t1]) {
        0x01 => Tag::UserObj,
        0x02 => Tag::User(id),
        0x04 => Tag::GroupObj,
        0x08 => Tag::Group(id),
        0x10 => Tag::Mask,
        0x20 => Tag::Other,
        _ => return Err(Errno::INVAL),
    };
    let perm = u32::from(u16::from_le_bytes([p0, p1]));
    if perm > 7 || matches!(tag, Tag::User(UNDEFINED_ID) | Tag::Group(UNDEFINED_ID)) {
        return Err(Errno::INVAL);
    }
    Ok(Entry { tag, perm })
}

/// The permission bits (`0777`) that the stored access list `value` stands for.
///
/// # Errors
/// As [`Acl::parse`]; `EINVAL` also for an empty list.
pub fn mode_of(value: &[u8]) -> Result<u32> {
    Acl::parse(value)?.map(|acl| acl.mode()).ok_or(Errno::INVAL)
}

/// What a new object of type `kind` created with `mode` gets in a directory with the default list `default_acl`
/// (posix_acl_create). The umask does not count where there is a default list: `mode` is the one that was asked for.
///
/// # Errors
/// As [`Acl::parse`] for the stored list. An empty one is no list: everything stays as asked for.
pub fn inherit(default_acl: &[u8], mode: u32, kind: Kind) -> Result<Inherited> {
    let none = Inherited { access_acl: None, default_acl: None, mode };
    if kind == Kind::Symlink {
        return Ok(none);
    }
    let Some(default) = Acl::parse(default_acl)? else {
        return Ok(none);
    };
    let masked = default.entries.iter().any(|entry| entry.tag == Tag::Mask);
    let entries = default.entries.iter().map(|entry| {
        let limit = match entry.tag {
            Tag::UserObj => mode >> 6,
            Tag::GroupObj if !masked => mode >> 3,
            Tag::Mask => mode >> 3,
            Tag::Other => mode,
            _ => 7,
        };
        Entry { perm: entry.perm & limit, ..*entry }
    });
    let access = Acl { entries: entries.collect() };
    Ok(Inherited {
        mode: mode & !0o777 | access.mode(),
        access_acl: (!access.is_mode()).then(|| access.encode()),
        default_acl: (kind == Kind::Dir).then(|| default.encode()),
    })
}

#[cfg(test)]
#[path = "acl_tests.rs"]
mod tests;
