//! Names, attributes and extended attributes of all kinds of objects.

use super::{Scratch, each_filesystem, is_root, make, names, upper};
use crate::dir::{Dir, DirLayer, File};
use crate::{
    Access, At, Errno, Kind, Layer, Owner, RawEntry, Rdev, Rename, SetTime, SetXattr, Time, UpperLayer,
};
use std::os::unix::fs::MetadataExt;

const NO_DEVICE: Rdev = Rdev { major: 0, minor: 0 };

fn create(layer: &DirLayer, name: &[u8], mode: u32) -> File {
    layer.create(layer.root(), name, mode, Owner::Mounter).unwrap()
}

fn mode(layer: &DirLayer, name: &[u8]) -> u32 {
    layer.stat(At::Name(layer.root(), name)).unwrap().mode
}

/// One object of every kind that we may make, by name.
fn one_of_each(layer: &DirLayer) -> Vec<(&'static [u8], Kind)> {
    let root = layer.root();
    let mut made: Vec<(&[u8], Kind)> = vec![
        (b"file", Kind::File),
        (b"dir", Kind::Dir),
        (b"symlink", Kind::Symlink),
        (b"fifo", Kind::Fifo),
        (b"socket", Kind::Socket),
    ];
    create(layer, b"file", 0o640);
    make(layer, root, b"dir");
    layer.make_symlink(root, b"symlink", b"no/such\xff", Owner::Mounter).unwrap();
    for (name, kind) in [(&b"fifo"[..], Kind::Fifo), (b"socket", Kind::Socket)] {
        layer.make_node(root, name, kind, 0o620, NO_DEVICE, Owner::Mounter).unwrap();
    }
    if is_root() {
        for (name, kind) in [(&b"char"[..], Kind::CharDevice), (b"block", Kind::BlockDevice)] {
            layer
                .make_node(root, name, kind, 0o600, Rdev { major: 259, minor: 70000 }, Owner::Mounter)
                .unwrap();
            made.push((name, kind));
        }
        layer.make_node(root, b"whiteout", Kind::CharDevice, 0, NO_DEVICE, Owner::Mounter).unwrap();
        made.push((b"whiteout", Kind::CharDevice));
    }
    made.sort_by_key(|(name, _)| *name);
    made
}

#[test]
fn stat_and_list_tell_what_the_system_tells() {
    let scratch = Scratch::new();
    let layer = upper(&scratch);
    let made = one_of_each(&layer);
    let mut listed = Vec::new();
    layer
        .list(layer.root(), &mut |RawEntry { name, ino, kind }| listed.push((name.to_vec(), ino, kind)))
        .unwrap();
    listed.sort_by(|a, b| a.0.cmp(&b.0));
    let mut expected = Vec::new();
    for (name, kind) in made {
        let path = scratch.path().join("upper").join(std::str::from_utf8(name).unwrap());
        let system = path.symlink_metadata().unwrap();
        let stat = layer.stat(At::Name(layer.root(), name)).unwrap();
        let held = layer.hold(layer.root(), name).unwrap();
        assert_eq!(layer.stat(At::Open(&held)), Ok(stat.clone()));
        let btime = system.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        let same = crate::Stat {
            kind,
            mode: system.mode() & 0o7777,
            ino: system.ino(),
            dev: system.dev(),
            nlink: system.nlink() as u32,
            uid: system.uid(),
            gid: system.gid(),
            rdev: Rdev { major: rustix::fs::major(system.rdev()), minor: rustix::fs::minor(system.rdev()) },
            size: system.size(),
            blocks: system.blocks(),
            blksize: system.blksize() as u32,
            atime: Time { sec: system.atime(), nsec: system.atime_nsec() as u32 },
            mtime: Time { sec: system.mtime(), nsec: system.mtime_nsec() as u32 },
            ctime: Time { sec: system.ctime(), nsec: system.ctime_nsec() as u32 },
            btime: Some(Time { sec: btime.as_secs() as i64, nsec: btime.subsec_nanos() }),
            immutable: false,
            append_only: false,
        };
        assert_eq!(stat, same);
        expected.push((name.to_vec(), system.ino(), Some(kind)));
    }
    assert_eq!(listed, expected);
    if is_root() {
        assert_eq!(
            layer.stat(At::Name(layer.root(), b"char")).unwrap().rdev,
            Rdev { major: 259, minor: 70000 }
        );
    }
    assert_eq!(layer.read_link(At::Name(layer.root(), b"symlink")), Ok(b"no/such\xff".to_vec()));
    let held = layer.hold(layer.root(), b"symlink").unwrap();
    assert_eq!(layer.read_link(At::Open(&held)), Ok(b"no/such\xff".to_vec()));
    assert_eq!(layer.read_link(At::Name(layer.root(), b"file")), Err(Errno::INVAL));
}

