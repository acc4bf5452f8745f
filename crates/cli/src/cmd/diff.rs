//! `acetate diff`.

use crate::Exit;
use crate::error::Failure;
use crate::layers::{LayerArgs, Layers, of_path};
use crate::look::{Picture, page};
use crate::out::{answer, answer_json, exact, note, shown, size};
use crate::store::open_store;
use acetate_layer::Kind;
use acetate_layer::mark::Dialect;
use acetate_stack::diff::{Change, Differs, How, Options, between};
use acetate_stack::text::{self, Text};
use acetate_stack::{View, tar};
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Show what an upper layer changes, or how two directories differ
///
/// Of a mount of Acetate or of the kernel's overlayfs, of the layers that --lower and --upper name, or between two
/// directories. In place of a directory image:NAME, layer:DIGEST and workspace:NAME are what the store has. Times are not
/// compared. Reads only.
///
/// Exit status: 0 no change, 1 changes, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// A mount; or two directories, images (image:NAME), layers or workspaces, the old one first
    #[arg(value_name = "MERGED", num_args = 0..=2, conflicts_with_all = ["lower", "upper"])]
    dirs: Vec<PathBuf>,
    #[command(flatten)]
    layers: LayerArgs,
    /// Also list what was copied to upper and equals what is below
    #[arg(long)]
    touched: bool,
    /// Print one JSON document (schema acetate-diff-v1, docs/cli.md)
    #[arg(long, group = "form")]
    json: bool,
    /// Print counts only
    #[arg(long, group = "form")]
    stat: bool,
    /// Print a unified diff of texts, for patch -p1
    #[arg(long, group = "form")]
    patch: bool,
    /// Write an OCI layer that makes the same changes; - is standard output
    #[arg(long, value_name = "FILE", group = "form")]
    tar: Option<PathBuf>,
    /// Write a page to explore the layers in a browser; - is standard output
    #[arg(long, value_name = "FILE", group = "form")]
    html: Option<PathBuf>,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    changes: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    path: String,
    change: &'static str,
    of: Vec<&'static str>,
    from: Option<String>,
    link: Option<String>,
    kind: &'static str,
    size: u64,
    below: u64,
}

pub(crate) fn run(args: &DiffArgs) -> Result<Exit, Failure> {
    if let [old, new] = args.dirs.as_slice() {
        let (old, new) = (side(old)?.open()?, side(new)?.open()?);
        if args.tar.is_some() {
            return Err(Failure::new("--tar: of an upper layer only", "name --lower DIR --upper DIR").usage());
        }
        if let Some(file) = &args.html {
            let picture = Picture::of_two([0, 1].map(|at| args.dirs[at].as_os_str()), &old, &new)?;
            return write_page(&picture, file);
        }
        return show(args, old.merged(), new.merged());
    }
    let layers = match args.dirs.as_slice() {
        [merged] => of_path(merged)?.1,
        _ => args.layers.layers(),
    };
    if layers.upper.is_none() {
        let what = args.dirs.first().map_or("diff".to_owned(), |dir| shown(dir).to_string());
        let hint =
            "name a mount with an upper layer, the layers (--lower DIR --upper DIR), or two directories";
        return Err(Failure::new(format_args!("{what}: there is no upper layer"), hint).usage());
    }
    let stack = layers.open()?;
    if let Some(file) = &args.html {
        let title =
            args.dirs.first().map(|dir| dir.as_os_str()).or(layers.upper.as_deref().map(Path::as_os_str));
        let picture = Picture::of_layers(title.unwrap_or_default(), &layers, &stack)?;
        return write_page(&picture, file);
    }
    match &args.tar {
        None => show(args, stack.below(), stack.merged()),
        Some(file) => {
            let totals = write_tar(&stack, file)?;
            if totals.sockets_skipped > 0 {
                note(format_args!(
                    "{} sockets are left out: no archive can hold them",
                    totals.sockets_skipped
                ));
            }
            Ok(if totals.objects + totals.whiteouts > 1 { Exit::No } else { Exit::Done })
        }
    }
}

/// One of two trees to compare: a directory, or what the store has under a name.
fn side(named: &Path) -> Result<Layers, Failure> {
    let text = named.to_str().and_then(|text| text.split_once(':'));
    let (lowers, dialect) = match text {
        Some(("image", name)) => {
            let store = open_store(None)?;
            let image = store.image(name)?;
            let layers = image.layers.iter().rev().map(|id| store.layer_tree(id)).collect();
            (layers, store.options().dialect)
        }
        Some(("layer", id)) => {
            let store = open_store(None)?;
            let known = store.layers()?;
            let wanted = id.strip_prefix("sha256:").unwrap_or(id);
            let is_it = |id: &&acetate_image::Digest| {
                id.to_string().strip_prefix("sha256:").is_some_and(|hex| hex.starts_with(wanted))
            };
            let found: Vec<_> = known.iter().filter(is_it).collect();
            let [only] = found.as_slice() else {
                let message = format_args!("layer {id}: {} layers have this digest", found.len());
                return Err(Failure::new(message, "`acetate image show` lists the layers of an image"));
            };
            (vec![store.layer_tree(only)], store.options().dialect)
        }
        Some(("workspace", name)) => {
            let store = open_store(None)?;
            let workspace = store.workspace(name)?;
            let plan = store.plan(&workspace);
            let upper = plan.upper.map(|(upper, _)| upper);
            let layers = plan.tree.into_iter().chain(upper).chain(plan.lowers).collect();
            (layers, store.options().dialect)
        }
        _ => (vec![named.to_owned()], Dialect::Trusted),
    };
    Ok(Layers { upper: None, lowers, data: Vec::new(), dialect })
}

