//! `remount`: new flags for a mount that is there (mount(8), "remount"). Layers and what is made of them stay.

use super::mount_point;
use crate::error::Failure;
use crate::layers::path_of;
use crate::mountinfo;
use crate::options::{self, Options, Unknown};
use crate::out::shown;
use crate::record::{self, Record};
use rustix::io::Errno;
use rustix::mount::mount_remount;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What flags are that the options do not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// As they are now.
    Kept,
    /// Not set: mount(8) has put those to be kept among the options.
    Cleared,
}

/// Gives the overlay at `target` the flags that the option texts name.
///
/// # Errors
/// Nothing of ours is mounted there; an option other than a flag that differs from how it was mounted; `rw` for what
/// was mounted read-only; the caller may not.
pub(crate) fn remount(target: &Path, given: &[OsString], rest: Rest) -> Result<(), Failure> {
    let point = mount_point(target).map_err(|error| Failure::io("mount point", &error))?;
    let table = |error: std::io::Error| Failure::io("mount table", &error);
    let mount = mountinfo::at(&point).map_err(table)?.filter(mountinfo::Mount::is_ours).ok_or_else(|| {
        Failure::new(
            format_args!("remount: {}: no overlay of acetate is mounted there", shown(&point)),
            "mount it first: the same command without `remount`",
        )
    })?;
    let asked = options::parse(given, Unknown::Refuse)?.options;
    let now = Some(mount.flags.clone()).filter(|_| rest == Rest::Kept);
    let with_rest: Vec<OsString> = now.into_iter().chain(given.iter().cloned()).collect();
    let flags = options::parse(&with_rest, Unknown::Refuse)?.options.flags;
    let found = record::find(mount.device).ok_or_else(|| {
        Failure::new(
            format_args!(
                "remount: {}: its daemon is gone, or keeps no record that we may read",
                shown(&point)
            ),
            "unmount it and mount it again",
        )
    })?;
    check(&asked, &as_mounted(&found.record)?, flags.read_only())?;
    // The kernel keeps the generic flags in two places; both are those that remounting sets.
    mount_remount(&point, flags.0, "").map_err(|errno| {
        let failure = Failure::path("remount", &point, errno);
        match errno {
            Errno::BUSY => failure.hint("files are open for writing (fuser -vm shows whose)"),
            Errno::PERM => failure.hint("only root may change a mount: unmount it, and mount it again"),
            _ => failure,
        }
    })
}

/// The options that a daemon mounted with, with the layers as they are called from everywhere.
fn as_mounted(record: &Record) -> Result<Options, Failure> {
    let mut options = options::parse(&[path_of(&record.options)], Unknown::Refuse)?.options;
    let paths: Vec<OsString> = record.lower.iter().map(|text| path_of(text).into()).collect();
    let (lowers, data) = paths.split_at(options.lowers.len().min(paths.len()));
    (options.lowers, options.data) = (lowers.to_vec(), data.to_vec());
    options.upper = record.upper.as_deref().map(|text| path_of(text).into());
    options.work = record.work.as_deref().map(|text| path_of(text).into());
    Ok(options)
}

/// Whether what is asked for can be had without mounting anew.
fn check(asked: &Options, mounted: &Options, read_only: bool) -> Result<(), Failure> {
    let fixed = |option: &str| {
        Failure::new(
            format_args!("remount: {option} cannot be changed while mounted"),
            "unmount it and mount it again with the new options",
        )
    };
    if let Some(option) = asked.differs_from(mounted, same_place) {
        return Err(fixed(option));
    }
    if read_only {
        return Ok(());
    }
    match &mounted.upper {
        None => Err(Failure::new(
            "remount: rw: it has no upper layer",
            "mount it again with upperdir= and workdir=",
        )),
        // It may not even have looked for what an upper layer has to have.
        Some(_) if mounted.flags.read_only() => Err(fixed("ro, with which it was mounted,")),
        Some(_) => Ok(()),
    }
}

/// Whether two names are of one directory.
fn same_place(one: &OsStr, other: &OsStr) -> bool {
    one == other
        || matches!((std::fs::canonicalize(one), std::fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}
