//! `--driver`: mounts that the kernel's overlayfs serves, with the checks and the messages of our own.
//!
//! The layers are the same either way, so one driver goes on where the other has stopped.

use super::{Checked, Request, Target, with_work};
use crate::error::Failure;
use crate::options::{self, Compat, Fsync, Mounter, Options, RedirectDir, Resolved, Uuid, Verity, Xino};
use crate::out::shown;
use acetate_store::driver::kernel::{self, MountError, Stack};
use rustix::fs::getxattr;
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Who serves a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Driver {
    /// The kernel's overlayfs where it can, else a daemon
    Auto,
    /// A daemon
    Fuse,
    /// The kernel's overlayfs
    Kernel,
}

/// What came of an attempt to have the kernel serve a mount.
#[derive(Debug)]
pub(crate) enum ByKernel {
    /// It is mounted there.
    Mounted(PathBuf),
    /// The kernel cannot do it here; a daemon may.
    Refused(Failure),
}

/// Checks what can be checked beforehand, and lets the kernel mount.
///
/// # Errors
/// A check that fails: no driver could do it.
pub(crate) fn by_kernel(request: &Request) -> Result<ByKernel, Failure> {
    let options = &request.parsed.options;
    let target = Target::find(&request.target)?;
    if let Some(option) = only_ours(options) {
        return Ok(ByKernel::Refused(Failure::new(
            format_args!("option {option}: the kernel's overlayfs has no such option"),
            "leave it out, or mount with --driver fuse",
        )));
    }
    let is_mounted = |result: &Result<ByKernel, Failure>| matches!(result, Ok(ByKernel::Mounted(_)));
    with_work(request, is_mounted, || mount(request, &target))
}

fn mount(request: &Request, target: &Target) -> Result<ByKernel, Failure> {
    let checked = Checked::new(request)?;
    let Checked { mounter, resolved, .. } = &checked;
    if let Some((upper, _)) = &checked.writable
        && !stores_attributes(&upper.path, *mounter)
    {
        return Ok(ByKernel::Refused(Failure::new(
            format_args!(
                "upper layer: {}: no extended attributes there: what is hidden is kept in files that the kernel does \
                 not read",
                shown(&upper.path)
            ),
            "mount with --driver fuse",
        )));
    }
    // Until the kernel has it mounted; then the mount table keeps others away.
    let _locks = checked.lock()?;
    let options = &request.parsed.options;
    let userxattr = *mounter == Mounter::User || options.userxattr;
    let settings = settings(options, resolved, userxattr);
    let paths = |paths: &[OsString]| -> Vec<PathBuf> { paths.iter().map(PathBuf::from).collect() };
    let upper = options.upper.as_deref().map(Path::new).zip(options.work.as_deref().map(Path::new));
    let source = options.fsname.as_ref().or(request.source.as_ref());
    let stack = Stack {
        lowers: &paths(&options.lowers),
        upper,
        userxattr,
        volatile: resolved.fsync == Fsync::Volatile,
        data: &paths(&options.data),
        options: &settings,
        flags: options.flags.0,
        source: source.map_or(Stack::PLAIN.source, |name| name.as_bytes()),
    };
    match kernel::mount(&stack, &target.path) {
        Ok(()) => Ok(ByKernel::Mounted(target.path.clone())),
        Err(error) => Ok(ByKernel::Refused(refused(&error))),
    }
}

fn refused(error: &MountError) -> Failure {
    let failure = Failure::new(crate::store::chain(error), error.hint());
    match error {
        MountError::Option { .. } | MountError::Stack { .. } | MountError::Layer { .. } => {
            failure.hint(format_args!("{}; or mount with --driver fuse", error.hint()))
        }
        _ => failure,
    }
}

/// Whether there can be marks in an upper layer. Where there can be none, our mounts hide by files.
fn stores_attributes(upper: &Path, mounter: Mounter) -> bool {
    let names: &[&str] = match mounter {
        Mounter::Admin => &["trusted.overlay.opaque", "user.overlay.opaque"],
        Mounter::User => &["user.overlay.opaque"],
    };
    let mut value = [0; 16];
    names.iter().any(|name| getxattr(upper, *name, &mut value) != Err(Errno::OPNOTSUPP))
}

/// An option that only our own server knows.
fn only_ours(options: &Options) -> Option<&'static str> {
    let Options { owners, static_nlink, noacl, ino32, contexts, oci_whiteouts, foreign_opaque, .. } = options;
    let ours = [
        (options.compat == Some(Compat::Extended), "compat=extended"),
        (*owners != options::Owners::default(), "uidmapping and its like"),
        (*static_nlink, "static_nlink"),
        (*noacl, "noacl"),
        (*ino32, "ino32_t"),
        (!contexts.is_empty(), "context"),
        (oci_whiteouts.is_some(), "oci_whiteouts"),
        (*foreign_opaque, "foreign_opaque"),
    ];
    ours.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
}

/// The kernel's options, so that the module's parameters decide nothing. What older kernels do not know is given only if
/// it was asked for.
fn settings(options: &Options, resolved: &Resolved, userxattr: bool) -> Vec<(&'static str, &'static str)> {
    let switch = |on| if on { "on" } else { "off" };
    // The kernel follows no redirects that users may have written.
    let redirect_dir = if userxattr { RedirectDir::NoFollow } else { resolved.redirect_dir };
    let mut settings = vec![
        ("redirect_dir", word(redirect_dir, RedirectDir::ALL)),
        ("index", switch(resolved.index)),
        ("metacopy", switch(resolved.metacopy)),
        ("nfs_export", switch(resolved.nfs_export)),
        ("xino", word(resolved.xino, Xino::ALL)),
    ];
    if options.uuid.is_some() {
        settings.push(("uuid", word(resolved.uuid, Uuid::ALL)));
    }
    if options.verity.is_some() {
        settings.push(("verity", word(resolved.verity, Verity::ALL)));
    }
    if resolved.fsync == Fsync::Strict {
        settings.push(("fsync", "strict"));
    }
    settings
}

/// The word for a value.
fn word<T: PartialEq + Copy>(value: T, all: &[(T, &'static str)]) -> &'static str {
    all.iter().find(|(each, _)| *each == value).map_or("", |(_, word)| word)
}
