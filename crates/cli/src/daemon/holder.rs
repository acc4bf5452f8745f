//! The holder: a process that keeps what a mount needs to outlive its server, and starts the next server when one ends.
//!
//! It has no threads and looks at nothing: it keeps descriptors by key ([`keep`](super::keep)), waits for its server, and
//! hands all to the next one. A server that ends by itself has ended the mount. One that a signal has ended is replaced,
//! unless many in a row did not get as far as to serve, or failed without answering a request. A request that has brought
//! down many servers is answered with `EIO` by the next one. Whoever is to hold nothing, because the mount cannot be taken
//! over, goes away and leaves the server alone.

use super::identity::Identity;
use super::keep::{self, Item, Key, Message};
use super::privileges;
use super::serve::Place;
use super::unmount::{Unmount, unmount};
use crate::error::Failure;
use crate::out::{cause, note, shown, warn};
use acetate_overlay::Ledger;
use acetate_sys::memory::SharedMemory;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Says to a server that its standard input is a socket to its holder, and whether it is the first one.
pub(super) const VARIABLE: &str = "ACETATE_HOLDER";
pub(super) const FIRST: &str = "first";
pub(super) const NEXT: &str = "next";

/// So many servers in a row may crash at once.
const MOST_FAILED: u32 = 8;
/// One that crashes weighs as much as so many that are killed from outside before they serve.
const CRASH: u32 = 8;
/// How long whoever asks for another server may take to say so.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait where no server can be started, before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// The program that runs, also if its file is gone.
const SELF: &str = "/proc/self/exe";

/// Starts a server and stays until the mount has ended. `ready` is called once the mount can be used, with the path of the
/// log.
///
/// # Errors
/// If no server can be started, or the mount has ended because servers end again and again.
pub(super) fn hold(place: Place, ready: impl FnOnce(Option<&Path>)) -> Result<(), Failure> {
    // It keeps a descriptor of each open file without a name. With fewer, those of its server are fewer, too.
    if let Err(errno) = acetate_sys::process::raise_nofile_limit() {
        warn(format_args!("limit of open files: {}", cause(errno)));
    }
    let failed = |error: io::Error| Failure::io("wait for signals", &error);
    let (signals, writer) = UnixStream::pair().map_err(failed)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone().map_err(failed)?)
            .map_err(failed)?;
    }
    signals.set_nonblocking(true).map_err(failed)?;
    let mut hold = Hold {
        place,
        mount: None,
        signals,
        kept: HashMap::new(),
        program: Program::open(Path::new(SELF)).map_err(|errno| Failure::errno("open the program", errno))?,
        control: None,
        ready: Some(ready),
        failed: 0,
        weight: 0,
        over: false,
        to_end: false,
        asked: None,
    };
    let ended = hold.run();
    hold.end();
    match ended? {
        0 => Ok(()),
        // The server has said why.
        code => std::process::exit(code),
    }
}

/// A program, which can be started also when it has no name any more.
struct Program(OwnedFd);

impl Program {
    fn open(path: &Path) -> Result<Program, Errno> {
        // Servers inherit it: if it is a script, its interpreter opens it by this descriptor.
        open(path, OFlags::PATH, Mode::empty()).map(Program)
    }

