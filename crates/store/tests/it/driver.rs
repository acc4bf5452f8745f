//! Drivers: mounts, plain trees, subvolumes, and the probes.

mod btrfs;
mod kernel;
mod layers;
mod probe;
mod tree;

use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::{FsKind, Scratch};
use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};

/// Room for every kind of filesystem.
const IMAGE_MIB: u64 = 320;

/// A filesystem of its own; `None`, with the reason told, if there can be none here.
fn filesystem(test: &str, kind: FsKind) -> Option<Scratch> {
    let mut needs = vec![Need::Root, Need::KernelOverlay];
    match kind {
        FsKind::Tmpfs => {}
        FsKind::Ext4 => needs.extend([Need::Loop, Need::Tool("mkfs.ext4")]),
        FsKind::Xfs => needs.extend([Need::Loop, Need::Tool("mkfs.xfs")]),
        FsKind::Btrfs => needs.extend([Need::Loop, Need::Tool("mkfs.btrfs")]),
    }
    have(test, &needs).unwrap().then(|| Scratch::on(kind, "acetate-store", IMAGE_MIB).unwrap())
}

/// Unmounts at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = unmount(&self.0, UnmountFlags::DETACH);
        assert!(unmounted.is_ok() || std::thread::panicking(), "{:?}: {unmounted:?}", self.0);
    }
}
