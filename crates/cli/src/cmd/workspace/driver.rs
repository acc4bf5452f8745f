//! `acetate workspace driver`.

use crate::Exit;
use crate::error::Failure;
use crate::out::answer_line;
use crate::workspace::release;
use acetate_store::Store;
use acetate_store::driver::DriverName;

/// Tell by which driver a workspace is shown, or show it by another one
///
/// kernel and fuse show the same files, so either can go on with what the other has made; so do reflink and copy. What
/// cannot go on as it is is refused, with the way to convert it. `acetate driver` tells what works here.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct DriverArgs {
    /// Which one
    name: String,
    /// The driver from now on: kernel, fuse, btrfs, reflink or copy
    driver: Option<DriverName>,
}

pub(super) fn run(store: &Store, args: &DriverArgs) -> Result<Exit, Failure> {
    let workspace = match args.driver {
        None => store.workspace(&args.name)?,
        Some(driver) => {
            release(store, &args.name)?;
            store.set_driver(&args.name, driver)?
        }
    };
    answer_line(workspace.driver)?;
    Ok(Exit::Done)
}
