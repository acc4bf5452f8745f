//! Makes the random calls of a script.

use std::collections::BTreeSet;

use fastrand::Rng;

use super::acl;
use super::generate::{
    CAPABILITY, Names, acl_value, join, old_time, once_in, parent, pick, pick_number, symlink_target,
};
use super::op::{Op, SetTime, Target};
use super::script::{Extent, Step};

const OLD_UIDS: [Option<u32>; 5] = [None, Some(0), Some(1000), Some(7), None];
const MODES: [u32; 10] = [0o644, 0o755, 0o777, 0o600, 0o000, 0o4755, 0o2755, 0o1777, 0o6777, 0o444];
const RENAMES: [u32; 8] = [
    0,
    0,
    0,
    0,
    libc::RENAME_NOREPLACE,
    libc::RENAME_EXCHANGE,
    libc::RENAME_EXCHANGE,
    libc::RENAME_WHITEOUT,
];
/// How many slots each user has.
const SLOTS: u8 = 4;

/// Generator of calls: remembers which paths may exist and which slots are open.
pub(super) struct Calls {
    rng: Rng,
    names: Names,
    /// Prefix of private marks, as bytes of a name.
    prefix: Vec<u8>,
    known: Vec<Vec<u8>>,
    /// Slots opened so far, with their user.
    open: BTreeSet<(u32, u8)>,
    /// Whether this sequence asks for holes. Where unwritten blocks count as data depends on
    /// what the page cache holds, so such sequences leave fallocate out.
    holes: bool,
}

impl Calls {
    pub(super) fn new(mut rng: Rng, names: Names, prefix: Vec<u8>, known: BTreeSet<Vec<u8>>) -> Self {
        let holes = rng.bool();
        let known = known.into_iter().filter(|path| !path.is_empty()).collect();
        Self { rng, names, prefix, known, open: BTreeSet::new(), holes }
    }

    /// Returns a whole sequence.
    pub(super) fn steps(mut self) -> Vec<Step> {
        let count = self.rng.usize(4..=40);
        let users = once_in(&mut self.rng, 2);
        (0..count).map(|_| self.step(users)).collect()
    }

    fn step(&mut self, users: bool) -> Step {
        match self.rng.u32(..100) {
            0..2 => return Step::Check,
            2 => {
                self.open.clear();
                return Step::Remount;
            }
            _ => {}
        }
        let uid = if users && self.rng.bool() { 1000 } else { 0 };
        let umask = pick_number(&mut self.rng, &[0o022, 0o022, 0o000, 0o077, 0o027]);
        let op = match self.rng.u32(..100) {
            0..14 => self.open_or_close(uid),
            14..32 => self.make(uid),
            32..56 => self.remove(),
            56..72 => self.change(uid),
            72..80 => self.look(uid),
            _ => self.data(uid),
        };
        Step::Run { uid, umask, op }
    }

    /// Returns a path that probably exists.
    fn old_path(&mut self) -> Vec<u8> {
        if self.known.is_empty() || once_in(&mut self.rng, 8) {
            return self.names.path(&mut self.rng);
        }
        let at = self.rng.usize(..self.known.len());
        let path = self.known[at].clone();
        // A directory that holds something known, rather than the leaf.
        if once_in(&mut self.rng, 4) && !parent(&path).is_empty() { parent(&path).to_vec() } else { path }
    }

    /// Returns a path to make something at, and remembers it.
    fn new_path(&mut self) -> Vec<u8> {
        let path = match self.rng.u32(..10) {
            0..3 => self.old_path(),
            3..5 => self.names.one(&mut self.rng),
            5 => self.names.path(&mut self.rng),
            _ => {
                let near = self.old_path();
                let dir = if self.rng.bool() { near } else { parent(&near).to_vec() };
                join(&dir, &self.names.one(&mut self.rng))
            }
        };
        let path = if once_in(&mut self.rng, 120) { join(&path, &[b'l'; 256]) } else { path };
        if !self.known.contains(&path) && path.len() < 700 {
            self.known.push(path.clone());
        }
        path
    }

    /// Returns a slot that this user opened, else any.
    fn slot(&mut self, uid: u32) -> u8 {
        let own: Vec<u8> = self.open.iter().filter(|(user, _)| *user == uid).map(|(_, slot)| *slot).collect();
        if own.is_empty() { 0 } else { pick_number(&mut self.rng, &own) }
    }

    fn has_slot(&self, uid: u32) -> bool {
        self.open.iter().any(|(user, _)| *user == uid)
    }

    fn target(&mut self, uid: u32) -> Target {
        if self.has_slot(uid) && once_in(&mut self.rng, 4) {
            return Target::Slot(self.slot(uid));
        }
        if once_in(&mut self.rng, 25) { Target::Path(Vec::new()) } else { Target::Path(self.old_path()) }
    }