#[test]
fn names_are_bytes() {
    each_filesystem(|layer| {
        let root = layer.root();
        let long = [b'n'; 255];
        let odd: [&[u8]; 8] =
            [b"\xff\xfe", b"new\nline", b" ", b"-rf", b"...", b"\x01\x7f", b"\xc3\xa9", &long];
        for name in odd {
            create(layer, name, 0o644);
            layer.set_xattr(At::Name(root, name), b"user.a", b"1", SetXattr::Any).unwrap();
            assert_eq!(layer.get_xattr(At::Name(root, name), b"user.a"), Ok(Some(b"1".to_vec())));
        }
        let mut sorted: Vec<_> = odd.iter().map(|name| name.to_vec()).collect();
        sorted.sort();
        assert_eq!(names(layer, root), Ok(sorted));
        let dir = make(layer, root, b"d\xff\n");
        for name in odd {
            layer.rename((root, name), (&dir, name), Rename::NoReplace).unwrap();
            layer.link(At::Name(&dir, name), root, name).unwrap();
            layer.unlink(&dir, name).unwrap();
            layer.unlink(root, name).unwrap();
        }
        layer.rmdir(root, b"d\xff\n").unwrap();
        assert_eq!(names(layer, root), Ok(vec![]));
        let longer = [b'n'; 256];
        assert_eq!(layer.stat(At::Name(root, &longer)), Err(Errno::NAMETOOLONG));
    });
}

#[test]
fn no_name_leads_out() {
    let scratch = Scratch::new();
    let layer = upper(&scratch);
    let root = layer.root();
    let dir = make(&layer, root, b"dir");
    for bad in [&b""[..], b".", b"..", b"/", b"../upper", b"dir/", b"/etc", b"a\0b"] {
        assert_eq!(layer.stat(At::Name(&dir, bad)), Err(Errno::INVAL));
        assert_eq!(layer.open_dir(&dir, bad).map(drop), Err(Errno::INVAL));
        assert_eq!(layer.hold(&dir, bad).map(drop), Err(Errno::INVAL));
        assert_eq!(layer.create(&dir, bad, 0o600, Owner::Mounter).map(drop), Err(Errno::INVAL));
        assert_eq!(layer.make_dir(&dir, bad, 0o700, Owner::Mounter), Err(Errno::INVAL));
        assert_eq!(layer.rename((&dir, bad), (root, b"x"), Rename::Replace), Err(Errno::INVAL));
        assert_eq!(layer.rename((root, b"dir"), (root, bad), Rename::Replace), Err(Errno::INVAL));
        assert_eq!(layer.link(At::Name(root, b"dir"), &dir, bad), Err(Errno::INVAL));
        assert_eq!(layer.unlink(&dir, bad), Err(Errno::INVAL));
        assert_eq!(layer.rmdir(&dir, bad), Err(Errno::INVAL));
        assert_eq!(layer.get_xattr(At::Name(&dir, bad), b"user.a"), Err(Errno::INVAL));
    }
    layer.make_symlink(root, b"out", b"..", Owner::Mounter).unwrap();
    assert_eq!(layer.open_dir(root, b"out").map(drop), Err(Errno::NOTDIR));
    create(&layer, b"file", 0o600);
    assert_eq!(layer.open_dir(root, b"file").map(drop), Err(Errno::NOTDIR));
    assert_eq!(layer.open_dir(root, b"none").map(drop), Err(Errno::NOENT));
}

