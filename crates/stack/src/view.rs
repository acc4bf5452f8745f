//! Reading what a stack shows.

use std::collections::BTreeMap;
use std::io::{self, Read};

use acetate_layer::dir::{DirLayer, File};
use acetate_layer::mark::to_user;
use acetate_layer::{Access, Errno, Kind, Layer, Rdev};

use crate::node::{Node, Object};
use crate::{Error, Result, Stack, failed};

/// The layers of a stack from one of them on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) top: usize,
}

/// The attributes that make two objects equal, times and link counts left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Permission bits; 0 for a symlink, whose mode means nothing (symlink(7)).
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Extended attributes as users see them, access control lists among them.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Reads a file from its begin to its end.
#[derive(Debug)]
pub struct Data<'a> {
    layer: &'a DirLayer,
    file: File,
    offset: u64,
    /// What the file's attributes say, which is less than there is if its data lies below and has grown.
    left: u64,
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.layer.read_at(&self.file, &mut buffer[..want], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl<'a> View<'a> {
    /// The number of the topmost layer of this view.
    pub fn top(&self) -> usize {
        self.top
    }

    /// The layers.
    pub fn stack(&self) -> &'a Stack {
        self.stack
    }

    /// The names that a directory shows, sorted, each with what it is.
    ///
    /// # Errors
    /// A layer that cannot be read.
    pub fn children(&self, path: &[u8], dir: &Node) -> Result<Vec<(Vec<u8>, Node)>> {
        let mut shown = Vec::new();
        for name in self.names(path, dir)? {
            let node = self.lookup(dir, &name)?;
            if node.winner().is_some() {
                shown.push((name, node));
            }
        }
        Ok(shown)
    }

    /// The names in all parts of a directory, sorted, whiteouts included.
    pub(crate) fn names(&self, path: &[u8], dir: &Node) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for (number, object) in dir.parts() {
            names.extend(self.names_in(path, number, object)?);
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The names in one part of a directory, in no order.
    pub(crate) fn names_in(&self, path: &[u8], number: usize, part: &Object) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        if let Some(dir) = part.dir() {
            let layer = self.stack.layer(number);
            layer.list(dir, &mut |entry| names.push(entry.name.to_vec())).map_err(failed(path, "list"))?;
        }
        Ok(names)
    }

    /// The winner of a node that shows something.
    pub(crate) fn shown<'n>(&self, path: &[u8], node: &'n Node) -> Result<(&'a DirLayer, &'n Object)> {
        let (number, object) = node.winner().ok_or_else(|| failed(path, "look up")(Errno::NOENT))?;
        Ok((self.stack.layer(number), object))
    }

    /// The attributes of what is shown.
    ///
    /// # Errors
    /// A layer that cannot be read; `ENOENT` if nothing is shown.
    pub fn facts(&self, path: &[u8], node: &Node) -> Result<Facts> {
        let (layer, object) = self.shown(path, node)?;
        let mode = if object.stat.kind == Kind::Symlink { 0 } else { object.stat.mode };
        let owner = (object.stat.uid, object.stat.gid);
        let mut xattrs = BTreeMap::new();
        let names = match layer.list_xattrs(object.at()) {
            Err(Errno::OPNOTSUPP) => Vec::new(),
            other => other.map_err(failed(path, "list the attributes"))?,
        };
        for name in names {
            let Some(shown) = to_user(self.stack.dialect(), &name) else { continue };
            // Removed between the two calls.
            let Some(value) =
                layer.get_xattr(object.at(), &name).map_err(failed(path, "read an attribute"))?
            else {
                continue;
            };
            xattrs.insert(shown.into_owned(), value);
        }
        Ok(Facts { mode, owner, xattrs })
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// A layer that cannot be read.
    pub fn read_link(&self, path: &[u8], node: &Node) -> Result<Vec<u8>> {
        let (layer, object) = self.shown(path, node)?;
        layer.read_link(object.at()).map_err(failed(path, "read the link"))
    }

    /// The device number of what is shown.
    pub(crate) fn rdev(&self, path: &[u8], node: &Node) -> Result<Rdev> {
        Ok(self.shown(path, node)?.1.stat.rdev)
    }

    /// Opens the data of a regular file.
    ///
    /// # Errors
    /// A layer that cannot be read; [`Error::Broken`] if the data is nowhere.
    pub fn data(&self, path: &[u8], node: &Node) -> Result<Data<'a>> {
        let (_, winner) = self.shown(path, node)?;
        let Some((number, object)) = node.data() else {
            let problem = node.problem.unwrap_or(crate::Problem::NoData);
            return Err(Error::Broken { path: path.to_vec(), problem });
        };
        let layer = self.stack.layer(number);
        let file = layer.open_file(object.at(), Access::Read).map_err(failed(path, "open"))?;
        Ok(Data { layer, file, offset: 0, left: winner.stat.size })
    }

    /// Calls `each` for everything below a directory, parents before children.
    ///
    /// # Errors
    /// A layer that cannot be read; those of `each`.
    pub fn visit(
        &self,
        path: &[u8],
        dir: &Node,
        each: &mut dyn FnMut(&[u8], &Node) -> Result<()>,
    ) -> Result<()> {
        // A list and no recursion: trees may be deeper than the stack of a thread.
        let mut todo = vec![(path.to_vec(), dir.clone())];
        while let Some((path, dir)) = todo.pop() {
            for (name, node) in self.children(&path, &dir)? {
                let path = crate::joined(&path, &name);
                each(&path, &node)?;
                if node.is_dir() {
                    todo.push((path, node));
                }
            }
        }
        Ok(())
    }
}
