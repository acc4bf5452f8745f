//! Directory handles: renames, removal, eviction.

use super::{Scratch, make, names, upper, upper_at};
use crate::dir::{Dir, DirCache, DirLayer};
use crate::{At, Errno, Layer, Owner, Rename, UpperLayer};

fn ino(layer: &DirLayer, dir: &Dir) -> Result<u64, Errno> {
    layer.stat(At::Dir(dir)).map(|stat| stat.ino)
}

fn put(layer: &DirLayer, dir: &Dir, name: &[u8]) -> Result<(), Errno> {
    layer.create(dir, name, 0o644, Owner::Mounter).map(drop)
}

/// Runs with plenty of descriptors and with one, where nearly every use opens directories again.
fn each_cache(test: impl Fn(&DirLayer)) {
    for limit in [1, 2, 1000] {
        let scratch = Scratch::new();
        test(&upper_at(scratch.path(), &DirCache::new(limit)));
    }
}

#[test]
fn handles_follow_renames() {
    each_cache(|layer| {
        let root = layer.root();
        let (a, b) = (make(layer, root, b"a"), make(layer, root, b"b"));
        let below = make(layer, &a, b"x");
        let deepest = make(layer, &below, b"y");
        let inos = [&a, &b, &below, &deepest].map(|dir| ino(layer, dir).unwrap());
        // Within a directory, to another one, and to the staging directory and back.
        layer.rename((root, b"a"), (root, b"a2"), Rename::Replace).unwrap();
        layer.rename((&a, b"x"), (&b, b"x2"), Rename::NoReplace).unwrap();
        layer.rename((root, b"b"), (layer.work(), b"#1"), Rename::Replace).unwrap();
        assert_eq!([&a, &b, &below, &deepest].map(|dir| ino(layer, dir).unwrap()), inos);
        layer.rename((layer.work(), b"#1"), (root, b"b"), Rename::Replace).unwrap();
        assert_eq!([&a, &b, &below, &deepest].map(|dir| ino(layer, dir).unwrap()), inos);
        put(layer, &deepest, b"file").unwrap();
        let again =
            layer.open_dir(&layer.open_dir(&layer.open_dir(root, b"b").unwrap(), b"x2").unwrap(), b"y");
        assert_eq!(names(layer, &again.unwrap()), Ok(vec![b"file".to_vec()]));
        assert_eq!(names(layer, &a), Ok(vec![]));
    });
}

#[test]
fn both_follow_an_exchange() {
    each_cache(|layer| {
        let root = layer.root();
        let (a, b) = (make(layer, root, b"a"), make(layer, root, b"b"));
        let inner = make(layer, &b, b"inner");
        let inos = [&a, &b, &inner].map(|dir| ino(layer, dir).unwrap());
        layer.rename((root, b"a"), (&b, b"inner"), Rename::Exchange).unwrap();
        assert_eq!([&a, &b, &inner].map(|dir| ino(layer, dir).unwrap()), inos);
        assert_eq!(ino(layer, &layer.open_dir(root, b"a").unwrap()), Ok(inos[2]));
        assert_eq!(ino(layer, &layer.open_dir(&b, b"inner").unwrap()), Ok(inos[0]));
        // With something that is no directory.
        put(layer, root, b"file").unwrap();
        layer.rename((root, b"file"), (root, b"a"), Rename::Exchange).unwrap();
        assert_eq!(ino(layer, &inner), Ok(inos[2]));
        assert_eq!(ino(layer, &layer.open_dir(root, b"file").unwrap()), Ok(inos[2]));
        assert_eq!(layer.open_dir(root, b"a").map(drop), Err(Errno::NOTDIR));
    });
}

