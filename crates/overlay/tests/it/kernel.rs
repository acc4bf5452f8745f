//! The kernel's overlayfs as a subject: it has to agree with the model, or the model is wrong.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use acetate_layer::{Errno, Kind, Rdev, SetXattr};
use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, Dir as ReadDir, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT,
    XattrFlags,
};
use rustix::io::Errno as Sys;

use crate::op::{Flags, Op, Outcome, Output, op};
use crate::stack::{Dir, Flat, OLD, Path, Stack, TARGET, flatten, stack};
use crate::view::{Changed, Subject, Tree, View};
use crate::{agree, config, stack};

/// Layers on disk and the kernel's mount of them.
pub struct Kernel {
    home: PathBuf,
    lowers: usize,
    mounted: bool,
}

impl Kernel {
    /// Builds the layers and mounts them. `EPERM` without the privilege to.
    pub fn over(stack: &Stack) -> Result<Self, Errno> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("acetate-model-{}-{count}", std::process::id()));
        for name in ["work", "merged"] {
            fs::create_dir_all(home.join(name)).unwrap();
        }
        let mut kernel = Self { home, lowers: stack.len() - 1, mounted: false };
        for (at, layer) in stack.iter().enumerate() {
            build(layer, &kernel.home.join(format!("layer{at}")))?;
        }
        kernel.mount()?;
        Ok(kernel)
    }

    fn mount(&mut self) -> Result<(), Errno> {
        let layer = |at: usize| self.home.join(format!("layer{at}")).display().to_string();
        let lowers: Vec<String> = (1..=self.lowers).map(layer).collect();
        let work = self.home.join("work").display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={work}", lowers.join(":"), layer(0));
        let options = CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::NOATIME;
        rustix::mount::mount(
            "overlay",
            self.home.join("merged"),
            "overlay",
            flags,
            Some(options.as_c_str()),
        )?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) {
        if self.mounted {
            rustix::mount::unmount(self.home.join("merged"), rustix::mount::UnmountFlags::empty()).unwrap();
            self.mounted = false;
        }
    }

    fn path(&self, path: &Path) -> PathBuf {
        real(&self.home.join("merged"), path)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.unmount();
        fs::remove_dir_all(&self.home).unwrap();
    }
}

fn real(root: &std::path::Path, path: &Path) -> PathBuf {
    path.iter().fold(root.to_owned(), |at, name| at.join(std::ffi::OsStr::from_bytes(name)))
}

fn mode(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}

/// Makes the layer `root` out of its description.
pub fn build(layer: &Dir, root: &std::path::Path) -> Result<(), Errno> {
    fs::create_dir(root).unwrap();
    let objects = flatten(layer);
    for (path, object) in &objects {
        let path = real(root, path);
        match object {
            Flat::Dir(_) => fs::create_dir(&path).unwrap(),
            Flat::File { content, mode: bits, .. } => {
                fs::write(&path, content).unwrap();
                rustix::fs::chmod(&path, mode(*bits))?;
            }
            Flat::Link(first) => fs::hard_link(real(root, first), &path).unwrap(),
            Flat::Symlink => std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(TARGET), &path).unwrap(),
            Flat::Fifo => {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode(0o644), 0)?;
                rustix::fs::chmod(&path, mode(0o644))?;
            }
            Flat::Whiteout => rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode(0), 0)?,
        }
        if let Flat::File { xattr: Some(value), .. } = object {
            rustix::fs::setxattr(&path, "user.x", value, XattrFlags::empty())?;
        }
    }
    // Directories last: their times change with their entries.
    let whole = (Vec::new(), Flat::Dir(layer));
    for (path, object) in objects.iter().chain([&whole]).rev() {
        let path = real(root, path);
        if let Flat::Dir(dir) = object {
            rustix::fs::chmod(&path, mode(dir.mode))?;
            if let Some(value) = &dir.xattr {
                rustix::fs::setxattr(&path, "user.x", value, XattrFlags::empty())?;
            }
            if dir.opaque {
                rustix::fs::setxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
            }
        }
        touch(&path, OLD)?;
    }
    touch(root, OLD)
}

