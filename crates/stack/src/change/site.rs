//! An upper layer and its staging directory, open for changes.

use std::path::{Path, PathBuf};

use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::mark::{Dialect, EXTENDED, Mark};
use acetate_layer::work::{self, PrepareError, Staging};
use acetate_layer::{At, Errno, Kind, Layer, Rename, SetTime, SetXattr, UpperLayer};

use super::note::Held;
use super::{Act, Step};
use crate::{Error, Result, Stack, failed, is_extended, split};

const CAPABILITY: &[u8] = b"security.capability";
const STAGING_MODE: u32 = 0o700;

/// What an earlier command has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or a layer that shows what it should.
    Nothing,
    /// The layer had been exchanged with a new one; only cleaning up was left.
    Exchanged,
}

/// An upper layer that nobody else uses, and its staging directory.
#[derive(Debug)]
pub struct Site {
    pub(super) layer: DirLayer,
    pub(super) staging: Staging,
    pub(super) dialect: Dialect,
    pub(super) upper: PathBuf,
}

/// The mark of an upper layer that has taken the place of another one, until all is done about that. Mounts hide it, as all
/// private marks, and leave it alone.
pub(super) fn rebased(dialect: Dialect) -> Vec<u8> {
    [dialect.prefix(), b"rebased"].concat()
}

/// What a removal finds in place of a mark.
fn absent_is_fine(result: acetate_layer::Result<()>) -> acetate_layer::Result<()> {
    match result {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

impl Site {
    /// Opens both for writing, puts right what a killed command has left, and sweeps the staging directory. Whoever calls
    /// this sees to it that no mount uses them.
    ///
    /// # Errors
    /// A directory that cannot be opened; [`Error::Unfinished`] if the work directory keeps mounts away;
    /// [`Error::Indexed`] if there are names in its index, which only a mount understands.
    pub fn open(upper: &Path, work: &Path, dialect: Dialect) -> Result<(Site, Found)> {
        let opened = |path: &Path| {
            let path = path.to_owned();
            move |errno| Error::Open { path, errno }
        };
        let mut layer = DirLayer::open_upper(upper).map_err(opened(upper))?;
        let workdir = layer.open_workdir(work).map_err(opened(work))?;
        if !no_index(&layer, &workdir).map_err(opened(work))? {
            return Err(Error::Indexed(work.into()));
        }
        let left = match layer.open_dir(&workdir, work::WORK) {
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            other => {
                let staging = other.map_err(opened(work))?;
                Held::read(&layer, &staging).map_err(opened(work))?
            }
        };
        if let Some(held) = &left {
            restore_left(&layer, held)?;
        }
        let found = match layer.get_xattr(At::Dir(layer.root()), &rebased(dialect)) {
            Ok(Some(_)) => Found::Exchanged,
            Ok(None) | Err(Errno::OPNOTSUPP) => Found::Nothing,
            Err(errno) => return Err(opened(upper)(errno)),
        };
        // What users' marks may lead to is followed here, too, and stays said until nothing of it is left.
        let extended = is_extended(&layer, dialect).map_err(opened(upper))?;
        let known: &[&[u8]] = if extended { &[EXTENDED] } else { &[] };
        let staging = match work::prepare(&layer, &workdir, STAGING_MODE, known) {
            Err(PrepareError::Incompatible) => return Err(Error::Unfinished(work.into())),
            Err(PrepareError::Failed { step, errno }) => return Err(failed(b"", step)(errno)),
            Ok(staging) => staging,
        };
        layer.set_work(staging);
        if extended {
            work::mark_extended(&layer).map_err(opened(upper))?;
        }
        let abilities =
            work::probe(&layer, Some(dialect)).map_err(failed(b"", "try the staging directory"))?;
        let staging = Staging::new(dialect, abilities.whiteouts);
        Ok((Site { layer, staging, dialect, upper: upper.into() }, found))
    }

    /// Does the steps, in their order. `stack` is the layer over those below it.
    ///
    /// # Errors
    /// Those of the filesystems. The layer then shows what it did, and its copies that were not finished are gone.
    pub fn run(&self, stack: &Stack, steps: &[Step]) -> Result<()> {
        for step in steps {
            match step.act {
                Act::Fill { .. } => self.fill(stack, &step.path)?,
                Act::Unfold { .. } => self.unfold(stack, &step.path)?,
                Act::CutOff => {
                    self.mark(&step.path, Mark::Opaque, b"y")?;
                    self.unmark(&step.path, Mark::Redirect)?;
                }
                Act::Unmark(mark) => self.unmark(&step.path, mark)?,
                Act::Unhide | Act::Remove { .. } => self.remove(&step.path)?,
            }
        }
        Held::clear(&self.layer).map_err(failed(b"", "remove the note in the staging directory"))
    }

    /// Records that the layer holds no redirect and no metadata-only copy any more, so that any mount may read it.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn declare_plain(&self) -> Result<()> {
        work::unmark_extended(&self.layer).map_err(failed(b"", "take the mark compat=extended away"))
    }

    /// A directory of the layer.
    pub(super) fn dir(&self, path: &[u8]) -> Result<Dir> {
        open(&self.layer, self.layer.root(), path).map_err(failed(path, "open"))
    }

    /// The directory that a path is in, and its name there.
    pub(super) fn place<'p>(&self, path: &'p [u8]) -> Result<(Dir, &'p [u8])> {
        let (dir, name) = split(path).ok_or_else(|| failed(path, "open")(Errno::INVAL))?;
        Ok((self.dir(dir)?, name))
    }

    fn mark(&self, path: &[u8], mark: Mark, value: &[u8]) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let at = At::Name(&dir, name);
        self.layer
            .set_xattr(at, self.dialect.name(mark), value, SetXattr::Any)
            .map_err(failed(path, "set a mark"))
    }

    pub(super) fn unmark(&self, path: &[u8], mark: Mark) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let removed = self.layer.remove_xattr(At::Name(&dir, name), self.dialect.name(mark));
        absent_is_fine(removed).map_err(failed(path, "remove a mark"))
    }

    /// Notes what an object has to get back after the change that comes now.
    pub(super) fn hold(&self, path: &[u8]) -> Result<Held> {
        self.hold_now(path).map_err(failed(path, "note its times in the staging directory"))
    }

    fn hold_now(&self, path: &[u8]) -> acetate_layer::Result<Held> {
        let held = match split(path) {
            None => held(&self.layer, path, At::Dir(self.layer.root()))?,
            Some((dir, name)) => {
                let dir = open(&self.layer, self.layer.root(), dir)?;
                held(&self.layer, path, At::Name(&dir, name))?
            }
        };
        held.write(&self.layer)?;
        Ok(held)
    }

    /// Gives it back.
    pub(super) fn give_back(&self, held: &Held) -> Result<()> {
        give_back(&self.layer, held).map_err(failed(&held.path, "set its times"))
    }

    /// Removes what is at a path, which is no directory or an empty one.
    fn remove(&self, path: &[u8]) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let parent = split(path).map_or(&b""[..], |(parent, _)| parent);
        let held = self.hold(parent)?;
        let kind = match self.layer.stat(At::Name(&dir, name)) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(failed(path, "look at"))?.kind,
        };
        let removed =
            if kind == Kind::Dir { self.layer.rmdir(&dir, name) } else { self.layer.unlink(&dir, name) };
        removed.map_err(failed(path, "remove"))?;
        self.give_back(&held)
    }

    /// Exchanges the directory of this name in the staging directory with the one at a path, and removes that one.
    pub(super) fn exchange(&self, staged: &[u8], path: &[u8]) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let parent = split(path).map_or(&b""[..], |(parent, _)| parent);
        let held = self.hold(parent)?;
        let work = self.layer.work();
        self.layer
            .rename((work, staged), (&dir, name), Rename::Exchange)
            .map_err(failed(path, "exchange it with its copy"))?;
        self.give_back(&held)?;
        work::remove_tree(&self.layer, work, staged).map_err(failed(path, "remove the old directory"))
    }
}

