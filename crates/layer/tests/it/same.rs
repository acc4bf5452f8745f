//! A layer in memory has to answer every call as a directory on disk does: what is tested over memory then holds over
//! disks too.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use acetate_layer::dir::DirLayer;
use acetate_layer::mem::MemLayer;
use acetate_layer::{
    Access, At, Errno, FsId, Kind, Layer, Owner, Rdev, Rename, Seek, SetTime, SetXattr, Stat, Time,
    UpperLayer, acl,
};
use proptest::prelude::*;

/// Which of the directories opened so far, modulo their number; the first two are root and staging directory.
type DirNo = usize;
/// Which of the files opened so far, modulo their number.
type FileNo = usize;
type Name = &'static [u8];

/// Where an object is.
#[derive(Clone, Copy, Debug)]
enum Where {
    Dir(DirNo),
    Name(DirNo, Name),
    Open(FileNo),
}

#[derive(Clone, Debug)]
enum Call {
    OpenDir(DirNo, Name),
    OpenFile(Where, Access),
    Hold(DirNo, Name),
    Create(DirNo, Name, u32, Owner),
    CreateUnnamed(DirNo, u32, Owner),
    MakeDir(DirNo, Name, u32, Owner),
    MakeNode(DirNo, Name, Kind, Rdev),
    MakeSymlink(DirNo, Name),
    Link(Where, DirNo, Name),
    Unlink(DirNo, Name),
    Rmdir(DirNo, Name),
    Rename((DirNo, Name), (DirNo, Name), Rename),
    Write(FileNo, &'static [u8], u64),
    SetLen(Where, u64),
    Allocate(FileNo, u32, u64, u64),
    CopyRange(FileNo, u64, FileNo, u64, u64),
    /// Into a new file that stays open.
    CopyData(FileNo, u64),
    SetMode(Where, u32),
    SetOwner(Where, Option<u32>, Option<u32>),
    SetTimes(Where, SetTime),
    SetXattr(Where, Name, Vec<u8>, SetXattr),
    RemoveXattr(Where, Name),
    Read(FileNo),
    Seek(FileNo, u64, Seek),
    Look(Where),
}

/// A layer with what has been opened in it.
struct Session<L: UpperLayer> {
    layer: L,
    dirs: Vec<L::Dir>,
    files: Vec<L::File>,
    /// Whether what is set aside counts as data depends on what the page cache holds.
    set_aside: bool,
}

/// What is compared of an object: nothing that two filesystems may number or round differently.
fn facts(stat: &Stat) -> String {
    let Stat { kind, mode, nlink, uid, gid, rdev, size, immutable, append_only, .. } = stat;
    let size = if matches!(kind, Kind::Dir) { &0 } else { size };
    // Times that tests set are small.
    let mtime = (stat.mtime.sec < 1_000_000).then_some(stat.mtime);
    format!("{kind:?} {mode:o} {nlink} {uid}:{gid} {rdev:?} {size} {mtime:?} {immutable} {append_only}")
}

impl<L: UpperLayer> Session<L> {
    fn new(layer: L) -> Self {
        let dirs = vec![layer.root().clone(), layer.work().clone()];
        Self { layer, dirs, files: Vec::new(), set_aside: false }
    }

    fn dir(&self, at: DirNo) -> &L::Dir {
        &self.dirs[at % self.dirs.len()]
    }

    fn file(&self, at: FileNo) -> Result<&L::File, Errno> {
        self.files.get(at % self.files.len().max(1)).ok_or(Errno::BADF)
    }

    fn at(&self, at: Where) -> Result<At<'_, L>, Errno> {
        Ok(match at {
            Where::Dir(dir) => At::Dir(self.dir(dir)),
            Where::Name(dir, name) => At::Name(self.dir(dir), name),
            Where::Open(file) => At::Open(self.file(file)?),
        })
    }

