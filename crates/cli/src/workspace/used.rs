//! A workspace while a command runs in it: mounted before the first, unmounted after the last.

use super::{hide, mountpoints, show};
use crate::error::Failure;
use acetate_store::{InUse, Store, Workspace, is_mountpoint};
use std::path::{Path, PathBuf};

/// A workspace that is in use and can be used.
#[derive(Debug)]
pub(crate) struct Used<'a> {
    store: &'a Store,
    workspace: Workspace,
    in_use: InUse,
    path: PathBuf,
}

impl<'a> Used<'a> {
    /// Mounts a workspace unless it is mounted.
    ///
    /// # Errors
    /// If there is none, if it is being changed; those of mounting.
    pub(crate) fn begin(store: &'a Store, name: &str) -> Result<Used<'a>, Failure> {
        store.workspace(name)?;
        let _mounting = store.mounting(name)?;
        let (workspace, in_use) = store.use_workspace(name)?;
        let path = show(store, &workspace, None)?.path;
        mountpoints::note(store, &workspace, &path)?;
        Ok(Used { store, workspace, in_use, path })
    }

    /// Its record.
    pub(crate) fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Where its files are.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts it unless somebody else uses it, or it shall stay mounted.
    ///
    /// # Errors
    /// Those of unmounting.
    pub(crate) fn end(self) -> Result<(), Failure> {
        drop(self.in_use);
        release(self.store, &self.workspace.name)
    }
}

/// Unmounts a workspace and takes away what was made for commands, unless somebody uses it or it shall stay mounted. So
/// ends the last command, and what a killed one has left.
///
/// # Errors
/// Those of unmounting; if there is no such workspace.
pub(crate) fn release(store: &Store, name: &str) -> Result<(), Failure> {
    let workspace = store.workspace(name)?;
    let _mounting = store.mounting(name)?;
    if store.is_pinned(&workspace) {
        return Ok(());
    }
    let Some(_alone) = store.try_alone(name)? else { return Ok(()) };
    let point = store.mountpoint(&workspace);
    if is_mountpoint(&point) {
        hide(&point)?;
    }
    mountpoints::clear(store, &workspace)
}
