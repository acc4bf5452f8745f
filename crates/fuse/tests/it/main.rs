//! The transport from outside: a conversation over a socket in place of the device, and real mounts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conversation;
mod mounted;
mod storm;
