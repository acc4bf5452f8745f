//! The `kernel` driver: overlayfs mounts.
//!
//! Options, their limits and their checks: the kernel's Documentation/filesystems/overlayfs.rst and
//! fs/overlayfs/params.c (Linux 6.18).

use acetate_layer::dir::is_within;
use acetate_sys::Errno;
use acetate_sys::fscontext::{FsContext, attach, mount_text};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use rustix::mount::{MountAttrFlags, MountFlags};
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most lower layers that overlayfs takes (`OVL_MAX_STACK`).
pub const MAX_LOWERS: usize = 500;
/// Longest value of one option of the new mount API in bytes, the NUL not counted (fsconfig(2)).
const MAX_VALUE_BYTES: usize = 255;
/// Longest option text of mount(2) in bytes: a page with a NUL.
const MAX_TEXT_BYTES: usize = 4095;

/// The options of a workspace. All that would need more than plain layers is off whatever the module's
/// parameters say, so that a workspace means the same with every driver. The kernel insists on `nofollow` with
/// `userxattr`; without, it keeps layers made elsewhere from leading to unexpected places.
const PLAIN: &[(&str, &str)] = &[
    ("redirect_dir", "nofollow"),
    ("index", "off"),
    ("metacopy", "off"),
    ("xino", "off"),
    ("nfs_export", "off"),
];

/// What is mounted.
#[derive(Clone, Debug)]
pub struct Stack<'a> {
    /// The read-only layers, topmost first: at least one, at least two without `upper`.
    pub lowers: &'a [PathBuf],
    /// The writable layer and its work directory, on one mount; `None` for a read-only mount.
    pub upper: Option<(&'a Path, &'a Path)>,
    /// Marks are `user.overlay.*`, as in user namespaces they have to be.
    pub userxattr: bool,
    /// Nothing is synced: after a crash of the machine the upper layer has to be thrown away.
    pub volatile: bool,
    /// The data-only layers, below all others (Linux 6.7).
    pub data: &'a [PathBuf],
    /// Options with their values; none of them is a layer.
    pub options: &'a [(&'static str, &'a str)],
    /// Flags that every filesystem has.
    pub flags: MountFlags,
    /// The source that the mount table shows.
    pub source: &'a [u8],
}

impl Stack<'static> {
    /// What a workspace has of that does not depend on its layers; there are none yet.
    pub const PLAIN: Stack<'static> = Stack {
        lowers: &[],
        upper: None,
        userxattr: false,
        volatile: false,
        data: &[],
        options: PLAIN,
        flags: MountFlags::empty(),
        source: b"acetate",
    };
}

/// Which directory of a stack is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A lower layer.
    Lower,
    /// The upper layer.
    Upper,
    /// The work directory.
    Work,
    /// Where it is mounted.
    Target,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Lower => "lower layer",
            Role::Upper => "upper layer",
            Role::Work => "work directory",
            Role::Target => "mount point",
        })
    }
}

