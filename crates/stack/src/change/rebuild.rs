//! A new upper layer made beside the old one, and put in its place by one rename.

use std::path::Path;

use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::mark::{Mark, Opaque, ProtAttr};
use acetate_layer::work::{self, WhiteoutForm};
use acetate_layer::{At, Errno, Kind, Layer, Owner, Rename, SetXattr, UpperLayer};

use super::copy::{Copier, Flags, give};
use super::rebase::{Becomes, Plan, Side};
use super::{Site, site};
use crate::node::Node;
use crate::view::View;
use crate::{Error, Result, Stack, failed, joined, split};

impl Site {
    /// Makes the upper layer that `plan` says, over `new`, and puts it in place of this one, which `old` has on top.
    /// `work` is the work directory.
    ///
    /// # Errors
    /// Those of the filesystem; the layer is the old one then.
    pub fn rebase(&self, old: &Stack, new: &Stack, plan: &Plan, work: &Path) -> Result<()> {
        let name = self.staging.fresh_name();
        let made = self.build(old, new, plan, &name);
        let exchanged = made.and_then(|()| self.take_place(&name, work));
        if exchanged.is_err() {
            // Why it failed matters more than what is left of it, which the next mount sweeps.
            let _left_behind = work::remove_tree(&self.layer, self.layer.work(), &name);
        }
        exchanged?;
        work::remove_tree(&self.layer, self.layer.work(), &name)
            .map_err(failed(b"", "remove the old upper layer"))?;
        self.finish_exchange()
    }

    /// Does what is left to be done once the layers have been exchanged: the marks that name origins in layers below which
    /// are no more go, and then the mark that says so.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn finish_exchange(&self) -> Result<()> {
        let opened = |errno| Error::Open { path: self.upper.clone(), errno };
        let layer = DirLayer::open_upper(&self.upper).map_err(opened)?;
        let mut todo = vec![(Vec::new(), layer.root().clone())];
        while let Some((path, dir)) = todo.pop() {
            let mut names = Vec::new();
            layer.list(&dir, &mut |entry| names.push(entry.name.to_vec())).map_err(failed(&path, "list"))?;
            for name in names {
                let path = joined(&path, &name);
                let at = At::Name(&dir, &name);
                let kind = layer.stat(at).map_err(failed(&path, "look at"))?.kind;
                match layer.remove_xattr(at, self.dialect.name(Mark::Origin)) {
                    // No such mark; an object that can have none.
                    Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
                    Err(errno) => return Err(failed(&path, "remove a mark")(errno)),
                }
                if kind == Kind::Dir {
                    let inner = layer.open_dir(&dir, &name).map_err(failed(&path, "open"))?;
                    todo.push((path, inner));
                }
            }
        }
        layer
            .remove_xattr(At::Dir(layer.root()), &site::rebased(self.dialect))
            .map_err(failed(b"", "remove the mark of the new layer"))
    }

    /// Makes the new layer in the staging directory.
    fn build(&self, old: &Stack, new: &Stack, plan: &Plan, name: &[u8]) -> Result<()> {
        let work = self.layer.work();
        let root = self
            .layer
            .make_dir(work, name, 0o700, Owner::Mounter)
            .and_then(|()| self.layer.open_dir(work, name))
            .map_err(failed(b"", "make the new layer"))?;
        let copier = Copier::new(old.merged(), &self.layer, Some(&self.layer), Flags::Mark);
        let mut build =
            Build { site: self, mine: old.merged(), new: new.merged(), plan, root, dirs: Vec::new(), copier };
        build.dirs.push(Vec::new());
        for (path, becomes) in &plan.becomes {
            build.one(path, *becomes)?;
        }
        build.finish()?;
        self.keep_identity(&build.root).map_err(failed(b"", "set the marks of the new layer"))?;
        self.layer.sync_fs().map_err(failed(b"", "make the new layer durable"))
    }

    /// The overlay stays the same one, and is known to be the new one.
    fn keep_identity(&self, root: &Dir) -> acetate_layer::Result<()> {
        self.layer.set_xattr(At::Dir(root), &site::rebased(self.dialect), b"y", SetXattr::Any)?;
        let name = self.dialect.name(Mark::Uuid);
        match self.layer.get_xattr(At::Dir(self.layer.root()), name) {
            Ok(Some(value)) => self.layer.set_xattr(At::Dir(root), name, &value, SetXattr::Any),
            Ok(None) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn take_place(&self, staged: &[u8], work: &Path) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let opened = |errno| Error::Open { path: self.upper.clone(), errno };
        let (Some(above), Some(name)) = (self.upper.parent(), self.upper.file_name()) else {
            return Err(Error::Elsewhere(self.upper.clone()));
        };
        let above = DirLayer::open_upper(above).map_err(opened)?;
        // An empty index names the old upper layer, and keeps the new one from being mounted.
        let workdir = self.layer.open_workdir(work).map_err(opened)?;
        match self.layer.rmdir(&workdir, work::INDEX) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(failed(b"", "remove the empty index")(errno)),
        }
        self.layer
            .rename((self.layer.work(), staged), (above.root(), name.as_bytes()), Rename::Exchange)
            .map_err(failed(b"", "exchange the upper layer with the new one"))
    }
}

