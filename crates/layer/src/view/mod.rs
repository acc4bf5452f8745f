//! A layer whose owners, modes or whiteouts are shown otherwise than its filesystem stores them.
//!
//! [`View`] wraps a layer and translates: ids through a table ([`Ids`]), owner and mode from an attribute
//! ([`Records`]), whiteouts from the files of layer archives ([`oci`]). Whoever uses it sees a plain layer in overlay
//! format. A record is a second step after the creation of its object: who is killed in between leaves an object with
//! the mounter as its owner.

mod files;
mod ids;
pub mod oci;
mod record;
#[cfg(test)]
mod tests;
mod write;

pub use ids::{Ids, Range};
pub use record::{Record, Records};

use crate::mark::{Dialect, Digest, Mark};
use crate::{Access, At, Errno, FsId, Handle, Kind, Layer, RawEntry, Rdev, Result, Seek, Stat, StatFs, acl};
use oci::Meaning;
use std::collections::HashSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The value of an opaque mark.
const YES: &[u8] = b"y";

/// How older versions of fuse-overlayfs mark opaque directories.
const FOREIGN_OPAQUE: &[u8] = b"user.fuseoverlayfs.opaque";

/// How the layers of a mount are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Users.
    pub uids: Ids,
    /// Groups.
    pub gids: Ids,
    /// Owner and mode are in an attribute.
    pub records: Option<Records>,
    /// There are access control lists (not so with `noacl`, and never together with records).
    pub acls: bool,
    /// All directories show one link (`static_nlink`).
    pub static_nlink: bool,
    /// The opaque marks of fuse-overlayfs and of both dialects count.
    pub foreign_opaque: bool,
}

impl Default for Rules {
    /// Everything as it is stored.
    fn default() -> Rules {
        Rules {
            uids: Ids::Same,
            gids: Ids::Same,
            records: None,
            acls: true,
            static_nlink: false,
            foreign_opaque: false,
        }
    }
}

/// A layer as the rules show it.
#[derive(Debug)]
pub struct View<L> {
    inner: L,
    rules: Arc<Rules>,
    /// Names that begin with `.wh.` are whiteouts.
    oci: bool,
    /// In which dialect an opaque mark is asked for that is to be a file.
    dialect: Option<Dialect>,
}

impl<L: Layer> View<L> {
    /// Shows `inner` by these rules. `oci`: its whiteouts and opaque marks are those of layer archives.
    pub fn new(inner: L, rules: Arc<Rules>, oci: bool) -> View<L> {
        View { inner, rules, oci, dialect: None }
    }

    /// Shows an upper layer whose whiteouts and opaque marks, in `dialect`, are and become files, where they can be
    /// nothing else. Names that begin as such files do cannot be given to objects (`EINVAL`).
    pub fn with_files(inner: L, rules: Arc<Rules>, dialect: Dialect) -> View<L> {
        View { inner, rules, oci: true, dialect: Some(dialect) }
    }

    /// Whether this is the opaque mark that is to be a file.
    fn is_file_mark(&self, name: &[u8]) -> bool {
        self.dialect.is_some_and(|dialect| dialect.name(Mark::Opaque) == name)
    }

