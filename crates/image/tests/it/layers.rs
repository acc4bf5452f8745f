//! Everything that a layer can hold survives.

use crate::tree::{OPTIONS, Scratch, describe, is_root, joined, layer, tar, unpacked, untar, xattrs};
use acetate_image::archive::{Entry, EntryKind, Writer};
use acetate_image::{Options, Owners, pack};
use acetate_layer::dir::DirLayer;
use acetate_layer::mark::Dialect;
use acetate_layer::work::WhiteoutForm;
use acetate_layer::{Kind, Rdev, Time};
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, chown, lchown, symlink};
use std::path::Path;

/// A tree with one of everything.
fn fill(root: &Path) {
    fs::create_dir_all(root.join("dir/inner")).unwrap();
    fs::write(root.join("dir/file"), "text").unwrap();
    fs::hard_link(root.join("dir/file"), root.join("link")).unwrap();
    fs::write(root.join("set-id"), "#!").unwrap();
    chown(root.join("set-id"), Some(1234), Some(5678)).unwrap();
    rustix::fs::chmod(root.join("set-id"), Mode::from_raw_mode(0o6751)).unwrap();
    fs::write(root.join("large-id"), "").unwrap();
    chown(root.join("large-id"), Some(3_000_000_000), Some(2_999_999_999)).unwrap();
    symlink("dir/nowhere", root.join("symlink")).unwrap();
    lchown(root.join("symlink"), Some(7), Some(8)).unwrap();
    let long = "long-name-".repeat(25);
    fs::create_dir_all(root.join(&long).join(&long)).unwrap();
    fs::write(root.join(&long).join(&long).join(&long), "deep").unwrap();
    symlink("t".repeat(300), root.join("long-target")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"caf\xe9\n name")), "odd").unwrap();
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    node("fifo", FileType::Fifo, 0);
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"middle", 32 << 20).unwrap();
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    // A capability whose bytes look like the end of a line; revision 2, cap_setpcap and cap_kill.
    let capability = [1, 0, 0, 2, 0x0a, 1, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0];
    set("set-id", "security.capability", &capability);
    rustix::fs::chmod(root.join("set-id"), Mode::from_raw_mode(0o6751)).unwrap();
    set("dir", "user.key", b"value\nwith=all\0bytes");
    set("dir/file", "user.empty", b"");
    // Looks like a mark, and is a user's.
    set("dir/inner", "user.overlay.opaque", b"y");
    let old = Timespec { tv_sec: -86_400 * 365, tv_nsec: 250_000_000 };
    let new = Timespec { tv_sec: 5_000_000_000, tv_nsec: 123_456_789 };
    for (name, time) in [("dir/file", new), ("fifo", old), ("dir", old), ("dir/inner", new), ("", new)] {
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, root.join(name), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// The trees differ in nothing but what `tar` formats cannot hold.
fn same(a: &Path, b: &Path) {
    let (a, b) = (describe(a), describe(b));
    for (path, object) in &a {
        assert_eq!(Some(object), b.get(path), "{}", String::from_utf8_lossy(path));
    }
    assert_eq!(a.len(), b.len());
}

#[test]
fn what_is_packed_is_unpacked() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    fill(&source);
    let lower = DirLayer::open_lower(&source).unwrap();
    let (packed, archive) = pack(&lower, Dialect::Trusted, Owners::Kept, Vec::new()).unwrap();
    assert_eq!(packed.whiteouts, 0);
    let (totals, split) = unpacked(&archive, &scratch.dir("home"), OPTIONS).unwrap();
    same(&source, &scratch.path().join("home/diff"));
    assert_eq!(totals.objects + 1, packed.objects);
    // Holes stay holes, and the archive can be made again, by both ways.
    assert!(fs::metadata(scratch.path().join("home/diff/sparse")).unwrap().blocks() < 1000);
    assert!(joined(&scratch.path().join("home"), &totals, &split).unwrap() == archive);
    let copy = DirLayer::open_lower(&scratch.path().join("home/diff")).unwrap();
    assert!(pack(&copy, Dialect::Trusted, Owners::Kept, Vec::new()).unwrap().1 == archive);
    // Others read it the same way; tar(1) drops user.overlay.* no more than anybody else.
    let other = scratch.dir("other");
    untar(&archive, &other);
    same(&source, &other);
}

