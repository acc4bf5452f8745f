//! Running other people's programs: to an end within a limit, with everything they said at hand.
//!
//! A filesystem under test may hang; a test run must not. Each program leads its own process group, which is killed
//! as a whole when time is up.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::time::Timespec;

/// How long a killed process may stay: one that is stuck in the kernel cannot be killed at all.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A program that came to its end by itself.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote on stdout.
    pub stdout: Vec<u8>,
    /// What it wrote on stderr.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// The last `lines` lines of stderr and stdout, for messages; bytes that are no UTF-8 are replaced.
    pub fn tail(&self, lines: usize) -> String {
        let mut text = String::from_utf8_lossy(&self.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&self.stderr));
        let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Runs `command` to its end, whatever the exit status.
///
/// # Errors
/// If it cannot be started, or has not ended within `limit`; its process group is then killed.
pub fn run(command: &mut Command, limit: Duration) -> anyhow::Result<Finished> {
    let shown = show(command);
    // Memory files, not pipes: a daemon that the program leaves behind may hold them open.
    let mut stdout = File::from(memfd_create("stdout", MemfdFlags::CLOEXEC)?);
    let mut stderr = File::from(memfd_create("stderr", MemfdFlags::CLOEXEC)?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let status = wait(&mut child, limit)?;
    let mut finished =
        Finished { status: status.unwrap_or_default(), stdout: Vec::new(), stderr: Vec::new() };
    stdout.rewind()?;
    stdout.read_to_end(&mut finished.stdout)?;
    stderr.rewind()?;
    stderr.read_to_end(&mut finished.stderr)?;
    if status.is_none() {
        bail!("{shown}: no end within {limit:?}, killed; it said: {}", finished.tail(10));
    }
    Ok(finished)
}

/// Runs `command` to its end and returns its stdout.
///
/// # Errors
/// As [`run`], and if the exit status is not zero; the message then carries the last lines it printed.
pub fn stdout_of(command: &mut Command, limit: Duration) -> anyhow::Result<Vec<u8>> {
    let shown = show(command);
    let finished = run(command, limit)?;
    if !finished.status.success() {
        bail!("{shown}: {}: {}", finished.status, finished.tail(20));
    }
    Ok(finished.stdout)
}

/// Waits for `child`; `None` if it had to be killed.
fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let watch = pidfd_open(pid, PidfdFlags::empty())?;
    let ended = |limit: Duration| -> anyhow::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout)) {
                Ok(count) => return Ok(count > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    };
    if ended(limit)? {
        return Ok(Some(child.wait()?));
    }
    kill_process_group(pid, Signal::KILL)?;
    if !ended(KILL_LIMIT)? {
        bail!("process {} does not die: stuck in the kernel", child.id());
    }
    child.wait()?;
    Ok(None)
}

/// The command line, for messages; a long one, such as a whole script, is cut.
fn show(command: &Command) -> String {
    const SHOWN: usize = 400;
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    let line = words.join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_come_back() {
        let done = run(&mut sh("echo out; echo err >&2; exit 3"), Duration::from_secs(10)).unwrap();
        assert_eq!(
            (done.status.code(), done.stdout, done.stderr),
            (Some(3), b"out\n".into(), b"err\n".into())
        );
        let error =
            stdout_of(&mut sh("echo because; exit 1"), Duration::from_secs(10)).unwrap_err().to_string();
        assert!(error.contains("because"), "{error}");
    }

    #[test]
    fn what_hangs_is_killed_with_its_children() {
        let start = Instant::now();
        let error = run(&mut sh("echo started; sleep 600 & wait"), Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("no end within"), "{error}");
        assert!(error.to_string().contains("started"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(9));
    }
}