#[test]
fn what_is_no_file_does_not_open() {
    let scratch = Scratch::new();
    let layer = upper(&scratch);
    for (name, kind) in one_of_each(&layer) {
        let expected = match kind {
            Kind::File => Ok(()),
            Kind::Dir => Err(Errno::ISDIR),
            Kind::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::NXIO),
        };
        let result = layer.open_file(At::Name(layer.root(), name), Access::Read).map(drop);
        // Without a driver a block device says so in its own way.
        if kind != Kind::BlockDevice && kind != Kind::CharDevice {
            assert_eq!(result, expected, "{kind:?}");
            let held = layer.hold(layer.root(), name).unwrap();
            assert_eq!(layer.open_file(At::Open(&held), Access::Read).map(drop), expected, "{kind:?}");
        } else {
            assert!(result.is_err());
        }
    }
}

#[test]
fn modes_are_exact() {
    each_filesystem(|layer| {
        let root = layer.root();
        for bits in [0, 0o7, 0o644, 0o777, 0o1777, 0o2755, 0o4711, 0o7777] {
            drop(create(layer, b"file", bits));
            layer.make_dir(root, b"dir", bits, Owner::Mounter).unwrap();
            layer.make_node(root, b"fifo", Kind::Fifo, bits, NO_DEVICE, Owner::Mounter).unwrap();
            layer.make_node(root, b"node", Kind::File, bits, NO_DEVICE, Owner::Mounter).unwrap();
            for name in [&b"file"[..], b"dir", b"fifo", b"node"] {
                assert_eq!(mode(layer, name), bits, "{name:?}");
            }
            layer.rmdir(root, b"dir").unwrap();
            for name in [&b"file"[..], b"fifo", b"node"] {
                layer.unlink(root, name).unwrap();
            }
            match layer.create_unnamed(root, bits, Owner::Mounter) {
                Ok(file) => assert_eq!(layer.stat(At::Open(&file)).unwrap().mode, bits),
                Err(error) => assert_eq!(error, Errno::OPNOTSUPP),
            }
        }
        layer.make_dir(root, b"shared", 0o2775, Owner::Mounter).unwrap();
        let shared = layer.open_dir(root, b"shared").unwrap();
        layer.make_dir(&shared, b"sub", 0o755, Owner::Mounter).unwrap();
        assert_eq!(layer.stat(At::Name(&shared, b"sub")).unwrap().mode, 0o2755);
        let invalid = [Kind::Dir, Kind::Symlink]
            .map(|kind| layer.make_node(root, b"bad", kind, 0o600, NO_DEVICE, Owner::Mounter));
        assert_eq!(invalid, [Err(Errno::INVAL); 2]);
        create(layer, b"there", 0o600);
        assert_eq!(layer.create(root, b"there", 0o600, Owner::Mounter).map(drop), Err(Errno::EXIST));
        assert_eq!(layer.make_dir(root, b"there", 0o4755, Owner::Mounter), Err(Errno::EXIST));
    });
}

#[test]
fn modes_can_be_set() {
    let scratch = Scratch::new();
    let layer = upper(&scratch);
    for (name, kind) in one_of_each(&layer) {
        let held = layer.hold(layer.root(), name).unwrap();
        for (at, bits) in [(At::Name(layer.root(), name), 0o4751), (At::Open(&held), 0o1204)] {
            if kind == Kind::Symlink {
                assert_eq!(layer.set_mode(at, bits), Err(Errno::OPNOTSUPP));
            } else {
                layer.set_mode(at, bits).unwrap();
                assert_eq!(mode(&layer, name), bits);
            }
        }
    }
    layer.set_mode(At::Dir(layer.root()), 0o710).unwrap();
    assert_eq!(layer.stat(At::Dir(layer.root())).unwrap().mode, 0o710);
}

