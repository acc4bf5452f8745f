//! The reference model: one flat map from path to object. No layers, no whiteouts, no copies.
//!
//! What shows that there are layers below is kept as plain facts of each object, because users see it: whether a
//! directory has parts in lower layers (it cannot be renamed then, and its link count is 1), and whether a file is
//! still one name of a lower file with several (each name becomes a file of its own once it is changed).

use std::collections::BTreeMap;

use acetate_layer::{Errno, Kind, Rdev, SetXattr, acl};

use crate::op::{Flags, Op, Outcome, Output};
use crate::stack::{self, Dir, Flat, Node, OLD, Path, Stack, TARGET};
use crate::view::{Changed, Tree, View};

type Id = usize;

/// An inode of a lower layer that has several names there.
type Shared = (usize, Path);

#[derive(Clone, Debug)]
struct Object {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    rdev: Rdev,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    changed: Changed,
    /// Names of a file. Those of a lower file with several names never change as long as it is not copied.
    nlink: u32,
    /// Is in the upper layer.
    upper: bool,
    /// Number of lower directories that it is made of.
    lowers: usize,
    /// Directories in the only lower directory, visible or not.
    lower_subdirs: u32,
    /// Not yet copied, and one of several names.
    shared: Option<Shared>,
}

/// A regular file of a layer, under one of its names.
struct LayerFile<'a> {
    first: Path,
    names: u32,
    mode: u32,
    content: &'a [u8],
    xattr: Option<&'a [u8]>,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Model {
    names: BTreeMap<Path, Id>,
    objects: Vec<Object>,
}

/// Builds the model of a stack.
struct Merge<'a> {
    files: Vec<BTreeMap<Path, LayerFile<'a>>>,
    /// Files of the upper layer by their first name.
    upper: BTreeMap<Path, Id>,
    model: Model,
}

impl<'a> Merge<'a> {
    /// Adds a directory that is merged of `dirs`, each with the number of its layer, and all below.
    fn dirs(&mut self, path: &Path, dirs: &[(usize, &'a Dir)]) {
        let top = dirs[0].1;
        let subdirs =
            dirs[dirs.len() - 1].1.children.values().filter(|node| matches!(node, Node::Dir(_))).count();
        let dir = Object {
            mode: top.mode,
            upper: dirs[0].0 == 0,
            lowers: dirs.iter().filter(|(layer, _)| *layer > 0).count(),
            lower_subdirs: subdirs as u32,
            xattrs: user_xattr(top.xattr.as_deref()),
            ..blank(Kind::Dir)
        };
        self.model.add(path.clone(), dir);
        let mut names: Vec<&Vec<u8>> = dirs.iter().flat_map(|(_, dir)| dir.children.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let path = [path.as_slice(), std::slice::from_ref(name)].concat();
            let mut found: Vec<(usize, &Dir)> = Vec::new();
            for (layer, dir) in dirs {
                match dir.children.get(name) {
                    None => continue,
                    Some(Node::Dir(dir)) => {
                        found.push((*layer, dir));
                        if !dir.opaque {
                            continue;
                        }
                    }
                    Some(Node::Whiteout) => {}
                    Some(node) if found.is_empty() => self.leaf(&path, *layer, node),
                    Some(_) => {}
                }
                break;
            }
            if !found.is_empty() {
                self.dirs(&path, &found);
            }
        }
    }

    /// Adds what is not a directory.
    fn leaf(&mut self, path: &Path, layer: usize, node: &Node) {
        let mut object = Object { upper: layer == 0, ..blank(stack::kind(node)) };
        if let Node::Symlink = node {
            (object.mode, object.content) = (0o777, TARGET.to_vec());
        }
        if let Some(file) = self.files[layer].get(path) {
            if let (0, Some(id)) = (layer, self.upper.get(&file.first)) {
                self.model.names.insert(path.clone(), *id);
                return;
            }
            (object.mode, object.nlink, object.content) = (file.mode, file.names, file.content.to_vec());
            object.xattrs = user_xattr(file.xattr);
            if layer == 0 {
                self.upper.insert(file.first.clone(), self.model.objects.len());
            } else if file.names > 1 {
                object.shared = Some((layer, file.first.clone()));
            }
        }
        self.model.add(path.clone(), object);
    }
}

/// The regular files of a layer by path.
fn files(layer: &Dir) -> BTreeMap<Path, LayerFile<'_>> {
    let mut files: BTreeMap<Path, LayerFile<'_>> = BTreeMap::new();
    for (path, node) in stack::flatten(layer) {
        match node {
            Flat::File { mode, content, xattr } => {
                files.insert(path.clone(), LayerFile { first: path, names: 1, mode, content, xattr });
            }
            Flat::Link(first) => {
                if let Some(file) = files.get(&first) {
                    let link = LayerFile { first, ..*file };
                    files.insert(path, link);
                }
            }
            _ => {}
        }
    }
    let count = |first: &Path| files.values().filter(|file| file.first == *first).count() as u32;
    let counts: Vec<u32> = files.values().map(|file| count(&file.first)).collect();
    files.values_mut().zip(counts).for_each(|(file, names)| file.names = names);
    files
}

fn blank(kind: Kind) -> Object {
    Object {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: Rdev::default(),
        content: Vec::new(),
        xattrs: BTreeMap::new(),
        changed: Changed::At(OLD),
        nlink: 1,
        upper: false,
        lowers: 0,
        lower_subdirs: 0,
        shared: None,
    }
}

fn user_xattr(value: Option<&[u8]>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    value.map(|value| (b"user.x".to_vec(), value.to_vec())).into_iter().collect()
}

impl Model {
    /// The merged tree of a stack.
    pub fn over(stack: &Stack) -> Self {
        let model = Self { names: BTreeMap::new(), objects: Vec::new() };
        let mut merge = Merge { files: stack.iter().map(files).collect(), upper: BTreeMap::new(), model };
        merge.dirs(&Vec::new(), &stack.iter().enumerate().collect::<Vec<_>>());
        merge.model
    }

