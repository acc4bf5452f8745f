//! The mark `below`: what a copy has to know of the lower file where its file handle cannot be opened.
//!
//! The kernel finds the lower file of a copy by the handle in `origin`, which takes a privilege. Everybody may ask for the
//! handle of a file, so that copies are found by it; the other direction is recorded. The kernel ignores the mark.

/// What the lower file of a copy was when it was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below {
    /// Its inode number.
    pub ino: u64,
    /// How many links it has.
    pub nlink: u32,
}

impl Below {
    /// Reads the value of [`Mark::Below`](super::Mark::Below): two decimal numbers and a blank between them.
    pub fn parse(value: &[u8]) -> Option<Below> {
        let (ino, nlink) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        Some(Below { ino: ino.parse().ok()?, nlink: nlink.parse().ok()? })
    }

    /// The value to store.
    pub fn encode(&self) -> Vec<u8> {
        format!("{} {}", self.ino, self.nlink).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read() {
        for below in [Below { ino: 0, nlink: 1 }, Below { ino: u64::MAX, nlink: u32::MAX }] {
            assert_eq!(Below::parse(&below.encode()), Some(below));
        }
        assert_eq!(Below { ino: 12, nlink: 3 }.encode(), b"12 3");
    }

    #[test]
    fn anything_else_says_nothing() {
        for value in ["", "1", "1 ", " 1", "1 2 3", "-1 2", "x 2", "1 4294967296", "18446744073709551616 1"] {
            assert_eq!(Below::parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(Below::parse(b"1 \xff"), None);
    }
}
