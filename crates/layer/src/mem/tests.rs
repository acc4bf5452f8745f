#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::{At, Errno, Kind, Layer, Rdev, Rename, Seek, SetTime, SetXattr, Stat, Time, UpperLayer, acl};

const ROOT: Owner = Owner::Mounter;
const USER: Owner = Owner::User { uid: 7, gid: 8 };

fn new() -> MemLayer {
    MemLayer::new(FsId(1)).unwrap()
}

fn with(abilities: Abilities) -> MemLayer {
    MemFs::with(FsId(1), abilities).layer().unwrap()
}

fn stat(layer: &MemLayer, name: &[u8]) -> Stat {
    layer.stat(At::Name(layer.root(), name)).unwrap()
}

fn names(layer: &MemLayer, dir: &MemDir) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    layer.list(dir, &mut |entry| names.push(entry.name.to_vec())).unwrap();
    names.sort();
    names
}

fn create(layer: &MemLayer, name: &[u8]) -> MemFile {
    layer.create(layer.root(), name, 0o644, ROOT).unwrap()
}

fn read(layer: &MemLayer, file: &MemFile) -> Vec<u8> {
    let mut buf = vec![0; 100];
    let got = layer.read_at(file, &mut buf, 0).unwrap();
    buf.truncate(got);
    buf
}

#[test]
fn a_tree_that_was_put_is_dumped() {
    let layer = new();
    layer.put(b"d/f", Put::file(b"a\xff").mode(0o4711).owner(1, 2).xattr(b"user.x", b"1")).unwrap();
    layer.put(b"d", Put::dir().mode(0o1777)).unwrap();
    layer.put_link(b"d/f", b"l").unwrap();
    layer.put(b"s", Put::symlink(b"d/f")).unwrap();
    layer.put(b"w", Put::whiteout()).unwrap();
    layer.put(b"n", Put::node(Kind::BlockDevice, Rdev { major: 1, minor: 2 })).unwrap();
    layer.put(b"big", Put::file(b"x").size(10_000)).unwrap();
    let content = [b"x".as_slice(), &[0; 9_999]].concat();
    let sum = content.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let expected = format!(
        "\
. dir 0755 0:0
big file 0644 0:0 10000 bytes, sum {sum:x}
d dir 1777 0:0
d/f file 4711 1:2 \"a\\xff\" user.x=\"1\" link 1
l file 4711 1:2 \"a\\xff\" user.x=\"1\" link 1
n block 0644 0:0 1:2
s symlink 0777 0:0 -> d/f
w char 0000 0:0 0:0
"
    );
    assert_eq!(layer.dump().unwrap(), expected);
    assert_eq!(layer.dump_work().unwrap(), ". dir 0000 0:0\n");
}

#[test]
fn links_are_counted() {
    let layer = new();
    let root = layer.root();
    create(&layer, b"a");
    layer.link(At::Name(root, b"a"), root, b"b").unwrap();
    assert_eq!((stat(&layer, b"a").nlink, stat(&layer, b"b").ino), (2, stat(&layer, b"a").ino));
    assert_eq!(layer.link(At::Name(root, b"a"), root, b"b"), Err(Errno::EXIST));
    layer.unlink(root, b"a").unwrap();
    assert_eq!(stat(&layer, b"b").nlink, 1);
    layer.make_dir(root, b"d", 0o755, ROOT).unwrap();
    assert_eq!((stat(&layer, b"d").nlink, layer.stat(At::Dir(root)).unwrap().nlink), (2, 3));
    assert_eq!(layer.link(At::Name(root, b"d"), root, b"e"), Err(Errno::PERM));
    layer.rmdir(root, b"d").unwrap();
    assert_eq!(layer.stat(At::Dir(root)).unwrap().nlink, 2);
}

