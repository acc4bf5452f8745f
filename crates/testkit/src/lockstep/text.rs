//! Bytes as printable tokens without spaces, and back.
//!
//! File names, xattr values and symlink targets are bytes. In a script each of them is one token:
//! printable ASCII stands for itself, everything else (and space, `\`, `=`, `@`, `#`) is written as
//! `\xNN`; an empty string is `\e`.

use anyhow::{Context, Result, bail};

/// Returns `bytes` as one token.
pub fn escape(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "\\e".to_owned();
    }
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b' ' | b'\\' | b'=' | b'@' | b'#' => out.push_str(&format!("\\x{byte:02x}")),
            0x21..=0x7e => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

/// Returns the bytes of a token written by [`escape`].
///
/// # Errors
/// A backslash that starts neither `\xNN` nor a lone `\e`.
pub fn unescape(token: &str) -> Result<Vec<u8>> {
    if token == "\\e" {
        return Ok(Vec::new());
    }
    let raw = token.as_bytes();
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        if raw[at] != b'\\' {
            out.push(raw[at]);
            at += 1;
            continue;
        }
        let hex = token.get(at + 2..at + 4).filter(|_| raw.get(at + 1) == Some(&b'x'));
        let Some(hex) = hex else { bail!("bad escape in {token:?} at byte {at}") };
        out.push(u8::from_str_radix(hex, 16).with_context(|| format!("bad escape in {token:?}"))?);
        at += 4;
    }
    Ok(out)
}

/// Parses a decimal number, or an octal one if it starts with `0o`.
///
/// # Errors
/// Anything that is not such a number.
pub fn number(token: &str) -> Result<u64> {
    let parsed = match token.strip_prefix("0o") {
        Some(octal) => u64::from_str_radix(octal, 8),
        None => token.parse(),
    };
    parsed.with_context(|| format!("{token:?} is not a number"))
}

/// Parses a mode written in octal digits without prefix.
///
/// # Errors
/// Anything that is not such a number.
pub fn octal(token: &str) -> Result<u32> {
    u32::from_str_radix(token, 8).with_context(|| format!("{token:?} is not an octal mode"))
}

/// Returns a 64-bit FNV-1a hash of `bytes`: enough to see that two contents differ, and the same
/// on every machine.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |state, &byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Returns `bytes` for a report: the token if it is short, else its length and hash.
pub fn brief(bytes: &[u8]) -> String {
    if bytes.len() <= 64 { escape(bytes) } else { format!("{}bytes:{:016x}", bytes.len(), hash(bytes)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_byte_survives_the_round_trip() {
        let all: Vec<u8> = (0..=255).collect();
        let token = escape(&all);
        assert!(!token.contains([' ', '=', '\n']));
        assert_eq!(unescape(&token).unwrap(), all);
        assert_eq!(unescape(&escape(b"")).unwrap(), b"");
    }

    #[test]
    fn a_broken_escape_is_refused() {
        for token in ["a\\", "\\x", "\\x1", "\\xzz", "\\n"] {
            assert!(unescape(token).is_err(), "{token}");
        }
    }
}
