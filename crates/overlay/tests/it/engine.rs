//! The engine over layers in memory as a subject.
//!
//! What the kernel's VFS decides before a filesystem is asked (path resolution, who may be linked or renamed where,
//! which xattrs an object can have) is decided here; everything else is the engine's.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use acetate_layer::fault::{Fault, Faults, Plan};
use acetate_layer::mem::{Abilities, MemFs, MemLayer, Put};
use acetate_layer::view::{Rules, View as Shown};
use acetate_layer::work::{self, WhiteoutForm};
use acetate_layer::{Access, At, Errno, FsId, Kind, Layer, Rdev, SetTime, Time, acl};
use acetate_overlay::{
    Attr, Caller, Config, Entry, HandleId, Index, Keeper, KeptFiles, KeptFor, LEDGER_BYTES, Ledger, NodeId,
    OpError, OpenFlags, Overlay, RenameKind, Room, SetAttr, Stack as Layers,
};
use acetate_sys::memory::SharedMemory;
use proptest::prelude::*;

use crate::op::{Flags, Op, Outcome, Output, op};
use crate::stack::{Dir, Flat, OLD, Path, Stack, TARGET, flatten, stack};
use crate::view::{Changed, Subject, Tree, View};
use crate::{agree, config};

type Memory = Shown<Fault<MemLayer>>;

/// Root, with no umask.
const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0 };

/// So many words of a ledger are used by a few objects: its head, and a chunk for each sort of record.
const LEDGER_USED: usize = 1 << 17;

/// The memory of a ledger.
struct Kept(Arc<SharedMemory>);

impl AsRef<[AtomicU64]> for Kept {
    fn as_ref(&self) -> &[AtomicU64] {
        (*self.0).as_ref()
    }
}

/// Files in memory have no descriptors to keep.
struct NoFiles;

impl Keeper for NoFiles {
    fn keep(&self, _: KeptFor, _: Option<usize>, _: BorrowedFd<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn let_go(&self, _: KeptFor) {}
}

/// Layers in memory and a mount of them.
pub struct Engine {
    layers: Vec<MemLayer>,
    pub faults: Faults,
    config: Config,
    /// Whiteouts and opaque marks of upper are files.
    files: bool,
    overlay: Overlay<Memory>,
    /// What the kernel gets to know is recorded there.
    ledger: Option<Arc<SharedMemory>>,
    /// The operation is the one that an earlier server was asked for: the VFS has looked at its names before that.
    again: bool,
    /// The nodes whose attributes have changed on the side.
    told: Arc<Mutex<Vec<NodeId>>>,
}

impl Engine {
    /// Builds the layers, all on one filesystem, and mounts them.
    pub fn over(stack: &Stack, abilities: Abilities, config: Config) -> Self {
        let fs = MemFs::new(FsId(1));
        let layers: Vec<MemLayer> = stack.iter().map(|layer| build(layer, &fs)).collect();
        fs.set_abilities(abilities);
        Self::mounting(layers, config, false)
    }

    /// The same, mounted with whiteouts and opaque marks of upper as files.
    pub fn with_files(stack: &Stack) -> Self {
        let Self { layers, config, .. } = Self::over(stack, Abilities::default(), Config::default());
        Self::mounting(layers, config, true)
    }

    fn mounting(mut layers: Vec<MemLayer>, config: Config, files: bool) -> Self {
        let faults = Faults::new();
        let upper = &mut layers[0];
        let workdir = upper.workdir().clone();
        let work = work::prepare(upper, &workdir, 0, &[]).unwrap();
        upper.set_work(work);
        if config.index != Index::Nothing {
            let index = work::open_index(upper, &workdir, 0).unwrap();
            upper.set_work(index);
        }
        let rules = Arc::new(Rules::default());
        let show = |layer: &MemLayer| Fault::new(layer.clone(), &faults);
        let lowers = layers[1..].iter().map(|layer| Shown::new(show(layer), rules.clone(), false)).collect();
        let upper = match files {
            true => Shown::with_files(show(&layers[0]), rules.clone(), config.dialect),
            false => Shown::new(show(&layers[0]), rules.clone(), false),
        };
        let parts = Layers { upper: Some(upper), lowers, data: Vec::new() };
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let changed = move |node, _| tell.lock().unwrap().push(node);
        let overlay = Overlay::new(parts, config.clone(), Box::new(changed)).unwrap();
        Self { layers, faults, config, files, overlay, ledger: None, again: false, told }
    }

