//! Names as system calls want them.

use crate::{Errno, Result};
use std::ffi::{CStr, CString};

/// Names up to this length need no allocation; it covers what most filesystems allow.
const INLINE: usize = 255;

/// A name with a NUL behind.
#[allow(clippy::large_enum_variant, reason = "lives on the stack, to spare an allocation a call")]
pub(super) enum Name {
    Inline([u8; INLINE + 1]),
    Heap(CString),
}

impl Name {
    /// A component of a path; what could lead out of its directory is refused with `EINVAL`.
    pub(super) fn component(name: &[u8]) -> Result<Name> {
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        Name::any(name)
    }

    /// Any text without NUL (`EINVAL`).
    pub(super) fn any(name: &[u8]) -> Result<Name> {
        if name.len() > INLINE {
            return CString::new(name).map(Name::Heap).map_err(|_| Errno::INVAL);
        }
        if name.contains(&0) {
            return Err(Errno::INVAL);
        }
        let mut inline = [0; INLINE + 1];
        inline[..name.len()].copy_from_slice(name);
        Ok(Name::Inline(inline))
    }

    /// The empty name, which with `AT_EMPTY_PATH` means the descriptor itself.
    pub(super) fn empty() -> Name {
        Name::Inline([0; INLINE + 1])
    }

    /// As system calls want it.
    pub(super) fn as_c_str(&self) -> &CStr {
        match self {
            // The text is at most one shorter than the zeroed buffer, so a NUL is always found.
            Name::Inline(bytes) => CStr::from_bytes_until_nul(bytes).unwrap_or_default(),
            Name::Heap(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_components_are_components() {
        for bad in [&b""[..], b".", b"..", b"/", b"a/b", b"a/", b"/a", b"a\0", b"\0", &[b'/'; 300]] {
            assert_eq!(Name::component(bad).err(), Some(Errno::INVAL), "{bad:?}");
        }
        for good in
            [&b"a"[..], b"...", b".a", b" ", b"\n", b"\xff\xfe", &[b'x'; 255], &[b'x'; 256], &[b'y'; 4000]]
        {
            assert_eq!(Name::component(good).unwrap().as_c_str().to_bytes(), good);
        }
    }
}
