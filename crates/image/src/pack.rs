//! Layers become archives.
//!
//! The same layer always gives the same archive: entries are sorted by name, and nothing depends on inode numbers or
//! on the order in which a filesystem lists.

use crate::archive::{Entry, EntryKind, Writer};
use crate::error::{Error, Result, shown};
use crate::unpack::{Owners, own_mode};
use acetate_layer::mark::{
    Dialect, Mark, Opaque, is_device_whiteout, may_be_xattr_whiteout, opaque, to_user,
};
use acetate_layer::view::{Record, Records, oci};
use acetate_layer::{Access, At, Errno, Kind, Layer, Stat};
use rustix::process::{getegid, geteuid};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Write};

/// What was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Objects, whiteouts not counted.
    pub objects: u64,
    /// Whiteouts and opaque directories.
    pub whiteouts: u64,
    /// Sockets, which no archive can hold.
    pub sockets_skipped: u64,
}

/// Writes a layer, or any directory tree, as the archive of an OCI layer (image-spec, "Image Layer Filesystem
/// Changeset"); returns the sink.
///
/// With [`Owners::Recorded`], recorded owners and modes are those of the archive, and what is this process's own is root's:
/// so programs in a user namespace of its own see it.
///
/// # Errors
/// [`Error::Unpackable`] for what only makes sense together with lower layers (redirects, metacopy); those of reading
/// and writing.
pub fn pack<L: Layer, W: Write>(
    layer: &L,
    dialect: Dialect,
    owners: Owners,
    output: W,
) -> Result<(Packed, W)> {
    pack_all_or_some(layer, dialect, owners, output, None)
}

/// What of a plain tree goes into a layer: the difference from another tree.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Paths of objects to be packed. The directories above them are packed as well.
    pub objects: BTreeSet<Vec<u8>>,
    /// Paths that the layer hides.
    pub hidden: BTreeSet<Vec<u8>>,
    /// Directories in place of something else: they hide all that is below them.
    pub opaque: BTreeSet<Vec<u8>>,
}

impl Selection {
    /// Adds the directories above what is packed or hidden.
    fn with_parents(mut self) -> Selection {
        let mut parents = BTreeSet::new();
        for path in self.objects.iter().chain(&self.hidden) {
            let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            parents.extend(slashes.map(|(at, _)| path[..at].to_vec()));
        }
        self.objects.extend(parents);
        self
    }

    /// The names that are hidden in a directory, whose path ends with a slash unless it is the root.
    fn hidden_in<'a>(&'a self, dir: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let below = self.hidden.range(dir.to_vec()..).take_while(move |path| path.starts_with(dir));
        below.map(move |path| &path[dir.len()..]).filter(|name| !name.contains(&b'/'))
    }
}

/// Writes a layer that turns another tree into this one.
///
/// # Errors
/// As [`pack`].
pub fn pack_some<L: Layer, W: Write>(
    tree: &L,
    dialect: Dialect,
    owners: Owners,
    selection: Selection,
    output: W,
) -> Result<(Packed, W)> {
    pack_all_or_some(tree, dialect, owners, output, Some(selection.with_parents()))
}

fn pack_all_or_some<L: Layer, W: Write>(
    layer: &L,
    dialect: Dialect,
    owners: Owners,
    output: W,
    selection: Option<Selection>,
) -> Result<(Packed, W)> {
    let mut packer = Packer {
        layer,
        dialect,
        owners,
        selection,
        output: Writer::new(output),
        linked: HashMap::new(),
        packed: Packed::default(),
    };
    packer.tree()?;
    Ok((packer.packed, packer.output.finish()?))
}

struct Packer<'a, L: Layer, W: Write> {
    layer: &'a L,
    dialect: Dialect,
    owners: Owners,
    /// Only this, if there is one.
    selection: Option<Selection>,
    output: Writer<W>,
    /// The first path of objects with several names, by device and inode number.
    linked: HashMap<(u64, u64), Vec<u8>>,
    packed: Packed,
}

/// A directory whose entries are being packed.
struct Open<L: Layer> {
    dir: L::Dir,
    /// With a slash at its end, unless it is the root.
    path: Vec<u8>,
    /// The last name first.
    names: Vec<Vec<u8>>,
}

