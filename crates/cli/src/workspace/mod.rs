//! Workspaces on this machine: shown by the driver that their plan names.

mod show;

pub(crate) use show::{hide, show};
