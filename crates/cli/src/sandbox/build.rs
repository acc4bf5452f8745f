//! Makes the command's tree, by mounting, in this process's mount namespace.

use super::Job;
use super::layout::{Layout, Part, Wish, plan};
use super::look::{Live, mounts};
use crate::daemon::{self, unmount};
use crate::error::Failure;
use crate::mountinfo;
use crate::out::{cause, note, shown, warn};
use crate::run::rootfs::{Devices, add_flags, hold_devices, make_private};
use crate::store::chain;
use acetate_store::driver::DriverName;
use acetate_store::driver::kernel::{self, Stack};
use acetate_store::tries::OpenTry;
use acetate_sys::fscontext::attach;
use acetate_sys::mount::{Extent, copy, read_only_copy};
use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a daemon has to write what it holds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A tree that has been made.
#[derive(Debug)]
pub(super) struct Built {
    /// The live tree has a /proc and a /dev, so the command's has, too.
    pub(super) has_proc: bool,
    pub(super) has_dev: bool,
    /// Without a /proc of its own the command sees the live one, and can only read it.
    pub(super) keeps_proc: bool,
    pub(super) devices: Devices,
    allowed: Vec<(PathBuf, OwnedFd)>,
    /// Mounts that a daemon serves.
    served: Vec<PathBuf>,
}

/// Makes the tree at the try's root.
///
/// # Errors
/// If the target cannot be covered. Parts of it that cannot be are read-only, and the user is told.
pub(super) fn build(job: &Job, open: &mut OpenTry<'_>) -> Result<Built, Failure> {
    make_private()?;
    let locked = match copy(&job.target, Extent::Alone) {
        Ok(_) => false,
        Err(Errno::INVAL) => true,
        Err(errno) => return Err(Failure::path("cover", &job.target, errno)),
    };
    let own = own_dirs(job);
    let wish = Wish { target: &job.target, store: &job.store, locked, own: &own };
    let layout = plan(wish, &mounts()?, &Live);
    if !layout.parts.iter().any(|part| matches!(part, Part::Cover(_))) {
        return Err(Failure::new(
            format_args!("{}: nothing in it can be covered", shown(&job.target)),
            "name a directory of files with --dir",
        ));
    }
    let is_dir = |path| Path::new(path).is_dir();
    let mut built = Built {
        has_proc: is_dir("/proc"),
        has_dev: is_dir("/dev"),
        keeps_proc: layout.base,
        devices: hold_devices()?,
        allowed: hold_allowed(job)?,
        served: Vec::new(),
    };
    if layout.base {
        let whole = read_only_copy(Path::new("/"), Extent::Whole).map_err(|errno| {
            Failure::errno("copy the tree of mounts", errno).hint("this needs Linux 5.12")
        })?;
        attach(&whole, &open.root()).map_err(|errno| Failure::errno("attach the tree of mounts", errno))?;
    }
    for part in &layout.parts {
        make(job, open, &layout, part, &mut built)?;
    }
    tell_uncovered(open);
    hide(&job.store, open)?;
    Ok(built)
}

/// The topmost directories of the user's own on the way to where the command is most likely to work.
fn own_dirs(job: &Job) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::geteuid().as_raw();
    let is_own =
        |dir: &&Path| std::fs::symlink_metadata(dir).is_ok_and(|stat| stat.is_dir() && stat.uid() == user);
    let home = std::env::var_os("HOME").and_then(|home| std::fs::canonicalize(home).ok());
    let ends = [Some(job.workdir.clone()), home];
    let mut own: Vec<PathBuf> = ends
        .into_iter()
        .flatten()
        .filter_map(|end| end.ancestors().filter(is_own).last().map(Path::to_owned))
        .collect();
    own.sort();
    own.dedup();
    own
}

