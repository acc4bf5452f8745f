//! Tries: commands that ran on an overlay of the live tree, what they changed, and how that is brought over or not.
//!
//! # Layout, version 1 (docs/try.md)
//! ```text
//! tries/NAME/try.json       what ran, over what
//! tries/NAME/changes.json   what it changed, written once it has ended
//! tries/NAME/lock           held by whoever works with it
//! tries/NAME/covers/N/      diff/ and work/: the writable layer of the Nth overlay
//! tries/NAME/journal/N      what is being applied, or has been
//! tries/NAME/kept-N/        new objects before they are applied, originals afterwards
//! tries/NAME/root, empty    where the command's tree is mounted, in its own namespace only
//! ```
//!
//! Nothing here mounts or runs anything.

mod act;
mod conflict;
mod journal;
mod place;
mod plan;
mod seal;
mod stage;
mod text;

pub use act::{Done, Undo};
pub use conflict::Conflict;
pub use seal::Seal;
pub use text::Bytes;

use crate::changes::{Change, ChangeKind, of_upper};
use crate::driver::DriverName;
use crate::error::{Error, Result, Step};
use crate::record;
use crate::root::Store;
use acetate_layer::mark::Dialect;
use acetate_layer::{Errno, Kind, Time};
use place::Place;
use rustix::fs::{FlockOperation, flock};
use seal::{Reach, seal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The directory of the store that holds them.
pub(crate) const PART: &str = "tries";
const SCHEMA: &str = "acetate-try-1";
const CHANGES: &str = "acetate-try-changes-1";

/// How far a try is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The command runs, or was killed together with what watched it.
    Running,
    /// The command has ended.
    Ended,
}

/// A command that runs, or ran, over a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    schema: String,
    /// Its name.
    pub name: String,
    /// When it was begun.
    pub created: String,
    /// The command and its arguments.
    pub command: Vec<Bytes>,
    /// The directory that it ran over, absolute and without symlinks.
    pub target: Bytes,
    /// The time at which it began, by the clock that change times come from, in seconds and nanoseconds.
    began: (i64, u32),
    /// The overlays, outermost first.
    pub covers: Vec<Cover>,
    /// What of the target could not be covered, and why: it was read-only for the command.
    pub uncovered: Vec<(Bytes, String)>,
    /// How far it is.
    pub state: State,
    /// The exit status, once it has ended.
    pub status: Option<u8>,
}

/// An overlay over a directory of the live tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cover {
    /// The directory, absolute and without symlinks.
    pub point: Bytes,
    /// How it was mounted.
    pub driver: DriverName,
    /// What is written there counts. Otherwise it is scratch space, whose content is thrown away.
    pub counts: bool,
    /// Owner and mode of the overlay's root are those of the directory, so that a change of them is one.
    root_counts: bool,
}

/// One path that a try changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Which overlay it is in.
    cover: usize,
    /// The path below the overlay's directory.
    path: Bytes,
    what: What,
    kind: String,
    size: u64,
    below: u64,
    /// What was at its path when the command had ended.
    original: Option<Seal>,
    /// Somebody else changed the original while the command ran.
    raced: bool,
}

/// [`ChangeKind`] in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Deleted,
    Added,
    Changed { content: bool, metadata: bool, kind: bool },
}

impl What {
    fn of(kind: ChangeKind) -> What {
        match kind {
            ChangeKind::Deleted => What::Deleted,
            ChangeKind::Added => What::Added,
            ChangeKind::Changed { content, metadata, kind } => What::Changed { content, metadata, kind },
        }
    }
}

impl Item {
    /// The change itself, with the absolute path.
    pub fn change(&self, tried: &Try) -> Change {
        let what = match self.what {
            What::Deleted => ChangeKind::Deleted,
            What::Added => ChangeKind::Added,
            What::Changed { content, metadata, kind } => ChangeKind::Changed { content, metadata, kind },
        };
        let path = self.full(tried).as_os_str().as_bytes().to_vec();
        Change { path, what, kind: self.kind(), size: self.size, below: self.below }
    }

    fn kind(&self) -> Kind {
        KINDS.into_iter().find(|kind| kind.name() == self.kind).unwrap_or(Kind::File)
    }

    /// The absolute path.
    fn full(&self, tried: &Try) -> PathBuf {
        let point = tried.covers.get(self.cover).map_or(Path::new("/"), |cover| cover.point.path());
        if self.path.0.is_empty() { point.to_owned() } else { point.join(self.path.path()) }
    }

