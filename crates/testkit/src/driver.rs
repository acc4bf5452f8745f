//! Who mounts a stack of layers: the kernel's overlayfs, or the `acetate` binary over FUSE.
//!
//! Both take the same [`Stack`] and the same option text, so a test that is written once runs against the oracle and
//! against the thing under test. A mount is a [`Mounted`] value: [`Mounted::unmount`] returns when the mount is gone
//! from the mount table; dropping it instead detaches it lazily, so that a failed test leaves nothing behind.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{CWD, MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long a `mount` or `umount` command may take before it is killed and reported.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// How long a mount may stay in the mount table after it was unmounted.
const GONE_LIMIT: Duration = Duration::from_secs(10);
/// How long an unmount may find the mount in use.
const BUSY_LIMIT: Duration = Duration::from_secs(3);

/// The longest option text that mount(2) takes: one page less the final zero.
const MOUNT_DATA_BYTES: usize = 4095;

/// The layers of one mount.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    /// Lower directories, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// Data-only lower directories, below all others; the topmost first.
    pub data_only: Vec<PathBuf>,
    /// The writable layer; `None` for a read-only mount.
    pub upper: Option<Writable>,
}

/// The writable layer of a [`Stack`].
#[derive(Debug, Clone)]
pub struct Writable {
    /// The directory that receives changes.
    pub upper: PathBuf,
    /// The staging directory, on the same filesystem as `upper`.
    pub work: PathBuf,
}