fn touch(path: &std::path::Path, seconds: i64) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn kind(kind: FileType) -> Kind {
    match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        other => panic!("an object of type {other:?}"),
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// Opens what is a file or a directory; what else there is would block or reach a driver.
fn open(path: &std::path::Path, flags: OFlags) -> Result<rustix::fd::OwnedFd, Errno> {
    let stat = rustix::fs::lstat(path)?;
    match kind(FileType::from_raw_mode(stat.st_mode)) {
        Kind::File | Kind::Dir => rustix::fs::open(path, flags, Mode::empty()),
        Kind::Symlink => Err(Errno::NOENT),
        _ => Err(Errno::NXIO),
    }
}

fn names(path: &std::path::Path) -> Result<BTreeMap<Vec<u8>, Kind>, Errno> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = BTreeMap::new();
    for entry in ReadDir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.insert(name.to_vec(), kind(entry.file_type()));
        }
    }
    Ok(names)
}

fn xattrs(path: &std::path::Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut list).unwrap();
    let names = list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, CString::new(name).unwrap(), &mut value).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}

impl Subject for Kernel {
    fn apply(&mut self, op: &Op) -> Outcome {
        let r = |path: &Path| self.path(path);
        match op {
            Op::Create(path, bits) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
                rustix::fs::open(r(path), flags, mode(*bits)).map(drop)?;
            }
            Op::Mkdir(path, bits) => rustix::fs::mkdir(r(path), mode(*bits))?,
            Op::Mknod(path, kind, rdev) => {
                let dev = rustix::fs::makedev(rdev.major, rdev.minor);
                rustix::fs::mknodat(CWD, r(path), file_type(*kind), mode(0o644), dev)?;
            }
            Op::Symlink(path) => rustix::fs::symlink(TARGET, r(path))?,
            Op::Link(old, new) => rustix::fs::link(r(old), r(new))?,
            Op::Unlink(path) => rustix::fs::unlink(r(path))?,
            Op::Rmdir(path) => rustix::fs::rmdir(r(path))?,
            Op::Rename(old, new, flags) => {
                let flags = match flags {
                    Flags::None => RenameFlags::empty(),
                    Flags::NoReplace => RenameFlags::NOREPLACE,
                    Flags::Exchange => RenameFlags::EXCHANGE,
                };
                rustix::fs::renameat_with(CWD, r(old), CWD, r(new), flags)?;
            }
            Op::Write(path, offset, data) => {
                let fd = open(&r(path), OFlags::WRONLY)?;
                rustix::io::pwrite(fd, data, *offset)?;
            }
            Op::Empty(path) => open(&r(path), OFlags::WRONLY | OFlags::TRUNC).map(drop)?,
            Op::Truncate(path, size) => {
                // truncate(2) follows symlinks; rustix has only ftruncate(2).
                let path = std::ffi::CString::new(r(path).into_os_string().into_vec()).unwrap();
                truncate(&path, *size)?;
            }
            Op::Chmod(path, bits) => rustix::fs::chmod(r(path), mode(*bits))?,
            Op::Chown(path, uid, gid) => {
                let (uid, gid) = (uid.map(rustix::fs::Uid::from_raw), gid.map(rustix::fs::Gid::from_raw));
                rustix::fs::chownat(CWD, r(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Op::Touch(path, time) => touch(&r(path), *time)?,
            Op::SetXattr(path, name, value, how) => {
                let flags = match how {
                    SetXattr::Any => XattrFlags::empty(),
                    SetXattr::Create => XattrFlags::CREATE,
                    SetXattr::Replace => XattrFlags::REPLACE,
                };
                rustix::fs::lsetxattr(r(path), *name, value, flags)?;
            }
            Op::RemoveXattr(path, name) => rustix::fs::lremovexattr(r(path), *name)?,
            Op::Unnamed(dir, data, path) => {
                let fd = rustix::fs::open(r(dir), OFlags::TMPFILE | OFlags::RDWR, mode(0o644))?;
                rustix::io::pwrite(&fd, data, 0)?;
                rustix::fs::linkat(&fd, "", CWD, r(path), AtFlags::EMPTY_PATH)?;
            }
            Op::Read(path) => {
                let fd = open(&r(path), OFlags::RDONLY)?;
                let mut content = vec![0; 1 << 16];
                let len = rustix::io::pread(fd, &mut content, 0)?;
                content.truncate(len);
                return Ok(Output::Bytes(content));
            }
            Op::List(path) => return names(&r(path)).map(Output::Names),
            Op::ReadLink(path) => {
                return rustix::fs::readlink(r(path), Vec::new())
                    .map(|target| Output::Bytes(target.into_bytes()));
            }
        }
        Ok(Output::Nothing)
    }

    fn walk(&mut self) -> Tree {
        let mut tree = BTreeMap::new();
        let mut first = BTreeMap::new();
        for (path, stat) in stats(self) {
            let real = self.path(&path);
            let kind = kind(FileType::from_raw_mode(stat.st_mode));
            let content = match kind {
                Kind::File => fs::read(&real).unwrap(),
                Kind::Symlink => fs::read_link(&real).unwrap().into_os_string().into_vec(),
                _ => Vec::new(),
            };
            let same_as = first.entry(stat.st_ino).or_insert_with(|| path.clone()).clone();
            let view = View {
                kind,
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                nlink: stat.st_nlink as u32,
                rdev: Rdev { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) },
                content,
                xattrs: xattrs(&real),
                changed: Changed::from_seconds(stat.st_mtime),
                same_as,
            };
            tree.insert(path, view);
        }
        Tree(tree)
    }

    fn numbers(&mut self) -> BTreeMap<Path, u64> {
        stats(self).into_iter().map(|(path, stat)| (path, stat.st_ino)).collect()
    }

    fn remount(&mut self) {
        self.unmount();
        self.mount().unwrap();
    }
}

/// Attributes of all objects; what a directory lists has to be there and be of the type that it says.
fn stats(kernel: &Kernel) -> BTreeMap<Path, rustix::fs::Stat> {
    let mut todo = vec![Path::new()];
    let mut stats = BTreeMap::new();
    while let Some(path) = todo.pop() {
        let stat = rustix::fs::lstat(kernel.path(&path)).unwrap();
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            for (name, listed) in names(&kernel.path(&path)).unwrap() {
                let child = [path.as_slice(), &[name]].concat();
                let stat = rustix::fs::lstat(kernel.path(&child)).unwrap();
                assert_eq!(
                    listed,
                    kind(FileType::from_raw_mode(stat.st_mode)),
                    "type of {}",
                    stack::show(&child)
                );
                todo.push(child);
            }
        }
        stats.insert(path, stat);
    }
    stats
}

fn truncate(path: &std::ffi::CStr, size: u64) -> Result<(), Sys> {
    let path = std::ffi::OsStr::from_bytes(path.to_bytes());
    let stat = rustix::fs::stat(path)?;
    match kind(FileType::from_raw_mode(stat.st_mode)) {
        Kind::File => {
            let file = rustix::fs::open(path, OFlags::WRONLY, Mode::empty())?;
            rustix::fs::ftruncate(file, size)
        }
        Kind::Dir => Err(Errno::ISDIR),
        _ => Err(Errno::INVAL),
    }
}

proptest! {
    #![proptest_config(config(64))]

    /// If the kernel and the model part, the model is wrong.
    #[test]
    fn the_model_agrees_with_the_kernel(stack in stack(), ops in prop::collection::vec(op(), 1..40)) {
        rustix::process::umask(Mode::empty());
        let mut kernel = match Kernel::over(&stack) {
            Ok(kernel) => kernel,
            Err(Errno::PERM | Errno::NODEV) => {
                println!("not run: no privilege to mount an overlay, or no overlayfs");
                return Ok(());
            }
            Err(errno) => panic!("cannot mount: {errno}"),
        };
        let result = agree::run(&stack, &ops, &mut kernel);
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}
