//! The mark `nlink`: how many names a file has over all layers.
//!
//! The links of the copy in upper, or of the file below, change with every link and unlink; the mark keeps the
//! difference to one of them, so that both change in one step (the kernel's `ovl_set_nlink_upper`).

/// A number of names, relative to the links of a real file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    base: Base,
    difference: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Upper,
    Lower,
}

impl Links {
    /// `union` names, relative to the `real` links of the copy in upper.
    pub fn to_upper(union: u32, real: u32) -> Links {
        Links { base: Base::Upper, difference: i64::from(union) - i64::from(real) }
    }

    /// `union` names, relative to the `real` links of the lower file.
    pub fn to_lower(union: u32, real: u32) -> Links {
        Links { base: Base::Lower, difference: i64::from(union) - i64::from(real) }
    }

    /// Reads the value of [`Mark::Nlink`](super::Mark::Nlink): `U` or `L`, a sign and a decimal number.
    pub fn parse(value: &[u8]) -> Option<Links> {
        let (first, rest) = value.split_first()?;
        let base = match first {
            b'U' => Base::Upper,
            b'L' => Base::Lower,
            _ => return None,
        };
        if !matches!(rest.first(), Some(b'+' | b'-')) {
            return None;
        }
        let difference: i32 = std::str::from_utf8(rest).ok()?.parse().ok()?;
        Some(Links { base, difference: difference.into() })
    }

    /// The value to store.
    pub fn encode(&self) -> Vec<u8> {
        let base = match self.base {
            Base::Upper => 'U',
            Base::Lower => 'L',
        };
        format!("{base}{:+}", self.difference).into_bytes()
    }

    /// The number of names, given the links of both real files; `None` if it makes no sense.
    pub fn union(&self, lower: u32, upper: u32) -> Option<u32> {
        let real = match self.base {
            Base::Upper => upper,
            Base::Lower => lower,
        };
        u32::try_from(i64::from(real) + self.difference).ok().filter(|union| *union > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_kernels() {
        assert_eq!(Links::to_upper(2, 2).encode(), b"U+0");
        assert_eq!(Links::to_upper(2, 3).encode(), b"U-1");
        assert_eq!(Links::to_lower(4, 2).encode(), b"L+2");
        for value in [&b"U+0"[..], b"U-1", b"L+12"] {
            assert_eq!(Links::parse(value).map(|links| links.encode()), Some(value.to_vec()));
        }
        for value in [&b""[..], b"U", b"U0", b"X+1", b"U+", b"U+1x", b"U+99999999999"] {
            assert_eq!(Links::parse(value), None, "{value:?}");
        }
    }

    #[test]
    fn a_count_is_of_one_or_more() {
        let links = |value: &[u8]| Links::parse(value);
        assert_eq!(links(b"U-1").and_then(|links| links.union(5, 3)), Some(2));
        assert_eq!(links(b"L+0").and_then(|links| links.union(5, 3)), Some(5));
        assert_eq!(links(b"U-3").and_then(|links| links.union(5, 3)), None);
        assert_eq!(links(b"U-4").and_then(|links| links.union(5, 3)), None);
    }
}
