//! Tests over the real filesystems of this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod data;
mod handles;
mod objects;
mod places;

use super::{Dir, DirCache, DirLayer};
use crate::{Errno, Layer, Owner, UpperLayer};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that is removed at the end, and what is mounted in it unmounted.
pub struct Scratch {
    path: PathBuf,
    mounts: Vec<PathBuf>,
}

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("acetate-layer-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch { path, mounts: Vec::new() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Mounts a filesystem on a new directory; says why and returns `None` if that is impossible here.
    pub fn mount(&mut self, name: &str, fstype: &str, source: &Path, options: &str) -> Option<PathBuf> {
        let target = self.dir(name);
        let mount = Command::new("mount")
            .args(["-t", fstype, "-o", options])
            .args([source, &target])
            .output()
            .expect("mount(8) is there");
        if !mount.status.success() {
            println!("skipped: cannot mount {fstype}: {}", String::from_utf8_lossy(&mount.stderr).trim());
            return None;
        }
        self.mounts.push(target.clone());
        Some(target)
    }

    /// Makes a filesystem in a file and mounts it; says why and returns `None` if that is impossible here.
    pub fn image(&mut self, fstype: &str, mebibytes: u64) -> Option<PathBuf> {
        let image = self.path.join(format!("{fstype}.img"));
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        match Command::new(format!("mkfs.{fstype}")).arg("-q").arg(&image).output() {
            Ok(made) if made.status.success() => {}
            Ok(made) => {
                println!("skipped: mkfs.{fstype}: {}", String::from_utf8_lossy(&made.stderr).trim());
                return None;
            }
            Err(error) => {
                println!("skipped: mkfs.{fstype}: {error}");
                return None;
            }
        }
        self.mount(&format!("{fstype}-mount"), fstype, &image, "loop")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for target in self.mounts.iter().rev() {
            let umount = Command::new("umount").arg("-l").arg(target).status().unwrap();
            assert!(umount.success(), "umount {target:?}");
        }
        std::fs::remove_dir_all(&self.path).unwrap();
    }
}

/// A writable layer with a staging directory.
pub fn upper_at(path: &Path, cache: &std::sync::Arc<DirCache>) -> DirLayer {
    let [upper, workdir] = ["upper", "workdir"].map(|name| path.join(name));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&workdir).unwrap();
    let mut layer = DirLayer::open_upper_in(&upper, cache).unwrap();
    let workdir = layer.open_workdir(&workdir).unwrap();
    layer.make_dir(&workdir, b"work", 0, Owner::Mounter).unwrap();
    layer.set_work(layer.open_dir(&workdir, b"work").unwrap());
    layer
}

/// A writable layer in a scratch directory.
pub fn upper(scratch: &Scratch) -> DirLayer {
    upper_at(scratch.path(), &DirCache::common())
}

/// Makes a directory and opens it.
pub fn make(layer: &DirLayer, dir: &Dir, name: &[u8]) -> Dir {
    layer.make_dir(dir, name, 0o755, Owner::Mounter).unwrap();
    layer.open_dir(dir, name).unwrap()
}

/// The names in a directory, sorted.
pub fn names(layer: &DirLayer, dir: &Dir) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    layer.list(dir, &mut |entry| names.push(entry.name.to_vec()))?;
    names.sort();
    Ok(names)
}

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}
