//! `acetate image push`.

use super::export::Encoding;
use super::pull::RegistryArgs;
use crate::Exit;
use crate::error::Failure;
use crate::out::answer_line;
use crate::progress::Bars;
use acetate_store::Store;

/// Send an image to a registry
///
/// Layers that the registry has are not sent. Prints the digest of the manifest.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// A name, an id or the begin of one
    image: String,
    /// Where to [default: what the image is called]
    reference: Option<String>,
    /// How layers are compressed that the registry does not have
    #[arg(long, value_enum, default_value = "gzip")]
    compression: Encoding,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) fn run(store: &Store, args: &PushArgs) -> Result<Exit, Failure> {
    let image = store.image(&args.image)?;
    let registry = args.registry.open(args.reference.as_ref().unwrap_or(&args.image))?;
    let digest = store.push(&image, &registry, args.compression.into(), &Bars::new())?;
    answer_line(digest)?;
    Ok(Exit::Done)
}
