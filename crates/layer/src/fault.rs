//! A layer that fails on purpose.
//!
//! [`Fault`] passes every call to the layer that it wraps, counts it, and can make one of them fail, or all from one
//! on. That is how tests visit every point at which a disk may be full or a process may be killed.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::mark::Digest;
use crate::{
    Access, At, Errno, FsId, Handle, Kind, Layer, Owner, RawEntry, Rdev, Rename, Result, Seek, SetTime,
    SetXattr, Stat, StatFs, UpperLayer,
};

/// Which calls are counted by a [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Those that change or sync something.
    Mutating,
    /// All, reads too.
    All,
}

/// What is to go wrong. Calls are numbered from 0 since the plan was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    #[default]
    None,
    /// Call `at` fails with `errno` and is not performed; the others work.
    Fail {
        /// What is counted.
        calls: Calls,
        /// The call that fails.
        at: usize,
        /// With what.
        errno: Errno,
    },
    /// Call `at` and all calls after it, of every sort, fail with `EIO`: the process is as good as dead.
    Crash {
        /// What is counted.
        calls: Calls,
        /// The first call that fails.
        at: usize,
    },
}

#[derive(Default)]
struct Counters {
    plan: Plan,
    mutating: Vec<&'static str>,
    all: Vec<&'static str>,
    struck: bool,
    crashed: bool,
}

/// The switch of one or several [`Fault`] layers. Clones are the same switch.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Counters>>);

impl Faults {
    /// A switch that lets everything pass.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what is to go wrong and counts from zero again.
    pub fn plan(&self, plan: Plan) {
        *self.0.lock() = Counters { plan, ..Counters::default() };
    }

    /// The names of the calls since the last plan, failed ones included.
    pub fn calls(&self, which: Calls) -> Vec<&'static str> {
        let counters = self.0.lock();
        match which {
            Calls::Mutating => counters.mutating.clone(),
            Calls::All => counters.all.clone(),
        }
    }

    /// Whether a call has failed because of the plan.
    pub fn struck(&self) -> bool {
        self.0.lock().struck
    }

    /// Counts one call; an error if it is to fail.
    fn count(&self, name: &'static str, mutating: bool) -> Result<()> {
        let mut counters = self.0.lock();
        counters.all.push(name);
        if mutating {
            counters.mutating.push(name);
        }
        if counters.crashed {
            return Err(Errno::IO);
        }
        let reached = |calls: Calls, at: usize| match calls {
            Calls::Mutating => mutating && counters.mutating.len() == at + 1,
            Calls::All => counters.all.len() == at + 1,
        };
        let (errno, crashed) = match counters.plan {
            Plan::Fail { calls, at, errno } if reached(calls, at) => (errno, false),
            Plan::Crash { calls, at } if reached(calls, at) => (Errno::IO, true),
            _ => return Ok(()),
        };
        counters.struck = true;
        counters.crashed = crashed;
        Err(errno)
    }
}

/// A layer whose calls fail as its [`Faults`] say.
pub struct Fault<L> {
    inner: L,
    faults: Faults,
}

impl<L> Fault<L> {
    /// Wraps `inner`.
    pub fn new(inner: L, faults: &Faults) -> Self {
        Self { inner, faults: faults.clone() }
    }

    /// The wrapped layer, for looks that do not count.
    pub fn inner(&self) -> &L {
        &self.inner
    }
}

impl<L: Layer> Fault<L> {
    fn at<'a>(at: At<'a, Self>) -> At<'a, L> {
        match at {
            At::Dir(dir) => At::Dir(dir),
            At::Name(dir, name) => At::Name(dir, name),
            At::Open(file) => At::Open(file),
        }
    }

    fn read(&self, name: &'static str) -> Result<&L> {
        self.faults.count(name, false).map(|()| &self.inner)
    }

    fn change(&self, name: &'static str) -> Result<&L> {
        self.faults.count(name, true).map(|()| &self.inner)
    }
}

impl<L: Layer> Layer for Fault<L> {
    type Dir = L::Dir;
    type File = L::File;

    fn root(&self) -> &L::Dir {
        self.inner.root()
    }

    fn filesystem(&self) -> FsId {
        self.inner.filesystem()
    }

    fn stat(&self, at: At<'_, Self>) -> Result<Stat> {
        self.read("stat")?.stat(Self::at(at))
    }

    fn open_dir(&self, dir: &L::Dir, name: &[u8]) -> Result<L::Dir> {
        self.read("open_dir")?.open_dir(dir, name)
    }

    fn known_dir(&self, dir: &L::Dir, name: &[u8], stat: &Stat) -> Result<L::Dir> {
        self.read("known_dir")?.known_dir(dir, name, stat)
    }

