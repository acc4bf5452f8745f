//! Opening layers: copies of mounts, submounts, access times, work directories, filesystems.

use super::{Scratch, is_root, make, names, upper};
use crate::dir::{DirCache, DirLayer, is_within};
use crate::{
    Access, At, Errno, Kind, Layer, Owner, Rdev, Rename, SetTime, SetXattr, StatFs, Time, UpperLayer,
};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory with a file, a symlink and a directory in it.
fn lower_dir(scratch: &Scratch) -> PathBuf {
    let path = scratch.dir("lower");
    std::fs::write(path.join("file"), b"data").unwrap();
    std::os::unix::fs::symlink("file", path.join("symlink")).unwrap();
    std::fs::create_dir(path.join("dir")).unwrap();
    path
}

fn both_lowers(path: &Path) -> Vec<DirLayer> {
    vec![DirLayer::open_lower(path).unwrap(), DirLayer::open_lower_plain(path, &DirCache::common()).unwrap()]
}

#[test]
fn only_directories_are_layers() {
    let scratch = Scratch::new();
    let path = lower_dir(&scratch);
    for (name, errno) in [("file", Errno::NOTDIR), ("symlink", Errno::NOTDIR), ("none", Errno::NOENT)] {
        assert_eq!(DirLayer::open_lower(&path.join(name)).map(drop), Err(errno));
        assert_eq!(DirLayer::open_upper(&path.join(name)).map(drop), Err(errno));
    }
    std::os::unix::fs::symlink("lower", scratch.path().join("link")).unwrap();
    let layer = DirLayer::open_lower(&scratch.path().join("link")).unwrap();
    assert_eq!(names(&layer, layer.root()).unwrap().len(), 3);
    if is_root() {
        assert!(layer.hides_submounts());
    }
}

#[test]
fn lower_layers_refuse_every_change() {
    let scratch = Scratch::new();
    let path = lower_dir(&scratch);
    for layer in both_lowers(&path) {
        let (root, at) = (layer.root(), At::Name(layer.root(), b"file"));
        let file = layer.open_file(at, Access::Read).unwrap();
        let owner = Owner::Mounter;
        let now = SetTime::Now;
        let results = [
            layer.open_file(at, Access::Write).map(drop),
            layer.open_file(at, Access::ReadWrite).map(drop),
            layer.create(root, b"x", 0o600, owner).map(drop),
            layer.create_unnamed(root, 0o600, owner).map(drop),
            layer.make_dir(root, b"x", 0o600, owner),
            layer.make_node(root, b"x", Kind::Fifo, 0o600, Rdev::default(), owner),
            layer.make_symlink(root, b"x", b"y", owner),
            layer.link(at, root, b"x"),
            layer.unlink(root, b"file"),
            layer.rmdir(root, b"dir"),
            layer.rename((root, b"file"), (root, b"x"), Rename::Replace),
            layer.write_at(&file, b"x", 0).map(drop),
            layer.set_len(at, 0),
            layer.allocate(&file, 0, 0, 10),
            layer.copy_range((&file, 0), (&file, 0), 1).map(drop),
            layer.copy_data(&file, &file, 1, &|| true),
            layer.set_mode(at, 0),
            layer.set_owner(at, Some(1), None),
            layer.set_times(at, now, now),
            layer.set_xattr(at, b"user.a", b"", SetXattr::Any),
            layer.remove_xattr(at, b"user.a"),
            layer.set_inode_flags(at, 0),
            layer.sync(at, false),
            layer.sync_fs(),
            layer.open_workdir(scratch.path()).map(drop),
        ];
        assert_eq!(results, [Err(Errno::ROFS); 25]);
    }
}