fn ids_of(layer: &DirLayer, at: At<'_, DirLayer>) -> (u32, u32) {
    layer.stat(at).map(|stat| (stat.uid, stat.gid)).unwrap()
}

#[test]
fn owners_are_those_asked_for() {
    if !is_root() {
        return;
    }
    each_filesystem(|layer| {
        let root = layer.root();
        let owner = Owner::User { uid: 1234, gid: 5678 };
        // The user may not write here, but the permission is the mounter's.
        layer.set_mode(At::Dir(root), 0o700).unwrap();
        layer.create(root, b"file", 0o600, owner).unwrap();
        layer.make_dir(root, b"dir", 0o2711, owner).unwrap();
        layer.make_node(root, b"fifo", Kind::Fifo, 0o600, NO_DEVICE, owner).unwrap();
        layer.make_node(root, b"char", Kind::CharDevice, 0o600, Rdev { major: 1, minor: 3 }, owner).unwrap();
        layer.make_symlink(root, b"symlink", b"x", owner).unwrap();
        layer.create(root, b"own", 0o600, Owner::Mounter).unwrap();
        layer.create(root, b"own2", 0o600, Owner::User { uid: 0, gid: 0 }).unwrap();
        for name in [&b"file"[..], b"dir", b"fifo", b"char", b"symlink"] {
            assert_eq!(ids_of(layer, At::Name(root, name)), (1234, 5678), "{name:?}");
        }
        assert_eq!(mode(layer, b"dir"), 0o2711);
        assert_eq!([&b"own"[..], b"own2"].map(|name| ids_of(layer, At::Name(root, name))), [(0, 0); 2]);
        // A set-group-id directory passes its group on.
        let dir = layer.open_dir(root, b"dir").unwrap();
        layer.create(&dir, b"inherits", 0o600, Owner::User { uid: 7, gid: 8 }).unwrap();
        assert_eq!(ids_of(layer, At::Name(&dir, b"inherits")), (7, 5678));
        if let Ok(unnamed) = layer.create_unnamed(root, 0o600, owner) {
            assert_eq!(ids_of(layer, At::Open(&unnamed)), (1234, 5678));
        }
        // Setting them, a half at a time and of a symlink itself.
        layer.set_owner(At::Name(root, b"symlink"), Some(1), None).unwrap();
        layer.set_owner(At::Dir(&dir), None, Some(2)).unwrap();
        let held = layer.hold(root, b"fifo").unwrap();
        layer.set_owner(At::Open(&held), Some(3), Some(4)).unwrap();
        assert_eq!(
            [At::Name(root, b"symlink"), At::Dir(&dir), At::Open(&held)].map(|at| ids_of(layer, at)),
            [(1, 5678), (1234, 2), (3, 4)]
        );
        assert_eq!(layer.set_owner(At::Dir(&dir), Some(u32::MAX), None), Err(Errno::INVAL));
    });
}

#[test]
fn the_owner_of_one_thread_is_not_that_of_another() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let layer = upper(&scratch);
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let layer = &layer;
            scope.spawn(move || {
                for round in 0..50 {
                    let name = format!("{thread}-{round}").into_bytes();
                    let uid = 1000 * thread + round;
                    layer.create(layer.root(), &name, 0o600, Owner::User { uid, gid: uid + 1 }).unwrap();
                    let stat = layer.stat(At::Name(layer.root(), &name)).unwrap();
                    assert_eq!((stat.uid, stat.gid), (uid, uid + 1));
                }
            });
        }
    });
}

