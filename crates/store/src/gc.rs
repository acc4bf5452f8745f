//! What nothing needs any more, and what everything takes.

use crate::driver::btrfs;
use crate::error::{Result, Step};
use crate::record;
use crate::root::{Store, remove};
use crate::snapshots::Content;
use acetate_image::Digest;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Something that can be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// What it is: `layer`, `upper`, `tree`, `download`, `staging` or `trash`.
    pub kind: &'static str,
    /// Its name there.
    pub name: String,
    /// What it takes on disk, in bytes.
    pub bytes: u64,
}

/// How much a part of the store takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Each layer, and how many images and workspaces stand on it.
    pub layers: Vec<LayerUsage>,
    /// Each workspace's own changes, or its own tree, in bytes.
    pub workspaces: Vec<(String, u64)>,
    /// Trees of layer stacks that workspaces are snapshots of, in bytes.
    pub trees: u64,
    /// Writable layers that nothing but other workspaces stand on, in bytes.
    pub branches: u64,
    /// Snapshots of containerd, without layers of images, in bytes.
    pub snapshots: u64,
    /// Tries: what commands wrote, and originals of what was applied, in bytes.
    pub tries: u64,
    /// Interrupted downloads, what is being made and what is being removed, in bytes.
    pub transient: u64,
    /// Records, configurations and directories, in bytes.
    pub records: u64,
    /// All of it.
    pub total: u64,
    /// Free space of the filesystem for the user, in bytes.
    pub free: u64,
}

/// How much a layer takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerUsage {
    /// Its name.
    pub id: Digest,
    /// Its files and its split file, in bytes on disk.
    pub bytes: u64,
    /// Images that have it.
    pub images: usize,
    /// Workspaces that stand on it.
    pub workspaces: usize,
}

