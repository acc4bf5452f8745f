//! Layers with everything to change, and a server that is our own child.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::driver::{Driver, Stack};
use crate::real::fingerprint::Fingerprint;

/// When everything in a fresh stage was changed last, in seconds of the epoch.
const LONG_AGO: i64 = 1_000_000_000;
/// What `acetate check` may find: a whiteout that hides nothing (the kernel, too, leaves one if it is stopped between an
/// exchange and the removal of what was exchanged).
const HARMLESS: &str = "whiteout-orphan";
/// How long a server may take to begin or to end.
const LIMIT: Duration = Duration::from_secs(300);
/// How long an upper layer may be in use by a kernel mount that is gone: mount namespaces that others have made meanwhile
/// have copies of it.
const IN_USE: Duration = Duration::from_secs(120);

/// A stack of layers in a directory of its own.
pub(super) struct Stage {
    root: PathBuf,
}

impl Stage {
    /// Makes the layers anew in `root`, which is removed first.
    pub(super) fn new(root: &Path) -> Result<Stage> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        let stage = Stage { root: root.to_owned() };
        for dir in ["upper", "work", "merged", "lower"] {
            fs::create_dir_all(stage.path(dir))?;
        }
        stage.fill_lower().context("lower layer")?;
        stage.fill_upper().context("upper layer")?;
        for layer in ["upper", "lower"] {
            age(&stage.path(layer))?;
        }
        Ok(stage)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn merged(&self) -> PathBuf {
        self.path("merged")
    }

    pub(super) fn stack(&self) -> Stack {
        Stack::writable([self.path("lower")], self.path("upper"), self.path("work"))
    }

    fn fill_lower(&self) -> Result<()> {
        let at = |name: &str| self.path("lower").join(name);
        for dir in ["dir", "empty", "emptied", "far/down"] {
            fs::create_dir_all(at(dir))?;
        }
        for file in ["file", "other", "whiteout", "hides", "dir/x", "emptied/x", "far/down/f", "one"] {
            // More than a page, so that a copy of a part would be seen.
            fs::write(at(file), file.repeat(3000))?;
            rustix::fs::setxattr(at(file), "user.x", b"v", XattrFlags::empty())?;
        }
        fs::hard_link(at("one"), at("dir/two"))?;
        symlink("file", at("link"))?;
        symlink("x", at("dir/y"))?;
        symlink("x", at("emptied/y"))?;
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
        let mut sparse = File::create(at("sparse"))?;
        sparse.set_len(1 << 20)?;
        sparse.write_all(b"begins")?;
        Ok(())
    }

    fn fill_upper(&self) -> Result<()> {
        let at = |name: &str| self.path("upper").join(name);
        for dir in ["emptied", "own-dir"] {
            fs::create_dir_all(at(dir))?;
        }
        for file in ["own", "own-dir/z", "hides"] {
            fs::write(at(file), format!("upper {file}"))?;
        }
        for name in ["whiteout", "emptied/x", "emptied/y"] {
            mknodat(CWD, at(name), FileType::CharacterDevice, Mode::empty(), 0)?;
        }
        Ok(())
    }

    /// Mounts, reads the tree and unmounts.
    pub(super) fn look(&self, driver: &Driver, options: &str) -> Result<View> {
        let name = driver.name();
        let patience = Instant::now() + IN_USE;
        let mounted = loop {
            match driver.mount(&self.stack(), &self.merged(), options) {
                Err(error) if error.errno() == Some(Errno::BUSY) && Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => break other?,
            }
        };
        let view = view(mounted.path()).with_context(|| format!("reading the tree ({name})"));
        mounted.unmount()?;
        view
    }

    /// Fails if something is left that no mount shows.
    pub(super) fn expect_nothing_left(&self, bin: &Path, options: &str, after_kernel: bool) -> Result<()> {
        let work = self.path("work/work");
        let left: Vec<_> = fs::read_dir(&work)?.map(|entry| entry.map(|entry| entry.file_name())).collect();
        ensure!(left.is_empty(), "left in the work directory: {left:?}");
        let output = Command::new(bin)
            .arg("check")
            .arg("--lower")
            .arg(self.path("lower"))
            .arg("--upper")
            .arg(self.path("upper"))
            .arg("--work")
            .arg(self.path("work"))
            .arg("--json")
            .args(options.split(',').any(|word| word == "userxattr").then_some("--userxattr"))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let found: serde_json::Value = serde_json::from_str(&said).context("acetate check")?;
        for problem in found["problems"].as_array().context("acetate check")? {
            let kind = problem["kind"].as_str().unwrap_or_default();
            // The kernel takes the mark where what is not in the index has a number of its own (ovl_dir_read_impure).
            let by_kernel = after_kernel && options.contains("nfs_export=on") && kind == "impure-missing";
            ensure!(kind == HARMLESS || by_kernel, "acetate check: {problem}");
        }
        Ok(())
    }
}

