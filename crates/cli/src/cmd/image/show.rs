//! `acetate image show`.

use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_json, answer_line, answer_table, exact, shown, size};
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
    let history = steps(&config);
    let made: Vec<&Step> = history.iter().filter(|step| step.has_layer).collect();
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
            created_by: made.get(at).map(|step| step.by.clone()).unwrap_or_default(),
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
    answer_table(&table(&layers, &history))
}

/// What an image's history says of one step of its making.
struct Step {
    by: String,
    /// Whether it changed files.
    has_layer: bool,
}

fn steps(config: &Value) -> Vec<Step> {
    let step = |item: &Value| Step {
        by: item["created_by"].as_str().unwrap_or_default().to_owned(),
        has_layer: item["empty_layer"] != Value::Bool(true),
    };
    config["history"].as_array().into_iter().flatten().map(step).collect()
}

/// The layers and the steps that changed no files, in the order in which they were made. A history is optional, and
/// may be shorter than there are layers.
fn table(layers: &[Item], history: &[Step]) -> Vec<Vec<String>> {
    let mut rows = vec![["LAYER", "SIZE", "FILES", "HIDES", "MADE BY"].map(str::to_owned).to_vec()];
    let row = |layer: &Item, by: &str| {
        vec![
            layer.diff_id[7..19].to_owned(),
            size(layer.archive_bytes),
            layer.objects.to_string(),
            layer.whiteouts.to_string(),
            short(by),
        ]
    };
    let mut left = layers.iter();
    for step in history {
        match step.has_layer.then(|| left.next()).flatten() {
            Some(layer) => rows.push(row(layer, &step.by)),
            None => rows.push(["-", "", "", "", &short(&step.by)].map(str::to_owned).to_vec()),
        }
    }
    rows.extend(left.map(|layer| row(layer, "")));
    let sum = |count: fn(&Item) -> u64| layers.iter().map(count).sum::<u64>();
    rows.push(vec![
        format!("{} layers", layers.len()),
        size(sum(|layer| layer.archive_bytes)),
        sum(|layer| layer.objects).to_string(),
        sum(|layer| layer.whiteouts).to_string(),
    ]);
    rows
}

/// How much of a command fits a table; `--json` has all of it.
const COMMAND_CHARS: usize = 70;

/// A command as its author wrote it: without the shell that builders put in front of it, on one line.
fn short(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let text = words.join(" ");
    let text = text.strip_prefix("/bin/sh -c ").unwrap_or(&text);
    let text = text.strip_prefix("#(nop) ").unwrap_or(text);
    if text.chars().count() <= COMMAND_CHARS {
        return shown(text).to_string();
    }
    let cut: String = text.chars().take(COMMAND_CHARS - 1).collect();
    format!("{}…", shown(&cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_they_were_written() {
        assert_eq!(short("/bin/sh -c #(nop) CMD [\"python3\"]"), "CMD [\"python3\"]");
        assert_eq!(short("/bin/sh -c a &&   \n b"), "a && b");
        assert_eq!(short(&"x".repeat(100)).chars().count(), COMMAND_CHARS);
        assert!(short(&"x".repeat(100)).ends_with('…'));
    }

    #[test]
    fn layers_and_steps_without_one_are_in_order() {
        let layer = |digit: &str| Item {
            diff_id: format!("sha256:{}", digit.repeat(64)),
            path: String::new(),
            archive_bytes: 1024,
            stored_bytes: None,
            objects: 1,
            whiteouts: 0,
            created_by: String::new(),
        };
        let step = |by: &str, has_layer| Step { by: by.to_owned(), has_layer };
        let history = [step("ADD", true), step("ENV", false), step("RUN", true)];
        let rows = table(&[layer("a"), layer("b"), layer("c")], &history);
        let firsts: Vec<&str> = rows.iter().map(|row| &row[0][..]).collect();
        let expected = ["LAYER", "aaaaaaaaaaaa", "-", "bbbbbbbbbbbb", "cccccccccccc", "3 layers"];
        assert_eq!(firsts, expected);
    }
}
