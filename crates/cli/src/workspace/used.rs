//! A workspace while a command runs in it: mounted before the first, unmounted after the last.

use super::{hide, show};
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
        let _mounting = self.store.mounting(&self.workspace.name)?;
        drop(self.in_use);
        let Some(_alone) = self.store.try_alone(&self.workspace.name)? else { return Ok(()) };
        let point = self.store.mountpoint(&self.workspace);
        if self.store.is_pinned(&self.workspace) || !is_mountpoint(&point) {
            return Ok(());
        }
        hide(&point)
    }
}
