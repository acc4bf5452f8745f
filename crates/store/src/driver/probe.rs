//! Which drivers work in a directory: each one is tried there, on a small scale, and leaves nothing behind.

use super::kernel::{MountError, Stack, mount_nowhere};
use super::{DriverName, btrfs, cause};
use acetate_sys::Errno;
use acetate_sys::fscontext::FsContext;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags, openat, unlinkat};
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The device of the kernel's FUSE.
const FUSE_DEVICE: &str = "/dev/fuse";
/// How many names are tried for the scratch directory.
const MAX_ATTEMPTS: u32 = 64;
/// Enough for every filesystem to store it as an extent of its own, which is what can be cloned.
const CLONED_BYTES: usize = 64 << 10;

/// Whether a driver works in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which one.
    pub driver: DriverName,
    /// It does.
    pub works: bool,
    /// How it was found to work, or why it does not: one line.
    pub why: String,
    /// What a workspace costs with it.
    pub cost: &'static str,
}

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no such directory, or we may not look into it.
    #[error("{path:?} cannot be opened")]
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// What was tried cannot be removed.
    #[error("the scratch directory {path:?} cannot be removed")]
    Remove {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
}

impl ProbeError {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            ProbeError::Open { errno: Errno::NOENT, .. } => "name a directory that exists",
            ProbeError::Open { errno: Errno::NOTDIR, .. } => "name a directory: workspaces are made in one",
            ProbeError::Open { .. } => "check the permissions of the path",
            ProbeError::Remove { .. } => "remove it by hand",
        }
    }
}

/// How one driver fares: how it was found to work, or why it does not.
type Finding = Result<String, String>;

/// Tries every driver in a scratch directory in `dir`, which is removed again. The order is that of
/// [`DriverName::ALL`].
///
/// Takes some milliseconds; nothing is visible to others but the scratch directory, `.acetate-probe-*`.
///
/// # Errors
/// [`ProbeError::Open`]; [`ProbeError::Remove`]. That nothing can be made in `dir` is none: then no driver works.
pub fn probe(dir: &Path) -> Result<Vec<Verdict>, ProbeError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, dir, flags, Mode::empty())
        .map_err(|errno| ProbeError::Open { path: dir.into(), errno })?;
    drop(opened);
    let scratch = match Scratch::new(dir) {
        Ok(scratch) => scratch,
        Err(errno) => {
            let why = format!("nothing can be made here: {}", cause(errno));
            return Ok(DriverName::ALL.map(|driver| verdict(driver, Err(why.clone()))).to_vec());
        }
    };
    let verdicts = DriverName::ALL.map(|driver| {
        verdict(
            driver,
            match driver {
                DriverName::Kernel => kernel(&scratch),
                DriverName::Fuse => fuse(),
                DriverName::Btrfs => subvolumes(&scratch),
                DriverName::Reflink => reflink(&scratch),
                DriverName::Copy => copy(&scratch),
            },
        )
    });
    scratch.remove()?;
    Ok(verdicts.to_vec())
}

/// The driver to take: the first that works, in the order of [`DriverName::ALL`].
pub fn choose(verdicts: &[Verdict]) -> Option<DriverName> {
    let works = |driver: &DriverName| verdicts.iter().any(|v| v.driver == *driver && v.works);
    DriverName::ALL.into_iter().find(works)
}

fn verdict(driver: DriverName, finding: Finding) -> Verdict {
    let works = finding.is_ok();
    let (Ok(why) | Err(why)) = finding;
    Verdict { driver, works, why, cost: driver.cost() }
}