#[test]
fn times_can_be_set() {
    each_filesystem(|layer| {
        let root = layer.root();
        let file = create(layer, b"file", 0o600);
        layer.make_symlink(root, b"symlink", b"file", Owner::Mounter).unwrap();
        let held = layer.hold(root, b"file").unwrap();
        let time = |sec, nsec| Time { sec, nsec };
        let set = |sec, nsec| SetTime::To(time(sec, nsec));
        let times = |at| layer.stat(at).map(|stat| (stat.atime, stat.mtime)).unwrap();
        for at in [
            At::Name(root, b"file"),
            At::Name(root, b"symlink"),
            At::Open(&held),
            At::Open(&file),
            At::Dir(root),
        ] {
            layer.set_times(at, set(-5, 999_999_999), set(2_000_000_000, 1)).unwrap();
            assert_eq!(times(at), (time(-5, 999_999_999), time(2_000_000_000, 1)));
            layer.set_times(at, SetTime::Keep, set(7, 0)).unwrap();
            assert_eq!(times(at), (time(-5, 999_999_999), time(7, 0)));
            layer.set_times(at, SetTime::Now, SetTime::Keep).unwrap();
            let (atime, mtime) = times(at);
            assert!(atime.sec > 1_700_000_000 && mtime == time(7, 0));
        }
    });
}

#[test]
fn xattrs_of_every_kind_of_object() {
    each_filesystem(|layer| {
        // user.* is for files and directories only (xattr(7)).
        let prefix = if is_root() { "trusted" } else { "user" };
        let name = |suffix: &str| format!("{prefix}.{suffix}").into_bytes();
        for (entry, kind) in one_of_each(layer) {
            let root = layer.root();
            let held = layer.hold(root, entry).unwrap();
            let ats = [At::Name(root, entry), At::Open(&held)];
            if prefix == "user" && !matches!(kind, Kind::File | Kind::Dir) {
                assert_eq!(layer.set_xattr(ats[0], b"user.a", b"", SetXattr::Any), Err(Errno::PERM));
                continue;
            }
            for (way, at) in ats.into_iter().enumerate() {
                check_xattrs(layer, at, &name(&format!("way{way}")));
            }
        }
        let dir = layer.open_dir(layer.root(), b"dir").unwrap();
        let file = layer.open_file(At::Name(layer.root(), b"file"), Access::Read).unwrap();
        check_xattrs(layer, At::Dir(&dir), &name("dir"));
        check_xattrs(layer, At::Open(&file), &name("file"));
        // Also where we may not pass through the directory.
        layer.set_mode(At::Dir(&dir), 0o600).unwrap();
        check_xattrs(layer, At::Dir(&dir), &name("closed"));
        let cases = [&b"nonsense"[..], b"", b"none.such", b"user."];
        for bad in cases {
            assert!(layer.get_xattr(At::Dir(&dir), bad).is_err(), "{bad:?}");
        }
        assert_eq!(layer.get_xattr(At::Name(layer.root(), b"none"), b"user.a"), Err(Errno::NOENT));
        assert_eq!(layer.get_xattr(At::Dir(&dir), b"user.\0"), Err(Errno::INVAL));
    });
}

fn check_xattrs(layer: &DirLayer, at: At<'_, DirLayer>, name: &[u8]) {
    assert_eq!(layer.get_xattr(at, name), Ok(None));
    assert_eq!(layer.remove_xattr(at, name), Err(Errno::NODATA));
    assert_eq!(layer.set_xattr(at, name, b"", SetXattr::Replace), Err(Errno::NODATA));
    for length in [0, 1, 255, 256, 257, 2000] {
        let value: Vec<u8> = (0..length).map(|i| (i * 7 % 256) as u8).collect();
        layer.set_xattr(at, name, &value, SetXattr::Any).unwrap();
        assert_eq!(layer.get_xattr(at, name), Ok(Some(value)), "{length}");
    }
    assert_eq!(layer.set_xattr(at, name, b"", SetXattr::Create), Err(Errno::EXIST));
    layer.set_xattr(at, name, b"last", SetXattr::Replace).unwrap();
    let second = [name, b"\xff2"].concat();
    layer.set_xattr(at, &second, b"", SetXattr::Create).unwrap();
    let mut listed = layer.list_xattrs(at).unwrap();
    listed.retain(|other| other.starts_with(name));
    listed.sort();
    assert_eq!(listed, [name.to_vec(), second.clone()]);
    layer.remove_xattr(at, &second).unwrap();
    layer.remove_xattr(at, name).unwrap();
    assert!(!layer.list_xattrs(at).unwrap().contains(&name.to_vec()));
}

