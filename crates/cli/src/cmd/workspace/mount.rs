//! `acetate workspace mount` and `umount`.

use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_line, exact};
use crate::workspace::{hide, release, show};
use acetate_store::{Store, is_mountpoint};

/// Mount a workspace and print where it is
///
/// It stays mounted until `acetate workspace umount`. Exit status: 0 mounted, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct MountArgs {
    /// Which one
    name: String,
}

/// Unmount a workspace
///
/// Exit status: 0 it is not mounted any more, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct UmountArgs {
    /// Which one
    name: String,
}

pub(super) fn mount(store: &Store, args: &MountArgs) -> Result<Exit, Failure> {
    store.workspace(&args.name)?;
    let _mounting = store.mounting(&args.name)?;
    let (workspace, in_use) = store.use_workspace(&args.name)?;
    let shown = show(store, &workspace, None)?;
    // From here on the mount itself says that it is in use; this keeps the end of a command from taking it away.
    store.pin(&workspace, true)?;
    drop(in_use);
    answer_line(exact(&shown.path))?;
    Ok(Exit::Done)
}

pub(super) fn umount(store: &Store, args: &UmountArgs) -> Result<Exit, Failure> {
    let workspace = store.workspace(&args.name)?;
    let mounting = store.mounting(&args.name)?;
    store.pin(&workspace, false)?;
    let point = store.mountpoint(&workspace);
    if is_mountpoint(&point) {
        hide(&point)?;
    }
    drop(mounting);
    release(store, &args.name)?;
    Ok(Exit::Done)
}
