//! The thread that traces.
//!
//! A tracer is a thread, not a process, and whoever it traces reports to it alone. It is never the thread that started
//! the program, which keeps its child.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::calls::classify;
use super::{Call, Injection, Seen};

/// How long to sleep when no thread has anything to report.
const NAP: Duration = Duration::from_micros(30);
/// How long threads may take to stop when they are let go of.
const LETTING_GO: Duration = Duration::from_secs(10);
/// `PTRACE_EVENT_STOP` (linux/ptrace.h).
const EVENT_STOP: i32 = 128;

pub(super) fn during<T>(
    pid: u32,
    injection: Injection,
    limit: Duration,
    act: impl FnOnce() -> T,
) -> Result<(T, Seen)> {
    let (ready, is_ready) = mpsc::channel();
    let done = AtomicBool::new(false);
    let root = Pid::from_raw(pid.try_into()?);
    std::thread::scope(|scope| {
        let tracer = scope.spawn(|| -> Result<Seen> {
            let mut tracer = Tracer::new(root, injection);
            let attached = tracer.attach();
            ready.send(attached.is_ok())?;
            attached?;
            let end = Instant::now() + limit;
            while !done.load(Ordering::SeqCst) && !tracer.threads.is_empty() {
                tracer.step()?;
                tracer.keep_within(end)?;
            }
            tracer.let_go()?;
            Ok(tracer.seen)
        });
        let result = if is_ready.recv()? { Some(act()) } else { None };
        done.store(true, Ordering::SeqCst);
        let seen = tracer.join().map_err(|_| anyhow::anyhow!("the tracer panicked"))??;
        Ok((result.context("not traced")?, seen))
    })
}

pub(super) fn run(command: &mut Command, injection: Injection, limit: Duration) -> Result<(Output, Seen)> {
    // A shell that stops itself, so that the program can be traced from its first call on.
    let mut stopped = Command::new("sh");
    stopped
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => stopped.env(name, value),
            None => stopped.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        stopped.current_dir(dir);
    }
    // A memory file, not a pipe: a daemon that stays behind may hold it open.
    let mut said = std::fs::File::from(rustix::fs::memfd_create("stderr", rustix::fs::MemfdFlags::CLOEXEC)?);
    stopped.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(said.try_clone()?);
    let mut child = stopped.spawn().with_context(|| format!("cannot run {stopped:?}"))?;
    let root = Pid::from_raw(child.id().try_into()?);
    let traced = std::thread::scope(|scope| {
        let tracer = scope.spawn(|| -> Result<(Option<i32>, Seen)> {
            await_stopped(root)?;
            let mut tracer = Tracer::new(root, injection);
            tracer.attach()?;
            kill(root, Signal::SIGCONT)?;
            let end = Instant::now() + limit;
            // Daemons may stay.
            while tracer.ended.is_none() {
                tracer.step()?;
                tracer.keep_within(end)?;
            }
            tracer.let_go()?;
            Ok((tracer.ended, tracer.seen))
        });
        tracer.join().map_err(|_| anyhow::anyhow!("the tracer panicked"))?
    });
    let (status, seen) = match traced {
        Ok(traced) => traced,
        Err(error) => {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
    };
    // The tracer belongs to this process, so it has seen the child's end, and nobody else can.
    let status = ExitStatus::from_raw(status.context("no status")?);
    let mut stderr = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut stderr)?;
    Ok((Output { status, stdout: Vec::new(), stderr }, seen))
}

/// Waits until a process has stopped itself.
fn await_stopped(pid: Pid) -> Result<()> {
    let end = Instant::now() + LETTING_GO;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The state follows the name, which may hold anything.
        if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("process {pid} does not stop: {stat}");
        }
        std::thread::sleep(NAP);
    }
}

#[derive(Debug, Default)]
struct Thread {
    /// Between the beginning and the end of a call.
    in_call: bool,
    /// What that call is to fail with.
    fail: Option<i32>,
}

struct Tracer {
    root: Pid,
    injection: Injection,
    threads: HashMap<Pid, Thread>,
    counted: usize,
    seen: Seen,
    /// How the process ended, as wait(2) says it.
    ended: Option<i32>,
    letting_go: bool,
}

impl Tracer {
    fn new(root: Pid, injection: Injection) -> Tracer {
        Tracer {
            root,
            injection,
            threads: HashMap::new(),
            counted: 0,
            seen: Seen::default(),
            ended: None,
            letting_go: false,
        }
    }