struct Build<'a> {
    site: &'a Site,
    mine: View<'a>,
    new: View<'a>,
    plan: &'a Plan,
    root: Dir,
    /// The directories that were made, each before those in it.
    dirs: Vec<Vec<u8>>,
    copier: Copier<'a>,
}

impl Build<'_> {
    fn layer(&self) -> &DirLayer {
        &self.site.layer
    }

    fn one(&mut self, path: &[u8], becomes: Becomes) -> Result<()> {
        let Some((parent, name)) = split(path) else { return Ok(()) };
        let dir = self.dir(parent)?;
        if becomes == Becomes::Whiteout {
            return self.whiteout(path, &dir, name);
        }
        let mine = self.mine.find(path)?;
        if mine.is_dir() {
            return self.dir(path).map(drop);
        }
        match becomes {
            Becomes::Mixed { content, metadata } if content != Side::Upper || metadata != Side::Upper => {
                self.mixed(path, &mine, (content, metadata), &dir, name)
            }
            _ => self.copier.object(path, &mine, &dir, name),
        }
    }

    /// A directory of the new layer, which is made with those above it if it is not there.
    fn dir(&mut self, path: &[u8]) -> Result<Dir> {
        let mut dir = self.root.clone();
        let mut at = Vec::new();
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            at = joined(&at, name);
            dir = match self.layer().open_dir(&dir, name) {
                Err(Errno::NOENT) => self.make(&at, &dir, name)?,
                other => other.map_err(failed(&at, "open"))?,
            };
        }
        Ok(dir)
    }

    fn make(&mut self, path: &[u8], dir: &Dir, name: &[u8]) -> Result<Dir> {
        let layer = self.layer();
        let made = layer.make_dir(dir, name, 0o700, Owner::Mounter).and_then(|()| layer.open_dir(dir, name));
        let made = made.map_err(failed(path, "make the directory"))?;
        let below = self.new.find(path)?;
        // Upper made a directory of what was none, and so did the new layers: theirs is hidden, as it was decided.
        let was_none = self.copier.view.stack().below().find(path)?;
        let replaces = self.plan.becomes.get(path) == Some(&Becomes::Mine)
            && was_none.winner().is_some()
            && !was_none.is_dir();
        if replaces && below.is_dir() {
            let name = self.site.dialect.name(Mark::Opaque);
            let marked = layer.set_xattr(At::Dir(&made), name, b"y", SetXattr::Any);
            marked.map_err(failed(path, "set a mark"))?;
        }
        self.dirs.push(path.to_vec());
        Ok(made)
    }

    fn whiteout(&self, path: &[u8], dir: &Dir, name: &[u8]) -> Result<()> {
        let put = || {
            let staged = self.site.staging.whiteout(self.layer())?;
            let marked = self.site.dialect.name(Mark::Opaque);
            let old = self.layer().get_xattr(At::Dir(dir), marked)?;
            if self.site.staging.form() == WhiteoutForm::Xattr
                && acetate_layer::mark::opaque(old.as_deref()) == Opaque::No
            {
                self.layer().set_xattr(At::Dir(dir), marked, b"x", SetXattr::Any)?;
            }
            staged.publish_new(dir, name)
        };
        put().map_err(failed(path, "put a whiteout"))
    }

    /// An object with its data from one side and its attributes from the other.
    fn mixed(
        &mut self,
        path: &[u8],
        mine: &Node,
        (content, metadata): (Side, Side),
        dir: &Dir,
        name: &[u8],
    ) -> Result<()> {
        let below = self.new.find(path)?;
        let (view, node) = match content {
            Side::Upper => (self.mine, mine),
            Side::Lower => (self.new, &below),
        };
        // No further name of upper's object: its attributes would change as well.
        Copier::new(view, self.layer(), None, Flags::Mark).object(path, node, dir, name)?;
        let (_, object) = view.shown(path, node)?;
        let facts = match metadata {
            Side::Upper => self.mine.facts(path, mine)?,
            Side::Lower => self.new.facts(path, &below)?,
        };
        let at = At::Name(dir, name);
        give(self.layer(), self.site.dialect, at, &object.stat, &facts, ProtAttr::default())
            .map_err(failed(path, "set its attributes"))
    }

    /// Gives the directories that were made their attributes, when all in them is done.
    fn finish(&mut self) -> Result<()> {
        for path in std::mem::take(&mut self.dirs).iter().rev() {
            let dir = site::open(self.layer(), &self.root, path).map_err(failed(path, "open"))?;
            let (mine, below) = (self.mine.find(path)?, self.new.find(path)?);
            let ours = match self.plan.becomes.get(path) {
                Some(Becomes::Mine) => true,
                Some(Becomes::Mixed { metadata, .. }) => *metadata == Side::Upper,
                Some(Becomes::Whiteout) | None => !below.is_dir(),
            };
            let facts = if ours { self.mine.facts(path, &mine)? } else { self.new.facts(path, &below)? };
            // Its time is that of the last change in it, which is upper's.
            let timed = if mine.is_dir() { (self.mine, &mine) } else { (self.new, &below) };
            let (_, object) = timed.0.shown(path, timed.1)?;
            give(self.layer(), self.site.dialect, At::Dir(&dir), &object.stat, &facts, ProtAttr::default())
                .map_err(failed(path, "set its attributes"))?;
        }
        Ok(())
    }
}