/// Opens a path below a directory.
pub(super) fn open(layer: &DirLayer, root: &Dir, path: &[u8]) -> acetate_layer::Result<Dir> {
    let mut dir = root.clone();
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        dir = layer.open_dir(&dir, name)?;
    }
    Ok(dir)
}

fn held(layer: &DirLayer, path: &[u8], at: At<'_, DirLayer>) -> acetate_layer::Result<Held> {
    let stat = layer.stat(at)?;
    let capability = match stat.kind {
        Kind::File => match layer.get_xattr(at, CAPABILITY) {
            Err(Errno::OPNOTSUPP) => None,
            other => other?,
        },
        _ => None,
    };
    Ok(Held { path: path.to_vec(), ino: stat.ino, atime: stat.atime, mtime: stat.mtime, capability })
}

fn give_back(layer: &DirLayer, held: &Held) -> acetate_layer::Result<()> {
    let (dir, name) = match split(&held.path) {
        None => return give_back_at(layer, held, At::Dir(layer.root())),
        Some((dir, name)) => (open(layer, layer.root(), dir)?, name),
    };
    give_back_at(layer, held, At::Name(&dir, name))
}

fn give_back_at(layer: &DirLayer, held: &Held, at: At<'_, DirLayer>) -> acetate_layer::Result<()> {
    if layer.stat(at)?.ino != held.ino {
        // Somebody else's: what was held is gone.
        return Ok(());
    }
    if let Some(capability) = &held.capability {
        layer.set_xattr(at, CAPABILITY, capability, SetXattr::Any)?;
    }
    layer.set_times(at, SetTime::To(held.atime), SetTime::To(held.mtime))
}

/// Gives an object back what a killed command noted, if it is still there.
fn restore_left(layer: &DirLayer, held: &Held) -> Result<()> {
    match give_back(layer, held) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        other => other.map_err(failed(&held.path, "set the times that a killed command noted")),
    }
}

/// Whether the work directory has no index, or an empty one.
fn no_index(layer: &DirLayer, workdir: &Dir) -> acetate_layer::Result<bool> {
    let index = match layer.open_dir(workdir, work::INDEX) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(true),
        other => other?,
    };
    let mut empty = true;
    layer.list(&index, &mut |_| empty = false)?;
    Ok(empty)
}
