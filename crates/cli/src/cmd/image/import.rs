//! `acetate image import`.

use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_line, shown};
use crate::progress::Bars;
use crate::store::tell_skipped;
use acetate_image::source::{Format, Input, Platform, is_compressed};
use acetate_store::{Imported, Store};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Import images from files
///
/// Takes docker archives (docker save, podman save), OCI layouts (directories and archives), archives of a root
/// directory and plain directories; compressed with gzip or zstd or not. Prints the ids of the images.
///
/// Exit status: 0 imported, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The file or directory; - is standard input
    source: PathBuf,
    /// What to call the image [default: as the source says; a tree after its file]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What the source is [default: found out]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Kind>,
    /// For images of several platforms: which one [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// What an image made of a tree runs: the words of a command
    #[arg(long, value_name = "WORD", num_args = 1..)]
    cmd: Vec<String>,
    /// Print one JSON document (schema acetate-import-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// An OCI layout
    Oci,
    /// A docker archive
    Docker,
    /// A root directory, or an archive of one
    Root,
}

/// The JSON document.
#[derive(Serialize)]
pub(super) struct Document {
    schema: &'static str,
    images: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    id: String,
    names: Vec<String>,
    new_layers: usize,
    devices_skipped: u64,
    xattrs_skipped: u64,
}

pub(super) fn run(store: &Store, args: &ImportArgs) -> Result<Exit, Failure> {
    let format = args.format.map(|kind| match kind {
        Kind::Oci => Format::Oci,
        Kind::Docker => Format::Docker,
        Kind::Root => Format::Root,
    });
    let stdin = args.source == Path::new("-");
    let source = if stdin { "standard input".to_owned() } else { shown(&args.source).to_string() };
    // What is compressed cannot be searched for manifests; a single tree need not be.
    let spool = if stdin {
        Some(store.spool(std::io::stdin())?)
    } else if format != Some(Format::Root) && args.source.is_file() && is_compressed(&args.source)? {
        let file = std::fs::File::open(&args.source).map_err(|error| Failure::io(&source, &error))?;
        Some(store.spool(file)?)
    } else {
        None
    };
    let path = spool.as_ref().map_or(args.source.as_path(), |spool| spool.path());
    let input = Input::open(path, format).map_err(|error| {
        Failure::new(
            format_args!("import {source}: {}", crate::store::chain(&error)),
            "name a docker archive, an OCI layout, an archive of a root directory, or a directory",
        )
    })?;
    let about = |error: acetate_store::Error| {
        let failure = Failure::from(error);
        Failure { message: format!("import {source}: {}", failure.message), ..failure }
    };
    let bars = Bars::new();
    let imported = match input {
        Input::Oci(_) | Input::Docker(_) => {
            let platform = args.platform.clone().unwrap_or_else(Platform::here);
            store.import(&input, &source, args.name.as_deref(), &platform, &bars).map_err(about)?
        }
        Input::RootArchive(_) | Input::Directory(_) => {
            let name = match (&args.name, stdin) {
                (Some(name), _) => name.clone(),
                (None, false) => tree_name(&args.source)?,
                (None, true) => return Err(no_name()),
            };
            vec![store.import_tree(&input, &source, &name, &args.cmd, &bars).map_err(about)?]
        }
    };
    print(&imported, args.json)
}

/// Prints what has come in.
pub(super) fn print(imported: &[Imported], json: bool) -> Result<Exit, Failure> {
    imported.iter().for_each(tell_skipped);
    if json {
        let item = |image: &Imported| Item {
            id: image.id.to_string(),
            names: image.names.clone(),
            new_layers: image.new_layers,
            devices_skipped: image.skipped.0,
            xattrs_skipped: image.skipped.1,
        };
        let document = Document { schema: "acetate-import-v1", images: imported.iter().map(item).collect() };
        return crate::out::answer_json(&document);
    }
    for image in imported {
        answer_line(format_args!("{} {}", image.id, image.names.join(" ")))?;
    }
    Ok(Exit::Done)
}

/// What a tree is called unless somebody says something else: its file's name up to the first dot.
fn tree_name(path: &Path) -> Result<String, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.split('.').next().unwrap_or_default().to_lowercase();
    if acetate_store::full_name(&name).is_ok() { Ok(name) } else { Err(no_name()) }
}

fn no_name() -> Failure {
    Failure::new("the image needs a name", "give it one with --name").usage()
}
