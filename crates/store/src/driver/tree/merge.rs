//! The one walk that makes trees: everything in a source directory is brought over a target directory.

use super::attributes::{self, Before, Extras};
use super::data::Copier;
use super::remove::{names, open_up, remove, stat_if_any};
use super::{How, Totals, TreeError};
use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::mark::{self, Dialect};
use acetate_layer::{Access, At, Errno, Kind, Layer, Owner, Stat, UpperLayer};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A walk over a source and its state.
pub(super) struct Merge<'a> {
    source: &'a DirLayer,
    target: &'a DirLayer,
    /// Where the marks of the source are; `None` if it is a plain tree.
    marks: Option<Dialect>,
    how: How,
    copier: Copier,
    /// Where objects with several names are in the target, by device and inode number in the source.
    links: HashMap<(u64, u64), Name>,
    /// The directories from the root to where the walk is.
    stack: Vec<Frame>,
    totals: Totals,
}

/// A name in the target.
struct Name {
    dir: Dir,
    name: Box<[u8]>,
}

/// A directory that is being brought over.
struct Frame {
    source: Dir,
    target: Dir,
    name: Box<[u8]>,
    /// What the target becomes when all below it is done.
    stat: Stat,
    extras: Extras,
    before: Before,
    left: std::vec::IntoIter<Box<[u8]>>,
}

/// Why a walk ended early.
pub(super) struct Stopped {
    /// From the root of the source.
    path: PathBuf,
    why: Why,
}

