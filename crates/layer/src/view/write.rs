//! Changes of a layer that is shown otherwise than it is stored.

use super::{Record, View, YES, is_acl};
use crate::{At, Errno, Kind, Owner, Rdev, Rename, Result, SetTime, SetXattr, Stat, UpperLayer};

/// The real modes of objects that have a record: the mounter has to get at them, whatever the record says.
const REAL_DIR: u32 = 0o755;
const REAL_FILE: u32 = 0o644;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXEC: u32 = 0o010;

const CAPABILITIES: &[u8] = b"security.capability";

impl<L: UpperLayer> View<L> {
    /// The ids to store for a new object.
    fn stored_owner(&self, owner: Owner) -> Result<Owner> {
        match owner {
            Owner::Mounter => Ok(Owner::Mounter),
            Owner::User { uid, gid } => {
                let (uid, gid) = (self.rules.uids.stored(uid), self.rules.gids.stored(gid));
                match (uid, gid) {
                    (Some(uid), Some(gid)) => Ok(Owner::User { uid, gid }),
                    _ => Err(Errno::OVERFLOW),
                }
            }
        }
    }

    /// Makes an object that can have no record, with the owner that comes closest.
    fn make_plain<T>(&self, owner: Owner, make: impl Fn(Owner) -> Result<T>) -> Result<T> {
        match (make(self.stored_owner(owner)?), owner) {
            // Where all owners are shown as one, or are recorded, who really owns it does not matter.
            (Err(Errno::PERM), Owner::User { .. }) if self.is_indifferent() => make(Owner::Mounter),
            (made, _) => made,
        }
    }

    /// Whether the mounter may own what somebody else creates.
    fn is_indifferent(&self) -> bool {
        let squashed = |ids: &super::Ids| matches!(ids, super::Ids::All(_));
        self.rules.records.is_some() || squashed(&self.rules.uids) || squashed(&self.rules.gids)
    }

    /// The record of a new object, as its directory would have it inherit. `None` for objects of the mounter's own.
    fn birth(&self, dir: &L::Dir, kind: Kind, mode: u32, owner: Owner) -> Result<Option<Record>> {
        if self.rules.records.is_none_or(|records| !records.can_have(kind)) {
            return Ok(None);
        }
        let Owner::User { uid, gid } = self.stored_owner(owner)? else {
            return Ok(None);
        };
        let parent = self.stored(At::Dir(dir))?;
        let mut record = Record { uid, gid, mode };
        if parent.mode & SET_GID != 0 {
            record.gid = parent.gid;
            if kind == Kind::Dir {
                record.mode |= SET_GID;
            }
        }
        Ok(Some(record))
    }

    fn write_record(&self, at: At<'_, Self>, record: Record) -> Result<()> {
        let Some(records) = self.rules.records else {
            return Err(Errno::INVAL);
        };
        self.inner.set_xattr(Self::at(at), records.attribute(), &record.format(), SetXattr::Any)
    }

    /// Gives a new object its record, or takes it back.
    fn finish_birth(&self, dir: &L::Dir, name: &[u8], kind: Kind, record: Option<Record>) -> Result<()> {
        let Some(record) = record else {
            return Ok(());
        };
        self.write_record(At::Name(dir, name), record).inspect_err(|_| {
            let removed =
                if kind == Kind::Dir { self.inner.rmdir(dir, name) } else { self.inner.unlink(dir, name) };
            // What the caller gets to know is why there is no such object.
            let _mounter_owns_what_stays = removed;
        })
    }

    /// Whether owner and mode of the object are in a record.
    fn has_record(&self, kind: Kind) -> bool {
        self.rules.records.is_some_and(|records| records.can_have(kind))
    }

