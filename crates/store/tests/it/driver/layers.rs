//! A stack that holds one of everything that layers can say.

use acetate_layer::mark::{Dialect, Mark};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, lsetxattr,
    makedev, mknodat, utimensat,
};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

/// An access ACL: owner rwx, user 1234 r-x, group r--, mask rwx, others none.
const ACL: [(u16, u16, u32); 5] =
    [(1, 7, u32::MAX), (2, 5, 1234), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)];
/// `cap_net_raw=ep` (linux/capability.h, revision 2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A layer that is being made.
pub struct Maker {
    root: PathBuf,
    marks: Dialect,
    /// Grows with every object, so that all times differ.
    clock: i64,
}

impl Maker {
    pub fn new(root: &Path, marks: Dialect, clock: i64) -> Maker {
        fs::create_dir(root).unwrap();
        Maker { root: root.into(), marks, clock }
    }

    fn at(&self, name: &(impl AsRef<[u8]> + ?Sized)) -> PathBuf {
        // Joining an empty name would add a slash.
        match name.as_ref() {
            b"" => self.root.clone(),
            name => self.root.join(OsStr::from_bytes(name)),
        }
    }

    pub fn file(&self, name: &(impl AsRef<[u8]> + ?Sized), content: &[u8]) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn node(&self, name: &str, kind: FileType, rdev: (u32, u32)) {
        mknodat(CWD, self.at(name), kind, Mode::from_raw_mode(0o640), makedev(rdev.0, rdev.1)).unwrap();
    }

