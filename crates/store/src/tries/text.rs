//! Bytes in records: text with what is no UTF-8, and control characters, as `\xNN`, and a backslash as `\\`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes that a record holds as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// The bytes as a path.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl<T: AsRef<OsStr> + ?Sized> From<&T> for Bytes {
    fn from(text: &T) -> Bytes {
        Bytes(text.as_ref().as_bytes().to_vec())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        unescape(&text).map(Bytes).ok_or_else(|| D::Error::custom(format!("{text:?} has a stray backslash")))
    }
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let byte = |text: &mut String, byte: u8| {
        // Writing to a string cannot fail.
        let _always = write!(text, "\\x{byte:02x}");
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    c.encode_utf8(&mut [0; 4]).bytes().for_each(|one| byte(&mut text, one));
                }
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|one| byte(&mut text, *one));
    }
    text
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        (rest, _) = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => (tail, bytes.push(b'\\')),
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let value = u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
                (tail, bytes.push(value))
            }
            (b'\\', _) => return None,
            (other, tail) => (tail, bytes.push(*other)),
        };
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_survive_being_text() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in
            [&b""[..], b"/etc/passwd", "gr\u{fc}\u{df}e\u{85}".as_bytes(), b"a\\x41\\", b"\xff\n\xc3", &all]
        {
            let text = escape(bytes);
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert_eq!(unescape(&text).unwrap(), bytes, "{text}");
        }
        for text in ["\\", "\\x4", "\\q", "\\xzz"] {
            assert_eq!(unescape(text), None, "{text}");
        }
    }
}
