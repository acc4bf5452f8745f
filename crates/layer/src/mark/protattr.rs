//! The `protattr` mark: inode flags that are shown through the overlay but not set on the upper object.

/// Longest value that counts, in bytes.
const MAX: usize = 32;

/// Append-only and immutable flags as stored in [`Mark::ProtAttr`](super::Mark::ProtAttr).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProtAttr {
    /// Letter `a`.
    pub append_only: bool,
    /// Letter `i`.
    pub immutable: bool,
}

impl ProtAttr {
    /// Reads the value; `None` if it is to be ignored as a whole (empty, too long or with an unknown letter).
    pub fn parse(value: &[u8]) -> Option<Self> {
        if value.is_empty() || value.len() > MAX {
            return None;
        }
        let mut flags = Self::default();
        for letter in value {
            match letter {
                b'a' => flags.append_only = true,
                b'i' => flags.immutable = true,
                _ => return None,
            }
        }
        Some(flags)
    }

    /// The value to store; empty if there is nothing to store.
    pub fn format(self) -> &'static [u8] {
        match (self.append_only, self.immutable) {
            (false, false) => b"",
            (true, false) => b"a",
            (false, true) => b"i",
            (true, true) => b"ai",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_whole_or_not_at_all() {
        let flags = |append_only, immutable| Some(ProtAttr { append_only, immutable });
        let cases: [(&[u8], Option<ProtAttr>); 8] = [
            (b"a", flags(true, false)),
            (b"i", flags(false, true)),
            (b"ai", flags(true, true)),
            (b"ia", flags(true, true)),
            (b"", None),
            (b"ax", None),
            (b"A", None),
            (&[b'a'; 33], None),
        ];
        for (value, expected) in cases {
            assert_eq!(ProtAttr::parse(value), expected, "{value:?}");
        }
    }

    #[test]
    fn append_comes_before_immutable() {
        assert_eq!(ProtAttr { append_only: true, immutable: true }.format(), b"ai");
        assert_eq!(ProtAttr::default().format(), b"");
        for value in [b"a".as_slice(), b"i", b"ai"] {
            assert_eq!(ProtAttr::parse(value).map(ProtAttr::format), Some(value));
        }
    }
}