    /// Changes owner and mode in the record as chown(2) would change those of the object.
    fn record_owner(&self, at: At<'_, Self>, stat: &Stat, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let mut record = Record::of(stat);
        record.uid = uid.unwrap_or(record.uid);
        record.gid = gid.unwrap_or(record.gid);
        if stat.kind != Kind::Dir {
            record.mode &= !SET_UID;
            if record.mode & GROUP_EXEC != 0 {
                record.mode &= !SET_GID;
            }
        }
        self.write_record(at, record)?;
        match self.remove_xattr(at, CAPABILITIES) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

impl<L: UpperLayer> UpperLayer for View<L> {
    fn work(&self) -> &L::Dir {
        self.inner.work()
    }

    fn create(&self, dir: &L::Dir, name: &[u8], mode: u32, owner: Owner) -> Result<L::File> {
        self.check_free(dir, name)?;
        match self.birth(dir, Kind::File, mode, owner)? {
            None => self.make_plain(owner, |owner| self.inner.create(dir, name, mode, owner)),
            record => {
                let file = self.inner.create(dir, name, REAL_FILE, Owner::Mounter)?;
                self.finish_birth(dir, name, Kind::File, record).map(|()| file)
            }
        }
    }

    fn create_unnamed(&self, dir: &L::Dir, mode: u32, owner: Owner) -> Result<L::File> {
        match self.birth(dir, Kind::File, mode, owner)? {
            None => self.make_plain(owner, |owner| self.inner.create_unnamed(dir, mode, owner)),
            Some(record) => {
                let file = self.inner.create_unnamed(dir, REAL_FILE, Owner::Mounter)?;
                self.write_record(At::Open(&file), record).map(|()| file)
            }
        }
    }

    fn make_dir(&self, dir: &L::Dir, name: &[u8], mode: u32, owner: Owner) -> Result<()> {
        self.check_free(dir, name)?;
        match self.birth(dir, Kind::Dir, mode, owner)? {
            None => self.make_plain(owner, |owner| self.inner.make_dir(dir, name, mode, owner)),
            record => {
                self.inner.make_dir(dir, name, REAL_DIR, Owner::Mounter)?;
                self.finish_birth(dir, name, Kind::Dir, record)
            }
        }
    }

    fn make_node(
        &self,
        dir: &L::Dir,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: Rdev,
        owner: Owner,
    ) -> Result<()> {
        self.check_free(dir, name)?;
        if self.oci && kind == Kind::CharDevice && rdev == Rdev::default() {
            return self.make_whiteout(dir, name);
        }
        match self.birth(dir, kind, mode, owner)? {
            None => self.make_plain(owner, |owner| self.inner.make_node(dir, name, kind, mode, rdev, owner)),
            record => {
                self.inner.make_node(dir, name, kind, REAL_FILE, rdev, Owner::Mounter)?;
                self.finish_birth(dir, name, kind, record)
            }
        }
    }

    fn make_symlink(&self, dir: &L::Dir, name: &[u8], target: &[u8], owner: Owner) -> Result<()> {
        self.check_free(dir, name)?;
        match self.birth(dir, Kind::Symlink, 0o777, owner)? {
            None => self.make_plain(owner, |owner| self.inner.make_symlink(dir, name, target, owner)),
            record => {
                self.inner.make_symlink(dir, name, target, Owner::Mounter)?;
                self.finish_birth(dir, name, Kind::Symlink, record)
            }
        }
    }

    fn link(&self, from: At<'_, Self>, dir: &L::Dir, name: &[u8]) -> Result<()> {
        self.check_free(dir, name)?;
        self.inner.link(Self::at(from), dir, name)
    }

    fn unlink(&self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        if self.oci { self.unlink_either(dir, name) } else { self.inner.unlink(dir, name) }
    }

    fn rmdir(&self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        if self.oci { self.rmdir_opaque(dir, name) } else { self.inner.rmdir(dir, name) }
    }

    fn rename(&self, from: (&L::Dir, &[u8]), to: (&L::Dir, &[u8]), how: Rename) -> Result<()> {
        if self.oci { self.rename_either(from, to, how) } else { self.inner.rename(from, to, how) }
    }

    fn write_at(&self, file: &L::File, data: &[u8], offset: u64) -> Result<usize> {
        self.inner.write_at(file, data, offset)
    }

    fn set_len(&self, at: At<'_, Self>, size: u64) -> Result<()> {
        self.inner.set_len(Self::at(at), size)
    }

    fn allocate(&self, file: &L::File, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.inner.allocate(file, mode, offset, len)
    }

    fn copy_range(&self, from: (&L::File, u64), to: (&L::File, u64), len: u64) -> Result<u64> {
        self.inner.copy_range(from, to, len)
    }

    fn copy_data(&self, from: &L::File, to: &L::File, size: u64, go_on: &dyn Fn() -> bool) -> Result<()> {
        self.inner.copy_data(from, to, size, go_on)
    }

    fn set_mode(&self, at: At<'_, Self>, mode: u32) -> Result<()> {
        if self.rules.records.is_some() {
            let stat = self.stored(at)?;
            if self.has_record(stat.kind) {
                return self.write_record(at, Record { mode, ..Record::of(&stat) });
            }
        }
        self.inner.set_mode(Self::at(at), mode)
    }

    fn set_owner(&self, at: At<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let stored = |id: Option<u32>, ids: &super::Ids| match (id, ids) {
            // All owners are shown as one: there is nothing to change.
            (Some(_), super::Ids::All(_)) | (None, _) => Ok(None),
            (Some(id), ids) => ids.stored(id).map(Some).ok_or(Errno::INVAL),
        };
        let (uid, gid) = (stored(uid, &self.rules.uids)?, stored(gid, &self.rules.gids)?);
        if self.rules.records.is_some() {
            let stat = self.stored(at)?;
            if self.has_record(stat.kind) {
                return self.record_owner(at, &stat, uid, gid);
            }
            return match self.inner.set_owner(Self::at(at), uid, gid) {
                // What can have no record is the mounter's.
                Err(Errno::PERM | Errno::INVAL) => Ok(()),
                other => other,
            };
        }
        self.inner.set_owner(Self::at(at), uid, gid)
    }

    fn copy_owner(
        &self,
        at: At<'_, Self>,
        _made: &Stat,
        layer: &Self,
        from: At<'_, Self>,
        _stat: &Stat,
    ) -> Result<bool> {
        // An id that is shown as another one, or as none, stays what it is.
        let (made, source) = (self.stored(at)?, layer.stored(from)?);
        if (made.uid, made.gid) == (source.uid, source.gid) {
            return Ok(false);
        }
        let (uid, gid) = (Some(source.uid), Some(source.gid));
        if self.has_record(made.kind) {
            return self.record_owner(at, &made, uid, gid).map(|()| true);
        }
        self.inner.set_owner(Self::at(at), uid, gid).map(|()| true)
    }

    fn set_times(&self, at: At<'_, Self>, atime: SetTime, mtime: SetTime) -> Result<()> {
        self.inner.set_times(Self::at(at), atime, mtime)
    }

    fn set_xattr(&self, at: At<'_, Self>, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        if self.is_acl_without(name) {
            return Err(Errno::OPNOTSUPP);
        }
        if self.is_file_mark(name) && value == YES {
            return self.make_opaque(at);
        }
        if self.translates_ids() && is_acl(name) {
            let (uids, gids) = (&self.rules.uids, &self.rules.gids);
            let stored = Self::translate_acl(value, |id| uids.stored(id), |id| gids.stored(id))?;
            return self.inner.set_xattr(Self::at(at), name, &stored.ok_or(Errno::INVAL)?, how);
        }
        match self.rules.records {
            None => self.inner.set_xattr(Self::at(at), name, value, how),
            Some(records) => {
                let stored = records.to_disk(name).ok_or(Errno::PERM)?;
                self.inner.set_xattr(Self::at(at), &stored, value, how)
            }
        }
    }

    fn remove_xattr(&self, at: At<'_, Self>, name: &[u8]) -> Result<()> {
        if self.is_acl_without(name) {
            return Err(Errno::OPNOTSUPP);
        }
        match self.rules.records {
            None => self.inner.remove_xattr(Self::at(at), name),
            Some(records) => {
                let stored = records.to_disk(name).ok_or(Errno::PERM)?;
                match self.inner.remove_xattr(Self::at(at), &stored) {
                    Err(Errno::NODATA) if stored != name => self.inner.remove_xattr(Self::at(at), name),
                    other => other,
                }
            }
        }
    }

    fn set_inode_flags(&self, at: At<'_, Self>, flags: u32) -> Result<()> {
        self.inner.set_inode_flags(Self::at(at), flags)
    }

    fn sync(&self, at: At<'_, Self>, data_only: bool) -> Result<()> {
        self.inner.sync(Self::at(at), data_only)
    }

    fn orders_lengths(&self) -> bool {
        self.inner.orders_lengths()
    }

    fn put_data_first(&self, file: &L::File) -> Result<()> {
        self.inner.put_data_first(file)
    }

    fn failed_writes(&self, file: &L::File) -> Result<()> {
        self.inner.failed_writes(file)
    }

    fn sync_fs(&self) -> Result<()> {
        self.inner.sync_fs()
    }
}
