//! `acetate image show`.

use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_json, answer_line, answer_table, exact, size};
use acetate_store::{Layer, Store};
use serde::Serialize;
use serde_json::Value;

/// Show what an image is made of
///
/// Its layers from the lowest to the topmost with their sizes and what made them, and its configuration.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// A name, an id or the begin of one
    image: String,
    /// Print one JSON document (schema acetate-image-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    id: String,
    names: Vec<String>,
    added: String,
    source: String,
    config: Value,
    layers: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    diff_id: String,
    path: String,
    archive_bytes: u64,
    stored_bytes: Option<u64>,
    objects: u64,
    whiteouts: u64,
    created_by: String,
}

pub(super) fn run(store: &Store, args: &ShowArgs) -> Result<Exit, Failure> {
    let image = store.image(&args.image)?;
    let config: Value = serde_json::from_slice(&image.config).map_err(|error| {
        Failure::new(format_args!("configuration of {}: {error}", image.id), "import it again")
    })?;
    let history: Vec<String> = config["history"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|item| item["empty_layer"] != Value::Bool(true))
        .map(|item| item["created_by"].as_str().unwrap_or_default().to_owned())
        .collect();
    let mut layers = Vec::new();
    for (at, id) in image.layers.iter().enumerate() {
        let layer: Layer = store.layer(id)?.ok_or(acetate_store::Error::NoLayer(*id))?;
        layers.push(Item {
            diff_id: id.to_string(),
            path: exact(&store.layer_tree(id)),
            archive_bytes: layer.archive_bytes,
            stored_bytes: layer.stored.map(|stored| stored.bytes),
            objects: layer.totals.objects,
            whiteouts: layer.totals.whiteouts,
            created_by: history.get(at).cloned().unwrap_or_default(),
        });
    }
    if args.json {
        return answer_json(&Document {
            schema: "acetate-image-v1",
            id: image.id.to_string(),
            names: image.names,
            added: image.added,
            source: image.source,
            config,
            layers,
        });
    }
    answer_line(format_args!("id       {}", image.id))?;
    for name in &image.names {
        answer_line(format_args!("name     {name}"))?;
    }
    answer_line(format_args!("added    {} from {}", image.added, image.source))?;
    let word = |key: &str| config[key].as_str().unwrap_or("-").to_owned();
    answer_line(format_args!("platform {}/{}", word("os"), word("architecture")))?;
    for (title, key) in
        [("entry", "Entrypoint"), ("command", "Cmd"), ("workdir", "WorkingDir"), ("user", "User")]
    {
        let value = &config["config"][key];
        if !value.is_null() && *value != Value::String(String::new()) {
            answer_line(format_args!("{title:8} {value}"))?;
        }
    }
    answer_line("")?;
    let mut rows = vec![["LAYER", "SIZE", "FILES", "HIDES", "MADE BY"].map(str::to_owned).to_vec()];
    for layer in layers {
        let made: String =
            layer.created_by.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(60).collect();
        rows.push(vec![
            layer.diff_id[7..19].to_owned(),
            size(layer.archive_bytes),
            layer.objects.to_string(),
            layer.whiteouts.to_string(),
            made,
        ]);
    }
    answer_table(&rows)
}