/// Why an overlay was not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// This kernel has no overlayfs.
    #[error("this kernel has no overlayfs")]
    Unknown,
    /// We may not mount.
    #[error("overlay: no privilege to mount")]
    Privilege,
    /// The number of lower layers is not between the limits.
    #[error("overlay: {count} lower layers, while {least} to {most} are possible")]
    Count {
        /// How many there are.
        count: usize,
        /// How few are possible.
        least: usize,
        /// How many are possible.
        most: usize,
    },
    /// A directory of the stack cannot be opened.
    #[error("{role} {path:?} cannot be opened")]
    Open {
        /// Which one.
        role: Role,
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The kernel refuses a directory of the stack.
    #[error("{role} {path:?} refused: {reason}")]
    Layer {
        /// Which one.
        role: Role,
        /// Where it is.
        path: PathBuf,
        /// What the kernel said, or what its errno means.
        reason: String,
        /// Its errno.
        errno: Errno,
    },
    /// The kernel refuses an option.
    #[error("overlay option {option} refused: {reason}")]
    Option {
        /// Which one.
        option: &'static str,
        /// What the kernel said, or what its errno means.
        reason: String,
        /// Its errno.
        errno: Errno,
    },
    /// The kernel refuses the stack as a whole.
    #[error("overlay at {target:?} refused: {reason}")]
    Stack {
        /// Where it was to be mounted.
        target: PathBuf,
        /// What the kernel said, or what its errno means.
        reason: String,
        /// Its errno.
        errno: Errno,
    },
    /// The overlay was made but cannot be attached at its target.
    #[error("mount point {target:?} refused")]
    Attach {
        /// Where it was to be mounted.
        target: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
}

impl MountError {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            MountError::Unknown => {
                "load the module (modprobe overlay), or use another driver (acetate driver)"
            }
            MountError::Privilege => {
                "needs CAP_SYS_ADMIN: be root, or enter a user namespace (unshare -Urm), or use the driver fuse"
            }
            MountError::Count { .. } => "merge some of the layers into one",
            MountError::Open { errno: Errno::NOENT, .. } => "check the path; every directory has to exist",
            MountError::Open { .. } => "check the path and its permissions",
            MountError::Layer { role: Role::Upper | Role::Work, .. } => {
                "upper layer and work directory have to be on one writable mount of a filesystem with extended \
                 attributes, and on no overlay"
            }
            MountError::Layer { .. } => "every layer has to be a directory; overlays nest twice at most",
            MountError::Option { .. } => {
                "this kernel is too old or configured otherwise; acetate driver tells more"
            }
            MountError::Stack { errno: Errno::LOOP, .. } => {
                "a directory is used twice, or lies within another layer: keep layers apart"
            }
            MountError::Stack { errno: Errno::BUSY, .. } => {
                "another overlay uses this upper layer or work directory: unmount it first"
            }
            MountError::Stack { errno: Errno::PERM, .. } => {
                "in a user namespace marks have to be user.overlay.*"
            }
            MountError::Stack { errno: Errno::NOMEM, .. } => "too many layers or too little memory",
            MountError::Stack { .. } => {
                "the kernel log (dmesg) may tell more; after a volatile mount upper layer and work directory have to \
                 be made anew"
            }
            MountError::Attach { .. } => "the mount point has to be a directory that exists",
        }
    }
}

/// Mounts `stack` at the directory `target`.
///
/// Paths may hold any bytes and be of any length; symlinks at them are followed. Either the overlay is mounted or
/// nothing has changed, but for `work` in the work directory.
///
/// # Errors
/// [`MountError`].
pub fn mount(stack: &Stack<'_>, target: &Path) -> Result<(), MountError> {
    match mount_detached(stack, target) {
        Err(Refused::TooOld) => mount_old(stack, target),
        Err(Refused::For(error)) => Err(error),
        Ok(mount) => attach(&mount, target).map_err(|errno| {
            if matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) {
                return MountError::Open { role: Role::Target, path: target.into(), errno };
            }
            MountError::Attach { target: target.into(), errno }
        }),
    }
}

/// Mounts `stack` nowhere: the mount can be used through the descriptor only and ends with it. Works since Linux 6.7.
///
/// # Errors
/// [`MountError`]; `near` is the path that its messages name.
pub(super) fn mount_nowhere(stack: &Stack<'_>, near: &Path) -> Result<OwnedFd, MountError> {
    mount_detached(stack, near).map_err(|refused| match refused {
        Refused::For(error) => error,
        Refused::TooOld => MountError::Option {
            option: "lowerdir+",
            reason: "this kernel is older than 6.7".into(),
            errno: Errno::INVAL,
        },
    })
}

/// How an attempt by the new API fails.
enum Refused {
    /// The kernel does not take layers one by one: there is another way.
    TooOld,
    For(MountError),
}

impl From<MountError> for Refused {
    fn from(error: MountError) -> Refused {
        Refused::For(error)
    }
}