/// Mounts an overlay that nobody sees, removes in it what is in a lower layer, and makes an opaque directory.
fn kernel(scratch: &Scratch) -> Finding {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.path.join(name));
    for dir in [&lower, &upper, &work] {
        std::fs::create_dir(dir).map_err(|error| failed("make a directory", &error))?;
    }
    std::fs::write(lower.join("below"), b"x").map_err(|error| failed("make a file", &error))?;
    let userxattr = !may_set_trusted(&upper);
    let lowers = [lower];
    let stack = Stack { lowers: &lowers, upper: Some((&upper, &work)), userxattr, ..Stack::PLAIN };
    let mount = mount_nowhere(&stack, &scratch.path).map_err(|error| refusal(&error))?;
    let failed = |what: &str, errno| format!("an overlay is mounted, but cannot {what}: {}", cause(errno));
    unlinkat(&mount, c"below", AtFlags::empty()).map_err(|errno| failed("remove a lower file", errno))?;
    rustix::fs::mkdirat(&mount, c"below", Mode::RWXU)
        .map_err(|errno| failed("mark a directory as opaque", errno))?;
    drop(mount);
    Ok(match userxattr {
        false => "an overlay was mounted and changed".into(),
        true => "an overlay was mounted and changed, with userxattr".into(),
    })
}

/// Whether we may set `trusted.*` attributes, which user namespaces may not.
fn may_set_trusted(path: &Path) -> bool {
    let name = "trusted.acetate.probe";
    let set = rustix::fs::setxattr(path, name, b"", XattrFlags::empty());
    set.and_then(|()| rustix::fs::removexattr(path, name)).is_ok()
}

/// The error without the names of scratch directories.
fn refusal(error: &MountError) -> String {
    match error {
        MountError::Layer { role, reason, .. } => format!("{role} refused: {reason}"),
        MountError::Open { role, errno, .. } => format!("{role}: {}", cause(*errno)),
        MountError::Stack { reason, .. } => format!("overlay refused: {reason}"),
        other => other.to_string(),
    }
}

/// Opens the device and mounts it where nobody sees it; without privilege the setuid helper has to be there.
fn fuse() -> Finding {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = openat(CWD, FUSE_DEVICE, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::ACCESS | Errno::PERM => format!("{FUSE_DEVICE}: {} (its mode should be 0666)", cause(errno)),
        Errno::NOENT => format!("{FUSE_DEVICE} is missing (modprobe fuse, or --device {FUSE_DEVICE})"),
        errno => format!("{FUSE_DEVICE}: {}", cause(errno)),
    })?;
    match mount_fuse_nowhere(&device) {
        Ok(()) => Ok(format!("{FUSE_DEVICE} can be opened and mounted")),
        Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS) => match helper() {
            Some(helper) => Ok(format!("{FUSE_DEVICE} can be opened, and {helper} mounts it")),
            None => Err("no privilege to mount, and there is no fusermount3 (package fuse3)".into()),
        },
        Err(errno) => Err(format!("{FUSE_DEVICE} cannot be mounted: {}", cause(errno))),
    }
}

/// Makes a FUSE filesystem that ends at once. Its first request is never answered.
fn mount_fuse_nowhere(device: &OwnedFd) -> Result<(), Errno> {
    let context = FsContext::open("fuse")?;
    context.set_fd("fd", device.as_fd()).or_else(|error| match error {
        // Before Linux 6.9 as a number.
        Errno::INVAL => context.set("fd", device.as_raw_fd().to_string().as_bytes()),
        error => Err(error),
    })?;
    let [uid, gid] = [rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()];
    for (key, value) in
        [("rootmode", "40000".into()), ("user_id", uid.to_string()), ("group_id", gid.to_string())]
    {
        context.set(key, value.as_bytes())?;
    }
    context.mount(rustix::mount::MountAttrFlags::empty()).map(drop)
}

/// The setuid program that mounts FUSE filesystems for users, looked for where the daemon would.
fn helper() -> Option<&'static str> {
    let path = std::env::var_os("PATH")?;
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    ["fusermount3", "fusermount"].into_iter().find(|name| {
        let runs = |dir: &PathBuf| rustix::fs::access(dir.join(name), rustix::fs::Access::EXEC_OK).is_ok();
        dirs.iter().any(runs)
    })
}