#[test]
fn long_lists_of_xattrs_are_whole() {
    let scratch = Scratch::new();
    let layer = upper(&scratch);
    create(&layer, b"file", 0o600);
    let at = At::Name(layer.root(), b"file");
    let mut expected: Vec<Vec<u8>> =
        (0..60).map(|i| format!("user.some-attribute-{i:02}").into_bytes()).collect();
    for name in &expected {
        layer.set_xattr(at, name, b"", SetXattr::Any).unwrap();
    }
    let mut listed = layer.list_xattrs(at).unwrap();
    listed.retain(|name| name.starts_with(b"user."));
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}

#[test]
fn large_directories_are_listed_whole() {
    let scratch = Scratch::new();
    let layer = upper(&scratch);
    let name = |i: usize| [format!("{i:04}").as_bytes(), &vec![b'x'; i % 250]].concat();
    for i in 0..3000 {
        create(&layer, &name(i), 0o600);
    }
    assert_eq!(names(&layer, layer.root()), Ok((0..3000).map(name).collect()));
}

#[test]
fn links_to_named_held_and_unnamed_objects() {
    each_filesystem(|layer| {
        let root = layer.root();
        for (name, kind) in one_of_each(layer) {
            let held = layer.hold(root, name).unwrap();
            if kind == Kind::Dir {
                assert_eq!(layer.link(At::Name(root, name), root, b"link"), Err(Errno::PERM));
                assert_eq!(layer.link(At::Dir(root), root, b"link"), Err(Errno::PERM));
                continue;
            }
            let ino = layer.stat(At::Open(&held)).unwrap().ino;
            layer.link(At::Name(root, name), root, b"link").unwrap();
            layer.link(At::Open(&held), root, b"link2").unwrap();
            for link in [&b"link"[..], b"link2"] {
                let stat = layer.stat(At::Name(root, link)).unwrap();
                assert_eq!((stat.ino, stat.kind, stat.nlink), (ino, kind, 3));
            }
            assert_eq!(layer.link(At::Open(&held), root, b"link"), Err(Errno::EXIST));
            layer.unlink(root, b"link").unwrap();
            layer.unlink(root, b"link2").unwrap();
        }
        let unnamed = layer.create_unnamed(layer.work(), 0o640, Owner::Mounter).unwrap();
        layer.write_at(&unnamed, b"content", 0).unwrap();
        layer.link(At::Open(&unnamed), root, b"named").unwrap();
        let file = layer.open_file(At::Name(root, b"named"), Access::Read).unwrap();
        let mut content = [0; 16];
        let count = layer.read_at(&file, &mut content, 0).unwrap();
        assert_eq!(&content[..count], b"content");
        assert_eq!(mode(layer, b"named"), 0o640);
    });
}

