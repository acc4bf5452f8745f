//! The inodes of a filesystem in memory and the changes of its tree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::data::Data;
use super::{Abilities, xattr};
use crate::{Errno, Kind, Owner, Rdev, Rename, Result, Time, acl};

pub(super) const SET_UID: u32 = 0o4000;
pub(super) const SET_GID: u32 = 0o2000;
/// `FS_IMMUTABLE_FL`
pub(super) const IMMUTABLE: u32 = 0x10;
/// `FS_APPEND_FL`
pub(super) const APPEND: u32 = 0x20;

const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4096;
const TOP: u64 = 1;

/// What an object consists of.
#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Data),
    Dir { parent: u64, entries: BTreeMap<Vec<u8>, u64> },
    Symlink(Vec<u8>),
    Special,
}

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) rdev: Rdev,
    pub(super) atime: Time,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) btime: Time,
    pub(super) flags: u32,
    pub(super) generation: u32,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) body: Body,
    /// An unnamed file that may still get a name.
    linkable: bool,
    /// Shared with every handle of the object, so that an unlinked one is kept while somebody holds it.
    pub(super) pin: Arc<()>,
}

impl Inode {
    pub(super) fn frozen(&self) -> bool {
        self.flags & (IMMUTABLE | APPEND) != 0
    }

    pub(super) fn data(&self) -> Result<&Data> {
        if let Body::File(data) = &self.body { Ok(data) } else { Err(Errno::INVAL) }
    }

    /// What a change of content entails: times, and the capabilities of a program are gone.
    pub(super) fn content_changed(&mut self, now: Time) -> Result<&mut Data> {
        (self.mtime, self.ctime) = (now, now);
        self.xattrs.remove(xattr::CAPABILITY);
        if let Body::File(data) = &mut self.body { Ok(data) } else { Err(Errno::INVAL) }
    }
}

/// A new object before it has a place.
pub(super) struct New {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) rdev: Rdev,
    pub(super) owner: Owner,
    pub(super) body: Body,
}

impl New {
    pub(super) fn file(mode: u32, owner: Owner) -> Self {
        Self { kind: Kind::File, mode, rdev: Rdev::default(), owner, body: Body::File(Data::default()) }
    }

    pub(super) fn dir(mode: u32, owner: Owner) -> Self {
        let body = Body::Dir { parent: TOP, entries: BTreeMap::new() };
        Self { kind: Kind::Dir, mode: mode & 0o1777, rdev: Rdev::default(), owner, body }
    }
}

pub(super) struct State {
    inodes: BTreeMap<u64, Inode>,
    /// Objects without a name, to be forgotten once nobody holds them.
    unlinked: BTreeSet<u64>,
    next: u64,
    generation: u32,
    clock: i64,
    pub(super) abilities: Abilities,
}

impl State {
    pub(super) fn new(abilities: Abilities) -> Self {
        let inodes = BTreeMap::new();
        let unlinked = BTreeSet::new();
        let mut state = Self { inodes, unlinked, next: TOP, generation: 0, clock: 1_000_000_000, abilities };
        let now = state.tick();
        state.insert(New::dir(0o755, Owner::Mounter), (0, 0), now);
        state
    }

    /// A copy that shares nothing: what a remount would find.
    pub(super) fn snapshot(&self) -> Self {
        let mut inodes = self.inodes.clone();
        inodes.retain(|ino, _| !self.unlinked.contains(ino));
        for inode in inodes.values_mut() {
            inode.pin = Arc::new(());
        }
        let (unlinked, abilities) = (BTreeSet::new(), self.abilities.clone());
        Self { inodes, unlinked, next: self.next, generation: self.generation, clock: self.clock, abilities }
    }

    pub(super) fn top() -> u64 {
        TOP
    }

    pub(super) fn count(&self) -> u64 {
        self.inodes.len() as u64
    }