#[test]
fn reading_a_lower_layer_leaves_access_times() {
    if !is_root() {
        return;
    }
    let mut scratch = Scratch::new();
    // The temporary directory may not record access times anyway.
    let Some(tmpfs) = scratch.mount("m", "tmpfs", Path::new("none"), "strictatime,size=8m") else { return };
    std::fs::create_dir(tmpfs.join("dir")).unwrap();
    std::fs::write(tmpfs.join("file"), b"data").unwrap();
    std::os::unix::fs::symlink("file", tmpfs.join("symlink")).unwrap();
    let upper = DirLayer::open_upper(&tmpfs).unwrap();
    let long_ago = Time { sec: 1000, nsec: 0 };
    for name in [&b"file"[..], b"symlink", b"dir"] {
        upper.set_times(At::Name(upper.root(), name), SetTime::To(long_ago), SetTime::Now).unwrap();
    }
    for layer in both_lowers(&tmpfs) {
        let root = layer.root();
        let at = |name| At::Name(root, name);
        let file = layer.open_file(at(b"file"), Access::Read).unwrap();
        assert_eq!(layer.read_at(&file, &mut [0; 9], 0), Ok(4));
        let held = layer.hold(root, b"file").unwrap();
        let again = layer.open_file(At::Open(&held), Access::Read).unwrap();
        assert_eq!(layer.read_at(&again, &mut [0; 9], 0), Ok(4));
        assert_eq!(names(&layer, &layer.open_dir(root, b"dir").unwrap()), Ok(vec![]));
        assert_eq!([&b"file"[..], b"dir"].map(|name| layer.stat(at(name)).unwrap().atime), [long_ago; 2]);
        if layer.hides_submounts() {
            layer.read_link(at(b"symlink")).unwrap();
            assert_eq!(layer.stat(at(b"symlink")).unwrap().atime, long_ago);
        }
    }
    // The times can be moved here at all.
    let file = upper.open_file(At::Name(upper.root(), b"file"), Access::Read).unwrap();
    upper.read_at(&file, &mut [0; 9], 0).unwrap();
    assert_ne!(upper.stat(At::Open(&file)).unwrap().atime, long_ago);
}

#[test]
fn submounts_are_hidden_or_refused() {
    if !is_root() {
        return;
    }
    let mut scratch = Scratch::new();
    let path = lower_dir(&scratch);
    std::fs::write(path.join("dir/covered"), b"").unwrap();
    let Some(_) = scratch.mount_at(&path.join("dir"), "tmpfs", Path::new("none"), "size=1m") else { return };
    let plain = DirLayer::open_lower_plain(&path, &DirCache::common()).unwrap();
    let upper = DirLayer::open_upper(&path).unwrap();
    for layer in [&plain, &upper] {
        let root = layer.root();
        assert!(!layer.hides_submounts());
        assert_eq!(layer.open_dir(root, b"dir").map(drop), Err(Errno::XDEV));
        assert_eq!(layer.hold(root, b"dir").map(drop), Err(Errno::XDEV));
        assert_eq!(layer.stat(At::Name(root, b"dir")), Err(Errno::XDEV));
        assert!(layer.stat(At::Dir(root)).is_ok());
    }
    let copy = DirLayer::open_lower(&path).unwrap();
    let dir = copy.open_dir(copy.root(), b"dir").unwrap();
    assert_eq!(names(&copy, &dir), Ok(vec![b"covered".to_vec()]));
    assert_eq!(copy.stat(At::Name(copy.root(), b"dir")), copy.stat(At::Dir(&dir)));
}

#[test]
fn a_layer_outlives_the_mount_it_was_opened_by() {
    if !is_root() {
        return;
    }
    let mut scratch = Scratch::new();
    let Some(path) = scratch.mount("m", "tmpfs", Path::new("none"), "size=1m") else { return };
    std::fs::create_dir_all(path.join("a/b")).unwrap();
    let cache = DirCache::new(1);
    let layer = DirLayer::open_lower_in(&path, &cache).unwrap();
    let b = layer.open_dir(&layer.open_dir(layer.root(), b"a").unwrap(), b"b").unwrap();
    assert!(Command::new("umount").arg(&path).status().unwrap().success());
    scratch.forget_mount(&path);
    assert_eq!(names(&layer, &layer.open_dir(layer.root(), b"a").unwrap()), Ok(vec![b"b".to_vec()]));
    assert_eq!(names(&layer, &b), Ok(vec![]));
}

