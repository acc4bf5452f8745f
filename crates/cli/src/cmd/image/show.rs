//! `acetate image show`.

use crate::Exit;
use crate::error::Failure;
use crate::look::{Picture, config, page, steps, table};
use crate::out::{answer, answer_json, answer_line, exact, note, shown};
use acetate_stack::How;
use acetate_stack::survey::Survey;
use acetate_store::{Image, Layer, Store};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// Show what an image is made of
///
/// Its layers from the lowest to the topmost: size, what of it is wasted because layers above hide it, and what made
/// them; how efficient they are, as dive counts it; and where the waste is.
///
/// Exit status: 0 done, 1 less efficient than --fail-below allows, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// A name, an id or the begin of one
    image: String,
    /// Print one JSON document (schema acetate-image-v1, docs/cli.md)
    #[arg(long, group = "form")]
    json: bool,
    /// Write a page to explore the layers in a browser; - is standard output
    #[arg(long, value_name = "FILE", group = "form")]
    html: Option<PathBuf>,
    /// End with status 1 if the image is less efficient, for CI: 0.9 is 90 %
    #[arg(long, value_name = "SCORE", value_parser = score)]
    fail_below: Option<f64>,
}

/// A number from 0 to 1.
fn score(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "an efficiency is a number from 0 to 1: 0.9 is 90 %".to_owned())
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    id: String,
    names: Vec<String>,
    added: String,
    source: String,
    config: Value,
    bytes: u64,
    wasted_bytes: u64,
    efficiency: f64,
    minimal_bytes: u64,
    discovered_bytes: u64,
    layers: Vec<Item>,
    waste: Vec<Waste>,
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
    bytes: u64,
    added: u64,
    changed: u64,
    deleted: u64,
    hides_objects: u64,
    hides_bytes: u64,
    wasted_bytes: u64,
}

/// Layers are numbers in the list of layers, 0 for the lowest.
#[derive(Serialize)]
struct Waste {
    path: String,
    by: usize,
    how: &'static str,
    objects: u64,
    bytes: u64,
    layers: Vec<usize>,
}

pub(super) fn run(store: &Store, args: &ShowArgs) -> Result<Exit, Failure> {
    let image = store.image(&args.image)?;
    let picture = Picture::of_image(store, &image)?;
    let score = picture.survey.efficiency().score();
    if args.json {
        answer_json(&document(store, image, &picture)?)?;
    } else if let Some(file) = &args.html {
        page::write(&picture, file)?;
    } else {
        print(&image, &picture)?;
    }
    match args.fail_below.filter(|limit| score < *limit) {
        None => Ok(Exit::Done),
        Some(limit) => {
            note(format_args!(
                "{}: efficiency {} % is below {} %",
                shown(&args.image),
                table::percent(score),
                table::percent(limit)
            ));
            Ok(Exit::No)
        }
    }
}

fn print(image: &Image, picture: &Picture) -> Result<(), Failure> {
    let config = config(image)?;
    answer_line(format_args!("id       {}", image.id))?;
    for name in &image.names {
        answer_line(format_args!("name     {name}"))?;
    }
    answer_line(format_args!("added    {} from {}", image.added, shown(&image.source)))?;
    let word = |key: &str| shown(config[key].as_str().unwrap_or("-")).to_string();
    answer_line(format_args!("platform {}/{}", word("os"), word("architecture")))?;
    for (title, key) in
        [("entry", "Entrypoint"), ("command", "Cmd"), ("workdir", "WorkingDir"), ("user", "User")]
    {
        let value = &config["config"][key];
        if !value.is_null() && *value != Value::String(String::new()) {
            answer_line(format_args!("{title:8} {}", shown(&value.to_string())))?;
        }
    }
    answer_line("")?;
    answer(&table::of_image(picture, &steps(&config), table::Style::of_stdout()))
        .map_err(|error| Failure::io("write the answer", &error))
}

fn document(store: &Store, image: Image, picture: &Picture) -> Result<Document, Failure> {
    let survey: &Survey = &picture.survey;
    let config = config(&image)?;
    let made: Vec<String> =
        steps(&config).into_iter().filter(|step| step.has_layer).map(|step| step.by).collect();
    // The survey counts from the topmost, the document from the lowest.
    let lowest = survey.layers.len();
    let mut layers = Vec::new();
    for (at, id) in image.layers.iter().enumerate() {
        let layer: Layer = store.layer(id)?.ok_or(acetate_store::Error::NoLayer(*id))?;
        let totals = &survey.layers[lowest - 1 - at];
        layers.push(Item {
            diff_id: id.to_string(),
            path: exact(&store.layer_tree(id)),
            archive_bytes: layer.archive_bytes,
            stored_bytes: layer.stored.map(|stored| stored.bytes),
            objects: layer.totals.objects,
            whiteouts: layer.totals.whiteouts,
            created_by: made.get(at).cloned().unwrap_or_default(),
            bytes: totals.bytes,
            added: totals.added,
            changed: totals.changed,
            deleted: totals.deleted,
            hides_objects: totals.hides_objects,
            hides_bytes: totals.hides_bytes,
            wasted_bytes: totals.wasted_bytes,
        });
    }
    let waste = survey.waste().into_iter().map(|waste| Waste {
        path: picture.path(waste.at),
        by: lowest - 1 - waste.by,
        how: match waste.how {
            How::Whiteout => "whiteout",
            How::Opaque => "opaque",
            How::Object => "object",
        },
        objects: waste.objects,
        bytes: waste.bytes,
        layers: waste.layers.iter().rev().map(|layer| lowest - 1 - layer).collect(),
    });
    let efficiency = survey.efficiency();
    Ok(Document {
        schema: "acetate-image-v1",
        id: image.id.to_string(),
        names: image.names,
        added: image.added,
        source: image.source,
        config,
        bytes: survey.bytes(),
        wasted_bytes: survey.wasted_bytes(),
        efficiency: efficiency.score(),
        minimal_bytes: efficiency.minimal,
        discovered_bytes: efficiency.discovered,
        layers,
        waste: waste.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::score;

    #[test]
    fn scores_are_shares() {
        assert_eq!(score("0.9"), Ok(0.9));
        assert_eq!(score("1"), Ok(1.0));
        for bad in ["90", "-0.1", "x", "nan", ""] {
            assert!(score(bad).is_err(), "{bad}");
        }
    }
}