    fn add(&mut self, path: Path, object: Object) {
        self.names.insert(path, self.objects.len());
        self.objects.push(object);
    }

    /// Everything that users see.
    pub fn walk(&self) -> Tree {
        let mut first: BTreeMap<(Option<&Shared>, Option<Id>), &Path> = BTreeMap::new();
        let mut tree = BTreeMap::new();
        for (path, id) in &self.names {
            let object = &self.objects[*id];
            let inode = (object.shared.as_ref(), object.shared.is_none().then_some(*id));
            let same_as = (*first.entry(inode).or_insert(path)).clone();
            let view = View {
                kind: object.kind,
                mode: object.mode,
                uid: object.uid,
                gid: object.gid,
                nlink: self.links(path, object),
                rdev: object.rdev,
                content: object.content.clone(),
                xattrs: object.xattrs.clone(),
                changed: object.changed,
                same_as,
            };
            tree.insert(path.clone(), view);
        }
        Tree(tree)
    }

    /// Which object each path names, with a number that is the same as long as its inode number has to be; `None`
    /// where copying may change it.
    pub fn identities(&self) -> BTreeMap<Path, Option<usize>> {
        let identity = |id: &Id| self.objects[*id].shared.is_none().then_some(*id);
        self.names.iter().map(|(path, id)| (path.clone(), identity(id))).collect()
    }

    fn links(&self, path: &Path, object: &Object) -> u32 {
        match (object.kind, usize::from(object.upper) + object.lowers) {
            (Kind::Dir, 2..) => 1,
            (Kind::Dir, _) if object.lowers == 1 => 2 + object.lower_subdirs,
            (Kind::Dir, _) => {
                let dirs =
                    self.children(path).values().filter(|id| self.objects[**id].kind == Kind::Dir).count();
                2 + dirs as u32
            }
            _ => object.nlink,
        }
    }

    fn children(&self, path: &Path) -> BTreeMap<Vec<u8>, Id> {
        let below =
            self.names.iter().filter(|(child, _)| child.len() == path.len() + 1 && child.starts_with(path));
        below.map(|(child, id)| (child[path.len()].clone(), *id)).collect()
    }

    /// The object at `path`; what is on the way has to be a directory.
    fn find(&self, path: &Path) -> Result<Id, Errno> {
        for len in 0..path.len() {
            match self.names.get(&path[..len]).map(|id| self.objects[*id].kind) {
                None | Some(Kind::Symlink) => return Err(Errno::NOENT),
                Some(Kind::Dir) => {}
                Some(_) => return Err(Errno::NOTDIR),
            }
        }
        self.names.get(path).copied().ok_or(Errno::NOENT)
    }

    /// As [`find`](Self::find), with symlinks followed to nowhere.
    fn follow(&self, path: &Path) -> Result<Id, Errno> {
        let id = self.find(path)?;
        if self.objects[id].kind == Kind::Symlink { Err(Errno::NOENT) } else { Ok(id) }
    }

    /// That `path` is free and has a parent.
    fn free(&self, path: &Path) -> Result<(), Errno> {
        match self.find(path) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => self.check_dir(&parent(path)),
            Err(errno) => Err(errno),
        }
    }