#[test]
fn work_directories_have_to_suit() {
    let mut scratch = Scratch::new();
    let layer = upper(&scratch);
    make(&layer, layer.root(), b"in");
    let outer = scratch.path().to_path_buf();
    for bad in [outer.join("upper"), outer.join("upper/in"), outer.clone()] {
        assert_eq!(layer.open_workdir(&bad).map(drop), Err(Errno::INVAL), "{bad:?}");
    }
    assert_eq!(layer.open_workdir(&outer.join("none")).map(drop), Err(Errno::NOENT));
    std::fs::write(outer.join("plain"), b"").unwrap();
    assert_eq!(layer.open_workdir(&outer.join("plain")).map(drop), Err(Errno::NOTDIR));
    assert!(layer.open_workdir(&outer.join("workdir")).is_ok());
    if is_root() {
        // Another mount of the same filesystem will not do: renames do not cross it.
        let work = outer.join("workdir");
        let bound = scratch.dir("bound");
        let Some(_) = scratch.mount_at(&bound, "none", &work, "bind") else { return };
        assert_eq!(layer.open_workdir(&bound).map(drop), Err(Errno::INVAL));
        let Some(other) = scratch.mount("m", "tmpfs", Path::new("none"), "size=1m") else { return };
        assert_eq!(layer.open_workdir(&other).map(drop), Err(Errno::INVAL));
    }
}

#[test]
fn within_means_same_or_below() {
    let scratch = Scratch::new();
    let outer = scratch.dir("a");
    let inner = scratch.dir("a/b");
    let beside = scratch.dir("ab");
    let cases = [
        (&outer, &outer, true),
        (&inner, &outer, true),
        (&outer, &inner, false),
        (&beside, &outer, false),
        (&inner, &PathBuf::from("/"), true),
    ];
    for (inside, around, expected) in cases {
        assert_eq!(is_within(inside, around), Ok(expected), "{inside:?} in {around:?}");
    }
}

#[test]
fn layers_know_their_filesystem() {
    let mut scratch = Scratch::new();
    let layer = upper(&scratch);
    let same = DirLayer::open_lower(&lower_dir(&scratch)).unwrap();
    assert_eq!(same.filesystem(), layer.filesystem());
    let system = rustix::fs::statvfs(scratch.path()).unwrap();
    let stat = layer.statfs().unwrap();
    // The free space changes under us.
    let expected = StatFs {
        blocks: system.f_blocks,
        files: system.f_files,
        bsize: system.f_bsize as u32,
        frsize: system.f_frsize as u32,
        namelen: system.f_namemax as u32,
        ..stat
    };
    assert_eq!(stat, expected);
    assert!(stat.bavail <= stat.bfree && stat.bfree < stat.blocks && stat.ffree < stat.files);
    if !is_root() {
        return;
    }
    let tmpfs = scratch.mount("m", "tmpfs", Path::new("none"), "size=1m");
    let other = tmpfs.map(|path| DirLayer::open_lower(&path).unwrap().filesystem());
    assert_ne!(other, Some(layer.filesystem()));
    if let Some(btrfs) = scratch.image("btrfs", 128) {
        let subvolume = btrfs.join("subvolume");
        let made = Command::new("btrfs").args(["subvolume", "create"]).arg(&subvolume).output().unwrap();
        assert!(made.status.success());
        let [top, sub] = [&btrfs, &subvolume].map(|path| DirLayer::open_lower(path).unwrap());
        assert_eq!(top.filesystem(), sub.filesystem());
        let dev = |layer: &DirLayer| layer.stat(At::Dir(layer.root())).unwrap().dev;
        assert_ne!(dev(&top), dev(&sub));
        // A handle of one subvolume leads there from the other.
        let handle = sub.handle(At::Dir(sub.root())).unwrap().unwrap();
        assert_eq!(top.resolve(&handle), Ok(Some(sub.stat(At::Dir(sub.root())).unwrap())));
    }
}
