//! `acetate workspace reset` and `remove`.

use crate::Exit;
use crate::error::Failure;
use crate::workspace::release;
use acetate_store::Store;

/// Throw away all changes of a workspace
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ResetArgs {
    /// Which one
    name: String,
}

/// Remove workspaces with all their changes
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Which ones
    #[arg(required = true)]
    names: Vec<String>,
}

pub(super) fn reset(store: &Store, args: &ResetArgs) -> Result<Exit, Failure> {
    release(store, &args.name)?;
    store.reset_workspace(&args.name)?;
    Ok(Exit::Done)
}

pub(super) fn remove(store: &Store, args: &RemoveArgs) -> Result<Exit, Failure> {
    for name in &args.names {
        release(store, name)?;
        store.remove_workspace(name)?;
    }
    Ok(Exit::Done)
}
