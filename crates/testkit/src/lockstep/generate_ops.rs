//! Makes the random calls of a script.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::acl;
use super::generate::{CAPABILITY, acl_value, old_time, once_in, pick, pick_number, symlink_target};
use super::guess::{Guess, Guesses};
use super::op::{Op, SetTime, Target};
use super::script::{Extent, Step};

const OLD_UIDS: [Option<u32>; 5] = [None, Some(0), Some(1000), Some(7), None];
const MODES: [u32; 10] = [0o644, 0o755, 0o777, 0o600, 0o000, 0o4755, 0o2755, 0o1777, 0o6777, 0o444];
const RENAMES: [u32; 8] =
    [0, 0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE, libc::RENAME_EXCHANGE, libc::RENAME_WHITEOUT];
/// How many slots each user has.
const SLOTS: u8 = 4;

/// Generator of calls.
pub(super) struct Calls {
    rng: Rng,
    guesses: Guesses,
    /// Prefix of private marks, as bytes of a name.
    prefix: Vec<u8>,
    /// Slots that probably are open: by user and slot, whether for a directory.
    open: BTreeMap<(u32, u8), bool>,
    /// Whether this sequence asks for holes. Where unwritten blocks count as data depends on
    /// what the page cache holds, so such sequences leave fallocate out.
    holes: bool,
}

