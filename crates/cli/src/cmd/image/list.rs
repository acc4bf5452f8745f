//! `acetate image list`.

use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_json, answer_table};
use acetate_store::{Image, Store};
use serde::Serialize;

/// List the images
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Print one JSON document (schema acetate-images-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    images: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    id: String,
    names: Vec<String>,
    layers: usize,
    /// Bytes of all layers' archives, not compressed.
    archive_bytes: u64,
    added: String,
    source: String,
}

pub(super) fn run(store: &Store, args: &ListArgs) -> Result<Exit, Failure> {
    let items: Result<Vec<Item>, Failure> = store.images()?.iter().map(|image| item(store, image)).collect();
    let items = items?;
    if args.json {
        return answer_json(&Document { schema: "acetate-images-v1", images: items });
    }
    let mut rows = vec![["NAME", "ID", "LAYERS", "SIZE", "ADDED"].map(str::to_owned).to_vec()];
    for item in items {
        let names = if item.names.is_empty() { vec!["-".to_owned()] } else { item.names };
        for name in names {
            rows.push(vec![
                name,
                item.id[7..19].to_owned(),
                item.layers.to_string(),
                crate::out::size(item.archive_bytes),
                item.added.clone(),
            ]);
        }
    }
    answer_table(&rows)
}

fn item(store: &Store, image: &Image) -> Result<Item, Failure> {
    let mut archive_bytes = 0;
    for id in &image.layers {
        archive_bytes += store.layer(id)?.map_or(0, |layer| layer.archive_bytes);
    }
    Ok(Item {
        id: image.id.to_string(),
        names: image.names.clone(),
        layers: image.layers.len(),
        archive_bytes,
        added: image.added.clone(),
        source: image.source.clone(),
    })
}