#[test]
fn a_failed_rename_changes_no_handle() {
    each_cache(|layer| {
        let root = layer.root();
        let (a, b) = (make(layer, root, b"a"), make(layer, root, b"b"));
        make(layer, &b, b"full");
        let inos = [&a, &b].map(|dir| ino(layer, dir).unwrap());
        let cases = [
            (layer.rename((root, b"a"), (root, b"b"), Rename::Replace), Errno::NOTEMPTY),
            (layer.rename((root, b"a"), (root, b"b"), Rename::NoReplace), Errno::EXIST),
            (layer.rename((root, b"a"), (root, b"c"), Rename::Exchange), Errno::NOENT),
            (layer.rename((root, b"a"), (&a, b"c"), Rename::Replace), Errno::INVAL),
            (layer.rename((root, b"b"), (&b, b"full"), Rename::Exchange), Errno::INVAL),
            (layer.rmdir(root, b"b"), Errno::NOTEMPTY),
            (layer.rmdir(root, b"c"), Errno::NOENT),
        ];
        for (result, errno) in cases {
            assert_eq!(result, Err(errno));
        }
        layer.rename((root, b"a"), (root, b"a"), Rename::Replace).unwrap();
        assert_eq!([&a, &b].map(|dir| ino(layer, dir).unwrap()), inos);
        assert_eq!(names(layer, root), Ok(vec![b"a".to_vec(), b"b".to_vec()]));
    });
}

#[test]
fn a_removed_directory_stays_usable() {
    each_cache(|layer| {
        let root = layer.root();
        let (removed, replaced) = (make(layer, root, b"removed"), make(layer, root, b"replaced"));
        let new = make(layer, root, b"new");
        let inos = [&removed, &replaced, &new].map(|dir| ino(layer, dir).unwrap());
        layer.rmdir(root, b"removed").unwrap();
        layer.rename((root, b"new"), (root, b"replaced"), Rename::Replace).unwrap();
        // Others would push their descriptors out if they could.
        for name in [b"p", b"q", b"r"] {
            make(layer, root, name);
        }
        for gone in [&removed, &replaced] {
            assert_eq!(layer.stat(At::Dir(gone)).unwrap().nlink, 0);
            // What the kernel says of a removed directory.
            assert_eq!(names(layer, gone), Err(Errno::NOENT));
            assert_eq!(put(layer, gone, b"file"), Err(Errno::NOENT));
            layer.set_mode(At::Dir(gone), 0o711).unwrap();
            assert_eq!(layer.stat(At::Dir(gone)).unwrap().mode, 0o711);
        }
        assert_eq!([&removed, &replaced, &new].map(|dir| ino(layer, dir).unwrap()), inos);
        assert_eq!(ino(layer, &layer.open_dir(root, b"replaced").unwrap()), Ok(inos[2]));
        // A new directory of the same name is another one.
        let other = make(layer, root, b"removed");
        put(layer, &other, b"file").unwrap();
        assert_eq!(names(layer, &removed), Err(Errno::NOENT));
        assert_eq!(names(layer, &other), Ok(vec![b"file".to_vec()]));
    });
}

#[test]
fn what_others_take_away_is_stale() {
    let scratch = Scratch::new();
    let layer = upper_at(scratch.path(), &DirCache::new(1));
    let root = layer.root();
    let (moved, gone, swapped) =
        (make(&layer, root, b"moved"), make(&layer, root, b"gone"), make(&layer, root, b"sw"));
    let last = make(&layer, root, b"last");
    let path = |name: &str| scratch.path().join("upper").join(name);
    std::fs::rename(path("moved"), path("elsewhere")).unwrap();
    std::fs::remove_dir(path("gone")).unwrap();
    std::fs::rename(path("sw"), path("sw2")).unwrap();
    std::os::unix::fs::symlink("last", path("sw")).unwrap();
    for dir in [&moved, &gone, &swapped] {
        assert_eq!(ino(&layer, dir), Err(Errno::STALE));
    }
    assert!(ino(&layer, &last).is_ok());
    // The new one at an old name is a handle of its own.
    std::fs::create_dir(path("gone")).unwrap();
    let new = layer.open_dir(root, b"gone").unwrap();
    assert!(ino(&layer, &new).is_ok());
    drop((gone, moved));
    assert!(ino(&layer, &layer.open_dir(root, b"gone").unwrap()).is_ok());
}

