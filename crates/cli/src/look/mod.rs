//! Layers to look at: what is in them, which of it is shown, and what is wasted; as a table, a page, and full screen.

pub(crate) mod explore;
pub(crate) mod page;
pub(crate) mod table;

use crate::error::Failure;
use crate::layers::Layers;
use crate::out::{exact, shown};
use acetate_layer::Kind;
use acetate_stack::survey::{Fate, Survey};
use acetate_stack::{How, Stack};
use acetate_store::{Image, Store};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Layers with their names, and every path in them.
#[derive(Debug)]
pub(crate) struct Picture {
    /// What is looked at.
    pub(crate) title: String,
    /// More about it: a word and what it says.
    pub(crate) about: Vec<(&'static str, String)>,
    /// The layers, numbered as in the survey: the topmost first.
    pub(crate) labels: Vec<Label>,
    pub(crate) survey: Survey,
}

/// What a layer is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// A short name: a number, or a word.
    pub(crate) name: String,
    /// Where it comes from: what made it, or its directory.
    pub(crate) origin: String,
    /// Its digest, if it is a layer of an image.
    pub(crate) digest: String,
}

impl Picture {
    /// The layers of an image; 1 is the lowest.
    pub(crate) fn of_image(store: &Store, image: &Image) -> Result<Picture, Failure> {
        let config: Value = config(image)?;
        let made: Vec<String> =
            steps(&config).into_iter().filter(|step| step.has_layer).map(|step| step.by).collect();
        let numbered = image.layers.iter().enumerate();
        let labels = numbered.clone().map(|(at, id)| Label {
            name: (at + 1).to_string(),
            origin: made.get(at).map(|by| plain(by)).unwrap_or_default(),
            digest: id.to_string(),
        });
        let mut labels: Vec<Label> = labels.collect();
        labels.reverse();
        let trees: Vec<_> = image.layers.iter().rev().map(|id| store.layer_tree(id)).collect();
        // An image may have no layers at all.
        let survey = Survey::of(Stack::open(None, &trees, store.options().dialect)?.merged())?;
        let name = image.names.first().cloned().unwrap_or_else(|| image.id.short());
        let about = vec![
            ("image", image.names.join(", ")),
            ("id", image.id.to_string()),
            ("from", image.source.clone()),
            ("added", image.added.clone()),
        ];
        let about = about.into_iter().filter(|(_, text)| !text.is_empty());
        let about = about.map(|(word, text)| (word, shown(&text).to_string())).collect();
        Ok(Picture { title: shown(&name).to_string(), about, labels, survey })
    }

    /// The layers of a mount, or those that a command line names.
    pub(crate) fn of_layers(title: &OsStr, layers: &Layers, stack: &Stack) -> Result<Picture, Failure> {
        let label = |(number, path): (usize, &std::path::PathBuf)| Label {
            name: layers.name(number),
            origin: exact(path),
            digest: String::new(),
        };
        let labels = stack.paths().iter().enumerate().map(label).collect();
        let survey = Survey::of(stack.merged())?;
        Ok(Picture { title: shown(title).to_string(), about: Vec::new(), labels, survey })
    }

    /// Two directories, the old one first.
    pub(crate) fn of_two(dirs: [&OsStr; 2], old: &Stack, new: &Stack) -> Result<Picture, Failure> {
        let survey = Survey::of_two(old.merged(), new.merged())?;
        let label = |name: &str, dir: &OsStr| Label {
            name: name.to_owned(),
            origin: exact(dir),
            digest: String::new(),
        };
        let labels = vec![label("new", dirs[1]), label("old", dirs[0])];
        let title = format!("{} → {}", shown(dirs[0]), shown(dirs[1]));
        Ok(Picture { title, about: Vec::new(), labels, survey })
    }

    /// A name as text on one line, from which the bytes can be told.
    pub(crate) fn name(&self, entry: usize) -> String {
        exact(OsStr::from_bytes(&self.survey.entries[entry].name))
    }

    /// A path as such text, with a slash at its start, and one at its end if it is a directory.
    pub(crate) fn path(&self, entry: usize) -> String {
        let path = self.survey.path(entry);
        let is_dir = entry != 0 && self.survey.entries[entry].kind() == Some(Kind::Dir);
        format!("/{}{}", exact(OsStr::from_bytes(&path)), if is_dir { "/" } else { "" })
    }

    /// What becomes of a layer's part of a path, in words.
    pub(crate) fn fate(&self, fate: Fate) -> String {
        match fate {
            Fate::Shown => "shown".into(),
            Fate::Part => "part of what is shown".into(),
            Fate::Elsewhere => "shown at another path".into(),
            Fate::Hidden { by, at, how } => {
                format!("{} {} at {}", verb(how), self.labels[by].name, self.path(at))
            }
        }
    }
}

/// How something is hidden, in words that a layer's name follows.
pub(crate) fn verb(how: How) -> &'static str {
    match how {
        How::Whiteout => "deleted by",
        How::Opaque => "hidden by an opaque directory of",
        How::Object => "replaced by",
    }
}

/// The configuration of an image.
///
/// # Errors
/// One that is no JSON.
pub(crate) fn config(image: &Image) -> Result<Value, Failure> {
    serde_json::from_slice(&image.config).map_err(|error| {
        Failure::new(format_args!("configuration of {}: {error}", image.id), "import it again")
    })
}

/// What an image's history says of one step of its making.
pub(crate) struct Step {
    pub(crate) by: String,
    /// Whether it changed files.
    pub(crate) has_layer: bool,
}

/// The history of an image, which is optional.
pub(crate) fn steps(config: &Value) -> Vec<Step> {
    let step = |item: &Value| Step {
        by: item["created_by"].as_str().unwrap_or_default().to_owned(),
        has_layer: item["empty_layer"] != Value::Bool(true),
    };
    config["history"].as_array().into_iter().flatten().map(step).collect()
}

/// A command as its author wrote it: without the shell that builders put in front of it, on one line.
pub(crate) fn plain(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let text = words.join(" ");
    let text = text.strip_prefix("/bin/sh -c ").unwrap_or(&text);
    shown(text.strip_prefix("#(nop) ").unwrap_or(text)).to_string()
}
