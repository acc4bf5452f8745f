//! The page: one file that needs no other, with the data in it as JSON.
//!
//! The data is columns of numbers, so that 100,000 paths are a few megabytes. Names are text that is already safe to
//! show ([`crate::out::exact`]); in the page they only ever become text nodes.

use super::Picture;
use crate::error::Failure;
use crate::out::shown;
use acetate_layer::Kind;
use acetate_stack::How;
use acetate_stack::survey::{Fate, Totals};
use serde::Serialize;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The page, with a place for the data.
const PAGE: &str = include_str!("page.html");
/// Where the data goes.
const PLACE: &str = "{{data}}";

/// The data of a page.
#[derive(Serialize)]
struct Data<'a> {
    schema: &'static str,
    title: &'a str,
    about: &'a [(&'static str, String)],
    efficiency: f64,
    layers: Vec<Layer<'a>>,
    /// The last component of each path; the root's is empty.
    names: Vec<String>,
    /// For each path the directory above; parents come before what is below them.
    parents: Vec<usize>,
    /// How many parts each path has.
    counts: Vec<usize>,
    /// For each part its layer, the letter of its type, its bytes, and what becomes of it: 0 shown, 1 part of what is
    /// shown, 2 shown elsewhere, 3 and more: hidden by layer 0 and more.
    part_layers: Vec<usize>,
    part_kinds: String,
    part_bytes: Vec<u64>,
    part_fates: Vec<usize>,
    /// For each hidden part, in order: the path at which it is hidden, and how (`w`, `o`, `r`).
    hidden_at: Vec<usize>,
    hidden_how: String,
    /// Parts that have another path in their layer, and that path.
    from: Vec<(usize, String)>,
}

#[derive(Serialize)]
struct Layer<'a> {
    name: &'a str,
    origin: &'a str,
    digest: &'a str,
    objects: u64,
    bytes: u64,
    added: u64,
    changed: u64,
    deleted: u64,
    hides_objects: u64,
    hides_bytes: u64,
    wasted_bytes: u64,
}

/// Writes a page to a file; `-` is standard output.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn write(picture: &Picture, file: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io(shown(file), &error).hint("name a file that can be written");
    let output: Box<dyn Write> = if file == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        Box::new(File::create(file).map_err(failed)?)
    };
    render(picture, BufWriter::with_capacity(1 << 20, output)).map_err(failed)
}

fn render(picture: &Picture, mut output: impl Write) -> io::Result<()> {
    let (before, after) = PAGE.split_once(PLACE).unwrap_or((PAGE, ""));
    output.write_all(before.as_bytes())?;
    // No tag can begin in it: neither the end of the script element, nor a comment.
    let json = serde_json::to_string(&data(picture))?.replace('<', "\\u003c");
    output.write_all(json.as_bytes())?;
    output.write_all(after.as_bytes())?;
    output.flush()
}

fn data(picture: &Picture) -> Data<'_> {
    let survey = &picture.survey;
    let entries = &survey.entries;
    let layers = picture.labels.iter().zip(&survey.layers).map(|(label, totals)| {
        let Totals { objects, bytes, added, changed, deleted, hides_objects, hides_bytes, wasted_bytes } =
            *totals;
        let (name, origin, digest) = (&*label.name, &*label.origin, &*label.digest);
        Layer {
            name,
            origin,
            digest,
            objects,
            bytes,
            added,
            changed,
            deleted,
            hides_objects,
            hides_bytes,
            wasted_bytes,
        }
    });
    let mut data = Data {
        schema: "acetate-page-v1",
        title: &picture.title,
        about: &picture.about,
        efficiency: survey.efficiency().score(),
        layers: layers.collect(),
        names: (0..entries.len()).map(|entry| picture.name(entry)).collect(),
        parents: entries.iter().map(|entry| entry.parent).collect(),
        counts: entries.iter().map(|entry| entry.parts.len()).collect(),
        part_layers: Vec::new(),
        part_kinds: String::new(),
        part_bytes: Vec::new(),
        part_fates: Vec::new(),
        hidden_at: Vec::new(),
        hidden_how: String::new(),
        from: Vec::new(),
    };
    for part in entries.iter().flat_map(|entry| &entry.parts) {
        if let Some(from) = &part.from {
            data.from.push((data.part_layers.len(), crate::out::exact(OsStr::from_bytes(from))));
        }
        data.part_layers.push(part.layer);
        data.part_kinds.push(letter(part.kind, part.opaque));
        data.part_bytes.push(part.bytes);
        data.part_fates.push(match part.fate {
            Fate::Shown => 0,
            Fate::Part => 1,
            Fate::Elsewhere => 2,
            Fate::Hidden { by, at, how } => {
                data.hidden_at.push(at);
                data.hidden_how.push(match how {
                    How::Whiteout => 'w',
                    How::Opaque => 'o',
                    How::Object => 'r',
                });
                3 + by
            }
        });
    }
    data
}

/// The letter of a type: `w` is a whiteout, `o` an opaque directory.
fn letter(kind: Option<Kind>, opaque: bool) -> char {
    match kind {
        None => 'w',
        Some(Kind::Dir) if opaque => 'o',
        Some(Kind::Dir) => 'd',
        Some(Kind::File) => 'f',
        Some(Kind::Symlink) => 'l',
        Some(Kind::Fifo) => 'p',
        Some(Kind::Socket) => 's',
        Some(Kind::CharDevice) => 'c',
        Some(Kind::BlockDevice) => 'b',
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::look::Label;
    use acetate_stack::survey::{Entry, Part, Survey};

    /// The page of one file of that name in one layer.
    fn page(name: &[u8]) -> String {
        let part = |kind| Part {
            layer: 0,
            kind: Some(kind),
            opaque: false,
            bytes: 1,
            from: None,
            fate: Fate::Shown,
        };
        let entry = |name: &[u8], kind| Entry { name: name.to_vec(), parent: 0, parts: vec![part(kind)] };
        let survey = Survey {
            entries: vec![entry(b"", Kind::Dir), entry(name, Kind::File)],
            layers: vec![Totals::default()],
        };
        let label = Label { name: "</script>".into(), origin: "<!--".into(), digest: String::new() };
        let picture = Picture { title: "<b>".into(), about: Vec::new(), labels: vec![label], survey };
        let mut page = Vec::new();
        render(&picture, &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn names_cannot_leave_the_data() {
        let names: [&[u8]; 5] =
            [b"</script><script>alert(1)</script>", b"<!--", b"\xff", b"\n\"", b"{{data}}"];
        for name in names {
            let text = page(name);
            let (_, rest) = text.split_once("id=\"data\">").unwrap();
            let (json, _) = rest.split_once("</script>").unwrap();
            assert!(!json.contains('<'), "{json}");
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(value["names"][1], crate::out::exact(OsStr::from_bytes(name)));
            assert_eq!(value["layers"][0]["name"], "</script>");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let text = page(b"a");
        for word in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!text.contains(word), "{word}");
        }
    }
}