    /// Records what the kernel gets to know, for a server that takes the mount over.
    pub fn recording(self) -> Self {
        let memory = Arc::new(SharedMemory::create(LEDGER_BYTES).unwrap());
        let ledger = Ledger::new(Box::new(Kept(memory.clone())), Box::new(NoFiles)).unwrap();
        Self { overlay: self.overlay.recording(ledger), ledger: Some(memory), ..self }
    }

    /// The server that takes over from this one, killed at this moment.
    pub fn taken_over(self) -> Self {
        let old = self.ledger.as_ref().unwrap();
        let memory = Arc::new(SharedMemory::create(LEDGER_BYTES).unwrap());
        // What was stored, before the old server clears its memory away, which a killed one does not.
        for (new, old) in (*memory).as_ref().iter().zip(&(**old).as_ref()[..LEDGER_USED]) {
            match old.load(Ordering::Relaxed) {
                0 => {}
                word => new.store(word, Ordering::Relaxed),
            }
        }
        let Self { layers, config, files, overlay, .. } = self;
        drop(overlay);
        let next = Self::mounting(layers, config, files);
        let ledger = Ledger::load_from(Box::new(Kept(memory.clone())), Box::new(NoFiles)).unwrap();
        let (overlay, taken) = next.overlay.taking_over(ledger, KeptFiles::new()).unwrap();
        assert_eq!(taken.lost_handles, 0);
        Self { overlay, ledger: Some(memory), ..next }
    }

    /// Applies an operation as one request of that number, which an earlier server was asked for, or not. The answer is
    /// written if `answered`.
    pub fn request(
        &mut self,
        op: &Op,
        (unique, again): (u64, bool),
        answered: impl Fn(&Faults) -> bool,
    ) -> Outcome {
        assert!(self.overlay.begin(unique, again));
        self.again = again;
        let outcome = self.act(op);
        self.again = false;
        if answered(&self.faults) {
            self.overlay.finish(outcome.is_ok());
            self.overlay.end();
        }
        outcome
    }

    /// The ids by which the kernel knows all objects.
    pub fn ids(&self) -> BTreeMap<Path, NodeId> {
        self.all().into_iter().map(|(path, (node, _))| (path, node)).collect()
    }

    /// Begins with a request that an earlier server has not answered; `false` if it is to be refused.
    pub fn begin_again(&self, unique: u64) -> bool {
        self.overlay.begin(unique, true)
    }

    /// The server crashes, which its holder notes.
    pub fn crash(&self) {
        Ledger::blame((**self.ledger.as_ref().unwrap()).as_ref());
    }

    /// The id of an object, which the kernel gets one more reference to.
    pub fn id(&self, path: &Path) -> NodeId {
        self.find(path).unwrap().0
    }

    /// The kernel gives references back.
    pub fn forget(&self, node: NodeId, count: u64) {
        self.overlay.forget(node, count);
    }

    /// A layer, to change it behind the mount; 0 is upper.
    pub fn layer(&self, number: usize) -> &MemLayer {
        &self.layers[number]
    }

    /// Looks an object up.
    pub fn seen(&self, path: &Path) {
        self.find(path).unwrap();
    }

    /// The node of an object, held as by an open descriptor.
    pub fn held(&self, path: &Path) -> NodeId {
        let node = self.find(path).unwrap().0;
        self.overlay.open(node, OpenFlags::READ).unwrap();
        node
    }

    /// Gives the object of a descriptor the name `path`.
    pub fn link_held(&self, node: NodeId, path: &Path) -> Result<(), Errno> {
        let (dir, name) = self.place(path)?;
        self.overlay.link(node, dir, name).map(drop).map_err(errno)
    }

    /// Whether the upper part of a directory is marked impure.
    pub fn is_impure(&self, path: &Path) -> bool {
        let upper = &self.layers[0];
        let dir = path.iter().fold(upper.root().clone(), |dir, name| upper.open_dir(&dir, name).unwrap());
        upper.get_xattr(At::Dir(&dir), b"trusted.overlay.impure").unwrap().is_some()
    }

    /// Whether each of `paths` was said, since the last time, to have attributes that nobody asked to change.
    pub fn told<const N: usize>(&self, paths: [&Path; N]) -> [bool; N] {
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        paths.map(|path| told.contains(&self.find(path).unwrap().0))
    }

