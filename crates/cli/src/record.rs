//! What other processes may know of a live mount: a small file each, in a directory that vanishes with the machine's
//! uptime.
//!
//! The mount table says what is mounted where, but not which layers it shows and which process serves it. A record is
//! named by the device number of its mount and locked (flock(2)) by the daemon for as long as that has its hands on
//! the layers, so a record that can be locked is left from a daemon that was killed. Everything works without
//! records, only with less to tell.

use crate::daemon::status::{self, Status};
use crate::out::exact;
use acetate_fuse::InForce;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The form of the file; another one is not read.
const SCHEMA: &str = "acetate-mount-v1";

/// How often a daemon is looked at that is to end.
const POLL: Duration = Duration::from_millis(2);

/// The content of a record. Paths are text in which bytes that are no UTF-8 and control characters are `\xNN` and a
/// backslash is `\\`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    pub(crate) schema: String,
    /// The daemon, in its own PID namespace.
    pub(crate) pid: u32,
    /// The process that starts the next daemon when this one ends, if there is one.
    pub(crate) holder: Option<u32>,
    /// Where it is mounted.
    pub(crate) mountpoint: String,
    /// Lower layers, the topmost first.
    pub(crate) lower: Vec<String>,
    /// The writable layer.
    pub(crate) upper: Option<String>,
    /// The work directory.
    pub(crate) work: Option<String>,
    /// Option text that mounts the same again.
    pub(crate) options: String,
    /// Where marks are stored: `trusted.overlay`, `user.overlay` or nothing.
    pub(crate) marks: Option<String>,
    /// How whiteouts are made: `device`, `xattr`, `file`, or nothing on a mount without upper.
    pub(crate) whiteouts: Option<String>,
    /// What each layer's filesystem offers.
    pub(crate) layers: Vec<LayerRecord>,
    /// What is in force of the options that the kernel's overlayfs has too, by name.
    pub(crate) settings: BTreeMap<String, String>,
    /// The capabilities that the daemon has kept (`cap_chown`).
    pub(crate) capabilities: Vec<String>,
    /// No program that the daemon starts can have more.
    pub(crate) no_new_privs: bool,
    /// What the kernel lets the daemon do; absent until they have agreed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<Agreed>,
    /// Version of the daemon.
    pub(crate) version: String,
}

/// What a kernel and a daemon have agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agreed {
    /// Version of the FUSE protocol (`7.31`).
    pub(crate) protocol: String,
    /// What the daemon would use and the kernel does not have, by the names of linux/fuse.h, in lower case.
    pub(crate) missing: Vec<String>,
}

impl From<&InForce> for Agreed {
    fn from(in_force: &InForce) -> Agreed {
        Agreed {
            protocol: format!("7.{}", in_force.minor),
            missing: in_force.missing().map(|feature| feature.to_string()).collect(),
        }
    }
}

/// What the filesystem of a layer offers; `None` is not known, or does not matter for that layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LayerRecord {
    /// `upper`, `lower` or `data`.
    pub(crate) role: String,
    /// Its directory.
    pub(crate) path: String,
    /// The type of the filesystem.
    pub(crate) filesystem: Option<String>,
    /// The kinds of extended attributes that can be used: `trusted`, `user`.
    pub(crate) xattrs: Vec<String>,
    /// `open`: objects are found by their handles; `named`: they only say what theirs are; `none`.
    pub(crate) file_handles: Option<String>,
    /// Listings say the types of entries.
    pub(crate) d_type: Option<bool>,
    /// The filesystem has fs-verity.
    pub(crate) fs_verity: Option<bool>,
    /// Copies in upper share data with the layer.
    pub(crate) reflink: Option<bool>,
    /// Whiteouts are devices.
    pub(crate) whiteout_device: Option<bool>,
    /// There are files without a name.
    pub(crate) o_tmpfile: Option<bool>,
    /// Two objects can be exchanged.
    pub(crate) rename_exchange: Option<bool>,
    /// A rename can leave a whiteout.
    pub(crate) rename_whiteout: Option<bool>,
}

