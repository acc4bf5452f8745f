//! Makes a tree the root of this process's mount namespace, with /proc, /dev and /sys.
//!
//! What is taken from the host is held open before the change of roots; all paths are followed after it, so that no
//! symlink of the tree leads out of it.

use super::{Job, Net};
use crate::error::Failure;
use crate::mountinfo;
use crate::out::{shown, warn};
use acetate_sys::fscontext::{FsContext, attach};
use rustix::fs::{CWD, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, open_tree, unmount,
};
use std::ffi::CStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::Path;

/// The devices that every program may count on.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
/// The names for what a program has open, and where they lead.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];
/// The host's files that a network needs.
pub(super) const NETWORK_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Parts of /proc that concern the whole machine, and may only be read.
pub(super) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Files of /proc that tell about the whole machine, or about its memory.
pub(super) const HIDDEN: [&str; 5] =
    ["/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug"];

/// Changes the root of this process, and of its mount namespace, which must be its own.
///
/// # Errors
/// The first mount that fails.
pub(super) fn enter(job: &Job) -> Result<(), Failure> {
    make_private()?;
    let devices = hold_devices()?;
    let files: &[&str] = if job.net == Net::Host { &NETWORK_FILES } else { &[] };
    let files = files.iter().filter_map(|path| held(path).transpose()).collect::<Result<Vec<_>, _>>()?;
    // Where a user namespace sees no other /proc it may not mount one: before the old root is taken away.
    let proc = detached_proc()?;
    restrict(&job.root)?;
    pivot(&job.root)?;
    attach_proc(&proc)?;
    dev(&devices)?;
    sys()?;
    for (path, file) in &files {
        // Without them most commands work all the same.
        if let Err(failure) = make_file(path).and_then(|()| put(file, path)) {
            warn(failure.message);
        }
    }
    Ok(())
}

/// Keeps what this mount namespace, which must be its own, mounts and unmounts from all others.
///
/// # Errors
/// If the system refuses.
pub(crate) fn make_private() -> Result<(), Failure> {
    let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", propagation).map_err(|errno| Failure::errno("make mounts private", errno))
}

/// Holds the devices of the host that every program may count on.
///
/// # Errors
/// If one that exists cannot be taken.
pub(crate) fn hold_devices() -> Result<Devices, Failure> {
    DEVICES.into_iter().filter_map(|path| held(path).transpose()).collect()
}

/// Devices with their paths.
pub(crate) type Devices = Vec<(&'static str, OwnedFd)>;

/// Holds an object of the host's tree for later. `None` if there is none.
fn held(path: &'static str) -> Result<Option<(&'static str, OwnedFd)>, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match open_tree(CWD, path, flags) {
        Ok(tree) => Ok(Some((path, tree))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Failure::path("take from the host", path, errno)),
    }
}

/// Attaches what was held.
fn put(tree: &OwnedFd, path: &str) -> Result<(), Failure> {
    attach(tree, Path::new(path)).map_err(|errno| Failure::path("mount on", path, errno))
}

/// Makes ready what an OCI runtime needs, in this mount namespace, which must be its own: the tree, a /proc that knows
/// this namespace's processes, and a place for the bundle.
///
/// # Errors
/// The first mount that fails.
pub(super) fn stage(job: &Job, place: &str) -> Result<(), Failure> {
    make_private()?;
    restrict(&job.root)?;
    filesystem("proc", "/proc", QUIET | MountFlags::NOEXEC, c"")?;
    filesystem("tmpfs", place, QUIET, c"mode=700")
}

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Covers a directory, if it is there.
///
/// # Errors
/// If the system refuses.
pub(super) fn hide(path: &str) -> Result<(), Failure> {
    if Path::new(path).is_dir() { filesystem("tmpfs", path, QUIET, c"mode=755,size=64k") } else { Ok(()) }
}

/// Makes all that is mounted at and below a directory read-only.
///
/// # Errors
/// If the system refuses.
pub(super) fn protect(path: &str) -> Result<(), Failure> {
    let mounts = mountinfo::mounts().map_err(|error| Failure::io("mount table", &error))?;
    for mount in mounts.iter().filter(|mount| mount.point.starts_with(path)) {
        add_flags(&mount.point, MountFlags::RDONLY)
            .map_err(|errno| Failure::path("make read-only", &mount.point, errno))?;
    }
    Ok(())
}

/// Makes a tree a mount of its own in which device nodes do not work: those that do are mounted.
fn restrict(root: &Path) -> Result<(), Failure> {
    let failed = |what: &'static str| move |errno| Failure::path(what, root, errno);
    mount_bind(root, root).map_err(failed("bind mount"))?;
    add_flags(root, MountFlags::NODEV).map_err(failed("forbid devices on"))
}