#[test]
fn held_objects_outlive_their_names() {
    each_filesystem(|layer| {
        let root = layer.root();
        for (name, kind) in one_of_each(layer).into_iter().filter(|(_, kind)| *kind != Kind::Dir) {
            let held = layer.hold(root, name).unwrap();
            let before = layer.stat(At::Open(&held)).unwrap();
            layer.unlink(root, name).unwrap();
            let after = layer.stat(At::Open(&held)).unwrap();
            assert_eq!((after.ino, after.kind, after.nlink), (before.ino, kind, 0));
            layer.set_times(At::Open(&held), SetTime::To(Time { sec: 1, nsec: 2 }), SetTime::Keep).unwrap();
            assert_eq!(layer.stat(At::Open(&held)).unwrap().atime, Time { sec: 1, nsec: 2 });
            if kind == Kind::File {
                let file = layer.open_file(At::Open(&held), Access::ReadWrite).unwrap();
                layer.write_at(&file, b"x", 0).unwrap();
                layer.set_len(At::Open(&held), 5).unwrap();
                assert_eq!(layer.stat(At::Open(&held)).unwrap().size, 5);
            }
        }
    });
}

#[test]
fn renames_of_files_and_whiteouts() {
    if !is_root() {
        return;
    }
    each_filesystem(|layer| {
        let root = layer.root();
        let ino = |name: &[u8]| layer.stat(At::Name(root, name)).map(|stat| stat.ino);
        create(layer, b"a", 0o600);
        create(layer, b"b", 0o600);
        let (a, b) = (ino(b"a").unwrap(), ino(b"b").unwrap());
        assert_eq!(layer.rename((root, b"a"), (root, b"b"), Rename::NoReplace), Err(Errno::EXIST));
        layer.rename((root, b"a"), (root, b"b"), Rename::Exchange).unwrap();
        assert_eq!((ino(b"a"), ino(b"b")), (Ok(b), Ok(a)));
        layer.rename((root, b"a"), (root, b"c"), Rename::Whiteout).unwrap();
        let left = layer.stat(At::Name(root, b"a")).unwrap();
        assert_eq!((left.kind, left.rdev, ino(b"c")), (Kind::CharDevice, NO_DEVICE, Ok(b)));
        layer.rename((root, b"b"), (root, b"c"), Rename::Replace).unwrap();
        assert_eq!((ino(b"b"), ino(b"c")), (Err(Errno::NOENT), Ok(a)));
        let dir = make(layer, root, b"dir");
        layer.rename((root, b"dir"), (layer.work(), b"#2"), Rename::Whiteout).unwrap();
        assert_eq!(layer.stat(At::Name(root, b"dir")).unwrap().kind, Kind::CharDevice);
        create_in(layer, &dir, b"x");
        assert_eq!(names(layer, &layer.open_dir(layer.work(), b"#2").unwrap()), Ok(vec![b"x".to_vec()]));
    });
}

fn create_in(layer: &DirLayer, dir: &Dir, name: &[u8]) {
    layer.create(dir, name, 0o600, Owner::Mounter).unwrap();
}

#[test]
fn inode_flags_of_files_and_directories() {
    const IMMUTABLE: u32 = 0x10;
    const APPEND: u32 = 0x20;
    const NODUMP: u32 = 0x40;
    if !is_root() {
        return;
    }
    let mut scratch = Scratch::new();
    let Some(ext4) = scratch.image("ext4", 64) else { return };
    let layer = super::upper_at(&ext4, &crate::dir::DirCache::common());
    for (name, kind) in one_of_each(&layer) {
        let at = At::Name(layer.root(), name);
        if !matches!(kind, Kind::File | Kind::Dir) {
            assert_eq!(layer.inode_flags(at), Err(Errno::NOTTY));
            assert_eq!(layer.set_inode_flags(at, NODUMP), Err(Errno::NOTTY));
            continue;
        }
        let before = layer.inode_flags(at).unwrap();
        layer.set_inode_flags(at, before | NODUMP | IMMUTABLE).unwrap();
        assert_eq!(layer.inode_flags(at), Ok(before | NODUMP | IMMUTABLE));
        let stat = layer.stat(at).unwrap();
        assert_eq!((stat.immutable, stat.append_only), (true, false));
        assert_eq!(layer.set_mode(at, 0), Err(Errno::PERM));
        layer.set_inode_flags(at, before | APPEND).unwrap();
        let stat = layer.stat(at).unwrap();
        assert_eq!((stat.immutable, stat.append_only), (false, true));
        layer.set_inode_flags(at, before).unwrap();
        assert_eq!(layer.inode_flags(at), Ok(before));
    }
    let dir = layer.open_dir(layer.root(), b"dir").unwrap();
    assert_eq!(layer.inode_flags(At::Dir(&dir)), layer.inode_flags(At::Name(layer.root(), b"dir")));
}

