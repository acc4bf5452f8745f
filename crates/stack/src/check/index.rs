//! The work directory: what is left in the staging directory, and the index.

use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::mark::{Mark, is_device_whiteout};
use acetate_layer::work::{INCOMPAT, WORK};
use acetate_layer::{At, Errno, Layer};

use super::{Finding, Kind, Origin, Origins, Place, Repair};
use crate::{Result, Stack, failed, joined};

/// The directory of the kernel's index (`index=on`).
const INDEX: &[u8] = b"index";

fn finding(kind: Kind, path: Vec<u8>, what: impl Into<String>, repair: Repair) -> Finding {
    Finding { kind, place: Place::Work, path, what: what.into(), repair: Some(repair) }
}

/// The names in a directory; none if there is no such directory.
fn names(layer: &DirLayer, dir: &Dir, name: &[u8]) -> Result<Vec<Vec<u8>>> {
    let inner = match layer.open_dir(dir, name) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        other => other.map_err(failed(name, "open"))?,
    };
    let mut names = Vec::new();
    layer.list(&inner, &mut |entry| names.push(entry.name.to_vec())).map_err(failed(name, "list"))?;
    names.sort();
    Ok(names)
}

/// Whether an entry is a whiteout: the kernel keeps one there to make others of it, also after the mount's end.
fn is_whiteout(layer: &DirLayer, dir: &[u8], name: &[u8]) -> Result<bool> {
    let path = joined(dir, name);
    let dir = layer.open_dir(layer.root(), dir).map_err(failed(dir, "open"))?;
    let stat = layer.stat(At::Name(&dir, name)).map_err(failed(&path, "stat"))?;
    Ok(is_device_whiteout(&stat))
}

/// Looks into the staging directory.
pub(super) fn staging(layer: &DirLayer) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for name in names(layer, layer.root(), WORK)? {
        let path = joined(WORK, &name);
        if name == INCOMPAT {
            let work = layer.open_dir(layer.root(), WORK).map_err(failed(WORK, "open"))?;
            for feature in names(layer, &work, INCOMPAT)? {
                let what = if feature == b"volatile" {
                    "a volatile mount did not end well: what it wrote last may be damaged".to_owned()
                } else {
                    format!("the feature {} keeps others from mounting", feature.escape_ascii())
                };
                let repair = Repair::RemoveTree;
                found.push(finding(Kind::WorkIncompatible, joined(&path, &feature), what, repair));
            }
        } else if !is_whiteout(layer, WORK, &name)? {
            let what = "left in the staging directory by a mount that was killed";
            found.push(finding(Kind::WorkLeftover, path, what, Repair::RemoveTree));
        }
    }
    Ok(found)
}

/// Looks into the index.
pub(super) fn index(layer: &DirLayer, stack: &Stack, origins: &Origins<'_>) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let entries = names(layer, layer.root(), INDEX)?;
    let at = At::Name(layer.root(), INDEX);
    let name = stack.dialect().name(Mark::Upper);
    match layer.get_xattr(at, name) {
        Ok(Some(value)) => {
            let upper = stack.layer(0);
            let handle = upper.handle(At::Dir(upper.root())).map_err(failed(b"", "get a handle"))?;
            if handle.is_some_and(|handle| acetate_layer::mark::Origin::encode_upper(&handle) != value) {
                let what = "the index belongs to another upper layer";
                let repair = Repair::DropMark { name: name.to_vec() };
                found.push(finding(Kind::IndexStale, INDEX.to_vec(), what, repair));
            }
        }
        Ok(None) | Err(Errno::OPNOTSUPP | Errno::NOENT) => {}
        Err(errno) => return Err(failed(INDEX, "read a mark")(errno)),
    }
    for entry in entries {
        let path = joined(INDEX, &entry);
        if is_whiteout(layer, INDEX, &entry)? {
            continue;
        }
        if entry.starts_with(b"#") {
            // With an index the kernel stages there.
            let what = "left in the index by a mount that was killed";
            found.push(finding(Kind::WorkLeftover, path, what, Repair::RemoveTree));
            continue;
        }
        let what = match unhex(&entry) {
            None => "its name is no file handle",
            Some(value) => match origins.find(&path, &value)? {
                Origin::Gone | Origin::Invalid => "the lower object that it stands for is gone",
                Origin::Unknown | Origin::Object(..) => continue,
            },
        };
        found.push(finding(Kind::IndexStale, path, what, Repair::RemoveTree));
    }
    Ok(found)
}

/// The bytes that a hexadecimal name stands for.
fn unhex(name: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = name.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_index_are_hexadecimal() {
        assert_eq!(unhex(b"00fb1D"), Some(vec![0, 0xfb, 0x1d]));
        assert_eq!(unhex(b"00f"), None);
        assert_eq!(unhex(b"#1"), None);
    }
}