    /// Performs a call; returns what it says as text.
    fn call(&mut self, call: &Call) -> Result<String, Errno> {
        let layer = &self.layer;
        let done = |result: Result<(), Errno>| result.map(|()| String::new());
        match call {
            Call::OpenDir(dir, name) => {
                let opened = layer.open_dir(self.dir(*dir), name)?;
                self.dirs.push(opened);
                Ok(String::new())
            }
            Call::OpenFile(at, access) => {
                let opened = layer.open_file(self.at(*at)?, *access)?;
                self.files.push(opened);
                Ok(String::new())
            }
            Call::Hold(dir, name) => {
                let held = layer.hold(self.dir(*dir), name)?;
                self.files.push(held);
                Ok(String::new())
            }
            Call::Create(dir, name, mode, owner) => {
                let created = layer.create(self.dir(*dir), name, *mode, *owner)?;
                self.files.push(created);
                Ok(String::new())
            }
            Call::CreateUnnamed(dir, mode, owner) => {
                let created = layer.create_unnamed(self.dir(*dir), *mode, *owner)?;
                self.files.push(created);
                Ok(String::new())
            }
            Call::MakeDir(dir, name, mode, owner) => {
                done(layer.make_dir(self.dir(*dir), name, *mode, *owner))
            }
            Call::MakeNode(dir, name, kind, rdev) => {
                done(layer.make_node(self.dir(*dir), name, *kind, 0o640, *rdev, Owner::Mounter))
            }
            Call::MakeSymlink(dir, name) => {
                done(layer.make_symlink(self.dir(*dir), name, b"nowhere", Owner::Mounter))
            }
            Call::Link(at, dir, name) => done(layer.link(self.at(*at)?, self.dir(*dir), name)),
            Call::Unlink(dir, name) => done(layer.unlink(self.dir(*dir), name)),
            Call::Rmdir(dir, name) => done(layer.rmdir(self.dir(*dir), name)),
            Call::Rename(from, to, how) => {
                done(layer.rename((self.dir(from.0), from.1), (self.dir(to.0), to.1), *how))
            }
            Call::SetLen(at, size) => {
                let at = self.at(*at)?;
                match layer.stat(at)?.kind {
                    Kind::File | Kind::Dir => done(layer.set_len(at, *size)),
                    // Nobody asks: on a disk it would open a device.
                    _ => Err(Errno::INVAL),
                }
            }
            Call::CopyData(from, size) => {
                // What cannot be read fails, but how soon depends on its holes.
                layer.read_at(self.file(*from)?, &mut [0], 0)?;
                let to = layer.create_unnamed(layer.work(), 0o600, Owner::Mounter)?;
                let result = layer.copy_data(self.file(*from)?, &to, *size, &|| true);
                self.files.push(to);
                done(result)
            }
            Call::SetMode(at, mode) => done(layer.set_mode(self.at(*at)?, *mode)),
            Call::SetOwner(at, uid, gid) => done(layer.set_owner(self.at(*at)?, *uid, *gid)),
            Call::SetTimes(at, mtime) => done(layer.set_times(self.at(*at)?, SetTime::Keep, *mtime)),
            Call::SetXattr(at, name, value, how) => done(layer.set_xattr(self.at(*at)?, name, value, *how)),
            Call::RemoveXattr(at, name) => done(layer.remove_xattr(self.at(*at)?, name)),
            Call::Look(at) => self.look(self.at(*at)?),
            Call::Allocate(file, mode, offset, len) => {
                let result = layer.allocate(self.file(*file)?, *mode, *offset, *len);
                self.set_aside = true;
                done(result)
            }
            Call::Seek(..) if self.set_aside => Ok(String::new()),
            _ => self.data_call(call),
        }
    }

    /// Calls on the content of open files.
    fn data_call(&self, call: &Call) -> Result<String, Errno> {
        let layer = &self.layer;
        match call {
            Call::Write(file, data, offset) => {
                layer.write_at(self.file(*file)?, data, *offset).map(|len| len.to_string())
            }
            Call::CopyRange(from, at, to, offset, len) => {
                let (from, to) = ((self.file(*from)?, *at), (self.file(*to)?, *offset));
                layer.copy_range(from, to, *len).map(|len| len.to_string())
            }
            Call::Read(file) => {
                let mut buf = vec![0; 1 << 17];
                let len = layer.read_at(self.file(*file)?, &mut buf, 0)?;
                buf.truncate(len);
                Ok(buf.escape_ascii().to_string())
            }
            Call::Seek(file, offset, what) => {
                layer.seek(self.file(*file)?, *offset, *what).map(|offset| offset.to_string())
            }
            _ => unreachable!("{call:?} is not about content"),
        }
    }

    /// Everything about one object.
    fn look(&self, at: At<'_, L>) -> Result<String, Errno> {
        let layer = &self.layer;
        let stat = layer.stat(at)?;
        let mut text = facts(&stat);
        let mut names = layer.list_xattrs(at)?;
        names.sort();
        for name in names {
            text += &format!(" {}={:?}", name.escape_ascii(), layer.get_xattr(at, &name)?);
        }
        for name in [b"user.x".as_slice(), b"trusted.x", acl::ACCESS] {
            text += &format!(" {:?}", layer.get_xattr(at, name).map(|value| value.is_some()));
        }
        if stat.kind == Kind::Symlink {
            text += &format!(" -> {}", layer.read_link(at)?.escape_ascii());
        }
        Ok(text)
    }

