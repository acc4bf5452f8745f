//! A process that makes calls as one user.
//!
//! Ids and umask belong to a process, so every user of a sequence gets a process of its own for
//! each side. It is this same program started again, with [`ENTRY`] in its environment and a socket
//! as standard input; lines go both ways: a request, an answer.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Gid, Mode, Uid};

use super::exec::{Outcome, Slots, execute, whereabouts};
use super::op::Op;
use super::text::{escape, octal, unescape};

/// Environment variable that makes a program started by [`Worker::start`] serve calls; its value
/// is the user and group id.
pub const ENTRY: &str = "ACETATE_LOCKSTEP_WORKER";

/// How to start this program again so that it reaches [`serve_if_asked`].
#[derive(Debug, Clone)]
pub struct Reentry {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Reentry {
    /// Returns the way into the running program with these arguments.
    ///
    /// # Errors
    /// The running program cannot be found.
    pub fn own(args: &[&str]) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find the running program")?;
        Ok(Self { program, args: args.iter().map(|arg| (*arg).to_owned()).collect() })
    }
}

/// Serves calls and returns true if this process was started as a worker; else returns false.
///
/// # Errors
/// Malformed requests, or the ids cannot be taken.
pub fn serve_if_asked() -> Result<bool> {
    let Ok(id) = std::env::var(ENTRY) else { return Ok(false) };
    take_id(id.parse().context("worker id")?)?;
    let stream = UnixStream::from(rustix::io::dup(std::io::stdin().as_fd()).context("worker socket")?);
    serve(&stream)?;
    Ok(true)
}

/// Becomes this user in this thread, without supplementary groups and, unless it is root, without
/// capabilities.
fn take_id(id: u32) -> Result<()> {
    if id == 0 {
        return Ok(());
    }
    rustix::thread::set_thread_groups(&[]).context("cannot drop groups")?;
    let (gid, uid) = (Gid::from_raw(id), Uid::from_raw(id));
    rustix::thread::set_thread_res_gid(gid, gid, gid).context("cannot set the group id")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).context("cannot set the user id")
}

fn serve(stream: &UnixStream) -> Result<()> {
    let mut slots = Slots::new();
    let mut root = PathBuf::from("/nonexistent");
    for line in BufReader::new(stream).lines() {
        let line = line.context("cannot read a request")?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["root", path] => {
                slots.clear();
                root = PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(path)?));
                "ok".to_owned()
            }
            ["where", slot] => whereabouts(&slots, slot.parse().context("slot")?).to_string(),
            [umask, ref call @ ..] => {
                rustix::process::umask(Mode::from_raw_mode(octal(umask)?));
                execute(&root, &mut slots, &Op::parse(call)?).to_string()
            }
            [] => bail!("empty request"),
        };
        let mut writer = stream;
        writeln!(writer, "{answer}").context("cannot answer")?;
    }
    Ok(())
}

/// The running worker process of one user on one side.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    stream: BufReader<UnixStream>,
}

impl Worker {
    /// Starts a worker that acts as `id` (user and group).
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(reentry: &Reentry, id: u32) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
        let child = Command::new(&reentry.program)
            .args(&reentry.args)
            .env(ENTRY, id.to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot start {}", reentry.program.display()))?;
        Ok(Self { child, stream: BufReader::new(ours) })
    }

    /// Closes all descriptors of the worker and makes later calls go below `root`.
    ///
    /// # Errors
    /// The worker is gone.
    pub fn set_root(&mut self, root: &Path) -> Result<()> {
        let answer =
            self.ask(&format!("root {}", escape(root.as_os_str().as_bytes())), Duration::from_secs(60))?;
        ensure!(answer == "ok", "the worker answered {answer:?}");
        Ok(())
    }

    /// Makes a call; `HANG` is the outcome of one that takes longer than `patience`.
    ///
    /// # Errors
    /// The worker is gone. After `HANG` it has to be replaced.
    pub fn call(&mut self, umask: u32, op: &Op, patience: Duration) -> Result<Outcome> {
        let answer = self.ask(&format!("{umask:03o} {op}"), patience)?;
        Ok(Outcome::parse(&answer))
    }

    /// Asks what a slot holds and where; see [`whereabouts`].
    ///
    /// # Errors
    /// The worker is gone.
    pub fn whereabouts(&mut self, slot: u8) -> Result<Outcome> {
        Ok(Outcome::parse(&self.ask(&format!("where {slot}"), Duration::from_secs(60))?))
    }

    fn ask(&mut self, request: &str, patience: Duration) -> Result<String> {
        writeln!(self.stream.get_mut(), "{request}").context("cannot ask a worker")?;
        self.stream.get_ref().set_read_timeout(Some(patience)).context("cannot set a timeout")?;
        let mut answer = String::new();
        match self.stream.read_line(&mut answer) {
            Ok(0) => bail!("a worker ended during {request:?}"),
            Ok(_) => Ok(answer.trim_end().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok("HANG".to_owned()),
            Err(error) => Err(error).with_context(|| format!("no answer to {request:?}")),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A worker that hangs in a call ends only when killed; one that waits for requests too.
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("warning: cannot end a worker process: {error}");
        }
    }
}
