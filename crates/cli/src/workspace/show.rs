//! Mounting a workspace where it can be used, and taking that away again.

use crate::daemon::{self, unmount};
use crate::error::Failure;
use crate::mountinfo;
use crate::out::{cause, shown};
use acetate_store::driver::DriverName;
use acetate_store::driver::kernel::{self, Stack};
use acetate_store::{Plan, Store, Workspace, is_mountpoint};
use rustix::io::Errno;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A workspace that can be used.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Where its files are.
    pub(crate) path: PathBuf,
}

/// Shows a workspace at `target`, or where the store keeps its mounts. A tree of its own needs no mount for the latter.
///
/// # Errors
/// If something else is mounted at `target`; those of mounting.
pub(crate) fn show(store: &Store, workspace: &Workspace, target: Option<&Path>) -> Result<Shown, Failure> {
    let plan = store.plan(workspace);
    if let (Some(tree), None) = (&plan.tree, target) {
        return Ok(Shown { path: tree.clone() });
    }
    let point = target.map_or_else(|| store.mountpoint(workspace), Path::to_owned);
    if is_mountpoint(&point) {
        if target.is_some() {
            return Err(Failure::new(
                format_args!("mount point: {}: something is mounted there", shown(&point)),
                "choose another directory, or unmount what is there",
            ));
        }
        if !is_dead(&point) {
            return Ok(Shown { path: point });
        }
        // What a killed daemon has left.
        unmount::unmount(&point, unmount::Unmount::Detach)
            .map_err(|errno| Failure::path("unmount", &point, errno))?;
    }
    if target.is_none() {
        std::fs::create_dir_all(&point).map_err(|error| Failure::io(shown(&point), &error))?;
    }
    mount(&plan, &workspace.name, &point)?;
    Ok(Shown { path: point })
}

/// Whether the daemon of a mount is gone.
fn is_dead(point: &Path) -> bool {
    rustix::fs::stat(point).err() == Some(Errno::NOTCONN)
}

fn mount(plan: &Plan, name: &str, point: &Path) -> Result<(), Failure> {
    if let Some(tree) = &plan.tree {
        return rustix::mount::mount_bind(tree, point)
            .map_err(|errno| Failure::path("bind mount", point, errno).hint("only root may do this"));
    }
    let upper = plan.upper.as_ref().map(|(upper, work)| (upper.as_path(), work.as_path()));
    if plan.driver == DriverName::Kernel {
        let stack = Stack { lowers: &plan.lowers, upper, userxattr: plan.userxattr, ..Stack::PLAIN };
        return kernel::mount(&stack, point)
            .map_err(|error| Failure::new(crate::store::chain(&error), error.hint()));
    }
    let mut arguments: Vec<OsString> = vec!["mount".into()];
    for lower in &plan.lowers {
        arguments.extend(["--lower".into(), lower.into()]);
    }
    if let Some((upper, work)) = upper {
        arguments.extend(["--upper".into(), upper.into(), "--work".into(), work.into()]);
    }
    // The workspace is shown again by whoever needs it.
    arguments.extend(["-o".into(), "takeover=off".into()]);
    if plan.userxattr {
        arguments.extend(["-o".into(), "userxattr".into()]);
    }
    arguments.extend([format!("workspace-{name}").into(), point.into()]);
    daemon::start(arguments.into_iter())
}

/// Unmounts what [`show`] has mounted.
///
/// # Errors
/// If it is in use, or not ours to unmount.
pub(crate) fn hide(point: &Path) -> Result<(), Failure> {
    let mounted = mountinfo::at(point).map_err(|error| Failure::io("mount table", &error))?;
    let daemon =
        mounted.filter(mountinfo::Mount::is_ours).and_then(|mount| crate::record::find(mount.device));
    unmount::unmount(point, unmount::Unmount::WhenIdle).map_err(|errno| {
        let failure = Failure::new(
            format_args!("unmount: {}: {}", shown(point), cause(errno)),
            "close what uses it (fuser -vm shows who), and try again",
        );
        if errno == Errno::BUSY { failure } else { Failure { hint: None, ..failure } }
    })?;
    if let Some(daemon) = daemon {
        // It still has its hands on the layers for a moment.
        daemon.wait_until_gone(std::time::Duration::from_secs(60));
    }
    Ok(())
}
