//! The marks that overlayfs leaves in layers, as pure functions on bytes.
//!
//! A mark is a private extended attribute of the upper (or, for images, of a lower) layer, or a whiteout. This module
//! names them, reads and writes their values, and hides them from users. It does no I/O and never looks at two
//! objects at once.

mod below;
mod links;
mod metacopy;
mod names;
mod origin;
mod protattr;
mod redirect;
mod whiteout;

pub use below::Below;
pub use links::Links;
pub use metacopy::{BrokenMetacopy, Digest};
pub use names::{is_private, to_disk, to_user};
pub use origin::Origin;
pub use protattr::ProtAttr;
pub use redirect::{Invalid, Redirect};
pub use whiteout::{is_device_whiteout, may_be_xattr_whiteout};

/// Which namespace holds the private attributes of a mount (option `userxattr`). The other one is plain user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `trusted.overlay.*`
    Trusted,
    /// `user.overlay.*`
    User,
}

/// The private attributes that have a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// On a directory: hides what lies below.
    Opaque,
    /// On a directory or a metacopy file: where to go on in the layers below.
    Redirect,
    /// On an upper object: the lower object that it was copied from.
    Origin,
    /// On an upper directory: holds objects with an origin.
    Impure,
    /// On an indexed inode: the link count of the union.
    Nlink,
    /// On index directories: the upper directory.
    Upper,
    /// On a regular file: the data lies below.
    Metacopy,
    /// On a file or directory: append-only and immutable flags.
    ProtAttr,
    /// On the upper root: the identity of the overlay.
    Uuid,
    /// On an empty regular file: a whiteout.
    Whiteout,
    /// On a copy: what its lower file was ([`Below`]), where handles cannot be opened. Not a mark of the kernel's.
    Below,
    /// On the upper root: the layer holds what the kernel does not read ([`EXTENDED`]). Not a mark of the kernel's.
    Compat,
}

/// The value of [`Mark::Compat`], and the name of the feature in the work directory: redirects and metadata-only copies
/// with marks of [`Dialect::User`].
pub const EXTENDED: &[u8] = b"extended";

macro_rules! names {
    ($prefix:literal, $mark:expr) => {
        match $mark {
            Mark::Opaque => concat!($prefix, "opaque"),
            Mark::Redirect => concat!($prefix, "redirect"),
            Mark::Origin => concat!($prefix, "origin"),
            Mark::Impure => concat!($prefix, "impure"),
            Mark::Nlink => concat!($prefix, "nlink"),
            Mark::Upper => concat!($prefix, "upper"),
            Mark::Metacopy => concat!($prefix, "metacopy"),
            Mark::ProtAttr => concat!($prefix, "protattr"),
            Mark::Uuid => concat!($prefix, "uuid"),
            Mark::Whiteout => concat!($prefix, "whiteout"),
            Mark::Below => concat!($prefix, "below"),
            Mark::Compat => concat!($prefix, "compat"),
        }
    };
}

impl Dialect {
    /// What all private names begin with, the last dot included.
    pub const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// The full name of a mark.
    pub const fn name(self, mark: Mark) -> &'static [u8] {
        match self {
            Self::Trusted => names!("trusted.overlay.", mark).as_bytes(),
            Self::User => names!("user.overlay.", mark).as_bytes(),
        }
    }
}

/// What the opaque mark of a directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opaque {
    /// Nothing: layers below are merged.
    No,
    /// The layers below are hidden.
    Yes,
    /// Merged, and the directory may hold xattr whiteouts.
    HasXattrWhiteouts,
}

/// Reads the value of [`Mark::Opaque`]. Only the single bytes `y` and `x` mean something.
pub fn opaque(value: Option<&[u8]>) -> Opaque {
    match value {
        Some(b"y") => Opaque::Yes,
        Some(b"x") => Opaque::HasXattrWhiteouts,
        _ => Opaque::No,
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(any(test, fuzzing))]
pub mod harness;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_prefix() {
        for dialect in [Dialect::Trusted, Dialect::User] {
            for mark in [
                Mark::Opaque,
                Mark::Redirect,
                Mark::Origin,
                Mark::Impure,
                Mark::Nlink,
                Mark::Upper,
                Mark::Metacopy,
                Mark::ProtAttr,
                Mark::Uuid,
                Mark::Whiteout,
                Mark::Below,
                Mark::Compat,
            ] {
                let suffix = dialect.name(mark).strip_prefix(dialect.prefix());
                let expected = format!("{mark:?}").to_lowercase();
                assert_eq!(suffix, Some(expected.as_bytes()));
            }
        }
    }

    #[test]
    fn opaque_is_exactly_one_known_byte() {
        let cases: [(Option<&[u8]>, Opaque); 7] = [
            (None, Opaque::No),
            (Some(b""), Opaque::No),
            (Some(b"y"), Opaque::Yes),
            (Some(b"x"), Opaque::HasXattrWhiteouts),
            (Some(b"Y"), Opaque::No),
            (Some(b"yy"), Opaque::No),
            (Some(b"y\0"), Opaque::No),
        ];
        for (value, expected) in cases {
            assert_eq!(opaque(value), expected, "{value:?}");
        }
    }
}
