//! The systems that are compared.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use acetate_testkit::driver::{Driver, Mounted, Stack, acetate_bin, is_mounted};
use acetate_testkit::{exec, need};
use anyhow::{Context, bail};
use clap::ValueEnum;
use rustix::mount::{UnmountFlags, unmount};

/// How long mounting or unmounting may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A system by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The kernel's overlayfs
    Kernel,
    /// This project
    Acetate,
    /// The kernel's overlayfs by `acetate mount --driver kernel`; only if asked for
    AcetateKernel,
    /// The same with a mount that outlives its server (takeover=on); only if asked for
    AcetateTakeover,
    /// The same with one that ends with it (takeover=off); only if asked for
    AcetateAlone,
    /// The binary that ACETATE_OTHER names, such as one of before a change; only if asked for
    AcetateOther,
    /// The published crate, if it is installed
    FuseOverlayfs,
    /// What the system has installed in /usr/bin, such as Debian's 1.10; only if asked for
    FuseOverlayfsSystem,
}

/// What is measured unless asked otherwise.
const ALWAYS: [Choice; 3] = [Choice::Kernel, Choice::Acetate, Choice::FuseOverlayfs];

/// A system that can mount.
#[derive(Debug)]
pub enum System {
    /// One that the testkit's driver knows.
    Driver(Driver),
    /// `acetate mount --driver kernel`.
    ByUs(PathBuf),
    /// Acetate with an option, and what that is called.
    Option(Driver, &'static str, &'static str),
    /// `fuse-overlayfs -o ... MERGED`.
    Published(PathBuf),
    /// The same, from the system.
    Packaged(PathBuf),
}

