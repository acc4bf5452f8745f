//! What identifies an object as it was, so that it can be told later whether somebody has changed it.

use acetate_image::Digest;
use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::{At, Errno, Kind, Layer, Result, Stat, Time};
use serde::{Deserialize, Serialize};

/// What identifies an object and what is in it. Two equal ones mean that nothing has changed that the kernel counts as a
/// change: it sets the change time with every write, every new attribute and every rename.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The type, in a word.
    kind: String,
    ino: u64,
    mode: u32,
    owner: (u32, u32),
    /// Size, modification time and change time; of directories nothing, as they change with what others do in them.
    file: Option<(u64, Stamp, Stamp)>,
    /// A digest of the extended attributes of a directory, or of the seals of all that is below it.
    more: Option<Digest>,
}

/// Seconds and nanoseconds.
type Stamp = (i64, u32);

/// What a seal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The object; of a directory its own attributes only.
    Alone,
    /// With all that is below it.
    Whole,
    /// The same without change times, which links to and from it change, too.
    Applied,
}

/// A seal, and the latest change in what it is about: of directories the directory entries count, not their times.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub seal: Seal,
    pub latest: Option<Time>,
}

/// Seals what is there, if there is anything.
///
/// # Errors
/// Those of looking; `EXDEV` if something is mounted in it.
pub(super) fn seal(layer: &DirLayer, at: At<'_, DirLayer>, reach: Reach) -> Result<Option<Sealed>> {
    let stat = match layer.stat(at) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let mut sealed =
        Sealed { seal: alone(&stat, reach), latest: (stat.kind != Kind::Dir).then_some(stat.ctime) };
    if stat.kind == Kind::Dir {
        sealed.seal.more = match reach {
            Reach::Alone => Some(attributes(layer, at)?),
            Reach::Whole | Reach::Applied => {
                let dir = match at {
                    At::Dir(dir) => dir.clone(),
                    At::Name(dir, name) => layer.open_dir(dir, name)?,
                    At::Open(_) => return Err(Errno::INVAL),
                };
                Some(below(layer, dir, reach, &mut sealed.latest)?)
            }
        };
    }
    Ok(Some(sealed))
}

fn alone(stat: &Stat, reach: Reach) -> Seal {
    let ctime = if reach == Reach::Applied { Time { sec: 0, nsec: 0 } } else { stat.ctime };
    let stamp = |time: Time| (time.sec, time.nsec);
    Seal {
        kind: stat.kind.name().to_owned(),
        ino: stat.ino,
        mode: stat.mode,
        owner: (stat.uid, stat.gid),
        file: (stat.kind != Kind::Dir).then(|| (stat.size, stamp(stat.mtime), stamp(ctime))),
        more: None,
    }
}

fn attributes(layer: &DirLayer, at: At<'_, DirLayer>) -> Result<Digest> {
    let mut names = match layer.list_xattrs(at) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        other => other?,
    };
    names.sort();
    let mut text = Vec::new();
    for name in names {
        let value = layer.get_xattr(at, &name)?;
        text.extend_from_slice(format!("{name:?}={value:?};").as_bytes());
    }
    Ok(Digest::of(&text))
}

/// Everything below a directory, one digest after the other, so that the size of the tree does not matter.
fn below(layer: &DirLayer, dir: Dir, reach: Reach, latest: &mut Option<Time>) -> Result<Digest> {
    let mut digest = Digest::of(b"");
    let mut todo = vec![dir];
    while let Some(dir) = todo.pop() {
        let mut names = Vec::new();
        layer.list(&dir, &mut |entry| names.push(entry.name.to_vec()))?;
        names.sort();
        let mut text = digest.hex().into_bytes();
        for name in names {
            let stat = layer.stat(At::Name(&dir, &name))?;
            text.extend_from_slice(format!("{name:?}={:?};", alone(&stat, reach)).as_bytes());
            if stat.kind == Kind::Dir {
                todo.push(layer.open_dir(&dir, &name)?);
            } else {
                *latest = (*latest).max(Some(stat.ctime));
            }
        }
        digest = Digest::of(&text);
    }
    Ok(digest)
}