#[test]
fn handles_lead_back_while_the_object_exists() {
    each_filesystem(|layer| {
        let root = layer.root();
        for (name, _) in one_of_each(layer) {
            let handle = layer.handle(At::Name(root, name)).unwrap().expect("the filesystem has handles");
            let held = layer.hold(root, name).unwrap();
            assert_eq!(layer.handle(At::Open(&held)), Ok(Some(handle.clone())));
            drop(held);
            let stat = layer.stat(At::Name(root, name)).unwrap();
            let found = layer.resolve(&handle).unwrap();
            if is_root() {
                assert_eq!(found, Some(stat.clone()));
            }
            let mut foreign = handle.clone();
            foreign.uuid[3] ^= 1;
            assert_eq!(layer.resolve(&foreign), Ok(None));
            let mut broken = handle.clone();
            broken.bytes.truncate(2);
            assert_eq!(layer.resolve(&broken), Ok(None));
            if stat.kind == Kind::Dir { layer.rmdir(root, name) } else { layer.unlink(root, name) }.unwrap();
            assert_eq!(layer.resolve(&handle), Ok(None));
        }
        let root_handle = layer.handle(At::Dir(root)).unwrap().unwrap();
        if is_root() {
            assert_eq!(layer.resolve(&root_handle), Ok(Some(layer.stat(At::Dir(root)).unwrap())));
        }
    });
}

#[test]
fn handles_have_the_length_the_kernel_overlay_stores() {
    if !is_root() {
        return;
    }
    let mut scratch = Scratch::new();
    let tmpfs = scratch.mount("tmpfs-mount", "tmpfs", std::path::Path::new("none"), "size=8m");
    // (type, length): what the kernel's overlay filesystem writes for a file of each filesystem.
    let cases = [
        (tmpfs, (0x01, 12)),
        (scratch.image("ext4", 64), (0x01, 8)),
        (scratch.image("xfs", 320), (0x81, 12)),
        (scratch.image("btrfs", 128), (0x4d, 20)),
    ];
    for (path, expected) in cases {
        let Some(path) = path else { continue };
        let layer = super::upper_at(&path, &crate::dir::DirCache::common());
        create(&layer, b"file", 0o600);
        let handle = layer.handle(At::Name(layer.root(), b"file")).unwrap().unwrap();
        assert_eq!((handle.kind, handle.bytes.len()), expected, "{path:?}");
        assert_ne!(handle.uuid, [0; 16], "{path:?}");
    }
}

#[test]
fn sync_works_on_what_can_be_synced() {
    each_filesystem(|layer| {
        for (name, kind) in one_of_each(layer) {
            let held = layer.hold(layer.root(), name).unwrap();
            let expected = if matches!(kind, Kind::File | Kind::Dir) { Ok(()) } else { Err(Errno::INVAL) };
            for at in [At::Name(layer.root(), name), At::Open(&held)] {
                assert_eq!([true, false].map(|data_only| layer.sync(at, data_only)), [expected; 2]);
            }
        }
        let file = layer.open_file(At::Name(layer.root(), b"file"), Access::Read).unwrap();
        assert_eq!(layer.sync(At::Open(&file), true), Ok(()));
        assert_eq!(layer.sync(At::Dir(layer.root()), false), Ok(()));
        assert_eq!(layer.sync_fs(), Ok(()));
    });
}