#[test]
fn archives_of_tar_in_every_format() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    fill(&source);
    let formats: [&[&str]; 5] = [
        &["--format=posix", "--xattrs", "--xattrs-include=*"],
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse"],
        &["--format=posix", "--sparse", "--sparse-version=0.1", "--xattrs", "--xattrs-include=*"],
        &["--format=posix", "--sparse", "--sparse-version=0.0", "--xattrs", "--xattrs-include=*"],
        &["--format=gnu", "--sparse"],
    ];
    for (number, format) in formats.into_iter().enumerate() {
        let archive = tar(&source, format);
        let home = scratch.dir(&format!("home{number}"));
        let (totals, split) =
            unpacked(&archive, &home, OPTIONS).unwrap_or_else(|error| panic!("{format:?}: {error}"));
        assert!(joined(&home, &totals, &split).unwrap() == archive, "{format:?}");
        assert!(fs::metadata(home.join("diff/sparse")).unwrap().blocks() < 1000, "{format:?}");
        let expected = scratch.dir(&format!("expected{number}"));
        untar(&archive, &expected);
        same(&expected, &home.join("diff"));
    }
}

fn entry(path: &str, kind: EntryKind, size: u64) -> Entry {
    Entry {
        path: path.into(),
        kind,
        link: Vec::new(),
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time { sec: 1_000_000, nsec: 0 },
        size,
        rdev: Rdev::default(),
        xattrs: Vec::new(),
        sparse: None,
    }
}

/// An archive of regular files, directories (`/` at the end) and symlinks (`name -> target`).
fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (path, content) in entries {
        if let Some((name, target)) = path.split_once(" -> ") {
            let mut link = entry(name, EntryKind::Object(Kind::Symlink), 0);
            link.link = target.into();
            writer.append(&link, &mut std::io::empty()).unwrap();
        } else if let Some((name, target)) = path.split_once(" = ") {
            let mut link = entry(name, EntryKind::HardLink, 0);
            link.link = target.into();
            writer.append(&link, &mut std::io::empty()).unwrap();
        } else {
            let kind = if path.ends_with('/') { Kind::Dir } else { Kind::File };
            writer
                .append(&entry(path, EntryKind::Object(kind), content.len() as u64), &mut content.as_bytes())
                .unwrap();
        }
    }
    writer.finish().unwrap()
}

#[test]
fn whiteouts_become_those_of_overlayfs_and_back() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let archive = archive(&[
        ("a/", ""),
        ("a/.wh.gone", ""),
        ("b/", ""),
        ("b/.wh..wh..opq", ""),
        ("b/new", "new"),
        (".wh.again", ""),
        ("again/", ""),
        ("kept", "kept"),
        (".wh.kept", ""),
        (".wh.file", ""),
        ("file", "new"),
        (".wh..wh.plnk/1", ""),
    ]);
    for (name, options) in [
        ("device", OPTIONS),
        ("xattr", Options { whiteouts: WhiteoutForm::Xattr, dialect: Dialect::User, owners: Owners::Kept }),
    ] {
        let home = scratch.dir(name);
        let (totals, split) = unpacked(&archive, &home, options).unwrap();
        let at = |path: &str| home.join("diff").join(path);
        let prefix = if options.dialect == Dialect::Trusted { "trusted" } else { "user" };
        let opaque =
            |path: &str| xattrs(&at(path)).get(format!("{prefix}.overlay.opaque").as_bytes()).cloned();
        let gone = fs::symlink_metadata(at("a/gone")).unwrap();
        if options.whiteouts == WhiteoutForm::Device {
            assert_eq!((gone.mode() & 0o170_000, gone.rdev()), (0o020_000, 0));
            assert_eq!(opaque("a"), None);
        } else {
            assert!(gone.is_file() && xattrs(&at("a/gone")).contains_key(&b"user.overlay.whiteout"[..]));
            assert_eq!(opaque("a"), Some(b"x".to_vec()));
        }
        assert_eq!(opaque("b"), Some(b"y".to_vec()));
        assert_eq!(opaque("again"), Some(b"y".to_vec()));
        assert_eq!(fs::read_to_string(at("kept")).unwrap(), "kept");
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "new");
        assert!(!at(".wh..wh.plnk").join("1").exists());
        // Exactly the archive that came, and one that says the same.
        assert!(joined(&home, &totals, &split).unwrap() == archive);
        let lower = DirLayer::open_lower(&home.join("diff")).unwrap();
        let (packed, again) = pack(&lower, options.dialect, options.owners, Vec::new()).unwrap();
        assert_eq!(packed.whiteouts, 3);
        let copy = scratch.dir(&format!("{name}-copy"));
        unpacked(&again, &copy, options).unwrap();
        let names = |dir: &Path| describe(dir).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&copy.join("diff")), names(&home.join("diff")));
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let archive = archive(&[
        ("file", "first"),
        ("file", "second"),
        ("dir/", ""),
        ("dir/inner", "lost"),
        ("dir", "now a file"),
        ("file", "third, and longer"),
        ("file = dir", ""),
        ("tree/a", "1"),
        ("tree -> elsewhere", ""),
        ("tree/a", "2"),
    ]);
    let home = scratch.dir("home");
    let (totals, split) = unpacked(&archive, &home, OPTIONS).unwrap();
    assert_eq!(fs::read_to_string(home.join("diff/file")).unwrap(), "now a file");
    assert_eq!(fs::read_to_string(home.join("diff/elsewhere/a")).unwrap(), "2");
    assert_eq!(totals.replaced.len(), 5);
    assert!(joined(&home, &totals, &split).unwrap() == archive);
}