    /// A directory that was there and stays, with other attributes.
    fn is_dir_in_place(&self) -> bool {
        self.kind() == Kind::Dir && matches!(self.what, What::Changed { kind: false, .. })
    }

    /// A directory whose content is all new.
    fn is_new_dir(&self) -> bool {
        self.kind() == Kind::Dir && matches!(self.what, What::Added | What::Changed { kind: true, .. })
    }
}

const KINDS: [Kind; 7] =
    [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];

#[derive(Debug, Serialize, Deserialize)]
struct Changes {
    schema: String,
    items: Vec<Item>,
}

/// A try that nobody else works with as long as this lives.
#[derive(Debug)]
pub struct OpenTry<'a> {
    store: &'a Store,
    dir: PathBuf,
    tried: Try,
    items: Vec<Item>,
    _lock: File,
}

/// What is known of a try without working with it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its record.
    pub tried: Try,
    /// Somebody works with it at the moment.
    pub busy: bool,
    /// How many paths it changes; `None` before it has ended.
    pub changes: Option<usize>,
    /// How many of them have been applied.
    pub applied: usize,
    /// Applying or undoing was interrupted.
    pub interrupted: bool,
}

impl Store {
    /// Begins a try under a name, or under the first number that is free.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::TryExists`], [`Error::Path`]
    pub fn begin_try(&self, name: Option<&str>, command: Vec<Bytes>, target: &Path) -> Result<OpenTry<'_>> {
        // Keeps others from taking it for a leftover until it is locked.
        let _making = self.shared()?;
        let part = self.part(PART);
        DirBuilder::new().mode(0o700).recursive(true).create(&part).step("make", &part)?;
        let (name, dir) = self.take_name(name)?;
        let lock = lock(&dir)?.ok_or_else(|| busy(&name))?;
        for inner in ["covers", "journal", "root", "empty"] {
            let path = dir.join(inner);
            DirBuilder::new().mode(0o755).create(&path).step("make", &path)?;
        }
        let tried = Try {
            schema: SCHEMA.into(),
            name,
            created: record::now(),
            command,
            target: target.into(),
            began: (0, 0),
            covers: Vec::new(),
            uncovered: Vec::new(),
            state: State::Running,
            status: None,
        };
        Ok(OpenTry { store: self, dir, tried, items: Vec::new(), _lock: lock })
    }

    fn take_name(&self, wanted: Option<&str>) -> Result<(String, PathBuf)> {
        if let Some(name) = wanted {
            crate::workspaces::check_name(name, "a try")?;
        }
        let mut number = 0_u64;
        loop {
            number += 1;
            let name = wanted.map_or_else(|| number.to_string(), str::to_owned);
            let dir = self.part(PART).join(&name);
            match DirBuilder::new().mode(0o700).create(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    if wanted.is_some() {
                        return Err(Error::TryExists(name));
                    }
                }
                other => return other.step("make", &dir).map(|()| (name, dir)),
            }
        }
    }

    /// Opens a try to work with it.
    ///
    /// # Errors
    /// [`Error::NoTry`]; [`Error::TryBusy`] while it runs or somebody else works with it.
    pub fn open_try(&self, name: &str) -> Result<OpenTry<'_>> {
        let dir = self.part(PART).join(record::file_name(name));
        if !dir.is_dir() {
            return Err(Error::NoTry(name.to_owned()));
        }
        let lock = lock(&dir)?.ok_or_else(|| busy(name))?;
        let missing = || Error::NoTry(name.to_owned());
        let tried: Try = record::read_json(&dir.join("try.json"))?.ok_or_else(missing)?;
        let items = read_items(&dir)?.unwrap_or_default();
        let mut open = OpenTry { store: self, dir, tried, items, _lock: lock };
        if open.tried.state == State::Running {
            // Whoever watched the command is gone, and it with them.
            open.end(None)?;
        }
        Ok(open)
    }

    /// All tries, sorted by name.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub fn tries(&self) -> Result<Vec<Listed>> {
        let part = self.part(PART);
        if !part.is_dir() {
            return Ok(Vec::new());
        }
        let mut listed = Vec::new();
        for name in record::names(&part)? {
            let dir = part.join(&name);
            let Some(tried) = record::read_json::<Try>(&dir.join("try.json"))? else {
                self.clear_away(&dir)?;
                continue;
            };
            let journals = journal::all(&dir)?;
            listed.push(Listed {
                tried,
                busy: lock(&dir)?.is_none(),
                changes: read_items(&dir)?.map(|items| items.len()),
                applied: journals.iter().map(|journal| journal.items.len()).sum(),
                interrupted: journals.iter().any(|journal| !journal.is_done()),
            });
        }
        listed.sort_by(|a, b| order(&a.tried.name).cmp(&order(&b.tried.name)));
        Ok(listed)
    }
}

