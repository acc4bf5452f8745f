//! Names of extended attributes as users see them and as they are on disk.
//!
//! Private names are out of reach from inside a mount. So that an overlay can be nested in an overlay, a user's name
//! `P` + X is stored as `P` + `overlay.` + X, P being the prefix of the mount's [`Dialect`].

use std::borrow::Cow;

use super::Dialect;
use crate::{Errno, Result};

const ESCAPE: &[u8] = b"overlay.";

/// Longest name of an extended attribute in bytes (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;

/// The on-disk name of what a user calls `name`.
///
/// # Errors
/// `EOPNOTSUPP` if the escaped name is longer than 255 bytes; `EINVAL` for the bare prefix.
pub fn to_disk(dialect: Dialect, name: &[u8]) -> Result<Cow<'_, [u8]>> {
    let Some(rest) = name.strip_prefix(dialect.prefix()) else {
        return Ok(Cow::Borrowed(name));
    };
    if rest.is_empty() {
        // As any namespace without a name in it (xattr_resolve_name in the kernel's fs/xattr.c).
        return Err(Errno::INVAL);
    }
    let escaped = [dialect.prefix(), ESCAPE, rest].concat();
    if escaped.len() > NAME_MAX { Err(Errno::OPNOTSUPP) } else { Ok(Cow::Owned(escaped)) }
}

/// What users call the on-disk `name`; `None` if it is private.
pub fn to_user(dialect: Dialect, name: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(rest) = name.strip_prefix(dialect.prefix()) else {
        return Some(Cow::Borrowed(name));
    };
    rest.strip_prefix(ESCAPE).map(|rest| Cow::Owned([dialect.prefix(), rest].concat()))
}

/// Whether the on-disk `name` belongs to the overlay: hidden from users and not copied up. Escaped names are not
/// private.
pub fn is_private(dialect: Dialect, name: &[u8]) -> bool {
    name.strip_prefix(dialect.prefix()).is_some_and(|rest| !rest.starts_with(ESCAPE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Dialect = Dialect::Trusted;
    const U: Dialect = Dialect::User;

    #[test]
    fn only_the_own_prefix_is_escaped() {
        let cases: [(Dialect, &[u8], &[u8]); 6] = [
            (T, b"user.a", b"user.a"),
            (T, b"trusted.overlay.opaque", b"trusted.overlay.overlay.opaque"),
            (T, b"trusted.overlay.overlay.x", b"trusted.overlay.overlay.overlay.x"),
            (T, b"trusted.overlayx", b"trusted.overlayx"),
            (T, b"user.overlay.opaque", b"user.overlay.opaque"),
            (U, b"user.overlay.opaque", b"user.overlay.overlay.opaque"),
        ];
        for (dialect, user, disk) in cases {
            assert_eq!(to_disk(dialect, user).as_deref(), Ok(disk));
            assert_eq!(to_user(dialect, disk).as_deref(), Some(user));
            assert!(!is_private(dialect, disk));
        }
    }

    #[test]
    fn private_names_are_hidden() {
        let cases: [(Dialect, &[u8]); 4] = [
            (T, b"trusted.overlay.opaque"),
            (T, b"trusted.overlay.foo"),
            (T, b"trusted.overlay."),
            (U, b"user.overlay.origin"),
        ];
        for (dialect, name) in cases {
            assert_eq!(to_user(dialect, name), None);
            assert!(is_private(dialect, name));
        }
        assert!(!is_private(U, b"trusted.overlay.opaque"));
    }

    #[test]
    fn a_prefix_is_no_name() {
        assert_eq!(to_disk(T, b"trusted.overlay."), Err(Errno::INVAL));
        assert_eq!(to_disk(U, b"user.overlay."), Err(Errno::INVAL));
        assert_eq!(to_disk(U, b"trusted.overlay.").as_deref(), Ok(&b"trusted.overlay."[..]));
    }

    #[test]
    fn escaping_has_a_limit() {
        let mut name = b"trusted.overlay.".to_vec();
        name.resize(247, b'a');
        assert_eq!(to_disk(T, &name).map(|disk| disk.len()), Ok(255));
        name.push(b'a');
        assert_eq!(to_disk(T, &name), Err(Errno::OPNOTSUPP));
    }
}