impl Calls {
    pub(super) fn new(mut rng: Rng, guesses: Guesses, prefix: Vec<u8>) -> Self {
        let holes = rng.bool();
        Self { rng, guesses, prefix, open: BTreeMap::new(), holes }
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
            0..12 => self.open_or_close(uid),
            12..30 => self.make(uid),
            30..56 => self.remove(),
            56..70 => self.change(uid),
            70..78 => self.look(uid),
            _ => self.data(uid),
        };
        Step::Run { uid, umask, op }
    }

    /// Returns a slot that this user opened, for a file or for a directory; else any of the user's.
    fn slot(&mut self, uid: u32, dir: bool) -> Option<u8> {
        let own: Vec<(u8, bool)> = self
            .open
            .iter()
            .filter(|((user, _), _)| *user == uid)
            .map(|((_, slot), dir)| (*slot, *dir))
            .collect();
        let fit: Vec<u8> = own.iter().filter(|(_, is_dir)| *is_dir == dir).map(|(slot, _)| *slot).collect();
        if !fit.is_empty() && !once_in(&mut self.rng, 20) {
            return Some(pick_number(&mut self.rng, &fit));
        }
        if own.is_empty() { None } else { Some(pick_number(&mut self.rng, &own).0) }
    }

    fn target(&mut self, uid: u32) -> Target {
        if once_in(&mut self.rng, 4) {
            let dir = once_in(&mut self.rng, 3);
            if let Some(slot) = self.slot(uid, dir) {
                return Target::Slot(slot);
            }
        }
        if once_in(&mut self.rng, 25) {
            Target::Path(Vec::new())
        } else {
            Target::Path(self.guesses.any(&mut self.rng))
        }
    }

    fn mode(&mut self) -> u32 {
        pick_number(&mut self.rng, &MODES)
    }

    fn open_or_close(&mut self, uid: u32) -> Op {
        let dir = self.rng.bool();
        if once_in(&mut self.rng, 10)
            && let Some(slot) = self.slot(uid, dir)
        {
            self.open.remove(&(uid, slot));
            return Op::Close { slot };
        }
        let slot = self.rng.u8(..SLOTS);
        match self.rng.u32(..10) {
            0 => self.open_nameless(uid, slot),
            1..3 => {
                let path = self.guesses.dir(&mut self.rng);
                self.open.insert((uid, slot), true);
                let flags = (libc::O_NONBLOCK | libc::O_DIRECTORY) as u32;
                Op::Open { slot, path, flags, mode: 0 }
            }
            _ => self.open_file(uid, slot),
        }
    }

    fn open_nameless(&mut self, uid: u32, slot: u8) -> Op {
        let access =
            pick_number(&mut self.rng, &[libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR, libc::O_RDWR, 0]);
        let exclusive = if once_in(&mut self.rng, 5) { libc::O_EXCL } else { 0 };
        self.open.insert((uid, slot), false);
        let path = self.guesses.dir(&mut self.rng);
        let flags = (libc::O_TMPFILE | access | exclusive) as u32;
        Op::Open { slot, path, flags, mode: self.mode() }
    }

    fn open_file(&mut self, uid: u32, slot: u8) -> Op {
        // Always O_NONBLOCK: a pipe without a partner would block for ever.
        let access =
            pick_number(&mut self.rng, &[0, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR, libc::O_RDWR]);
        let mut flags = libc::O_NONBLOCK | access;
        for (bit, rarity) in [
            (libc::O_CREAT, 3),
            (libc::O_EXCL, 8),
            (libc::O_TRUNC, 6),
            (libc::O_APPEND, 6),
            (libc::O_DIRECTORY, 20),
            (libc::O_NOFOLLOW, 10),
            (libc::O_PATH, 30),
            (libc::O_DSYNC, 30),
        ] {
            if once_in(&mut self.rng, rarity) {
                flags |= bit;
            }
        }
        let path = match self.rng.u32(..10) {
            0 => self.guesses.any(&mut self.rng),
            1..5 if flags & libc::O_CREAT != 0 => self.guesses.free(&mut self.rng),
            _ => self.guesses.file(&mut self.rng),
        };
        let fails = match self.guesses.at(&path) {
            None => flags & libc::O_CREAT == 0,
            Some(Guess::File) => flags & libc::O_EXCL != 0 && flags & libc::O_CREAT != 0,
            Some(Guess::Dir | Guess::Other) => true,
        };
        if !fails && flags & libc::O_DIRECTORY == 0 {
            self.open.insert((uid, slot), false);
            self.guesses.add(&path, Guess::File);
        }
        Op::Open { slot, path, flags: flags as u32, mode: self.mode() }
    }

    fn make(&mut self, uid: u32) -> Op {
        let path = self.guesses.free(&mut self.rng);
        match self.rng.u32(..20) {
            0..8 => {
                self.guesses.add(&path, Guess::Dir);
                Op::Mkdir { path, mode: self.mode() }
            }
            8..11 => self.mknod(path),
            11..14 => {
                let target = symlink_target(&mut self.rng, self.guesses.names(), &path);
                self.guesses.add(&path, Guess::Other);
                Op::Symlink { target, path }
            }
            _ => {
                let by_slot = if once_in(&mut self.rng, 3) { self.slot(uid, false) } else { None };
                let old = match by_slot {
                    Some(slot) => Target::Slot(slot),
                    None => {
                        let dirs = once_in(&mut self.rng, 20);
                        Target::Path(self.guesses.pick(&mut self.rng, |_, guess| dirs || guess != Guess::Dir))
                    }
                };
                self.guesses.add(&path, Guess::File);
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
        if (kind, minor) != (libc::S_IFCHR, 0) {
            self.guesses.add(&path, if kind == libc::S_IFREG { Guess::File } else { Guess::Other });
        }
        Op::Mknod { path, kind, mode: self.mode(), major, minor }
    }

    fn remove(&mut self) -> Op {
        match self.rng.u32(..20) {
            0..6 => {
                let dirs = once_in(&mut self.rng, 20);
                let path = self.guesses.pick(&mut self.rng, |_, guess| dirs || guess != Guess::Dir);
                if self.guesses.at(&path) != Some(Guess::Dir) {
                    self.guesses.remove(&path);
                }
                Op::Unlink { path }
            }
            6..10 => {
                let full = once_in(&mut self.rng, 5);
                let guesses = &self.guesses;
                let path = guesses.pick(&mut self.rng, |path, guess| {
                    guess == Guess::Dir && (full || guesses.is_empty(path))
                });
                if self.guesses.at(&path) == Some(Guess::Dir) && self.guesses.is_empty(&path) {
                    self.guesses.remove(&path);
                }
                Op::Rmdir { path }
            }
            _ => self.rename(),
        }
    }

    fn rename(&mut self) -> Op {
        let flags = pick_number(&mut self.rng, &RENAMES);
        let old = self.guesses.any(&mut self.rng);
        let was = self.guesses.at(&old);
        let new = match self.rng.u32(..10) {
            0 => self.guesses.any(&mut self.rng),
            1..4 => self.guesses.pick(&mut self.rng, |_, guess| Some(guess) == was),
            _ if flags == libc::RENAME_EXCHANGE => self.guesses.any(&mut self.rng),
            _ => self.guesses.free(&mut self.rng),
        };
        let taken = self.guesses.at(&new);
        let fits = match taken {
            None => flags == 0 || flags == libc::RENAME_NOREPLACE,
            Some(Guess::Dir) => flags == 0 && was == Some(Guess::Dir) && self.guesses.is_empty(&new),
            Some(_) => flags == 0 && was != Some(Guess::Dir),
        };
        if fits {
            self.guesses.rename(&old, &new);
        }
        Op::Rename { old, new, flags }
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
                let flags = pick_number(
                    &mut self.rng,
                    &[0, 0, libc::XATTR_CREATE as u32, libc::XATTR_REPLACE as u32],
                );
                Op::Setxattr { target, name, value, flags }
            }
            16..18 => Op::Removexattr { target, name: self.xattr().0 },
            _ => Op::Truncate { target: Target::Path(self.guesses.file(&mut self.rng)), len: self.length() },
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
            6..11 => match self.slot(uid, true) {
                Some(slot) if self.rng.bool() => Op::List { target: Target::Slot(slot) },
                _ => Op::List { target: Target::Path(self.guesses.dir(&mut self.rng)) },
            },
            11..14 => Op::Getxattr { target, name: self.xattr().0 },
            14..16 => Op::Listxattr { target },
            16..18 => Op::Access { path: self.guesses.any(&mut self.rng), mode: self.rng.u32(..8) },
            _ => {
                let links = !once_in(&mut self.rng, 4);
                let path = self.guesses.pick(&mut self.rng, |_, guess| !links || guess == Guess::Other);
                Op::Readlink { path }
            }
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
        let Some(slot) = self.slot(uid, false) else { return self.open_or_close(uid) };
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
                from: self.slot(uid, false).unwrap_or(slot),
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
