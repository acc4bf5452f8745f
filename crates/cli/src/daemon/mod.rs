//! The process that serves a mount.
//!
//! `acetate mount` starts itself again with `--serve`; the child mounts, says so on its standard output, lets go of
//! the terminal and serves. The parent waits for that word, so it returns when the mount can be used, or with the
//! child's exit status after the child has printed why not.

pub(crate) mod holder;
mod identity;
mod inherit;
mod keep;
pub(crate) mod notify;
mod privileges;
mod serve;
mod signals;
pub(crate) mod statistics;
pub(crate) mod status;
pub(crate) mod unmount;

pub(crate) use serve::{serve_for_parent, serve_in_foreground};

use crate::error::Failure;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the child writes once the mount can be used.
const READY: u8 = b'+';

/// How many may wait to be answered.
const WAITING: i32 = 16;

/// With this before its name, a process is left alone when systemd kills all others at the end: it serves the root
/// filesystem (systemd.io/ROOT_STORAGE_DAEMONS).
const STAYS: &[u8] = b"@";

/// Listens on a socket to which only its owner and root can connect, at no moment anybody else: the mode that a socket has
/// before it gets its name is that of the name (`unix_bind_bsd`, net/unix/af_unix.c).
///
/// # Errors
/// Those of bind(2).
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, WAITING)?;
    Ok(UnixListener::from(socket))
}

/// Starts a daemon with the arguments of this process and waits until its mount can be used.
///
/// # Errors
/// If no process can be started. If the daemon fails, this process ends with its exit status.
pub(crate) fn start(arguments: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    start_as(None, arguments)
}

/// [`start`] under another name.
///
/// # Errors
/// As there.
pub(crate) fn start_as(
    name: Option<&OsString>,
    arguments: impl Iterator<Item = OsString>,
) -> Result<(), Failure> {
    match launch(name, arguments, Stdio::inherit())? {
        None => Ok(()),
        // It has said why.
        Some(ended) => std::process::exit(ended.code),
    }
}

/// A daemon that ended before its mount could be used.
#[derive(Debug)]
pub(crate) struct EndedEarly {
    code: i32,
    /// What it said, if that was to come here.
    said: String,
}

/// Starts a daemon that says nothing, and returns the reason if it fails.
///
/// # Errors
/// If no process can be started.
pub(crate) fn start_quietly(arguments: impl Iterator<Item = OsString>) -> Result<Option<String>, Failure> {
    let ended = launch(None, arguments, Stdio::piped())?;
    Ok(ended.map(|ended| {
        let first = ended.said.lines().next().unwrap_or_default();
        first.strip_prefix("acetate: ").unwrap_or(first).to_owned()
    }))
}

fn launch(
    name: Option<&OsString>,
    arguments: impl Iterator<Item = OsString>,
    stderr: Stdio,
) -> Result<Option<EndedEarly>, Failure> {
    use std::os::unix::process::CommandExt;
    let program = std::env::current_exe().map_err(|error| Failure::io("find the running program", &error))?;
    let mut command = Command::new(program);
    let called = std::env::args_os().next().filter(|called| called.as_encoded_bytes().starts_with(STAYS));
    if let Some(name) = name.or(called.as_ref()) {
        command.arg0(name);
    }
    let mut arguments: Vec<OsString> = arguments.collect();
    // The first argument is the subcommand, where there is one; flags may follow anything.
    arguments.insert(usize::from(name.is_none()).min(arguments.len()), "--serve".into());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = command.spawn().map_err(|error| Failure::io("start the daemon", &error))?;
    let mut word = [0];
    let ready = match child.stdout.as_mut() {
        Some(pipe) => pipe.read_exact(&mut word).is_ok() && word[0] == READY,
        None => false,
    };
    if ready {
        return Ok(None);
    }
    let status = child.wait().map_err(|error| Failure::io("wait for the daemon", &error))?;
    match status.code() {
        Some(code) if code != 0 => {
            let mut said = String::new();
            if let Some(pipe) = &mut child.stderr {
                // Its exit status says enough.
                let _without_words = pipe.read_to_string(&mut said);
            }
            Ok(Some(EndedEarly { code, said }))
        }
        _ => Err(Failure::new(
            format_args!("the daemon ended before the mount could be used: {status}"),
            "run the same command with -f to see more",
        )),
    }
}
