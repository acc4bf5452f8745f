//! Which layers a command is about: those of a live mount, or those that the command line names.

use crate::error::Failure;
use crate::mountinfo::{self, Mount};
use crate::options::{self, Unknown};
use crate::out::shown;
use crate::record;
use acetate_layer::mark::Dialect;
use acetate_stack::Stack;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Layers by name.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct LayerArgs {
    /// A lower layer, the topmost first
    #[arg(long, value_name = "DIR")]
    lower: Vec<PathBuf>,
    /// A data-only layer below all others (`::` in lowerdir=)
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// The writable layer
    #[arg(long, value_name = "DIR")]
    upper: Option<PathBuf>,
    /// Marks are user.overlay.* [default: trusted.overlay.*]
    #[arg(long)]
    userxattr: bool,
}

/// The layers of a stack.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    pub(crate) upper: Option<PathBuf>,
    pub(crate) lowers: Vec<PathBuf>,
    /// Data-only layers, which come below.
    pub(crate) data: Vec<PathBuf>,
    pub(crate) dialect: Dialect,
}

impl LayerArgs {
    /// Whether the command line names layers.
    pub(crate) fn named(&self) -> bool {
        self.upper.is_some() || !self.lower.is_empty()
    }

    /// The layers that it names.
    pub(crate) fn layers(&self) -> Layers {
        let dialect = if self.userxattr { Dialect::User } else { Dialect::Trusted };
        let (upper, lowers, data) = (self.upper.clone(), self.lower.clone(), self.data.clone());
        Layers { upper, lowers, data, dialect }
    }
}

impl Layers {
    /// Opens them for reading.
    ///
    /// # Errors
    /// A layer that cannot be opened.
    pub(crate) fn open(&self) -> Result<Stack, Failure> {
        Ok(Stack::open_with_data(self.upper.as_deref(), &self.lowers, &self.data, self.dialect)?)
    }

    /// What a layer is called in answers: `upper`, or `lower N` and `data N` with 1 for the topmost.
    pub(crate) fn name(&self, number: usize) -> String {
        let Some(below) = number.checked_sub(usize::from(self.upper.is_some())) else {
            return "upper".into();
        };
        match below.checked_sub(self.lowers.len()) {
            None => format!("lower {}", below + 1),
            Some(data) => format!("data {}", data + 1),
        }
    }

    /// All of them, the topmost first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.upper.iter().chain(&self.lowers).chain(&self.data)
    }
}

/// The overlay that shows a path, its layers, and the path from its root. The path need not exist.
///
/// # Errors
/// A path outside of all overlays; layers that cannot be told.
pub(crate) fn of_path(path: &Path) -> Result<(Mount, Layers, Vec<u8>), Failure> {
    let absolute = real(path)?;
    let table = mountinfo::mounts().map_err(|error| Failure::io("mount table", &error))?;
    // A mount covers those before it in the table.
    let over = table.into_iter().filter(|mount| absolute.starts_with(&mount.point));
    let mount = over.max_by_key(|mount| mount.point.as_os_str().len());
    let mount = mount.filter(|mount| mount.is_ours() || mount.fstype == "overlay").ok_or_else(|| {
        Failure::new(
            format_args!("{}: no overlay shows it", shown(&absolute)),
            "name a path on a mount of Acetate or of the kernel's overlayfs, or the layers: --lower DIR --upper DIR",
        )
    })?;
    let inside = absolute.strip_prefix(&mount.point).unwrap_or(Path::new("")).as_os_str().as_bytes().to_vec();
    let layers = of_mount(&mount)?;
    Ok((mount, layers, inside))
}

/// Where an overlay is mounted that has this directory as a layer, whichever. What a mount does not tell is not found.
///
/// # Errors
/// A directory or a mount table that cannot be read.
pub(crate) fn user_of(layer: &Path) -> Result<Option<PathBuf>, Failure> {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| path.metadata().map(|stat| (stat.dev(), stat.ino()));
    let wanted = id(layer).map_err(|error| Failure::io(format_args!("layer: {}", shown(layer)), &error))?;
    let table = mountinfo::mounts().map_err(|error| Failure::io("mount table", &error))?;
    let user = table.into_iter().filter(|mount| mount.is_ours() || mount.fstype == "overlay").find(|mount| {
        of_mount(mount).is_ok_and(|layers| layers.all().any(|path| id(path).is_ok_and(|id| id == wanted)))
    });
    Ok(user.map(|mount| mount.point))
}

