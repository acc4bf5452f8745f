//! Real mounts over directories.

use acetate_fuse::{
    Connection, Ended, Feature, InForce, MountSpec, ServeError, Tuning, Unmount, UnmountError, unmount,
};
use acetate_layer::dir::DirLayer;
use acetate_layer::work;
use acetate_overlay::{Config, Overlay, Stack};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, IFlags, Mode, OFlags, RenameFlags, SeekFrom, StatxFlags,
    XattrFlags,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

/// A served mount over directories of its own, with everything gone when this is.
pub struct Mounted {
    pub home: PathBuf,
    pub merged: PathBuf,
    pub in_force: InForce,
    server: Option<JoinHandle<Result<Ended, ServeError>>>,
}

/// Mounts over the lower directory that `fill` makes; `None` where nothing can be mounted, after saying why.
pub fn mounted(name: &str, tuning: Tuning, fill: impl FnOnce(&Path)) -> Option<Mounted> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return None;
    }
    if let Err(error) = fs::File::open("/dev/fuse") {
        println!("skipped: /dev/fuse: {error}");
        return None;
    }
    let home = std::env::temp_dir().join(format!("acetate-fuse-{name}-{}", std::process::id()));
    for dir in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(home.join(dir)).unwrap();
    }
    fill(&home.join("lower"));
    let merged = home.join("merged");
    let spec = MountSpec { source: b"some,where".to_vec(), ..MountSpec::default() };
    let connection = Connection::mount(&merged, &spec).unwrap().with_tuning(tuning);
    let mut upper = DirLayer::open_upper(&home.join("upper")).unwrap();
    let workdir = upper.open_workdir(&home.join("work")).unwrap();
    let staging = work::prepare(&upper, &workdir, 0, &[]).unwrap();
    upper.set_work(staging);
    let lowers = vec![DirLayer::open_lower(&home.join("lower")).unwrap()];
    let stack = Stack { upper: Some(upper), lowers, data: Vec::new() };
    let (sender, receiver) = channel();
    let server = std::thread::spawn(move || {
        let overlay = Overlay::new(stack, Config::default(), Box::new(connection.notifier())).unwrap();
        connection.serve(&overlay, |in_force| sender.send(*in_force).unwrap())
    });
    let in_force = receiver.recv().unwrap();
    Some(Mounted { home, merged, in_force, server: Some(server) })
}

impl Mounted {
    /// Unmounts and returns how serving ended.
    pub fn end(mut self) -> Ended {
        // A process that another test is just starting holds this one's descriptors until it becomes its program.
        for _ in 0..300 {
            match unmount(&self.merged, Unmount::WhenIdle) {
                Err(UnmountError::Refused(errno)) if errno == Errno::BUSY => {}
                other => {
                    other.unwrap();
                    return self.join();
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{} stays in use", self.merged.display())
    }

    fn join(&mut self) -> Ended {
        self.server.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            // A test has failed; what it has to say is more interesting than this.
            let _gone = unmount(&self.merged, Unmount::Detach);
            let _ended = server.join();
        }
        let _leftovers = fs::remove_dir_all(&self.home);
    }
}

/// Names, types and contents below a directory.
fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.insert(format!("{name}/"), String::new());
            found.extend(tree(&path).into_iter().map(|(inner, text)| (format!("{name}/{inner}"), text)));
        } else if kind.is_symlink() {
            found.insert(name, format!("-> {}", fs::read_link(&path).unwrap().display()));
        } else {
            found.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    found
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(name, text)| (name.to_owned(), text.to_owned())).into()
}

fn fill(lower: &Path) {
    fs::write(lower.join("file"), "lower").unwrap();
    fs::create_dir(lower.join("dir")).unwrap();
    fs::write(lower.join("dir/inner"), "inner").unwrap();
    symlink("file", lower.join("link")).unwrap();
}

