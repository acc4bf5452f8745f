//! `acetate image tag`.

use crate::Exit;
use crate::error::Failure;
use acetate_store::Store;

/// Give an image another name
///
/// An image that had the name before loses it. Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct TagArgs {
    /// A name, an id or the begin of one
    image: String,
    /// The name; without a tag it gets `:latest`
    name: String,
}

pub(super) fn run(store: &Store, args: &TagArgs) -> Result<Exit, Failure> {
    let _lock = store.shared()?;
    let image = store.image(&args.image)?;
    store.tag(&image.id, &args.name)?;
    Ok(Exit::Done)
}