impl Record {
    /// A record of this process for the mount at `mountpoint`.
    pub(crate) fn new(mountpoint: &Path) -> Record {
        Record {
            schema: SCHEMA.into(),
            pid: std::process::id(),
            mountpoint: exact(mountpoint),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Record::default()
        }
    }
}

/// A record that this process keeps; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    /// Holds the lock.
    file: File,
}

impl Kept {
    /// Where the daemon says what there is to say once it has let go of the terminal.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.with_extension("log")
    }

    /// Says more than was said at first, in place: the lock is on this file. Whoever reads meanwhile finds the old text or
    /// the new one, or nothing that can be read.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn update(&self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(record)?;
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// The file, which is locked while it is open anywhere.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where the daemon tells of its requests in flight.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.with_extension("sock")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The number of a device is used again: the record may be of another mount by now.
        let is = |now: &std::fs::Metadata| {
            self.file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (now.dev(), now.ino()))
        };
        if !std::fs::symlink_metadata(&self.path).is_ok_and(|now| is(&now)) {
            return;
        }
        // There is none of a daemon in the foreground.
        let _none = std::fs::remove_file(self.log());
        // Whoever reads what could not be removed finds it unlocked.
        let _stale_at_worst = std::fs::remove_file(&self.path);
    }
}

/// Writes the record of the mount with this device number, locked from the first moment it can be seen.
///
/// # Errors
/// If no directory for records can be used.
pub(crate) fn keep(device: (u32, u32), record: &Record) -> io::Result<Kept> {
    let mut last = io::Error::from(Errno::NOENT);
    for dir in directories() {
        match keep_in(&dir, device, record) {
            Ok(kept) => return Ok(kept),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Keeps a small document for other processes, until the machine is restarted. Where that cannot be, nothing is kept.
pub(crate) fn remember(name: &str, document: &impl Serialize) {
    let kept = directories().into_iter().any(|dir| {
        let hidden = dir.join(format!(".{name}.{}", std::process::id()));
        make_directory(&dir)
            .and_then(|()| std::fs::write(&hidden, serde_json::to_vec_pretty(document)?))
            .and_then(|()| std::fs::rename(&hidden, dir.join(name)))
            .is_ok()
    });
    if !kept {
        crate::out::warn(format_args!("{name}: nothing can be remembered, in /run/acetate or elsewhere"));
    }
}

/// What was kept under a name, if it is there and can be read.
pub(crate) fn recall<T: serde::de::DeserializeOwned>(name: &str) -> Option<T> {
    let trusted = directories().into_iter().filter(|dir| is_trusted(dir));
    trusted
        .filter_map(|dir| std::fs::read(dir.join(name)).ok())
        .find_map(|bytes| serde_json::from_slice(&bytes).ok())
}

fn keep_in(dir: &Path, device: (u32, u32), record: &Record) -> io::Result<Kept> {
    make_directory(dir)?;
    let hidden = dir.join(format!(".{}", std::process::id()));
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&hidden, flags, Mode::from_raw_mode(0o644))?);
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(&serde_json::to_vec_pretty(record)?)?;
    let path = dir.join(file_name(device));
    std::fs::rename(&hidden, &path)?;
    Ok(Kept { path, file })
}

/// Makes the directory unless it is there, and makes sure that nobody else could have put records into it.
fn make_directory(dir: &Path) -> io::Result<()> {
    let system = dir == Path::new(SYSTEM);
    match DirBuilder::new().mode(if system { 0o755 } else { 0o700 }).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    if is_trusted(dir) { Ok(()) } else { Err(Errno::PERM.into()) }
}

/// Whether only root or we ourselves can have written there.
fn is_trusted(dir: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(dir)
        .is_ok_and(|stat| stat.is_dir() && (stat.uid() == me || stat.uid() == 0) && stat.mode() & 0o022 == 0)
}

/// Where root's daemons keep theirs.
const SYSTEM: &str = "/run/acetate";

/// The directories for records, the preferred one first.
fn directories() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let mut dirs = vec![PathBuf::from(SYSTEM)];
    dirs.extend(runtime.map(|dir| Path::new(&dir).join("acetate")));
    dirs.push(std::env::temp_dir().join(format!("acetate-{}", outer_uid())));
    dirs
}