    fn mode(&mut self) -> u32 {
        pick_number(&mut self.rng, &MODES)
    }

    fn open_or_close(&mut self, uid: u32) -> Op {
        if self.has_slot(uid) && once_in(&mut self.rng, 8) {
            let slot = self.slot(uid);
            self.open.remove(&(uid, slot));
            return Op::Close { slot };
        }
        let slot = self.rng.u8(..SLOTS);
        self.open.insert((uid, slot));
        // Always O_NONBLOCK: a pipe without a partner would block for ever.
        let mut flags = libc::O_NONBLOCK | pick_number(&mut self.rng, &[0, 0, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR]);
        if once_in(&mut self.rng, 8) {
            let access = pick_number(&mut self.rng, &[libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR, 0]);
            let exclusive = if once_in(&mut self.rng, 5) { libc::O_EXCL } else { 0 };
            let path = self.old_path();
            let path = if self.rng.bool() { parent(&path).to_vec() } else { path };
            let flags = (libc::O_TMPFILE | access | exclusive) as u32;
            return Op::Open { slot, path, flags, mode: self.mode() };
        }
        for (bit, rarity) in [
            (libc::O_CREAT, 2),
            (libc::O_EXCL, 6),
            (libc::O_TRUNC, 5),
            (libc::O_APPEND, 5),
            (libc::O_DIRECTORY, 8),
            (libc::O_NOFOLLOW, 8),
            (libc::O_PATH, 25),
            (libc::O_DSYNC, 20),
        ] {
            if once_in(&mut self.rng, rarity) {
                flags |= bit;
            }
        }
        let path = if flags & libc::O_CREAT != 0 { self.new_path() } else { self.old_path() };
        Op::Open { slot, path, flags: flags as u32, mode: self.mode() }
    }

    fn make(&mut self, uid: u32) -> Op {
        let path = self.new_path();
        match self.rng.u32(..20) {
            0..8 => Op::Mkdir { path, mode: self.mode() },
            8..11 => self.mknod(path),
            11..14 => {
                let target = symlink_target(&mut self.rng, &self.names, &path);
                Op::Symlink { target, path }
            }
            _ => {
                let old = if self.has_slot(uid) && once_in(&mut self.rng, 3) {
                    Target::Slot(self.slot(uid))
                } else {
                    Target::Path(self.old_path())
                };
                Op::Link { old, new: path }
            }
        }
    }

    fn mknod(&mut self, path: Vec<u8>) -> Op {
        let table = [
            (libc::S_IFREG, 0, 0),
            (libc::S_IFIFO, 0, 0),
            (libc::S_IFSOCK, 0, 0),
            (libc::S_IFCHR, 0, 0),
            (libc::S_IFCHR, 1, 5),
            (libc::S_IFBLK, 120, 9),
            (libc::S_IFBLK, 0, 0),
        ];
        let (kind, major, minor) = pick_number(&mut self.rng, &table);
        Op::Mknod { path, kind, mode: self.mode(), major, minor }
    }

    fn remove(&mut self) -> Op {
        match self.rng.u32(..20) {
            0..6 => Op::Unlink { path: self.old_path() },
            6..10 => Op::Rmdir { path: self.old_path() },
            _ => {
                let old = self.old_path();
                let new = self.new_path();
                Op::Rename { old, new, flags: pick_number(&mut self.rng, &RENAMES) }
            }
        }
    }

    fn set_time(&mut self) -> SetTime {
        match self.rng.u32(..6) {
            0 => SetTime::Omit,
            1 => SetTime::Now,
            _ => SetTime::At(old_time(&mut self.rng)),
        }
    }

    fn change(&mut self, uid: u32) -> Op {
        let target = self.target(uid);
        match self.rng.u32(..20) {
            0..4 => Op::Chmod { target, mode: self.mode() },
            4..8 => Op::Chown {
                target,
                uid: pick_number(&mut self.rng, &OLD_UIDS),
                gid: pick_number(&mut self.rng, &OLD_UIDS),
            },
            8..11 => Op::Utimens { target, atime: self.set_time(), mtime: self.set_time() },
            11..16 => {
                let (name, value) = self.xattr();
                let flags = pick_number(&mut self.rng, &[0, 0, libc::XATTR_CREATE as u32, libc::XATTR_REPLACE as u32]);
                Op::Setxattr { target, name, value, flags }
            }
            16..18 => Op::Removexattr { target, name: self.xattr().0 },
            _ => Op::Truncate { target, len: self.length() },
        }
    }

