//! `acetate image remove`.

use crate::Exit;
use crate::error::Failure;
use crate::out::note;
use acetate_store::{Store, full_name};

/// Remove images
///
/// Layers that no other image and no workspace needs go at once, unless another command is at work; then the next
/// `acetate image gc` removes them. Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Names, ids or the begins of ids
    #[arg(required = true)]
    images: Vec<String>,
    /// Only take these names away, and keep the images
    #[arg(long)]
    untag: bool,
    /// Remove no layers
    #[arg(long)]
    no_gc: bool,
}

pub(super) fn run(store: &Store, args: &RemoveArgs) -> Result<Exit, Failure> {
    {
        let _lock = store.shared()?;
        for wanted in &args.images {
            let image = store.image(wanted)?;
            if args.untag {
                if !store.untag(&full_name(wanted)?)? {
                    let hint = "`acetate image list` shows the names there are";
                    return Err(Failure::new(format_args!("{wanted:?} is no name"), hint));
                }
            } else {
                store.remove_image(&image)?;
            }
        }
    }
    if args.untag || args.no_gc {
        return Ok(Exit::Done);
    }
    match store.gc(false) {
        Err(acetate_store::Error::Busy { .. }) => {
            note("layers were kept, because another command is at work; `acetate image gc` removes them");
        }
        other => drop(other?),
    }
    Ok(Exit::Done)
}
