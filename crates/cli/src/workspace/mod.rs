//! Workspaces on this machine: shown by the driver that their plan names.

mod mountpoints;
mod show;
mod used;

pub(crate) use show::{hide, show};
pub(crate) use used::{Used, release};
