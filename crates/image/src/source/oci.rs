//! OCI layouts, and the manifests that registries send.

use super::{Blobs, Description, Part, Platform};
use crate::digest::Digest;
use crate::error::{Error, Result};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

/// What names an image in a layout (image-spec, "Pre-Defined Annotation Keys").
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name, as containerd and docker write it.
const FULL_NAME: &str = "io.containerd.image.name";
/// How deep indexes may name indexes.
const DEPTH_MAX: usize = 4;

/// A document that a registry or an index names.
#[derive(Clone, Debug)]
pub enum Document {
    /// The parts of one image.
    Manifest(Box<ImageManifest>),
    /// Images for several platforms.
    Index(Box<ImageIndex>),
}

impl Document {
    /// Reads a manifest or an index, of OCI or of docker; which one follows from its members, since media types are
    /// optional and sometimes wrong.
    ///
    /// # Errors
    /// [`Error::Document`].
    pub fn parse(bytes: &[u8]) -> Result<Document> {
        let bad =
            |error: serde_json::Error| Error::Document { what: "manifest".into(), reason: error.to_string() };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(bad)?;
        if value.get("manifests").is_some() {
            return serde_json::from_slice(bytes).map(|index| Document::Index(Box::new(index))).map_err(bad);
        }
        if value.get("fsLayers").is_some() {
            let reason = "it is of docker's old schema 1, which names no configuration".into();
            return Err(Error::Document { what: "manifest".into(), reason });
        }
        serde_json::from_slice(bytes).map(|manifest| Document::Manifest(Box::new(manifest))).map_err(bad)
    }
}

/// The entry of an index that is for a platform.
///
/// # Errors
/// [`Error::NoPlatform`].
pub fn choose<'a>(index: &'a ImageIndex, platform: &Platform) -> Result<&'a Descriptor> {
    let of = |descriptor: &Descriptor| {
        descriptor.platform().as_ref().map(|platform| Platform {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone().filter(|variant| !variant.is_empty()),
        })
    };
    let found = index.manifests().iter().find(|item| of(item).is_some_and(|other| platform.takes(&other)));
    // An index of one image need not say what it is for.
    let only = || index.manifests().first().filter(|item| index.manifests().len() == 1 && of(item).is_none());
    found.or_else(only).ok_or_else(|| {
        let mut all: Vec<String> =
            index.manifests().iter().filter_map(of).map(|other| other.to_string()).collect();
        all.sort();
        Error::NoPlatform { wanted: platform.to_string(), found: all.join(", ") }
    })
}

/// The layers of a manifest. `location` says where a digest is found.
///
/// # Errors
/// [`Error::Digest`]; [`Error::Document`] for what is no image.
pub fn parts(manifest: &ImageManifest, location: impl Fn(&str) -> String) -> Result<Vec<Part>> {
    let part = |layer: &Descriptor| {
        let media_type = layer.media_type().to_string();
        if !media_type.contains("tar") {
            let reason = format!("a layer is of type {media_type}, which is no archive");
            return Err(Error::Document { what: "manifest".into(), reason });
        }
        let digest = layer.digest().to_string();
        Ok(Part { location: location(&digest), digest: Some(digest.parse()?), size: Some(layer.size()) })
    };
    manifest.layers().iter().map(part).collect()
}

/// The images in a layout.
pub(super) fn images(blobs: &Blobs, platform: &Platform) -> Result<Vec<Description>> {
    let bytes = blobs.document("index.json")?;
    let Document::Index(index) = Document::parse(&bytes)? else {
        return Err(Error::Document { what: "index.json".into(), reason: "it is no index".into() });
    };
    let mut images = Vec::new();
    for item in index.manifests() {
        let annotation = |key: &str| item.annotations().as_ref().and_then(|all| all.get(key).cloned());
        let name = annotation(FULL_NAME).or_else(|| annotation(REF_NAME));
        let mut image = image(blobs, item, platform, DEPTH_MAX)?;
        image.names.extend(name);
        images.push(image);
    }
    Ok(images)
}

fn image(blobs: &Blobs, item: &Descriptor, platform: &Platform, depth: usize) -> Result<Description> {
    let bytes = checked(blobs, item)?;
    match Document::parse(&bytes)? {
        Document::Index(_) if depth == 0 => {
            Err(Error::Document { what: item.digest().to_string(), reason: "indexes without end".into() })
        }
        Document::Index(index) => image(blobs, choose(&index, platform)?, platform, depth - 1),
        Document::Manifest(manifest) => Ok(Description {
            names: Vec::new(),
            config: checked(blobs, manifest.config())?,
            layers: parts(&manifest, blob_path)?,
        }),
    }
}

/// Where a layout keeps a digest.
pub(crate) fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// Reads a document and checks its digest.
fn checked(blobs: &Blobs, item: &Descriptor) -> Result<Vec<u8>> {
    let expected: Digest = item.digest().to_string().parse()?;
    let bytes = blobs.document(&blob_path(&expected.to_string()))?;
    let found = Digest::of(&bytes);
    if found == expected {
        return Ok(bytes);
    }
    let (found, expected) = (found.to_string(), expected.to_string());
    Err(Error::Mismatch { what: "document".into(), found, expected })
}