impl System {
    /// The systems asked for, or all; in that case fuse-overlayfs may be missing, and stderr says so.
    pub fn find(asked: &[Choice]) -> anyhow::Result<Vec<Self>> {
        let all = asked.is_empty();
        let choices = if all { &ALWAYS } else { asked };
        let mut systems = Vec::new();
        for choice in choices {
            match choice {
                Choice::Kernel => systems.push(Self::Driver(Driver::Kernel)),
                Choice::Acetate => systems.push(Self::Driver(Driver::acetate()?)),
                Choice::AcetateKernel => systems.push(Self::ByUs(acetate_bin()?)),
                Choice::AcetateTakeover => {
                    systems.push(Self::Option(Driver::acetate()?, "acetate-takeover", "takeover=on"));
                }
                Choice::AcetateAlone => {
                    systems.push(Self::Option(Driver::acetate()?, "acetate-alone", "takeover=off"));
                }
                Choice::AcetateOther => {
                    let bin = std::env::var_os("ACETATE_OTHER").context("ACETATE_OTHER names no binary")?;
                    let bin = std::fs::canonicalize(&bin)
                        .with_context(|| format!("ACETATE_OTHER: {}", Path::new(&bin).display()))?;
                    systems.push(Self::Option(Driver::Acetate { bin }, "acetate-other", ""));
                }
                Choice::FuseOverlayfsSystem => {
                    let bin = Path::new("/usr/bin/fuse-overlayfs");
                    if !bin.exists() {
                        bail!("there is no {}; install the package fuse-overlayfs", bin.display());
                    }
                    systems.push(Self::Packaged(bin.to_owned()));
                }
                Choice::FuseOverlayfs => match need::tool("fuse-overlayfs") {
                    Some(bin) => systems.push(Self::Published(bin)),
                    None if all => {
                        eprintln!("fuse-overlayfs is not installed: left out. hint: tests/install --bench")
                    }
                    None => bail!("fuse-overlayfs is not installed; tests/install --bench builds it"),
                },
            }
        }
        Ok(systems)
    }

    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Driver(driver) => driver.name(),
            Self::ByUs(_) => "acetate-kernel",
            Self::Option(_, name, _) => name,
            Self::Published(_) => "fuse-overlayfs",
            Self::Packaged(_) => "fuse-overlayfs-system",
        }
    }

    /// The name of the program that serves; `None` if the kernel does.
    fn program(&self) -> Option<&'static str> {
        match self {
            Self::Driver(Driver::Kernel) | Self::ByUs(_) => None,
            Self::Driver(driver) | Self::Option(driver, ..) => Some(driver.name()),
            Self::Published(_) | Self::Packaged(_) => Some("fuse-overlayfs"),
        }
    }

    /// The memory of the process that serves `target`, in bytes, by its resident set; `None` if the kernel does. Of several
    /// the largest is the server.
    pub fn server_memory(&self, target: &Path) -> anyhow::Result<Option<u64>> {
        let Some(server) = self.program() else { return Ok(None) };
        let mut most = None;
        for entry in std::fs::read_dir("/proc")? {
            let process = entry?.path();
            // It may have ended meanwhile, and is none then.
            let Ok(arguments) = std::fs::read(process.join("cmdline")) else { continue };
            let mut words = arguments.split(|byte| *byte == 0).filter(|word| !word.is_empty());
            let program = words.next().map(|word| Path::new(OsStr::from_bytes(word)));
            let named = program.and_then(Path::file_name).is_some_and(|name| name == server);
            if !named || words.next_back() != Some(target.as_os_str().as_bytes()) {
                continue;
            }
            let Ok(status) = std::fs::read_to_string(process.join("status")) else { continue };
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            most = most.max(kib.map(|kib| kib * 1024));
        }
        Ok(most)
    }

    /// Mounts `stack` on `target`; `rootless` in a user namespace.
    pub fn mount(&self, stack: &Stack, target: &Path, rootless: bool) -> anyhow::Result<Mount> {
        match self {
            // The others see by themselves where they are.
            Self::Driver(driver @ Driver::Kernel) if rootless => {
                Ok(Mount::Driver(driver.mount(stack, target, "userxattr")?))
            }
            Self::Driver(driver) => Ok(Mount::Driver(driver.mount(stack, target, "")?)),
            Self::ByUs(bin) => {
                let mut command = Command::new(bin);
                command.args(["mount", "--driver", "kernel", "-o"]).arg(stack.options("")).arg(target);
                exec::stdout_of(&mut command, LIMIT)?;
                Ok(Mount::Kernel(target.to_path_buf()))
            }
            Self::Option(driver, _, option) => Ok(Mount::Driver(driver.mount(stack, target, option)?)),
            Self::Published(bin) | Self::Packaged(bin) => {
                // In the foreground, to see its end: it unmounts its place once more then, whatever is mounted there.
                let mut command = Command::new(bin);
                command.arg("-f").arg("-o").arg(stack.options("")).arg(target);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let child = command.spawn().context("starting fuse-overlayfs")?;
                let mut mount = Detach { target: target.to_path_buf(), child };
                let deadline = Instant::now() + LIMIT;
                while !is_mounted(target)? {
                    if let Some(status) = mount.child.try_wait()? {
                        bail!("fuse-overlayfs mounted nothing: {status}");
                    }
                    if Instant::now() > deadline {
                        bail!("fuse-overlayfs mounted nothing within {LIMIT:?}");
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(Mount::FuseOverlayfs(mount))
            }
        }
    }
}

/// A live mount; detached lazily when dropped.
#[derive(Debug)]
pub enum Mount {
    /// By the testkit's driver.
    Driver(Mounted),
    /// The kernel's, by a command that has ended.
    Kernel(PathBuf),
    /// By fuse-overlayfs.
    FuseOverlayfs(Detach),
}

/// A mount point with its server; it is detached when dropped.
#[derive(Debug)]
pub struct Detach {
    target: PathBuf,
    child: Child,
}

impl Drop for Detach {
    fn drop(&mut self) {
        if is_mounted(&self.target).unwrap_or(true)
            && let Err(errno) = unmount(&self.target, UnmountFlags::DETACH)
        {
            eprintln!("acetate-bench: cannot detach {}: {errno}", self.target.display());
        }
        // It may be gone already.
        let _ended = self.child.kill();
        if let Err(error) = self.child.wait() {
            eprintln!("acetate-bench: fuse-overlayfs: {error}");
        }
    }
}

impl Mount {
    /// The merged directory.
    pub fn path(&self) -> &Path {
        match self {
            Self::Driver(mounted) => mounted.path(),
            Self::Kernel(target) => target,
            Self::FuseOverlayfs(detach) => &detach.target,
        }
    }

    /// Unmounts, and waits until the mount is gone.
    pub fn unmount(self) -> anyhow::Result<()> {
        match self {
            Self::Driver(mounted) => mounted.unmount(),
            Self::Kernel(target) => unmount(&target, UnmountFlags::empty()).context("unmounting"),
            Self::FuseOverlayfs(mut detach) => {
                unmount(&detach.target, UnmountFlags::empty()).context("unmounting fuse-overlayfs")?;
                detach.child.wait().context("waiting for fuse-overlayfs")?;
                Ok(())
            }
        }
    }
}