    /// Returns a name and a value for it.
    fn xattr(&mut self) -> (Vec<u8>, Vec<u8>) {
        let rng = &mut self.rng;
        match rng.u32(..16) {
            0..4 => (b"user.k".to_vec(), vec![b'w'; rng.usize(..5)]),
            4 => (b"user.long".to_vec(), vec![b'l'; 1000]),
            5..7 => (b"trusted.t".to_vec(), b"\x01\x00".to_vec()),
            7 => (b"security.s".to_vec(), b"changed".to_vec()),
            8 => (b"security.capability".to_vec(), CAPABILITY.to_vec()),
            9..11 => (acl::NAMES[0].to_vec(), acl_value(rng)),
            11..13 => (acl::NAMES[1].to_vec(), acl_value(rng)),
            13 => {
                let mark = pick(rng, &[b"opaque".as_slice(), b"origin", b"foo", b"overlay.opaque"]);
                ([self.prefix.as_slice(), mark].concat(), b"y".to_vec())
            }
            14 => (b"user.overlay.opaque".to_vec(), b"y".to_vec()),
            _ => (acl::NAMES[rng.usize(..2)].to_vec(), b"junk".to_vec()),
        }
    }

    fn look(&mut self, uid: u32) -> Op {
        let target = self.target(uid);
        match self.rng.u32(..20) {
            0..6 => Op::Stat { target },
            6..11 => Op::List { target },
            11..14 => Op::Getxattr { target, name: self.xattr().0 },
            14..16 => Op::Listxattr { target },
            16..18 => Op::Access { path: self.old_path(), mode: self.rng.u32(..8) },
            _ => Op::Readlink { path: self.old_path() },
        }
    }

    fn offset(&mut self) -> u64 {
        let small = self.rng.u64(..5000);
        match self.rng.u32(..8) {
            0 => 0,
            1 => 1 << 20,
            2 => (1 << 20) + small,
            3 => 4096,
            _ => small,
        }
    }

    fn length(&mut self) -> u64 {
        let small = self.rng.u64(..9000);
        match self.rng.u32(..8) {
            0 => 0,
            1 => 4096,
            2 => (1 << 20) + small,
            _ => small,
        }
    }

    fn extent(&mut self) -> Extent {
        let len = if once_in(&mut self.rng, 12) { self.rng.u64(..200_000) } else { self.rng.u64(..3000) };
        Extent { offset: self.offset(), len, seed: self.rng.u8(..9) }
    }

    fn data(&mut self, uid: u32) -> Op {
        if !self.has_slot(uid) {
            return self.open_or_close(uid);
        }
        let slot = self.slot(uid);
        match self.rng.u32(..24) {
            0..8 => Op::Write { slot, data: self.extent(), sequential: self.rng.bool() },
            8..12 => {
                let offset = if self.rng.bool() { Some(self.offset()) } else { None };
                Op::Read { slot, offset, len: self.length() }
            }
            12..14 => Op::Stat { target: Target::Slot(slot) },
            14..16 => Op::Truncate { target: Target::Slot(slot), len: self.length() },
            16..18 => self.seek(slot),
            18..20 if !self.holes => self.fallocate(slot),
            20..22 => Op::CopyRange {
                from: self.slot(uid),
                from_offset: self.offset(),
                to: slot,
                to_offset: self.offset(),
                len: self.length(),
            },
            22 => Op::Fdatasync { slot },
            _ => Op::Fsync { slot },
        }
    }

    fn seek(&mut self, slot: u8) -> Op {
        let places = [libc::SEEK_SET, libc::SEEK_CUR, libc::SEEK_END, libc::SEEK_DATA, libc::SEEK_HOLE];
        let count = if self.holes { places.len() } else { 3 };
        let whence = places[self.rng.usize(..count)] as u32;
        let offset = self.offset().cast_signed();
        Op::Seek { slot, whence, offset: if once_in(&mut self.rng, 10) { -offset } else { offset } }
    }

    fn fallocate(&mut self, slot: u8) -> Op {
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        let modes = [
            0,
            keep,
            libc::FALLOC_FL_PUNCH_HOLE | keep,
            libc::FALLOC_FL_PUNCH_HOLE,
            libc::FALLOC_FL_ZERO_RANGE,
            libc::FALLOC_FL_ZERO_RANGE | keep,
            libc::FALLOC_FL_COLLAPSE_RANGE,
            libc::FALLOC_FL_INSERT_RANGE,
        ];
        let mode = pick_number(&mut self.rng, &modes) as u32;
        let aligned = |number: u64| number / 4096 * 4096;
        let (mut offset, mut len) = (self.offset(), self.length());
        if self.rng.bool() {
            (offset, len) = (aligned(offset), aligned(len));
        }
        Op::Fallocate { slot, mode, offset, len }
    }
}