/// Says what the command cannot change, one line a reason.
fn tell_uncovered(open: &OpenTry<'_>) {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for (point, why) in &open.tried().uncovered {
        let point = shown(point.path()).to_string();
        match reasons.iter_mut().find(|(known, _)| known == why) {
            Some((_, points)) => points.push(point),
            None => reasons.push((why, vec![point])),
        }
    }
    for (why, points) in reasons {
        note(format_args!("read-only for the command: {}: {why}", points.join(", ")));
    }
}

fn make(
    job: &Job,
    open: &mut OpenTry<'_>,
    layout: &Layout,
    part: &Part,
    built: &mut Built,
) -> Result<(), Failure> {
    let point = part.path();
    let place = inside(open, point);
    if !point.exists() && point != job.target {
        // Unmounted and removed since the mounts were listed.
        return Ok(());
    }
    match part {
        Part::Cover(_) => {
            let Err(why) = cover(job, open, point, true, built) else { return Ok(()) };
            if point == job.target {
                return Err(Failure::new(
                    format_args!("{}: cannot be covered: {why}", shown(point)),
                    "`acetate driver` tells what works where the store is; --store names another place",
                ));
            }
            open.uncovered(point, why);
            if layout.base { Ok(()) } else { read_only(point, &place) }
        }
        Part::Scratch(_) => {
            let covers = |part: &Part| matches!(part, Part::Cover(dir) if dir.starts_with(point));
            if cover(job, open, point, false, built).is_ok() || layout.parts.iter().any(covers) {
                return Ok(());
            }
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount("tmpfs", &place, "tmpfs", flags, c"mode=1777")
                .map_err(|errno| Failure::path("mount tmpfs on", point, errno))
        }
        Part::ReadOnly(_) => read_only(point, &place),
        Part::Uncovered(_, why) => {
            open.uncovered(point, why.clone());
            if layout.base { Ok(()) } else { read_only(point, &place) }
        }
    }
}

/// Where a path of the live tree is in the command's.
fn inside(open: &OpenTry<'_>, point: &Path) -> PathBuf {
    let below = point.strip_prefix("/").unwrap_or(point);
    if below.as_os_str().is_empty() { open.root() } else { open.root().join(below) }
}

fn read_only(point: &Path, place: &Path) -> Result<(), Failure> {
    let shows = |extent| read_only_copy(point, extent).and_then(|copy| attach(&copy, place));
    let shown_there = match shows(Extent::Alone) {
        // What is mounted below cannot be taken off.
        Err(Errno::INVAL) => shows(Extent::Whole),
        other => other,
    };
    match shown_there {
        // Unmounted and removed since the mounts were listed.
        Err(Errno::NOENT) => Ok(()),
        other => other.map_err(|errno| Failure::path("show read-only", point, errno)),
    }
}

/// Mounts an overlay over a directory: the kernel's, or ours. The error says why none works.
fn cover(
    job: &Job,
    open: &mut OpenTry<'_>,
    point: &Path,
    counts: bool,
    built: &mut Built,
) -> Result<(), String> {
    let place = inside(open, point);
    let mut reasons = Vec::new();
    for driver in [DriverName::Kernel, DriverName::Fuse] {
        if job.driver.is_some_and(|wanted| wanted != driver) {
            continue;
        }
        let (upper, work) = open.make_cover(point, driver, counts).map_err(|error| chain(&error))?;
        let result = match driver {
            DriverName::Kernel => by_kernel(open, point, (&upper, &work), &place),
            _ => {
                by_daemon(open, point, (&upper, &work), &place).inspect(|()| built.served.push(place.clone()))
            }
        };
        let limited = match result {
            Err(why) => Err(why),
            Ok(()) => add_flags(&place, flags_of(point)).map_err(|errno| {
                // It would allow more than the live tree does.
                let _why_matters_more = unmount::unmount(&place, unmount::Unmount::Detach);
                format!("its flags: {}", cause(errno))
            }),
        };
        match limited {
            Ok(()) => return Ok(()),
            Err(why) => reasons.push(format!("{driver}: {why}")),
        }
        open.drop_cover().map_err(|error| chain(&error))?;
    }
    Err(reasons.join("; "))
}

