//! Stopping a program at any of its system calls, or making one fail, by ptrace(2).
//!
//! All calls of all threads are counted in one sequence, in the order in which they begin. That is what strace(1) cannot
//! do (it counts each call's name by itself), nor does an older strace know the newest calls.
//!
//! Only on x86-64, whose registers are known here; elsewhere everything fails with `ENOSYS`.

#[cfg(target_arch = "x86_64")]
mod calls;
#[cfg(target_arch = "x86_64")]
mod tracer;

use rustix::io::Errno;
use std::process::{Command, Output};
use std::time::Duration;

/// What a system call does to files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It changes a file, a name or an attribute, or makes one durable.
    Change,
    /// It looks, or opens what is there.
    Look,
    /// It writes to a FUSE device: an answer, or word of a change.
    Answer,
}

/// What to do to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injection {
    /// Nothing: count.
    Nothing,
    /// Kill the process that is about to make the call with this number, counted from zero among [`Kind::Change`] and
    /// [`Kind::Answer`]. The call is not made.
    Kill(usize),
    /// Let the call with this number, counted from zero among [`Kind::Change`] and [`Kind::Look`], fail without being
    /// made.
    Fail(usize, Errno),
}

impl Injection {
    /// Whether calls of this kind are counted.
    fn counts(self, kind: Kind) -> bool {
        match self {
            Self::Nothing => true,
            Self::Kill(_) => matches!(kind, Kind::Change | Kind::Answer),
            Self::Fail(..) => matches!(kind, Kind::Change | Kind::Look),
        }
    }

    fn at(self) -> Option<usize> {
        match self {
            Self::Nothing => None,
            Self::Kill(at) | Self::Fail(at, _) => Some(at),
        }
    }
}

/// A system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What it does.
    pub kind: Kind,
    /// Its name.
    pub name: &'static str,
}

/// What was seen of the program.
#[derive(Debug, Default)]
pub struct Seen {
    /// The calls, in the order in which they began.
    pub calls: Vec<Call>,
    /// The call that was meant was met.
    pub hit: bool,
    /// The program had to be killed because it did not come to an end.
    pub hung: bool,
}

impl Seen {
    /// How many calls an injection can choose from.
    pub fn points(&self, injection: Injection) -> Vec<Call> {
        self.calls.iter().copied().filter(|call| injection.counts(call.kind)).collect()
    }
}

/// Injects into the running process `pid` while `act` runs, and lets go of it after that.
///
/// If `act` takes longer than `limit`, the process is killed.
///
/// # Errors
/// If the process cannot be traced.
pub fn during<T>(
    pid: u32,
    injection: Injection,
    limit: Duration,
    act: impl FnOnce() -> T,
) -> anyhow::Result<(T, Seen)> {
    #[cfg(target_arch = "x86_64")]
    return tracer::during(pid, injection, limit, act);
    #[cfg(not(target_arch = "x86_64"))]
    return Err((pid, injection, limit, act, Errno::NOSYS)).map_err(|(.., errno)| errno.into());
}

/// Runs a command to its end and injects into it and all that it starts. A kill takes the one process that makes the call.
/// Of what the command says only stderr is kept.
///
/// # Errors
/// If the command cannot be started or traced.
pub fn run(command: &mut Command, injection: Injection, limit: Duration) -> anyhow::Result<(Output, Seen)> {
    #[cfg(target_arch = "x86_64")]
    return tracer::run(command, injection, limit);
    #[cfg(not(target_arch = "x86_64"))]
    return Err((command, injection, limit, Errno::NOSYS)).map_err(|(.., errno)| errno.into());
}
