//! The operations, one a file. Each checks, plans, acts once and records.

mod attr;
mod create;
mod data;
mod flags;
mod link;
mod lookup;
mod open;
mod readdir;
pub(crate) mod remove;
mod rename;
mod tell;
mod xattr;
