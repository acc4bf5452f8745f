//! Archives become layers.
//!
//! Every path is walked by single names below the layer's root, so nothing outside can be reached whatever the archive
//! says. Whiteouts of the OCI format (`.wh.NAME`, `.wh..wh..opq`; image-spec, "Whiteouts") become those of overlayfs.

mod place;
mod xattrs;

pub(crate) use xattrs::own_mode;

use crate::archive::{Entry, EntryKind, Reader};
use crate::error::{Error, Result, shown};
use crate::split;
use acetate_layer::mark::{Dialect, Mark, is_device_whiteout};
use acetate_layer::work::WhiteoutForm;
use acetate_layer::{At, Errno, Kind, Owner, Rdev, Rename, SetTime, SetXattr, Time, UpperLayer};
use place::{Places, components};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// How layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owners {
    /// As owners of the files: needs `CAP_CHOWN` over the ids of the image.
    Kept,
    /// In the attribute `user.containers.override_stat` of regular files and directories, which are all the unpacking
    /// user's own.
    Recorded,
}

/// How an archive is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whose marks the layer gets.
    pub dialect: Dialect,
    /// The form of its whiteouts.
    pub whiteouts: WhiteoutForm,
    /// Where owners go.
    pub owners: Owners,
}

/// What was found in an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Objects made, directories included.
    pub objects: u64,
    /// Bytes of data in files.
    pub bytes: u64,
    /// Names hidden and directories made opaque.
    pub whiteouts: u64,
    /// Device nodes left out for lack of privilege.
    pub devices_skipped: u64,
    /// Extended attributes that the filesystem does not take.
    pub xattrs_skipped: u64,
    /// Directories that the archive has no entries for: made as the unpacking user's, with mode 0755.
    pub implicit: Vec<Vec<u8>>,
    /// Files that a later entry of the same archive replaced: kept in the work directory, for [`Replaced`].
    pub replaced: Vec<Replaced>,
}

/// An object that a later entry of the same archive replaced. Its data is still needed to make the archive again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Where it was, in bytes.
    pub path: Vec<u8>,
    /// Its name in the layer's work directory.
    pub name: String,
    /// How many files with data came before its replacement.
    pub before: u64,
}

/// Unpacks an archive that is not compressed into an empty layer, and writes its split file.
///
/// What a later entry replaces goes to the layer's work directory. Nothing is synced. Directories without an entry of
/// their own should get the attributes of those below, which is for those to do who know the layers below.
///
/// # Errors
/// [`Error::Malformed`], [`Error::Escapes`], [`Error::Entry`]; those of reading and writing.
pub fn unpack<L: UpperLayer, W: Write>(
    archive: impl Read,
    layer: &L,
    options: Options,
    split: split::Writer<W>,
) -> Result<(Totals, W)> {
    let mut unpacker = Unpacker {
        layer,
        options,
        places: Places::new(layer),
        totals: Totals::default(),
        files: 0,
        late: Vec::new(),
        buffer: vec![0; 256 << 10],
    };
    let mut reader = Reader::new(archive, split);
    while let Some(entry) = reader.next_entry()? {
        unpacker.apply(&entry, &mut reader)?;
    }
    unpacker.finish()?;
    unpacker.totals.implicit = unpacker.places.into_implicit();
    let (_, split) = reader.into_parts();
    Ok((unpacker.totals, split.finish()?))
}

struct Unpacker<'a, L: UpperLayer> {
    layer: &'a L,
    options: Options,
    places: Places<'a, L>,
    totals: Totals,
    /// Files with data so far.
    files: u64,
    /// What directories get at the end, when nothing is made in them any more.
    late: Vec<Late>,
    buffer: Vec<u8>,
}

struct Late {
    path: Vec<u8>,
    mtime: Time,
    default_acl: Option<Vec<u8>>,
}

/// Adds an entry's path and the step to an errno.
fn at<T>(entry: &Entry, step: &'static str, result: acetate_layer::Result<T>) -> Result<T> {
    result.map_err(|errno| Error::Entry { path: shown(&entry.path), step, errno })
}