impl Store {
    /// Removes what is left of a try that was killed before its command began.
    fn clear_away(&self, dir: &Path) -> Result<()> {
        match self.exclusive() {
            // It is being begun or discarded; or it will be found the next time.
            Err(Error::Busy { .. }) => Ok(()),
            Err(other) => Err(other),
            Ok(_alone) if !dir.join("try.json").exists() && lock(dir)?.is_some() => {
                self.discard(dir).map(drop)
            }
            Ok(_alone) => Ok(()),
        }
    }
}

/// Numbers by their value, before other names.
fn order(name: &str) -> (u64, &str) {
    (name.parse().unwrap_or(u64::MAX), name)
}

fn read_items(dir: &Path) -> Result<Option<Vec<Item>>> {
    Ok(record::read_json::<Changes>(&dir.join("changes.json"))?.map(|changes| changes.items))
}

/// Takes the lock of a try; `None` if somebody else has it.
fn lock(dir: &Path) -> Result<Option<File>> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .step("open", &path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        other => other.step("lock", path).map(|()| Some(file)),
    }
}

fn busy(name: &str) -> Error {
    Error::TryBusy { name: name.to_owned(), reason: "its command runs, or somebody else works with it" }
}

impl OpenTry<'_> {
    /// Its record.
    pub fn tried(&self) -> &Try {
        &self.tried
    }

    /// What it changes; the order is that of [`crate::changes::by_importance`].
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Reads the record again, which another process has changed. `false` if the command was never begun.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub fn reload(&mut self) -> Result<bool> {
        match record::read_json(&self.dir.join("try.json"))? {
            Some(tried) => {
                self.tried = tried;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Where the command's tree is to be mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// An empty directory, to hide others behind.
    pub fn empty(&self) -> PathBuf {
        self.dir.join("empty")
    }

    /// Marks are `user.overlay.*`.
    pub fn userxattr(&self) -> bool {
        self.store.options().dialect == Dialect::User
    }

    /// Makes the writable layer and the work directory of an overlay over `point`.
    ///
    /// # Errors
    /// [`Error::Path`]
    pub fn make_cover(
        &mut self,
        point: &Path,
        driver: DriverName,
        counts: bool,
    ) -> Result<(PathBuf, PathBuf)> {
        let dir = self.cover_dir(self.tried.covers.len());
        DirBuilder::new().mode(0o700).create(&dir).step("make", &dir)?;
        let (upper, work) = (dir.join("diff"), dir.join("work"));
        for path in [&upper, &work] {
            DirBuilder::new().mode(0o755).create(path).step("make", path)?;
        }
        let root_counts = place::copy_root(point, &upper)?;
        self.tried.covers.push(Cover { point: point.into(), driver, counts, root_counts });
        Ok((upper, work))
    }

    /// Takes the last overlay back, which could not be mounted.
    ///
    /// # Errors
    /// [`Error::Path`]
    pub fn drop_cover(&mut self) -> Result<()> {
        if self.tried.covers.pop().is_some() {
            crate::root::remove(&self.cover_dir(self.tried.covers.len()))?;
        }
        Ok(())
    }

    fn cover_dir(&self, index: usize) -> PathBuf {
        self.dir.join("covers").join(index.to_string())
    }

    fn upper(&self, index: usize) -> PathBuf {
        self.cover_dir(index).join("diff")
    }

    /// Notes that part of the target is not covered.
    pub fn uncovered(&mut self, point: &Path, why: String) {
        self.tried.uncovered.push((point.into(), why));
    }

    /// Records that the command begins now: whatever is changed in the live tree from here on, others have changed.
    ///
    /// # Errors
    /// [`Error::Path`]
    pub fn begin(&mut self) -> Result<()> {
        use rustix::time::{ClockId, clock_gettime};
        let now = clock_gettime(ClockId::Realtime);
        let now = (now.tv_sec, now.tv_nsec);
        // Change times are those of the last tick of the coarse clock, so an equal one could mean either side of now.
        loop {
            let coarse = clock_gettime(ClockId::RealtimeCoarse);
            if (coarse.tv_sec, coarse.tv_nsec) > now || now.0 > coarse.tv_sec + 1 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.tried.began = (now.0, u32::try_from(now.1).unwrap_or(0));
        self.save()
    }

    fn save(&self) -> Result<()> {
        let path = self.dir.join("try.json");
        record::write_json(&path, &self.dir.join("try.new"), &self.tried)
    }

    fn save_items(&self) -> Result<()> {
        let changes = Changes { schema: CHANGES.into(), items: self.items.clone() };
        record::write_json(&self.dir.join("changes.json"), &self.dir.join("changes.new"), &changes)
    }

    /// Records how the command ended and what it changed. Without a status nobody saw the end.
    ///
    /// # Errors
    /// [`Error::Changes`], [`Error::Path`]
    pub fn end(&mut self, status: Option<u8>) -> Result<()> {
        self.items = self.find_items()?;
        self.save_items()?;
        for index in (0..self.tried.covers.len()).filter(|index| !self.tried.covers[*index].counts) {
            crate::root::remove(&self.cover_dir(index))?;
        }
        self.tried.state = State::Ended;
        self.tried.status = status;
        self.save()
    }

    fn find_items(&mut self) -> Result<Vec<Item>> {
        let mut found = Vec::new();
        let mut lost = Vec::new();
        for (index, cover) in self.tried.covers.iter().enumerate().filter(|(_, cover)| cover.counts) {
            let upper = self.upper(index);
            let is_empty = fs::read_dir(&upper).step("list", &upper)?.next().is_none();
            if is_empty && !cover.root_counts {
                // The directory below may be one that we cannot look into.
                continue;
            }
            match self.find_in_cover(index, cover) {
                Ok(items) => found.extend(items),
                Err(error) if cover.point == self.tried.target => return Err(error),
                // Unmounted while the command ran, most of all.
                Err(_) if is_empty => {}
                Err(error) => {
                    lost.push((
                        cover.point.clone(),
                        format!("what was written there cannot be compared: {error}"),
                    ));
                }
            }
        }
        self.tried.uncovered.extend(lost);
        found.sort_by_cached_key(|item| {
            let change = item.change(&self.tried);
            (crate::changes::rank(change.what), change.path)
        });
        Ok(found)
    }

    fn find_in_cover(&self, index: usize, cover: &Cover) -> Result<Vec<Item>> {
        let (sec, nsec) = self.tried.began;
        let began = Time { sec, nsec };
        let point = cover.point.path();
        let changes = of_upper(&self.upper(index), &[point.to_owned()], self.store.options().dialect)?;
        let place = Place::open(point)?;
        let items = changes.into_iter().filter(|change| !change.path.is_empty() || cover.root_counts);
        let items = items.map(|change| Item {
            cover: index,
            path: Bytes(change.path),
            what: What::of(change.what),
            kind: change.kind.name().to_owned(),
            size: change.size,
            below: change.below,
            original: None,
            raced: false,
        });
        Ok(items.map(|item| sealed(item, &place, began)).collect())
    }

    /// The items that have been applied, completely or not.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub fn applied(&self) -> Result<BTreeSet<usize>> {
        Ok(journal::all(&self.dir)?.iter().flat_map(|journal| journal.items.iter().copied()).collect())
    }

    /// Throws the try away: its changes, and the originals of what was applied, which can then not be undone.
    ///
    /// # Errors
    /// [`Error::TryBusy`] if applying was interrupted; [`Error::Path`].
    pub fn discard(self) -> Result<()> {
        let journals = journal::all(&self.dir)?;
        if journals.iter().any(|journal| !journal.is_done()) {
            return Err(self.interrupted());
        }
        for journal in journals {
            journal.remove_kept()?;
            journal.remove(&self.dir)?;
        }
        // Unlocked with the directory.
        self.store.discard(&self.dir).map(drop)
    }

    fn interrupted(&self) -> Error {
        Error::TryBusy { name: self.tried.name.clone(), reason: "applying or undoing it was interrupted" }
    }
}

/// Notes what is at the path of a change in the live tree.
fn sealed(mut item: Item, place: &Place, began: Time) -> Item {
    let reach = if item.is_dir_in_place() { Reach::Alone } else { Reach::Whole };
    // What cannot be looked at now cannot be told to be unchanged later.
    match place.with(&item.path.0, |at| seal(&place.layer, at, reach)) {
        Ok(Some(found)) => {
            item.raced = found.latest.is_some_and(|latest| latest > began) || item.what == What::Added;
            item.original = Some(found.seal);
        }
        Ok(None) => item.raced = item.what != What::Added,
        Err(Errno::NOENT | Errno::NOTDIR) if item.what == What::Added => {}
        Err(_) => item.raced = true,
    }
    item
}
