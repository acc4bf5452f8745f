//! Small files that are there whole or not at all.

use crate::error::{Error, Result, Step};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes a file by way of `temporary`, durably: after a crash there is the old content or the new one.
///
/// # Errors
/// [`Error::Path`]
pub(crate) fn write(path: &Path, temporary: &Path, bytes: &[u8]) -> Result<()> {
    // Whoever may look into the store may read it; the umask may be anything.
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o644);
    let mut file = options.open(temporary).step("create", temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(temporary, path)) {
        // What matters is the first error.
        let _leftover = fs::remove_file(temporary);
        return Err(error).step("write", path);
    }
    sync_parent(path)
}

/// Writes a document.
///
/// # Errors
/// [`Error::Path`], [`Error::Record`]
pub(crate) fn write_json(path: &Path, temporary: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Record { path: path.to_owned(), reason: error.to_string() })?;
    write(path, temporary, &text)
}

/// Reads a document; `None` if there is none.
///
/// # Errors
/// [`Error::Path`], [`Error::Record`]
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.step("read", path)?,
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| Error::Record { path: path.to_owned(), reason: error.to_string() })
}

/// Makes a change of names in the directory of `path` durable.
///
/// # Errors
/// [`Error::Path`]
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|dir| dir.sync_all()).step("sync", parent)
}

/// The names in a directory, sorted; those that begin with a dot left out.
///
/// # Errors
/// [`Error::Path`]
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).step("list", dir)? {
        // Only the store itself makes names here, all of them text.
        if let Ok(name) = entry.step("list", dir)?.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A name of a file in which any text fits: bytes other than letters, digits, `.`, `_` and `-` become `%XX`, and so
/// does a dot at the begin.
pub(crate) fn file_name(text: &str) -> String {
    let mut name = String::new();
    for (at, byte) in text.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"_-".contains(&byte) || (byte == b'.' && at > 0);
        if plain { name.push(byte.into()) } else { name.push_str(&format!("%{byte:02X}")) }
    }
    name
}

/// What [`file_name`] was made of.
pub(crate) fn from_file_name(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The current time as records have it (RFC 3339, UTC).
pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// A random name.
///
/// # Errors
/// [`Error::Path`], if the system has no random numbers.
pub(crate) fn random_name() -> Result<String> {
    let mut bytes = [0; 8];
    acetate_sys::process::random(&mut bytes).step("get random numbers", PathBuf::from("getrandom"))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn any_text_fits_a_file_name() {
        for text in ["debian", "docker.io/library/debian:12", "..", ".hidden", "a%2Fb", "größe\n", ""] {
            let name = file_name(text);
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%._-".contains(&byte)));
            assert!(!name.starts_with('.'));
            assert_eq!(from_file_name(&name).unwrap(), text);
        }
        assert_eq!(from_file_name("a%2"), None);
        assert_eq!(from_file_name("%FF"), None);
    }
}