#[test]
fn unlinked_objects_live_while_held() {
    let layer = new();
    let root = layer.root();
    let file = create(&layer, b"a");
    layer.write_at(&file, b"data", 0).unwrap();
    let handle = layer.handle(At::Open(&file)).unwrap().unwrap();
    assert_eq!(layer.resolve(&handle), Ok(Some(stat(&layer, b"a"))));
    layer.unlink(root, b"a").unwrap();
    create(&layer, b"b");
    assert_eq!(read(&layer, &file), b"data");
    assert_eq!(layer.stat(At::Open(&file)).unwrap().nlink, 0);
    assert_eq!(layer.link(At::Open(&file), root, b"c"), Err(Errno::NOENT));
    assert_eq!(layer.resolve(&handle), Ok(None));
    let (ino, objects) = (layer.stat(At::Open(&file)).unwrap().ino, layer.fs().objects());
    drop(file);
    // The number is given to the next object, and the old handle does not lead there.
    create(&layer, b"c");
    assert_eq!((stat(&layer, b"c").ino, layer.fs().objects()), (ino, objects));
    assert_eq!(layer.resolve(&handle), Ok(None));
}

#[test]
fn removed_directories_take_nothing_new() {
    let layer = new();
    layer.make_dir(layer.root(), b"d", 0o755, ROOT).unwrap();
    let dir = layer.open_dir(layer.root(), b"d").unwrap();
    layer.rmdir(layer.root(), b"d").unwrap();
    assert_eq!(layer.make_dir(&dir, b"x", 0o755, ROOT), Err(Errno::NOENT));
    assert_eq!(layer.stat(At::Dir(&dir)).unwrap().nlink, 0);
}

#[test]
fn unnamed_files_get_a_name_once() {
    let layer = new();
    let file = layer.create_unnamed(layer.work(), 0o600, USER).unwrap();
    layer.write_at(&file, b"x", 0).unwrap();
    layer.link(At::Open(&file), layer.root(), b"a").unwrap();
    assert_eq!(layer.dump().unwrap(), ". dir 0755 0:0\na file 0600 7:8 \"x\"\n");
    let none = with(Abilities { unnamed_files: false, ..Abilities::default() });
    assert_eq!(none.create_unnamed(none.work(), 0o600, ROOT).err(), Some(Errno::OPNOTSUPP));
}

#[test]
fn new_objects_inherit_from_their_directory() {
    let layer = new();
    let default = [(Tag::UserObj, 7), (Tag::User(9), 7), (Tag::GroupObj, 5), (Tag::Mask, 5), (Tag::Other, 0)];
    use acl::Tag;
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm) in default {
        let (tag, id) = match tag {
            Tag::UserObj => (1u16, u32::MAX),
            Tag::User(id) => (2, id),
            Tag::GroupObj => (4, u32::MAX),
            Tag::Group(id) => (8, id),
            Tag::Mask => (16, u32::MAX),
            Tag::Other => (32, u32::MAX),
        };
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&(perm as u16).to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    layer.put(b"d", Put::dir().mode(0o2755).owner(1, 2).xattr(acl::DEFAULT, &value)).unwrap();
    let dir = layer.open_dir(layer.root(), b"d").unwrap();
    layer.create(&dir, b"f", 0o666, USER).unwrap();
    layer.make_dir(&dir, b"s", 0o777, USER).unwrap();
    layer.make_symlink(&dir, b"l", b"t", USER).unwrap();
    let (default, mask) =
        ("UserObj:7,User(9):7,GroupObj:5,Mask:5,Other:0", "UserObj:7,User(9):7,GroupObj:5,Mask:5");
    let expected = format!(
        ". dir 0755 0:0
d dir 2755 1:2 system.posix_acl_default={default}
d/f file 0640 7:2 \"\" system.posix_acl_access=UserObj:6,User(9):7,GroupObj:5,Mask:4,Other:0
d/l symlink 0777 7:2 -> t
d/s dir 2750 7:2 system.posix_acl_access={mask},Other:0 system.posix_acl_default={default}
"
    );
    assert_eq!(layer.dump().unwrap(), expected);
}