    fn at<'a>(at: At<'a, Self>) -> At<'a, L> {
        match at {
            At::Dir(dir) => At::Dir(dir),
            At::Name(dir, name) => At::Name(dir, name),
            At::Open(file) => At::Open(file),
        }
    }

    /// Owner and mode as they are stored, in an attribute or as the object's own.
    fn stored(&self, at: At<'_, Self>) -> Result<Stat> {
        let mut stat = self.inner.stat(Self::at(at))?;
        let Some(records) = self.rules.records.filter(|records| records.can_have(stat.kind)) else {
            return Ok(stat);
        };
        for name in records.attributes() {
            match self.inner.get_xattr(Self::at(at), name) {
                Ok(Some(value)) => {
                    let record = Record::parse(&value)?;
                    (stat.uid, stat.gid, stat.mode) = (record.uid, record.gid, record.mode);
                    break;
                }
                Ok(None) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(stat)
    }

    /// The whiteout that a file of a layer archive stands for.
    fn whiteout(&self, dir: &L::Dir, name: &[u8]) -> Result<Option<Stat>> {
        let hidden_by = oci::whiteout_of(name);
        match self.inner.stat(At::Name(dir, &hidden_by)) {
            Ok(stat) if stat.kind == Kind::File => {
                Ok(Some(Stat { kind: Kind::CharDevice, rdev: Rdev::default(), ..stat }))
            }
            Ok(_) | Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether files of a layer archive make the directory opaque: one within, or one beside it that hides its name.
    fn is_oci_opaque(&self, at: At<'_, Self>) -> Result<bool> {
        let opened;
        let dir = match at {
            At::Dir(dir) => dir,
            At::Name(parent, name) => {
                if self.whiteout(parent, name)?.is_some() {
                    return Ok(true);
                }
                opened = match self.inner.open_dir(parent, name) {
                    Err(Errno::NOTDIR) => return Ok(false),
                    other => other?,
                };
                &opened
            }
            At::Open(_) => return Ok(false),
        };
        match self.inner.stat(At::Name(dir, oci::OPAQUE)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// The opaque mark of a directory that has none in the dialect of the mount.
    fn opaque_otherwise(&self, at: At<'_, Self>) -> Result<Option<Vec<u8>>> {
        if self.oci && self.is_oci_opaque(at)? {
            return Ok(Some(YES.to_vec()));
        }
        if self.rules.foreign_opaque {
            let foreign =
                [FOREIGN_OPAQUE, Dialect::Trusted.name(Mark::Opaque), Dialect::User.name(Mark::Opaque)];
            for name in foreign {
                match self.inner.get_xattr(Self::at(at), name) {
                    Ok(Some(value)) if value == YES => return Ok(Some(value)),
                    Ok(_) | Err(Errno::OPNOTSUPP) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(None)
    }

    /// An access control list with its ids changed by `user` and `group`; `None` if one has no counterpart.
    fn translate_acl(
        value: &[u8],
        user: impl Fn(u32) -> Option<u32>,
        group: impl Fn(u32) -> Option<u32>,
    ) -> Result<Option<Vec<u8>>> {
        match acl::Acl::parse(value)? {
            Some(list) => Ok(list.with_ids(user, group).map(|list| list.encode())),
            None => Ok(Some(value.to_vec())),
        }
    }

    fn translates_ids(&self) -> bool {
        self.rules.uids != Ids::Same || self.rules.gids != Ids::Same
    }

    /// Whether the attribute is an access control list that there are not.
    fn is_acl_without(&self, name: &[u8]) -> bool {
        is_acl(name) && (!self.rules.acls || self.rules.records.is_some())
    }
}

fn is_opaque_mark(name: &[u8]) -> bool {
    [Dialect::Trusted, Dialect::User].iter().any(|dialect| dialect.name(Mark::Opaque) == name)
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

impl<L: Layer> Layer for View<L> {
    type Dir = L::Dir;
    type File = L::File;

    fn root(&self) -> &L::Dir {
        self.inner.root()
    }

    fn filesystem(&self) -> FsId {
        self.inner.filesystem()
    }

    fn stat(&self, at: At<'_, Self>) -> Result<Stat> {
        if let (true, At::Name(dir, name)) = (self.oci, at) {
            if oci::meaning(name) != Meaning::Object {
                return Err(Errno::NOENT);
            }
            match self.stored(at) {
                Err(Errno::NOENT) => return self.whiteout(dir, name)?.ok_or(Errno::NOENT),
                other => other,
            }
        } else {
            self.stored(at)
        }
        .map(|stat| Stat {
            uid: self.rules.uids.shown(stat.uid),
            gid: self.rules.gids.shown(stat.gid),
            nlink: if self.rules.static_nlink && stat.kind == Kind::Dir { 1 } else { stat.nlink },
            ..stat
        })
    }

    fn open_dir(&self, dir: &L::Dir, name: &[u8]) -> Result<L::Dir> {
        self.inner.open_dir(dir, name)
    }

    fn known_dir(&self, dir: &L::Dir, name: &[u8], stat: &Stat) -> Result<L::Dir> {
        self.inner.known_dir(dir, name, stat)
    }

    fn list(&self, dir: &L::Dir, each: &mut dyn FnMut(RawEntry<'_>)) -> Result<()> {
        if !self.oci {
            return self.inner.list(dir, each);
        }
        let mut hidden: Vec<(Vec<u8>, u64)> = Vec::new();
        let mut shown: HashSet<Vec<u8>> = HashSet::new();
        self.inner.list(dir, &mut |entry| match oci::meaning(entry.name) {
            Meaning::Special => {}
            Meaning::Hides(name) => hidden.push((name.to_vec(), entry.ino)),
            Meaning::Object => {
                shown.insert(entry.name.to_vec());
                each(entry);
            }
        })?;
        for (name, ino) in hidden.iter().filter(|(name, _)| !shown.contains(name)) {
            each(RawEntry { name, ino: *ino, kind: Some(Kind::CharDevice) });
        }
        Ok(())
    }

    fn hides_whiteouts(&self) -> bool {
        self.oci || self.inner.hides_whiteouts()
    }

    fn read_link(&self, at: At<'_, Self>) -> Result<Vec<u8>> {
        self.inner.read_link(Self::at(at))
    }

    fn get_xattr(&self, at: At<'_, Self>, name: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.is_acl_without(name) {
            // The kernel asks at each check of permissions, and takes an error for one.
            return Ok(None);
        }
        let value = match self.rules.records {
            None => self.inner.get_xattr(Self::at(at), name),
            Some(records) => match records.to_disk(name) {
                None => Ok(None),
                Some(stored) => match self.inner.get_xattr(Self::at(at), &stored) {
                    // What was there before any displacement.
                    Ok(None) if stored != name => self.inner.get_xattr(Self::at(at), name),
                    other => other,
                },
            },
        };
        if is_opaque_mark(name) && matches!(value, Ok(None) | Err(Errno::OPNOTSUPP)) {
            return match self.opaque_otherwise(at)? {
                Some(mark) => Ok(Some(mark)),
                None => value,
            };
        }
        match value? {
            Some(value) if self.translates_ids() && is_acl(name) => {
                let (uids, gids) = (&self.rules.uids, &self.rules.gids);
                Self::translate_acl(&value, |id| Some(uids.shown(id)), |id| Some(gids.shown(id)))
            }
            other => Ok(other),
        }
    }

    fn list_xattrs(&self, at: At<'_, Self>) -> Result<Vec<Vec<u8>>> {
        let mut names = self.inner.list_xattrs(Self::at(at))?;
        names.retain(|name| !self.is_acl_without(name));
        if let Some(records) = self.rules.records {
            names = names.iter().filter_map(|name| records.to_user(name)).collect();
            names.sort_unstable();
            names.dedup();
        }
        Ok(names)
    }

    fn open_file(&self, at: At<'_, Self>, access: Access) -> Result<L::File> {
        self.inner.open_file(Self::at(at), access)
    }

    fn keep_atime(&self, file: &L::File) -> Result<()> {
        self.inner.keep_atime(file)
    }

    fn descriptor<'a>(&self, file: &'a L::File) -> Option<BorrowedFd<'a>> {
        self.inner.descriptor(file)
    }

    fn lend<'a>(&self, file: &'a L::File) -> Option<BorrowedFd<'a>> {
        // A write that this layer does not see takes set-id bits from the file, not from its record.
        if self.rules.records.is_some() { None } else { self.inner.lend(file) }
    }

    fn reopen(&self, file: OwnedFd) -> Option<L::File> {
        self.inner.reopen(file)
    }

    fn hold(&self, dir: &L::Dir, name: &[u8]) -> Result<L::File> {
        self.inner.hold(dir, name)
    }

    fn read_at(&self, file: &L::File, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.inner.read_at(file, buf, offset)
    }

    fn seek(&self, file: &L::File, offset: u64, what: Seek) -> Result<u64> {
        self.inner.seek(file, offset, what)
    }

    fn inode_flags(&self, at: At<'_, Self>) -> Result<u32> {
        self.inner.inode_flags(Self::at(at))
    }

    fn verity(&self, file: &L::File) -> Result<Option<Digest>> {
        self.inner.verity(file)
    }

    fn handle(&self, at: At<'_, Self>) -> Result<Option<Handle>> {
        self.inner.handle(Self::at(at))
    }

    fn resolve(&self, handle: &Handle) -> Result<Option<Stat>> {
        self.inner.resolve(handle)
    }

    fn statfs(&self) -> Result<StatFs> {
        self.inner.statfs()
    }
}