    /// The mount of what would be found after a crash at this moment.
    pub fn after_a_crash(&self) -> Self {
        let fs = self.layers[0].fs().snapshot();
        let layers = self.layers.iter().map(|layer| layer.on(&fs).unwrap()).collect();
        Self::mounting(layers, self.config.clone(), self.files)
    }

    /// The names in the staging directory, the shared whiteout not counted.
    pub fn staged(&self) -> Vec<Vec<u8>> {
        let layer = &self.layers[0];
        let workdir = layer.workdir().clone();
        let indexed = self.config.index != Index::Nothing;
        let work = layer.open_dir(&workdir, if indexed { work::INDEX } else { work::WORK }).unwrap();
        let mut names = Vec::new();
        layer.list(&work, &mut |entry| names.push(entry.name.to_vec())).unwrap();
        names.retain(|name| {
            let stat = layer.stat(At::Name(&work, name)).unwrap();
            // What is indexed stays.
            stat.kind != Kind::CharDevice && name.starts_with(b"#")
        });
        names
    }

    /// Finds the object at a path, without following a symlink at its end.
    fn find(&self, path: &[Vec<u8>]) -> Result<(NodeId, Attr), Errno> {
        let mut node = NodeId::ROOT;
        let mut attr = self.overlay.getattr(node, None).map_err(errno)?;
        for name in path {
            match attr.kind {
                Kind::Dir => {}
                // It leads nowhere.
                Kind::Symlink => return Err(Errno::NOENT),
                _ => return Err(Errno::NOTDIR),
            }
            let entry = self.overlay.lookup(node, name).map_err(errno)?.ok_or(Errno::NOENT)?;
            (node, attr) = (entry.node, entry.attr);
        }
        Ok((node, attr))
    }