#[test]
fn attributes_follow_their_namespace() {
    let layer = new();
    let root = layer.root();
    create(&layer, b"f");
    layer.make_symlink(root, b"s", b"t", ROOT).unwrap();
    layer.make_node(root, b"p", Kind::Fifo, 0o644, Rdev::default(), ROOT).unwrap();
    let set =
        |name: &[u8], attribute: &[u8], how| layer.set_xattr(At::Name(root, name), attribute, b"v", how);
    let get = |name: &[u8], attribute: &[u8]| layer.get_xattr(At::Name(root, name), attribute);
    let any = SetXattr::Any;
    for name in [b"s", b"p"] {
        assert_eq!(set(name, b"user.a", any), Err(Errno::PERM));
        assert_eq!(get(name, b"user.a"), Ok(None));
        assert_eq!(set(name, b"trusted.a", any), Ok(()));
        assert_eq!(set(name, b"security.a", any), Ok(()));
    }
    assert_eq!(set(b"f", b"user.a", SetXattr::Replace), Err(Errno::NODATA));
    assert_eq!(set(b"f", b"user.a", SetXattr::Create), Ok(()));
    assert_eq!(set(b"f", b"user.a", SetXattr::Create), Err(Errno::EXIST));
    assert_eq!(set(b"f", b"other.a", any), Err(Errno::OPNOTSUPP));
    assert_eq!(set(b"f", b"user.", any), Err(Errno::INVAL));
    assert_eq!(get(b"f", &[b'x'; 256]), Err(Errno::RANGE));
    assert_eq!(layer.list_xattrs(At::Name(root, b"f")), Ok(vec![b"user.a".to_vec()]));
    assert_eq!(layer.remove_xattr(At::Name(root, b"f"), b"user.a"), Ok(()));
    assert_eq!(layer.remove_xattr(At::Name(root, b"f"), b"user.a"), Err(Errno::NODATA));
    assert_eq!(layer.set_xattr(At::Name(root, b"f"), b"user.a", &[0; 65537], any), Err(Errno::TOOBIG));
    layer.fs().set_abilities(Abilities { trusted: false, ..Abilities::default() });
    assert_eq!((set(b"p", b"trusted.a", any), get(b"p", b"trusted.a")), (Err(Errno::PERM), Ok(None)));
    layer.fs().set_abilities(Abilities { xattrs: false, ..Abilities::default() });
    assert_eq!(
        (set(b"f", b"user.a", any), get(b"f", b"user.a")),
        (Err(Errno::OPNOTSUPP), Err(Errno::OPNOTSUPP))
    );
}

#[test]
fn content_and_owner_changes_drop_privileges() {
    let layer = new();
    let root = layer.root();
    let put = || Put::file(b"x").mode(0o6755).xattr(b"security.capability", b"c");
    for name in [b"w", b"t", b"o"] {
        layer.put(name, put()).unwrap();
    }
    let file = layer.open_file(At::Name(root, b"w"), Access::Write).unwrap();
    layer.write_at(&file, b"y", 0).unwrap();
    layer.set_len(At::Name(root, b"t"), 0).unwrap();
    layer.set_owner(At::Name(root, b"o"), Some(5), None).unwrap();
    layer.put(b"g", put().mode(0o6745)).unwrap();
    layer.set_owner(At::Name(root, b"g"), None, None).unwrap();
    let expected = "\
. dir 0755 0:0
g file 2745 0:0 \"x\"
o file 0755 5:0 \"x\"
t file 6755 0:0 \"\"
w file 6755 0:0 \"y\"
";
    assert_eq!(layer.dump().unwrap(), expected);
}