#[test]
fn names_and_contents() {
    let Some(mount) = mounted("names", Tuning::default(), fill) else { return };
    let at = |name: &str| mount.merged.join(name);
    fs::write(at("file"), "changed").unwrap();
    fs::create_dir(at("new")).unwrap();
    fs::write(at("new/a"), "a").unwrap();
    fs::rename(at("new/a"), at("new/b")).unwrap();
    fs::hard_link(at("new/b"), at("c")).unwrap();
    symlink("c", at("to-c")).unwrap();
    fs::remove_file(at("dir/inner")).unwrap();
    fs::remove_dir(at("dir")).unwrap();
    let none = rustix::fs::renameat_with(CWD, at("c"), CWD, at("file"), RenameFlags::NOREPLACE);
    assert_eq!(none, Err(Errno::EXIST));
    rustix::fs::renameat_with(CWD, at("c"), CWD, at("file"), RenameFlags::EXCHANGE).unwrap();
    rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert_eq!(fs::symlink_metadata(at("pipe")).unwrap().mode(), 0o010_600);
    fs::remove_file(at("pipe")).unwrap();
    let expected = [
        ("c", "changed"),
        ("file", "a"),
        ("link", "-> file"),
        ("new/", ""),
        ("new/b", "a"),
        ("to-c", "-> c"),
    ];
    assert_eq!(tree(&mount.merged), pairs(expected));
    assert_eq!(fs::metadata(at("file")).unwrap().nlink(), 2);
    // The lower layer is as it was.
    let lower = pairs([("dir/", ""), ("dir/inner", "inner"), ("file", "lower"), ("link", "-> file")]);
    assert_eq!(tree(&mount.home.join("lower")), lower);
    assert_eq!(mount.end(), Ended::Unmounted);
}

#[test]
fn descriptors() {
    let Some(mount) = mounted("descriptors", Tuning::default(), fill) else { return };
    let at = |name: &str| mount.merged.join(name);
    let mode = Mode::from_raw_mode(0o640);
    // An unnamed file that gets a name.
    let unnamed = rustix::fs::open(&mount.merged, OFlags::TMPFILE | OFlags::RDWR, mode).unwrap();
    assert_eq!(rustix::io::write(&unnamed, b"0123456789"), Ok(10));
    rustix::fs::linkat(&unnamed, "", CWD, at("named"), AtFlags::EMPTY_PATH).unwrap();
    assert_eq!(fs::read_to_string(at("named")).unwrap(), "0123456789");
    assert_eq!(fs::metadata(at("named")).unwrap().mode(), 0o100_640);
    // A hole, found by seeking.
    rustix::fs::ftruncate(&unnamed, 0).unwrap();
    rustix::fs::ftruncate(&unnamed, 1 << 20).unwrap();
    assert_eq!(rustix::io::pwrite(&unnamed, b"x", 1 << 19), Ok(1));
    rustix::fs::fsync(&unnamed).unwrap();
    assert_eq!(rustix::fs::seek(&unnamed, SeekFrom::Data(0)), Ok(1 << 19));
    assert_eq!(rustix::fs::seek(&unnamed, SeekFrom::Hole(0)), Ok(0));
    rustix::fs::fallocate(&unnamed, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 1 << 20)
        .unwrap();
    assert_eq!(rustix::fs::seek(&unnamed, SeekFrom::Data(0)), Err(Errno::NXIO));
    // Copying between files, in the kernel.
    let target = rustix::fs::open(at("copy"), OFlags::CREATE | OFlags::RDWR, mode).unwrap();
    let source = fs::File::open(at("file")).unwrap();
    let (mut from, mut to) = (1, 0);
    assert_eq!(rustix::fs::copy_file_range(&source, Some(&mut from), &target, Some(&mut to), 100), Ok(4));
    assert_eq!(fs::read_to_string(at("copy")).unwrap(), "ower");
    // A file that is removed while open.
    fs::remove_file(at("copy")).unwrap();
    let mut text = [0; 8];
    assert_eq!(rustix::io::pread(&target, &mut text, 0), Ok(4));
    assert_eq!(&text[..4], b"ower");
    drop((unnamed, target, source));
    assert_eq!(mount.end(), Ended::Unmounted);
}