/// The layers of an overlay.
fn of_mount(mount: &Mount) -> Result<Layers, Failure> {
    if mount.is_ours() {
        let found = record::find(mount.device).ok_or_else(|| {
            Failure::new(
                format_args!(
                    "{}: its daemon is gone, or keeps no record that we may read",
                    shown(&mount.point)
                ),
                "name the layers: --lower DIR --upper DIR",
            )
        })?;
        let record = found.record;
        let dialect = match record.marks.as_deref() {
            Some("user.overlay") => Dialect::User,
            _ => Dialect::Trusted,
        };
        let mut lowers: Vec<PathBuf> = record.lower.iter().map(|text| path_of(text)).collect();
        // The record has them all in one list, and the options that mounted them.
        let parsed = options::parse(&[path_of(&record.options)], Unknown::Ignore)?;
        let data = lowers.split_off(lowers.len().saturating_sub(parsed.options.data.len()));
        return Ok(Layers { upper: record.upper.as_deref().map(path_of), lowers, data, dialect });
    }
    let parsed = options::parse(&[&mount.options], Unknown::Ignore)?;
    let user = mount.options.as_bytes().split(|byte| *byte == b',').any(|word| word == b"userxattr");
    let layers = Layers {
        upper: parsed.options.upper.map(PathBuf::from),
        lowers: parsed.options.lowers.into_iter().map(PathBuf::from).collect(),
        data: parsed.options.data.into_iter().map(PathBuf::from).collect(),
        dialect: if user { Dialect::User } else { Dialect::Trusted },
    };
    let relative = layers.all().find(|path| !path.is_absolute()).cloned();
    match relative {
        None => Ok(layers),
        Some(path) => Err(Failure::new(
            format_args!("{}: its layer {} is a relative path", shown(&mount.point), shown(&path)),
            "name the layers: --lower DIR --upper DIR",
        )),
    }
}

/// An absolute path without symlinks in its directories; its last component, and what does not exist, are left as they
/// are.
fn real(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: &std::io::Error| Failure::io(shown(path), error);
    let whole = std::path::absolute(path).map_err(|error| failed(&error))?;
    if whole.components().any(|part| part == Component::ParentDir) {
        // Where it leads depends on symlinks: it has to exist.
        return whole.canonicalize().map_err(|error| failed(&error));
    }
    let mut missing = Vec::new();
    let mut dir = whole.as_path();
    while let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) {
        missing.push(name);
        if let Ok(found) = parent.canonicalize() {
            return Ok(missing.iter().rev().fold(found, |path, name| path.join(name)));
        }
        dir = parent;
    }
    Ok(whole.clone())
}

/// The path that a record's text stands for ([`crate::out::exact`]).
pub(crate) fn path_of(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(1..3).filter(|_| first == b'\\' && tail[0] == b'x');
        let code = code.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        let (byte, after) = match (code, first, tail.first()) {
            (Some(code), ..) => (code, &tail[3..]),
            (None, b'\\', Some(b'\\')) => (b'\\', &tail[1..]),
            _ => (first, tail),
        };
        bytes.push(byte);
        rest = after;
    }
    PathBuf::from(OsString::from_vec(bytes))
}

impl From<acetate_stack::Error> for Failure {
    fn from(error: acetate_stack::Error) -> Failure {
        use acetate_stack::Error;
        let failure = match &error {
            Error::Open { path, errno } => Failure::path("layer", path, *errno),
            Error::Object { path, step, errno } => {
                Failure::path(step, std::ffi::OsStr::from_bytes(path), *errno)
            }
            other => Failure { message: other.to_string(), hint: None, class: crate::error::Class::Refused },
        };
        match error {
            Error::Open { errno: acetate_layer::Errno::NOENT | acetate_layer::Errno::NOTDIR, .. } => {
                failure.hint("name directories that are there")
            }
            Error::Open { .. } => failure.hint("you have to be able to read the directory"),
            Error::Object { errno: acetate_layer::Errno::ACCESS | acetate_layer::Errno::PERM, .. } => {
                failure.hint("reading marks and private files of others takes root")
            }
            Error::Object { errno: acetate_layer::Errno::NOSPC | acetate_layer::Errno::DQUOT, .. } => {
                failure.hint("make room, and run the command again: what is shown has not changed")
            }
            Error::Unfinished(_) => {
                failure.hint("`acetate check --repair` clears it, if the layer may be used as it is")
            }
            Error::Indexed(_) => failure.hint(
                "names of hard links are in it that are not in the layer: mount it with index=on and copy what is shown (cp -a)",
            ),
            Error::Elsewhere(_) => failure.hint("merge into a new directory: --into DIR"),
            Error::Inexpressible { .. } => failure.hint("change or remove it on a mount first"),
            Error::Broken { .. } => {
                failure.hint("`acetate check` says what is wrong with a layer, and mends it")
            }
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::out::exact;
    use std::ffi::OsStr;

    #[test]
    fn texts_of_records_are_paths_again() {
        for bytes in [&b"/a b"[..], b"/\\x41", b"/\xff\n\\", "/\u{fc}".as_bytes(), b"/\\", b"/\\x"] {
            let path = OsStr::from_bytes(bytes);
            assert_eq!(path_of(&exact(path)), Path::new(path), "{path:?}");
        }
    }

    #[test]
    fn a_path_need_not_exist() {
        assert_eq!(real(Path::new("/proc/none/deep")).ok(), Some("/proc/none/deep".into()));
        assert_eq!(real(Path::new("/proc/self/../x")).ok(), None);
    }
}