#[test]
fn access_modes_are_kept() {
    let layer = new();
    let root = layer.root();
    create(&layer, b"f");
    let reader = layer.open_file(At::Name(root, b"f"), Access::Read).unwrap();
    let writer = layer.open_file(At::Name(root, b"f"), Access::Write).unwrap();
    let held = layer.hold(root, b"f").unwrap();
    assert_eq!(layer.write_at(&reader, b"x", 0), Err(Errno::BADF));
    assert_eq!(layer.read_at(&writer, &mut [0], 0), Err(Errno::BADF));
    assert_eq!(layer.read_at(&held, &mut [0], 0), Err(Errno::BADF));
    assert!(layer.open_file(At::Open(&held), Access::ReadWrite).is_ok());
    layer.make_symlink(root, b"s", b"f", ROOT).unwrap();
    let open = |name: &[u8]| layer.open_file(At::Name(root, name), Access::Read).err();
    assert_eq!(open(b"s"), Some(Errno::LOOP));
    assert_eq!(layer.open_file(At::Dir(root), Access::Read).err(), Some(Errno::ISDIR));
    assert_eq!(layer.open_dir(root, b"s").err(), Some(Errno::NOTDIR));
    assert_eq!((open(b"no"), open(b"..")), (Some(Errno::NOENT), Some(Errno::INVAL)));
    assert_eq!(open(&[b'n'; 256]), Some(Errno::NAMETOOLONG));
}

#[test]
fn renames_follow_their_kind() {
    let layer = new();
    let root = layer.root();
    for path in [b"d/x/y".as_slice(), b"e", b"f", b"g"] {
        layer.put(path, if path[0] < b'f' { Put::dir() } else { Put::file(path) }).unwrap();
    }
    let rename = |from: &[u8], to: &[u8], how| layer.rename((root, from), (root, to), how);
    let d = layer.open_dir(root, b"d").unwrap();
    let x = layer.open_dir(&d, b"x").unwrap();
    assert_eq!(rename(b"no", b"f", Rename::Replace), Err(Errno::NOENT));
    assert_eq!(rename(b"f", b"e", Rename::Replace), Err(Errno::ISDIR));
    assert_eq!(rename(b"e", b"f", Rename::Replace), Err(Errno::NOTDIR));
    assert_eq!(rename(b"e", b"d", Rename::Replace), Err(Errno::NOTEMPTY));
    assert_eq!(rename(b"f", b"g", Rename::NoReplace), Err(Errno::EXIST));
    assert_eq!(rename(b"f", b"no", Rename::Exchange), Err(Errno::NOENT));
    assert_eq!(layer.rename((root, b"d"), (&x, b"z"), Rename::Replace), Err(Errno::INVAL));
    assert_eq!(layer.rename((&x, b"y"), (root, b"d"), Rename::Replace), Err(Errno::NOTEMPTY));
    assert_eq!(layer.rename((&x, b"y"), (root, b"d"), Rename::Exchange), Err(Errno::INVAL));
    rename(b"f", b"g", Rename::Replace).unwrap();
    rename(b"g", b"h", Rename::Whiteout).unwrap();
    layer.rename((&x, b"y"), (root, b"h"), Rename::Exchange).unwrap();
    layer.rename((&d, b"x"), (root, b"e"), Rename::Replace).unwrap();
    assert_eq!(names(&layer, &x), [b"y"]);
    let expected = "\
. dir 0755 0:0
d dir 0755 0:0
e dir 0755 0:0
e/y file 0644 0:0 \"f\"
g char 0000 0:0 0:0
h dir 0755 0:0
";
    assert_eq!(layer.dump().unwrap(), expected);
    let links =
        [stat(&layer, b"d").nlink, stat(&layer, b"e").nlink, layer.stat(At::Dir(root)).unwrap().nlink];
    assert_eq!(links, [2, 2, 5]);
    layer.fs().set_abilities(Abilities { rename_whiteout: false, ..Abilities::default() });
    assert_eq!(rename(b"h", b"i", Rename::Whiteout), Err(Errno::INVAL));
}

#[test]
fn a_rename_between_two_names_of_one_object_does_nothing() {
    let layer = new();
    create(&layer, b"a");
    layer.put_link(b"a", b"b").unwrap();
    layer.rename((layer.root(), b"a"), (layer.root(), b"b"), Rename::Replace).unwrap();
    assert_eq!(names(&layer, layer.root()), [b"a", b"b"]);
}

