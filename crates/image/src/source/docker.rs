//! Docker archives: `manifest.json` lists images, each with a configuration and layers by their names in the archive
//! (moby, image/spec/v1.2.md).

use super::{Blobs, Description, Part};
use crate::error::{Error, Result};
use serde::Deserialize;

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    names: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// The images in an archive.
pub(super) fn images(blobs: &Blobs) -> Result<Vec<Description>> {
    let manifest = blobs.document("manifest.json")?;
    let items: Vec<Item> = serde_json::from_slice(&manifest)
        .map_err(|error| Error::Document { what: "manifest.json".into(), reason: error.to_string() })?;
    items
        .into_iter()
        .map(|item| {
            let layers = item.layers.into_iter().map(|location| Part { location, digest: None, size: None });
            Ok(Description {
                names: item.names.unwrap_or_default(),
                config: blobs.document(&item.config)?,
                layers: layers.collect(),
            })
        })
        .collect()
}
