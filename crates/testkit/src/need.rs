//! What a test needs of the machine, and the rule that nothing is skipped in silence.
//!
//! A test asks [`have`] first. If something is missing it returns without a verdict, and says so on stderr and in the
//! file that `ACETATE_SKIPS` names. `tests/run` looks at the machine by itself and lists what it can do in
//! `ACETATE_CAN`; a test that finds such a thing missing all the same fails.

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cgroup::{Controller, Group};
use crate::driver::{Driver, Stack};
use crate::scratch::Scratch;

/// One thing that a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// User id 0 with the power to mount.
    Root,
    /// A `/dev/fuse` that can be opened.
    Fuse,
    /// The kernel's own overlayfs.
    KernelOverlay,
    /// A kernel that sends FUSE requests again (Linux 6.9).
    Resend,
    /// Loop devices, for filesystems in image files.
    Loop,
    /// Control groups with that controller.
    Group(Controller),
    /// A program on the PATH or among the [`tool`]s.
    Tool(&'static str),
    /// The Debian root tree that `tests/install` makes; see [`root_tree`].
    RootTree,
    /// The image of 25 layers that `tests/install` makes; see [`data_image`].
    DataImage,
    /// A kernel of Debian's that `tests/vm/kernels` has fetched, by its name there.
    Linux(&'static str),
}

impl Need {
    /// The word for it in `ACETATE_CAN`.
    fn word(self) -> Cow<'static, str> {
        match self {
            Self::Root => "root".into(),
            Self::Fuse => "fuse".into(),
            Self::KernelOverlay => "overlay".into(),
            Self::Resend => "resend".into(),
            Self::Loop => "loop".into(),
            Self::Group(Controller::Freezer) => "freezer".into(),
            Self::Group(Controller::Memory) => "memory".into(),
            Self::Tool(_) => "tools".into(),
            Self::RootTree => "roottree".into(),
            Self::DataImage => "dataimage".into(),
            Self::Linux(name) => format!("linux-{name}").into(),
        }
    }

    /// Why it is not there; `None` if it is.
    fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "not root".into()),
            Self::Fuse => OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .err()
                .map(|error| format!("/dev/fuse: {error}")),
            Self::KernelOverlay => {
                try_kernel_overlay().err().map(|error| format!("kernel overlayfs: {error:#}"))
            }
            Self::Resend => (release() < (6, 9)).then(|| "the kernel is older than 6.9".into()),
            Self::Loop => (!Path::new("/dev/loop-control").exists()).then(|| "no /dev/loop-control".into()),
            Self::Group(controller) => {
                Group::new(controller).err().map(|error| format!("control groups: {error:#}"))
            }
            Self::Tool(name) => tool(name).is_none().then(|| format!("no program {name}; run tests/install")),
            Self::RootTree => {
                (!root_tree().exists()).then(|| format!("no {}; run tests/install", root_tree().display()))
            }
            Self::DataImage => {
                (!data_image().exists()).then(|| format!("no {}; run tests/install", data_image().display()))
            }
            Self::Linux(name) => {
                let path = tools_dir().join("kernels").join(name).join("vmlinuz");
                (!path.exists()).then(|| format!("no {}; run tests/vm/kernels {name}", path.display()))
            }
        }
    }
}

/// Whether everything in `needs` is there for the test `name`.
///
/// # Errors
/// If something is missing that `ACETATE_CAN` says this machine has, or the skip cannot be recorded.
pub fn have(name: &str, needs: &[Need]) -> anyhow::Result<bool> {
    for need in needs {
        let Some(why) = need.missing() else { continue };
        let can = std::env::var("ACETATE_CAN").unwrap_or_default();
        if can.split_whitespace().any(|word| word == need.word()) {
            bail!("{name}: {why}, though this machine was found to have it ({})", need.word());
        }
        eprintln!("skipped: {name}: {why}");
        if let Some(list) = std::env::var_os("ACETATE_SKIPS") {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&list)
                .with_context(|| format!("cannot record a skip in {}", Path::new(&list).display()))?;
            // One write: tests append at the same time.
            file.write_all(format!("{name}: {why}\n").as_bytes())?;
        }
        return Ok(false);
    }
    Ok(true)
}

/// The first two numbers of the kernel's release.
fn release() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn try_kernel_overlay() -> anyhow::Result<()> {
    let scratch = Scratch::new("acetate-need")?;
    let stack = Stack::read_only([scratch.dir("a")?, scratch.dir("b")?]);
    Driver::Kernel.mount(&stack, &scratch.dir("m")?, "")?.unmount()
}

/// Where `tests/install` keeps what it builds: `ACETATE_TOOLS`, else `target/tools` in the source tree.
pub fn tools_dir() -> PathBuf {
    match std::env::var_os("ACETATE_TOOLS") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools"),
    }
}

/// Finds the program `name` among the built tools, then on the PATH and in the administrator's directories.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(tools_dir().join("bin"))
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file())
}

/// The tar file with a Debian or Ubuntu root tree that `tests/install` makes.
pub fn root_tree() -> PathBuf {
    tools_dir().join("debian-root.tar")
}

/// The OCI archive with an image of a Python data stack in 25 layers that `tests/install` makes.
pub fn data_image() -> PathBuf {
    tools_dir().join("data-image.tar")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tool_is_found_or_not() {
        assert!(tool("sh").unwrap().is_absolute());
        assert_eq!(tool("no-such-program-anywhere"), None);
        assert!(have("here", &[Need::Tool("sh")]).unwrap());
    }
}