/// Our user id as it is called outside of our user namespace, so that the two find each other's records.
fn outer_uid() -> u64 {
    let me = u64::from(rustix::process::geteuid().as_raw());
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ranges = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    });
    let mut inside = ranges.filter(|(inner, _, count)| (*inner..inner.saturating_add(*count)).contains(&me));
    inside.next().map_or(me, |(inner, outer, _)| outer + (me - inner))
}

fn file_name(device: (u32, u32)) -> String {
    format!("{}-{}.json", device.0, device.1)
}

/// A record of a live daemon.
#[derive(Debug)]
pub(crate) struct Found {
    /// What it says.
    pub(crate) record: Record,
    path: PathBuf,
    file: File,
}

/// The record of the mount with this device number, if its daemon lives and keeps one that we may read.
pub(crate) fn find(device: (u32, u32)) -> Option<Found> {
    directories().iter().find_map(|dir| read(&dir.join(file_name(device))))
}

/// All records of live daemons that we may read.
pub(crate) fn all() -> Vec<Found> {
    let entries = directories().into_iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let names = entries.map(|entry| entry.path());
    names.filter(|path| path.extension() == Some(OsStr::new("json"))).filter_map(|path| read(&path)).collect()
}

/// Reads a record; `None` if it is none of a live daemon.
fn read(path: &Path) -> Option<Found> {
    if !path.parent().is_some_and(is_trusted) {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    if flock(&file, FlockOperation::NonBlockingLockShared) != Err(Errno::WOULDBLOCK) {
        return None;
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    (record.schema == SCHEMA).then_some(Found { record, path: path.to_owned(), file })
}

impl Found {
    /// The daemon's log, if there is one that we may read and that says anything.
    pub(crate) fn log(&self) -> Option<PathBuf> {
        let log = self.path.with_extension("log");
        std::fs::metadata(&log).is_ok_and(|stat| stat.len() > 0).then_some(log)
    }

    /// Where its holder can be asked for another daemon.
    pub(crate) fn holder_socket(&self) -> PathBuf {
        self.path.with_extension("holder")
    }

    /// What the daemon says of itself; `None` if it says nothing.
    pub(crate) fn status(&self) -> Option<Status> {
        status::ask(&self.path.with_extension("sock"))
    }

    /// Waits until the daemon has let go of its layers; `false` if it has not within `limit`.
    pub(crate) fn wait_until_gone(self, limit: Duration) -> bool {
        // flock(2) has no limit of its own, and no thread can be started to wait where the next process is to be the
        // first of a namespace.
        let end = Instant::now() + limit;
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockShared) {
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => std::thread::sleep(POLL),
                other => return other.is_ok(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_record_is_there_while_it_is_kept() {
        let dir = std::env::temp_dir().join(format!("acetate-record-test-{}", std::process::id()));
        let record = Record { lower: vec!["/l\\xff".into()], ..Record::new(Path::new("/m")) };
        let kept = keep_in(&dir, (0, 77), &record).unwrap();
        let path = dir.join("0-77.json");
        let found = read(&path).unwrap();
        assert_eq!(found.record, record);
        assert!(!read(&path).unwrap().wait_until_gone(Duration::from_millis(20)));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| found.wait_until_gone(Duration::from_secs(20)));
            drop(kept);
            assert!(waiter.join().unwrap());
        });
        assert!(!path.exists());
        std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        assert!(read(&path).is_none(), "a record that nobody holds is of a daemon that was killed");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
