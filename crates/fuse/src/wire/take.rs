//! Takes numbers and names off the front of a request.

use super::input::Malformed;

/// The part of a request that has not been looked at.
#[derive(Clone, Copy)]
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl<'a> Rest<'a> {
    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Malformed::TooShort)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed::TooShort)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_ne_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_ne_bytes)
    }

    /// Leaves out padding and fields that nobody reads.
    pub(super) fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        self.bytes(count).map(drop)
    }

    /// A text that ends with NUL, without the NUL. May be empty.
    pub(super) fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(Malformed::NoEnd)?;
        let (text, tail) = self.0.split_at(end);
        self.0 = &tail[1..];
        Ok(text)
    }

    /// The name of a directory entry.
    pub(super) fn name(&mut self) -> Result<&'a [u8], Malformed> {
        let name = self.text()?;
        let single = !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/');
        if single { Ok(name) } else { Err(Malformed::NotAName) }
    }
}
