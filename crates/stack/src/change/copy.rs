//! What a stack shows, copied into a writable layer.

use std::collections::HashMap;

use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::mark::{self, Dialect, Mark, ProtAttr};
use acetate_layer::{Access, At, Errno, Kind, Layer, Owner, SetTime, SetXattr, Stat, UpperLayer};

use super::site;
use crate::node::Node;
use crate::view::{Facts, View};
use crate::{Error, Result, failed, joined, split};

/// Copies objects of a view into a layer.
pub(super) struct Copier<'a> {
    pub view: View<'a>,
    /// Where to.
    pub to: &'a DirLayer,
    /// The upper layer of the view, open for writing: its objects get further names where that can be done, and are not
    /// copied.
    pub upper: Option<&'a DirLayer>,
    /// Inode flags that an upper layer only shows become marks; in other layers there is nothing for them.
    pub flags: Flags,
    /// The first copy of objects with several names.
    made: HashMap<(u64, u64), (Dir, Vec<u8>)>,
    /// Which of them was made last.
    last: Option<(u64, u64)>,
}

/// What becomes of append-only and immutable objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flags {
    /// A mark says so.
    Mark,
    /// They are refused.
    Refuse,
}

/// A directory whose content is being copied.
struct Frame {
    path: Vec<u8>,
    node: Node,
    dir: Dir,
    left: Vec<(Vec<u8>, Node)>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(view: View<'a>, to: &'a DirLayer, upper: Option<&'a DirLayer>, flags: Flags) -> Self {
        Copier { view, to, upper, flags, made: HashMap::new(), last: None }
    }

    fn dialect(&self) -> Dialect {
        self.view.stack().dialect()
    }

