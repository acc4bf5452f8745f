//! `acetate explain`.

use crate::Exit;
use crate::error::Failure;
use crate::layers::{LayerArgs, Layers, of_path};
use crate::out::{answer, answer_json, exact, shown, size};
use acetate_layer::Kind;
use acetate_layer::mark::Opaque;
use acetate_layer::work::WhiteoutForm;
use acetate_stack::explain::{Copied, Explained, explain};
use acetate_stack::{How, Seen, What};
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Show what each layer has at a path, which one wins, and what a write would copy
///
/// The paths are on a mount of Acetate or of the kernel's overlayfs, and need not exist; with --lower and --upper they
/// are paths from the root of those layers. Reads only.
///
/// Exit status: 0 all paths are there, 1 one shows nothing, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// Which ones
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    layers: LayerArgs,
    /// Print one JSON document (schema acetate-explain-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    paths: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    path: String,
    /// The layer that wins; null if nothing is shown.
    shown: Option<String>,
    problem: Option<String>,
    layers: Vec<LayerItem>,
    write: Option<WriteItem>,
}

#[derive(Serialize)]
struct LayerItem {
    layer: String,
    root: String,
    path: String,
    /// `nothing`, `whiteout`, or a type of object.
    holds: &'static str,
    size: Option<u64>,
    whiteout: Option<&'static str>,
    opaque: bool,
    redirect: Option<String>,
    metacopy: bool,
    /// It is, or is part of, what is shown.
    part: bool,
    hidden_by: Option<HiddenItem>,
}

#[derive(Serialize)]
struct HiddenItem {
    layer: String,
    path: String,
    how: &'static str,
}

#[derive(Serialize)]
struct WriteItem {
    bytes: u64,
    allocated: u64,
    copies: Vec<CopyItem>,
}

#[derive(Serialize)]
struct CopyItem {
    path: String,
    kind: &'static str,
    bytes: u64,
    allocated: u64,
}

pub(crate) fn run(args: &ExplainArgs) -> Result<Exit, Failure> {
    let mut items = Vec::new();
    for path in &args.paths {
        let (layers, inside) = if args.layers.named() {
            (args.layers.layers(), path.as_os_str().as_bytes().to_vec())
        } else {
            let (_, layers, inside) = of_path(path)?;
            (layers, inside)
        };
        let stack = layers.open()?;
        let found = explain(stack.merged(), &inside)?;
        items.push(item(path, &layers, &found));
    }
    let all = items.iter().all(|item| item.shown.is_some());
    if args.json {
        answer_json(&Document { schema: "acetate-explain-v1", paths: items })?;
    } else {
        let text: Vec<String> = items.iter().map(paragraph).collect();
        answer(&text.join("\n")).map_err(|error| Failure::io("write the answer", &error))?;
    }
    Ok(if all { Exit::Done } else { Exit::No })
}

fn bytes(path: &[u8]) -> String {
    exact(OsStr::from_bytes(path))
}

fn item(path: &PathBuf, layers: &Layers, found: &Explained) -> Item {
    let winner = found.node.winner();
    Item {
        path: exact(path),
        shown: winner.map(|(number, _)| layers.name(number)),
        problem: found.node.problem.map(|problem| problem.to_string()),
        layers: found.node.seen.iter().map(|seen| layer_item(layers, seen)).collect(),
        write: (layers.upper.is_some() && winner.is_some()).then(|| WriteItem {
            bytes: found.copies.iter().map(|copy| copy.bytes).sum(),
            allocated: found.copies.iter().map(|copy| copy.allocated).sum(),
            copies: found.copies.iter().map(copy_item).collect(),
        }),
    }
}

fn copy_item(copy: &Copied) -> CopyItem {
    let kind = copy.kind.name();
    CopyItem { path: bytes(&copy.path), kind, bytes: copy.bytes, allocated: copy.allocated }
}