    /// The directory and the name that a path ends in.
    fn place<'a>(&self, path: &'a Path) -> Result<(NodeId, &'a [u8]), Errno> {
        let (name, dir) = path.split_last().ok_or(Errno::BUSY)?;
        let (node, attr) = self.find(dir)?;
        match attr.kind {
            Kind::Dir => Ok((node, name)),
            Kind::Symlink => Err(Errno::NOENT),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// The place of an object that must not be there yet.
    fn free<'a>(&self, path: &'a Path) -> Result<(NodeId, &'a [u8]), Errno> {
        let place = self.place(path)?;
        if self.again {
            return Ok(place);
        }
        match self.find(path) {
            Err(Errno::NOENT) => Ok(place),
            Err(errno) => Err(errno),
            Ok(_) => Err(Errno::EXIST),
        }
    }

    /// Follows a symlink at the end, to nowhere.
    fn follow(&self, path: &Path) -> Result<(NodeId, Attr), Errno> {
        let found = self.find(path)?;
        if found.1.kind == Kind::Symlink { Err(Errno::NOENT) } else { Ok(found) }
    }

    /// A regular file to be written; a directory is `EISDIR`.
    fn writable(&self, path: &Path) -> Result<NodeId, Errno> {
        let (node, attr) = self.follow(path)?;
        match attr.kind {
            Kind::File => Ok(node),
            Kind::Dir => Err(Errno::ISDIR),
            _ => Err(Errno::NXIO),
        }
    }

    fn rename(&self, old: &Path, new: &Path, flags: Flags) -> Result<(), Errno> {
        let (from, to) = (self.place(old)?, self.place(new)?);
        let kind = match flags {
            Flags::None => RenameKind::Replace,
            Flags::NoReplace => RenameKind::NoReplace,
            Flags::Exchange => RenameKind::Exchange,
        };
        if self.again {
            return self.overlay.rename(from.0, from.1, to.0, to.1, kind).map_err(errno);
        }
        self.find(old)?;
        let target = match self.find(new) {
            Err(Errno::NOENT) => None,
            other => Some(other?),
        };
        match (flags, &target) {
            (Flags::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (Flags::Exchange, None) => return Err(Errno::NOENT),
            _ => {}
        }
        let below = |inner: &Path, outer: &Path| inner.len() > outer.len() && inner.starts_with(outer);
        if below(new, old) {
            return Err(Errno::INVAL);
        }
        if below(old, new) {
            return Err(if flags == Flags::Exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        self.overlay.rename(from.0, from.1, to.0, to.1, kind).map_err(errno)
    }

    /// What the VFS says of an xattr before the filesystem is asked.
    fn may_change_xattr(kind: Kind, name: &[u8]) -> Result<(), Errno> {
        let plain = matches!(kind, Kind::File | Kind::Dir);
        match name {
            acl::ACCESS | acl::DEFAULT if kind == Kind::Symlink => Err(Errno::OPNOTSUPP),
            _ if name.starts_with(b"user.") && !plain => Err(Errno::PERM),
            _ => Ok(()),
        }
    }

    fn act(&self, op: &Op) -> Outcome {
        let overlay = &self.overlay;
        match op {
            Op::Create(path, mode) => {
                let (dir, name) = self.free(path)?;
                let created = overlay.create(dir, name, *mode, OpenFlags::READ_WRITE, &ROOT);
                overlay.release(created.map_err(errno)?.1);
            }
            Op::Mkdir(path, mode) => {
                let (dir, name) = self.free(path)?;
                // mkdir(2) knows only these bits.
                overlay.mkdir(dir, name, *mode & 0o1777, &ROOT).map_err(errno)?;
            }
            Op::Mknod(path, kind, rdev) => {
                let (dir, name) = self.free(path)?;
                overlay.mknod(dir, name, *kind, 0o644, *rdev, &ROOT).map_err(errno)?;
            }
            Op::Symlink(path) => {
                let (dir, name) = self.free(path)?;
                overlay.symlink(dir, name, TARGET, &ROOT).map_err(errno)?;
            }
            Op::Link(old, new) => {
                let (node, _) = self.find(old)?;
                let (dir, name) = self.free(new)?;
                overlay.link(node, dir, name).map_err(errno)?;
            }
            Op::Unlink(path) => {
                let (dir, name) = self.place(path)?;
                overlay.unlink(dir, name).map_err(errno)?;
            }
            Op::Rmdir(path) => {
                let (dir, name) = self.place(path)?;
                overlay.rmdir(dir, name).map_err(errno)?;
            }
            Op::Rename(old, new, flags) => self.rename(old, new, *flags)?,
            Op::Write(path, offset, data) => {
                let flags = OpenFlags { access: Access::Write, ..OpenFlags::READ };
                let handle = overlay.open(self.writable(path)?, flags).map_err(errno)?;
                // An empty write is none.
                let written =
                    if data.is_empty() { Ok(0) } else { overlay.write(handle, *offset, data, None) };
                overlay.release(handle);
                written.map_err(errno)?;
            }
            Op::Empty(path) => {
                let flags = OpenFlags { access: Access::Write, truncate: true, ..OpenFlags::READ };
                overlay.release(overlay.open(self.writable(path)?, flags).map_err(errno)?);
            }
            Op::Truncate(path, size) => {
                let (node, attr) = self.follow(path)?;
                match attr.kind {
                    Kind::File => {}
                    Kind::Dir => return Err(Errno::ISDIR),
                    _ => return Err(Errno::INVAL),
                }
                let flags = OpenFlags { access: Access::Write, ..OpenFlags::READ };
                let handle = overlay.open(node, flags).map_err(errno)?;
                let set = SetAttr { size: Some(*size), ..SetAttr::default() };
                let done = overlay.setattr(node, Some(handle), &set, &ROOT);
                overlay.release(handle);
                done.map_err(errno)?;
            }
            Op::Chmod(path, mode) => {
                let set = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                overlay.setattr(self.follow(path)?.0, None, &set, &ROOT).map_err(errno)?;
            }
            Op::Chown(path, uid, gid) => {
                let set = SetAttr { uid: *uid, gid: *gid, ..SetAttr::default() };
                overlay.setattr(self.find(path)?.0, None, &set, &ROOT).map_err(errno)?;
            }
            Op::Touch(path, time) => {
                let mtime = SetTime::To(Time { sec: *time, nsec: 0 });
                let set = SetAttr { mtime, ..SetAttr::default() };
                overlay.setattr(self.find(path)?.0, None, &set, &ROOT).map_err(errno)?;
            }
            Op::SetXattr(path, name, value, how) => {
                let (node, attr) = self.find(path)?;
                Self::may_change_xattr(attr.kind, name)?;
                if *name == acl::DEFAULT && attr.kind != Kind::Dir {
                    return Err(Errno::ACCESS);
                }
                overlay.setxattr(node, name, value, *how, &ROOT, false).map_err(errno)?;
            }
            Op::RemoveXattr(path, name) => {
                let (node, attr) = self.find(path)?;
                Self::may_change_xattr(attr.kind, name)?;
                overlay.removexattr(node, name, &ROOT).map_err(errno)?;
            }
            Op::Unnamed(dir, data, path) => {
                let (dir, attr) = self.follow(dir)?;
                if attr.kind != Kind::Dir {
                    return Err(Errno::NOTDIR);
                }
                let made = overlay.tmpfile(dir, 0o644, OpenFlags::READ_WRITE, &ROOT).map_err(errno)?;
                let result = self.fill_and_name(&made, data, path);
                overlay.release(made.1);
                result?;
            }
            Op::Read(path) => {
                let (node, attr) = self.follow(path)?;
                return match attr.kind {
                    Kind::File => self.content(node).map(Output::Bytes),
                    Kind::Dir => Err(Errno::ISDIR),
                    _ => Err(Errno::NXIO),
                };
            }
            Op::List(path) => {
                let (node, attr) = self.follow(path)?;
                return if attr.kind == Kind::Dir {
                    self.names(node).map(Output::Names)
                } else {
                    Err(Errno::NOTDIR)
                };
            }
            Op::ReadLink(path) => {
                return overlay.readlink(self.find(path)?.0).map(Output::Bytes).map_err(errno);
            }
        }
        Ok(Output::Nothing)
    }

    fn fill_and_name(&self, made: &(Entry, HandleId), data: &[u8], path: &Path) -> Result<(), Errno> {
        if !data.is_empty() {
            self.overlay.write(made.1, 0, data, None).map_err(errno)?;
        }
        let (dir, name) = self.free(path)?;
        self.overlay.link(made.0.node, dir, name).map_err(errno)?;
        Ok(())
    }

    fn content(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        let handle = self.overlay.open(node, OpenFlags::READ).map_err(errno)?;
        let mut content = vec![0; 1 << 16];
        let read = self.overlay.read(handle, 0, &mut content);
        self.overlay.release(handle);
        content.truncate(read.map_err(errno)?);
        Ok(content)
    }

    fn names(&self, node: NodeId) -> Result<BTreeMap<Vec<u8>, Kind>, Errno> {
        let mut names = BTreeMap::new();
        let listed = self.overlay.readdir(node, 0, &mut |item| {
            if !matches!(item.name, b"." | b"..") {
                assert_eq!(names.insert(item.name.to_vec(), item.kind), None, "listed twice");
            }
            Room::Taken
        });
        listed.map(|()| names).map_err(errno)
    }

    fn xattrs(&self, node: NodeId) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let list = match self.overlay.listxattr(node, &ROOT) {
            Err(error) if error.errno() == Errno::OPNOTSUPP => return BTreeMap::new(),
            other => other.unwrap(),
        };
        let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        names.map(|name| (name.to_vec(), self.overlay.getxattr(node, name).unwrap())).collect()
    }

    /// Nodes and attributes of all objects; what a directory lists has to be there and be of the type that it says.
    fn all(&self) -> BTreeMap<Path, (NodeId, Attr)> {
        let mut todo = vec![Path::new()];
        let mut all = BTreeMap::new();
        while let Some(path) = todo.pop() {
            let (node, attr) = self.find(&path).unwrap();
            if attr.kind == Kind::Dir {
                for (name, kind) in self.names(node).unwrap() {
                    let child = [path.as_slice(), &[name]].concat();
                    assert_eq!(self.find(&child).unwrap().1.kind, kind);
                    todo.push(child);
                }
            }
            all.insert(path, (node, attr));
        }
        all
    }
}

fn errno(error: OpError) -> Errno {
    error.errno()
}

impl Subject for Engine {
    fn apply(&mut self, op: &Op) -> Outcome {
        self.act(op)
    }

    fn walk(&mut self) -> Tree {
        self.faults.plan(Plan::None);
        let mut first = BTreeMap::new();
        let mut tree = BTreeMap::new();
        for (path, (node, attr)) in self.all() {
            let content = match attr.kind {
                Kind::File => self.content(node).unwrap(),
                Kind::Symlink => self.overlay.readlink(node).unwrap(),
                _ => Vec::new(),
            };
            let same_as = first.entry(attr.ino).or_insert_with(|| path.clone()).clone();
            let view = View {
                kind: attr.kind,
                mode: attr.mode,
                uid: attr.uid,
                gid: attr.gid,
                nlink: attr.nlink,
                rdev: attr.rdev,
                content,
                xattrs: self.xattrs(node),
                changed: Changed::from_seconds(attr.mtime.sec),
                same_as,
            };
            tree.insert(path, view);
        }
        Tree(tree)
    }

    fn numbers(&mut self) -> BTreeMap<Path, u64> {
        self.all().into_iter().map(|(path, (_, attr))| (path, attr.ino)).collect()
    }

    fn remount(&mut self) {
        *self = Self::mounting(self.layers.clone(), self.config.clone(), self.files);
    }
}

/// Makes a layer out of its description.
fn build(root: &Dir, fs: &MemFs) -> MemLayer {
    let layer = fs.layer().unwrap();
    let old = Time { sec: OLD, nsec: 0 };
    let joined = |path: &Path| path.join(&b'/');
    let objects = flatten(root);
    for (path, object) in &objects {
        let put = match object {
            Flat::Dir(_) => Put::dir(),
            Flat::File { mode, content, xattr } => {
                let put = Put::file(content).mode(*mode);
                xattr.iter().fold(put, |put, value| put.xattr(b"user.x", value))
            }
            Flat::Link(first) => {
                layer.put_link(&joined(first), &joined(path)).unwrap();
                continue;
            }
            Flat::Symlink => Put::symlink(TARGET),
            Flat::Fifo => Put::node(Kind::Fifo, Rdev::default()).mode(0o644),
            Flat::Whiteout => Put::whiteout(),
        };
        layer.put(&joined(path), put.times(old, old)).unwrap();
    }
    // Directories last: their times change with their entries.
    let whole = (Path::new(), Flat::Dir(root));
    for (path, object) in objects.iter().chain([&whole]).rev() {
        if let Flat::Dir(dir) = object {
            let mut put = Put::dir().mode(dir.mode).times(old, old);
            if let Some(value) = &dir.xattr {
                put = put.xattr(b"user.x", value);
            }
            if dir.opaque {
                put = put.xattr(b"trusted.overlay.opaque", b"y");
            }
            let name = if path.is_empty() { b".".to_vec() } else { joined(path) };
            layer.put(&name, put).unwrap();
        }
    }
    layer
}

/// The rules for a filesystem that cannot make device whiteouts.
pub fn with_xattr_whiteouts() -> Config {
    Config { whiteouts: WhiteoutForm::Xattr, ..Config::default() }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn the_engine_agrees_with_the_model(stack in stack(), ops in prop::collection::vec(op(), 1..40)) {
        let mut engine = Engine::over(&stack, Abilities::default(), Config::default());
        let result = agree::run(&stack, &ops, &mut engine);
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }

    /// The index shows the same whether handles can be opened or not, and either way the other goes on with it.
    #[test]
    fn an_index_is_the_same_without_opening_handles(
        stack in stack(),
        ops in prop::collection::vec(op(), 1..40),
        swap in any::<bool>(),
    ) {
        let config = Config { index: Index::Links, offline_changes: false, ..Config::default() };
        let by_name = Config { handles_open: false, ..config.clone() };
        let closed = Abilities { handles_open: false, ..Abilities::default() };
        let mut open = Engine::over(&stack, Abilities::default(), config);
        let mut named = Engine::over(&stack, closed, by_name);
        let same = |open: &mut Engine, named: &mut Engine, when: &str| {
            let difference = open.walk().difference(&named.walk());
            prop_assert!(difference.is_none(), "{when}: {}", difference.unwrap_or_default());
            prop_assert_eq!(open.numbers(), named.numbers());
            Ok(())
        };
        for (at, op) in ops.iter().enumerate() {
            prop_assert_eq!(open.apply(op), named.apply(op), "op {}: {:?}", at, op);
            same(&mut open, &mut named, &format!("after op {at}: {op:?}"))?;
            if at % 5 == 4 {
                open.remount();
                named.remount();
                same(&mut open, &mut named, "after a remount")?;
            }
        }
        if swap {
            // A privileged mount takes over what an ordinary one has left.
            named.layers[0].fs().set_abilities(Abilities::default());
            named.config.handles_open = true;
        }
        open.remount();
        named.remount();
        same(&mut open, &mut named, "in the end")?;
    }

    #[test]
    fn the_engine_agrees_with_the_model_without_unnamed_files(
        stack in stack(),
        ops in prop::collection::vec(op().prop_filter("needs them", |op| !matches!(op, Op::Unnamed(..))), 1..40),
    ) {
        let abilities = Abilities { unnamed_files: false, ..Abilities::default() };
        let mut engine = Engine::over(&stack, abilities, Config::default());
        let result = agree::run(&stack, &ops, &mut engine);
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }

    #[test]
    fn the_engine_agrees_with_the_model_where_whiteouts_are_files(
        stack in stack(),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let result = agree::run(&stack, &ops, &mut Engine::with_files(&stack));
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}