/// What each thread of a process waits for, as far as /proc tells: name, state, system call, place in the kernel.
fn threads(process: Pid) -> Vec<String> {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let tasks =
        fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).into_iter().flatten().flatten();
    let thread = |task: fs::DirEntry| {
        let status = read(task.path().join("status"));
        let of_interest = |line: &&str| line.starts_with("State:") || line.starts_with("TracerPid:");
        let state: Vec<_> = status.lines().filter(of_interest).collect();
        let [name, call, place] = ["comm", "syscall", "wchan"].map(|file| read(task.path().join(file)));
        format!("{}: {}, in {} ({})", name.trim(), state.join(", "), place, call.trim())
    };
    tasks.map(thread).collect()
}

/// Gives everything in a layer a time of long ago.
fn age(layer: &Path) -> Result<()> {
    let time = Timespec { tv_sec: LONG_AGO, tv_nsec: 7 };
    let times = Timestamps { last_access: time, last_modification: time };
    for path in Fingerprint::take(layer)?.entries.keys().rev() {
        let path = if path.as_os_str().is_empty() { layer.to_owned() } else { layer.join(path) };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// A tree without what differs between two runs, or between a copied directory and one that is not: change times,
/// links and times of directories; of new times only that they are new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View(Fingerprint);

pub(super) fn view(root: &Path) -> Result<View> {
    let mut tree = Fingerprint::take(root)?.portable();
    for entry in tree.entries.values_mut() {
        if entry.mode & libc::S_IFMT == libc::S_IFDIR || entry.mtime.0 > LONG_AGO {
            entry.mtime = (i64::MAX, 0);
        }
    }
    Ok(View(tree))
}

impl View {
    /// Without link counts, which a remount may change where a name of the index counts.
    pub(super) fn loose(&self) -> View {
        let mut tree = self.0.clone();
        for entry in tree.entries.values_mut() {
            entry.links = 0;
        }
        View(tree)
    }

    /// Without the times of files either.
    pub(super) fn timeless(&self) -> View {
        let mut tree = self.0.clone();
        for entry in tree.entries.values_mut() {
            entry.mtime = (i64::MAX, 0);
        }
        View(tree)
    }

    /// Fails unless `now` is one of the two.
    pub(super) fn expect_either(old: &View, new: &View, now: &View, what: &str) -> Result<()> {
        let Err(not_old) = old.0.expect(&now.0, "from the old tree it") else { return Ok(()) };
        let Err(not_new) = new.0.expect(&now.0, "from the new tree it") else { return Ok(()) };
        bail!("{what}: neither the old nor the new tree: {not_old}\n{not_new}")
    }

    pub(super) fn expect(&self, now: &View, what: &str) -> Result<()> {
        self.0.expect(&now.0, what)
    }
}

/// `acetate mount -f` as our own child.
pub(super) struct Server {
    child: Child,
    merged: PathBuf,
    said: Arc<Mutex<String>>,
}

impl Server {
    /// Starts one and waits until its mount can be used.
    pub(super) fn start(bin: &Path, stage: &Stage, options: &str) -> Result<Server> {
        let merged = stage.merged();
        let mut child = Command::new(bin)
            .args(["mount", "-f", "-o"])
            .arg(stage.stack().options(options))
            .arg(&merged)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", bin.display()))?;
        let said = Arc::new(Mutex::new(String::new()));
        let (ready, is_ready) = mpsc::channel();
        let stderr = child.stderr.take().context("no stderr")?;
        let log = Arc::clone(&said);
        // Ends with the server.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains(": mounted; ") {
                    // Whoever waits for it may have given up.
                    let _nobody_waits = ready.send(());
                }
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        let server = Server { child, merged, said };
        if is_ready.recv_timeout(LIMIT).is_err() {
            bail!("the server does not mount: {}", server.said());
        }
        Ok(server)
    }

    /// The process that serves: our child, or the one that it has started.
    pub(super) fn pid(&self) -> Result<u32> {
        let child = self.child.id();
        let started = fs::read_to_string(format!("/proc/{child}/task/{child}/children"))?;
        match started.split_whitespace().next() {
            Some(server) => Ok(server.parse()?),
            None => Ok(child),
        }
    }

    /// What it has said so far.
    pub(super) fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Unmounts and waits for the end of the server; fails if it panicked.
    pub(super) fn unmount(mut self) -> Result<()> {
        // A file that was just closed may be in use still: its release is on its way.
        let mut result = Ok(());
        for _ in 0..200 {
            result = rustix::mount::unmount(&self.merged, UnmountFlags::NOFOLLOW);
            if result != Err(rustix::io::Errno::BUSY) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        result.context("cannot unmount")?;
        self.ended()
    }

    /// Waits for the end of the server; fails if it panicked.
    pub(super) fn ended(&mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            // A tracer in this process has seen its end.
            Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
            Ok(fd) => {
                let limit = Timespec { tv_sec: LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
                let ended = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit)))?;
                ensure!(ended > 0, "the server does not end: {:#?}", threads(pid));
                let _seen_by_the_tracer = self.child.try_wait();
            }
        }
        let said = self.said();
        ensure!(!said.contains("panicked"), "the server panicked: {said}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _unmounted_already =
            rustix::mount::unmount(&self.merged, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _seen_by_the_tracer = self.child.wait();
    }
}