fn layer_item(layers: &Layers, seen: &Seen) -> LayerItem {
    let roots: Vec<&PathBuf> = layers.all().collect();
    let object = match &seen.what {
        What::Object(object) => Some(object),
        _ => None,
    };
    LayerItem {
        layer: layers.name(seen.layer),
        root: roots.get(seen.layer).map(exact).unwrap_or_default(),
        path: bytes(&seen.path),
        holds: match &seen.what {
            What::Absent => "nothing",
            What::Whiteout(_) => "whiteout",
            What::Object(object) => object.stat.kind.name(),
        },
        size: object.filter(|object| object.stat.kind == Kind::File).map(|object| object.stat.size),
        whiteout: match seen.what {
            What::Whiteout(WhiteoutForm::Device) => Some("device"),
            What::Whiteout(WhiteoutForm::Xattr) => Some("xattr"),
            _ => None,
        },
        opaque: object.is_some_and(|object| object.opaque == Opaque::Yes),
        redirect: object.and_then(|object| object.redirect.as_ref()).map(|to| bytes(to)),
        metacopy: object.is_some_and(|object| object.metacopy),
        part: object.is_some() && seen.hidden.is_none(),
        hidden_by: seen.hidden.as_ref().map(|hidden| HiddenItem {
            layer: layers.name(hidden.by),
            path: bytes(&hidden.path),
            how: how_name(hidden.how),
        }),
    }
}

fn how_name(how: How) -> &'static str {
    match how {
        How::Whiteout => "whiteout",
        How::Opaque => "opaque",
        How::Object => "object",
    }
}

/// A path for people.
fn paragraph(item: &Item) -> String {
    let mut text = format!("{}: {}\n", item.path, verdict(item));
    let width = item.layers.iter().map(|layer| layer.layer.len()).max().unwrap_or(0);
    for layer in &item.layers {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "  {:width$}  {}", layer.layer, layer_line(layer));
    }
    if let Some(write) = &item.write {
        let line = match write.copies.as_slice() {
            [] => "a write copies nothing: it is in upper".to_owned(),
            copies => {
                let paths: Vec<&str> = copies.iter().map(|copy| copy.path.as_str()).collect();
                format!("the first write copies {}: {}", size(write.bytes), paths.join(", "))
            }
        };
        let _infallible = writeln!(text, "  {line}");
    }
    text
}

fn verdict(item: &Item) -> String {
    let problem = item.problem.as_ref().map(|problem| format!(", but {problem}")).unwrap_or_default();
    match &item.shown {
        Some(layer) => {
            let parts = item.layers.iter().filter(|layer| layer.part).count();
            let merged =
                item.layers.iter().any(|layer| layer.part && layer.holds == "directory") && parts > 1;
            let what = item.layers.iter().find(|layer| layer.part).map_or("object", |layer| layer.holds);
            let merged = if merged { format!(", merged from {parts} layers") } else { String::new() };
            format!("{what} from {layer}{merged}{problem}")
        }
        None => {
            let whiteout =
                item.layers.iter().find(|layer| layer.holds == "whiteout" && layer.hidden_by.is_none());
            let hidden = item.layers.iter().find_map(|layer| layer.hidden_by.as_ref());
            match (whiteout, hidden) {
                (Some(layer), _) => format!("nothing: {} has a whiteout{problem}", layer.layer),
                (None, Some(by)) => {
                    format!("nothing: {} has {} at {}{problem}", by.layer, how_words(by.how), by.path)
                }
                (None, None) => format!("nothing: no layer has it{problem}"),
            }
        }
    }
}

fn how_words(how: &str) -> &'static str {
    match how {
        "whiteout" => "a whiteout",
        "opaque" => "an opaque directory",
        _ => "another object",
    }
}

fn layer_line(layer: &LayerItem) -> String {
    let mut text = format!("{}/{}: {}", shown(&layer.root), layer.path, layer.holds);
    let mut add = |part: String| text.push_str(&part);
    if let Some(bytes) = layer.size {
        add(format!(", {}", size(bytes)));
    }
    if let Some(form) = layer.whiteout {
        add(format!(" ({form})"));
    }
    if layer.opaque {
        add(", opaque".into());
    }
    if layer.metacopy {
        add(", metacopy".into());
    }
    if let Some(to) = &layer.redirect {
        add(format!(", redirect to {to}"));
    }
    match &layer.hidden_by {
        Some(_) if layer.holds == "nothing" => {}
        Some(by) if by.layer == layer.layer => add(": does not go together with what is above".into()),
        Some(by) => {
            let at = if by.path == layer.path { String::new() } else { format!(" at {}", by.path) };
            let what = if by.how == "object" { "the one" } else { how_words(by.how) };
            add(format!(": hidden by {what} in {}{at}", by.layer));
        }
        None => {}
    }
    text
}
