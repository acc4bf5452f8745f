//! The directory of a store: its settings, its parts and its lock.
//!
//! # Layout, version 1 (docs/formats.md)
//! ```text
//! store.json            settings, made once
//! lock                  shared by whoever uses the store, exclusive for whoever removes what seems unused
//! layers/HEX/           a layer, named by the digest of its uncompressed archive: diff/, replaced/, split, layer.json
//! images/HEX/           an image, named by the digest of its configuration: config.json, image.json
//! names/NAME            which image a name means
//! workspaces/NAME       a workspace's record
//! uppers/ID/            a writable layer: diff/, work/
//! trees/ID/             a tree of a workspace or of a stack of layers, for drivers that need one
//! downloads/            parts of layers that were not got to their end
//! mounts/NAME           where workspaces are mounted
//! tries/NAME/           a command's changes (docs/try.md)
//! snapshots/ID          a snapshot of containerd's (docs/containerd.md)
//! damaged/              what a repair has moved out of the way
//! staging/              what is being made; nothing in it counts
//! trash/                what is being removed
//! ```

use crate::driver::{btrfs, tree};
use crate::error::{Error, Result, Step};
use crate::record;
use acetate_image::{Options, Owners};
use acetate_layer::dir::DirLayer;
use acetate_layer::mark::Dialect;
use acetate_layer::work::{WhiteoutForm, prepare, probe};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The version of the layout; others are not opened.
const FORMAT: &str = "acetate-store-1";

/// The directories of a store.
pub(crate) const PARTS: [&str; 11] = [
    "layers",
    "images",
    "names",
    "workspaces",
    "uppers",
    "trees",
    "downloads",
    "mounts",
    "damaged",
    "staging",
    "trash",
];

/// What was found out when the store was made, and holds for all that is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Settings {
    format: String,
    /// `trusted` or `user`: whose marks the layers carry.
    marks: Marks,
    /// `device` or `xattr`: the form of whiteouts.
    whiteouts: Whiteouts,
    owners: Owners,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Marks {
    Trusted,
    User,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Whiteouts {
    Device,
    Xattr,
}

/// A store of layers, images and workspaces.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    options: Options,
    lock: File,
}

/// Holds the store's lock.
#[derive(Debug)]
pub struct Locked<'a> {
    lock: &'a File,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Closing the file unlocks it all the same.
        let _until_exit = flock(self.lock, FlockOperation::Unlock);
    }
}

/// Where the store of this user is, unless something else is asked for: `/var/lib/acetate`, or for ordinary users, who may
/// be root of a user namespace, `$XDG_DATA_HOME/acetate` (XDG Base Directory Specification).
pub fn default_root() -> Option<PathBuf> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let has_all_ids = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if rustix::process::geteuid().is_root() && has_all_ids {
        return Some("/var/lib/acetate".into());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data =
        absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")))?;
    Some(data.join("acetate"))
}

impl Store {
    /// Opens the store at `root`; makes one if there is none.
    ///
    /// # Errors
    /// [`Error::NoStore`] if something else is there, [`Error::Path`].
    pub fn open(root: &Path) -> Result<Store> {
        make_dirs(root)?;
        let root = fs::canonicalize(root).step("open the store", root)?;
        if !root.join("store.json").exists() {
            refuse_foreign(&root)?;
        }
        let path = root.join("lock");
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = options.step("open", path)?;
        let settings = match record::read_json::<Settings>(&root.join("store.json"))? {
            Some(settings) => settings,
            None => initialise(&root, &lock)?,
        };
        if settings.format != FORMAT {
            let reason = format!("it has format {}, this program knows {FORMAT}", settings.format);
            return Err(Error::NoStore { path: root, reason });
        }
        let options = Options {
            dialect: if settings.marks == Marks::Trusted { Dialect::Trusted } else { Dialect::User },
            whiteouts: match settings.whiteouts {
                Whiteouts::Device => WhiteoutForm::Device,
                Whiteouts::Xattr => WhiteoutForm::Xattr,
            },
            owners: settings.owners,
        };
        Ok(Store { root, options, lock })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How its layers are stored.
    pub fn options(&self) -> Options {
        self.options
    }

    /// One of its directories, or a path below one.
    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where a file is written before it gets its name.
    pub(crate) fn temporary(&self) -> Result<PathBuf> {
        Ok(self.part("staging").join(record::random_name()?))
    }

    /// A new directory to make something in.
    pub(crate) fn staging(&self) -> Result<Staging> {
        let path = self.temporary()?;
        DirBuilder::new().mode(0o700).create(&path).step("make", &path)?;
        Ok(Staging { path, published: false })
    }

    /// Writes a stream to a file of the store for as long as that is needed; decoded if it is compressed.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Image`]
    pub fn spool(&self, input: impl std::io::Read + Send) -> Result<Spool> {
        let staging = self.staging()?;
        let path = staging.path().join("input");
        acetate_image::source::spool(input, &path)?;
        Ok(Spool { path, _staging: staging })
    }

    /// Keeps what is in the store from being removed. Waits for whoever removes.
    ///
    /// # Errors
    /// [`Error::Path`]
    pub fn shared(&self) -> Result<Locked<'_>> {
        acetate_sys::retry(|| flock(&self.lock, FlockOperation::LockShared))
            .step("lock", self.part("lock"))?;
        Ok(Locked { lock: &self.lock })
    }