/// What the live mount forbids, and device nodes.
fn flags_of(point: &Path) -> MountFlags {
    let mut flags = MountFlags::NODEV;
    if let Ok(live) = rustix::fs::statvfs(point) {
        flags.set(MountFlags::NOSUID, live.f_flag.contains(StatVfsMountFlags::NOSUID));
        flags.set(MountFlags::NOEXEC, live.f_flag.contains(StatVfsMountFlags::NOEXEC));
    }
    flags
}

fn by_kernel(open: &OpenTry<'_>, point: &Path, upper: (&Path, &Path), place: &Path) -> Result<(), String> {
    let lowers = [point.to_owned()];
    let stack = Stack { lowers: &lowers, upper: Some(upper), userxattr: open.userxattr(), ..Stack::PLAIN };
    kernel::mount(&stack, place).map_err(|error| chain(&error))
}

fn by_daemon(
    open: &OpenTry<'_>,
    point: &Path,
    (upper, work): (&Path, &Path),
    place: &Path,
) -> Result<(), String> {
    let mut arguments: Vec<OsString> = vec!["mount".into(), "--with-parent".into()];
    for (flag, dir) in [("--lower", point), ("--upper", upper), ("--work", work)] {
        arguments.extend([flag.into(), dir.into()]);
    }
    // It ends with the command that is tried.
    arguments.extend(["-o".into(), "takeover=off".into()]);
    if open.userxattr() {
        arguments.extend(["-o".into(), "userxattr".into()]);
    }
    arguments.extend([format!("try-{}", open.tried().name).into(), place.into()]);
    match daemon::start_quietly(arguments.into_iter()) {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(why),
        Err(failure) => Err(failure.message),
    }
}

/// Covers the store with an empty directory: its writable layers must not be reached through the overlay of them.
fn hide(store: &Path, open: &OpenTry<'_>) -> Result<(), Failure> {
    let place = inside(open, store);
    if !place.is_dir() {
        return Ok(());
    }
    let failed = |errno| Failure::path("hide the store", store, errno);
    attach(&read_only_copy(&open.empty(), Extent::Alone).map_err(failed)?, &place).map_err(failed)
}

/// Takes what the command may really change, as it is now.
fn hold_allowed(job: &Job) -> Result<Vec<(PathBuf, OwnedFd)>, Failure> {
    let hold = |path: &PathBuf| {
        let held = copy(path, Extent::Whole).map_err(|errno| Failure::path("allow", path, errno))?;
        Ok((path.clone(), held))
    };
    job.allowed.iter().map(hold).collect()
}

impl Built {
    /// Lets the command change what it is allowed to; in the tree that has been entered.
    pub(super) fn allow(&self) -> Result<(), Failure> {
        for (path, held) in &self.allowed {
            if path.starts_with("/dev") && !path.exists() {
                // The command's own /dev has no more than what every program needs.
                let made = if rustix::fs::fstat(held)
                    .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
                {
                    std::fs::create_dir_all(path)
                } else {
                    path.parent()
                        .map_or(Ok(()), std::fs::create_dir_all)
                        .and_then(|()| std::fs::write(path, ""))
                };
                made.map_err(|error| Failure::io(format_args!("allow: {}", shown(path)), &error))?;
            }
            attach(held, path).map_err(|errno| Failure::path("allow", path, errno))?;
        }
        Ok(())
    }

    /// Ends the daemons, once nothing uses their mounts any more.
    pub(super) fn end(&self) {
        for place in self.served.iter().rev() {
            let mount = mountinfo::at(place).ok().flatten().filter(mountinfo::Mount::is_ours);
            let daemon = mount.and_then(|mount| crate::record::find(mount.device));
            if let Err(errno) = unmount::unmount(place, unmount::Unmount::Detach) {
                warn(format_args!("unmount: {}: {}", shown(place), cause(errno)));
            }
            if daemon.is_some_and(|daemon| !daemon.wait_until_gone(PATIENCE)) {
                warn(format_args!("{}: its daemon does not end", shown(place)));
            }
        }
    }
}