impl Store {
    /// What can be removed because nothing needs it. The caller holds the exclusive lock for it to stay so.
    fn garbage(&self) -> Result<Vec<(PathBuf, Garbage)>> {
        let workspaces = self.workspaces()?;
        let mut layers: BTreeSet<String> = BTreeSet::new();
        for image in self.images()? {
            layers.extend(image.layers.iter().map(Digest::hex));
        }
        let (mut uppers, mut trees) = (BTreeSet::new(), BTreeSet::new());
        for workspace in &workspaces {
            layers.extend(workspace.layers().iter().map(Digest::hex));
            uppers.extend(workspace.uppers().into_iter().map(str::to_owned));
            trees.extend(workspace.trees());
        }
        for snapshot in self.recorded_snapshots()? {
            match snapshot.content {
                Content::Upper(id) => drop(uppers.insert(id)),
                Content::Layer(id) => drop(layers.insert(id.hex())),
                Content::Nothing => {}
            }
        }
        let mut garbage = Vec::new();
        let mut unused = |part: &str, kind: &'static str, used: &BTreeSet<String>| -> Result<()> {
            for name in record::names(&self.part(part))?.into_iter().filter(|name| !used.contains(name)) {
                let path = self.part(part).join(&name);
                let bytes = disk_usage(&path)?;
                garbage.push((path, Garbage { kind, name, bytes }));
            }
            Ok(())
        };
        unused("layers", "layer", &layers)?;
        unused("uppers", "upper", &uppers)?;
        unused("trees", "tree", &trees)?;
        for (part, kind) in [("downloads", "download"), ("staging", "staging"), ("trash", "trash")] {
            unused(part, kind, &BTreeSet::new())?;
        }
        Ok(garbage)
    }

    /// Removes what nothing needs, or with `dry_run` only says what that would be.
    ///
    /// # Errors
    /// [`crate::Error::Busy`] while somebody else works on the store.
    pub fn gc(&self, dry_run: bool) -> Result<Vec<Garbage>> {
        let _lock = self.exclusive()?;
        let garbage = self.garbage()?;
        if !dry_run {
            self.drop_dangling_names()?;
        }
        let mut found = Vec::with_capacity(garbage.len());
        for (path, item) in garbage {
            if !dry_run {
                match item.kind {
                    "staging" | "trash" | "download" => remove(&path)?,
                    _ => drop(self.discard(&path)?),
                }
            }
            found.push(item);
        }
        if !dry_run && btrfs::is_btrfs(self.root())? {
            // The space of subvolumes comes back only when the filesystem gets to it; whoever asks for room needs it now.
            let _cannot_wait_before_linux_6_13 = btrfs::settle(self.root())?;
        }
        Ok(found)
    }

    /// Removes writable layers that neither a workspace nor a snapshot names.
    ///
    /// # Errors
    /// [`crate::Error::Busy`] while somebody else works on the store.
    pub(crate) fn remove_unused_uppers(&self) -> Result<()> {
        let _lock = self.exclusive()?;
        for (path, _) in self.garbage()?.into_iter().filter(|(_, item)| item.kind == "upper") {
            self.discard(&path)?;
        }
        Ok(())
    }

    /// Where the space goes. Every byte below the store's directory is in exactly one of the figures.
    ///
    /// # Errors
    /// [`crate::Error::Path`], [`crate::Error::Record`]
    pub fn usage(&self) -> Result<Usage> {
        let _lock = self.shared()?;
        let (images, workspaces) = (self.images()?, self.workspaces()?);
        // One set for all, so that what is linked from two places counts once.
        let mut seen = HashSet::new();
        let mut usage = Usage::default();
        for id in self.layers()? {
            usage.layers.push(LayerUsage {
                bytes: measure(&self.part("layers").join(id.hex()), &mut seen)?,
                images: images.iter().filter(|image| image.layers.contains(&id)).count(),
                workspaces: workspaces.iter().filter(|workspace| workspace.layers().contains(&id)).count(),
                id,
            });
        }
        let mut own = BTreeMap::new();
        for workspace in &workspaces {
            own.insert(self.own_dir(workspace), workspace.name.clone());
        }
        let snapshots: HashSet<Content> =
            self.recorded_snapshots()?.into_iter().map(|snapshot| snapshot.content).collect();
        for part in ["uppers", "trees"] {
            for name in record::names(&self.part(part))? {
                let path = self.part(part).join(&name);
                let bytes = measure(&path, &mut seen)?;
                match own.get(&path) {
                    Some(name) => usage.workspaces.push((name.clone(), bytes)),
                    None if snapshots.contains(&Content::Upper(name)) => usage.snapshots += bytes,
                    None if part == "uppers" => usage.branches += bytes,
                    None => usage.trees += bytes,
                }
            }
        }
        usage.workspaces.sort();
        if self.part(crate::tries::PART).is_dir() {
            usage.tries = measure(&self.part(crate::tries::PART), &mut seen)?;
        }
        for part in ["downloads", "staging", "trash"] {
            for name in record::names(&self.part(part))? {
                usage.transient += measure(&self.part(part).join(name), &mut seen)?;
            }
        }
        usage.records = measure(self.root(), &mut seen)?;
        let parts: u64 = usage.layers.iter().map(|layer| layer.bytes).sum();
        let own: u64 = usage.workspaces.iter().map(|(_, bytes)| bytes).sum();
        let kept = usage.trees + usage.branches + usage.snapshots + usage.tries;
        usage.total = parts + own + kept + usage.transient + usage.records;
        let filesystem = rustix::fs::statvfs(self.root()).step("look at the filesystem of", self.root())?;
        usage.free = filesystem.f_bavail.saturating_mul(filesystem.f_frsize);
        Ok(usage)
    }
}

/// What a tree takes on disk in bytes, as du(1) counts.
pub(crate) fn disk_usage(path: &Path) -> Result<u64> {
    measure(path, &mut HashSet::new())
}

/// What of a tree has not been seen before takes on disk, in bytes. What is mounted in it does not count.
pub(crate) fn measure(path: &Path, seen: &mut HashSet<(u64, u64)>) -> Result<u64> {
    let mut bytes = 0;
    let mut todo = vec![(path.to_owned(), None)];
    while let Some((path, device)) = todo.pop() {
        let stat = match fs::symlink_metadata(&path) {
            // Removed since it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.step("look at", &path)?,
        };
        // Subvolumes have device numbers of their own, but only mounts of other filesystems lie below mounts/.
        if device.is_some_and(|device| device != stat.dev())
            && path.parent().is_some_and(|dir| dir.ends_with("mounts"))
        {
            continue;
        }
        if seen.insert((stat.dev(), stat.ino())) {
            bytes += stat.blocks() * 512;
        }
        if stat.is_dir() {
            let entries = match fs::read_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.step("list", &path)?,
            };
            for entry in entries {
                todo.push((entry.step("list", &path)?.path(), Some(stat.dev())));
            }
        }
    }
    Ok(bytes)
}
