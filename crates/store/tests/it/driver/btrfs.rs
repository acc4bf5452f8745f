//! Subvolumes, and what happens when metadata runs out.

use super::filesystem;
use acetate_layer::mark::Dialect;
use acetate_store::driver::btrfs::{
    BtrfsError, Pressure, create, delete, is_btrfs, is_subvolume, pressure, settle, snapshot,
};
use acetate_store::driver::tree::{How, apply};
use acetate_testkit::real::fingerprint::Fingerprint;
use acetate_testkit::scratch::FsKind;
use rustix::fs::FallocateFlags;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

#[test]
fn three_hundred_snapshots_come_and_go() {
    let Some(scratch) = filesystem("three_hundred_snapshots_come_and_go", FsKind::Btrfs) else { return };
    let base = scratch.path().join("base");
    create(&base).unwrap();
    fs::create_dir_all(base.join("a/b")).unwrap();
    fs::write(base.join("a/b/file"), b"shared").unwrap();
    let path = |number: u32| scratch.path().join(format!("snapshot{number}"));
    for number in 0..300 {
        snapshot(&base, &path(number), number % 3 == 0).unwrap();
        assert!(is_subvolume(&path(number)).unwrap());
        let written = fs::write(path(number).join("a/own"), number.to_string());
        match number % 3 {
            0 => assert_eq!(written.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem),
            _ => written.unwrap(),
        }
    }
    assert!(!base.join("a/own").exists());
    assert_eq!(fs::read(path(299).join("a/b/file")).unwrap(), b"shared");
    assert_eq!(fs::read(path(299).join("a/own")).unwrap(), b"299");
    for number in 0..300 {
        delete(&path(number)).unwrap();
    }
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    delete(&base).unwrap();
    settle(scratch.path()).unwrap();
}

#[test]
fn a_chain_of_snapshots_is_the_tree_of_its_layers() {
    let Some(scratch) = filesystem("a_chain_of_snapshots_is_the_tree_of_its_layers", FsKind::Btrfs) else {
        return;
    };
    let lowers = super::layers::rich(&scratch.dir("layers").unwrap(), Dialect::Trusted);
    let flat = scratch.path().join("flat");
    acetate_store::driver::tree::flatten(&lowers, &flat, Dialect::Trusted, How::Copy).unwrap();
    let chain = |number: usize| scratch.path().join(format!("chain{number}"));
    create(&chain(0)).unwrap();
    for (number, layer) in lowers.iter().rev().enumerate() {
        snapshot(&chain(number), &chain(number + 1), false).unwrap();
        apply(layer, &chain(number + 1), Dialect::Trusted, How::Clone).unwrap();
    }
    let print = |root: &Path| Fingerprint::take(root).unwrap().portable();
    print(&flat).expect(&print(&chain(lowers.len())), "the chain").unwrap();
    (0..=lowers.len()).for_each(|number| delete(&chain(number)).unwrap());
}

#[test]
fn what_is_no_subvolume_is_told_apart() {
    let Some(scratch) = filesystem("what_is_no_subvolume_is_told_apart", FsKind::Btrfs) else { return };
    let path = |name: &str| scratch.path().join(name);
    let plain = scratch.dir("plain").unwrap();
    create(&path("outer")).unwrap();
    create(&path("outer/inner")).unwrap();
    std::os::unix::fs::symlink("outer", path("link")).unwrap();
    assert!(is_btrfs(&plain).unwrap() && !is_subvolume(&plain).unwrap());
    assert!(is_subvolume(&path("outer/inner")).unwrap() && !is_subvolume(&path("link")).unwrap());
    assert!(matches!(delete(&plain), Err(BtrfsError::NotSubvolume(_))));
    assert!(matches!(delete(&path("link")), Err(BtrfsError::NotSubvolume(_))));
    assert!(matches!(delete(&path("none")), Err(BtrfsError::Open { .. })));
    assert!(matches!(delete(&path("outer")), Err(BtrfsError::HoldsSubvolume(_))));
    assert!(matches!(create(&plain), Err(BtrfsError::Exists(_))));
    assert!(matches!(create(&path("plain/..")), Err(BtrfsError::NoName(_))));
    assert!(matches!(create(&path("none/new")), Err(BtrfsError::Open { .. })));
    assert!(matches!(snapshot(&plain, &path("new"), false), Err(BtrfsError::NotSubvolume(_))));
    assert!(!path("new").exists());
    delete(&path("outer/inner")).unwrap();
    delete(&path("outer")).unwrap();

    let Some(other) = filesystem("what_is_no_subvolume_is_told_apart", FsKind::Tmpfs) else { return };
    assert!(!is_btrfs(other.path()).unwrap());
    assert!(matches!(create(&other.path().join("new")), Err(BtrfsError::NotBtrfs(_))));
    assert!(matches!(pressure(other.path()), Err(BtrfsError::NotBtrfs(_))));
}