    /// The whole tree below a directory, with all names of an object marked by the first.
    fn tree(&self, dir: &L::Dir) -> BTreeMap<String, String> {
        let (mut tree, mut first) = (BTreeMap::new(), BTreeMap::new());
        let mut todo = vec![(String::new(), dir.clone())];
        while let Some((path, dir)) = todo.pop() {
            let mut entries = Vec::new();
            self.layer
                .list(&dir, &mut |entry| entries.push((entry.name.to_vec(), entry.ino, entry.kind)))
                .unwrap();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            for (name, ino, kind) in entries {
                let at = At::Name(&dir, &name);
                let stat = self.layer.stat(at).unwrap();
                assert_eq!((ino, kind.unwrap_or(stat.kind)), (stat.ino, stat.kind));
                let path = format!("{path}/{}", name.escape_ascii());
                let mut text = self.look(at).unwrap();
                if stat.kind == Kind::File {
                    let file = self.layer.open_file(at, Access::Read).unwrap();
                    let mut buf = vec![0; 1 << 17];
                    let len = self.layer.read_at(&file, &mut buf, 0).unwrap();
                    text += &format!(" {}", buf[..len].escape_ascii());
                }
                if stat.kind == Kind::Dir {
                    todo.push((path.clone(), self.layer.open_dir(&dir, &name).unwrap()));
                } else {
                    text += &format!(" as {}", first.entry(ino).or_insert_with(|| path.clone()));
                }
                tree.insert(path, text);
            }
        }
        tree
    }
}

/// A writable layer on disk that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> (Self, DirLayer) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("acetate-same-{}-{count}", std::process::id()));
        for name in ["upper", "workdir"] {
            let path = home.join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut layer = DirLayer::open_upper(&home.join("upper")).unwrap();
        let workdir = layer.open_workdir(&home.join("workdir")).unwrap();
        layer.make_dir(&workdir, b"work", 0, Owner::Mounter).unwrap();
        layer.set_work(layer.open_dir(&workdir, b"work").unwrap());
        (Self(home), layer)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn dir() -> impl Strategy<Value = DirNo> {
    prop_oneof![2 => Just(0), 1 => 0usize..6]
}

fn name() -> impl Strategy<Value = Name> {
    prop::sample::select(vec![b"a".as_slice(), b"b", b"\xff"])
}

fn place() -> impl Strategy<Value = Where> {
    prop_oneof![
        1 => dir().prop_map(Where::Dir),
        4 => (dir(), name()).prop_map(|(dir, name)| Where::Name(dir, name)),
        2 => (0usize..8).prop_map(Where::Open),
    ]
}

fn mode() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0o644, 0o755, 0o4755, 0o2755, 0o2745, 0o1777, 0])
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        Just(Owner::Mounter),
        Just(Owner::User { uid: 0, gid: 0 }),
        Just(Owner::User { uid: 5, gid: 6 })
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite])
}