/// What goes wrong with one object.
enum Why {
    Unsupported(&'static str),
    Source(&'static str, Errno),
    Target(&'static str, Errno),
}

type Result<T> = std::result::Result<T, Why>;

/// Names the step that failed.
trait Step<T> {
    fn reading(self, what: &'static str) -> Result<T>;
    fn making(self, what: &'static str) -> Result<T>;
}

impl<T> Step<T> for acetate_layer::Result<T> {
    fn reading(self, what: &'static str) -> Result<T> {
        self.map_err(|errno| Why::Source(what, errno))
    }

    fn making(self, what: &'static str) -> Result<T> {
        self.map_err(|errno| Why::Target(what, errno))
    }
}

impl Stopped {
    /// The error about the tree at `from` or the one at `to`.
    pub(super) fn explain(self, from: &Path, to: &Path) -> TreeError {
        match self.why {
            Why::Unsupported(mark) => TreeError::Unsupported { path: from.join(self.path), mark },
            Why::Source(what, errno) => TreeError::Failed { what, path: from.join(self.path), errno },
            Why::Target(what, errno) => TreeError::Failed { what, path: to.join(self.path), errno },
        }
    }
}

impl<'a> Merge<'a> {
    pub(super) fn new(source: &'a DirLayer, target: &'a DirLayer, marks: Option<Dialect>, how: How) -> Self {
        Merge {
            source,
            target,
            marks,
            how,
            copier: Copier::default(),
            links: HashMap::new(),
            stack: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Does it all.
    pub(super) fn run(mut self) -> std::result::Result<Totals, Stopped> {
        let root = self.enter_root();
        self.stopping_at(b"", root)?;
        while let Some(top) = self.stack.last_mut() {
            if let Some(name) = top.left.next() {
                let done = self.entry(&name);
                self.stopping_at(&name, done)?;
            } else {
                let done = self.leave();
                self.stopping_at(b"", done)?;
                self.stack.pop();
            }
        }
        Ok(self.totals)
    }

    /// Adds the path to an error about `name` in the directory where the walk is.
    fn stopping_at(&self, name: &[u8], result: Result<()>) -> std::result::Result<(), Stopped> {
        result.map_err(|why| {
            let dirs = self.stack.iter().map(|frame| &*frame.name);
            let names = dirs.chain([name]).filter(|name| !name.is_empty());
            Stopped { path: names.map(OsStr::from_bytes).collect(), why }
        })
    }

    /// Starts with the roots. They are always merged, whatever marks the source's carries.
    fn enter_root(&mut self) -> Result<()> {
        let (source, target) = (self.source.root().clone(), self.target.root().clone());
        let stat = self.source.stat(At::Dir(&source)).reading("look at")?;
        let extras = Extras::read(self.source, At::Dir(&source), &stat, self.marks)
            .reading("read the extended attributes of")?;
        let old = self.target.stat(At::Dir(&target)).making("look at")?;
        open_up(self.target, At::Dir(&target), &old).making("change the mode of")?;
        self.enter(Box::default(), source, target, stat, extras, Before::Old)
    }

    fn enter(
        &mut self,
        name: Box<[u8]>,
        source: Dir,
        target: Dir,
        stat: Stat,
        extras: Extras,
        before: Before,
    ) -> Result<()> {
        if before == Before::Old {
            attributes::stop_inheritance(self.target, At::Dir(&target))
                .making("remove the default ACL of")?;
        }
        let left = names(self.source, &source).reading("list")?.into_iter();
        self.stack.push(Frame { source, target, name, stat, extras, before, left });
        Ok(())
    }

    /// Finishes the directory where the walk is: its times, too, change no more.
    fn leave(&mut self) -> Result<()> {
        let Some(frame) = self.stack.last() else { return Ok(()) };
        let at = At::Dir(&frame.target);
        let set = attributes::set(self.target, at, &frame.stat, &frame.extras, frame.before);
        self.totals.xattrs_lost += set.making("set the attributes of")?;
        self.totals.dirs += 1;
        Ok(())
    }

    /// Brings `name` of the directory where the walk is.
    fn entry(&mut self, name: &[u8]) -> Result<()> {
        let Some(top) = self.stack.last() else { return Ok(()) };
        let (source, target, before) = (top.source.clone(), top.target.clone(), top.before);
        let at = At::Name(&source, name);
        let stat = self.source.stat(at).reading("look at")?;
        if self.marks.is_some() && mark::is_device_whiteout(&stat) {
            return self.clear(&target, name, before);
        }
        let extras =
            Extras::read(self.source, at, &stat, self.marks).reading("read the extended attributes of")?;
        if let Some(mark) = extras.unsupported {
            return Err(Why::Unsupported(mark));
        }
        if extras.whiteout {
            return self.clear(&target, name, before);
        }
        if stat.kind == Kind::Dir {
            return self.dir(&source, &target, name, stat, extras, before);
        }
        self.clear(&target, name, before)?;
        if stat.nlink > 1 && self.link(&target, name, &stat)? {
            return Ok(());
        }
        match stat.kind {
            Kind::File => self.file(at, &target, name, &stat, &extras),
            _ => self.other(at, &target, name, &stat, &extras),
        }
    }

    /// Makes room for, or hides, `name`: nothing is to be done in a directory that has just been made.
    fn clear(&mut self, target: &Dir, name: &[u8], before: Before) -> Result<()> {
        if before == Before::Old && remove(self.target, target, name).making("remove")? {
            self.totals.removed += 1;
        }
        Ok(())
    }

    fn dir(
        &mut self,
        source: &Dir,
        target: &Dir,
        name: &[u8],
        stat: Stat,
        extras: Extras,
        above: Before,
    ) -> Result<()> {
        let old = match above {
            Before::New => None,
            Before::Old => stat_if_any(self.target, target, name).making("look at")?,
        };
        let before = match old {
            Some(old) if old.kind == Kind::Dir && !extras.opaque => {
                open_up(self.target, At::Name(target, name), &old).making("change the mode of")?;
                Before::Old
            }
            _ => {
                self.clear(target, name, above)?;
                self.target.make_dir(target, name, 0o700, Owner::Mounter).making("make the directory")?;
                Before::New
            }
        };
        let source = self.source.open_dir(source, name).reading("open")?;
        let target = self.target.open_dir(target, name).making("open")?;
        self.enter(name.into(), source, target, stat, extras, before)
    }

    /// Makes `name` a further name of what has been brought before. Returns whether it could.
    fn link(&mut self, target: &Dir, name: &[u8], stat: &Stat) -> Result<bool> {
        let id = (stat.dev, stat.ino);
        if let Some(first) = self.links.get(&id) {
            match self.target.link(At::Name(&first.dir, &first.name), target, name) {
                Ok(()) => {
                    self.totals.links += 1;
                    return Ok(true);
                }
                // The target allows fewer names than the source: go on with another copy.
                Err(Errno::MLINK) => {}
                Err(errno) => return Err(Why::Target("make the hard link", errno)),
            }
        }
        self.links.insert(id, Name { dir: target.clone(), name: name.into() });
        Ok(false)
    }

    fn file(
        &mut self,
        from: At<'_, DirLayer>,
        target: &Dir,
        name: &[u8],
        stat: &Stat,
        extras: &Extras,
    ) -> Result<()> {
        let file = self.target.create(target, name, 0o600, Owner::Mounter).making("make the file")?;
        if stat.size > 0 {
            let data = self.source.open_file(from, Access::Read).reading("open")?;
            match self.how {
                How::Clone => self.target.copy_data(&data, &file, stat.size, &|| true),
                How::Copy => self.copier.copy((self.source, &data), (self.target, &file), stat.size),
            }
            .making("write the data of")?;
        }
        self.finish(At::Open(&file), stat, extras)?;
        self.totals.files += 1;
        self.totals.bytes += stat.size;
        Ok(())
    }

    fn other(
        &mut self,
        from: At<'_, DirLayer>,
        target: &Dir,
        name: &[u8],
        stat: &Stat,
        extras: &Extras,
    ) -> Result<()> {
        if stat.kind == Kind::Symlink {
            let aim = self.source.read_link(from).reading("read the symlink")?;
            self.target.make_symlink(target, name, &aim, Owner::Mounter).making("make the symlink")?;
        } else {
            self.target
                .make_node(target, name, stat.kind, 0o600, stat.rdev, Owner::Mounter)
                .making("make the special file")?;
        }
        self.finish(At::Name(target, name), stat, extras)?;
        self.totals.others += 1;
        Ok(())
    }

    /// Gives a new non-directory its attributes.
    fn finish(&mut self, at: At<'_, DirLayer>, stat: &Stat, extras: &Extras) -> Result<()> {
        let lost = attributes::set(self.target, at, stat, extras, Before::New);
        self.totals.xattrs_lost += lost.making("set the attributes of")?;
        Ok(())
    }
}
