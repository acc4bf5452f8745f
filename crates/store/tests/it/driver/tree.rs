//! Plain trees are what the kernel's own overlay of the same layers shows.

use super::layers::{Maker, rich};
use super::{Mounted, filesystem};
use acetate_layer::mark::{Dialect, Mark};
use acetate_store::driver::kernel::{Stack, mount};
use acetate_store::driver::tree::{How, TreeError, apply, clone_tree, flatten, remove_tree};
use acetate_testkit::real::fingerprint::Fingerprint;
use acetate_testkit::scratch::{FsKind, Scratch};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn print(root: &Path) -> Fingerprint {
    Fingerprint::take(root).unwrap().portable()
}

/// What the kernel makes of the layers.
fn mounted(scratch: &Scratch, name: &str, lowers: &[PathBuf], marks: Dialect) -> Fingerprint {
    let target = scratch.dir(name).unwrap();
    let stack = Stack { lowers, upper: None, userxattr: marks == Dialect::User, ..Stack::PLAIN };
    mount(&stack, &target).unwrap();
    let mounted = Mounted(target);
    print(mounted.path())
}

/// The trees of both ways, and copies of them, are as the kernel's.
fn check(test: &str, kind: FsKind) {
    let Some(scratch) = filesystem(test, kind) else { return };
    for marks in [Dialect::Trusted, Dialect::User] {
        let home = scratch.dir(&format!("{marks:?}")).unwrap();
        let lowers = rich(&home, marks);
        let expected = mounted(&scratch, &format!("{marks:?}-merged"), &lowers, marks);
        assert!(expected.entries.len() == 49, "the kernel shows {}", expected.entries.len());
        for how in [How::Copy, How::Clone] {
            let flat = home.join(format!("{how:?}"));
            let totals = flatten(&lowers, &flat, marks, how).unwrap();
            assert_eq!((totals.xattrs_lost, totals.links), (0, 5));
            expected.expect(&print(&flat), &format!("{kind:?} {marks:?} {how:?}")).unwrap();
            assert!(fs::metadata(flat.join("sparse")).unwrap().blocks() < 256, "holes are kept");
            let copied = home.join(format!("{how:?}-copy"));
            clone_tree(&flat, &copied, how).unwrap();
            expected.expect(&print(&copied), &format!("{kind:?} {marks:?} {how:?} copied")).unwrap();
        }
    }
}

#[test]
fn trees_on_tmpfs_are_the_kernels() {
    check("trees_on_tmpfs_are_the_kernels", FsKind::Tmpfs);
}

#[test]
fn trees_on_ext4_are_the_kernels() {
    check("trees_on_ext4_are_the_kernels", FsKind::Ext4);
}

#[test]
fn trees_on_btrfs_are_the_kernels() {
    check("trees_on_btrfs_are_the_kernels", FsKind::Btrfs);
}

#[test]
fn trees_on_xfs_are_the_kernels() {
    check("trees_on_xfs_are_the_kernels", FsKind::Xfs);
}

/// Bytes in use after everything has been written.
fn used(path: &Path) -> u64 {
    rustix::fs::syncfs(fs::File::open(path).unwrap()).unwrap();
    let stat = rustix::fs::statvfs(path).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

#[test]
fn clones_share_data_and_copies_do_not() {
    const SIZE: u64 = 48 << 20;
    for kind in [FsKind::Btrfs, FsKind::Xfs] {
        let Some(scratch) = filesystem("clones_share_data_and_copies_do_not", kind) else { return };
        let from = scratch.dir("from").unwrap();
        let bytes: Vec<u8> = (0..SIZE / 8).flat_map(u64::to_le_bytes).collect();
        fs::write(from.join("large"), bytes).unwrap();
        let mut before = used(scratch.path());
        for (how, name) in [(How::Clone, "clone"), (How::Copy, "copy")] {
            assert_eq!(clone_tree(&from, &scratch.path().join(name), how).unwrap().bytes, SIZE);
            let after = used(scratch.path());
            match how {
                How::Clone => assert!(after < before + SIZE / 4, "{kind:?}: {before} became {after}"),
                How::Copy => assert!(after >= before + SIZE / 4 * 3, "{kind:?}: {before} became {after}"),
            }
            before = after;
        }
    }
}

#[test]
fn deep_and_wide_trees_are_no_trouble() {
    let scratch = Scratch::new("acetate-store").unwrap();
    let layer = scratch.dir("layer").unwrap();
    let mut dir = rustix::fs::open(&layer, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    // Far deeper than a path can be long, and than a descriptor for each directory would allow.
    const DEPTH: u64 = 6000;
    for _ in 0..DEPTH {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, "d", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    (0..3000).for_each(|number| fs::write(layer.join(format!("f{number}")), b"").unwrap());
    let target = scratch.path().join("flat");
    let totals = flatten(std::slice::from_ref(&layer), &target, Dialect::User, How::Clone).unwrap();
    assert_eq!((totals.dirs, totals.files), (DEPTH + 1, 3000));
    // The topmost directory becomes a whiteout, which takes all of it away.
    let whiteouts = Maker::new(&scratch.path().join("whiteouts"), Dialect::User, 0);
    whiteouts.file("d", b"");
    whiteouts.mark("d", Mark::Whiteout, b"");
    let totals = apply(&whiteouts.done(), &target, Dialect::User, How::Clone).unwrap();
    assert_eq!((totals.removed, fs::read_dir(&target).unwrap().count()), (1, 3000));
    assert!(remove_tree(&layer).unwrap() && !layer.exists());
    assert!(!remove_tree(&layer).unwrap(), "there is nothing any more");
    assert!(remove_tree(&target).unwrap());
}

#[test]
fn what_cannot_be_made_is_named() {
    let scratch = Scratch::new("acetate-store").unwrap();
    let make = |name: &str| Maker::new(&scratch.path().join(name), Dialect::User, 0);
    let redirect = make("redirect");
    redirect.file("a/b/c", b"");
    redirect.mark("a/b", Mark::Redirect, b"x");
    let metacopy = make("metacopy");
    metacopy.file("m", b"");
    metacopy.mark("m", Mark::Metacopy, b"");
    let target = scratch.path().join("target");
    let flat = |layer: PathBuf| flatten(&[layer], &target, Dialect::User, How::Copy).unwrap_err();
    for (layer, at, name) in [(redirect.done(), "a/b", "redirect"), (metacopy.done(), "m", "metacopy")] {
        let path = layer.join(at);
        let error = flat(layer);
        assert_eq!(
            error.to_string(),
            format!("{path:?} carries the mark {name}, which only a mount can follow")
        );
        assert!(!target.exists(), "nothing is left behind");
    }
    let missing = flat(scratch.path().join("missing"));
    assert!(matches!(missing, TreeError::Open { ref path, .. } if path.ends_with("missing")), "{missing}");
    let outer = make("outer").done();
    let inside = clone_tree(&outer, &outer.join("inner"), How::Copy).unwrap_err();
    assert!(matches!(inside, TreeError::Overlap { .. }), "{inside}");
    assert_eq!(fs::read_dir(&outer).unwrap().count(), 0, "nothing is left behind");
    let there = clone_tree(&outer, scratch.path(), How::Copy).unwrap_err();
    assert_eq!(there.hint(), "choose a path that does not exist yet");
}