#[test]
fn descriptors_stay_below_the_limit() {
    let scratch = Scratch::new();
    let layer = upper_at(scratch.path(), &DirCache::new(10));
    let below_here = |path: &std::path::Path| {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| target.starts_with(path))
            .count()
    };
    let dirs: Vec<Dir> = (0..100).map(|i| make(&layer, layer.root(), format!("d{i}").as_bytes())).collect();
    for (i, dir) in dirs.iter().enumerate() {
        put(&layer, dir, format!("f{i}").as_bytes()).unwrap();
    }
    // The roots of the layer and of the work directory come on top.
    assert_eq!(below_here(scratch.path()), 10 + 2);
    for (i, dir) in dirs.iter().enumerate() {
        assert_eq!(names(&layer, dir), Ok(vec![format!("f{i}").into_bytes()]));
    }
    drop(dirs);
    drop(layer);
    assert_eq!(below_here(scratch.path()), 0);
}

#[test]
fn deep_directories_open_and_end_without_deep_recursion() {
    let scratch = Scratch::new();
    let layer = upper_at(scratch.path(), &DirCache::new(4));
    // In a thread of small stack: a recursion a level would not fit.
    let depth = 5000;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn_scoped(scope, || {
                let mut dir = layer.root().clone();
                let mut top = None;
                for _ in 0..depth {
                    dir = make(&layer, &dir, b"d");
                    top.get_or_insert_with(|| dir.clone());
                }
                put(&layer, &dir, b"file").unwrap();
                // Uses elsewhere push all but the deepest out.
                for name in [b"1", b"2", b"3", b"4", b"5"] {
                    make(&layer, layer.root(), name);
                }
                layer.rename((layer.root(), b"d"), (layer.root(), b"e"), Rename::Replace).unwrap();
                assert_eq!(names(&layer, &dir), Ok(vec![b"file".to_vec()]));
                drop(dir);
                assert_eq!(names(&layer, &top.unwrap()), Ok(vec![b"d".to_vec()]));
            })
            .unwrap()
            .join()
            .unwrap();
    });
}

#[test]
fn renames_and_opens_from_many_threads_agree() {
    let scratch = Scratch::new();
    let layer = upper_at(scratch.path(), &DirCache::new(2));
    let root = layer.root();
    let homes = [make(&layer, root, b"h0"), make(&layer, root, b"h1")];
    let moving = make(&layer, &homes[0], b"m");
    let leaf = make(&layer, &moving, b"leaf");
    let expected = [&moving, &leaf].map(|dir| ino(&layer, dir).unwrap());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (layer, homes, moving, leaf, done) = (&layer, &homes, &moving, &leaf, &done);
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!([moving, leaf].map(|dir| ino(layer, dir).unwrap()), expected);
                    match layer.open_dir(&homes[thread % 2], b"m") {
                        Ok(found) => assert_eq!(ino(layer, &found), Ok(expected[0])),
                        Err(error) => assert_eq!(error, Errno::NOENT),
                    }
                }
            });
        }
        for round in 0..2000 {
            let (from, to) = (&homes[round % 2], &homes[(round + 1) % 2]);
            layer.rename((from, b"m"), (to, b"m"), Rename::NoReplace).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn an_unset_staging_directory_is_stale() {
    let scratch = Scratch::new();
    let layer = DirLayer::open_upper(&scratch.dir("upper")).unwrap();
    assert_eq!(put(&layer, layer.work(), b"x"), Err(Errno::STALE));
    drop(layer);
    assert_eq!(ino(&upper(&Scratch::new()), &Dir::nothing()), Err(Errno::STALE));
}