    fn command(&self) -> Command {
        Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// Who waits for another server.
struct Asked {
    stream: UnixStream,
    /// What to go back to if it does not come up.
    old: Program,
    /// Nobody waits any more.
    gone: bool,
}

struct Hold<F> {
    place: Place,
    /// The mount point, and what is mounted there.
    mount: Option<(PathBuf, Identity)>,
    signals: UnixStream,
    kept: HashMap<Key, Item>,
    /// What the next server is.
    program: Program,
    control: Option<Control>,
    /// What is still to be done when the first server is ready.
    ready: Option<F>,
    /// Servers in a row that ended at once, and what they weigh.
    failed: u32,
    weight: u32,
    /// The mount is gone.
    over: bool,
    /// A signal has come that no server has got.
    to_end: bool,
    asked: Option<Asked>,
}

/// How a server ended.
struct Ended {
    status: ExitStatus,
    was_ready: bool,
}

/// A server and the socket to it.
struct Server {
    child: Child,
    pidfd: OwnedFd,
    socket: OwnedFd,
}

impl<F: FnOnce(Option<&Path>)> Hold<F> {
    /// Starts servers until one ends by itself; returns its exit status.
    fn run(&mut self) -> Result<i32, Failure> {
        let mut server = self.start(FIRST)?;
        loop {
            let ended = self.attend(&mut server)?;
            let tried = !ended.was_ready && !self.over && self.go_back(&ended.status.to_string());
            let signal = match ended.status.signal() {
                _ if tried => {
                    server = self.start_next()?;
                    continue;
                }
                Some(signal) if !self.over => signal,
                _ => return Ok(ended.status.code().unwrap_or(2)),
            };
            if self.ready.is_some() {
                return Err(Failure::new(
                    format_args!("the server was ended by signal {signal} before the mount could be used"),
                    "nothing is mounted; run the same command again, with -f to see more",
                ));
            }
            self.count(&ended)?;
            warn(format_args!("the server was ended by signal {signal}"));
            server = self.start_next()?;
        }
    }

    /// Starts another server, of the program before if somebody has asked for one that cannot be started.
    fn start_next(&mut self) -> Result<Server, Failure> {
        loop {
            let failure = match self.start(NEXT) {
                Ok(server) => return Ok(server),
                Err(failure) => failure,
            };
            if !self.go_back(&failure.message) {
                // There may be too many processes, or too little memory, for now.
                warn(&failure.message);
                self.weigh(CRASH, &failure.message)?;
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Goes back to the program before, if somebody has asked for this one and it does not serve.
    fn go_back(&mut self, why: &str) -> bool {
        let Some(Asked { mut stream, old, .. }) = self.asked.take() else { return false };
        // Whoever asked may have gone away.
        let _nobody_waits = stream.write_all(format!("the new server: {why}").as_bytes());
        self.program = old;
        true
    }

    /// Ends the mount if the last server has not: nobody will answer any more.
    fn end(&mut self) {
        // With the device the connection goes, and nobody waits for an answer.
        self.kept.clear();
        self.control = None;
        if let Some((point, identity)) = self.mount.take()
            && Identity::at(&point) == Some(identity)
            && let Err(errno) = unmount(&point, Unmount::Detach)
        {
            warn(format_args!("{}: cannot be unmounted: {errno}", shown(&point)));
        }
    }

    /// The memory of the ledger, if the mount can be taken over.
    fn memory(&self) -> Option<SharedMemory> {
        let memory = self.kept.get(&Key::Memory).and_then(|item| item.fd.as_ref());
        memory.and_then(|fd| SharedMemory::map(fd.try_clone().ok()?).ok())
    }

    /// Counts a server that a signal has ended.
    fn count(&mut self, ended: &Ended) -> Result<(), Failure> {
        let memory = self.memory();
        let answered = memory.as_ref().and_then(|memory| Ledger::progress(memory.as_ref()));
        let (Some(memory), Some(answered)) = (memory, answered) else {
            return Err(Failure::new(
                format_args!("the server was killed ({}), and the mount cannot be taken over", ended.status),
                "mount it again: what was answered is in the layers",
            ));
        };
        // Whoever kills an idle server has not shown that it fails.
        let killed = ended.status.signal() == Some(Signal::KILL.as_raw());
        if !killed {
            Ledger::blame(memory.as_ref());
        }
        if ended.was_ready && (killed || answered > 0) {
            (self.failed, self.weight) = (0, 0);
            return Ok(());
        }
        self.weigh(if killed { 1 } else { CRASH }, &ended.status.to_string())
    }

    /// Counts a server that did not serve, and how.
    fn weigh(&mut self, weight: u32, why: &str) -> Result<(), Failure> {
        self.failed += 1;
        self.weight += weight;
        if self.weight >= MOST_FAILED * CRASH {
            return Err(Failure::new(
                format_args!("{} servers in a row ended at once: {why}", self.failed),
                "the mount has ended; mount it again, and report what the log says",
            ));
        }
        Ok(())
    }

    /// Starts a server and gives it what was kept.
    fn start(&mut self, which: &str) -> Result<Server, Failure> {
        let failed = |error: io::Error| Failure::io("start the server", &error);
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair.map_err(|errno| Failure::errno("make a socket", errno))?;
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        let mut command = self.program.command();
        command.arg0(name).args(arguments).env(VARIABLE, which).stdin(Stdio::from(theirs));
        if self.place == Place::Foreground {
            // What a terminal sends to all its processes comes through this one.
            command.process_group(0);
        }
        let child = command.spawn().map_err(failed)?;
        // It holds the other end of the socket.
        drop(command);
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .map_err(|errno| Failure::errno("watch the server", errno))?;
        if which == NEXT {
            let give = |item: &Item| {
                keep::send_item(&socket, item.key, &item.text, item.fd.as_ref().map(AsFd::as_fd))
            };
            // One that has ended already is noticed soon.
            let _ended = self.kept.values().try_for_each(give).and_then(|()| keep::send_end(&socket));
        }
        Ok(Server { child, pidfd, socket })
    }

    /// Does what the server, signals and others ask for until the server ends.
    fn attend(&mut self, server: &mut Server) -> Result<Ended, Failure> {
        let mut was_ready = false;
        loop {
            let mut fds = vec![
                PollFd::new(&server.pidfd, PollFlags::IN),
                PollFd::new(&server.socket, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            // Somebody may ask for another server while one serves. Until that serves, whoever has asked may go away, which is
            // said without being asked for.
            let listener = self.control.as_ref().filter(|_| was_ready && self.asked.is_none());
            let asker = self.asked.as_ref().filter(|asked| !was_ready && !asked.gone);
            fds.extend(listener.map(|control| PollFd::new(&control.listener, PollFlags::IN)));
            fds.extend(asker.map(|asked| PollFd::new(&asked.stream, PollFlags::empty())));
            rustix::io::retry_on_intr(|| poll(&mut fds, None))
                .map_err(|errno| Failure::errno("wait for the server", errno))?;
            let has = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
            let (ended, is_asked, is_given_up) =
                (has(0), listener.is_some() && has(3), asker.is_some() && has(3));
            drop(fds);
            while let Some(message) = keep::receive(&server.socket, RecvFlags::DONTWAIT)
                .map_err(|error| Failure::io("hear from the server", &error))?
            {
                was_ready |= matches!(message, Message::Ready(_));
                self.hear(message);
            }
            if ended {
                let status =
                    server.child.wait().map_err(|error| Failure::io("wait for the server", &error))?;
                return Ok(Ended { status, was_ready });
            }
            self.pass_signals_on(&server.child, was_ready);
            if is_given_up && let Some(asked) = &mut self.asked {
                asked.gone = true;
                let _ended_already = kill_process(Pid::from_child(&server.child), Signal::KILL);
            }
            if is_asked {
                self.replace(&server.child);
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Keep(item) => {
                if item.key == Key::Device {
                    let point = PathBuf::from(OsString::from_vec(item.text.clone()));
                    self.mount = Identity::at(&point).map(|identity| (point, identity));
                }
                self.kept.insert(item.key, item);
            }
            Message::LetGo(key) => drop(self.kept.remove(&key)),
            Message::Ready(log) => {
                let log = (!log.is_empty()).then(|| PathBuf::from(OsString::from_vec(log)));
                if let Some(mut asked) = self.asked.take() {
                    let _nobody_waits = asked.stream.write_all(b"+");
                }
                if let Some(ready) = self.ready.take() {
                    ready(log.as_deref());
                    let holds =
                        self.memory().is_some_and(|memory| Ledger::progress(memory.as_ref()).is_some());
                    if !holds && self.place == Place::Background {
                        std::process::exit(0);
                    }
                    privileges::shed();
                    self.control = log.and_then(|log| Control::new(log.with_extension("holder")));
                }
            }
            Message::End => {
                self.kept.clear();
                self.over = true;
            }
        }
    }

    /// Passes a signal on to the server. One that is about to take the mount over could not end it yet: it gets the signal
    /// once it serves; a second signal ends the mount at once.
    fn pass_signals_on(&mut self, child: &Child, was_ready: bool) {
        let mut bytes = [0; 16];
        let again = matches!(self.signals.read(&mut bytes), Ok(count) if count > 0)
            && std::mem::replace(&mut self.to_end, true);
        let starts = !was_ready && self.ready.is_none();
        let signal = match (starts, again) {
            (true, false) => return,
            (true, true) => Signal::KILL,
            (false, _) => Signal::TERM,
        };
        if std::mem::take(&mut self.to_end) {
            self.over |= signal == Signal::KILL;
            // It may have ended.
            let _ended = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Somebody asks for another server: the one there is makes way.
    fn replace(&mut self, child: &Child) {
        let Some((mut stream, _)) = self.control.as_ref().and_then(|control| control.listener.accept().ok())
        else {
            return;
        };
        let mut path = Vec::new();
        let asked = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.read_to_end(&mut path));
        if asked.is_err() || path.is_empty() {
            return;
        }
        let path = PathBuf::from(OsString::from_vec(path));
        let program = match Program::open(&path) {
            Ok(program) => program,
            Err(errno) => {
                let _nobody_waits = stream.write_all(cause(errno).as_bytes());
                return;
            }
        };
        note(format_args!("another server is to take over: {}", shown(&path)));
        let old = std::mem::replace(&mut self.program, program);
        self.asked = Some(Asked { stream, old, gone: false });
        let _ended_already = kill_process(Pid::from_child(child), Signal::KILL);
    }
}

/// Where others ask for another server.
#[derive(Debug)]
struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    fn new(path: PathBuf) -> Option<Control> {
        // Of a holder that was killed.
        let _none = std::fs::remove_file(&path);
        let listener = super::listen(&path).ok()?;
        Some(Control { listener, path })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _stale_at_worst = std::fs::remove_file(&self.path);
    }
}

/// Asks the holder behind a socket for a server of another program. Waits until it serves.
///
/// # Errors
/// If there is no holder, or the new server did not come up; the old one serves again then.
pub(crate) fn ask(socket: &Path, program: &OsStr) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::io("ask the holder of the mount", &error).hint(
            "it answers root and the user who has mounted; `acetate mounts` shows which mounts have one",
        )
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.write_all(program.as_bytes()).map_err(failed)?;
    stream.shutdown(std::net::Shutdown::Write).map_err(failed)?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).map_err(failed)?;
    match said.as_slice() {
        b"+" => Ok(()),
        b"" => Err(Failure::new(
            "the holder of the mount has ended, and the mount with it",
            "mount it again: what was answered is in the layers",
        )),
        why => Err(Failure::new(
            format_args!("the mount goes on with the server it had: {}", shown(OsStr::from_bytes(why))),
            "the log that `acetate mounts` names says more",
        )),
    }
}
