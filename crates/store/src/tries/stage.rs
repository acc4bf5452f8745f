//! Making new objects ready, where nobody sees them, out of what a command wrote.

use super::place::{Place, split};
use crate::driver::tree::attributes::{self, Before, Extras};
use crate::error::{Result, Step};
use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::mark::{self, Dialect};
use acetate_layer::{Access, At, Errno, Kind, Layer, Owner, Stat, UpperLayer};
use std::collections::HashMap;
use std::path::Path;

/// Brings objects of one writable layer to where they wait.
pub(super) struct Stager<'a> {
    source: DirLayer,
    dialect: Dialect,
    target: &'a DirLayer,
    /// Where objects with several names are in the target, by the filesystem there and the inode in the source.
    links: HashMap<(u64, u64), (Dir, Vec<u8>)>,
}

/// Objects with several names by their inode: their attributes, and their paths.
pub(super) type Linked = HashMap<u64, (Stat, Vec<Vec<u8>>)>;

/// A directory that is being brought.
struct Frame {
    path: Vec<u8>,
    source: Dir,
    target: Dir,
    stat: Stat,
    extras: Extras,
    left: Vec<Vec<u8>>,
}

impl<'a> Stager<'a> {
    pub(super) fn new(upper: &Path, dialect: Dialect, place: &'a Place) -> Result<Stager<'a>> {
        let source = DirLayer::open_lower(upper).step("open", upper)?;
        Ok(Stager { source, dialect, target: &place.layer, links: HashMap::new() })
    }

    /// The names of objects with several names, by their inode, as far as they are in the layer.
    pub(super) fn linked(&self) -> acetate_layer::Result<Linked> {
        let mut linked = Linked::new();
        let mut todo = vec![(Vec::new(), self.source.root().clone())];
        while let Some((path, dir)) = todo.pop() {
            for name in names(&self.source, &dir)? {
                let stat = self.source.stat(At::Name(&dir, &name))?;
                let path = joined(&path, &name);
                match stat.kind {
                    Kind::Dir => todo.push((path, self.source.open_dir(&dir, &name)?)),
                    // All whiteouts are one device.
                    Kind::CharDevice => {}
                    _ if stat.nlink > 1 => {
                        linked.entry(stat.ino).or_insert_with(|| (stat, Vec::new())).1.push(path);
                    }
                    _ => {}
                }
            }
        }
        Ok(linked)
    }

    /// Makes further names of an object of the source links to what is in the live tree.
    pub(super) fn know(&mut self, device: u64, ino: u64, dir: Dir, name: &[u8]) {
        self.links.insert((device, ino), (dir, name.to_vec()));
    }

    /// Makes `name` in `to` what is at `path` in the layer; below it only what `wanted` names. Returns its attributes.
    pub(super) fn bring(
        &mut self,
        path: &[u8],
        to: &Dir,
        name: &[u8],
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> acetate_layer::Result<Stat> {
        let mut from = self.source.root().clone();
        let (parent, last) = split(path);
        for part in parent.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            from = self.source.open_dir(&from, part)?;
        }
        let mut stack = Vec::new();
        stack.extend(self.object(path, (&from, last), (to, name))?);
        while let Some(frame) = stack.last_mut() {
            let Some(entry) = frame.left.pop() else {
                let Some(frame) = stack.pop() else { break };
                let at = At::Dir(&frame.target);
                attributes::set(self.target, at, &frame.stat, &frame.extras, Before::New)?;
                continue;
            };
            let path = joined(&frame.path, &entry);
            if wanted(&path) {
                let (source, target) = (frame.source.clone(), frame.target.clone());
                stack.extend(self.object(&path, (&source, &entry), (&target, &entry))?);
            }
        }
        self.target.stat(At::Name(to, name))
    }

    /// Brings one object; a directory is still to be filled.
    fn object(
        &mut self,
        path: &[u8],
        (from, name): (&Dir, &[u8]),
        (to, new): (&Dir, &[u8]),
    ) -> acetate_layer::Result<Option<Frame>> {
        let at = At::Name(from, name);
        let stat = self.source.stat(at)?;
        let extras = Extras::read(&self.source, at, &stat, Some(self.dialect))?;
        if mark::is_device_whiteout(&stat) || extras.whiteout {
            return Ok(None);
        }
        if stat.kind == Kind::Dir {
            self.target.make_dir(to, new, 0o700, Owner::Mounter)?;
            let (source, target) = (self.source.open_dir(from, name)?, self.target.open_dir(to, new)?);
            attributes::stop_inheritance(self.target, At::Dir(&target))?;
            let left = names(&self.source, &source)?;
            return Ok(Some(Frame { path: path.to_vec(), source, target, stat, extras, left }));
        }
        if stat.nlink > 1 && self.link(&stat, to, new)? {
            return Ok(None);
        }
        match stat.kind {
            Kind::File => self.file(at, &stat, &extras, to, new)?,
            Kind::Symlink => {
                let aim = self.source.read_link(at)?;
                self.target.make_symlink(to, new, &aim, Owner::Mounter)?;
                attributes::set(self.target, At::Name(to, new), &stat, &extras, Before::New)?;
            }
            kind => {
                self.target.make_node(to, new, kind, 0o600, stat.rdev, Owner::Mounter)?;
                attributes::set(self.target, At::Name(to, new), &stat, &extras, Before::New)?;
            }
        }
        Ok(None)
    }

    /// Makes a further name of what has been brought before. Returns whether it could.
    fn link(&mut self, stat: &Stat, to: &Dir, new: &[u8]) -> acetate_layer::Result<bool> {
        let key = (self.target.stat(At::Dir(to))?.dev, stat.ino);
        if let Some((dir, name)) = self.links.get(&key) {
            match self.target.link(At::Name(dir, name), to, new) {
                Ok(()) => return Ok(true),
                // No more names are allowed, or not us (protected_hardlinks), or not from there (subvolumes): another copy.
                Err(Errno::MLINK | Errno::PERM | Errno::XDEV) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.links.insert(key, (to.clone(), new.to_vec()));
        Ok(false)
    }

    fn file(
        &self,
        from: At<'_, DirLayer>,
        stat: &Stat,
        extras: &Extras,
        to: &Dir,
        new: &[u8],
    ) -> acetate_layer::Result<()> {
        let file = self.target.create(to, new, 0o600, Owner::Mounter)?;
        if stat.size > 0 {
            let data = self.source.open_file(from, Access::Read)?;
            self.target.copy_data(&data, &file, stat.size, &|| true)?;
        }
        attributes::set(self.target, At::Open(&file), stat, extras, Before::New).map(drop)
    }
}

fn names(layer: &DirLayer, dir: &Dir) -> acetate_layer::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    layer.list(dir, &mut |entry| names.push(entry.name.to_vec()))?;
    Ok(names)
}

pub(super) fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Gives the directory `to` all attributes of the directory `from`.
pub(super) fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    let source = DirLayer::open_lower(from).step("open", from)?;
    let target = DirLayer::open_upper(to).step("open", to)?;
    let at = At::Dir(source.root());
    let stat = source.stat(at).step("look at", from)?;
    let extras = Extras::read(&source, at, &stat, None).step("read the attributes of", from)?;
    attributes::set(&target, At::Dir(target.root()), &stat, &extras, Before::New)
        .step("set the attributes of", to)
        .map(drop)
}