impl<'a, L: UpperLayer> Unpacker<'a, L> {
    fn apply<R: Read, W: Write>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<R, split::Writer<W>>,
    ) -> Result<()> {
        let path = components(&entry.path)?;
        let Some((name, parents)) = path.split_last() else {
            return self.root(entry);
        };
        if let Some(parent) = parents.iter().find(|parent| parent.starts_with(b".wh.")) {
            // What aufs kept for itself; else nothing is below a whiteout.
            return match parent.strip_prefix(b".wh..wh.") {
                Some(_) => Ok(()),
                None => Err(Error::Malformed(format!("entry {} is below a whiteout", shown(&entry.path)))),
            };
        }
        let (dir, dir_path) = self.places.directory(parents, &entry.path)?;
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(entry, &dir, hidden);
        }
        let full = [&dir_path[..], if dir_path.is_empty() { b"" } else { b"/" }, name].concat();
        match entry.kind {
            EntryKind::HardLink => self.link(entry, &dir, name, &full)?,
            EntryKind::Object(Kind::Dir) => self.directory(entry, &dir, name, full)?,
            EntryKind::Object(Kind::File) => self.file(entry, &dir, name, &full, reader)?,
            EntryKind::Object(kind) => self.node(entry, kind, &dir, name, &full)?,
        }
        self.totals.objects += 1;
        Ok(())
    }

    /// The entry of the root directory sets its attributes.
    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::Object(Kind::Dir) {
            return Err(Error::Escapes { path: shown(&entry.path) });
        }
        let root = self.layer.root().clone();
        self.attributes(entry, At::Dir(&root), true)?;
        self.later(entry, Vec::new());
        Ok(())
    }

    /// Hides a name below, or all of them.
    fn whiteout(&mut self, entry: &Entry, dir: &L::Dir, hidden: &[u8]) -> Result<()> {
        match hidden {
            b".wh..opq" => self.opaque(entry, At::Dir(dir))?,
            b"" | b"." | b".." => {
                return Err(Error::Malformed(format!("whiteout {} hides nothing", shown(&entry.path))));
            }
            // What aufs kept for itself.
            aufs if aufs.starts_with(b".wh.") => return Ok(()),
            name => match self.layer.stat(At::Name(dir, name)) {
                // Whiteouts hide what is below, never what the same archive brings; a directory then hides by itself.
                Ok(stat) if stat.kind == Kind::Dir => {
                    let inner = at(entry, "open the directory", self.layer.open_dir(dir, name))?;
                    self.opaque(entry, At::Dir(&inner))?;
                }
                Ok(_) => {}
                Err(Errno::NOENT) => self.make_whiteout(entry, dir, name)?,
                Err(errno) => return at(entry, "look for what it hides", Err(errno)),
            },
        }
        self.totals.whiteouts += 1;
        Ok(())
    }

    fn make_whiteout(&mut self, entry: &Entry, dir: &L::Dir, name: &[u8]) -> Result<()> {
        let (kind, mode) = match self.options.whiteouts {
            WhiteoutForm::Device => (Kind::CharDevice, 0),
            WhiteoutForm::Xattr => (Kind::File, 0o600),
        };
        let made = self.layer.make_node(dir, name, kind, mode, Rdev::default(), Owner::Mounter);
        at(entry, "make a whiteout", made)?;
        if self.options.whiteouts == WhiteoutForm::Xattr {
            let mark = self.options.dialect.name(Mark::Whiteout);
            at(
                entry,
                "mark a whiteout",
                self.layer.set_xattr(At::Name(dir, name), mark, b"y", SetXattr::Any),
            )?;
            // Announces to readers that empty files may be whiteouts; a directory that is opaque needs none.
            let announce = self.options.dialect.name(Mark::Opaque);
            let announced = self.layer.set_xattr(At::Dir(dir), announce, b"x", SetXattr::Create);
            match announced {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return at(entry, "announce whiteouts", Err(errno)),
            }
        }
        Ok(())
    }

    fn opaque(&self, entry: &Entry, dir: At<'_, L>) -> Result<()> {
        let mark = self.options.dialect.name(Mark::Opaque);
        at(entry, "mark the directory opaque", self.layer.set_xattr(dir, mark, b"y", SetXattr::Any))
    }

    /// Whether there is a whiteout of that name, made for an earlier entry.
    fn is_whiteout(&self, dir: &L::Dir, name: &[u8]) -> acetate_layer::Result<bool> {
        let stat = self.layer.stat(At::Name(dir, name))?;
        if self.options.whiteouts == WhiteoutForm::Device || stat.kind != Kind::File || stat.size != 0 {
            return Ok(is_device_whiteout(&stat));
        }
        let mark = self.options.dialect.name(Mark::Whiteout);
        Ok(self.layer.get_xattr(At::Name(dir, name), mark)?.is_some())
    }

    /// Moves what an earlier entry has put in place to the work directory.
    fn displace(&mut self, entry: &Entry, dir: &L::Dir, name: &[u8], full: &[u8]) -> Result<()> {
        if at(entry, "look at what it replaces", self.is_whiteout(dir, name))? {
            return at(entry, "remove a whiteout", self.layer.unlink(dir, name));
        }
        let aside = self.totals.replaced.len().to_string();
        let moved = self.layer.rename((dir, name), (self.layer.work(), aside.as_bytes()), Rename::Replace);
        at(entry, "replace an earlier entry", moved)?;
        self.totals.replaced.push(Replaced { path: full.to_vec(), name: aside, before: self.files });
        self.places.forget();
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, dir: &L::Dir, name: &[u8], full: Vec<u8>) -> Result<()> {
        let make = |layer: &L| layer.make_dir(dir, name, 0o700, Owner::Mounter);
        match make(self.layer) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let old = at(entry, "look at what is there", self.layer.stat(At::Name(dir, name)))?;
                if old.kind != Kind::Dir {
                    // A directory in place of a whiteout hides what the whiteout hid.
                    let hides = at(entry, "look at what it replaces", self.is_whiteout(dir, name))?;
                    self.displace(entry, dir, name, &full)?;
                    at(entry, "make the directory", make(self.layer))?;
                    if hides {
                        let new = at(entry, "open the directory", self.layer.open_dir(dir, name))?;
                        self.opaque(entry, At::Dir(&new))?;
                    }
                }
            }
            Err(errno) => return at(entry, "make the directory", Err(errno)),
        }
        self.places.has_entry(&full);
        let made = at(entry, "open the directory", self.layer.open_dir(dir, name))?;
        self.attributes(entry, At::Dir(&made), true)?;
        self.later(entry, full);
        Ok(())
    }

    fn later(&mut self, entry: &Entry, path: Vec<u8>) {
        let default_acl = entry.xattrs.iter().find(|(name, _)| name == acetate_layer::acl::DEFAULT);
        let default_acl = default_acl.map(|(_, value)| value.clone());
        self.late.push(Late { path, mtime: entry.mtime, default_acl });
    }

    fn file<R: Read, W: Write>(
        &mut self,
        entry: &Entry,
        dir: &L::Dir,
        name: &[u8],
        full: &[u8],
        reader: &mut Reader<R, split::Writer<W>>,
    ) -> Result<()> {
        let create = |layer: &L| layer.create(dir, name, 0o600, Owner::Mounter);
        let file = match create(self.layer) {
            Err(Errno::EXIST) => {
                self.displace(entry, dir, name, full)?;
                create(self.layer)
            }
            other => other,
        };
        let file = at(entry, "create the file", file)?;
        let whole = [(0, entry.size)];
        // The archive of a sparse file cannot be made from its data alone.
        let keep = entry.sparse.is_some();
        if !keep && entry.size > 0 {
            reader.record().file(full, entry.size)?;
            self.files += 1;
        }
        let mut written = 0;
        for (offset, length) in entry.sparse.as_deref().unwrap_or(&whole) {
            written = written.max(self.extent(entry, &file, *offset, *length, reader, keep)?);
        }
        if written < entry.size {
            at(entry, "set the size", self.layer.set_len(At::Open(&file), entry.size))?;
        }
        self.totals.bytes += entry.size;
        self.attributes(entry, At::Open(&file), false)
    }

    /// Writes a run of data, leaving out blocks of zeros where that saves space. Returns where what it wrote ends.
    fn extent<R: Read, W: Write>(
        &mut self,
        entry: &Entry,
        file: &L::File,
        start: u64,
        length: u64,
        reader: &mut Reader<R, split::Writer<W>>,
        keep: bool,
    ) -> Result<u64> {
        let (mut offset, end, mut written) = (start, start + length, 0);
        while offset < end {
            let want = usize::try_from(end - offset).unwrap_or(usize::MAX).min(self.buffer.len());
            let mut filled = 0;
            while filled < want {
                match reader.read_data(&mut self.buffer[filled..want], keep)? {
                    0 => return Err(Error::Malformed(format!("entry {} lacks data", shown(&entry.path)))),
                    count => filled += count,
                }
            }
            for (at_chunk, chunk) in self.buffer[..want].chunks(HOLE_BYTES).enumerate() {
                if chunk.len() == HOLE_BYTES && is_zero(chunk) {
                    continue;
                }
                let position = offset + (at_chunk * HOLE_BYTES) as u64;
                at(entry, "write", write_all(self.layer, file, chunk, position))?;
                written = position + chunk.len() as u64;
            }
            offset += want as u64;
        }
        Ok(written)
    }

    fn node(&mut self, entry: &Entry, kind: Kind, dir: &L::Dir, name: &[u8], full: &[u8]) -> Result<()> {
        let make = |layer: &L| match kind {
            Kind::Symlink => layer.make_symlink(dir, name, &entry.link, Owner::Mounter),
            _ => layer.make_node(dir, name, kind, 0o600, entry.rdev, Owner::Mounter),
        };
        let made = match make(self.layer) {
            Err(Errno::EXIST) => {
                self.displace(entry, dir, name, full)?;
                make(self.layer)
            }
            other => other,
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        match made {
            Err(Errno::PERM) if is_device => {
                self.totals.devices_skipped += 1;
                return Ok(());
            }
            other => at(entry, "make the object", other)?,
        }
        self.attributes(entry, At::Name(dir, name), false)
    }

    fn link(&mut self, entry: &Entry, dir: &L::Dir, name: &[u8], full: &[u8]) -> Result<()> {
        let target = components(&entry.link)?;
        let Some((old_name, parents)) = target.split_last() else {
            return Err(Error::Escapes { path: shown(&entry.path) });
        };
        let (old_dir, _) = self.places.directory(parents, &entry.path)?;
        let old = At::Name(&old_dir, old_name);
        let linked = match self.layer.link(old, dir, name) {
            Err(Errno::EXIST) => {
                let same = |at| self.layer.stat(at).map(|stat| (stat.dev, stat.ino));
                let new = at(entry, "look at what is there", same(At::Name(dir, name)))?;
                if at(entry, "look at what it links to", same(old))? == new {
                    return Ok(());
                }
                self.displace(entry, dir, name, full)?;
                self.layer.link(At::Name(&old_dir, old_name), dir, name)
            }
            other => other,
        };
        at(entry, "link it", linked)
    }

    /// Sets owner, attributes and mode, and the times of what is no directory. In this order: changing the owner takes
    /// set-id bits and capabilities away, and attributes of a read-only file can be set by root alone.
    fn attributes(&mut self, entry: &Entry, object: At<'_, L>, is_dir: bool) -> Result<()> {
        let is_symlink = entry.kind == EntryKind::Object(Kind::Symlink);
        let mut mode = entry.mode;
        match self.options.owners {
            Owners::Kept => {
                let owned = self.layer.set_owner(object, Some(entry.uid), Some(entry.gid));
                at(entry, "set the owner", owned)?;
            }
            Owners::Recorded => {
                xattrs::record_owner(self.layer, object, entry)?;
                mode = own_mode(mode, is_dir);
            }
        }
        self.totals.xattrs_skipped += xattrs::set(self.layer, object, entry, self.options.dialect)?;
        if !is_symlink {
            at(entry, "set the mode", self.layer.set_mode(object, mode))?;
        }
        if !is_dir {
            let mtime = SetTime::To(entry.mtime);
            at(entry, "set the times", self.layer.set_times(object, mtime, mtime))?;
        }
        Ok(())
    }

    /// Gives directories what making entries in them would change.
    fn finish(&mut self) -> Result<()> {
        for late in std::mem::take(&mut self.late) {
            let shown_path = &shown(&late.path);
            let failed = |step| move |errno| Error::Entry { path: shown_path.clone(), step, errno };
            let Some(dir) = self.places.existing(&late.path)? else { continue };
            if let Some(acl) = &late.default_acl {
                let set =
                    self.layer.set_xattr(At::Dir(&dir), acetate_layer::acl::DEFAULT, acl, SetXattr::Any);
                match set {
                    Err(Errno::OPNOTSUPP | Errno::PERM) => self.totals.xattrs_skipped += 1,
                    other => other.map_err(failed("set the default ACL"))?,
                }
            }
            let mtime = SetTime::To(late.mtime);
            self.layer.set_times(At::Dir(&dir), mtime, mtime).map_err(failed("set the times"))?;
        }
        Ok(())
    }
}

/// Runs of zeros of this size are left out; the block size of most filesystems.
const HOLE_BYTES: usize = 64 << 10;

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn write_all<L: UpperLayer>(
    layer: &L,
    file: &L::File,
    mut data: &[u8],
    mut offset: u64,
) -> acetate_layer::Result<()> {
    while !data.is_empty() {
        match layer.write_at(file, data, offset)? {
            0 => return Err(Errno::IO),
            count => {
                data = &data[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}
