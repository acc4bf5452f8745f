//! Trees that can be compared: a plain directory, and what a stack of layers shows.

use std::collections::BTreeMap;

use acetate_layer::dir::{Dir, DirLayer, File};
use acetate_layer::{Access, At, Errno, Kind, Layer, Rdev};
use acetate_overlay::{Attr, Caller, HandleId, NodeId, OpError, OpenFlags, Overlay, Room};

use super::{Error, joined};

/// What of an object's attributes is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u32, u32),
    pub rdev: Rdev,
    /// As the filesystem says it.
    pub size: u64,
    /// Device and inode number where two views can be trusted to mean the same by them.
    pub identity: Option<(u64, u64)>,
}

/// The answer of a view.
pub(super) type Answer<T> = Result<T, Errno>;

/// A tree that can be read.
pub(super) trait View {
    /// An object.
    type Node;
    /// An open file.
    type Open;

    /// The directory that the tree begins with.
    fn root(&self) -> Answer<(Self::Node, Facts)>;
    /// An entry of a directory.
    fn child(&self, dir: &Self::Node, name: &[u8]) -> Answer<Option<(Self::Node, Facts)>>;
    /// The names in a directory, sorted.
    fn names(&self, dir: &Self::Node) -> Answer<Vec<Vec<u8>>>;
    /// The extended attributes, access control lists among them.
    fn xattrs(&self, node: &Self::Node) -> Answer<BTreeMap<Vec<u8>, Vec<u8>>>;
    /// The target of a symlink.
    fn read_link(&self, node: &Self::Node) -> Answer<Vec<u8>>;
    /// Opens a regular file for reading.
    fn open(&self, node: &Self::Node) -> Answer<Self::Open>;
    /// Fills the buffer from `offset` on; less only at the end of the file.
    fn read(&self, file: &Self::Open, offset: u64, buf: &mut [u8]) -> Answer<usize>;
}

/// The object at a path of a view.
pub(super) fn find<V: View>(view: &V, path: &[u8]) -> Result<V::Node, Error> {
    let failed = |path: &[u8]| {
        let path = path.to_vec();
        move |errno| Error::Read { path, step: "look up", errno }
    };
    let mut node = view.root().map_err(failed(b""))?.0;
    let mut at = Vec::new();
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        at = joined(&at, name);
        let child = view.child(&node, name).and_then(|child| child.ok_or(Errno::NOENT));
        node = child.map_err(failed(&at))?.0;
    }
    Ok(node)
}

/// A directory as it is.
#[derive(Debug)]
pub(super) struct Plain {
    layer: DirLayer,
}

/// An object of a [`Plain`] view.
#[derive(Debug)]
pub(super) enum PlainNode {
    Dir(Dir),
    Named(Dir, Vec<u8>),
}

impl PlainNode {
    fn at(&self) -> At<'_, DirLayer> {
        match self {
            Self::Dir(dir) => At::Dir(dir),
            Self::Named(dir, name) => At::Name(dir, name),
        }
    }

    fn dir(&self) -> Answer<&Dir> {
        match self {
            Self::Dir(dir) => Ok(dir),
            Self::Named(..) => Err(Errno::NOTDIR),
        }
    }
}

impl Plain {
    pub(super) fn new(layer: DirLayer) -> Self {
        Self { layer }
    }

    fn facts(&self, at: At<'_, DirLayer>) -> Answer<Facts> {
        let stat = self.layer.stat(at)?;
        Ok(Facts {
            kind: stat.kind,
            mode: stat.mode,
            owner: (stat.uid, stat.gid),
            rdev: stat.rdev,
            size: stat.size,
            identity: Some((stat.dev, stat.ino)),
        })
    }
}

impl View for Plain {
    type Node = PlainNode;
    type Open = File;

    fn root(&self) -> Answer<(PlainNode, Facts)> {
        let root = self.layer.root();
        Ok((PlainNode::Dir(root.clone()), self.facts(At::Dir(root))?))
    }

    fn child(&self, dir: &PlainNode, name: &[u8]) -> Answer<Option<(PlainNode, Facts)>> {
        let dir = dir.dir()?;
        let facts = match self.facts(At::Name(dir, name)) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let node = match facts.kind {
            Kind::Dir => PlainNode::Dir(self.layer.open_dir(dir, name)?),
            _ => PlainNode::Named(dir.clone(), name.to_vec()),
        };
        Ok(Some((node, facts)))
    }

    fn names(&self, dir: &PlainNode) -> Answer<Vec<Vec<u8>>> {
        names_of(&self.layer, dir.dir()?)
    }