impl<L: Layer, W: Write> Packer<'_, L, W> {
    fn tree(&mut self) -> Result<()> {
        let root = self.layer.root().clone();
        // A stack of our own: a tree may be deeper than a thread's.
        let mut stack = vec![self.enter(root, Vec::new())?];
        while let Some(open) = stack.last_mut() {
            let Some(name) = open.names.pop() else {
                stack.pop();
                continue;
            };
            let path = [&open.path[..], &name].concat();
            let dir = open.dir.clone();
            let stat = self.layer.stat(At::Name(&dir, &name)).map_err(failed(&path))?;
            if stat.kind == Kind::Dir {
                let inner = self.layer.open_dir(&dir, &name).map_err(failed(&path))?;
                stack.push(self.enter(inner, [&path[..], b"/"].concat())?);
            } else {
                self.object(&dir, &name, path, &stat)?;
            }
        }
        Ok(())
    }

    /// Packs a directory itself, and lists it.
    fn enter(&mut self, dir: L::Dir, path: Vec<u8>) -> Result<Open<L>> {
        let at = At::Dir(&dir);
        let stat = self.layer.stat(at).map_err(failed(&path))?;
        let shown_path = if path.is_empty() { b"./".to_vec() } else { path.clone() };
        let entry = self.entry(at, shown_path, &stat, EntryKind::Object(Kind::Dir))?;
        self.append(&entry, &mut io::empty())?;
        self.packed.objects += 1;
        let mark = self.layer.get_xattr(at, self.dialect.name(Mark::Opaque)).or_else(unsupported);
        let is_opaque = match &self.selection {
            None => opaque(mark.map_err(failed(&path))?.as_deref()) == Opaque::Yes,
            Some(selection) => path.strip_suffix(b"/").is_some_and(|path| selection.opaque.contains(path)),
        };
        if is_opaque {
            self.marker(&path, oci::OPAQUE, &stat)?;
        }
        let mut names = Vec::new();
        self.layer.list(&dir, &mut |entry| names.push(entry.name.to_vec())).map_err(failed(&path))?;
        if let Some(selection) = &self.selection {
            names.retain(|name| selection.objects.contains(&[&path[..], name].concat()));
            let hidden: Vec<Vec<u8>> = selection.hidden_in(&path).map(<[u8]>::to_vec).collect();
            for name in hidden {
                self.marker(&path, &oci::whiteout_of(&name), &stat)?;
            }
        }
        names.sort_by(|a, b| b.cmp(a));
        Ok(Open { dir, path, names })
    }

    /// Packs what is no directory.
    fn object(&mut self, dir: &L::Dir, name: &[u8], path: Vec<u8>, stat: &Stat) -> Result<()> {
        let at = At::Name(dir, name);
        if self.is_whiteout(at, stat).map_err(failed(&path))? {
            let parent = &path[..path.len() - name.len()];
            return self.marker(parent, &oci::whiteout_of(name), stat);
        }
        if name.starts_with(b".wh.") {
            let reason = "its name means something else in an image (.wh.)";
            return Err(Error::Unpackable { path: shown(&path), reason });
        }
        if stat.kind == Kind::Socket {
            self.packed.sockets_skipped += 1;
            return Ok(());
        }
        self.packed.objects += 1;
        if stat.nlink > 1 {
            if let Some(first) = self.linked.get(&(stat.dev, stat.ino)) {
                let link = first.clone();
                let mut entry = self.entry(at, path, stat, EntryKind::HardLink)?;
                entry.xattrs.clear();
                entry.link = link;
                return self.append(&entry, &mut io::empty());
            }
            self.linked.insert((stat.dev, stat.ino), path.clone());
        }
        let mut entry = self.entry(at, path, stat, EntryKind::Object(stat.kind))?;
        match stat.kind {
            Kind::File => {
                let file = self.layer.open_file(at, Access::Read).map_err(failed(&entry.path))?;
                self.append(&entry, &mut Data { layer: self.layer, file: &file, offset: 0 })
            }
            Kind::Symlink => {
                entry.link = self.layer.read_link(at).map_err(failed(&entry.path))?;
                self.append(&entry, &mut io::empty())
            }
            _ => self.append(&entry, &mut io::empty()),
        }
    }

    fn is_whiteout(&self, at: At<'_, L>, stat: &Stat) -> acetate_layer::Result<bool> {
        if is_device_whiteout(stat) {
            return Ok(true);
        }
        if !may_be_xattr_whiteout(stat) {
            return Ok(false);
        }
        let mark = self.layer.get_xattr(at, self.dialect.name(Mark::Whiteout)).or_else(unsupported)?;
        Ok(mark.is_some())
    }

    /// Appends an empty file that hides something.
    fn marker(&mut self, parent: &[u8], name: &[u8], stat: &Stat) -> Result<()> {
        self.packed.whiteouts += 1;
        let entry = Entry {
            path: [parent, name].concat(),
            kind: EntryKind::Object(Kind::File),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: acetate_layer::Time { nsec: 0, ..stat.mtime },
            size: 0,
            rdev: acetate_layer::Rdev::default(),
            xattrs: Vec::new(),
            sparse: None,
        };
        self.append(&entry, &mut io::empty())
    }

    fn entry(&self, at: At<'_, L>, path: Vec<u8>, stat: &Stat, kind: EntryKind) -> Result<Entry> {
        let mut entry = Entry {
            kind,
            link: Vec::new(),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            size: if kind == EntryKind::Object(Kind::File) { stat.size } else { 0 },
            rdev: stat.rdev,
            xattrs: Vec::new(),
            sparse: None,
            path,
        };
        if self.owners == Owners::Recorded {
            let own = |id: u32, own: u32| if id == own { 0 } else { id };
            entry.uid = own(stat.uid, geteuid().as_raw());
            entry.gid = own(stat.gid, getegid().as_raw());
        }
        self.xattrs(at, &mut entry)?;
        Ok(entry)
    }

    fn xattrs(&self, at: At<'_, L>, entry: &mut Entry) -> Result<()> {
        let mut names = match self.layer.list_xattrs(at) {
            Err(Errno::OPNOTSUPP) => return Ok(()),
            other => other.map_err(failed(&entry.path))?,
        };
        names.sort();
        for name in names {
            let broken = |reason| Err(Error::Unpackable { path: shown(&entry.path), reason });
            if name == self.dialect.name(Mark::Redirect) {
                return broken("it was renamed by a redirect, which an image cannot express");
            }
            if name == self.dialect.name(Mark::Metacopy) {
                return broken("its data is in a lower layer (metacopy)");
            }
            // Labels belong to a machine's policy, not to an image.
            if name == b"security.selinux" {
                continue;
            }
            let Some(shown_name) = to_user(self.dialect, &name) else { continue };
            // Removed between the two calls.
            let Some(value) = self.layer.get_xattr(at, &name).map_err(failed(&entry.path))? else { continue };
            if name == Records::User.attribute() {
                if let Ok(Record { uid, gid, mode }) = Record::parse(&value) {
                    (entry.uid, entry.gid) = (uid, gid);
                    // Else it was changed later, by somebody who did not know of the record.
                    if own_mode(mode, entry.kind == EntryKind::Object(Kind::Dir)) == entry.mode {
                        entry.mode = mode;
                    }
                }
                continue;
            }
            entry.xattrs.push((shown_name.into_owned(), value));
        }
        Ok(())
    }

    fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        self.output.append(entry, data).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::Unpackable { path: shown(&entry.path), reason: "it became shorter while it was read" }
            }
            _ => error.into(),
        })
    }
}

/// Reads a file of a layer from its begin to its end.
pub(crate) struct Data<'a, L: Layer> {
    pub(crate) layer: &'a L,
    pub(crate) file: &'a L::File,
    pub(crate) offset: u64,
}

impl<L: Layer> Read for Data<'_, L> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.layer.read_at(self.file, buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// No attribute where there can be none.
fn unsupported(errno: Errno) -> acetate_layer::Result<Option<Vec<u8>>> {
    if errno == Errno::OPNOTSUPP { Ok(None) } else { Err(errno) }
}

fn failed(path: &[u8]) -> impl Fn(Errno) -> Error + '_ {
    |errno| Error::Entry { path: shown(path), step: "read it", errno }
}