    /// Marks the object at `path` and all above as being in the upper layer.
    fn copy_up(&mut self, path: &Path) {
        for len in 0..=path.len() {
            let Some(id) = self.names.get(&path[..len]) else { continue };
            let object = &mut self.objects[*id];
            if !object.upper {
                object.upper = true;
                object.shared = None;
                if object.kind != Kind::Dir {
                    object.nlink = 1;
                }
            }
        }
    }

    /// Copies up and gives the object to change.
    fn change(&mut self, path: &Path, id: Id) -> &mut Object {
        self.copy_up(path);
        &mut self.objects[id]
    }

    /// Copies up the parent of `path`, whose entries are about to change.
    fn change_parent(&mut self, path: &Path) {
        let parent = parent(path);
        self.copy_up(&parent);
        if let Some(id) = self.names.get(&parent) {
            self.objects[*id].changed = Changed::Now;
        }
    }

    fn create(&mut self, path: &Path, object: Object) {
        let mut object = self.born(&parent(path), object);
        object.upper = true;
        self.change_parent(path);
        self.add(path.clone(), object);
    }

    /// A new object with what it inherits from the directory `dir`.
    fn born(&self, dir: &Path, mut object: Object) -> Object {
        let parent = &self.objects[self.names[dir]];
        object.changed = Changed::Now;
        if parent.mode & 0o2000 != 0 {
            object.gid = parent.gid;
            if object.kind == Kind::Dir {
                object.mode |= 0o2000;
            }
        }
        if let Some(default) = parent.xattrs.get(acl::DEFAULT) {
            let inherited = acl::inherit(default, object.mode, object.kind).expect("a valid list");
            object.mode = inherited.mode;
            object.xattrs.extend(inherited.access_acl.map(|value| (acl::ACCESS.to_vec(), value)));
            object.xattrs.extend(inherited.default_acl.map(|value| (acl::DEFAULT.to_vec(), value)));
        }
        object
    }

