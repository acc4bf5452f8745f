//! Owner and mode of an object as an extended attribute, where the mounter cannot set the real ones
//! (`xattr_permissions`).

use crate::{Errno, Kind, Result, Stat};

/// Which attribute holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// `security.fuseoverlayfs.override_stat` (`xattr_permissions=1`); setting it takes `CAP_SYS_ADMIN`.
    Security,
    /// `user.containers.override_stat` (`xattr_permissions=2`), of regular files and directories only, as others may
    /// not carry it. What older versions of fuse-overlayfs have written, `user.fuseoverlayfs.override_stat`, is read.
    User,
}

/// Where attributes of `security.` are stored that the mounter may not set, as other container tools do.
const DISPLACED: &[u8] = b"user.containers.override_";

impl Records {
    /// The attribute that is written.
    pub fn attribute(self) -> &'static [u8] {
        match self {
            Records::Security => b"security.fuseoverlayfs.override_stat",
            Records::User => b"user.containers.override_stat",
        }
    }

    /// The attributes that are read, in this order.
    pub(super) fn attributes(self) -> &'static [&'static [u8]] {
        match self {
            Records::Security => &[b"security.fuseoverlayfs.override_stat"],
            Records::User => &[b"user.containers.override_stat", b"user.fuseoverlayfs.override_stat"],
        }
    }

    /// Whether an object of that type can have a record.
    pub(super) fn can_have(self, kind: Kind) -> bool {
        self == Records::Security || matches!(kind, Kind::File | Kind::Dir)
    }

    /// The name under which an attribute is stored; `None` if it is one of the records.
    pub(super) fn to_disk(self, name: &[u8]) -> Option<Vec<u8>> {
        if self.attributes().contains(&name) || self == Records::User && name.starts_with(DISPLACED) {
            return None;
        }
        if self == Records::User && name.starts_with(b"security.") {
            return Some([DISPLACED, name].concat());
        }
        Some(name.to_vec())
    }

    /// The name under which a stored attribute is shown; `None` if it is hidden.
    pub(super) fn to_user(self, stored: &[u8]) -> Option<Vec<u8>> {
        if self.attributes().contains(&stored) {
            return None;
        }
        match stored.strip_prefix(DISPLACED).filter(|_| self == Records::User) {
            Some(inner) if inner.starts_with(b"security.") => Some(inner.to_vec()),
            Some(_) => None,
            None => Some(stored.to_vec()),
        }
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Owner, as stored.
    pub uid: u32,
    /// Group, as stored.
    pub gid: u32,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
}

impl Record {
    /// What an object without a record would have in it.
    pub(super) fn of(stat: &Stat) -> Record {
        Record { uid: stat.uid, gid: stat.gid, mode: stat.mode }
    }

    /// Reads `UID:GID:MODE[:TYPE]`, the mode in octal and possibly with the bits of the type. What follows does not
    /// count: the type of an object is its own.
    ///
    /// # Errors
    /// `EINVAL` for anything else: what it was meant to forbid is not known.
    pub fn parse(value: &[u8]) -> Result<Record> {
        let text = std::str::from_utf8(value).map_err(|_| Errno::INVAL)?;
        let mut fields = text.trim_end_matches('\0').splitn(4, ':');
        let mut number = |radix| {
            let digits = fields.next().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| u32::from_str_radix(digits, radix).ok()).ok_or(Errno::INVAL)
        };
        Ok(Record { uid: number(10)?, gid: number(10)?, mode: number(8)? & 0o7777 })
    }

    /// The value to store.
    pub fn format(self) -> Vec<u8> {
        format!("{}:{}:0{:o}", self.uid, self.gid, self.mode).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_write_is_read() {
        let cases: [(&[u8], Record); 5] = [
            (b"0:0:0755", Record { uid: 0, gid: 0, mode: 0o755 }),
            (b"0:0:100755", Record { uid: 0, gid: 0, mode: 0o755 }),
            (b"1000:1001:4711", Record { uid: 1000, gid: 1001, mode: 0o4711 }),
            (b"1:2:0644:file", Record { uid: 1, gid: 2, mode: 0o644 }),
            (b"1:2:0644:block-8-1", Record { uid: 1, gid: 2, mode: 0o644 }),
        ];
        for (value, expected) in cases {
            assert_eq!(Record::parse(value), Ok(expected), "{value:?}");
        }
        let record = Record { uid: 1234, gid: 5678, mode: 0o6751 };
        assert_eq!(record.format(), b"1234:5678:06751");
        assert_eq!(Record::parse(&record.format()), Ok(record));
    }

    #[test]
    fn anything_else_is_refused() {
        for value in
            [&b""[..], b"0:0", b"0:0:", b"0:0:9", b"-1:0:0755", b"+1:0:0755", b"x:0:0755", b"4294967296:0:0"]
        {
            assert_eq!(Record::parse(value), Err(Errno::INVAL), "{value:?}");
        }
    }

    #[test]
    fn security_attributes_are_displaced_and_records_hidden() {
        let user = Records::User;
        let displaced = b"user.containers.override_security.capability";
        assert_eq!(user.to_disk(b"security.capability").as_deref(), Some(&displaced[..]));
        assert_eq!(user.to_user(displaced).as_deref(), Some(&b"security.capability"[..]));
        assert_eq!(
            (user.to_user(b"user.a"), user.to_disk(b"user.a")),
            (Some(b"user.a".into()), Some(b"user.a".into()))
        );
        for name in user.attributes() {
            assert_eq!((user.to_disk(name), user.to_user(name)), (None, None));
        }
        assert_eq!(user.to_disk(displaced), None);
        assert_eq!(
            Records::Security.to_disk(b"security.capability").as_deref(),
            Some(&b"security.capability"[..])
        );
    }
}
