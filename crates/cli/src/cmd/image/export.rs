//! `acetate image export`.

use crate::Exit;
use crate::error::Failure;
use crate::progress::Bars;
use acetate_image::Compression;
use acetate_store::{Form, Store};
use std::path::PathBuf;

/// Write an image to a file or directory that other tools read
///
/// Exit status: 0 written, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// A name, an id or the begin of one
    image: String,
    /// Where to write
    target: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value = "oci-archive")]
    format: Kind,
    /// How layers of OCI layouts are compressed
    #[arg(long, value_enum, default_value = "gzip")]
    compression: Encoding,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// An OCI layout in a directory
    OciDir,
    /// An OCI layout in an archive
    OciArchive,
    /// What docker load and podman load read
    DockerArchive,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Encoding {
    /// Read by all tools
    Gzip,
    /// Smaller and faster
    Zstd,
    /// Not at all
    None,
}

impl From<Encoding> for Compression {
    fn from(encoding: Encoding) -> Compression {
        match encoding {
            Encoding::Gzip => Compression::Gzip,
            Encoding::Zstd => Compression::Zstd,
            Encoding::None => Compression::None,
        }
    }
}

pub(super) fn run(store: &Store, args: &ExportArgs) -> Result<Exit, Failure> {
    let image = store.image(&args.image)?;
    let form = match args.format {
        Kind::OciDir => Form::OciDir,
        Kind::OciArchive => Form::OciArchive,
        Kind::DockerArchive => Form::DockerArchive,
    };
    store.export(&image, &image.names, form, args.compression.into(), &args.target, &Bars::new())?;
    Ok(Exit::Done)
}
