//! What causes speed: which requests reach the server, as its trace tells.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use acetate_testkit::driver::{acetate_bin, is_mounted};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};

/// A mount with a trace, over `lower` with 30 files in `dir` and an `empty` directory.
struct Traced {
    scratch: Scratch,
}

impl Traced {
    fn new(name: &str) -> Result<Traced> {
        Traced::with(name, "lowerdir=lower,upperdir=upper,workdir=work")
    }

    fn with(name: &str, options: &str) -> Result<Traced> {
        let traced = Traced { scratch: Scratch::new(name)? };
        for dir in ["lower/dir", "lower/empty", "upper", "work", "merged"] {
            fs::create_dir_all(traced.path(dir))?;
        }
        for number in 0..30 {
            fs::write(traced.path("lower/dir").join(format!("file-{number}")), "lower")?;
        }
        let mut command = Command::new(acetate_bin()?);
        command.args(["mount", "-o", options, "merged"]);
        command.current_dir(traced.scratch.path()).env("ACETATE_TRACE", traced.path("trace"));
        ensure!(command.status()?.success(), "cannot mount");
        Ok(traced)
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Requests by operation that `act` causes; what is closed is reported late, and left out.
    fn during(&self, act: impl FnOnce() -> Result<()>) -> Result<BTreeMap<String, usize>> {
        let trace = self.path("trace");
        let before = settled(&trace)?;
        act()?;
        settled(&trace)?;
        let text = fs::read(&trace)?;
        let text = String::from_utf8_lossy(text.get(before as usize..).context("the trace has shrunk")?);
        let mut counts = BTreeMap::new();
        for op in text.lines().filter_map(|line| line.split(' ').next()) {
            if !matches!(op, "Release" | "ReleaseDir" | "Forget" | "BatchForget") {
                *counts.entry(op.to_owned()).or_default() += 1;
            }
        }
        Ok(counts)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let merged = self.path("merged");
        let patience = Instant::now() + Duration::from_secs(3);
        while is_mounted(&merged).unwrap_or(false) && Instant::now() < patience {
            // A process that another test is just starting may hold its descriptors for a moment.
            let _again = Command::new("umount").arg(&merged).output();
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The length of the trace in bytes once it grows no more: a request is noted after its answer.
fn settled(trace: &Path) -> Result<u64> {
    let mut length = None;
    loop {
        let now = fs::metadata(trace)?.len();
        if length.replace(now) == Some(now) {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Without requests for attributes: when access times move, and are asked for again, depends on the ticks of the clock.
fn but_attributes(mut counts: BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    counts.retain(|op, _| !matches!(op.as_str(), "GetAttr" | "Statx"));
    counts
}

fn counts<const N: usize>(pairs: [(&str, usize); N]) -> BTreeMap<String, usize> {
    pairs.map(|(op, count)| (op.to_owned(), count)).into()
}

fn list(dir: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[test]
fn what_is_known_is_not_asked_for() -> Result<()> {
    if !have("what_is_known_is_not_asked_for", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let mount = Traced::new("acetate-known")?;
    let dir = mount.path("merged/dir");
    let walk = || -> Result<()> {
        for name in list(&dir)? {
            fs::symlink_metadata(dir.join(name))?;
        }
        ensure!(!dir.join("missing").exists());
        Ok(())
    };
    let cold = mount.during(walk)?;
    // The second one finds that there is no more.
    assert_eq!(cold.get("ReadDirPlus"), Some(&2), "{cold:?}");
    // The first directory tells the kernel that none needs a request to be opened.
    assert!(cold.get("OpenDir").is_none_or(|count| *count == 1), "{cold:?}");
    // One for the directory, unless it is known already, and one for the name that is missing; the listing brought all
    // others.
    assert!(cold.get("Lookup").is_some_and(|count| (1..=2).contains(count)), "{cold:?}");
    assert_eq!(but_attributes(mount.during(walk)?), counts([]));
    // A file that was read once is only opened.
    let read = || {
        assert_eq!(fs::read(dir.join("file-3"))?, b"lower");
        Ok(())
    };
    mount.during(read)?;
    assert_eq!(but_attributes(mount.during(read)?), counts([("Open", 1)]));
    Ok(())
}

/// Attributes come with the listings of those who want them: a program that reads names alone gets none after its first
/// listing, and one that asks for them gets them after the first listing that came without.
#[test]
fn listings_bring_attributes_to_those_who_want_them() -> Result<()> {
    if !have("listings_bring_attributes", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    const DIRS: usize = 10;
    const FILES: usize = 20;
    let mount = Traced::new("acetate-wanted")?;
    for tree in ["names", "all"] {
        for dir in 0..DIRS {
            let dir = mount.path(format!("lower/{tree}/{dir}"));
            fs::create_dir_all(&dir)?;
            (0..FILES).try_for_each(|file| fs::write(dir.join(file.to_string()), "lower"))?;
        }
    }
    // Each thread is a program of its own.
    let walk = |tree: &str, attributes: bool| -> Result<()> {
        let (tree, sorted) = (mount.path("merged").join(tree), list);
        let walked = std::thread::scope(|scope| {
            let reader = scope.spawn(move || -> Result<()> {
                for dir in sorted(&tree)? {
                    for file in sorted(&tree.join(&dir))?.into_iter().filter(|_| attributes) {
                        fs::symlink_metadata(tree.join(&dir).join(file))?;
                    }
                }
                Ok(())
            });
            reader.join()
        });
        walked.map_err(|_| anyhow::anyhow!("the reader has panicked"))?
    };
    let lookups = |counts: BTreeMap<String, usize>| counts.get("Lookup").copied().unwrap_or(0);
    assert_eq!(lookups(mount.during(|| walk("names", false))?), 1);
    assert_eq!(lookups(mount.during(|| walk("all", true))?), 1 + FILES);
    let file = |dir: usize| mount.path(format!("merged/names/{dir}/7"));
    let later =
        mount.during(|| Ok((0..DIRS).try_for_each(|dir| fs::symlink_metadata(file(dir)).map(drop))?))?;
    assert_eq!(lookups(later), DIRS);
    Ok(())
}

/// To create a file takes a look whether it is there, the creation, and the attributes that the kernel forgets of the
/// directory; to remove it the last two. How the file was opened makes no difference.
#[test]
fn new_files_are_not_asked_for_again() -> Result<()> {
    if !have("new_files_are_not_asked_for_again", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let mount = Traced::new("acetate-created")?;
    let dir = mount.path("merged/made");
    fs::create_dir(&dir)?;
    let names: Vec<_> = (0..10).map(|number| dir.join(number.to_string())).collect();
    let create = |names: &[PathBuf]| -> Result<()> {
        for name in names {
            drop(fs::File::create_new(name)?);
        }
        Ok(())
    };
    create(&names[..1])?;
    let created = mount.during(|| create(&names[1..]))?;
    assert_eq!((created.get("Lookup"), created.get("Create")), (Some(&9), Some(&9)), "{created:?}");
    assert!(created.get("GetAttr").is_some_and(|count| *count <= 9), "{created:?}");
    assert_eq!(created.len(), 3, "{created:?}");
    let removed = mount.during(|| Ok(names.iter().try_for_each(fs::remove_file)?))?;
    assert_eq!(removed.get("Unlink"), Some(&10), "{removed:?}");
    assert!(removed.get("GetAttr").is_some_and(|count| *count <= 10), "{removed:?}");
    assert_eq!(removed.len(), 2, "{removed:?}");
    Ok(())
}

#[test]
fn listings_are_read_again_once_they_change() -> Result<()> {
    if !have("listings_are_read_again_once_they_change", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let mount = Traced::new("acetate-listings")?;
    let dir = mount.path("merged/dir");
    let numbers = || -> Result<BTreeMap<String, u64>> {
        use std::os::unix::fs::DirEntryExt;
        let entries = fs::read_dir(&dir)?.map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.ino()))
        });
        entries.collect()
    };
    // Two names of one lower file: the copy of one of them is another file.
    fs::hard_link(mount.path("lower/dir/file-1"), mount.path("lower/dir/linked"))?;
    let before = numbers()?;
    assert_eq!(before.len(), 31);
    fs::write(dir.join("new"), "new")?;
    fs::remove_file(dir.join("file-2"))?;
    fs::rename(dir.join("file-3"), dir.join("moved"))?;
    let names = list(&dir)?;
    assert!(names.contains(&"new".to_owned()) && names.contains(&"moved".to_owned()), "{names:?}");
    assert!(!names.contains(&"file-2".to_owned()) && !names.contains(&"file-3".to_owned()), "{names:?}");
    let before = numbers()?;
    fs::File::options().append(true).open(dir.join("linked"))?.write_all(b" changed")?;
    let after = numbers()?;
    use std::os::unix::fs::MetadataExt;
    assert_eq!(after["linked"], fs::metadata(dir.join("linked"))?.ino());
    assert_ne!(after["linked"], before["linked"]);
    // A reader who has begun meets each name that was there all the time exactly once.
    let mut seen = Vec::new();
    let mut reader = fs::read_dir(&dir)?;
    for _ in 0..5 {
        seen.push(reader.next().context("the listing is too short")??.file_name());
    }
    fs::remove_file(dir.join(&seen[0]))?;
    fs::remove_file(dir.join(&seen[1]))?;
    let others = list(&dir)?;
    seen.extend(
        reader.map(|entry| entry.map(|entry| entry.file_name())).collect::<std::io::Result<Vec<_>>>()?,
    );
    let mut rest: Vec<String> = seen[2..].iter().map(|name| name.to_string_lossy().into_owned()).collect();
    rest.sort();
    assert_eq!(rest, others);
    Ok(())
}

/// Writes, and reads of what was written, are the kernel's own business where it offers that.
#[test]
fn upper_files_are_passed_through() -> Result<()> {
    if !have("upper_files_are_passed_through", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let mount = Traced::new("acetate-passthrough")?;
    let file = mount.path("merged/empty/file");
    let write = || -> Result<()> {
        let mut out = fs::File::create(&file)?;
        for _ in 0..100 {
            out.write_all(b"hundred")?;
        }
        drop(out);
        assert_eq!(fs::read(&file)?.len(), 700);
        Ok(())
    };
    let asked = mount.during(write)?;
    if kernel_is_below(6, 9) {
        eprintln!("skipped: upper_files_are_passed_through: this kernel has no passthrough");
        return Ok(());
    }
    assert_eq!((asked.get("Write"), asked.get("Read")), (None, None), "{asked:?}");
    assert_eq!(fs::read(mount.path("upper/empty/file"))?.len(), 700);
    Ok(())
}

/// On a mount that nothing can be written to no file is ever copied up, so large ones of lower layers are passed through,
/// too, and their access times stay.
#[test]
fn lower_files_are_passed_through_where_nothing_is_written() -> Result<()> {
    if !have("lower_files_are_passed_through", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let mount = Traced::with("acetate-read-only", "lowerdir=lower:upper")?;
    let large = mount.path("lower/large");
    fs::write(&large, vec![7; 8 << 20])?;
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::open(&large)?.set_times(fs::FileTimes::new().set_accessed(long_ago))?;
    let read = mount.during(|| {
        assert_eq!(fs::read(mount.path("merged/large"))?, vec![7; 8 << 20]);
        assert_eq!(fs::read(mount.path("merged/dir/file-1"))?, b"lower");
        Ok(())
    })?;
    assert_eq!(fs::metadata(&large)?.accessed()?, long_ago);
    if kernel_is_below(6, 9) {
        eprintln!("skipped: lower_files_are_passed_through: this kernel has no passthrough");
        return Ok(());
    }
    // Only the small one is asked for, and what it costs to find that it ends there.
    assert!(read.get("Read").is_some_and(|count| *count <= 2), "{read:?}");
    Ok(())
}

/// A mount of layers that nothing can be written to, whose small files have been opened 600 times; and how many requests
/// that took. `before`: what is done first.
fn searched<T>(name: &str, before: impl FnOnce(&Traced) -> Result<T>) -> Result<(Traced, T, usize)> {
    let mount = Traced::with(name, "lowerdir=lower:upper")?;
    let kept = before(&mount)?;
    let opens = search(&mount)?;
    Ok((mount, kept, opens))
}

/// Opens small files 600 times; returns how many requests to open that took.
fn search(mount: &Traced) -> Result<usize> {
    let asked = mount.during(|| {
        for round in 0..600 {
            let file = mount.path("merged/dir").join(format!("file-{}", round % 20));
            assert_eq!(fs::read(file)?, b"lower");
        }
        Ok(())
    })?;
    Ok(asked.get("Open").copied().unwrap_or(0))
}

/// Where nothing can be written the kernel opens files by itself, once small ones have been opened many times.
#[test]
fn opens_are_no_requests_where_nothing_is_written() -> Result<()> {
    if !have("opens_are_no_requests_where_nothing_is_written", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let (mount, (), opens) = searched("acetate-no-open", |_| Ok(()))?;
    // One that says so, after 513 that did not; at once where no file can be passed through.
    assert_eq!(opens, if kernel_is_below(6, 9) { 1 } else { 514 });
    let sparse = mount.path("lower/dir/file-29");
    File::options().write(true).open(&sparse)?.set_len(1 << 20)?;
    let asked = mount.during(|| {
        let file = File::open(mount.path("merged/dir/file-29"))?;
        let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0))?;
        assert_eq!(hole, 4096);
        file.sync_all()?;
        let content = fs::read(mount.path("merged/dir/file-29"))?;
        assert_eq!((content.len(), &content[..6]), (1 << 20, &b"lower\0"[..]));
        // What is refused, is so without the server.
        let refused = |options: &mut fs::OpenOptions| {
            options.open(mount.path("merged/dir/file-1")).err().and_then(|error| error.raw_os_error())
        };
        let read_only = Some(rustix::io::Errno::ROFS.raw_os_error());
        assert_eq!(refused(File::options().read(true).write(true)), read_only);
        assert_eq!(refused(File::options().write(true).truncate(true)), read_only);
        Ok(())
    })?;
    assert_eq!((asked.get("Open"), asked.get("Seek"), asked.get("Fsync")), (None, Some(&1), Some(&1)));
    assert!(asked.contains_key("Read"), "{asked:?}");
    // A mount that is written to is asked each time.
    let writable = Traced::new("acetate-opens")?;
    assert_eq!(search(&writable)?, 600);
    Ok(())
}

/// As long as a file is passed through the kernel asks for each open: it would not map such a file for others.
#[test]
fn opens_are_requests_while_a_file_is_passed_through() -> Result<()> {
    if !have("opens_are_requests_while_a_file_is_passed_through", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    if kernel_is_below(6, 9) {
        eprintln!("skipped: opens_are_requests_while_a_file_is_passed_through: no passthrough");
        return Ok(());
    }
    let maps = |mount: &Traced| {
        // The loader maps a program; this one is more than small files are.
        let program = mount.path("merged/program");
        let output = Command::new(program).arg("--version").output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    };
    let (mount, open, opens) = searched("acetate-lent", |mount| {
        fs::copy(acetate_bin()?, mount.path("lower/program"))?;
        Ok(File::open(mount.path("merged/program"))?)
    })?;
    assert_eq!(opens, 600);
    maps(&mount)?;
    drop(open);
    // That it was closed is reported late, and what it was worth has to be made up for.
    let size = fs::metadata(mount.path("lower/program"))?.len();
    let patience = Instant::now() + Duration::from_secs(60);
    while search(&mount)? == 600 {
        ensure!(Instant::now() < patience, "opens are still asked for, with a program of {size} bytes");
    }
    assert_eq!(search(&mount)?, 0);
    maps(&mount)?;
    let asked = mount.during(|| {
        assert_eq!(fs::read(mount.path("merged/program"))?.len() as u64, size);
        Ok(())
    })?;
    assert!(asked.contains_key("Read") && !asked.contains_key("Open"), "{asked:?}");
    Ok(())
}

/// Whether the kernel is older than that release.
fn kernel_is_below(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (major, minor)
}

/// Nobody tells the server what a mapping changes; stat(2) shows it all the same.
#[test]
fn changes_by_a_mapping_are_seen() -> Result<()> {
    if !have("changes_by_a_mapping_are_seen", &[Need::Root, Need::Fuse, Need::Tool("python3")])? {
        return Ok(());
    }
    let mount = Traced::new("acetate-mapping")?;
    let script = r#"
import mmap, os, time
for name in "dir/file-1", "empty/new":
    with open(name, "ab") as f:
        f.write(b"." * 4096)
    os.utime(name, (1, 1))
    reader = open(name, "rb")
    before = reader.read()
    assert os.stat(name).st_mtime == 1, name
    with open(name, "r+b") as f, mmap.mmap(f.fileno(), 4096) as m:
        assert os.stat(name).st_mtime == 1, name
        m[0:3] = b"map"
        m.flush()
        assert os.stat(name).st_mtime > 1, name
        assert open(name, "rb").read() == b"map" + before[3:], name
    reader.seek(0)
    assert reader.read() == b"map" + before[3:], name
    assert os.stat(name).st_mtime > 1, name
"#;
    let output = Command::new("python3").args(["-c", script]).current_dir(mount.path("merged")).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A file that is open for reading below is copied up, written, and read again by all who have it open.
#[test]
fn readers_from_before_a_copy_up_see_later_writes() -> Result<()> {
    if !have("readers_from_before_a_copy_up_see_later_writes", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    use std::os::unix::fs::FileExt;
    let mount = Traced::new("acetate-mixed")?;
    let name = mount.path("merged/dir/file-7");
    let read = |file: &fs::File| -> Result<String> {
        let mut buffer = [0; 64];
        let length = file.read_at(&mut buffer, 0)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let early = fs::File::open(&name)?;
    assert_eq!(read(&early)?, "lower");
    let writer = fs::File::options().read(true).write(true).open(&name)?;
    writer.write_all_at(b"UPPER!", 0)?;
    assert_eq!((read(&early)?, read(&writer)?), ("UPPER!".into(), "UPPER!".into()));
    drop((early, writer));
    // The kernel tells of closed files a little later; both sorts of opens have to see the same.
    for round in 0..20 {
        let writer = fs::File::options().write(true).truncate(true).open(&name)?;
        let text = format!("round {round}");
        writer.write_all_at(text.as_bytes(), 0)?;
        assert_eq!(read(&fs::File::open(&name)?)?, text);
        drop(writer);
        assert_eq!(fs::read_to_string(&name)?, text);
        assert_eq!(fs::metadata(&name)?.len(), text.len() as u64);
    }
    Ok(())
}

/// What `acetate mounts` prints.
fn said(args: &[&str]) -> Result<String> {
    let output = Command::new(acetate_bin()?).arg("mounts").args(args).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What `acetate mounts --json` shows of a mount.
fn shown(mount: &Traced, args: &[&str]) -> Result<serde_json::Value> {
    let document: serde_json::Value = serde_json::from_str(&said(&[args, &["--json"]].concat())?)?;
    let merged = fs::canonicalize(mount.path("merged"))?;
    let entries = document["mounts"].as_array().context("no mounts")?;
    let ours = entries.iter().find(|entry| entry["mountpoint"].as_str().map(Path::new) == Some(&merged));
    ours.cloned().context("the mount is not shown")
}

#[test]
fn what_was_asked_is_counted() -> Result<()> {
    if !have("what_was_asked_is_counted", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let mount = Traced::new("acetate-counted")?;
    let dir = mount.path("merged/dir");
    mount.during(|| list(&dir).map(drop))?;
    for number in 0..30 {
        assert_eq!(fs::read(dir.join(format!("file-{number}")))?, b"lower");
    }
    let ours = shown(&mount, &["--stats"])?;
    let stats = &ours["stats"];
    let operations = stats["operations"].as_array().context("no operations")?;
    let open = operations.iter().find(|operation| operation["operation"] == "Open").context("no Open")?;
    assert_eq!((&open["count"], &open["errors"]), (&30.into(), &0.into()), "{open}");
    let times = ["p50_ns", "p90_ns", "p99_ns", "longest_ns", "total_ns"].map(|name| open[name].as_u64());
    assert!(times.is_sorted() && times[0] > Some(0), "{open}");
    // The listing brought the nodes of all names, and was read once.
    assert!(stats["nodes"].as_u64() >= Some(31), "{stats}");
    assert_eq!(stats["caches"]["listings"]["misses"], 1, "{stats}");
    assert!(shown(&mount, &[])?.get("stats").is_none());
    let text = said(&["--stats"])?;
    assert!(text.contains("operation") && text.contains("names at hand"), "{text}");
    // The latter where processors can be kept awake: there nothing else is tried.
    assert!(matches!(stats["waiting"].as_str(), Some("undecided" | "processors awake")), "{stats}");
    Ok(())
}

/// Whether the daemon of a mount has the means to keep processors awake, and how it waits after many requests.
fn waits(options: &str) -> Result<(bool, String)> {
    let mount =
        Traced::with("acetate-waits", &format!("lowerdir=lower,upperdir=upper,workdir=work{options}"))?;
    for _ in 0..200 {
        for number in 0..30 {
            fs::read(mount.path("merged/dir").join(format!("file-{number}")))?;
        }
    }
    let ours = shown(&mount, &["--stats"])?;
    let mut has = false;
    for file in fs::read_dir(format!("/proc/{}/fd", ours["pid"]))? {
        // Some are closed meanwhile.
        has |= fs::read_link(file?.path()).is_ok_and(|to| to == Path::new("/dev/cpu_dma_latency"));
    }
    Ok((has, ours["stats"]["waiting"].as_str().context("no waiting")?.to_owned()))
}

#[test]
fn processors_are_kept_awake_where_they_are_virtual_and_few_unless_told_not_to() -> Result<()> {
    if !have("processors_are_kept_awake", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let driver = fs::read_to_string("/sys/devices/system/cpu/cpuidle/current_driver").unwrap_or_default();
    let few = (2..=8).contains(&std::thread::available_parallelism()?.get());
    let can = driver.trim() == "haltpoll"
        && few
        && File::options().write(true).open("/dev/cpu_dma_latency").is_ok();
    let (has, waiting) = waits("")?;
    assert_eq!(has, can, "driver {driver:?}");
    assert!(!can || ["processors awake", "undecided"].contains(&waiting.as_str()), "{waiting}");
    let (has, waiting) = waits(",busy_poll=off")?;
    assert!(!has && ["one thread", "two threads", "undecided"].contains(&waiting.as_str()), "{waiting}");
    Ok(())
}

/// The kernel starts with 128 KiB, eight requests for what one can bring.
#[test]
fn large_files_are_read_far_ahead() -> Result<()> {
    if !have("large_files_are_read_far_ahead", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let mount = Traced::new("acetate-ahead")?;
    fs::write(mount.path("lower/large"), vec![7; 16 << 20])?;
    let device = fs::metadata(mount.path("merged"))?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let setting = PathBuf::from(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
    if rustix::fs::access(&setting, rustix::fs::Access::WRITE_OK).is_err() {
        // In a container whose /sys is read-only nobody may set it.
        return Ok(());
    }
    assert_eq!(fs::read_to_string(&setting)?.trim(), "1024");
    let read = mount.during(|| {
        let mut file = File::open(mount.path("merged/large"))?;
        let mut buffer = vec![0; 128 << 10];
        while file.read(&mut buffer)? > 0 {}
        Ok(())
    })?;
    assert!(read.get("Read").is_some_and(|count| *count <= 32), "{read:?}");
    Ok(())
}