#[test]
fn owners_can_be_recorded_instead_of_set() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    fill(&source);
    let lower = DirLayer::open_lower(&source).unwrap();
    let (_, archive) = pack(&lower, Dialect::User, Owners::Kept, Vec::new()).unwrap();
    let options = Options { owners: Owners::Recorded, dialect: Dialect::User, ..OPTIONS };
    let home = scratch.dir("home");
    let (totals, split) = unpacked(&archive, &home, options).unwrap();
    let file = fs::metadata(home.join("diff/set-id")).unwrap();
    assert_eq!((file.uid(), file.mode() & 0o7777), (rustix::process::geteuid().as_raw(), 0o751));
    let recorded = xattrs(&home.join("diff/set-id"));
    assert_eq!(recorded[&b"user.containers.override_stat"[..]], b"1234:5678:06751");
    assert!(joined(&home, &totals, &split).unwrap() == archive);
    // Packing gives the owners back to what can carry the record; a mode that was changed since counts.
    rustix::fs::chmod(home.join("diff/large-id"), Mode::from_raw_mode(0o711)).unwrap();
    let copy = DirLayer::open_lower(&home.join("diff")).unwrap();
    let (_, again) = pack(&copy, Dialect::User, Owners::Recorded, Vec::new()).unwrap();
    let other = scratch.dir("other");
    unpacked(&again, &other, OPTIONS).unwrap();
    let file = fs::metadata(other.join("diff/set-id")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1234, 5678, 0o6751));
    let file = fs::metadata(other.join("diff/large-id")).unwrap();
    assert_eq!((file.uid(), file.mode() & 0o7777), (3_000_000_000, 0o711));
}

#[test]
fn redirects_and_foreign_names_cannot_be_packed() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let home = scratch.dir("home");
    drop(layer(&home));
    let dir = home.join("diff/dir");
    fs::create_dir(&dir).unwrap();
    let refused = || {
        let lower = DirLayer::open_lower(&home.join("diff")).unwrap();
        pack(&lower, Dialect::Trusted, Owners::Kept, Vec::new()).err().map(|error| error.to_string())
    };
    assert_eq!(refused(), None);
    rustix::fs::setxattr(&dir, "trusted.overlay.redirect", b"/old", XattrFlags::empty()).unwrap();
    assert!(refused().unwrap().starts_with("dir/: it was renamed"));
    fs::remove_dir(&dir).unwrap();
    fs::write(home.join("diff/.wh.user"), "").unwrap();
    assert!(refused().unwrap().starts_with(".wh.user: its name"));
}