    fn list(&self, dir: &L::Dir, each: &mut dyn FnMut(RawEntry<'_>)) -> Result<()> {
        self.read("list")?.list(dir, each)
    }

    fn read_link(&self, at: At<'_, Self>) -> Result<Vec<u8>> {
        self.read("read_link")?.read_link(Self::at(at))
    }

    fn get_xattr(&self, at: At<'_, Self>, name: &[u8]) -> Result<Option<Vec<u8>>> {
        self.read("get_xattr")?.get_xattr(Self::at(at), name)
    }

    fn list_xattrs(&self, at: At<'_, Self>) -> Result<Vec<Vec<u8>>> {
        self.read("list_xattrs")?.list_xattrs(Self::at(at))
    }

    fn open_file(&self, at: At<'_, Self>, access: Access) -> Result<L::File> {
        self.read("open_file")?.open_file(Self::at(at), access)
    }

    fn keep_atime(&self, file: &L::File) -> Result<()> {
        self.read("keep_atime")?.keep_atime(file)
    }

    fn descriptor<'a>(&self, file: &'a L::File) -> Option<BorrowedFd<'a>> {
        self.inner.descriptor(file)
    }

    fn lend<'a>(&self, file: &'a L::File) -> Option<BorrowedFd<'a>> {
        self.inner.lend(file)
    }

    fn reopen(&self, file: OwnedFd) -> Option<L::File> {
        self.inner.reopen(file)
    }

    fn hold(&self, dir: &L::Dir, name: &[u8]) -> Result<L::File> {
        self.read("hold")?.hold(dir, name)
    }

    fn read_at(&self, file: &L::File, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read("read_at")?.read_at(file, buf, offset)
    }

    fn seek(&self, file: &L::File, offset: u64, what: Seek) -> Result<u64> {
        self.read("seek")?.seek(file, offset, what)
    }

    fn inode_flags(&self, at: At<'_, Self>) -> Result<u32> {
        self.read("inode_flags")?.inode_flags(Self::at(at))
    }

    fn verity(&self, file: &L::File) -> Result<Option<Digest>> {
        self.read("verity")?.verity(file)
    }

    fn handle(&self, at: At<'_, Self>) -> Result<Option<Handle>> {
        self.read("handle")?.handle(Self::at(at))
    }

    fn resolve(&self, handle: &Handle) -> Result<Option<Stat>> {
        self.read("resolve")?.resolve(handle)
    }

    fn statfs(&self) -> Result<StatFs> {
        self.read("statfs")?.statfs()
    }
}

impl<L: UpperLayer> UpperLayer for Fault<L> {
    fn work(&self) -> &L::Dir {
        self.inner.work()
    }

    fn create(&self, dir: &L::Dir, name: &[u8], mode: u32, owner: Owner) -> Result<L::File> {
        self.change("create")?.create(dir, name, mode, owner)
    }

    fn create_unnamed(&self, dir: &L::Dir, mode: u32, owner: Owner) -> Result<L::File> {
        self.change("create_unnamed")?.create_unnamed(dir, mode, owner)
    }

    fn make_dir(&self, dir: &L::Dir, name: &[u8], mode: u32, owner: Owner) -> Result<()> {
        self.change("make_dir")?.make_dir(dir, name, mode, owner)
    }

    fn make_node(
        &self,
        dir: &L::Dir,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: Rdev,
        owner: Owner,
    ) -> Result<()> {
        self.change("make_node")?.make_node(dir, name, kind, mode, rdev, owner)
    }

    fn make_symlink(&self, dir: &L::Dir, name: &[u8], target: &[u8], owner: Owner) -> Result<()> {
        self.change("make_symlink")?.make_symlink(dir, name, target, owner)
    }

    fn link(&self, from: At<'_, Self>, dir: &L::Dir, name: &[u8]) -> Result<()> {
        self.change("link")?.link(Self::at(from), dir, name)
    }

    fn unlink(&self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        self.change("unlink")?.unlink(dir, name)
    }

    fn rmdir(&self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        self.change("rmdir")?.rmdir(dir, name)
    }

    fn rename(&self, from: (&L::Dir, &[u8]), to: (&L::Dir, &[u8]), how: Rename) -> Result<()> {
        self.change("rename")?.rename(from, to, how)
    }

    fn write_at(&self, file: &L::File, data: &[u8], offset: u64) -> Result<usize> {
        self.change("write_at")?.write_at(file, data, offset)
    }

    fn set_len(&self, at: At<'_, Self>, size: u64) -> Result<()> {
        self.change("set_len")?.set_len(Self::at(at), size)
    }

    fn allocate(&self, file: &L::File, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.change("allocate")?.allocate(file, mode, offset, len)
    }

    fn copy_range(&self, from: (&L::File, u64), to: (&L::File, u64), len: u64) -> Result<u64> {
        self.change("copy_range")?.copy_range(from, to, len)
    }

