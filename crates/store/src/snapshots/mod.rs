//! Snapshots as containerd keeps them: named trees that stand on one another, of which those that are committed never
//! change again (containerd, docs/snapshotters).
//!
//! A record says what a snapshot is; its own files are a writable layer in `uppers/`. Committing changes the record only.
//! What images of the store have is not unpacked again: a snapshot can be one of their layers.
//!
//! One process has the snapshots of a store open at a time. It holds all records in memory, and replaces a record on disk
//! before the one in memory.

mod adopt;

use crate::error::{Error, Result, Step};
use crate::record;
use crate::root::Store;
use acetate_image::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The directory of the records.
pub(crate) const PART: &str = "snapshots";

const SCHEMA: &str = "acetate-snapshot-1";

/// Labels of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// What a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Shows its parent, and cannot be written.
    View,
    /// Can be written.
    Active,
    /// Never changes again; others stand on it.
    Committed,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::View => "view",
            Kind::Active => "active",
            Kind::Committed => "committed",
        }
    }
}

/// What is a snapshot's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// A writable layer, by its name in `uppers/`.
    Upper(String),
    /// A layer of an image of this store.
    Layer(Digest),
    /// Nothing: it shows its parent.
    Nothing,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    schema: String,
    /// The name of its record.
    id: String,
    /// What containerd calls it.
    pub key: String,
    /// The snapshot that it stands on.
    pub parent: Option<String>,
    /// What it is for.
    pub kind: Kind,
    /// What is its own.
    pub content: Content,
    /// What others have noted of it.
    pub labels: Labels,
    /// When it was made (RFC 3339, with nanoseconds).
    pub created: String,
    /// When its labels were changed.
    pub updated: String,
    /// What it takes, once that does not change any more.
    pub usage: Option<SnapshotUsage>,
}

/// What a snapshot takes without what it stands on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and others.
    pub inodes: u64,
}

/// What has to be mounted to show a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPlan {
    /// Read-only layers, topmost first.
    pub lowers: Vec<PathBuf>,
    /// The writable layer and its work directory.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// Marks are `user.overlay.*`.
    pub userxattr: bool,
}

/// The snapshots of a store.
#[derive(Debug)]
pub struct Snapshots {
    store: Store,
    /// By their keys.
    known: Mutex<BTreeMap<String, Snapshot>>,
    _alone: File,
}

impl Store {
    /// The snapshots that are recorded, in no order.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub(crate) fn recorded_snapshots(&self) -> Result<Vec<Snapshot>> {
        let dir = self.part(PART);
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for name in record::names(&dir)? {
            found.extend(record::read_json(&dir.join(name))?);
        }
        Ok(found)
    }
}

impl Snapshots {
    /// Opens the snapshots of a store.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process has; [`Error::Path`], [`Error::Record`].
    pub fn open(store: Store) -> Result<Snapshots> {
        let dir = store.part(PART);
        DirBuilder::new().mode(0o700).recursive(true).create(&dir).step("make", &dir)?;
        let path = dir.join(".lock");
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let alone = options.step("open", &path)?;
        match flock(&alone, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(Error::Busy { path: dir }),
            other => other.step("lock", path)?,
        }
        let known = store.recorded_snapshots()?.into_iter().map(|one| (one.key.clone(), one)).collect();
        Ok(Snapshots { store, known: Mutex::new(known), _alone: alone })
    }

    /// The store that they are in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is in memory is as on disk whenever nobody holds it, so a panic elsewhere has not spoilt it.
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Snapshot>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_path(&self, snapshot: &Snapshot) -> PathBuf {
        self.store.part(PART).join(&snapshot.id)
    }

    fn write(&self, snapshot: &Snapshot) -> Result<()> {
        record::write_json(&self.record_path(snapshot), &self.store.temporary()?, snapshot)
    }

    fn upper_dir(&self, id: &str) -> PathBuf {
        self.store.part("uppers").join(id)
    }

    /// All snapshots, by their keys.
    pub fn all(&self) -> Vec<Snapshot> {
        self.known().values().cloned().collect()
    }