    /// Keeps all others out.
    ///
    /// # Errors
    /// [`Error::Busy`] at once if somebody else is working; [`Error::Path`].
    pub fn exclusive(&self) -> Result<Locked<'_>> {
        match flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(Error::Busy { path: self.root.clone() }),
            other => {
                other.step("lock", self.part("lock"))?;
                Ok(Locked { lock: &self.lock })
            }
        }
    }

    /// Takes something out of the store at once; its content is removed afterwards, and by the next `gc` if that is
    /// interrupted. `false` if it was not there.
    pub(crate) fn discard(&self, path: &Path) -> Result<bool> {
        // Removing a subvolume is one step already, and a read-only one cannot be moved.
        if fs::symlink_metadata(path).is_ok() && btrfs::is_subvolume(path).unwrap_or(false) {
            btrfs::delete(path)?;
            record::sync_parent(path)?;
            return Ok(true);
        }
        let trash = self.part("trash").join(record::random_name()?);
        match fs::rename(path, &trash) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            // A full filesystem must be able to get emptier. If this is interrupted, the rest is garbage all the same:
            // nothing names it any more.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                remove(path)?;
                return Ok(true);
            }
            other => other.step("remove", path)?,
        }
        record::sync_parent(path)?;
        remove(&trash)?;
        Ok(true)
    }
}

/// Moves something to its place in the store, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).step("publish", to)?;
    record::sync_parent(to)
}

/// Removes a tree, subvolumes in it included.
pub(crate) fn remove(path: &Path) -> Result<()> {
    // What is made of a subvolume is made in a directory of that name.
    for path in [&path.join("tree"), path] {
        if btrfs::is_subvolume(path).unwrap_or(false) {
            btrfs::delete(path)?;
        }
    }
    tree::remove_tree(path)?;
    Ok(())
}

fn make_dirs(root: &Path) -> Result<()> {
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent).step("make", parent)?;
    }
    match DirBuilder::new().mode(0o700).create(root) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && !root.is_dir() => {
            let reason = "it is no directory; name an empty or new directory".to_owned();
            Err(Error::NoStore { path: root.to_owned(), reason })
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.step("make the store", root),
    }
}

/// Refuses a directory that holds something else, before anything is made in it.
fn refuse_foreign(root: &Path) -> Result<()> {
    let ours = |name: &String| name == "lock" || name == "store.json" || PARTS.contains(&&name[..]);
    match record::names(root)?.into_iter().find(|name| !ours(name)) {
        None => Ok(()),
        Some(name) => {
            let reason = format!("it holds {name:?} and is no store; name an empty or new directory");
            Err(Error::NoStore { path: root.to_owned(), reason })
        }
    }
}

/// Finds out what can be stored, and makes the settings.
fn initialise(root: &Path, lock: &File) -> Result<Settings> {
    acetate_sys::retry(|| flock(lock, FlockOperation::LockExclusive)).step("lock", root.join("lock"))?;
    let path = root.join("store.json");
    // Somebody may have been faster.
    let settings = match record::read_json::<Settings>(&path)? {
        Some(settings) => settings,
        None => {
            for part in PARTS {
                let path = root.join(part);
                let made = DirBuilder::new().mode(0o700).recursive(true).create(&path);
                made.step("make", path)?;
            }
            let settings = find_out(&root.join("staging"))?;
            record::write_json(&path, &root.join("staging").join("store.json"), &settings)?;
            settings
        }
    };
    flock(lock, FlockOperation::Unlock).step("unlock", root.join("lock"))?;
    Ok(settings)
}

/// Tries which marks, whiteouts and owners can be stored here.
fn find_out(staging: &Path) -> Result<Settings> {
    let home = staging.join("probe");
    let failed =
        |what| move |_| Error::NoStore { path: staging.to_owned(), reason: format!("cannot {what}") };
    // What a killed process left.
    let _absent = fs::remove_dir_all(&home);
    for name in ["upper", "work"] {
        fs::create_dir_all(home.join(name)).step("make", home.join(name))?;
    }
    let mut layer = DirLayer::open_upper(&home.join("upper")).step("open", home.join("upper"))?;
    let workdir = layer.open_workdir(&home.join("work")).step("open", home.join("work"))?;
    let work = prepare(&layer, &workdir, 0o700, &[]).map_err(failed("prepare a work directory"))?;
    layer.set_work(work);
    let found = probe(&layer, None).step("probe", &home)?;
    let Some(dialect) = found.dialect else {
        let reason = "the filesystem stores no extended attributes, which layers need".to_owned();
        return Err(Error::NoStore { path: staging.to_owned(), reason });
    };
    // Some user of the image that is not the one who unpacks.
    let other = Some(rustix::fs::Uid::from_raw(65_534));
    let chown = rustix::fs::chown(home.join("upper"), other, Some(rustix::fs::Gid::from_raw(65_534)));
    drop(layer);
    fs::remove_dir_all(&home).step("remove", &home)?;
    Ok(Settings {
        format: FORMAT.into(),
        marks: if dialect == Dialect::Trusted { Marks::Trusted } else { Marks::User },
        whiteouts: if found.whiteouts == WhiteoutForm::Device { Whiteouts::Device } else { Whiteouts::Xattr },
        owners: if chown.is_ok() { Owners::Kept } else { Owners::Recorded },
    })
}

/// A file that goes with this.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    _staging: Staging,
}

impl Spool {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A directory in which something is made; it goes unless it is published.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    published: bool,
}

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to its place. `false` if somebody else has put the same there before.
    pub(crate) fn publish(mut self, target: &Path) -> Result<bool> {
        match fs::rename(&self.path, target) {
            Ok(()) => {
                self.published = true;
                record::sync_parent(target)?;
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error).step("publish", target),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // The next gc removes what is left.
            let _leftover = remove(&self.path);
        }
    }
}
