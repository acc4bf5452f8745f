//! Control groups: processes that are frozen together, or have little memory together (cgroups(7)).
//!
//! Of version 1 where the controller has a hierarchy of its own, else of version 2. A group is made in the root of its
//! hierarchy and removed on drop.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Where the hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// How long processes that have ended may stay in a group.
const LIMIT: Duration = Duration::from_secs(60);
const NAP: Duration = Duration::from_millis(5);

/// What a group controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Whether its processes run.
    Freezer,
    /// How much memory they have.
    Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A control group.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    version: Version,
}

impl Group {
    /// Makes an empty group.
    ///
    /// # Errors
    /// If this machine has no such controller, or it may not be used.
    pub fn new(controller: Controller) -> Result<Group> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (name, file) = match controller {
            Controller::Freezer => ("freezer", "cgroup.freeze"),
            Controller::Memory => ("memory", "memory.max"),
        };
        let own = Path::new(ROOT).join(name);
        // The directory is there without the controller, too.
        let (root, version) = if own.join("cgroup.procs").exists() {
            (own, Version::One)
        } else {
            (PathBuf::from(ROOT), Version::Two)
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("testkit-{}-{number}", std::process::id()));
        if version == Version::Two && controller == Controller::Memory {
            let control = root.join("cgroup.subtree_control");
            fs::write(&control, "+memory").with_context(|| format!("cannot set {}", control.display()))?;
        }
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let group = Group { path, version };
        ensure!(version == Version::One || group.path.join(file).exists(), "no {file} in {ROOT}");
        Ok(group)
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
    }

    /// The number behind a word at the beginning of a line.
    fn number(&self, file: &str, word: &str) -> Result<u64> {
        let text = self.read(file)?;
        let value = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {word} in {file}"))?.trim().parse()?)
    }

    /// Puts a process with all its threads into the group.
    ///
    /// # Errors
    /// If there is no such process, or it may not be moved.
    pub fn add(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// A command that runs `program` in the group from its beginning on.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
            .arg(self.path.join("cgroup.procs"))
            .arg(program);
        command
    }

    /// Freezes all processes of the group and waits until they are: `false` if one cannot be, as it waits for an answer
    /// in the kernel.
    ///
    /// # Errors
    /// If the group has no freezer.
    pub fn freeze(&self, limit: Duration) -> Result<bool> {
        match self.version {
            Version::One => self.write("freezer.state", "FROZEN")?,
            Version::Two => self.write("cgroup.freeze", "1")?,
        }
        let end = Instant::now() + limit;
        loop {
            let frozen = match self.version {
                Version::One => self.read("freezer.state")?.trim() == "FROZEN",
                Version::Two => self.number("cgroup.events", "frozen")? == 1,
            };
            if frozen || Instant::now() > end {
                return Ok(frozen);
            }
            std::thread::sleep(NAP);
        }
    }

    /// Lets them run again.
    ///
    /// # Errors
    /// If the group has no freezer.
    pub fn thaw(&self) -> Result<()> {
        match self.version {
            Version::One => self.write("freezer.state", "THAWED"),
            Version::Two => self.write("cgroup.freeze", "0"),
        }
    }

    /// How much memory the group has, in bytes; page cache counts.
    ///
    /// # Errors
    /// If the group has no memory controller.
    pub fn used_bytes(&self) -> Result<u64> {
        let file = match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        };
        Ok(self.read(file)?.trim().parse()?)
    }

    /// How much it may have; `None` for any.
    ///
    /// # Errors
    /// If the group has no memory controller, or less cannot be made of what it has.
    pub fn allow(&self, bytes: Option<u64>) -> Result<()> {
        let value = |without: &str| bytes.map_or(without.to_owned(), |bytes| bytes.to_string());
        match self.version {
            Version::One => self.write("memory.limit_in_bytes", &value("-1")),
            Version::Two => self.write("memory.max", &value("max")),
        }
    }

    /// How many of its processes were killed for lack of memory.
    ///
    /// # Errors
    /// If the group has no memory controller.
    pub fn killed(&self) -> Result<u64> {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        self.number(file, "oom_kill")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _not_a_freezer = self.thaw();
        let end = Instant::now() + LIMIT;
        // Whoever is still in it goes to the root; processes that have just ended stay for a while.
        loop {
            for pid in self.read("cgroup.procs").unwrap_or_default().lines() {
                let _ended = fs::write(self.path.with_file_name("cgroup.procs"), pid);
            }
            let removed = fs::remove_dir(&self.path);
            if removed.is_ok() || Instant::now() > end {
                break;
            }
            std::thread::sleep(NAP);
        }
    }
}