    /// The snapshot of that key.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`]
    pub fn get(&self, key: &str) -> Result<Snapshot> {
        find(&self.known(), key).cloned()
    }

    /// Makes an active snapshot or a view on a committed one, or on nothing.
    ///
    /// # Errors
    /// [`Error::SnapshotExists`], also if images of the store have what `labels` say that it is to become;
    /// [`Error::NoSnapshot`], [`Error::SnapshotParent`].
    pub fn create(&self, key: &str, parent: Option<&str>, kind: Kind, labels: Labels) -> Result<Snapshot> {
        let mut known = self.known();
        let _lock = self.store.shared()?;
        if known.contains_key(key) {
            return Err(Error::SnapshotExists(key.to_owned()));
        }
        if let Some(parent) = parent
            && find(&known, parent)?.kind != Kind::Committed
        {
            return Err(Error::SnapshotParent(parent.to_owned()));
        }
        if kind == Kind::Active
            && let Some(target) = self.adopt(&mut known, parent, &labels)?
        {
            return Err(Error::SnapshotExists(target));
        }
        let content = match (kind, parent) {
            (Kind::View, Some(_)) => Content::Nothing,
            _ => Content::Upper(self.make_upper(parent.map(|parent| chain(&known, parent)))?),
        };
        let snapshot = new(key, parent, kind, content, labels)?;
        self.write(&snapshot)?;
        known.insert(key.to_owned(), snapshot.clone());
        Ok(snapshot)
    }

    /// Makes an empty writable layer whose root looks like that of what it is put on.
    fn make_upper(&self, below: Option<Vec<Content>>) -> Result<String> {
        let id = self.store.make_upper()?;
        if let Some(top) = below.as_deref().and_then(<[Content]>::first) {
            crate::workspaces::copy_root(&self.tree(top), &self.upper_dir(&id).join("diff"))?;
        }
        Ok(id)
    }

    /// Commits an active snapshot under a name, after which its key is free. Its labels are those given.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`]; [`Error::SnapshotKind`] if it is not active; [`Error::SnapshotExists`] if the name is taken.
    pub fn commit(&self, name: &str, key: &str, labels: Labels) -> Result<()> {
        let mut known = self.known();
        let active = find(&known, key)?.clone();
        if known.contains_key(name) {
            return Err(Error::SnapshotExists(name.to_owned()));
        }
        if active.kind != Kind::Active {
            return Err(Error::SnapshotKind { key: key.to_owned(), kind: active.kind.name() });
        }
        let usage = self.measure(&active)?;
        let now = now();
        let committed = Snapshot {
            key: name.to_owned(),
            kind: Kind::Committed,
            labels,
            created: now.clone(),
            updated: now,
            usage: Some(usage),
            ..active
        };
        self.write(&committed)?;
        known.remove(key);
        known.insert(name.to_owned(), committed);
        Ok(())
    }

    /// Removes a snapshot with its own files.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`]; [`Error::SnapshotInUse`] while others stand on it.
    pub fn remove(&self, key: &str) -> Result<()> {
        let mut known = self.known();
        let snapshot = find(&known, key)?.clone();
        if let Some(child) = known.values().find(|other| other.parent.as_deref() == Some(key)) {
            return Err(Error::SnapshotInUse { key: key.to_owned(), child: child.key.clone() });
        }
        let path = self.record_path(&snapshot);
        fs::remove_file(&path).step("remove", &path)?;
        record::sync_parent(&path)?;
        known.remove(key);
        drop(known);
        // Nothing names it any more: if this is interrupted, `gc` goes on.
        if let Content::Upper(id) = &snapshot.content {
            self.store.discard(&self.upper_dir(id))?;
        }
        Ok(())
    }