fn mount_detached(stack: &Stack<'_>, target: &Path) -> Result<OwnedFd, Refused> {
    check_count(stack)?;
    let context = match FsContext::open("overlay") {
        Err(Errno::NOSYS) => return Err(Refused::TooOld),
        Err(Errno::NODEV) => return Err(MountError::Unknown.into()),
        // Both: of the kernel or of a seccomp filter.
        Err(Errno::PERM | Errno::ACCESS) => return Err(MountError::Privilege.into()),
        Err(errno) => return Err(refused(stack, target, errno, &[]).into()),
        Ok(context) => context,
    };
    let option = |option: &'static str, errno: Errno| MountError::Option {
        option,
        reason: reason(errno, &context.messages()),
        errno,
    };
    context.set("source", stack.source).map_err(|errno| option("source", errno))?;
    // Before the layers: they are checked as the option says.
    if stack.userxattr {
        context.set_flag("userxattr").map_err(|errno| option("userxattr", errno))?;
    }
    for &(key, value) in stack.options {
        context.set(key, value.as_bytes()).map_err(|errno| option(key, errno))?;
    }
    if stack.volatile && stack.upper.is_some() {
        context.set_flag("volatile").map_err(|errno| option("volatile", errno))?;
    }
    let mut held = Vec::new();
    for (index, lower) in stack.lowers.iter().enumerate() {
        match set_layer(&context, "lowerdir+", Role::Lower, lower, &mut held) {
            Err(MountError::Layer { errno: Errno::INVAL, .. }) if index == 0 && !takes_layers_singly() => {
                return Err(Refused::TooOld);
            }
            other => other?,
        }
    }
    for data in stack.data {
        set_layer(&context, "datadir+", Role::Lower, data, &mut held)?;
    }
    if let Some((upper, work)) = stack.upper {
        set_layer(&context, "upperdir", Role::Upper, upper, &mut held)?;
        set_layer(&context, "workdir", Role::Work, work, &mut held)?;
    }
    for (flag, word) in SUPERBLOCK {
        if stack.flags.contains(flag) {
            context.set_flag(word).map_err(|errno| option(word, errno))?;
        }
    }
    let mounted = context.mount(of_the_mount(stack.flags));
    mounted.map_err(|errno| refused(stack, target, errno, &context.messages()).into())
}

/// Flags of the filesystem as the options that they are for the new mount API.
const SUPERBLOCK: [(MountFlags, &str); 4] = [
    (MountFlags::RDONLY, "ro"),
    (MountFlags::SYNCHRONOUS, "sync"),
    (MountFlags::DIRSYNC, "dirsync"),
    (MountFlags::LAZYTIME, "lazytime"),
];

/// The flags of the mount itself.
fn of_the_mount(flags: MountFlags) -> MountAttrFlags {
    let all = [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (MountFlags::STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
        (MountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ];
    let set = all.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, attribute)| attribute);
    set.fold(MountAttrFlags::empty(), MountAttrFlags::union)
}

/// Whether the kernel knows `lowerdir+` (since 6.7). `/` is a directory like others.
fn takes_layers_singly() -> bool {
    FsContext::open("overlay").and_then(|context| context.set("lowerdir+", b"/")).is_ok()
}

/// Gives the kernel a directory: as an open one since Linux 6.13, else by its path.
fn set_layer(
    context: &FsContext,
    key: &'static str,
    role: Role,
    path: &Path,
    held: &mut Vec<OwnedFd>,
) -> Result<(), MountError> {
    let dir = open(role, path)?;
    let mut result = context.set_fd(key, dir.as_fd());
    let mut messages = context.messages();
    if result == Err(Errno::INVAL) {
        let direct = path.as_os_str().as_bytes();
        result = match direct.len() <= MAX_VALUE_BYTES {
            true => context.set(key, direct),
            false => context.set(key, &by_descriptor(&dir)),
        };
        messages = context.messages();
    }
    held.push(dir);
    result.map_err(|errno| MountError::Layer {
        role,
        path: path.into(),
        reason: reason(errno, &messages),
        errno,
    })
}

/// Opens a directory of the stack, so that what is checked is what is mounted.
fn open(role: Role, path: &Path) -> Result<OwnedFd, MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|errno| MountError::Open {
        role,
        path: path.into(),
        errno,
    })
}

/// A short path of an open directory that needs no escapes.
fn by_descriptor(dir: &OwnedFd) -> Vec<u8> {
    format!("/proc/self/fd/{}", dir.as_raw_fd()).into_bytes()
}

fn check_count(stack: &Stack<'_>) -> Result<(), MountError> {
    let least = if stack.upper.is_some() { 1 } else { 2 };
    let count = stack.lowers.len() + stack.data.len();
    if (least..=MAX_LOWERS).contains(&count) {
        return Ok(());
    }
    Err(MountError::Count { count, least, most: MAX_LOWERS })
}