/// The kernel truncates by a read-only open before it looks who executes the file.
#[test]
fn a_running_program_is_not_truncated() {
    let Some(mount) = mounted("running", Tuning::default(), |lower| {
        fs::copy("/bin/sleep", lower.join("below")).unwrap();
    }) else {
        return;
    };
    fs::copy("/bin/sleep", mount.merged.join("above")).unwrap();
    for name in ["above", "below"] {
        let program = mount.merged.join(name);
        let size = fs::metadata(&program).unwrap().len();
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        let opened = rustix::fs::open(&program, OFlags::RDONLY | OFlags::TRUNC, Mode::empty());
        assert_eq!(opened.err(), Some(Errno::TXTBSY), "{name}");
        assert_eq!(fs::metadata(&program).unwrap().len(), size, "{name}");
        assert_eq!(child.try_wait().unwrap(), None, "{name}");
        child.kill().unwrap();
        child.wait().unwrap();
        // The last process to go tells the server a little later.
        let emptied = (0..300).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            rustix::fs::open(&program, OFlags::RDONLY | OFlags::TRUNC, Mode::empty()).ok()
        });
        assert!(emptied.is_some(), "{name}");
        assert_eq!(fs::metadata(&program).unwrap().len(), 0, "{name}");
    }
    assert_eq!(mount.end(), Ended::Unmounted);
}

