//! POSIX ACLs as text, in the binary form of `system.posix_acl_access` and `_default`.
//!
//! Binary form: a little-endian u32 version (2), then for each entry u16 tag, u16 permissions,
//! u32 id (all ones where the tag has none). Source: include/uapi/linux/posix_acl_xattr.h.

use anyhow::{Context, Result, bail};

use super::text::escape;
use super::text::unescape;

/// The two xattr names under which the kernel stores ACLs.
pub const NAMES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;
/// Tag letters with their binary values; a tag with `true` carries an id.
const TAGS: [(&str, u16, bool); 6] = [
    ("u", 0x01, false),
    ("u", 0x02, true),
    ("g", 0x04, false),
    ("g", 0x08, true),
    ("m", 0x10, false),
    ("o", 0x20, false),
];

/// Returns an xattr value as a token: `acl:u::rwx,u:1000:r--,...` where it is a well-formed ACL,
/// else the escaped bytes.
pub fn value_token(name: &[u8], value: &[u8]) -> String {
    match NAMES.contains(&name).then(|| decode(value)).flatten() {
        Some(text) => format!("acl:{text}"),
        None => escape(value),
    }
}

/// Returns the bytes that [`value_token`] wrote as `token`.
///
/// # Errors
/// Malformed ACL text or escapes.
pub fn value_bytes(token: &str) -> Result<Vec<u8>> {
    match token.strip_prefix("acl:") {
        Some(text) => encode(text),
        None => unescape(token),
    }
}

/// Returns the binary form of `u::rwx,u:1000:r--,g::r-x,m::rwx,o::---`.
///
/// # Errors
/// An entry that is not `TAG:ID:PERMISSIONS`.
pub fn encode(text: &str) -> Result<Vec<u8>> {
    let mut out = VERSION.to_le_bytes().to_vec();
    for entry in text.split(',').filter(|entry| !entry.is_empty()) {
        let fields: Vec<&str> = entry.split(':').collect();
        let [tag, id, permissions] = fields[..] else { bail!("bad acl entry {entry:?}") };
        let has_id = !id.is_empty();
        let found = TAGS.iter().find(|(letter, _, with_id)| *letter == tag && *with_id == has_id);
        let Some((_, number, _)) = found else { bail!("bad acl tag in {entry:?}") };
        let id = if has_id { id.parse().context("acl id")? } else { NO_ID };
        let bits = permissions.bytes().fold(0u16, |bits, byte| match byte {
            b'r' => bits | 4,
            b'w' => bits | 2,
            b'x' => bits | 1,
            _ => bits,
        });
        out.extend(number.to_le_bytes());
        out.extend(bits.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    Ok(out)
}

/// Returns the text of a binary ACL, or none where it would not come back byte for byte.
fn decode(value: &[u8]) -> Option<String> {
    let body = value.strip_prefix(&VERSION.to_le_bytes())?;
    let mut entries = Vec::new();
    for chunk in body.chunks(8) {
        let chunk: [u8; 8] = chunk.try_into().ok()?;
        let number = u16::from_le_bytes([chunk[0], chunk[1]]);
        let bits = u16::from_le_bytes([chunk[2], chunk[3]]);
        let id = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
        let (letter, _, with_id) = TAGS.iter().find(|(_, tag, _)| *tag == number)?;
        let id = if *with_id { id.to_string() } else { String::new() };
        let flag = |bit: u16, letter: char| if bits & bit == 0 { '-' } else { letter };
        entries.push(format!("{letter}:{id}:{}{}{}", flag(4, 'r'), flag(2, 'w'), flag(1, 'x')));
    }
    let text = entries.join(",");
    (encode(&text).ok()?.as_slice() == value).then_some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_and_bytes_agree() {
        let text = "u::rwx,u:1000:r--,g::r-x,g:7:---,m::rwx,o::---";
        let bytes = encode(text).unwrap();
        assert_eq!(bytes.len(), 4 + 6 * 8);
        assert_eq!(value_token(NAMES[0], &bytes), format!("acl:{text}"));
        assert_eq!(value_bytes(&value_token(NAMES[0], &bytes)).unwrap(), bytes);
        assert_eq!(value_token(b"user.x", &bytes), escape(&bytes));
        assert_eq!(value_token(NAMES[1], b"junk"), "junk");
    }
}
