//! Why work on images fails.

use crate::digest::NoDigest;
use acetate_layer::Errno;
use std::io;

/// Why work on an image failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive breaks its format.
    #[error("malformed archive: {0}")]
    Malformed(String),
    /// An entry would leave the layer.
    #[error("entry {path}: it would leave the layer")]
    Escapes {
        /// The entry's path, shown.
        path: String,
    },
    /// An entry cannot be made.
    #[error("entry {path}: {step}: {}", io::Error::from(*errno))]
    Entry {
        /// The entry's path, shown.
        path: String,
        /// What was being done.
        step: &'static str,
        /// The filesystem's answer.
        errno: Errno,
    },
    /// An object of a layer cannot be packed.
    #[error("{path}: {reason}")]
    Unpackable {
        /// The object's path, shown.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A content is not what its digest says.
    #[error("{what}: the content has digest {found}, expected {expected}")]
    Mismatch {
        /// Which content.
        what: String,
        /// What was read.
        found: String,
        /// What it should have been.
        expected: String,
    },
    /// An image lacks a part.
    #[error("the image has no {0}")]
    Missing(String),
    /// A document of an image cannot be understood.
    #[error("{what}: {reason}")]
    Document {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No image in an index is for this machine.
    #[error("no image for {wanted} (there is: {found})")]
    NoPlatform {
        /// The platform that was asked for.
        wanted: String,
        /// Those that there are.
        found: String,
    },
    /// A digest of another kind.
    #[error(transparent)]
    Digest(#[from] NoDigest),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::Io(errno.into())
    }
}

/// What work on images returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Shows a name in a message: what is no UTF-8, and control characters, as `\xNN`.
pub(crate) fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}