    fn xattrs(&self, node: &PlainNode) -> Answer<BTreeMap<Vec<u8>, Vec<u8>>> {
        let names = match self.layer.list_xattrs(node.at()) {
            Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
            other => other?,
        };
        let mut xattrs = BTreeMap::new();
        for name in names {
            if let Some(value) = self.layer.get_xattr(node.at(), &name)? {
                xattrs.insert(name, value);
            }
        }
        Ok(xattrs)
    }

    fn read_link(&self, node: &PlainNode) -> Answer<Vec<u8>> {
        self.layer.read_link(node.at())
    }

    fn open(&self, node: &PlainNode) -> Answer<File> {
        self.layer.open_file(node.at(), Access::Read)
    }

    fn read(&self, file: &File, offset: u64, buf: &mut [u8]) -> Answer<usize> {
        self.layer.read_at(file, buf, offset)
    }
}

/// The names in a directory of a layer, sorted.
pub(super) fn names_of(layer: &DirLayer, dir: &Dir) -> Answer<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    layer.list(dir, &mut |entry| names.push(entry.name.to_vec()))?;
    names.sort();
    Ok(names)
}

/// Sees everything, and creates nothing.
const READER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

/// What a stack of layers shows.
pub(super) struct Merged {
    overlay: Overlay<DirLayer>,
}

/// An object of a [`Merged`] view; the engine forgets it when it is dropped.
pub(super) struct MergedNode<'a> {
    overlay: &'a Overlay<DirLayer>,
    id: NodeId,
}

impl Drop for MergedNode<'_> {
    fn drop(&mut self) {
        if self.id != NodeId::ROOT {
            self.overlay.forget(self.id, 1);
        }
    }
}

/// An open file or directory of a [`Merged`] view; the engine closes it when it is dropped.
pub(super) struct MergedOpen<'a> {
    overlay: &'a Overlay<DirLayer>,
    id: HandleId,
}

impl Drop for MergedOpen<'_> {
    fn drop(&mut self) {
        self.overlay.release(self.id);
    }
}

impl Merged {
    pub(super) fn new(overlay: Overlay<DirLayer>) -> Self {
        Self { overlay }
    }
}

fn facts_of(attr: &Attr) -> Facts {
    Facts {
        kind: attr.kind,
        mode: attr.mode,
        owner: (attr.uid, attr.gid),
        rdev: attr.rdev,
        size: attr.size,
        identity: None,
    }
}

/// A view borrows its engine, so that nodes can give back their references.
impl<'a> View for &'a Merged {
    type Node = MergedNode<'a>;
    type Open = MergedOpen<'a>;

    fn root(&self) -> Answer<(MergedNode<'a>, Facts)> {
        let attr = self.overlay.getattr(NodeId::ROOT, None).map_err(errno)?;
        Ok((MergedNode { overlay: &self.overlay, id: NodeId::ROOT }, facts_of(&attr)))
    }

    fn child(&self, dir: &MergedNode<'a>, name: &[u8]) -> Answer<Option<(MergedNode<'a>, Facts)>> {
        let entry = self.overlay.lookup(dir.id, name).map_err(errno)?;
        let node = |id| MergedNode { overlay: &self.overlay, id };
        Ok(entry.map(|entry| (node(entry.node), facts_of(&entry.attr))))
    }

    fn names(&self, dir: &MergedNode<'a>) -> Answer<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut take = |item: acetate_overlay::DirItem<'_>| {
            if !matches!(item.name, b"." | b"..") {
                names.push(item.name.to_vec());
            }
            Room::Taken
        };
        self.overlay.readdir(dir.id, 0, &mut take).map_err(errno)?;
        names.sort();
        Ok(names)
    }

    fn xattrs(&self, node: &MergedNode<'a>) -> Answer<BTreeMap<Vec<u8>, Vec<u8>>> {
        let names = match self.overlay.listxattr(node.id, &READER).map_err(errno) {
            Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
            other => other?,
        };
        let mut xattrs = BTreeMap::new();
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            match self.overlay.getxattr(node.id, name).map_err(errno) {
                Err(Errno::NODATA) => {}
                value => drop(xattrs.insert(name.to_vec(), value?)),
            }
        }
        Ok(xattrs)
    }

    fn read_link(&self, node: &MergedNode<'a>) -> Answer<Vec<u8>> {
        self.overlay.readlink(node.id).map_err(errno)
    }

    fn open(&self, node: &MergedNode<'a>) -> Answer<MergedOpen<'a>> {
        let id = self.overlay.open(node.id, OpenFlags::READ).map_err(errno)?;
        Ok(MergedOpen { overlay: &self.overlay, id })
    }

    fn read(&self, file: &MergedOpen<'a>, offset: u64, buf: &mut [u8]) -> Answer<usize> {
        self.overlay.read(file.id, offset, buf).map_err(errno)
    }
}

fn errno(error: OpError) -> Errno {
    error.errno()
}