    fn copy_data(&self, from: &L::File, to: &L::File, size: u64, go_on: &dyn Fn() -> bool) -> Result<()> {
        self.change("copy_data")?.copy_data(from, to, size, go_on)
    }

    fn set_mode(&self, at: At<'_, Self>, mode: u32) -> Result<()> {
        self.change("set_mode")?.set_mode(Self::at(at), mode)
    }

    fn set_owner(&self, at: At<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.change("set_owner")?.set_owner(Self::at(at), uid, gid)
    }

    fn copy_owner(
        &self,
        at: At<'_, Self>,
        made: &Stat,
        layer: &Self,
        from: At<'_, Self>,
        stat: &Stat,
    ) -> Result<bool> {
        self.change("set_owner")?.copy_owner(Self::at(at), made, &layer.inner, Self::at(from), stat)
    }

    fn set_times(&self, at: At<'_, Self>, atime: SetTime, mtime: SetTime) -> Result<()> {
        self.change("set_times")?.set_times(Self::at(at), atime, mtime)
    }

    fn set_xattr(&self, at: At<'_, Self>, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        self.change("set_xattr")?.set_xattr(Self::at(at), name, value, how)
    }

    fn remove_xattr(&self, at: At<'_, Self>, name: &[u8]) -> Result<()> {
        self.change("remove_xattr")?.remove_xattr(Self::at(at), name)
    }

    fn set_inode_flags(&self, at: At<'_, Self>, flags: u32) -> Result<()> {
        self.change("set_inode_flags")?.set_inode_flags(Self::at(at), flags)
    }

    fn sync(&self, at: At<'_, Self>, data_only: bool) -> Result<()> {
        self.change("sync")?.sync(Self::at(at), data_only)
    }

    fn orders_lengths(&self) -> bool {
        self.inner.orders_lengths()
    }

    fn put_data_first(&self, file: &Self::File) -> Result<()> {
        self.change("put_data_first")?.put_data_first(file)
    }

    fn failed_writes(&self, file: &Self::File) -> Result<()> {
        self.change("failed_writes")?.failed_writes(file)
    }

    fn sync_fs(&self) -> Result<()> {
        self.change("sync_fs")?.sync_fs()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mem::MemLayer;

    /// Creates a file, looks at it and gives it a second name.
    fn work(layer: &Fault<MemLayer>) -> Result<()> {
        let root = layer.root();
        layer.create(root, b"a", 0o644, Owner::Mounter)?;
        layer.stat(At::Name(root, b"a"))?;
        layer.link(At::Name(root, b"a"), root, b"b")
    }

    fn run(plan: Plan) -> (Result<()>, String, Faults) {
        let faults = Faults::new();
        let layer = Fault::new(MemLayer::new(FsId(1)).unwrap(), &faults);
        faults.plan(plan);
        let result = work(&layer);
        (result, layer.inner().dump().unwrap().lines().skip(1).collect(), faults)
    }

    const A: &str = "a file 0644 0:0 \"\"";
    const BOTH: &str = "a file 0644 0:0 \"\" link 1b file 0644 0:0 \"\" link 1";

    #[test]
    fn without_a_plan_calls_are_only_counted() {
        let (result, dump, faults) = run(Plan::None);
        assert_eq!((result, dump.as_str(), faults.struck()), (Ok(()), BOTH, false));
        assert_eq!(faults.calls(Calls::All), ["create", "stat", "link"]);
        assert_eq!(faults.calls(Calls::Mutating), ["create", "link"]);
    }

    #[test]
    fn the_chosen_call_fails_and_is_not_performed() {
        let fail = |calls, at| run(Plan::Fail { calls, at, errno: Errno::NOSPC });
        for (calls, at, expected) in [(Calls::All, 0, ""), (Calls::All, 1, A), (Calls::Mutating, 1, A)] {
            let (result, dump, faults) = fail(calls, at);
            assert_eq!((result, dump.as_str(), faults.struck()), (Err(Errno::NOSPC), expected, true));
        }
        let (result, dump, faults) = fail(Calls::All, 3);
        assert_eq!((result, dump.as_str(), faults.struck()), (Ok(()), BOTH, false));
    }

    #[test]
    fn after_a_crash_nothing_works() {
        let faults = Faults::new();
        let layer = Fault::new(MemLayer::new(FsId(1)).unwrap(), &faults);
        faults.plan(Plan::Crash { calls: Calls::Mutating, at: 1 });
        assert_eq!(work(&layer), Err(Errno::IO));
        assert_eq!(layer.stat(At::Dir(layer.root())), Err(Errno::IO));
        assert_eq!(layer.sync_fs(), Err(Errno::IO));
        assert_eq!(layer.inner().stat(At::Dir(layer.root())).map(|stat| stat.nlink), Ok(2));
    }
}
