//! Removing whole trees through a layer, which leads nowhere else.

use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::{At, Errno, Kind, Layer, Result, Stat, UpperLayer};

/// What the owner of a directory needs to change it.
const OWNER_ALL: u32 = 0o700;

/// A directory that is being emptied.
struct Emptied {
    dir: Dir,
    /// Its name in the one before.
    name: Box<[u8]>,
    left: Vec<Box<[u8]>>,
}

/// Removes whatever `name` in `dir` is, with all below it. Returns whether there was anything.
pub(super) fn remove(layer: &DirLayer, dir: &Dir, name: &[u8]) -> Result<bool> {
    let Some(stat) = stat_if_any(layer, dir, name)? else { return Ok(false) };
    if stat.kind != Kind::Dir {
        layer.unlink(dir, name)?;
        return Ok(true);
    }
    let mut stack = vec![enter(layer, dir, name, &stat)?];
    while let Some(top) = stack.last_mut() {
        let Some(name) = top.left.pop() else {
            let Some(emptied) = stack.pop() else { break };
            layer.rmdir(stack.last().map_or(dir, |above| &above.dir), &emptied.name)?;
            continue;
        };
        let Some(stat) = stat_if_any(layer, &top.dir, &name)? else { continue };
        if stat.kind == Kind::Dir {
            let below = enter(layer, &top.dir, &name, &stat)?;
            stack.push(below);
        } else {
            layer.unlink(&top.dir, &name)?;
        }
    }
    Ok(true)
}

/// The attributes of what `name` in `dir` is, if there is anything.
pub(super) fn stat_if_any(layer: &DirLayer, dir: &Dir, name: &[u8]) -> Result<Option<Stat>> {
    match layer.stat(At::Name(dir, name)) {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some),
    }
}

/// Makes sure that a directory of ours can be changed by us, which its mode may forbid to all but root.
pub(super) fn open_up(layer: &DirLayer, dir: At<'_, DirLayer>, stat: &Stat) -> Result<()> {
    if stat.mode & OWNER_ALL == OWNER_ALL {
        return Ok(());
    }
    layer.set_mode(dir, stat.mode | OWNER_ALL)
}

/// The names in a directory, in the order of the filesystem.
pub(super) fn names(layer: &DirLayer, dir: &Dir) -> Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    layer.list(dir, &mut |entry| names.push(entry.name.into()))?;
    Ok(names)
}

fn enter(layer: &DirLayer, dir: &Dir, name: &[u8], stat: &Stat) -> Result<Emptied> {
    open_up(layer, At::Name(dir, name), stat)?;
    let dir = layer.open_dir(dir, name)?;
    let left = names(layer, &dir)?;
    Ok(Emptied { dir, name: name.into(), left })
}
