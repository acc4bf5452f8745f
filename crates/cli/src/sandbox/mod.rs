//! Runs a command over the live tree, or a directory of it, such that nothing of it changes.
//!
//! Four processes, as in [`crate::run`]: the *runner*, which the user called; the *outer* one, which makes the tree in a
//! mount namespace of its own; the *init* process, number 1 in a process namespace, which enters it; and the *command*.
//! When the command ends, or one of them is killed, all that is left of it is ended by the kernel.

mod build;
mod layout;
mod look;

use crate::Exit;
use crate::error::Failure;
use crate::run::{self, Net, rootfs};
use acetate_store::driver::DriverName;
use acetate_store::tries::OpenTry;
use acetate_sys::namespace::{Forked, Namespace, fork, loopback_up, unshare};
use acetate_sys::signal::Signals;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Pid, getpid, getppid};
use rustix::thread::{CapabilitySet, capabilities};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is held while a command runs.
const HELD: [i32; 7] = [SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
/// What is passed on to the command; interrupts it gets from the terminal itself.
const PASSED_ON: [i32; 4] = [SIGHUP, SIGTERM, SIGUSR1, SIGUSR2];

/// What to run over what.
#[derive(Debug)]
pub(crate) struct Job {
    /// The program and its arguments.
    pub(crate) words: Vec<OsString>,
    /// The directory that is covered, absolute and without symlinks.
    pub(crate) target: PathBuf,
    /// Where the command begins.
    pub(crate) workdir: PathBuf,
    /// What the command may really change.
    pub(crate) allowed: Vec<PathBuf>,
    /// How overlays are mounted; by trying if nothing is said.
    pub(crate) driver: Option<DriverName>,
    /// Which network there is.
    pub(crate) net: Net,
    /// Standard output goes where standard error goes.
    pub(crate) quiet: bool,
    /// The bits that files made by the command do not get.
    pub(crate) mask: Mode,
    /// The store, which the command does not see.
    pub(crate) store: PathBuf,
}

/// The signals that have to be blocked before [`run`].
///
/// # Errors
/// If the system refuses.
pub(crate) fn signals() -> Result<Signals, Failure> {
    let failed = |errno| Failure::errno("hold signals", errno);
    let signals = Signals::of(&HELD).map_err(failed)?;
    signals.block().map_err(failed)?;
    Ok(signals)
}

/// Runs a command and returns its exit status; 128 and the number if a signal ended it, 125 if it was not run, for which
/// the reason has been printed. What it did is recorded as far as `open` has covered it.
///
/// # Errors
/// If no process can be started.
pub(crate) fn run(job: &Job, open: &mut OpenTry<'_>, signals: &Signals) -> Result<u8, Failure> {
    let runner = getpid();
    match fork().map_err(|errno| Failure::errno("start a process", errno))? {
        Forked::Parent(outer) => run::supervise_passing(signals, outer, &PASSED_ON),
        Forked::Child => run::end_with(outer(job, open, signals, runner)),
    }
}

fn outer(job: &Job, open: &mut OpenTry<'_>, signals: &Signals, runner: Pid) -> Result<u8, Failure> {
    run::die_with_parent()?;
    if getppid() != Some(runner) {
        return Err(Failure::new("the process that was to wait is gone", "run the command again"));
    }
    separate(job)?;
    // That may have been a change of privileges, which forgets it.
    run::die_with_parent()?;
    let built = build::build(job, open)?;
    let failed = |what: &'static str| move |errno| Failure::errno(what, errno);
    unshare(&[Namespace::Pid]).map_err(failed("make a process namespace"))?;
    // From here on, what changes in the live tree has been changed by others.
    open.begin()?;
    let code = match fork().map_err(failed("start a process"))? {
        Forked::Parent(init) => run::supervise_passing(signals, init, &PASSED_ON),
        Forked::Child => run::end_with(init(job, &open.root(), &open.tried().name, &built, signals)),
    };
    built.end();
    code
}

/// Gets namespaces: with a user namespace around them, in which we are who we are, if we may not mount.
fn separate(job: &Job) -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let may_mount = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    let mut kinds = vec![Namespace::Mount, Namespace::Ipc];
    if job.net == Net::None {
        kinds.push(Namespace::Network);
    }
    if !may_mount {
        kinds.push(Namespace::User);
    }
    unshare(&kinds).map_err(|errno| {
        let hint = match errno {
            Errno::PERM | Errno::ACCESS => {
                "user namespaces are forbidden here: be root, or see sysctl kernel.unprivileged_userns_clone and \
                 kernel.apparmor_restrict_unprivileged_userns"
            }
            _ => "user namespaces may be switched off: see sysctl user.max_user_namespaces",
        };
        Failure::errno("make namespaces", errno).hint(hint)
    })?;
    if !may_mount {
        let maps = [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{uid} {uid} 1")),
            ("gid_map", format!("{gid} {gid} 1")),
        ];
        for (file, text) in maps {
            std::fs::write(format!("/proc/self/{file}"), text)
                .map_err(|error| Failure::io(format_args!("set up the user namespace: {file}"), &error))?;
        }
    }
    if job.net == Net::None {
        loopback_up().map_err(|errno| Failure::errno("switch the loopback device on", errno))?;
    }
    Ok(())
}

/// Process 1 of the new namespace.
fn init(job: &Job, root: &Path, name: &str, built: &build::Built, signals: &Signals) -> Result<u8, Failure> {
    run::die_with_parent()?;
    // A change of roots concerns all processes of a mount namespace.
    unshare(&[Namespace::Mount]).map_err(|errno| Failure::errno("make a mount namespace", errno))?;
    // Before the old root is taken away: a user namespace that sees no other /proc may not mount one.
    let proc = match (built.has_proc, rootfs::detached_proc()) {
        (true, Ok(proc)) => Some(proc),
        (true, Err(failure)) if !built.keeps_proc => return Err(failure),
        _ => None,
    };
    rootfs::pivot(root)?;
    if let Some(proc) = proc {
        rootfs::attach_proc(&proc)?;
    }
    if built.has_dev {
        rootfs::dev(&built.devices)?;
    }
    built.allow()?;
    match fork().map_err(|errno| Failure::errno("start a process", errno))? {
        Forked::Parent(command) => run::supervise_passing(signals, command, &PASSED_ON),
        Forked::Child => run::end_with(command(job, name, signals)),
    }
}

/// Becomes the command.
fn command(job: &Job, name: &str, signals: &Signals) -> Result<u8, Failure> {
    run::give_up_privileges()?;
    rustix::process::umask(job.mask);
    std::env::set_current_dir(&job.workdir).or_else(|_| std::env::set_current_dir("/")).map_err(|error| {
        Failure::io(format_args!("work directory: {}", crate::out::shown(&job.workdir)), &error)
    })?;
    if job.quiet {
        rustix::stdio::dup2_stdout(std::io::stderr())
            .map_err(|errno| Failure::errno("redirect standard output", errno))?;
    }
    let Some((program, arguments)) = job.words.split_first() else {
        return Err(Failure::new("no command", "name one after --"));
    };
    Ok(run::become_command(Command::new(program).args(arguments).env("ACETATE_TRY", name), signals))
}

/// The exit status of a command as this program gives it.
pub(crate) fn exit(code: u8) -> Exit {
    Exit::Status(code)
}