impl Stack {
    /// A writable stack; `lowers` has the topmost layer first.
    pub fn writable<L>(lowers: L, upper: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Self
    where
        L: IntoIterator,
        L::Item: Into<PathBuf>,
    {
        let upper = Writable { upper: upper.into(), work: work.into() };
        Self {
            lowers: lowers.into_iter().map(Into::into).collect(),
            data_only: Vec::new(),
            upper: Some(upper),
        }
    }

    /// A read-only stack; `lowers` has the topmost layer first.
    pub fn read_only<L>(lowers: L) -> Self
    where
        L: IntoIterator,
        L::Item: Into<PathBuf>,
    {
        Self { lowers: lowers.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The text for `-o`: the layers with `,` `:` and `\` escaped by a backslash, then `extra` as it is.
    ///
    /// `extra` is further options separated by commas, or empty. Works for any path bytes.
    pub fn options(&self, extra: &str) -> OsString {
        let mut text: Vec<u8> = b"lowerdir=".to_vec();
        for (i, lower) in self.lowers.iter().enumerate() {
            if i > 0 {
                text.push(b':');
            }
            push_escaped(&mut text, lower);
        }
        for data in &self.data_only {
            text.extend_from_slice(b"::");
            push_escaped(&mut text, data);
        }
        if let Some(Writable { upper, work }) = &self.upper {
            text.extend_from_slice(b",upperdir=");
            push_escaped(&mut text, upper);
            text.extend_from_slice(b",workdir=");
            push_escaped(&mut text, work);
        }
        if !extra.is_empty() {
            text.push(b',');
            text.extend_from_slice(extra.as_bytes());
        }
        OsString::from_vec(text)
    }
}

/// Appends `path` with every character that option splitting treats specially behind a backslash.
fn push_escaped(text: &mut Vec<u8>, path: &Path) {
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b',' | b':') {
            text.push(b'\\');
        }
        text.push(byte);
    }
}

/// `path` alone, escaped as in [`push_escaped`].
fn escaped(path: &Path) -> OsString {
    let mut text = Vec::new();
    push_escaped(&mut text, path);
    OsString::from_vec(text)
}

/// Who mounts.
#[derive(Debug, Clone)]
pub enum Driver {
    /// The kernel's overlayfs; needs CAP_SYS_ADMIN.
    Kernel,
    /// `BIN mount -o OPTIONS MERGED` and `BIN umount MERGED`.
    Acetate {
        /// The `acetate` binary; see [`acetate_bin`].
        bin: PathBuf,
    },
}

/// Why a mount did not come about.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel refused.
    #[error("mount -t overlay: {0}")]
    Kernel(Errno),
    /// The command refused, or was killed by a signal (`status` is then `None`).
    #[error("acetate mount: exit status {status:?}: {}", stderr.trim_end())]
    Command {
        /// Exit status.
        status: Option<i32>,
        /// What it printed on stderr; bytes that are no UTF-8 are replaced.
        stderr: String,
    },
    /// The command could not be run, or did not return in time.
    #[error("cannot run {}", bin.display())]
    Run {
        /// The binary.
        bin: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

impl MountError {
    /// The errno of a refusal by the kernel; a command tells none.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel(errno) => Some(*errno),
            Self::Command { .. } | Self::Run { .. } => None,
        }
    }
}

impl Driver {
    /// The driver that tests [`acetate_bin`].
    pub fn acetate() -> anyhow::Result<Self> {
        Ok(Self::Acetate { bin: acetate_bin()? })
    }

    /// The word for this driver on command lines and in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Acetate { .. } => "acetate",
        }
    }

    /// Mounts `stack` on the existing directory `target` and returns once it serves.
    ///
    /// `extra` is further mount options separated by commas, or empty.
    pub fn mount(&self, stack: &Stack, target: &Path, extra: &str) -> Result<Mounted, MountError> {
        match self {
            Self::Kernel => mount_kernel(stack, target, extra).map_err(MountError::Kernel)?,
            Self::Acetate { bin } => {
                let args = [OsStr::new("mount"), OsStr::new("-o"), &stack.options(extra), target.as_os_str()];
                let (status, stderr) =
                    run(bin, &args).map_err(|source| MountError::Run { bin: bin.clone(), source })?;
                if !status.success() {
                    return Err(MountError::Command { status: status.code(), stderr });
                }
            }
        }
        Ok(Mounted { driver: self.clone(), target: target.to_path_buf(), live: true })
    }
}

/// Mounts with mount(2), or piecewise through the new mount API if the options exceed one page.
///
/// The new API takes at most 255 bytes a value, and lower layers unescaped, the writable one escaped.
fn mount_kernel(stack: &Stack, target: &Path, extra: &str) -> Result<(), Errno> {
    let text = stack.options(extra);
    if text.len() <= MOUNT_DATA_BYTES {
        let data = std::ffi::CString::new(text.into_vec()).map_err(|_| Errno::INVAL)?;
        return mount("overlay", target, "overlay", MountFlags::empty(), data.as_c_str());
    }
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in &stack.lowers {
        fsconfig_set_string(&fs, "lowerdir+", lower)?;
    }
    for data in &stack.data_only {
        fsconfig_set_string(&fs, "datadir+", data)?;
    }
    if let Some(Writable { upper, work }) = &stack.upper {
        fsconfig_set_string(&fs, "upperdir", escaped(upper))?;
        fsconfig_set_string(&fs, "workdir", escaped(work))?;
    }
    for option in extra.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&fs, key, value)?,
            None => fsconfig_set_flag(&fs, option)?,
        }
    }
    fsconfig_create(&fs)?;
    let tree = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Runs a command to its end and returns its exit status and stderr; kills it after [`COMMAND_LIMIT`].
///
/// stderr goes to a memory file, not a pipe: a server that the command leaves behind may hold it open.
fn run(bin: &Path, args: &[&OsStr]) -> io::Result<(ExitStatus, String)> {
    let mut errors = File::from(memfd_create("stderr", MemfdFlags::CLOEXEC)?);
    let mut child = Command::new(bin)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors.try_clone()?)
        .spawn()?;
    let watch = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let limit = rustix::time::Timespec { tv_sec: COMMAND_LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
    if rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&limit)))? == 0 {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no exit within {COMMAND_LIMIT:?}")));
    }
    let status = child.wait()?;
    let mut bytes = Vec::new();
    errors.rewind()?;
    errors.read_to_end(&mut bytes)?;
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

/// A live mount. Dropping it detaches the mount lazily and ignores errors; tests that go on to look at the layers call
/// [`unmount`](Self::unmount).
#[derive(Debug)]
pub struct Mounted {
    driver: Driver,
    target: PathBuf,
    live: bool,
}

impl Mounted {
    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Unmounts and waits until the mount is gone from the mount table.
    ///
    /// # Errors
    /// When something still uses the mount, or the command fails; the mount is then detached lazily.
    pub fn unmount(mut self) -> anyhow::Result<()> {
        self.close()
    }

    fn close(&mut self) -> anyhow::Result<()> {
        // A process that another test is just starting holds this one's descriptors until it becomes its program.
        let patience = Instant::now() + BUSY_LIMIT;
        while let Err(refusal) = self.try_unmount()? {
            if Instant::now() > patience {
                bail!("cannot unmount {}: {refusal}", self.target.display());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.live = false;
        let deadline = Instant::now() + GONE_LIMIT;
        while is_mounted(&self.target)? {
            if Instant::now() > deadline {
                bail!("{} is still mounted {GONE_LIMIT:?} after umount", self.target.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Mounted {
    /// Unmounts; the inner error says that the mount is in use.
    fn try_unmount(&self) -> anyhow::Result<Result<(), String>> {
        match &self.driver {
            Driver::Kernel => match unmount(&self.target, UnmountFlags::NOFOLLOW) {
                Err(Errno::BUSY) => Ok(Err(Errno::BUSY.to_string())),
                other => other.map(Ok).with_context(|| format!("cannot unmount {}", self.target.display())),
            },
            Driver::Acetate { bin } => {
                let (status, stderr) = run(bin, &[OsStr::new("umount"), self.target.as_os_str()])
                    .with_context(|| format!("cannot run {}", bin.display()))?;
                if status.success() {
                    return Ok(Ok(()));
                }
                if stderr.contains("busy") {
                    return Ok(Err(stderr));
                }
                bail!("acetate umount {}: {status}: {}", self.target.display(), stderr.trim_end());
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.live
            && let Err(errno) = unmount(&self.target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        {
            eprintln!("testkit: cannot detach {}: {errno}", self.target.display());
        }
    }
}

/// Whether `path` is a mount point in this process's mount table. `path` is compared as it is: absolute, no symlinks.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .any(|point| unescape_octal(point) == path.as_os_str().as_bytes()))
}

/// Undoes the `\ooo` escapes of /proc/PID/mountinfo.
fn unescape_octal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(d) => {
                out.push(d.iter().fold(0u8, |n, b| n.wrapping_mul(8).wrapping_add(b - b'0')));
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

/// Finds the `acetate` binary to test.
///
/// `ACETATE_BIN` if set; else `release/acetate`, else `debug/acetate`, in the target directory that the running
/// executable lies in.
///
/// # Errors
/// If there is none; the message says how to build it.
pub fn acetate_bin() -> anyhow::Result<PathBuf> {
    if let Some(bin) = std::env::var_os("ACETATE_BIN") {
        let bin = PathBuf::from(bin);
        if !bin.is_file() {
            bail!("ACETATE_BIN is {}, which is no file", bin.display());
        }
        return Ok(std::fs::canonicalize(&bin)?);
    }
    let here = std::env::current_exe().context("cannot tell which executable runs")?;
    here.ancestors()
        .flat_map(|dir| [dir.join("release/acetate"), dir.join("debug/acetate")])
        .find(|bin| bin.is_file())
        .with_context(|| {
            format!(
                "no acetate binary beside {}; run `cargo build --release`, or set ACETATE_BIN",
                here.display()
            )
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options_escape_what_splitting_would_cut() {
        let mut stack = Stack::writable(["/a:b", "/c,d"], r"/u\p", "/w k");
        stack.data_only.push("/data".into());
        let expected = r"lowerdir=/a\:b:/c\,d::/data,upperdir=/u\\p,workdir=/w k,xino=on";
        assert_eq!(stack.options("xino=on"), OsStr::new(expected));
        assert_eq!(Stack::read_only(["/a", "/b"]).options(""), OsStr::new("lowerdir=/a:/b"));
    }

    #[test]
    fn mountinfo_escapes_are_undone() {
        assert_eq!(unescape_octal(br"/a\040b\134c"), b"/a b\\c");
        assert_eq!(unescape_octal(br"/a\04"), br"/a\04");
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(Path::new("/proc/self")).unwrap());
    }

    /// Whether the tests that mount can run here; prints why not.
    fn may_mount() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: mounting needs root");
        }
        root
    }

    #[test]
    fn the_kernel_mounts_long_and_short_stacks() {
        if !may_mount() {
            return;
        }
        let scratch = crate::scratch::Scratch::new("driver-test").unwrap();
        let target = scratch.dir("m").unwrap();
        let lowers: Vec<_> = (0..200).map(|i| scratch.dir(&format!("layer-number-{i}")).unwrap()).collect();
        std::fs::write(lowers[199].join("f"), "x").unwrap();
        let (upper, work) = (scratch.dir("u,:").unwrap(), scratch.dir("w\\").unwrap());
        for count in [1, 200] {
            let stack = Stack::writable(&lowers[200 - count..], &upper, &work);
            let mounted = Driver::Kernel.mount(&stack, &target, "redirect_dir=off").unwrap();
            assert_eq!(std::fs::read(mounted.path().join("f")).unwrap(), b"x");
            mounted.unmount().unwrap();
            assert!(!is_mounted(&target).unwrap());
        }
        let refused = Driver::Kernel.mount(&Stack::read_only(&lowers[..1]), &target, "").unwrap_err();
        assert_eq!(refused.errno(), Some(Errno::INVAL));
    }
}
