//! Our own small runtime.
//!
//! Four processes: the *runner* is the command that the user called. It starts the *outer* process, which gets new
//! namespaces, and starts in them the *init* process, number 1 there, which makes the root tree ready, starts the
//! *command* and collects orphans. Each dies with the one that started it; signals are passed on from each to the next.

use super::oci::{self, Oci};
use super::terminal::{Joined, Terminal};
use super::{Job, Net, idmap, rootfs};
use crate::error::{Convention, Failure};
use crate::out::shown;
use acetate_sys::namespace::{Forked, Namespace, fork, loopback_up, unshare};
use acetate_sys::signal::Signals;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, set_parent_process_death_signal,
    wait,
};
use rustix::thread::{CapabilitySet, Gid, Uid};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The signals that are passed on to the command.
const PASSED_ON: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
/// Highest number of a capability, with room for those to come.
const LAST_CAPABILITY: u32 = 63;
/// What root may do inside: what other runtimes leave it, too.
const CAPABILITIES: [CapabilitySet; 14] = [
    CapabilitySet::CHOWN,
    CapabilitySet::DAC_OVERRIDE,
    CapabilitySet::FSETID,
    CapabilitySet::FOWNER,
    CapabilitySet::MKNOD,
    CapabilitySet::NET_RAW,
    CapabilitySet::SETGID,
    CapabilitySet::SETUID,
    CapabilitySet::SETFCAP,
    CapabilitySet::SETPCAP,
    CapabilitySet::NET_BIND_SERVICE,
    CapabilitySet::SYS_CHROOT,
    CapabilitySet::KILL,
    CapabilitySet::AUDIT_WRITE,
];

/// Keeps signals for [`run`], so that none ends this process before it has tidied up. What is started meanwhile inherits
/// this.
///
/// # Errors
/// If the system refuses.
pub(crate) fn hold_signals() -> Result<Signals, Failure> {
    let all: Vec<i32> = PASSED_ON.into_iter().chain([SIGCHLD]).collect();
    let failed = |errno| Failure::errno("hold signals", errno);
    let signals = Signals::of(&all).map_err(failed)?;
    signals.block().map_err(failed)?;
    Ok(signals)
}

/// Where control groups are mounted.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// What is done in the new namespaces.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    /// The command is run.
    Own,
    /// An OCI runtime runs it.
    Oci(Oci),
    /// An OCI runtime is tried; the exit status is 0 if it works.
    Try(Oci),
}

/// Does something in new namespaces and returns its exit status; 128 and the number if a signal ended it.
///
/// # Errors
/// If no process can be started. What fails later is printed by the process concerned.
pub(super) fn run_payload(job: &Job, payload: &Payload, signals: &Signals) -> Result<u8, Failure> {
    let runner = getpid();
    match fork().map_err(|errno| Failure::errno("start a process", errno))? {
        Forked::Parent(outer) => supervise(signals, outer, None),
        Forked::Child => end_with(outer(job, payload, signals, runner)),
    }
}

/// Ends a process that only lives for the command.
pub(crate) fn end_with(result: Result<u8, Failure>) -> ! {
    let code = result.unwrap_or_else(|failure| failure.report(Convention::Runtime));
    std::process::exit(code.into())
}

fn outer(job: &Job, payload: &Payload, signals: &Signals, runner: Pid) -> Result<u8, Failure> {
    die_with_parent()?;
    if getppid() != Some(runner) {
        return Ok(exit_code_of(Signal::KILL.as_raw()));
    }
    // Out of the terminal's reach: its signals come to the runner, and once.
    rustix::process::setsid().map_err(|errno| Failure::errno("start a session", errno))?;
    idmap::become_root()?;
    // That was a change of privileges, which forgets it.
    die_with_parent()?;
    let mut namespaces = vec![Namespace::Mount, Namespace::Pid];
    if matches!(payload, Payload::Own) {
        namespaces.extend([Namespace::Uts, Namespace::Ipc]);
        namespaces.extend((job.net == Net::None).then_some(Namespace::Network));
    }
    unshare(&namespaces).map_err(|errno| Failure::errno("make namespaces", errno))?;
    match fork().map_err(|errno| Failure::errno("start a process", errno))? {
        Forked::Parent(init) => supervise(signals, init, None),
        Forked::Child => end_with(match payload {
            Payload::Own => init(job, signals),
            Payload::Oci(oci) => stage(job, oci).and_then(|()| hand_over(job, oci, signals)),
            Payload::Try(oci) => stage(job, oci).and_then(|()| attempt(job, oci, signals)),
        }),
    }
}

/// Makes the namespace ready for an OCI runtime.
fn stage(job: &Job, oci: &Oci) -> Result<(), Failure> {
    die_with_parent()?;
    rootfs::stage(job, oci::PLACE)?;
    // Neither is to use control groups. crun refuses a mixture of their two versions nonetheless; runc, which has to see
    // some, makes groups where it can, and they would stay when it is killed.
    if oci.name == "crun" { rootfs::hide(CONTROL_GROUPS) } else { rootfs::protect(CONTROL_GROUPS) }
}

/// Lets an OCI runtime run the command.
fn hand_over(job: &Job, oci: &Oci, signals: &Signals) -> Result<u8, Failure> {
    match fork().map_err(|errno| Failure::errno("start a process", errno))? {
        Forked::Parent(runtime) => {
            let code = supervise(signals, runtime, None)?;
            // It has said why.
            Ok(if oci.has_started() { code } else { Convention::NOT_RUN })
        }
        Forked::Child => {
            signals.unblock().map_err(|errno| Failure::errno("let signals through", errno))?;
            Err(oci.exec(job))
        }
    }
}

