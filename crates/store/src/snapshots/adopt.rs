//! Layers that images of the store have already: containerd need not fetch and unpack them.
//!
//! Whoever unpacks an image says in a label which snapshot this one is to become. The answer that it exists, with a
//! committed snapshot that carries the same label, is how a snapshotter tells that it has the content by other means
//! (containerd, docs/remote-snapshotter.md).

use super::{Content, Kind, Labels, Snapshot, new};
use crate::error::Result;
use crate::workspaces::chain_id;
use acetate_image::Digest;
use std::collections::BTreeMap;

/// The label with the chain id of what a snapshot is to become.
const TARGET: &str = "containerd.io/snapshot.ref";

impl super::Snapshots {
    /// Makes a committed snapshot of a layer that the store has, if `labels` ask for what one is. Returns what was asked
    /// for, also if such a snapshot is there already.
    pub(super) fn adopt(
        &self,
        known: &mut BTreeMap<String, Snapshot>,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Option<String>> {
        let Some(target) = labels.get(TARGET) else {
            return Ok(None);
        };
        let is_there = |one: &Snapshot| {
            one.kind == Kind::Committed
                && one.parent.as_deref() == parent
                && one.labels.get(TARGET) == Some(target)
                && matches!(one.content, Content::Layer(_))
        };
        if known.values().any(is_there) {
            return Ok(Some(target.clone()));
        }
        let Some(layers) = self.layers_of(target)? else {
            return Ok(None);
        };
        // What it is put on has to be what lies below it in the image.
        let below = layers
            .get(1..)
            .filter(|below| !below.is_empty())
            .map(|below| format!("sha256:{}", chain_id(below)));
        let stands_on =
            parent.and_then(|parent| known.get(parent)).and_then(|parent| parent.labels.get(TARGET));
        let (Some(top), true) =
            (layers.first(), stands_on == below.as_ref() && parent.is_some() == below.is_some())
        else {
            return Ok(None);
        };
        let mut snapshot = new("", parent, Kind::Committed, Content::Layer(*top), labels.clone())?;
        snapshot.key = format!("acetate/{}/{target}", snapshot.id);
        snapshot.usage = Some(self.measure(&snapshot)?);
        self.write(&snapshot)?;
        known.insert(snapshot.key.clone(), snapshot);
        Ok(Some(target.clone()))
    }

    /// The layers of an image of the store that make this chain, topmost first.
    fn layers_of(&self, target: &str) -> Result<Option<Vec<Digest>>> {
        for image in self.store.images()? {
            for count in 1..=image.layers.len() {
                let layers: Vec<Digest> = image.layers[..count].iter().rev().copied().collect();
                if target == format!("sha256:{}", chain_id(&layers))
                    && self.store.layer(&layers[0])?.is_some()
                {
                    return Ok(Some(layers));
                }
            }
        }
        Ok(None)
    }
}