#[test]
fn flags_protect() {
    let layer = new();
    let root = layer.root();
    layer.put(b"i", Put::file(b"").flags(0x10)).unwrap();
    layer.put(b"a", Put::dir().flags(0x20)).unwrap();
    layer.put(b"a2/x", Put::file(b"")).unwrap();
    layer.put(b"a2", Put::dir().flags(0x20)).unwrap();
    let at = At::Name(root, b"i");
    assert!(stat(&layer, b"i").immutable && stat(&layer, b"a").append_only);
    assert_eq!(layer.unlink(root, b"i"), Err(Errno::PERM));
    assert_eq!(layer.rename((root, b"i"), (root, b"j"), Rename::Replace), Err(Errno::PERM));
    assert_eq!(layer.set_mode(at, 0), Err(Errno::PERM));
    assert_eq!(layer.set_owner(at, None, None), Err(Errno::PERM));
    assert_eq!(layer.set_xattr(at, b"user.a", b"", SetXattr::Any), Err(Errno::PERM));
    assert_eq!(layer.link(at, root, b"j"), Err(Errno::PERM));
    assert_eq!(layer.open_file(at, Access::Write).err(), Some(Errno::PERM));
    let dir = layer.open_dir(root, b"a2").unwrap();
    assert_eq!(layer.unlink(&dir, b"x"), Err(Errno::PERM));
    assert!(layer.create(&dir, b"y", 0o644, ROOT).is_ok());
    layer.set_inode_flags(at, 0).unwrap();
    assert_eq!(layer.unlink(root, b"i"), Ok(()));
}

#[test]
fn times_come_from_a_counter() {
    let layer = new();
    let root = layer.root();
    let file = create(&layer, b"f");
    let before = stat(&layer, b"f");
    layer.write_at(&file, b"x", 0).unwrap();
    let after = stat(&layer, b"f");
    assert_eq!((after.atime, after.btime), (before.atime, before.btime));
    assert!(after.mtime > before.mtime && after.ctime == after.mtime);
    let at = Time { sec: -5, nsec: 7 };
    layer.set_times(At::Name(root, b"f"), SetTime::To(at), SetTime::Keep).unwrap();
    let set = stat(&layer, b"f");
    assert_eq!((set.atime, set.mtime), (at, after.mtime));
    assert!(set.ctime > after.ctime);
    layer.set_times(At::Name(root, b"f"), SetTime::Keep, SetTime::Keep).unwrap();
    assert_eq!(stat(&layer, b"f"), set);
}

#[test]
fn data_is_copied_between_filesystems_with_its_holes() {
    let (from, to) = (new(), MemLayer::new(FsId(2)).unwrap());
    from.put(b"f", Put::file(b"start").size(100_000)).unwrap();
    let source = from.open_file(At::Name(from.root(), b"f"), Access::ReadWrite).unwrap();
    from.write_at(&source, b"middle", 50_000).unwrap();
    let target = to.create_unnamed(to.work(), 0o600, ROOT).unwrap();
    to.copy_data(&source, &target, 100_000, &|| true).unwrap();
    to.link(At::Open(&target), to.root(), b"f").unwrap();
    assert_eq!(to.dump().unwrap(), from.dump().unwrap().replace("0644", "0600"));
    let (copy, original) = (stat(&to, b"f"), stat(&from, b"f"));
    assert_eq!((copy.size, copy.blocks, original.blocks), (original.size, 16, 16));
    assert_eq!(to.copy_range((&source, 0), (&target, 0), 1), Err(Errno::XDEV));
    assert_eq!(to.stat(At::Open(&source)), Err(Errno::XDEV));
    assert_eq!(to.open_dir(from.root(), b"d").err(), Some(Errno::XDEV));
}

