//! Runs a command inside a root tree: in namespaces of its own, with the files of the system that programs expect.

mod own;
mod rootfs;
mod users;
mod wish;

pub(crate) use own::{hold_signals, run};
pub(crate) use wish::{Wish, job};

use std::ffi::OsString;
use std::path::PathBuf;

/// What to run where.
#[derive(Debug)]
pub(crate) struct Job {
    /// The root tree.
    pub(crate) root: PathBuf,
    /// The program, by its path in the tree or by its name on the PATH, and its arguments.
    pub(crate) words: Vec<OsString>,
    /// The whole environment.
    pub(crate) env: Vec<(String, String)>,
    /// Where in the tree; made if it is not there.
    pub(crate) workdir: PathBuf,
    /// As whom.
    pub(crate) identity: Identity,
    /// What the host is called inside.
    pub(crate) hostname: String,
    /// Which network there is.
    pub(crate) net: Net,
}

/// As whom a command runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Further groups.
    pub(crate) groups: Vec<u32>,
    /// The user's home, if the tree knows the user.
    pub(crate) home: Option<String>,
}

/// Which network a command has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Net {
    /// The host's
    #[default]
    Host,
    /// None but its own loopback device
    None,
}