    /// The time of the next change; no two changes have the same.
    pub(super) fn tick(&mut self) -> Time {
        self.clock += 1;
        Time { sec: self.clock, nsec: 0 }
    }

    /// An object that is there, being named by an entry or held by a handle.
    pub(super) fn get(&self, ino: u64) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or(Errno::STALE)
    }

    pub(super) fn get_mut(&mut self, ino: u64) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or(Errno::STALE)
    }

    pub(super) fn entries(&self, dir: u64) -> Result<&BTreeMap<Vec<u8>, u64>> {
        if let Body::Dir { entries, .. } = &self.get(dir)?.body { Ok(entries) } else { Err(Errno::NOTDIR) }
    }

    /// The object `name` in `dir`.
    pub(super) fn find(&self, dir: u64, name: &[u8]) -> Result<u64> {
        check_name(name)?;
        self.entries(dir)?.get(name).copied().ok_or(Errno::NOENT)
    }

    /// The directory that holds `dir`.
    fn parent(&self, dir: u64) -> Result<u64> {
        if let Body::Dir { parent, .. } = self.get(dir)?.body { Ok(parent) } else { Err(Errno::NOTDIR) }
    }

    /// Creates an object under a name.
    pub(super) fn create(&mut self, dir: u64, name: &[u8], new: New) -> Result<u64> {
        self.may_add(dir, name)?;
        let now = self.tick();
        let ino = self.make(dir, new, now)?;
        self.put_entry(dir, name, ino, now)?;
        Ok(ino)
    }

    /// Creates a file without a name.
    pub(super) fn create_unnamed(&mut self, dir: u64, mode: u32, owner: Owner) -> Result<u64> {
        if !self.abilities.unnamed_files {
            return Err(Errno::OPNOTSUPP);
        }
        self.entries(dir)?;
        let now = self.tick();
        let ino = self.make(dir, New::file(mode, owner), now)?;
        let inode = self.get_mut(ino)?;
        (inode.nlink, inode.linkable) = (0, true);
        self.unlinked.insert(ino);
        Ok(ino)
    }

    /// Gives a non-directory one more name.
    pub(super) fn link(&mut self, ino: u64, dir: u64, name: &[u8]) -> Result<()> {
        self.may_add(dir, name)?;
        let max_links = self.abilities.max_links;
        let inode = self.get(ino)?;
        if inode.kind == Kind::Dir || inode.frozen() {
            return Err(Errno::PERM);
        }
        if inode.nlink == 0 && !inode.linkable {
            return Err(Errno::NOENT);
        }
        if inode.nlink >= max_links {
            return Err(Errno::MLINK);
        }
        let now = self.tick();
        let inode = self.get_mut(ino)?;
        inode.nlink += 1;
        inode.ctime = now;
        self.unlinked.remove(&ino);
        self.put_entry(dir, name, ino, now)
    }

    /// Removes a non-directory.
    pub(super) fn unlink(&mut self, dir: u64, name: &[u8]) -> Result<()> {
        let ino = self.may_remove(dir, name)?;
        if self.get(ino)?.kind == Kind::Dir {
            return Err(Errno::ISDIR);
        }
        let now = self.tick();
        self.take_entry(dir, name, now)?;
        self.drop_link(ino, now)
    }

    /// Removes an empty directory.
    pub(super) fn rmdir(&mut self, dir: u64, name: &[u8]) -> Result<()> {
        let ino = self.may_remove(dir, name)?;
        if !self.entries(ino)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        let now = self.tick();
        self.take_entry(dir, name, now)?;
        self.drop_link(ino, now)
    }

    /// renameat2(2).
    pub(super) fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), how: Rename) -> Result<()> {
        if how == Rename::Whiteout && !self.abilities.rename_whiteout {
            return Err(Errno::INVAL);
        }
        let source = self.find(from.0, from.1)?;
        let target = match self.find(to.0, to.1) {
            Ok(target) => Some(target),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        match (how, target) {
            (Rename::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (Rename::Exchange, None) => return Err(Errno::NOENT),
            _ => {}
        }
        self.check_loops(from.0, source, to.0, target, how)?;
        if target == Some(source) {
            return Ok(());
        }
        self.may_remove(from.0, from.1)?;
        match target {
            Some(target) => {
                self.may_remove(to.0, to.1)?;
                if how != Rename::Exchange {
                    self.may_replace(source, target)?;
                }
            }
            None => self.may_add(to.0, to.1)?,
        }
        let now = self.tick();
        self.take_entry(from.0, from.1, now)?;
        if let Some(target) = target {
            self.take_entry(to.0, to.1, now)?;
            if how == Rename::Exchange {
                self.get_mut(target)?.ctime = now;
                self.put_entry(from.0, from.1, target, now)?;
            } else {
                self.drop_link(target, now)?;
            }
        }
        if how == Rename::Whiteout {
            let body = Body::Special;
            let whiteout =
                New { kind: Kind::CharDevice, mode: 0, rdev: Rdev::default(), owner: Owner::Mounter, body };
            let ino = self.insert(whiteout, (0, 0), now);
            self.put_entry(from.0, from.1, ino, now)?;
        }
        self.get_mut(source)?.ctime = now;
        self.put_entry(to.0, to.1, source, now)
    }

    /// Whether one side of a rename lies in the other.
    fn check_loops(&self, from: u64, source: u64, to: u64, target: Option<u64>, how: Rename) -> Result<()> {
        if self.is_within(to, source)? {
            return Err(Errno::INVAL);
        }
        if let Some(target) = target
            && self.is_within(from, target)?
        {
            return Err(if how == Rename::Exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        Ok(())
    }

    /// Whether the directory `dir` is `top` or lies below it.
    fn is_within(&self, dir: u64, top: u64) -> Result<bool> {
        let mut at = dir;
        loop {
            if at == top {
                return Ok(true);
            }
            let parent = self.parent(at)?;
            if parent == at {
                return Ok(false);
            }
            at = parent;
        }
    }

    fn may_replace(&self, source: u64, target: u64) -> Result<()> {
        match (self.get(source)?.kind == Kind::Dir, self.get(target)?.kind == Kind::Dir) {
            (false, true) => Err(Errno::ISDIR),
            (true, false) => Err(Errno::NOTDIR),
            (true, true) if !self.entries(target)?.is_empty() => Err(Errno::NOTEMPTY),
            _ => Ok(()),
        }
    }

    fn may_add(&self, dir: u64, name: &[u8]) -> Result<()> {
        match self.find(dir, name) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let inode = self.get(dir)?;
        if inode.nlink == 0 {
            return Err(Errno::NOENT);
        }
        if inode.flags & IMMUTABLE != 0 { Err(Errno::PERM) } else { Ok(()) }
    }

    fn may_remove(&self, dir: u64, name: &[u8]) -> Result<u64> {
        let ino = self.find(dir, name)?;
        if self.get(dir)?.frozen() || self.get(ino)?.frozen() {
            return Err(Errno::PERM);
        }
        Ok(ino)
    }

    /// An object as it is born in `dir`: owner, set-group-id and default list.
    fn make(&mut self, dir: u64, mut new: New, now: Time) -> Result<u64> {
        let parent = self.get(dir)?;
        let (uid, mut gid) = match new.owner {
            Owner::Mounter => (0, 0),
            Owner::User { uid, gid } => (uid, gid),
        };
        if parent.mode & SET_GID != 0 {
            gid = parent.gid;
            if new.kind == Kind::Dir {
                new.mode |= SET_GID;
            }
        }
        let inherited = match parent.xattrs.get(acl::DEFAULT) {
            Some(default) => Some(acl::inherit(default, new.mode, new.kind)?),
            None => None,
        };
        let mut xattrs = BTreeMap::new();
        if let Some(inherited) = inherited {
            new.mode = inherited.mode;
            xattrs.extend(inherited.access_acl.map(|value| (acl::ACCESS.to_vec(), value)));
            xattrs.extend(inherited.default_acl.map(|value| (acl::DEFAULT.to_vec(), value)));
        }
        let ino = self.insert(new, (uid, gid), now);
        self.get_mut(ino)?.xattrs = xattrs;
        Ok(ino)
    }

    /// Adds an inode that no entry names yet.
    fn insert(&mut self, new: New, (uid, gid): (u32, u32), now: Time) -> u64 {
        let ino = self.free_number();
        self.generation += 1;
        let inode = Inode {
            kind: new.kind,
            mode: new.mode & 0o7777,
            uid,
            gid,
            nlink: if new.kind == Kind::Dir { 2 } else { 1 },
            rdev: new.rdev,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            flags: 0,
            generation: self.generation,
            xattrs: BTreeMap::new(),
            body: new.body,
            linkable: false,
            pin: Arc::new(()),
        };
        self.inodes.insert(ino, inode);
        ino
    }

    /// A number for a new inode. Like on real filesystems those of forgotten objects are used again at once.
    fn free_number(&mut self) -> u64 {
        let inodes = &mut self.inodes;
        let gone = |ino: &u64| inodes.get(ino).is_none_or(|inode| Arc::strong_count(&inode.pin) == 1);
        let gone: Vec<u64> = self.unlinked.iter().copied().filter(gone).collect();
        for ino in &gone {
            self.inodes.remove(ino);
            self.unlinked.remove(ino);
        }
        match gone.first() {
            Some(ino) if self.abilities.reuse_numbers => *ino,
            _ => {
                self.next += 1;
                self.next - 1
            }
        }
    }

    fn put_entry(&mut self, dir: u64, name: &[u8], ino: u64, now: Time) -> Result<()> {
        let child = self.get_mut(ino)?;
        if let Body::Dir { parent, .. } = &mut child.body {
            *parent = dir;
        }
        let is_dir = child.kind == Kind::Dir;
        self.change_entries(dir, is_dir, 1, now)?.insert(name.to_vec(), ino);
        Ok(())
    }

    fn take_entry(&mut self, dir: u64, name: &[u8], now: Time) -> Result<()> {
        let ino = self.find(dir, name)?;
        let is_dir = self.get(ino)?.kind == Kind::Dir;
        self.change_entries(dir, is_dir, -1, now)?.remove(name);
        Ok(())
    }

    fn change_entries(
        &mut self,
        dir: u64,
        of_dir: bool,
        links: i32,
        now: Time,
    ) -> Result<&mut BTreeMap<Vec<u8>, u64>> {
        let inode = self.get_mut(dir)?;
        (inode.mtime, inode.ctime) = (now, now);
        if of_dir {
            inode.nlink = inode.nlink.saturating_add_signed(links);
        }
        if let Body::Dir { entries, .. } = &mut inode.body { Ok(entries) } else { Err(Errno::NOTDIR) }
    }

    fn drop_link(&mut self, ino: u64, now: Time) -> Result<()> {
        let inode = self.get_mut(ino)?;
        inode.nlink = if inode.kind == Kind::Dir { 0 } else { inode.nlink - 1 };
        inode.ctime = now;
        if inode.nlink == 0 {
            self.unlinked.insert(ino);
        }
        Ok(())
    }
}

/// Names have to be single components of at most 255 bytes.
fn check_name(name: &[u8]) -> Result<()> {
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(Errno::INVAL);
    }
    if name.len() > NAME_MAX { Err(Errno::NAMETOOLONG) } else { Ok(()) }
}

/// Targets of symlinks hold one byte or more and fit into a path.
pub(super) fn check_target(target: &[u8]) -> Result<()> {
    match target.len() {
        0 => Err(Errno::NOENT),
        len if len >= PATH_MAX => Err(Errno::NAMETOOLONG),
        _ => Ok(()),
    }
}