    /// Performs one operation.
    pub fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Create(path, mode) => self.make(path, Object { mode: *mode, ..blank(Kind::File) })?,
            Op::Mkdir(path, mode) => self.make(path, Object { mode: mode & 0o1777, ..blank(Kind::Dir) })?,
            Op::Mknod(path, Kind::CharDevice, Rdev { major: 0, minor: 0 }) => {
                self.free(path)?;
                return Err(Errno::PERM);
            }
            Op::Mknod(path, kind, rdev) => self.make(path, Object { rdev: *rdev, ..blank(*kind) })?,
            Op::Symlink(path) => {
                self.make(path, Object { mode: 0o777, content: TARGET.to_vec(), ..blank(Kind::Symlink) })?;
            }
            Op::Link(old, new) => self.link(old, new)?,
            Op::Unlink(path) => {
                let id = self.find(path)?;
                if self.objects[id].kind == Kind::Dir {
                    return Err(Errno::ISDIR);
                }
                self.remove(path, id);
            }
            Op::Rmdir(path) => {
                let id = self.find(path)?;
                if self.objects[id].kind != Kind::Dir {
                    return Err(Errno::NOTDIR);
                }
                if !self.children(path).is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                self.remove(path, id);
            }
            Op::Rename(old, new, flags) => self.rename(old, new, *flags)?,
            Op::Unnamed(dir, data, path) => self.unnamed(dir, data, path)?,
            Op::Read(path) => {
                return self.readable(path).map(|id| Output::Bytes(self.objects[id].content.clone()));
            }
            Op::List(path) => return self.list(path),
            Op::ReadLink(path) => {
                let object = &self.objects[self.find(path)?];
                if object.kind != Kind::Symlink {
                    return Err(Errno::INVAL);
                }
                return Ok(Output::Bytes(object.content.clone()));
            }
            _ => self.set(op)?,
        }
        Ok(Output::Nothing)
    }

    fn make(&mut self, path: &Path, object: Object) -> Result<(), Errno> {
        self.free(path)?;
        self.create(path, object);
        Ok(())
    }

    fn link(&mut self, old: &Path, new: &Path) -> Result<(), Errno> {
        let id = self.find(old)?;
        self.free(new)?;
        if self.objects[id].kind == Kind::Dir {
            return Err(Errno::PERM);
        }
        self.change(old, id).nlink += 1;
        self.change_parent(new);
        self.names.insert(new.clone(), id);
        Ok(())
    }

    fn remove(&mut self, path: &Path, id: Id) {
        self.change_parent(path);
        self.names.remove(path);
        let object = &mut self.objects[id];
        object.nlink = object.nlink.saturating_sub(1);
    }

    fn unnamed(&mut self, dir: &Path, data: &[u8], path: &Path) -> Result<(), Errno> {
        let id = self.follow(dir)?;
        if self.objects[id].kind != Kind::Dir {
            return Err(Errno::NOTDIR);
        }
        let mut file = self.born(dir, Object { content: data.to_vec(), upper: true, ..blank(Kind::File) });
        file.changed = Changed::Now;
        self.copy_up(dir);
        self.free(path)?;
        self.change_parent(path);
        self.add(path.clone(), file);
        Ok(())
    }

    fn rename(&mut self, old: &Path, new: &Path, flags: Flags) -> Result<(), Errno> {
        self.check_dir(&parent(old))?;
        self.check_dir(&parent(new))?;
        let source = self.find(old)?;
        let target = match self.find(new) {
            Ok(target) => Some(target),
            Err(_) if flags == Flags::Exchange => return Err(Errno::NOENT),
            Err(_) => None,
        };
        if flags == Flags::NoReplace && target.is_some() {
            return Err(Errno::EXIST);
        }
        if new.len() > old.len() && new.starts_with(old) {
            return Err(Errno::INVAL);
        }
        if old.len() > new.len() && old.starts_with(new) {
            return Err(if flags == Flags::Exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if target == Some(source) {
            return Ok(());
        }
        if let Err(errno) = self.check_rename(new, source, target, flags) {
            // A filesystem may have put the whiteout before it sees that the target is not empty (ext4 does).
            if errno == Errno::NOTEMPTY {
                let parent = self.names[&parent(old)];
                self.objects[parent].changed = Changed::Unknown;
            }
            return Err(errno);
        }
        self.change_parent(old);
        self.change_parent(new);
        self.copy_up(old);
        match target {
            Some(_) if flags == Flags::Exchange => self.copy_up(new),
            Some(target) => self.remove(new, target),
            None => {}
        }
        let (from, to) = (self.take(old), self.take(new));
        self.put(new, from);
        self.put(old, to);
        Ok(())
    }

    fn check_dir(&self, path: &Path) -> Result<(), Errno> {
        match self.objects[self.follow(path)?].kind {
            Kind::Dir => Ok(()),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Types, and what cannot be moved because there are layers.
    fn check_rename(&self, new: &Path, source: Id, target: Option<Id>, flags: Flags) -> Result<(), Errno> {
        let is_dir = |id: Id| self.objects[id].kind == Kind::Dir;
        let fixed = |id: Id| is_dir(id) && (self.objects[id].lowers > 0 || !self.objects[id].upper);
        if let (Some(target), true) = (target, flags != Flags::Exchange) {
            match (is_dir(source), is_dir(target)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                _ => {}
            }
        }
        if fixed(source) {
            return Err(Errno::XDEV);
        }
        match target {
            Some(target) if flags == Flags::Exchange && fixed(target) => Err(Errno::XDEV),
            Some(_) if flags != Flags::Exchange && !self.children(new).is_empty() => Err(Errno::NOTEMPTY),
            _ => Ok(()),
        }
    }

    /// Takes all names at and below `path` away, without the path itself.
    fn take(&mut self, path: &Path) -> Vec<(Path, Id)> {
        let at: Vec<Path> = self.names.keys().filter(|name| name.starts_with(path)).cloned().collect();
        at.into_iter()
            .filter_map(|name| self.names.remove(&name).map(|id| (name[path.len()..].to_vec(), id)))
            .collect()
    }

    fn put(&mut self, path: &Path, names: Vec<(Path, Id)>) {
        self.names.extend(names.into_iter().map(|(name, id)| ([path.as_slice(), &name].concat(), id)));
    }

    fn readable(&self, path: &Path) -> Result<Id, Errno> {
        let id = self.follow(path)?;
        match self.objects[id].kind {
            Kind::File => Ok(id),
            Kind::Dir => Err(Errno::ISDIR),
            _ => Err(Errno::NXIO),
        }
    }

    fn list(&self, path: &Path) -> Outcome {
        let id = self.follow(path)?;
        if self.objects[id].kind != Kind::Dir {
            return Err(Errno::NOTDIR);
        }
        let children = self.children(path).into_iter();
        Ok(Output::Names(children.map(|(name, id)| (name, self.objects[id].kind)).collect()))
    }

    /// Operations that change content or attributes of one object.
    fn set(&mut self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::Write(path, offset, data) => {
                let id = self.readable(path)?;
                let object = self.change(path, id);
                if !data.is_empty() {
                    let end = *offset as usize + data.len();
                    object.content.resize(object.content.len().max(end), 0);
                    object.content[*offset as usize..end].copy_from_slice(data);
                    object.changed = Changed::Now;
                }
            }
            Op::Empty(path) => {
                let id = self.readable(path)?;
                let object = self.change(path, id);
                (object.content, object.changed) = (Vec::new(), Changed::Now);
            }
            Op::Truncate(path, size) => {
                let id = self.follow(path)?;
                match self.objects[id].kind {
                    Kind::File => {}
                    Kind::Dir => return Err(Errno::ISDIR),
                    _ => return Err(Errno::INVAL),
                }
                let object = self.change(path, id);
                // Whether the time changes where the size does not differs between filesystems.
                let same = object.content.len() as u64 == *size;
                object.changed = if same { Changed::Unknown } else { Changed::Now };
                object.content.resize(*size as usize, 0);
            }
            Op::Chmod(path, mode) => {
                let id = self.follow(path)?;
                let object = self.change(path, id);
                object.mode = *mode;
                if let Some(value) = object.xattrs.get_mut(acl::ACCESS) {
                    let list = acl::Acl::parse(value).expect("a valid list").expect("entries");
                    *value = list.with_mode(*mode).encode();
                }
            }
            Op::Chown(path, uid, gid) => {
                let id = self.find(path)?;
                let object = self.change(path, id);
                (object.uid, object.gid) = (uid.unwrap_or(object.uid), gid.unwrap_or(object.gid));
                if object.kind != Kind::Dir {
                    object.mode &= if object.mode & 0o010 != 0 { 0o1777 } else { 0o3777 };
                }
            }
            Op::Touch(path, time) => {
                let id = self.find(path)?;
                self.change(path, id).changed = Changed::At(*time);
            }
            Op::SetXattr(path, name, value, how) => self.set_xattr(path, name, value, *how)?,
            Op::RemoveXattr(path, name) => self.remove_xattr(path, name)?,
            _ => unreachable!("{op:?} is no change of one object"),
        }
        Ok(())
    }

    fn set_xattr(&mut self, path: &Path, name: &[u8], value: &[u8], how: SetXattr) -> Result<(), Errno> {
        let id = self.find(path)?;
        match may_have(self.objects[id].kind, name) {
            // The copy comes first, then the filesystem below is asked.
            Err(Errno::OPNOTSUPP) if !matches!(name, acl::ACCESS | acl::DEFAULT) => {
                self.copy_up(path);
                return Err(Errno::OPNOTSUPP);
            }
            result => result?,
        }
        let is_list = matches!(name, acl::ACCESS | acl::DEFAULT);
        if name == acl::DEFAULT && self.objects[id].kind != Kind::Dir {
            return Err(Errno::ACCESS);
        }
        let object = self.change(path, id);
        match (how, object.xattrs.contains_key(name)) {
            (SetXattr::Create, true) if !is_list => return Err(Errno::EXIST),
            (SetXattr::Replace, false) if !is_list => return Err(Errno::NODATA),
            _ => {}
        }
        if name == acl::ACCESS {
            object.mode = object.mode & !0o777 | acl::mode_of(value).expect("a valid list");
        }
        object.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove_xattr(&mut self, path: &Path, name: &[u8]) -> Result<(), Errno> {
        let id = self.find(path)?;
        may_have(self.objects[id].kind, name)?;
        if !self.objects[id].xattrs.contains_key(name) {
            // Removing an access control list that is not there is not an error, except that a copy is not worth it.
            let object = &self.objects[id];
            let fine = match name {
                acl::ACCESS => object.upper,
                acl::DEFAULT => object.upper || object.kind != Kind::Dir,
                _ => false,
            };
            return if fine { Ok(()) } else { Err(Errno::NODATA) };
        }
        self.change(path, id).xattrs.remove(name);
        Ok(())
    }
}

/// Namespaces of attributes and the objects that have them.
fn may_have(kind: Kind, name: &[u8]) -> Result<(), Errno> {
    if matches!(name, acl::ACCESS | acl::DEFAULT) {
        return if kind == Kind::Symlink { Err(Errno::OPNOTSUPP) } else { Ok(()) };
    }
    let has = |prefix: &[u8]| name.starts_with(prefix);
    match () {
        () if has(b"user.") && !matches!(kind, Kind::File | Kind::Dir) => Err(Errno::PERM),
        () if has(b"user.") || has(b"trusted.") || has(b"security.") => Ok(()),
        () => Err(Errno::OPNOTSUPP),
    }
}

fn parent(path: &Path) -> Path {
    path[..path.len() - 1].to_vec()
}