/// Allots all space to data, then frees most of the data, so that `df` shows plenty.
fn allot_all_to_data(root: &Path) {
    let path = |number: u32| root.join(format!("data{number}"));
    let mut count = 0;
    loop {
        let file = File::create(path(count)).unwrap();
        if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).is_err() {
            break;
        }
        count += 1;
    }
    for number in (0..=count).filter(|number| number % 10 != 0 || *number == count) {
        fs::remove_file(path(number)).unwrap();
    }
    rustix::fs::syncfs(File::open(root).unwrap()).unwrap();
}

/// Fills subvolumes with files so small that they are metadata, until the judgement is that nothing more shall be
/// made. Returns how many subvolumes there are.
fn exhaust(root: &Path) -> u32 {
    let mut count = 0;
    let mut was_low = false;
    loop {
        let subvolume = root.join(format!("workspace{count}"));
        match create(&subvolume) {
            Ok(()) => count += 1,
            Err(BtrfsError::Exhausted { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        for number in 0..200 {
            fs::write(subvolume.join(number.to_string()), [b'x'; 1900]).expect("there is room");
        }
        rustix::fs::syncfs(File::open(root).unwrap()).unwrap();
        was_low |= matches!(pressure(root).unwrap(), Pressure::Low(_));
        assert!(count < 1000, "the metadata never ends");
    }
    assert!(was_low, "there was no warning");
    count
}

#[test]
fn without_metadata_space_nothing_is_made_and_all_can_be_removed() {
    let Some(scratch) =
        filesystem("without_metadata_space_nothing_is_made_and_all_can_be_removed", FsKind::Btrfs)
    else {
        return;
    };
    let root = scratch.path();
    assert!(matches!(pressure(root).unwrap(), Pressure::Fine(_)));
    allot_all_to_data(root);
    let count = exhaust(root);
    let judged = pressure(root).unwrap();
    assert!(matches!(judged, Pressure::Exhausted(_)), "{judged:?}");
    assert!(judged.space().data_used * 4 < judged.space().data_total, "df shows free space: {judged:?}");

    let refused = snapshot(&root.join("workspace0"), &root.join("new"), false).unwrap_err();
    let text = refused.to_string();
    assert!(text.starts_with(&format!("{:?} is not made: ", root.join("new"))), "{text}");
    assert!(text.contains(" MiB of metadata space left ("), "{text}");
    assert!(refused.hint().contains("btrfs balance start"), "{}", refused.hint());
    assert!(!root.join("new").exists());

    for number in 0..count / 2 {
        delete(&root.join(format!("workspace{number}"))).unwrap();
    }
    if !settle(root).unwrap() {
        eprintln!("skipped: this kernel does not tell when deleted space is free");
        return;
    }
    create(&root.join("new")).unwrap();
    snapshot(&root.join(format!("workspace{}", count - 1)), &root.join("newer"), false).unwrap();
    fs::write(root.join("newer/file"), b"usable").unwrap();
}
