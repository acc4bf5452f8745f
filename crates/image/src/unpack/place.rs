//! From paths of an archive to directories of a layer.

use crate::error::{Error, Result, shown};
use acetate_layer::{At, Errno, Kind, Owner, UpperLayer};
use std::collections::{BTreeSet, HashMap, VecDeque};

/// How many symlinks one path may lead through (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Splits a path into names. Slashes at its begin and end, and `.`, mean nothing.
///
/// # Errors
/// [`Error::Escapes`] for `..`, [`Error::Malformed`] for NUL bytes.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(Error::Escapes { path: shown(path) }),
            name if name.contains(&0) => {
                return Err(Error::Malformed(format!("the name {} holds a NUL byte", shown(path))));
            }
            name => names.push(name),
        }
    }
    Ok(names)
}

/// The directories of a layer by their paths.
pub struct Places<'a, L: UpperLayer> {
    layer: &'a L,
    /// By real path, without symlinks.
    known: HashMap<Vec<u8>, L::Dir>,
    last: Option<Last<L>>,
    /// Real paths of the directories made because something is in them.
    implicit: BTreeSet<Vec<u8>>,
}

/// The directory that was asked for last.
struct Last<L: UpperLayer> {
    /// What it was asked for by.
    names: Vec<Vec<u8>>,
    dir: L::Dir,
    path: Vec<u8>,
}

/// A directory, and those above it.
struct Walk<L: UpperLayer> {
    /// The root first: how long the path to each is, and the directory.
    stack: Vec<(usize, L::Dir)>,
    path: Vec<u8>,
}

impl<L: UpperLayer> Walk<L> {
    fn current(&self, root: &L::Dir) -> L::Dir {
        self.stack.last().map_or_else(|| root.clone(), |(_, dir)| dir.clone())
    }

    fn enter(&mut self, name: &[u8], dir: L::Dir) {
        self.stack.push((self.path.len(), dir));
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
    }

    /// Goes up; the root is above itself.
    fn leave(&mut self) {
        if let Some((length, _)) = self.stack.pop() {
            self.path.truncate(length);
        }
    }

    fn restart(&mut self) {
        self.stack.clear();
        self.path.clear();
    }
}

impl<'a, L: UpperLayer> Places<'a, L> {
    pub fn new(layer: &'a L) -> Places<'a, L> {
        Places { layer, known: HashMap::new(), last: None, implicit: BTreeSet::new() }
    }

    /// Notes that the archive says what a directory is like.
    pub fn has_entry(&mut self, path: &[u8]) {
        self.implicit.remove(path);
    }

    /// The directories that the archive has no entries for.
    pub fn into_implicit(self) -> Vec<Vec<u8>> {
        self.implicit.into_iter().collect()
    }

    /// Forgets all, because a directory has been moved away.
    pub fn forget(&mut self) {
        self.known.clear();
        self.last = None;
    }

    /// The directory with these names, and its real path. What is missing is made; symlinks are followed, within the
    /// layer, as container engines do.
    ///
    /// # Errors
    /// [`Error::Entry`] naming `entry`.
    pub fn directory(&mut self, names: &[&[u8]], entry: &[u8]) -> Result<(L::Dir, Vec<u8>)> {
        if let Some(last) = &self.last
            && last.names.iter().map(Vec::as_slice).eq(names.iter().copied())
        {
            return Ok((last.dir.clone(), last.path.clone()));
        }
        let failed = |step| move |errno| Error::Entry { path: shown(entry), step, errno };
        let root = self.layer.root().clone();
        let mut walk: Walk<L> = Walk { stack: Vec::new(), path: Vec::new() };
        let mut todo: VecDeque<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    walk.leave();
                    continue;
                }
                _ => {}
            }
            let dir = walk.current(&root);
            match self.step(&walk, &dir, &name).map_err(failed("open a directory above it"))? {
                Step::Dir(inner) => {
                    walk.enter(&name, inner.clone());
                    self.known.insert(walk.path.clone(), inner);
                }
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(failed("follow symlinks above it")(Errno::LOOP));
                    }
                    if target.starts_with(b"/") {
                        walk.restart();
                    }
                    for name in target.split(|byte| *byte == b'/').rev() {
                        todo.push_front(name.to_vec());
                    }
                }
            }
        }
        let dir = walk.current(&root);
        let names = names.iter().map(|name| name.to_vec()).collect();
        self.last = Some(Last { names, dir: dir.clone(), path: walk.path.clone() });
        Ok((dir, walk.path))
    }

    /// One name of a path.
    fn step(&mut self, walk: &Walk<L>, dir: &L::Dir, name: &[u8]) -> acetate_layer::Result<Step<L>> {
        let mut path = walk.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        if let Some(known) = self.known.get(&path) {
            return Ok(Step::Dir(known.clone()));
        }
        match self.layer.open_dir(dir, name) {
            Ok(inner) => Ok(Step::Dir(inner)),
            Err(Errno::NOENT) => {
                self.layer.make_dir(dir, name, 0o755, Owner::Mounter)?;
                self.implicit.insert(path);
                self.layer.open_dir(dir, name).map(Step::Dir)
            }
            Err(Errno::NOTDIR | Errno::LOOP) => match self.layer.stat(At::Name(dir, name))?.kind {
                Kind::Symlink => self.layer.read_link(At::Name(dir, name)).map(Step::Link),
                _ => Err(Errno::NOTDIR),
            },
            Err(errno) => Err(errno),
        }
    }

    /// The directory with this real path, if it still is one.
    ///
    /// # Errors
    /// Those of the layer.
    pub fn existing(&self, path: &[u8]) -> Result<Option<L::Dir>> {
        if let Some(known) = self.known.get(path) {
            return Ok(Some(known.clone()));
        }
        let mut dir = self.layer.root().clone();
        for name in components(path)? {
            match self.layer.open_dir(&dir, name) {
                Ok(inner) => dir = inner,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Some(dir))
    }
}

enum Step<L: UpperLayer> {
    Dir(L::Dir),
    Link(Vec<u8>),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_are_names() {
        let names: Vec<&[u8]> = vec![b"a", b"b\xff"];
        assert_eq!(components(b"/./a//b\xff/").unwrap(), names);
        assert!(components(b"./").unwrap().is_empty());
        for bad in [&b"../a"[..], b"a/..", b"a/../b", b"a\0b"] {
            assert!(components(bad).is_err());
        }
    }
}