#[test]
fn ranges_are_copied_within_a_filesystem() {
    let layer = new();
    let (a, b) = (create(&layer, b"a"), create(&layer, b"b"));
    layer.write_at(&a, b"0123456789", 0).unwrap();
    assert_eq!(layer.copy_range((&a, 8), (&b, 1), 10), Ok(2));
    assert_eq!(read(&layer, &b), b"\089");
    assert_eq!(layer.copy_range((&a, 0), (&a, 1), 5), Err(Errno::INVAL));
    layer.set_len(At::Open(&a), 20_000).unwrap();
    let c = create(&layer, b"c");
    layer.copy_data(&a, &c, 20_000, &|| true).unwrap();
    let (copy, original) = (stat(&layer, b"c"), stat(&layer, b"a"));
    assert_eq!((copy.size, copy.blocks), (original.size, original.blocks));
    assert_eq!(layer.seek(&c, 0, Seek::Hole), Ok(4096));
}

#[test]
fn snapshots_are_apart_and_forget_what_has_no_name() {
    let layer = new();
    let file = create(&layer, b"a");
    let held = create(&layer, b"b");
    layer.unlink(layer.root(), b"b").unwrap();
    let snapshot = layer.fs().snapshot();
    assert_eq!(snapshot.objects() + 1, layer.fs().objects());
    let copy = layer.on(&snapshot).unwrap();
    layer.write_at(&file, b"new", 0).unwrap();
    copy.unlink(copy.root(), b"a").unwrap();
    assert_eq!(copy.dump().unwrap(), ". dir 0755 0:0\n");
    assert_eq!(layer.dump().unwrap(), ". dir 0755 0:0\na file 0644 0:0 \"new\"\n");
    drop(held);
    assert_eq!((layer.stat(At::Dir(copy.root())), layer.filesystem()), (Err(Errno::XDEV), copy.filesystem()));
}

#[test]
fn link_counts_have_a_limit() {
    let layer = with(Abilities { max_links: 2, ..Abilities::default() });
    create(&layer, b"a");
    layer.put_link(b"a", b"b").unwrap();
    assert_eq!(layer.put_link(b"a", b"c"), Err(Errno::MLINK));
}

#[test]
fn layers_of_one_filesystem_can_be_linked() {
    let fs = MemFs::new(FsId(3));
    let (one, two) = (fs.layer().unwrap(), fs.layer().unwrap());
    one.put(b"a", Put::file(b"x")).unwrap();
    two.link(At::Name(one.root(), b"a"), two.root(), b"b").unwrap();
    assert_eq!(stat(&one, b"a").ino, stat(&two, b"b").ino);
    assert_eq!(two.dump().unwrap(), ". dir 0755 0:0\nb file 0644 0:0 \"x\"\n");
}

/// However far a sweep gets, others are kept away.
#[test]
fn a_sweep_keeps_the_marks_of_known_features() {
    use crate::fault::{Calls, Fault, Faults, Plan};
    use crate::work::{self, INCOMPAT, PrepareError, VOLATILE, WORK};
    for at in 0.. {
        let layer = new();
        work::mark_volatile(&layer).unwrap();
        layer.make_dir(layer.work(), b"#1", 0o755, ROOT).unwrap();
        let faults = Faults::new();
        let failing = Fault::new(layer.clone(), &faults);
        faults.plan(Plan::Crash { calls: Calls::Mutating, at });
        let swept = work::prepare(&failing, layer.workdir(), 0, &[VOLATILE]);
        let staging = layer.open_dir(layer.workdir(), WORK).unwrap();
        let incompat = layer.open_dir(&staging, INCOMPAT).unwrap();
        assert_eq!(names(&layer, &incompat), [VOLATILE], "at call {at}");
        let others = work::prepare(&layer, layer.workdir(), 0, &[]);
        assert!(matches!(others, Err(PrepareError::Incompatible)), "at call {at}");
        if swept.is_ok() {
            assert!(at > 2, "{at}");
            assert_eq!(names(&layer, &staging), [INCOMPAT]);
            work::mark_volatile(&layer).unwrap();
            return;
        }
    }
}