    /// Changes labels: all of them, or with `only` those that it names; one that `labels` lacks is taken away.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`]
    pub fn set_labels(&self, key: &str, labels: &Labels, only: Option<&[String]>) -> Result<Snapshot> {
        let mut known = self.known();
        let mut snapshot = find(&known, key)?.clone();
        match only {
            None => snapshot.labels = labels.clone(),
            Some(names) => {
                for name in names {
                    match labels.get(name) {
                        Some(value) => snapshot.labels.insert(name.clone(), value.clone()),
                        None => snapshot.labels.remove(name),
                    };
                }
            }
        }
        snapshot.updated = now();
        self.write(&snapshot)?;
        known.insert(key.to_owned(), snapshot.clone());
        Ok(snapshot)
    }

    /// What a snapshot takes without what it stands on.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::Path`]
    pub fn usage(&self, key: &str) -> Result<SnapshotUsage> {
        let snapshot = self.get(key)?;
        match snapshot.usage {
            Some(usage) => Ok(usage),
            None => self.measure(&snapshot),
        }
    }

    fn measure(&self, snapshot: &Snapshot) -> Result<SnapshotUsage> {
        let mut seen = HashSet::new();
        let bytes = match snapshot.content {
            Content::Nothing => 0,
            ref content => crate::gc::measure(&self.tree(content), &mut seen)?,
        };
        Ok(SnapshotUsage { bytes, inodes: u64::try_from(seen.len()).unwrap_or(u64::MAX) })
    }

    /// What has to be mounted to show a snapshot that is not committed.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::SnapshotKind`]
    pub fn plan(&self, key: &str) -> Result<SnapshotPlan> {
        let known = self.known();
        let snapshot = find(&known, key)?;
        if snapshot.kind == Kind::Committed {
            return Err(Error::SnapshotKind { key: key.to_owned(), kind: snapshot.kind.name() });
        }
        let mut lowers: Vec<PathBuf> = snapshot
            .parent
            .as_deref()
            .map(|parent| chain(&known, parent))
            .unwrap_or_default()
            .iter()
            .map(|content| self.tree(content))
            .collect();
        let mut upper = None;
        if let Content::Upper(id) = &snapshot.content {
            let dir = self.upper_dir(id);
            match snapshot.kind {
                Kind::View => lowers.insert(0, dir.join("diff")),
                Kind::Active | Kind::Committed => upper = Some((dir.join("diff"), dir.join("work"))),
            }
        }
        let userxattr = self.store.options().dialect == acetate_layer::mark::Dialect::User;
        Ok(SnapshotPlan { lowers, upper, userxattr })
    }

    /// The directory of a content.
    fn tree(&self, content: &Content) -> PathBuf {
        match content {
            Content::Upper(id) => self.upper_dir(id).join("diff"),
            Content::Layer(id) => self.store.layer_tree(id),
            Content::Nothing => PathBuf::new(),
        }
    }

    /// Removes what killed processes have left: writable layers that nothing names.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub fn clean_up(&self) -> Result<()> {
        // Nothing is being made here meanwhile, and others make things only while they hold the lock.
        let _known = self.known();
        match self.store.remove_unused_uppers() {
            // Somebody works with the store; what is left over is there the next time.
            Err(Error::Busy { .. }) => Ok(()),
            other => other,
        }
    }
}

fn find<'a>(known: &'a BTreeMap<String, Snapshot>, key: &str) -> Result<&'a Snapshot> {
    known.get(key).ok_or_else(|| Error::NoSnapshot(key.to_owned()))
}

/// What a committed snapshot shows, topmost first.
fn chain(known: &BTreeMap<String, Snapshot>, key: &str) -> Vec<Content> {
    let mut contents = Vec::new();
    let mut next = known.get(key);
    while let Some(snapshot) = next {
        contents.push(snapshot.content.clone());
        next = snapshot.parent.as_ref().and_then(|parent| known.get(parent));
    }
    contents
}

fn new(key: &str, parent: Option<&str>, kind: Kind, content: Content, labels: Labels) -> Result<Snapshot> {
    let now = now();
    Ok(Snapshot {
        schema: SCHEMA.into(),
        id: record::random_name()?,
        key: key.to_owned(),
        parent: parent.map(str::to_owned),
        kind,
        content,
        labels,
        created: now.clone(),
        updated: now,
        usage: None,
    })
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}