#[test]
fn attributes() {
    let Some(mount) = mounted("attributes", Tuning::default(), fill) else { return };
    let file = mount.merged.join("file");
    let before = fs::metadata(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4711)).unwrap();
    std::os::unix::fs::chown(&file, Some(3), Some(4)).unwrap();
    let after = fs::metadata(&file).unwrap();
    // A change of owner takes the set-user-id bit away.
    assert_eq!((after.mode(), after.uid(), after.gid()), (0o100_711, 3, 4));
    assert_eq!((after.ino(), after.mtime()), (before.ino(), before.mtime()));
    let (name, names) = (file.as_path(), &mut [0u8; 256]);
    rustix::fs::setxattr(name, "user.k", b"v", XattrFlags::CREATE).unwrap();
    assert_eq!(rustix::fs::setxattr(name, "user.k", b"v", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(rustix::fs::listxattr(name, &mut *names), Ok(7));
    assert_eq!(&names[..7], b"user.k\0");
    rustix::fs::removexattr(name, "user.k").unwrap();
    assert_eq!(rustix::fs::getxattr(name, "user.k", &mut *names), Err(Errno::NODATA));
    let open = fs::File::open(&file).unwrap();
    let flags = rustix::fs::ioctl_getflags(&open).unwrap();
    rustix::fs::ioctl_setflags(&open, flags | IFlags::NODUMP).unwrap();
    assert_eq!(rustix::fs::ioctl_getflags(&open).unwrap(), flags | IFlags::NODUMP);
    drop(open);
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let ours = rustix::fs::statx(CWD, &file, AtFlags::empty(), wanted).unwrap();
    let real = rustix::fs::statx(CWD, mount.home.join("upper/file"), AtFlags::empty(), wanted).unwrap();
    assert_eq!(
        (ours.stx_mask & 0xfff, ours.stx_btime.tv_sec),
        (real.stx_mask & 0xfff, real.stx_btime.tv_sec)
    );
    let ours = rustix::fs::statvfs(&mount.merged).unwrap();
    let real = rustix::fs::statvfs(mount.home.join("upper")).unwrap();
    assert_eq!((ours.f_blocks, ours.f_files, ours.f_namemax), (real.f_blocks, real.f_files, real.f_namemax));
    assert_eq!(mount.end(), Ended::Unmounted);
}

#[test]
fn the_mount_table_and_the_handshake() {
    let Some(mount) = mounted("table", Tuning::default(), fill) else { return };
    let table = fs::read("/proc/self/mounts").unwrap();
    let line = table
        .split(|byte| *byte == b'\n')
        .find(|line| line.split(|byte| *byte == b' ').nth(1) == Some(mount.merged.as_os_str().as_bytes()));
    let line = String::from_utf8(line.unwrap().to_vec()).unwrap();
    let start = format!("some,where {} fuse.acetate rw,", mount.merged.display());
    assert!(line.starts_with(&start), "{line}");
    assert!(line.contains("default_permissions,allow_other"), "{line}");
    // What Linux 6.9 and later offer; the second is for layers that change by themselves.
    let others = [Feature::NoExportSupport, Feature::AutoInvalData];
    for feature in Feature::ALL.iter().filter(|feature| !others.contains(feature)) {
        assert!(mount.in_force.has(*feature), "{feature} is not in force");
    }
    assert_eq!(mount.in_force.max_write, 1 << 20);
    assert_eq!(mount.end(), Ended::Unmounted);
}

#[test]
fn a_directory_that_is_larger_than_a_reply() {
    let many = |lower: &Path| {
        for number in 0..5000 {
            fs::write(lower.join(format!("{number:0100}")), "").unwrap();
        }
    };
    let Some(mount) = mounted("large", Tuning::default(), many) else { return };
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(&mount.merged).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let expected: Vec<_> =
        (0..5000).map(|number| format!("{number:0100}").into()).collect::<Vec<std::ffi::OsString>>();
    assert_eq!(names(), expected);
    // Now with attributes, once the kernel has seen that somebody wants them.
    for name in &expected {
        assert_eq!(fs::symlink_metadata(mount.merged.join(name)).unwrap().len(), 0);
    }
    assert_eq!(names(), expected);
    assert_eq!(mount.end(), Ended::Unmounted);
}

#[test]
fn large_writes_come_back() {
    large_writes("data-direct", Tuning::default());
    large_writes("data-cached", Tuning { passthrough: false, ..Tuning::default() });
}

fn large_writes(name: &str, tuning: Tuning) {
    let Some(mount) = mounted(name, tuning, fill) else { return };
    let data: Vec<u8> = (0..5_000_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(mount.merged.join("big"), &data).unwrap();
    assert!(fs::read(mount.home.join("upper/big")).unwrap() == data, "upper holds something else");
    // Not from the pages that the writes have left.
    let file = fs::File::open(mount.merged.join("big")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    drop(file);
    assert!(fs::read(mount.merged.join("big")).unwrap() == data, "the mount shows something else");
    assert_eq!(mount.end(), Ended::Unmounted);
}

#[test]
fn an_aborted_connection_is_told_from_an_unmounted_one() {
    let Some(mut mount) = mounted("abort", Tuning::default(), fill) else { return };
    let device = rustix::fs::minor(fs::metadata(&mount.merged).unwrap().dev());
    // In a mount namespace of its own, since fusectl is not mounted everywhere.
    let abort =
        "mount -t fusectl none /sys/fs/fuse/connections && echo 1 > /sys/fs/fuse/connections/$0/abort";
    let mut command = Command::new("unshare");
    assert!(command.args(["-m", "sh", "-c", abort, &device.to_string()]).status().unwrap().success());
    assert_eq!(mount.join(), Ended::Aborted);
    let error = fs::metadata(mount.merged.join("not asked for yet")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOTCONN.raw_os_error()));
    unmount(&mount.merged, Unmount::WhenIdle).unwrap();
}

#[test]
fn what_cannot_be_mounted_or_unmounted_says_so() {
    use acetate_fuse::{MountError, UnmountError};
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let refused = |path: &str| Connection::mount(Path::new(path), &MountSpec::default()).unwrap_err();
    assert!(matches!(refused("/nowhere/at/all"), MountError::Refused(Errno::NOENT)));
    assert!(matches!(refused("/proc/self/status"), MountError::Refused(Errno::NOTDIR)));
    let error = unmount(Path::new("/proc/self"), Unmount::WhenIdle).unwrap_err();
    assert!(matches!(error, UnmountError::Refused(Errno::INVAL)), "{error:?}");
}