fn attempt(job: &Job, oci: &Oci, signals: &Signals) -> Result<u8, Failure> {
    signals.unblock().map_err(|errno| Failure::errno("let signals through", errno))?;
    Ok(u8::from(!oci.attempt(job)?))
}

/// Process 1 of the new namespace.
fn init(job: &Job, signals: &Signals) -> Result<u8, Failure> {
    die_with_parent()?;
    if job.net == Net::None {
        loopback_up().map_err(|errno| Failure::errno("switch the loopback device on", errno))?;
    }
    rustix::system::sethostname(job.hostname.as_bytes())
        .map_err(|errno| Failure::errno("set the host name", errno))?;
    rootfs::enter(job)?;
    let terminal = if job.terminal { Some(Terminal::open()?) } else { None };
    match fork().map_err(|errno| Failure::errno("start a process", errno))? {
        Forked::Parent(command) => {
            let joined = terminal.map(Terminal::join).transpose()?;
            let code = supervise(signals, command, joined.as_ref())?;
            // What is left running would keep the terminal open. There may be nothing left.
            let _none = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
            if let Some(joined) = joined {
                joined.finish();
            }
            Ok(code)
        }
        Forked::Child => end_with(match &terminal {
            Some(terminal) => terminal.take().and_then(|()| command(job, signals)),
            None => command(job, signals),
        }),
    }
}

/// Makes this process end with the one that started it.
///
/// # Errors
/// If the system refuses.
pub(crate) fn die_with_parent() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| Failure::errno("ask to end with the parent", errno))
}

/// Passes signals on to a child until it ends, and returns how it did. Collects other children, too.
fn supervise(signals: &Signals, child: Pid, terminal: Option<&Joined>) -> Result<u8, Failure> {
    watch(signals, child, &PASSED_ON, terminal)
}

/// [`supervise`] that passes some of its signals on, and ignores others: those that a terminal sends to all processes.
///
/// # Errors
/// If the system refuses to wait.
pub(crate) fn supervise_passing(signals: &Signals, child: Pid, passed: &[i32]) -> Result<u8, Failure> {
    watch(signals, child, passed, None)
}

fn watch(signals: &Signals, child: Pid, passed: &[i32], terminal: Option<&Joined>) -> Result<u8, Failure> {
    loop {
        let number = signals.wait().map_err(|errno| Failure::errno("wait for signals", errno))?;
        if number != SIGCHLD {
            if let (SIGWINCH, Some(terminal)) = (number, terminal) {
                terminal.resize();
            } else if let Some(signal) = Signal::from_named_raw(number).filter(|_| passed.contains(&number)) {
                // It may have ended just now, which is told next.
                let _gone = kill_process(child, signal);
            }
            continue;
        }
        // One signal may stand for several children.
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((ended, status))) if ended == child => return Ok(exit_code(status)),
                Ok(Some(_)) => {}
                Ok(None) | Err(Errno::CHILD) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Failure::errno("wait for the command", errno)),
            }
        }
    }
}

/// As shells give it.
fn exit_code(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        (None, Some(signal)) => exit_code_of(signal),
        (None, None) => u8::MAX,
    }
}

fn exit_code_of(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Becomes the command.
fn command(job: &Job, signals: &Signals) -> Result<u8, Failure> {
    let failed = |what: &'static str| move |errno| Failure::errno(what, errno);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let missing =
        |error: &std::io::Error| Failure::io(format_args!("work directory: {}", shown(&job.workdir)), error);
    std::fs::create_dir_all(&job.workdir).map_err(|error| missing(&error))?;
    give_up_privileges()?;
    let identity = &job.identity;
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    match rustix::thread::set_thread_groups(&groups) {
        // Where the one id of an ordinary user is all there is, groups cannot be changed (user_namespaces(7)).
        Err(Errno::PERM) if !job.whole_ids => {}
        other => other.map_err(failed("set the groups"))?,
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("become the group"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("become the user"))?;
    // As the user: a directory may be closed to it.
    std::env::set_current_dir(&job.workdir).map_err(|error| missing(&error))?;
    let Some((program, arguments)) = job.words.split_first() else {
        return Err(Failure::new("no command", "name one after --"));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(job.env.iter().map(|(name, value)| (name, value)));
    Ok(become_command(&mut command, signals))
}

/// Becomes a program, which gets its signals. Returns the exit status if that is not possible.
pub(crate) fn become_command(command: &mut Command, signals: &Signals) -> u8 {
    if let Err(errno) = signals.unblock() {
        return Failure::errno("let signals through", errno).report(Convention::Runtime);
    }
    let error = command.exec();
    Failure::io(shown(command.get_program()), &error).report(Convention::Runtime);
    if error.kind() == ErrorKind::NotFound { 127 } else { 126 }
}

/// Takes away what root may do to the whole machine from the programs that this process executes.
///
/// # Errors
/// If the system refuses.
pub(crate) fn give_up_privileges() -> Result<(), Failure> {
    for number in 0..=LAST_CAPABILITY {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if !CAPABILITIES.contains(&capability) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // Higher than the kernel knows.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(Failure::errno("give up privileges", errno)),
            }
        }
    }
    Ok(())
}