    /// Attaches to all threads; they run on, and stop at their next call.
    fn attach(&mut self) -> Result<()> {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK;
        // Until no new ones are found, for a thread may start others meanwhile, and all are listed: where a thread ends
        // under it, the listing ends early or leaves one out (fs/proc/base.c: next_tid, first_tid).
        loop {
            let before = self.threads.len();
            let mut listed = 0;
            for task in std::fs::read_dir(format!("/proc/{}/task", self.root))? {
                let Some(tid) = task?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                let tid = Pid::from_raw(tid);
                listed += 1;
                if self.threads.contains_key(&tid) {
                    continue;
                }
                match ptrace::seize(tid, options) {
                    // Gone, or one that a thread has started that is traced already, and so is it.
                    Err(Errno::ESRCH | Errno::EPERM) if !self.threads.is_empty() => continue,
                    other => other.with_context(|| format!("cannot trace thread {tid}"))?,
                }
                ptrace::interrupt(tid)?;
                self.threads.insert(tid, Thread::default());
            }
            if self.threads.len() == before && listed == number_in_status(self.root, "Threads:")? {
                break;
            }
        }
        // From now on each is stopped at its calls.
        let mut waiting: Vec<Pid> = self.threads.keys().copied().collect();
        while let Some(tid) = waiting.pop() {
            match waitpid(tid, Some(WaitPidFlag::__WALL)) {
                Ok(status) => self.handle(status)?,
                Err(Errno::ECHILD) => drop(self.threads.remove(&tid)),
                Err(Errno::EINTR) => waiting.push(tid),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Handles what one thread has to report, or naps.
    fn step(&mut self) -> Result<()> {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        match waitpid(None, Some(flags)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(NAP),
            Ok(status) => self.handle(status)?,
            Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => {
                self.threads.clear();
                self.ended.get_or_insert(0);
            }
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    fn keep_within(&mut self, end: Instant) -> Result<()> {
        if Instant::now() > end && !self.seen.hung {
            self.seen.hung = true;
            kill(self.root, Signal::SIGKILL)?;
        }
        Ok(())
    }

    fn handle(&mut self, status: WaitStatus) -> Result<()> {
        match status {
            WaitStatus::Exited(pid, code) => self.gone(pid, code << 8),
            WaitStatus::Signaled(pid, signal, _) => self.gone(pid, signal as i32),
            WaitStatus::PtraceSyscall(pid) => {
                let thread = self.threads.entry(pid).or_default();
                thread.in_call = !thread.in_call;
                if thread.in_call {
                    self.begins(pid)?;
                } else if let Some(errno) = thread.fail.take() {
                    fail(pid, errno)?;
                }
                self.resume(pid, None)?;
            }
            // The thread of a process that has just begun, a stop for tracing, or one of the whole process, which goes on.
            WaitStatus::PtraceEvent(pid, _, event) => {
                let thread = self.threads.entry(pid).or_default();
                // Whoever starts a thread is in a call, even if it was not seen to begin.
                thread.in_call |= event != EVENT_STOP;
                self.resume(pid, None)?;
            }
            WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal))?,
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
        Ok(())
    }

    fn gone(&mut self, pid: Pid, status: i32) {
        self.threads.remove(&pid);
        if pid == self.root {
            self.ended = Some(status);
        }
    }

    fn resume(&mut self, pid: Pid, signal: Option<Signal>) -> Result<()> {
        let result = if self.letting_go {
            self.threads.remove(&pid);
            ptrace::detach(pid, signal)
        } else {
            ptrace::syscall(pid, signal)
        };
        match result {
            // It was killed meanwhile, which wait will say.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno).with_context(|| format!("cannot resume thread {pid}")),
        }
    }

    /// A thread is about to make a call.
    fn begins(&mut self, pid: Pid) -> Result<()> {
        let mut regs = match ptrace::getregs(pid) {
            Err(Errno::ESRCH) => return Ok(()),
            other => other?,
        };
        let word = |address: u64| {
            let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
            memory.seek(SeekFrom::Start(address)).ok()?;
            let mut bytes = [0; 8];
            memory.read_exact(&mut bytes).ok()?;
            Some(u64::from_ne_bytes(bytes))
        };
        let to_device = |fd: u64| {
            std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|path| path.ends_with("dev/fuse"))
        };
        let args = [regs.rdi, regs.rsi, regs.rdx];
        let Some((kind, name)) = classify(regs.orig_rax.cast_signed(), args, word, to_device) else {
            return Ok(());
        };
        if self.letting_go {
            return Ok(());
        }
        self.seen.calls.push(Call { kind, name });
        if !self.injection.counts(kind) {
            return Ok(());
        }
        let meant = self.injection.at() == Some(self.counted);
        self.counted += 1;
        if !meant {
            return Ok(());
        }
        self.seen.hit = true;
        match self.injection {
            Injection::Nothing => {}
            // What is killed at the beginning of a call does not make it.
            Injection::Kill(_) => kill(process_of(pid)?, Signal::SIGKILL)?,
            Injection::Fail(_, errno) => {
                // No such call: it does nothing, and its result is set when it ends.
                regs.orig_rax = u64::MAX;
                ptrace::setregs(pid, regs)?;
                self.threads.entry(pid).or_default().fail = Some(errno.raw_os_error());
            }
        }
        Ok(())
    }

    /// Lets all threads run untraced.
    fn let_go(&mut self) -> Result<()> {
        // A call that is to fail has to get that far.
        while self.threads.values().any(|thread| thread.fail.is_some()) {
            self.step()?;
        }
        self.letting_go = true;
        for pid in self.threads.keys() {
            match ptrace::interrupt(*pid) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let end = Instant::now() + LETTING_GO;
        while !self.threads.is_empty() {
            self.step()?;
            if Instant::now() > end {
                bail!("threads do not stop: {:?}", self.threads);
            }
        }
        Ok(())
    }
}

/// The process that a thread belongs to.
fn process_of(thread: Pid) -> Result<Pid> {
    Ok(Pid::from_raw(number_in_status(thread, "Tgid:")?))
}

/// A field of `/proc/PID/status`, proc_pid_status(5).
fn number_in_status(pid: Pid, field: &str) -> Result<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    Ok(value.with_context(|| format!("no {field}"))?.trim().parse()?)
}

/// Makes the call that has just ended fail.
fn fail(pid: Pid, errno: i32) -> Result<()> {
    let mut regs = ptrace::getregs(pid)?;
    regs.rax = i64::from(-errno).cast_unsigned();
    Ok(ptrace::setregs(pid, regs)?)
}