/// Makes a subvolume with a file, a snapshot of it, and removes both.
fn subvolumes(scratch: &Scratch) -> Finding {
    match btrfs::is_btrfs(&scratch.path) {
        Ok(true) => {}
        Ok(false) => return Err("this is no btrfs".into()),
        Err(error) => return Err(error.to_string()),
    }
    let space = match btrfs::pressure(&scratch.path) {
        Ok(btrfs::Pressure::Exhausted(space)) => return Err(format!("no room: {space}")),
        Ok(pressure) => *pressure.space(),
        Err(error) => return Err(told(&error)),
    };
    let [base, snapshot] = ["base", "snapshot"].map(|name| scratch.path.join(name));
    btrfs::create(&base).map_err(|error| told(&error))?;
    std::fs::write(base.join("file"), b"x").map_err(|error| failed("write in a subvolume", &error))?;
    btrfs::snapshot(&base, &snapshot, false).map_err(|error| told(&error))?;
    for subvolume in [&snapshot, &base] {
        btrfs::delete(subvolume).map_err(|error| told(&error))?;
    }
    Ok(match space.pressure() {
        btrfs::Pressure::Low(space) => format!("a snapshot was made and removed; {space}"),
        _ => "a snapshot was made and removed".into(),
    })
}

/// The error without the names of scratch directories.
fn told(error: &btrfs::BtrfsError) -> String {
    use btrfs::BtrfsError::{Exhausted, Failed, Privilege};
    match error {
        Exhausted { space, .. } => format!("no room: {space}"),
        Privilege(_) => {
            "a subvolume cannot be removed again: needs root or the mount option user_subvol_rm_allowed"
                .into()
        }
        Failed { what, errno, .. } => format!("cannot {what}: {}", cause(*errno)),
        other => other.to_string(),
    }
}

/// Clones a small file.
fn reflink(scratch: &Scratch) -> Finding {
    let make =
        |name: &str| File::create_new(scratch.path.join(name)).map_err(|error| failed("make a file", &error));
    let (mut original, clone) = (make("original")?, make("clone")?);
    original.write_all(&vec![1; CLONED_BYTES]).map_err(|error| failed("write a file", &error))?;
    rustix::fs::ioctl_ficlone(&clone, &original).map_err(|errno| match errno {
        Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV => {
            "this filesystem cannot clone files".to_owned()
        }
        errno => format!("a file cannot be cloned: {}", cause(errno)),
    })?;
    Ok("a file was cloned".into())
}

/// Writes a small file.
fn copy(scratch: &Scratch) -> Finding {
    std::fs::write(scratch.path.join("copy"), b"x").map_err(|error| failed("write a file", &error))?;
    Ok("a file was written".into())
}

fn failed(what: &str, error: &std::io::Error) -> String {
    format!("cannot {what} here: {}", cause(Errno::from_io_error(error).unwrap_or(Errno::IO)))
}

/// A directory for trying things.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(dir: &Path) -> Result<Scratch, Errno> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        for _ in 0..MAX_ATTEMPTS {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!(".acetate-probe-{}-{count}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Scratch { path }),
                Err(error) => match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
                    // Left behind by one that was killed.
                    Errno::EXIST => {}
                    errno => return Err(errno),
                },
            }
        }
        Err(Errno::EXIST)
    }

    /// Removes it and reports if that fails.
    fn remove(self) -> Result<(), ProbeError> {
        for subvolume in ["snapshot", "base"].map(|name| self.path.join(name)) {
            if btrfs::is_subvolume(&subvolume).unwrap_or(false) {
                // Where that may not be, the directory below is emptied like any other.
                let _removed_below = btrfs::delete(&subvolume);
            }
        }
        std::fs::remove_dir_all(&self.path).map_err(|error| ProbeError::Remove {
            path: self.path,
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })
    }
}
