//! The subcommands, one a file.

pub(crate) mod change;
pub(crate) mod check;
pub(crate) mod commit;
pub(crate) mod completions;
pub(crate) mod diff;
pub(crate) mod driver;
pub(crate) mod explain;
pub(crate) mod image;
pub(crate) mod man;
pub(crate) mod mount;
pub(crate) mod mounts;
pub(crate) mod personality;
pub(crate) mod snapshotter;
pub(crate) mod tour;
pub(crate) mod tries;
pub(crate) mod umount;
pub(crate) mod upgrade;
pub(crate) mod workspace;