/// Makes a mount, with all that is mounted below it, the root of this process and of its mount namespace.
///
/// # Errors
/// If the system refuses.
pub(crate) fn pivot(root: &Path) -> Result<(), Failure> {
    let failed = |what: &'static str| move |errno| Failure::path(what, root, errno);
    rustix::process::chdir(root).map_err(failed("enter"))?;
    // The old root comes to lie over the new one, and is taken away (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".").map_err(failed("make the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("take away the old root over"))?;
    rustix::process::chdir("/").map_err(failed("enter"))
}

/// Adds flags to a mount and keeps those that it has, which a user namespace may not take off.
pub(crate) fn add_flags(path: &Path, flags: MountFlags) -> Result<(), Errno> {
    let has = rustix::fs::statvfs(path)?.f_flag;
    let mut all = MountFlags::BIND | flags;
    for (known, flag) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        all.set(flag, all.contains(flag) || has.contains(known));
    }
    mount_remount(path, all, c"")
}

/// Mounts a new filesystem on a directory, which is made if need be.
fn filesystem(fstype: &str, path: &str, flags: MountFlags, options: &CStr) -> Result<(), Failure> {
    make_dir(path)?;
    mount(fstype, path, fstype, flags, options)
        .map_err(|errno| Failure::errno(format_args!("mount {fstype} on {}", shown(path)), errno))
}

/// A /proc of this process's namespace that has no place yet.
///
/// # Errors
/// If it cannot be mounted.
pub(crate) fn detached_proc() -> Result<OwnedFd, Failure> {
    let made =
        FsContext::open("proc").and_then(|context| context.mount(rustix::mount::MountAttrFlags::empty()));
    made.map_err(|errno| Failure::errno("mount proc", errno))
}

/// Attaches a /proc, in which what concerns the whole machine may only be read.
///
/// # Errors
/// The first mount that fails.
pub(crate) fn attach_proc(proc: &OwnedFd) -> Result<(), Failure> {
    make_dir("/proc")?;
    put(proc, "/proc")?;
    add_flags(Path::new("/proc"), MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)
        .map_err(|errno| Failure::errno("restrict /proc", errno))?;
    for path in READ_ONLY {
        if Path::new(path).exists() {
            let failed = |errno| Failure::path("make read-only", path, errno);
            mount_bind(path, path).map_err(failed)?;
            add_flags(Path::new(path), MountFlags::RDONLY).map_err(failed)?;
        }
    }
    Ok(())
}

/// Mounts a /dev with these devices, terminals of its own, and what programs share memory by.
///
/// # Errors
/// The first mount that fails.
pub(crate) fn dev(devices: &[(&'static str, OwnedFd)]) -> Result<(), Failure> {
    filesystem("tmpfs", "/dev", MountFlags::NOSUID, c"mode=755,size=64k")?;
    for (path, device) in devices {
        make_file(path)?;
        put(device, path)?;
    }
    for (link, target) in LINKS {
        symlink(target, link).map_err(|error| Failure::io(shown(link), &error))?;
    }
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    // Group 5 is who may write to a terminal (tty); a user namespace may not know it.
    filesystem("devpts", "/dev/pts", quiet, c"newinstance,ptmxmode=0666,mode=0620,gid=5")
        .or_else(|_| filesystem("devpts", "/dev/pts", quiet, c"newinstance,ptmxmode=0666,mode=0620"))?;
    filesystem("tmpfs", "/dev/shm", quiet | MountFlags::NODEV, c"mode=1777,size=65536k")?;
    for path in HIDDEN {
        if Path::new(path).exists() {
            mount_bind("/dev/null", path).map_err(|errno| Failure::path("hide", path, errno))?;
        }
    }
    Ok(())
}

/// Shows /sys to be read. A user namespace that has not its own network may not; then there is none.
fn sys() -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    make_dir("/sys")?;
    match mount("sysfs", "/sys", "sysfs", flags, c"") {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(Failure::errno("mount sysfs on /sys", errno)),
    }
}

fn make_dir(path: &str) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|error| Failure::io(format_args!("make the directory {}", shown(path)), &error))
}

/// Makes an empty file to mount on, unless there is one.
fn make_file(path: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io(format_args!("make the file {}", shown(path)), &error);
    if Path::new(path).exists() {
        return Ok(());
    }
    if let Some(parent) = Path::new(path).parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let file: std::io::Result<File> =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
    file.map(drop).map_err(failed)
}