/// [`mount`] for kernels before 6.7: all in one text, with the paths as they are if they fit in a page, else by way of
/// descriptors.
fn mount_old(stack: &Stack<'_>, target: &Path) -> Result<(), MountError> {
    let mut held = Vec::new();
    for lower in stack.lowers.iter().chain(stack.data) {
        held.push(open(Role::Lower, lower)?);
    }
    if let Some((upper, work)) = stack.upper {
        held.push(open(Role::Upper, upper)?);
        held.push(open(Role::Work, work)?);
    }
    open(Role::Target, target)?;
    let paths = stack
        .lowers
        .iter()
        .chain(stack.data)
        .map(PathBuf::as_path)
        .chain(stack.upper.iter().flat_map(|&(u, w)| [u, w]));
    let mut text = old_options(stack, paths.map(|path| path.as_os_str().as_bytes().to_vec()));
    if text.len() > MAX_TEXT_BYTES {
        text = old_options(stack, held.iter().map(by_descriptor));
    }
    if text.len() > MAX_TEXT_BYTES {
        let most = MAX_TEXT_BYTES / (text.len() / held.len());
        return Err(MountError::Count { count: stack.lowers.len(), least: 1, most });
    }
    mount_text("overlay", stack.source, target, stack.flags, &text).map_err(|errno| match errno {
        Errno::NODEV => MountError::Unknown,
        Errno::PERM => MountError::Privilege,
        errno => refused(stack, target, errno, &[]),
    })
}

/// The options of a stack as one text; `paths` are those of the lowers, the upper and the work directory.
fn old_options(stack: &Stack<'_>, mut paths: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut text = b"lowerdir=".to_vec();
    for (index, lower) in paths.by_ref().take(stack.lowers.len() + stack.data.len()).enumerate() {
        if index > 0 {
            text.push(b':');
        }
        if index >= stack.lowers.len() {
            text.push(b':');
        }
        escape(&lower, &mut text);
    }
    for (key, path) in [",upperdir=", ",workdir="].into_iter().zip(paths) {
        text.extend_from_slice(key.as_bytes());
        escape(&path, &mut text);
    }
    for (key, value) in stack.options {
        text.extend_from_slice(format!(",{key}={value}").as_bytes());
    }
    if stack.userxattr {
        text.extend_from_slice(b",userxattr");
    }
    if stack.volatile && stack.upper.is_some() {
        text.extend_from_slice(b",volatile");
    }
    text
}

/// Appends a path with what would end it, or a layer, escaped.
fn escape(path: &[u8], text: &mut Vec<u8>) {
    for &byte in path {
        if matches!(byte, b',' | b':' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
}

/// The error of a stack that the kernel refuses as a whole. Of many causes it tells its own log only, so what can be
/// seen from here is looked at.
fn refused(stack: &Stack<'_>, target: &Path, errno: Errno, messages: &[Vec<u8>]) -> MountError {
    let seen = if errno == Errno::INVAL {
        stack.upper.and_then(|(upper, work)| wrong_pair(upper, work))
    } else {
        None
    };
    let reason = seen.map_or_else(|| reason(errno, messages), str::to_owned);
    MountError::Stack { target: target.into(), reason, errno }
}

/// What is wrong with an upper layer and its work directory, if that can be seen. What cannot be looked at is not.
fn wrong_pair(upper: &Path, work: &Path) -> Option<&'static str> {
    if is_within(upper, work).ok()? || is_within(work, upper).ok()? {
        return Some("one of upper layer and work directory lies within the other");
    }
    if mount_id(upper)? != mount_id(work)? {
        return Some("upper layer and work directory are on different mounts");
    }
    let incompat = work.join("work/incompat");
    rustix::fs::access(&incompat, rustix::fs::Access::EXISTS).ok()?;
    Some("the work directory is that of a volatile mount, whose upper layer may have lost data")
}

/// The mount that a directory is on, by its id.
fn mount_id(path: &Path) -> Option<u64> {
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    Some(stat.stx_mnt_id)
}

/// What the kernel said, else what its errno means.
fn reason(errno: Errno, messages: &[Vec<u8>]) -> String {
    let said: Vec<String> = messages
        .iter()
        .map(|message| message.strip_prefix(b"overlay: ").unwrap_or(message))
        .filter(|message| !message.is_empty())
        .map(|message| OsStr::from_bytes(message).to_string_lossy().escape_debug().to_string())
        .collect();
    if said.is_empty() { super::cause(errno) } else { said.join("; ") }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
