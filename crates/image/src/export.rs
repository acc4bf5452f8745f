//! Images as files for others: OCI layouts and docker archives.

use crate::archive::{Entry, EntryKind, Writer};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::source::diff_ids;
use acetate_layer::{Kind, Rdev, Time};
use oci_spec::image::{
    DescriptorBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType, OciLayoutBuilder, Sha256Digest,
};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A layer that has been made ready to be sent: a file with the bytes that its digest names.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The digest of the file.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type (image-spec, "Media Types").
    pub media_type: &'static str,
    /// Where it is.
    pub path: PathBuf,
}

/// The manifest of an image with these layers, the lowest first.
///
/// # Errors
/// [`Error::Document`].
pub fn manifest(config: &[u8], layers: &[Ready]) -> Result<Vec<u8>> {
    let layers: Result<Vec<_>> =
        layers.iter().map(|layer| descriptor(layer.media_type, &layer.digest, layer.size)).collect();
    let config =
        descriptor("application/vnd.oci.image.config.v1+json", &Digest::of(config), config.len() as u64)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers?)
        .build()
        .map_err(|error| document(&error))?;
    serde_json::to_vec(&manifest).map_err(|error| document(&error))
}

/// The media type of what [`manifest`] makes.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Result<oci_spec::image::Descriptor> {
    let sha = Sha256Digest::from_str(&digest.hex()).map_err(|error| document(&error))?;
    DescriptorBuilder::default()
        .media_type(MediaType::from(media_type))
        .digest(sha)
        .size(size)
        .build()
        .map_err(|error| document(&error))
}

fn document(error: &dyn std::error::Error) -> Error {
    Error::Document { what: "manifest".into(), reason: error.to_string() }
}

/// Where an image is written to.
pub enum Output<W: Write> {
    /// Into a new or empty directory, or one that holds such an image already.
    Dir(PathBuf),
    /// As an archive.
    Archive(Writer<W>),
}

impl<W: Write> Output<W> {
    fn put(&mut self, name: &str, mut data: impl Read, size: u64) -> Result<()> {
        match self {
            Output::Dir(dir) => {
                let path = dir.join(name);
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)?;
                }
                std::io::copy(&mut data, &mut File::create(path)?)?;
                Ok(())
            }
            Output::Archive(writer) => Ok(writer.append(&entry(name, Kind::File, size), &mut data)?),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Output::Dir(_) => Ok(()),
            Output::Archive(writer) => writer.finish().map(drop).map_err(Error::from),
        }
    }
}

fn entry(name: &str, kind: Kind, size: u64) -> Entry {
    Entry {
        path: name.into(),
        kind: EntryKind::Object(kind),
        link: Vec::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        // The archive of an image depends on nothing but the image.
        mtime: Time::default(),
        size,
        rdev: Rdev::default(),
        xattrs: Vec::new(),
        sparse: None,
    }
}

/// Writes an OCI layout (image-spec, "Image Layout").
///
/// # Errors
/// [`Error::Document`]; those of reading and writing.
pub fn oci<W: Write>(mut output: Output<W>, config: &[u8], layers: &[Ready], names: &[String]) -> Result<()> {
    let manifest = manifest(config, layers)?;
    let layout = OciLayoutBuilder::default()
        .image_layout_version("1.0.0".to_owned())
        .build()
        .map_err(|error| document(&error))?;
    let layout = serde_json::to_vec(&layout).map_err(|error| document(&error))?;
    output.put("oci-layout", &layout[..], layout.len() as u64)?;
    let blob = |digest: &Digest| crate::source::blob_path(&digest.to_string());
    let mut written = HashMap::new();
    for layer in layers {
        if written.insert(layer.digest, ()).is_none() {
            output.put(&blob(&layer.digest), File::open(&layer.path)?, layer.size)?;
        }
    }
    output.put(&blob(&Digest::of(config)), config, config.len() as u64)?;
    output.put(&blob(&Digest::of(&manifest)), &manifest[..], manifest.len() as u64)?;
    let mut items = Vec::new();
    let unnamed = [String::new()];
    for name in if names.is_empty() { &unnamed[..] } else { names } {
        let mut item = descriptor(MANIFEST_TYPE, &Digest::of(&manifest), manifest.len() as u64)?;
        if !name.is_empty() {
            let tag = name.rsplit_once(':').map_or(name.as_str(), |(_, tag)| tag);
            item.set_annotations(Some(HashMap::from([
                ("org.opencontainers.image.ref.name".to_owned(), tag.to_owned()),
                ("io.containerd.image.name".to_owned(), name.clone()),
            ])));
        }
        items.push(item);
    }
    let index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(items)
        .build()
        .map_err(|error| document(&error))?;
    let index = serde_json::to_vec(&index).map_err(|error| document(&error))?;
    // Last: what has an index is whole.
    output.put("index.json", &index[..], index.len() as u64)?;
    output.finish()
}

/// Writes a docker archive; its layers have to be uncompressed, as `docker save` has them.
///
/// # Errors
/// [`Error::Document`]; those of reading and writing.
pub fn docker<W: Write>(
    mut output: Output<W>,
    config: &[u8],
    layers: &[Ready],
    names: &[String],
) -> Result<()> {
    let ids = diff_ids(config)?;
    let config_name = format!("{}.json", Digest::of(config).hex());
    let mut paths = Vec::new();
    for (id, layer) in ids.iter().zip(layers) {
        let path = format!("{}.tar", id.hex());
        if !paths.contains(&path) {
            output.put(&path, File::open(&layer.path)?, layer.size)?;
        }
        paths.push(path);
    }
    output.put(&config_name, config, config.len() as u64)?;
    let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": names, "Layers": paths }]);
    let manifest = serde_json::to_vec(&manifest).map_err(|error| document(&error))?;
    output.put("manifest.json", &manifest[..], manifest.len() as u64)?;
    output.finish()
}

/// The file of an archive that is written at once or not at all: a temporary one, until [`Pending::publish`].
#[derive(Debug)]
pub struct Pending {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Pending {
    /// Beside `path`.
    ///
    /// # Errors
    /// Those of creating the file.
    pub fn new(path: &Path) -> Result<Pending> {
        let name = path.file_name().unwrap_or_default();
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(hidden);
        Ok(Pending { file: File::create(&temporary)?, temporary, path: path.to_owned() })
    }

    /// Where to write.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// Those of fsync(2) and rename(2).
    pub fn publish(self) -> Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Gone already if it was published.
        let _leftover = fs::remove_file(&self.temporary);
    }
}