fn list(mask: u16) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 7u16, u32::MAX), (2, 6, 9), (4, 5, u32::MAX), (16, mask, u32::MAX), (32, 1, u32::MAX)]
    {
        value.extend_from_slice(&[tag.to_le_bytes(), perm.to_le_bytes()].concat());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

fn attribute() -> impl Strategy<Value = (Name, Vec<u8>)> {
    let mode_only: Vec<u8> = {
        let list = list(7);
        [&list[..12], &list[20..28], &list[36..]].concat()
    };
    prop::sample::select(vec![
        (b"user.x".as_slice(), b"1".to_vec()),
        (b"trusted.x", b"".to_vec()),
        (b"security.x", b"2".to_vec()),
        (b"other.x", b"2".to_vec()),
        (b"user.", b"2".to_vec()),
        (b"trusted.overlay.opaque", b"y".to_vec()),
        (acl::ACCESS, list(5)),
        (acl::ACCESS, mode_only),
        (acl::ACCESS, b"\x02\0\0\0".to_vec()),
        (acl::ACCESS, b"\x02\0\0\0x".to_vec()),
        (acl::DEFAULT, list(7)),
        (acl::DEFAULT, list(2)),
    ])
}

fn call() -> impl Strategy<Value = Call> {
    let kinds = vec![
        (Kind::Fifo, 0, 0),
        (Kind::Socket, 0, 0),
        (Kind::File, 0, 0),
        (Kind::CharDevice, 0, 0),
        (Kind::BlockDevice, 77, 7),
    ];
    let renames = vec![Rename::Replace, Rename::NoReplace, Rename::Exchange, Rename::Whiteout];
    let how = prop::sample::select(vec![SetXattr::Any, SetXattr::Any, SetXattr::Create, SetXattr::Replace]);
    let offset = prop::sample::select(vec![0u64, 3, 4096, 10_000]);
    let data = prop::sample::select(vec![b"".as_slice(), b"hello"]);
    let file = 0usize..8;
    let id = prop::option::of(prop::sample::select(vec![0u32, 7]));
    let time =
        prop_oneof![Just(SetTime::Keep), Just(SetTime::Now), Just(SetTime::To(Time { sec: 5, nsec: 7 }))];
    let entry = || (dir(), name());
    prop_oneof![
        4 => entry().prop_map(|(dir, name)| Call::OpenDir(dir, name)),
        4 => (place(), access()).prop_map(|(at, access)| Call::OpenFile(at, access)),
        1 => entry().prop_map(|(dir, name)| Call::Hold(dir, name)),
        4 => (entry(), mode(), owner()).prop_map(|((dir, name), mode, owner)| Call::Create(dir, name, mode, owner)),
        2 => (dir(), mode(), owner()).prop_map(|(dir, mode, owner)| Call::CreateUnnamed(dir, mode, owner)),
        4 => (entry(), mode(), owner()).prop_map(|((dir, name), mode, owner)| Call::MakeDir(dir, name, mode, owner)),
        2 => (entry(), prop::sample::select(kinds)).prop_map(|((dir, name), (kind, major, minor))| {
            Call::MakeNode(dir, name, kind, Rdev { major, minor })
        }),
        1 => entry().prop_map(|(dir, name)| Call::MakeSymlink(dir, name)),
        4 => (place(), entry()).prop_map(|(at, (dir, name))| Call::Link(at, dir, name)),
        4 => entry().prop_map(|(dir, name)| Call::Unlink(dir, name)),
        3 => entry().prop_map(|(dir, name)| Call::Rmdir(dir, name)),
        8 => (entry(), entry(), prop::sample::select(renames)).prop_map(|(from, to, how)| Call::Rename(from, to, how)),
        4 => (file.clone(), data, offset.clone()).prop_map(|(file, data, offset)| Call::Write(file, data, offset)),
        2 => (place(), offset.clone()).prop_map(|(at, size)| Call::SetLen(at, size)),
        2 => (file.clone(), prop::sample::select(vec![0u32, 1, 3, 0x10, 0x11]), offset.clone(), prop::sample::select(vec![0u64, 5, 8192]))
            .prop_map(|(file, mode, offset, len)| Call::Allocate(file, mode, offset, len)),
        2 => (file.clone(), offset.clone(), file.clone(), offset.clone(), prop::sample::select(vec![2u64, 5000]))
            .prop_map(|(from, at, to, offset, len)| Call::CopyRange(from, at, to, offset, len)),
        1 => (file.clone(), offset.clone()).prop_map(|(from, size)| Call::CopyData(from, size)),
        3 => (place(), mode()).prop_map(|(at, mode)| Call::SetMode(at, mode)),
        3 => (place(), id.clone(), id).prop_map(|(at, uid, gid)| Call::SetOwner(at, uid, gid)),
        2 => (place(), time).prop_map(|(at, time)| Call::SetTimes(at, time)),
        4 => (place(), attribute(), how).prop_map(|(at, (name, value), how)| Call::SetXattr(at, name, value, how)),
        2 => (place(), attribute()).prop_map(|(at, (name, _))| Call::RemoveXattr(at, name)),
        2 => file.clone().prop_map(Call::Read),
        2 => (file, offset, prop::sample::select(vec![Seek::Data, Seek::Hole])).prop_map(|(file, at, what)| Call::Seek(file, at, what)),
        2 => place().prop_map(Call::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_answers_as_a_disk_does(calls in prop::collection::vec(call(), 1..60)) {
        if !rustix::process::geteuid().is_root() {
            println!("not run: trusted attributes and devices need root");
            return Ok(());
        }
        let (_scratch, disk) = Scratch::new();
        let mut disk = Session::new(disk);
        let mut memory = Session::new(MemLayer::new(FsId(1)).unwrap());
        for (at, call) in calls.iter().enumerate() {
            prop_assert_eq!(memory.call(call), disk.call(call), "memory and disk at call {}: {:?}", at, call);
        }
        for at in 0..2 {
            let (memory, disk) = (memory.tree(memory.dir(at)), disk.tree(disk.dir(at)));
            prop_assert_eq!(memory, disk, "memory and disk, directory {}", at);
        }
    }
}