    pub fn whiteout(&self, name: &str) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        self.node(name, FileType::CharacterDevice, (0, 0));
    }

    fn link(&self, old: &str, new: &str) {
        fs::hard_link(self.at(old), self.at(new)).unwrap();
    }

    fn attr(&self, name: &str, attribute: &str, value: &[u8]) {
        lsetxattr(self.at(name), attribute, value, XattrFlags::empty()).unwrap();
    }

    pub fn mark(&self, name: &str, mark: Mark, value: &[u8]) {
        let attribute = OsStr::from_bytes(self.marks.name(mark));
        lsetxattr(self.at(name), attribute, value, XattrFlags::empty()).unwrap();
    }

    fn acl(&self, name: &str, which: &str) {
        let entries = ACL.iter().flat_map(|(tag, perm, id)| {
            [tag.to_le_bytes(), perm.to_le_bytes()].concat().into_iter().chain(id.to_le_bytes())
        });
        let value: Vec<u8> = 2u32.to_le_bytes().into_iter().chain(entries).collect();
        self.attr(name, &format!("system.posix_acl_{which}"), &value);
    }

    fn owner(&self, name: &str, uid: u32, gid: u32) {
        let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(CWD, self.at(name), ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn mode(&self, name: &str, mode: u32) {
        chmod(self.at(name), Mode::from_raw_mode(mode)).unwrap();
    }

    /// Gives everything a time of its own, entries before their directory.
    pub fn done(mut self) -> PathBuf {
        let root = self.root.clone();
        self.stamp(&root);
        root
    }

    fn stamp(&mut self, path: &Path) {
        if fs::symlink_metadata(path).unwrap().is_dir() {
            let mut entries: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
            entries.sort();
            entries.iter().for_each(|entry| self.stamp(entry));
        }
        self.clock += 1;
        let sec = if self.clock % 7 == 0 { -self.clock } else { self.clock * 100_003 };
        let time = |nsec| Timespec { tv_sec: sec, tv_nsec: nsec };
        let times = Timestamps { last_access: time(123_456_789), last_modification: time(987_654_321) };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Makes the layers in `dir` and returns them topmost first.
pub fn rich(dir: &Path, marks: Dialect) -> Vec<PathBuf> {
    let layer = |number: i64| Maker::new(&dir.join(format!("layer{number}")), marks, number * 1000);
    vec![top(layer(3)), middle(layer(2)), base(layer(1))]
}

fn base(l: Maker) -> PathBuf {
    l.file("file", b"base");
    l.owner("file", 1000, 1001);
    l.mode("file", 0o4755);
    l.file("tool", b"#!");
    l.owner("tool", 7, 8);
    l.attr("tool", "security.capability", &CAPABILITY);
    let sparse = fs::File::create_new(l.at("sparse")).unwrap();
    sparse.write_all_at(&[7; 5000], 1 << 20).unwrap();
    sparse.write_all_at(&[8; 9000], 2 << 20).unwrap();
    sparse.set_len(4 << 20).unwrap();
    fs::File::create_new(l.at("hole")).unwrap().set_len(1 << 20).unwrap();
    l.file("large", &(0..3_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    for name in
        ["deep/a/b/c/f", "gone", "gonedir/x/y", "opaque/old", "opaque/keep/inner", "fd", "df/x/y", "dl/x"]
    {
        l.file(name, name.as_bytes());
    }
    l.attr("deep", "user.only.below", b"1");
    l.mode("deep", 0o2770);
    l.file("h1", b"linked");
    l.link("h1", "deep/h2");
    l.link("h1", "h3");
    l.node("fifo", FileType::Fifo, (0, 0));
    l.link("fifo", "deep/fifo2");
    l.node("socket", FileType::Socket, (0, 0));
    l.node("null", FileType::CharacterDevice, (1, 3));
    l.node("block", FileType::BlockDevice, (0, 0));
    l.node("loop", FileType::BlockDevice, (7, 300));
    symlink("/nowhere/at all", l.at("dangling")).unwrap();
    l.attr("dangling", "trusted.on.link", b"x");
    l.owner("dangling", 5, 6);
    l.link("dangling", "dangling2");
    l.dir("acl/sub");
    l.file("acl/before", b"");
    l.acl("acl", "default");
    l.acl("acl/before", "access");
    l.mode("acl/sub", 0o1777);
    l.file(b"not \xff utf-8", b"1");
    l.file("new\nline", b"2");
    l.file(&vec![b'n'; 255], b"3");
    l.file("closed/file", b"4");
    l.mode("closed/file", 0);
    l.mode("closed", 0);
    for name in ["xattrs/hidden", "xattrs/seen"] {
        l.file(name, name.as_bytes());
    }
    l.attr("file", "user.large", &[9; 600]);
    l.attr("file", "user.empty", b"");
    other_dialect(&l);
    l.done()
}

/// Attributes that look like marks and are none: those of the other namespace, and escaped ones.
fn other_dialect(l: &Maker) {
    let other = match l.marks {
        Dialect::Trusted => "user.overlay.",
        Dialect::User => "trusted.overlay.",
    };
    l.dir("plain");
    l.attr("plain", &format!("{other}opaque"), b"y");
    l.file("plain/empty", b"");
    l.attr("plain/empty", &format!("{other}whiteout"), b"");
    let own = String::from_utf8(l.marks.prefix().to_vec()).unwrap();
    l.attr("plain", &format!("{own}overlay.opaque"), b"y");
    l.attr("plain", &format!("{own}origin"), b"dropped");
}

fn middle(l: Maker) -> PathBuf {
    for name in ["gone", "gonedir", "never"] {
        l.whiteout(name);
    }
    l.whiteout("deep/a/gone");
    l.link("gone", "deep/a/shared");
    l.file("deep/a/b/more", b"more");
    l.owner("deep/a", 42, 43);
    l.mode("deep/a/b", 0o700);
    l.file("opaque/new", b"new");
    l.mark("opaque", Mark::Opaque, b"y");
    l.file("fd/inside", b"a directory now");
    l.file("df", b"a file now");
    symlink("deep", l.at("dl")).unwrap();
    l.file("acl/after", b"inherits nothing");
    l.dir("acl/newdir");
    l.file("xattrs/hidden", b"");
    l.mark("xattrs", Mark::Opaque, b"x");
    l.mark("xattrs/hidden", Mark::Whiteout, b"");
    l.file("plain/empty2", b"");
    l.mark("", Mark::Opaque, b"y");
    l.attr("", "user.root", b"middle");
    l.done()
}

fn top(l: Maker) -> PathBuf {
    l.file("gonedir/again", b"without what was there");
    l.file("opaque/newer", b"merged with the opaque one");
    l.file("closed/second", b"in a closed directory");
    l.mode("closed", 0o100);
    l.file("t1", b"top");
    l.link("t1", "gonedir/t2");
    l.acl("t1", "access");
    l.whiteout("df");
    l.dir("deep/a/b/c");
    l.attr("", "user.root", b"top");
    l.mode("", 0o1751);
    l.owner("", 11, 12);
    l.done()
}