fn write_page(picture: &Picture, file: &Path) -> Result<Exit, Failure> {
    page::write(picture, file)?;
    // What the topmost layer does is what differs.
    let top = picture.survey.layers.first().copied().unwrap_or_default();
    Ok(if top.objects + top.deleted > 0 { Exit::No } else { Exit::Done })
}

fn write_tar(stack: &acetate_stack::Stack, file: &Path) -> Result<tar::Totals, Failure> {
    let failed = |error: &std::io::Error| Failure::io(shown(file), error);
    let output: Box<dyn Write> = if file == Path::new("-") {
        Box::new(std::io::stdout())
    } else {
        Box::new(File::create(file).map_err(|error| failed(&error))?)
    };
    let (totals, mut output) = tar::write(stack, BufWriter::with_capacity(1 << 20, output))?;
    output.flush().map_err(|error| failed(&error))?;
    Ok(totals)
}

fn show(args: &DiffArgs, old: View<'_>, new: View<'_>) -> Result<Exit, Failure> {
    // A patch knows no renames.
    let options = Options { renames: !args.patch, touched: args.touched };
    let changes = between(old, new, options)?;
    let text = if args.json {
        let items = changes.iter().map(item).collect();
        answer_json(&Document { schema: "acetate-diff-v1", changes: items })?;
        String::new()
    } else if args.stat {
        stat(&changes)
    } else if args.patch {
        patch(&changes, old, new)?
    } else {
        changes.iter().map(|change| line(change) + "\n").collect()
    };
    answer(&text).map_err(|error| Failure::io("write the answer", &error))?;
    let any = changes.iter().any(|change| change.how != How::Touched);
    Ok(if any { Exit::No } else { Exit::Done })
}

fn bytes(path: &[u8]) -> String {
    exact(OsStr::from_bytes(path))
}

/// What differs, in words.
fn words(differs: Differs) -> Vec<&'static str> {
    let Differs { content, metadata, kind, links } = differs;
    let all = [(content, "content"), (metadata, "metadata"), (kind, "type"), (links, "links")];
    all.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect()
}

fn item(change: &Change) -> Item {
    let (word, of, from) = match &change.how {
        How::Deleted => ("deleted", vec![], None),
        How::Added => ("added", vec![], None),
        How::Renamed { from, differs } => ("renamed", words(*differs), Some(bytes(from))),
        How::Changed(differs) => ("changed", words(*differs), None),
        How::Touched => ("touched", vec![], None),
    };
    Item {
        path: bytes(&change.path),
        change: word,
        of,
        from,
        link: change.link.as_ref().map(|link| bytes(link)),
        kind: change.kind.name(),
        size: change.size,
        below: change.below,
    }
}

fn line(change: &Change) -> String {
    let item = item(change);
    let slash = if change.kind == Kind::Dir { "/" } else { "" };
    let letter = item.change[..1].to_uppercase();
    let mut more: Vec<String> = item.of.iter().map(|word| (*word).to_owned()).collect();
    match change.how {
        How::Deleted if change.below > 0 => more.push(format!("{} objects below it", change.below)),
        How::Added if change.kind == Kind::File => more.push(size(change.size)),
        _ => {}
    }
    if let Some(link) = &item.link {
        more.push(format!("link to {link}"));
    }
    let more = if more.is_empty() { String::new() } else { format!("  ({})", more.join(", ")) };
    let from = item.from.map(|from| format!("{from}{slash} -> ")).unwrap_or_default();
    format!("{letter} {from}{}{slash}{more}", item.path)
}

/// Counts of each kind of change.
fn stat(changes: &[Change]) -> String {
    let words = ["added", "changed", "renamed", "deleted", "touched"];
    let mut text = String::new();
    for word in words {
        let of: Vec<&Change> = changes.iter().filter(|change| item(change).change == word).collect();
        if of.is_empty() {
            continue;
        }
        let below: u64 = of.iter().map(|change| change.below).sum();
        let bytes: u64 = of.iter().map(|change| change.size).sum();
        let more = if below > 0 { format!(" and {below} below them") } else { String::new() };
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{:>7} {word}{more}, {}", of.len(), size(bytes));
    }
    text
}

/// The changes, and a deletion for each file below a directory that is gone.
fn with_files(changes: &[Change], old: View<'_>) -> Result<Vec<Change>, Failure> {
    let mut all = changes.to_vec();
    for change in changes.iter().filter(|change| change.below > 0) {
        old.visit(&change.path, &old.find(&change.path)?, &mut |path, node| {
            if let Some((_, object)) = node.winner().filter(|(_, object)| object.stat.kind == Kind::File) {
                let (path, size) = (path.to_vec(), object.stat.size);
                all.push(Change { path, how: How::Deleted, kind: Kind::File, size, below: 0, link: None });
            }
            Ok(())
        })?;
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// A unified diff; what is no text is named.
fn patch(changes: &[Change], old: View<'_>, new: View<'_>) -> Result<String, Failure> {
    let mut text = String::new();
    for change in &with_files(changes, old)? {
        let path = bytes(&change.path);
        let side = |is: bool, side: &str| if is { format!("{side}/{path}") } else { "/dev/null".to_owned() };
        let before = side(change.how != How::Added, "a");
        let after = side(change.how != How::Deleted, "b");
        // Writing to a String cannot fail.
        let _infallible = match text::of(old, new, change)? {
            Text::Hunks(hunks) => write!(text, "--- {before}\n+++ {after}\n{hunks}"),
            Text::Binary => writeln!(text, "Binary files {before} and {after} differ"),
            Text::Nothing => writeln!(text, "# {}", line(change)),
        };
    }
    Ok(text)
}
