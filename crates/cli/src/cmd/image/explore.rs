//! `acetate image explore`.

use crate::Exit;
use crate::error::Failure;
use crate::look::{Picture, explore};
use acetate_store::Store;

/// Explore the layers of an image on the whole terminal
///
/// Layers left, files right: which layer each file comes from, what each layer adds, changes, deletes and wastes. The
/// keys are on the screen; ? lists all of them.
///
/// Exit status: 0 done, 2 failed, 128 and the number of the signal that ended it.
#[derive(Debug, clap::Args)]
pub(crate) struct ExploreArgs {
    /// A name, an id or the begin of one
    image: String,
}

pub(super) fn run(store: &Store, args: &ExploreArgs) -> Result<Exit, Failure> {
    let picture = Picture::of_image(store, &store.image(&args.image)?)?;
    explore::run(&picture)
}
