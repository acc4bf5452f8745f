//! A terminal of the command's own, joined to the user's.
//!
//! The command could use the user's terminal as it is, but then it could also put words into its input, which the user's
//! shell reads once the command is gone.

use crate::error::Failure;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

/// Whether the user sits at a terminal: what is read and what is written is one.
pub(crate) fn is_interactive() -> bool {
    isatty(rustix::stdio::stdin()) && isatty(rustix::stdio::stdout())
}

/// How many rows and columns the user's terminal has.
pub(super) fn size() -> Option<(u16, u16)> {
    tcgetwinsize(rustix::stdio::stdin()).ok().map(|size| (size.ws_row, size.ws_col))
}

/// The settings of the user's terminal, given back when dropped.
#[derive(Debug)]
pub(super) struct Kept(Option<Termios>);

impl Kept {
    pub(super) fn new() -> Kept {
        Kept(tcgetattr(rustix::stdio::stdin()).ok())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // A terminal that is gone needs none.
            let _gone = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, settings);
        }
    }
}

/// The two ends of a new terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    ours: OwnedFd,
    commands: OwnedFd,
}

impl Terminal {
    /// Makes a terminal of the tree's `/dev/pts`, as large as the user's.
    ///
    /// # Errors
    /// Those of openpt(3).
    pub(super) fn open() -> Result<Terminal, Failure> {
        let failed = |errno| Failure::errno("make a terminal", errno);
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let ours = openat(CWD, "/dev/pts/ptmx", flags, Mode::empty())
            .or_else(|_| openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC))
            .map_err(failed)?;
        unlockpt(&ours).map_err(failed)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let commands = ioctl_tiocgptpeer(&ours, flags).map_err(failed)?;
        let terminal = Terminal { ours, commands };
        terminal.resize();
        Ok(terminal)
    }

    /// Makes it as large as the user's.
    pub(super) fn resize(&self) {
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
            // A program that draws wrongly is no reason to end it.
            let _same = tcsetwinsize(&self.ours, size);
        }
    }

    /// Makes it the calling process's terminal, in a session of its own.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn take(&self) -> Result<(), Failure> {
        let failed = |errno| Failure::errno("take the terminal", errno);
        rustix::process::setsid().map_err(failed)?;
        rustix::process::ioctl_tiocsctty(&self.commands).map_err(failed)?;
        rustix::stdio::dup2_stdin(&self.commands).map_err(failed)?;
        rustix::stdio::dup2_stdout(&self.commands).map_err(failed)?;
        rustix::stdio::dup2_stderr(&self.commands).map_err(failed)
    }

    /// Joins it to the user's, whose keys then mean nothing by themselves. The result ends with the last program that has
    /// the terminal open.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn join(self) -> Result<Joined, Failure> {
        let failed = |errno| Failure::errno("join terminals", errno);
        let mut settings = tcgetattr(rustix::stdio::stdin()).map_err(failed)?;
        settings.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &settings).map_err(failed)?;
        let another = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map(std::fs::File::from);
        let mut to = another(&self.ours).map_err(failed)?;
        let mut from = another(&self.ours).map_err(failed)?;
        // Ends with this process.
        let _input = spawn("acetate-input", move || copy(&mut std::io::stdin().lock(), &mut to))?;
        let output = spawn("acetate-output", move || copy(&mut from, &mut std::io::stdout().lock()))?;
        Ok(Joined { ours: self.ours, output })
    }
}

/// A terminal that is joined to the user's.
#[derive(Debug)]
pub(super) struct Joined {
    ours: OwnedFd,
    output: JoinHandle<()>,
}

impl Joined {
    /// Makes it as large as the user's.
    pub(super) fn resize(&self) {
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
            let _same = tcsetwinsize(&self.ours, size);
        }
    }

    /// Waits until all is written that programs have said.
    pub(super) fn finish(self) {
        // A thread that has panicked has nothing more to write.
        let _done = self.output.join();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    let started = std::thread::Builder::new().name(name.into()).spawn(work);
    started.map_err(|error| Failure::io("start a thread", &error))
}

/// Copies until either side ends; a terminal ends with an error (`EIO`) when nobody has it open any more.
fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
                    return;
                }
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
