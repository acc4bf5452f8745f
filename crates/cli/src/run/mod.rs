//! Runs a command inside a root tree: in namespaces of its own, with the files of the system that programs expect.

mod idmap;
mod oci;
mod own;
mod program;
pub(crate) mod rootfs;
mod terminal;
mod users;
mod wish;

pub(crate) use own::{
    become_command, die_with_parent, end_with, give_up_privileges, hold_signals, supervise_passing,
};
pub(crate) use terminal::is_interactive;
pub(crate) use wish::{Wish, job};

use crate::error::Failure;
use acetate_sys::signal::Signals;
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
    /// What no other job on this machine is called at the same time: runtimes name control groups by it.
    pub(crate) id: String,
    /// What the host is called inside.
    pub(crate) hostname: String,
    /// Which network there is.
    pub(crate) net: Net,
    /// The command gets a terminal of its own.
    pub(crate) terminal: bool,
    /// All ids mean something here: this is no user namespace.
    pub(crate) whole_ids: bool,
}

/// Who makes the namespaces and the root tree of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Runtime {
    /// Crun, runc or acetate's own: the first that works
    #[default]
    Auto,
    /// An OCI runtime
    Crun,
    /// An OCI runtime
    Runc,
    /// Acetate's own
    None,
}

/// Runs a job and returns the exit status of its command; 128 and the number if a signal ended it.
///
/// # Errors
/// If nothing could be run. What fails after the first fork is printed by the process concerned.
pub(crate) fn run(job: &Job, runtime: Runtime, signals: &Signals) -> Result<u8, Failure> {
    if let Some(code) = program::missing(job)? {
        return Ok(code);
    }
    let payload = match oci::choose(runtime, job, signals)? {
        Some(oci) => own::Payload::Oci(oci),
        None => own::Payload::Own,
    };
    let _settings = job.terminal.then(terminal::Kept::new);
    own::run_payload(job, &payload, signals)
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
