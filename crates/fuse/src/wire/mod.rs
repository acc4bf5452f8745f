//! The bytes that the kernel and a FUSE server exchange.
//!
//! Source: the kernel's `include/uapi/linux/fuse.h`, protocol 7.45 (Linux 6.18). All numbers are in the byte order of
//! the machine, all structures are laid out without gaps, and none has changed its layout since [`OLDEST_MINOR`] but
//! for those that a flag of the handshake announces.

pub(crate) mod flags;
pub(crate) mod input;
pub(crate) mod op;
pub(crate) mod output;
mod take;

#[cfg(test)]
mod tests;

/// The protocol's major version.
pub(crate) const MAJOR: u32 = 7;
/// The newest minor version that is spoken here.
pub(crate) const MINOR: u32 = 45;
/// The oldest minor version whose structures are understood here (Linux 3.15).
pub(crate) const OLDEST_MINOR: u32 = 23;
