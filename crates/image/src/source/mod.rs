//! Images as files: OCI layouts, docker archives, and trees that become images.

mod blobs;
mod describe;
mod docker;
mod oci;

pub use blobs::Blobs;
pub use describe::{Description, Part, Platform, default_config, diff_ids};
pub(crate) use oci::blob_path;
pub use oci::{Document, choose, parts};

use crate::compression::decoder;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Something that images can be imported from.
#[derive(Debug)]
pub enum Input {
    /// An OCI image layout, as a directory or in a tar archive (image-spec, "Image Layout").
    Oci(Blobs),
    /// What `docker save` and `podman save` write.
    Docker(Blobs),
    /// The archive of a root directory, which becomes the only layer.
    RootArchive(PathBuf),
    /// A directory, which becomes the only layer.
    Directory(PathBuf),
}

/// The kinds of input, as people name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// [`Input::Oci`]
    Oci,
    /// [`Input::Docker`]
    Docker,
    /// [`Input::RootArchive`] or [`Input::Directory`]
    Root,
}

impl Input {
    /// Opens what is at `path`; what it is follows from its content unless `format` says so.
    ///
    /// # Errors
    /// Those of reading; [`Error::Missing`] if it is not what `format` says.
    pub fn open(path: &Path, format: Option<Format>) -> Result<Input> {
        if std::fs::metadata(path)?.is_dir() {
            let layout = path.join("oci-layout").exists() && path.join("index.json").exists();
            return match format {
                Some(Format::Oci) => Ok(Input::Oci(Blobs::dir(path))),
                None if layout => Ok(Input::Oci(Blobs::dir(path))),
                Some(Format::Docker) => Ok(Input::Docker(Blobs::dir(path))),
                _ => Ok(Input::Directory(path.to_owned())),
            };
        }
        if format == Some(Format::Root) {
            return Ok(Input::RootArchive(path.to_owned()));
        }
        let blobs = Blobs::archive(File::open(path)?)?;
        let (docker, oci) = (blobs.has("manifest.json"), blobs.has("index.json") && blobs.has("oci-layout"));
        match format {
            Some(Format::Docker) | None if docker => Ok(Input::Docker(blobs)),
            Some(Format::Oci) | None if oci => Ok(Input::Oci(blobs)),
            Some(Format::Docker) => Err(Error::Missing("manifest.json".into())),
            Some(Format::Oci) => Err(Error::Missing("index.json".into())),
            _ => Ok(Input::RootArchive(path.to_owned())),
        }
    }

    /// The images that it holds, those for other platforms left out. A tree holds none until it has become one.
    ///
    /// # Errors
    /// [`Error::Document`], [`Error::Missing`], [`Error::NoPlatform`]; those of reading.
    pub fn images(&self, platform: &Platform) -> Result<Vec<Description>> {
        match self {
            Input::Oci(blobs) => oci::images(blobs, platform),
            Input::Docker(blobs) => docker::images(blobs),
            Input::RootArchive(_) | Input::Directory(_) => Ok(Vec::new()),
        }
    }

    /// Opens the content of a layer as it is stored.
    ///
    /// # Errors
    /// [`Error::Missing`]; those of reading.
    pub fn layer(&self, part: &Part) -> Result<Box<dyn Read + Send>> {
        match self {
            Input::Oci(blobs) | Input::Docker(blobs) => blobs.open(&part.location),
            Input::RootArchive(path) => Ok(Box::new(File::open(path)?)),
            Input::Directory(path) => Err(Error::Missing(format!("archive {}", path.display()))),
        }
    }
}

/// Whether a file is compressed: then it cannot be read in any order.
///
/// # Errors
/// Those of reading.
pub fn is_compressed(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(crate::Compression::of(&start) != crate::Compression::None)
}

/// Writes what is in a compressed stream to a file, so that it can be read in any order.
///
/// # Errors
/// Those of reading and writing.
pub fn spool(input: impl Read + Send, target: &Path) -> Result<()> {
    let mut file = File::create(target)?;
    std::io::copy(&mut decoder(input)?, &mut file)?;
    Ok(())
}