    /// Copies all that is shown at a path to `name` in `dir`, where nothing may be.
    pub(super) fn tree(&mut self, path: &[u8], node: &Node, dir: &Dir, name: &[u8]) -> Result<()> {
        if !node.is_dir() {
            return self.object(path, node, dir, name);
        }
        let mut frames = vec![self.enter(path, node.clone(), dir, name)?];
        while let Some(top) = frames.last_mut() {
            let Some((name, node)) = top.left.pop() else {
                self.attributes(&top.path, &top.node, At::Dir(&top.dir))?;
                frames.pop();
                continue;
            };
            let (path, dir) = (joined(&top.path, &name), top.dir.clone());
            if let Some(problem) = node.problem {
                return Err(Error::Broken { path, problem });
            }
            if node.is_dir() {
                frames.push(self.enter(&path, node, &dir, &name)?);
            } else {
                self.object(&path, &node, &dir, &name)?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, path: &[u8], node: Node, dir: &Dir, name: &[u8]) -> Result<Frame> {
        let made = self
            .to
            .make_dir(dir, name, 0o700, Owner::Mounter)
            .and_then(|()| self.to.open_dir(dir, name))
            .map_err(failed(path, "make a copy of the directory"))?;
        let left = self.view.children(path, &node)?;
        Ok(Frame { path: path.to_vec(), node, dir: made, left })
    }

    /// Copies what is no directory to `name` in `dir`, where nothing may be.
    pub(super) fn object(&mut self, path: &[u8], node: &Node, dir: &Dir, name: &[u8]) -> Result<()> {
        self.last = None;
        if self.linked(path, node, dir, name)? {
            return Ok(());
        }
        let (_, object) = self.view.shown(path, node)?;
        let stat = object.stat.clone();
        if stat.nlink > 1 {
            if let Some((first, first_name)) = self.made.get(&object.id()) {
                match self.to.link(At::Name(first, first_name), dir, name) {
                    Err(Errno::MLINK) => {}
                    other => return other.map_err(failed(path, "make a hard link")),
                }
            }
            self.made.insert(object.id(), (dir.clone(), name.to_vec()));
            self.last = Some(object.id());
        }
        match stat.kind {
            Kind::File => self.data(path, node, &stat, dir, name)?,
            Kind::Symlink => {
                let aim = self.view.read_link(path, node)?;
                self.to
                    .make_symlink(dir, name, &aim, Owner::Mounter)
                    .map_err(failed(path, "copy the symlink"))?;
            }
            kind => self
                .to
                .make_node(dir, name, kind, 0o600, stat.rdev, Owner::Mounter)
                .map_err(failed(path, "copy the special file"))?,
        }
        self.attributes(path, node, At::Name(dir, name))
    }

    /// The last copy has been given this name.
    pub(super) fn renamed(&mut self, dir: &Dir, name: &[u8]) {
        if let Some(place) = self.last.take().and_then(|id| self.made.get_mut(&id)) {
            *place = (dir.clone(), name.to_vec());
        }
    }

    /// Gives an object of upper another name. `false` if it has to be copied.
    fn linked(&self, path: &[u8], node: &Node, dir: &Dir, name: &[u8]) -> Result<bool> {
        let Some(upper) = self.upper else { return Ok(false) };
        let Some(object) = node.part(0).filter(|object| !object.metacopy && self.view.top() == 0) else {
            return Ok(false);
        };
        if self.flags == Flags::Refuse {
            self.protection(path, node)?;
        }
        let (parent, own) = split(path).ok_or_else(|| failed(path, "link")(Errno::INVAL))?;
        let from = site::open(upper, upper.root(), parent).map_err(failed(parent, "open"))?;
        debug_assert_ne!(object.stat.kind, Kind::Dir);
        match self.to.link(At::Name(&from, own), dir, name) {
            Ok(()) => Ok(true),
            // Another filesystem; a full inode; a file that may not be linked.
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM) => Ok(false),
            Err(errno) => Err(failed(path, "make a hard link")(errno)),
        }
    }

    fn data(&self, path: &[u8], node: &Node, stat: &Stat, dir: &Dir, name: &[u8]) -> Result<()> {
        let file = self.to.create(dir, name, 0o600, Owner::Mounter).map_err(failed(path, "make a copy"))?;
        if stat.size == 0 {
            return Ok(());
        }
        let Some((number, source)) = node.data() else {
            let problem = node.problem.unwrap_or(crate::Problem::NoData);
            return Err(Error::Broken { path: path.to_vec(), problem });
        };
        let layer = self.view.stack().layer(number);
        let from = layer.open_file(source.at(), Access::Read).map_err(failed(path, "open"))?;
        self.to.copy_data(&from, &file, stat.size, &|| true).map_err(failed(path, "copy the data"))
    }

    /// Gives a new object the attributes of what is shown.
    pub(super) fn attributes(&self, path: &[u8], node: &Node, at: At<'_, DirLayer>) -> Result<()> {
        let (_, object) = self.view.shown(path, node)?;
        let facts = self.view.facts(path, node)?;
        let protection = self.protection(path, node)?;
        give(self.to, self.dialect(), at, &object.stat, &facts, protection)
            .map_err(failed(path, "set its attributes"))
    }

    /// The inode flags of what is shown.
    fn protection(&self, path: &[u8], node: &Node) -> Result<ProtAttr> {
        let (layer, object) = self.view.shown(path, node)?;
        let stat = &object.stat;
        let mut flags = ProtAttr { append_only: stat.append_only, immutable: stat.immutable };
        if matches!(stat.kind, Kind::File | Kind::Dir) {
            let value =
                self.view.mark(layer, object.at(), Mark::ProtAttr).map_err(failed(path, "read a mark"))?;
            let marked = value.as_deref().and_then(ProtAttr::parse).unwrap_or_default();
            flags.append_only |= marked.append_only;
            flags.immutable |= marked.immutable;
        }
        if self.flags == Flags::Refuse && flags != ProtAttr::default() {
            let reason = "it is append-only or immutable, which a lower layer cannot become here";
            return Err(Error::Inexpressible { path: path.to_vec(), reason });
        }
        Ok(flags)
    }
}

/// Gives an object attributes. What it has in excess is removed, but for private marks and labels.
///
/// The order matters: a change of owner takes set-id bits and capabilities away, an ACL changes the mode.
pub(super) fn give(
    layer: &DirLayer,
    dialect: Dialect,
    at: At<'_, DirLayer>,
    stat: &Stat,
    facts: &Facts,
    protection: ProtAttr,
) -> acetate_layer::Result<()> {
    layer.set_owner(at, Some(facts.owner.0), Some(facts.owner.1))?;
    let names = match layer.list_xattrs(at) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        other => other?,
    };
    for name in names {
        let Some(shown) = mark::to_user(dialect, &name) else { continue };
        if !facts.xattrs.contains_key(shown.as_ref()) && name != b"security.selinux" {
            layer.remove_xattr(at, &name)?;
        }
    }
    for (name, value) in &facts.xattrs {
        layer.set_xattr(at, &mark::to_disk(dialect, name)?, value, SetXattr::Any)?;
    }
    if stat.kind != Kind::Symlink {
        layer.set_mode(at, facts.mode)?;
    }
    if protection != ProtAttr::default() {
        layer.set_xattr(at, dialect.name(Mark::ProtAttr), protection.format(), SetXattr::Any)?;
    }
    layer.set_times(at, SetTime::To(stat.atime), SetTime::To(stat.mtime))
}
