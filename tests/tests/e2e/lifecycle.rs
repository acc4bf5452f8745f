//! Mounting, messages, signals, unmounting: what a user meets at the edges.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use acetate_testkit::driver::{acetate_bin, is_mounted};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::{FsKind, Scratch};
use anyhow::{Context, Result, ensure};

/// A scratch directory with the usual layers: `lower` with `a` and `d/f`, `upper`, `work`, `merged`.
pub struct Stage {
    scratch: Scratch,
}

impl Stage {
    pub fn new(name: &str) -> Result<Stage> {
        Stage::on(Scratch::new(name)?)
    }

    pub fn on(scratch: Scratch) -> Result<Stage> {
        let stage = Stage { scratch };
        for dir in ["lower/d", "upper", "work", "merged"] {
            fs::create_dir_all(stage.path(dir))?;
        }
        fs::write(stage.path("lower/a"), "lower a")?;
        fs::write(stage.path("lower/d/f"), "lower f")?;
        Ok(stage)
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Runs `acetate` in the scratch directory.
    pub fn acetate<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output> {
        let output = Command::new(acetate_bin()?)
            .args(args)
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .output()?;
        Ok(output)
    }

    pub fn mount(&self, options: &str) -> Result<()> {
        succeeded(&self.acetate(&["mount", "-o", options, "merged"])?)
    }

    pub fn umount(&self) -> Result<()> {
        // A process that another test is just starting holds this one's descriptors until it becomes its program.
        let patience = Instant::now() + Duration::from_secs(3);
        loop {
            let output = self.acetate(&["umount", "merged"])?;
            if output.status.success() || !stderr(&output).contains("busy") || Instant::now() > patience {
                return succeeded(&output);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What `acetate mounts` says of the mount.
    pub fn entry(&self) -> Result<serde_json::Value> {
        self.entry_of("merged")
    }

    /// What it says of the mount of that name.
    pub fn entry_of(&self, name: &str) -> Result<serde_json::Value> {
        let output = self.acetate(&["mounts", "--json"])?;
        succeeded(&output)?;
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let point = self.path(name);
        let mut mounts = document["mounts"].as_array().into_iter().flatten();
        let found = mounts.find(|mount| mount["mountpoint"].as_str().map(Path::new) == Some(point.as_path()));
        found.cloned().context("no record of the mount")
    }

    fn mounted(&self) -> Result<bool> {
        Ok(is_mounted(&self.path("merged"))?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A test that failed may have left its mount.
        let merged = self.path("merged");
        while is_mounted(&merged).unwrap_or(false) {
            let detached = Command::new("umount").arg("-l").arg(&merged).stderr(Stdio::null()).status();
            if !detached.is_ok_and(|status| status.success()) {
                break;
            }
        }
    }
}

pub const USUAL: &str = "lowerdir=lower,upperdir=upper,workdir=work";

pub fn succeeded(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{}: {}", output.status, stderr(output));
    Ok(())
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn can_mount(name: &str) -> Result<bool> {
    have(name, &[Need::Root, Need::Fuse])
}

/// Waits until `done`, at most ten seconds.
pub fn eventually(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(10);
    while !done()? {
        ensure!(Instant::now() < limit, "{what}: not after ten seconds");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The daemon that serves a stage.
pub fn daemon(stage: &Stage) -> Result<rustix::process::Pid> {
    let pid = stage.entry()?["pid"].as_i64().context("no record of the daemon")?;
    rustix::process::Pid::from_raw(pid.try_into()?).context("no process id")
}

#[test]
fn a_daemon_tells_of_itself_again_once_it_has_descriptors() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
    if !can_mount("descriptors")? {
        return Ok(());
    }
    let stage = Stage::new("descriptors")?;
    stage.mount(&format!("{USUAL},takeover=off"))?;
    ensure!(stage.entry()?["requests"].is_array(), "{}", stage.entry()?);
    let daemon = daemon(&stage)?;
    // Those that are open stay; there is no further one.
    let none = Rlimit { current: Some(0), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(Some(daemon), Resource::Nofile, none)?;
    // The descriptor of the first answer was set aside before.
    eventually("no answer", || Ok(stage.entry()?["requests"].is_null()))?;
    prlimit(Some(daemon), Resource::Nofile, before)?;
    eventually("an answer", || Ok(stage.entry()?["requests"].is_array()))?;
    stage.umount()
}

#[test]
fn refusals_name_the_path_the_cause_and_a_way_out() -> Result<()> {
    if !can_mount("refusals")? {
        return Ok(());
    }
    let stage = Stage::new("refusals")?;
    fs::write(stage.path("file"), "")?;
    fs::create_dir_all(stage.path("upper/sub"))?;
    let cases: &[(&str, &str, &str)] = &[
        (
            "lowerdir=nowhere,upperdir=upper,workdir=work",
            "lower layer: nowhere: no such file or directory",
            "lowerdir",
        ),
        (
            "lowerdir=lower,upperdir=nowhere,workdir=work",
            "upper layer: nowhere: no such file or directory",
            "upperdir",
        ),
        ("lowerdir=lower,upperdir=upper,workdir=nowhere", "work directory: nowhere: no such file", "workdir"),
        ("lowerdir=file,upperdir=upper,workdir=work", "lower layer: file: not a directory", ""),
        ("lowerdir=lower,upperdir=file,workdir=work", "upper layer: file: not a directory", ""),
        (
            "lowerdir=lower,upperdir=upper,workdir=upper",
            "work directory: upper: is the upper layer",
            "beside",
        ),
        ("lowerdir=lower,upperdir=upper,workdir=upper/sub", "lies within the upper layer", "beside"),
        ("lowerdir=upper/sub,upperdir=upper,workdir=work", "lies within the upper layer", "every layer"),
        ("lowerdir=lower:lower,upperdir=upper,workdir=work", "is also the lower layer", "every layer"),
        (
            "lowerdir=lower,uperdir=upper,workdir=work",
            "option uperdir: unknown option",
            "did you mean upperdir?",
        ),
        ("lowerdir=lower,upperdir=upper", "work directory: none given", "workdir"),
        ("lowerdir=lower", "", ""),
        ("upperdir=upper,workdir=work", "lower layer", "lowerdir"),
        (
            "lowerdir=lower,upperdir=upper,workdir=work,plugins=ignore",
            "option plugins: not supported yet",
            "docs/cli.md",
        ),
        ("lowerdir=lower,upperdir=upper,workdir=work,metacopy=maybe", "metacopy", ""),
    ];
    for (options, message, hint) in cases {
        let output = stage.acetate(&["mount", "-o", options, "merged"])?;
        let text = stderr(&output);
        let lines: Vec<&str> = text.lines().collect();
        ensure!(output.status.code() == Some(2), "{options}: {}: {text}", output.status);
        ensure!(lines.len() == 2, "{options}: one line and a hint, but: {text}");
        ensure!(lines[0].starts_with("acetate: ") && lines[0].contains(message), "{options}: {text}");
        ensure!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{options}: {text}");
        ensure!(!stage.mounted()?, "{options}: mounted all the same");
    }
    for target in ["nowhere", "file"] {
        let output = stage.acetate(&["mount", "-o", USUAL, target])?;
        ensure!(stderr(&output).contains(&format!("mount point: {target}: ")), "{}", stderr(&output));
    }
    // Nothing was left behind by any of them.
    ensure!(fs::read_dir(stage.path("upper"))?.count() == 1);
    Ok(())
}

/// In a mount namespace of its own, so that nobody else misses the device.
#[test]
fn without_the_device_the_message_says_what_to_do() -> Result<()> {
    if !have("device", &[Need::Root, Need::Fuse, Need::Tool("unshare")])? {
        return Ok(());
    }
    let stage = Stage::new("device")?;
    let script = format!(
        "set -e; mkdir dev; cp -a /dev/null dev; mount --bind dev /dev
        \"$0\" mount -o {USUAL} merged && exit 1
        : >/dev/fuse; \"$0\" mount -o {USUAL} merged && exit 1
        cd /; \"$0\" tour --yes && exit 1; exit 0"
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .arg(acetate_bin()?)
        .current_dir(stage.scratch.path())
        .output()?;
    succeeded(&output)?;
    let said = stderr(&output);
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("hint:")).collect();
    let none = "acetate: FUSE device: /dev/fuse: no such file or directory";
    let other = "acetate: FUSE device: /dev/fuse: is no character device";
    let tour = "acetate: note: the tour needs a mount; nothing was changed";
    ensure!(lines == [none, other, other, tour], "{said}");
    ensure!(said.lines().filter(|line| line.starts_with("hint:")).count() == 3, "{said}");
    Ok(())
}

#[test]
fn an_upper_is_used_by_one_mount_at_a_time() -> Result<()> {
    if !can_mount("exclusive")? {
        return Ok(());
    }
    let stage = Stage::new("exclusive")?;
    fs::create_dir_all(stage.path("other-work"))?;
    fs::create_dir_all(stage.path("other"))?;
    stage.mount(USUAL)?;
    let again =
        stage.acetate(&["mount", "-o", "lowerdir=lower,upperdir=upper,workdir=other-work", "other"])?;
    let text = stderr(&again);
    ensure!(again.status.code() == Some(2) && text.contains("in use") && text.contains("merged"), "{text}");
    ensure!(!is_mounted(&stage.path("other"))?);
    stage.umount()?;
    succeeded(&stage.acetate(&[
        "mount",
        "-o",
        "lowerdir=lower,upperdir=upper,workdir=other-work",
        "merged",
    ])?)?;
    stage.umount()
}

#[test]
fn a_kernel_mount_of_the_same_upper_is_respected() -> Result<()> {
    if !have("kernel in use", &[Need::Root, Need::Fuse, Need::KernelOverlay])? {
        return Ok(());
    }
    let stage = Stage::new("kernel-in-use")?;
    fs::create_dir_all(stage.path("kernel"))?;
    let full = |name: &str| stage.path(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", full("lower"), full("upper"), full("work"));
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "none", "-o", &options])
        .arg(stage.path("kernel"))
        .status()?;
    ensure!(mounted.success());
    let refused = stage.acetate(&["mount", "-o", USUAL, "merged"]);
    let unmounted = Command::new("umount").arg(stage.path("kernel")).status()?;
    ensure!(unmounted.success());
    let text = stderr(&refused?);
    ensure!(text.contains("kernel overlay"), "{text}");
    Ok(())
}

#[test]
fn a_killed_daemon_is_cleared_away_by_the_next_mount() -> Result<()> {
    if !can_mount("killed")? {
        return Ok(());
    }
    let stage = Stage::new("killed")?;
    stage.mount(&format!("{USUAL},takeover=off"))?;
    fs::write(stage.path("merged/a"), "written before")?;
    let pid = daemon(&stage)?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    eventually("the daemon is gone", || Ok(fs::metadata(stage.path("merged/a")).is_err()))?;
    // As if it had been in the middle of a copy-up.
    fs::write(stage.path("work/work/#7"), "half a copy")?;
    stage.mount(USUAL)?;
    ensure!(fs::read(stage.path("merged/a"))? == b"written before");
    let left: Vec<_> = fs::read_dir(stage.path("work/work"))?.collect();
    ensure!(left.is_empty(), "{left:?}");
    stage.umount()?;
    ensure!(!stage.mounted()?);
    Ok(())
}

#[test]
fn signals_end_the_mount_and_lose_nothing() -> Result<()> {
    use rustix::process::Signal;
    if !can_mount("signals")? {
        return Ok(());
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let stage = Stage::new("signals")?;
        stage.mount(USUAL)?;
        fs::write(stage.path("merged/new"), "data")?;
        rustix::process::kill_process(daemon(&stage)?, signal)?;
        eventually("the mount is gone", || Ok(!stage.mounted()?))?;
        ensure!(fs::read(stage.path("upper/new"))? == b"data", "{signal:?}");
        stage.mount(USUAL)?;
        ensure!(fs::read(stage.path("merged/new"))? == b"data", "{signal:?}");
        stage.umount()?;
    }
    Ok(())
}

/// Memory may be short because pages of files on the mount have to be written, which the daemon does.
#[test]
fn the_daemon_waits_for_no_writing_to_get_memory() -> Result<()> {
    /// `PF_MEMALLOC_NOIO` of a task's flags, which prctl(2) `PR_SET_IO_FLUSHER` sets (proc_pid_stat(5), field 9).
    const NO_IO: u64 = 0x0008_0000;
    if !can_mount("memory without writing")? {
        return Ok(());
    }
    let stage = Stage::new("flusher")?;
    stage.mount(USUAL)?;
    let entry = stage.entry()?;
    let capabilities = entry["capabilities"].as_array().context("no capabilities")?;
    if !capabilities.iter().any(|name| name == "cap_sys_resource") {
        eprintln!("skipped: memory without writing: root here lacks CAP_SYS_RESOURCE, which it takes");
        return stage.umount();
    }
    let tasks = format!("/proc/{}/task", daemon(&stage)?.as_raw_nonzero());
    for task in fs::read_dir(tasks)? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        // Behind the name, which may hold anything, come the fields from the third on.
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        let flags: u64 = fields.split_whitespace().nth(6).context("no flags")?.parse()?;
        ensure!(flags & NO_IO != 0, "{stat}");
    }
    stage.umount()
}

/// A daemon whose mount was detached, and lives on for an open file, leaves alone what is mounted there now.
#[test]
fn a_signal_takes_no_mount_but_the_daemons_own() -> Result<()> {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    if !can_mount("signal after another mount")? {
        return Ok(());
    }
    let stage = Stage::new("another")?;
    stage.mount(USUAL)?;
    let daemon = daemon(&stage)?;
    let file = fs::File::open(stage.path("merged/a"))?;
    unmount(stage.path("merged"), UnmountFlags::DETACH)?;
    mount("none", stage.path("merged"), "tmpfs", MountFlags::empty(), c"")?;
    let ended = || Ok(rustix::process::test_kill_process(daemon).is_err());
    rustix::process::kill_process(daemon, rustix::process::Signal::TERM)?;
    drop(file);
    eventually("the daemon has ended", ended)?;
    ensure!(stage.mounted()?, "the other mount was taken away");
    // A process that looks around there may hold it for a moment.
    eventually("the other mount is free", || Ok(unmount(stage.path("merged"), UnmountFlags::empty()).is_ok()))
}

/// Wherever the signal meets it: there is no mount afterwards, and none that nobody serves.
#[test]
fn a_signal_while_mounting_leaves_no_mount() -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    if !can_mount("early signals")? {
        return Ok(());
    }
    let stage = Stage::new("early")?;
    for round in 0..60 {
        let mut daemon = Command::new(acetate_bin()?)
            .args(["mount", "-f", "-o", USUAL, "merged"])
            .current_dir(stage.scratch.path())
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_micros(round * 250));
        kill_process(Pid::from_child(&daemon), Signal::INT)?;
        daemon.wait()?;
        ensure!(!stage.mounted()?, "round {round}");
    }
    Ok(())
}

#[test]
fn a_signal_to_a_busy_mount_takes_it_out_of_the_tree() -> Result<()> {
    if !can_mount("busy signal")? {
        return Ok(());
    }
    let stage = Stage::new("busy-signal")?;
    stage.mount(USUAL)?;
    let mut open = fs::File::create(stage.path("merged/open"))?;
    rustix::process::kill_process(daemon(&stage)?, rustix::process::Signal::TERM)?;
    eventually("the mount is gone", || Ok(!stage.mounted()?))?;
    std::io::Write::write_all(&mut open, b"still served")?;
    drop(open);
    ensure!(fs::read(stage.path("upper/open"))? == b"still served");
    Ok(())
}

#[test]
fn umount_of_a_busy_mount_says_so_and_lazily_works() -> Result<()> {
    if !can_mount("busy")? {
        return Ok(());
    }
    let stage = Stage::new("busy")?;
    stage.mount(USUAL)?;
    let open = fs::File::open(stage.path("merged/a"))?;
    let refused = stage.acetate(&["umount", "merged"])?;
    ensure!(refused.status.code() == Some(2) && stderr(&refused).contains("--lazy"), "{}", stderr(&refused));
    succeeded(&stage.acetate(&["umount", "--lazy", "merged"])?)?;
    ensure!(!stage.mounted()?);
    drop(open);
    let twice = stage.acetate(&["umount", "merged"])?;
    ensure!(
        twice.status.code() == Some(2) && stderr(&twice).contains("nothing is mounted"),
        "{}",
        stderr(&twice)
    );
    Ok(())
}

#[test]
fn five_hundred_layers_and_long_options() -> Result<()> {
    if !can_mount("500 layers")? {
        return Ok(());
    }
    let stage = Stage::new("many")?;
    let mut lowers = Vec::new();
    for number in 0..500 {
        let name = format!("a-rather-long-name-of-a-layer-{number:03}");
        fs::create_dir(stage.path(&name))?;
        fs::write(stage.path(&name).join(format!("file{number}")), number.to_string())?;
        fs::write(stage.path(&name).join("same"), number.to_string())?;
        lowers.push(name);
    }
    let options = format!("lowerdir={},upperdir=upper,workdir=work", lowers.join(":"));
    ensure!(options.len() > 4096);
    stage.mount(&options)?;
    ensure!(fs::read_dir(stage.path("merged"))?.count() == 501);
    ensure!(fs::read(stage.path("merged/same"))? == b"0");
    ensure!(fs::read(stage.path("merged/file499"))? == b"499");
    stage.umount()?;
    fs::create_dir(stage.path("one-more"))?;
    let refused =
        stage.acetate(&["mount", "-o", &format!("lowerdir=one-more:{}", lowers.join(":")), "merged"])?;
    ensure!(refused.status.code() == Some(2) && stderr(&refused).contains("500"), "{}", stderr(&refused));
    Ok(())
}

#[test]
fn layers_may_have_any_names() -> Result<()> {
    if !can_mount("odd names")? {
        return Ok(());
    }
    let stage = Stage::new("odd-names")?;
    let mut options = b"lowerdir=".to_vec();
    let names: [&[u8]; 4] = [b"co:lon", b"com,ma and space", b"back\\slash", b"\xff\xfe\n"];
    for (number, name) in names.iter().enumerate() {
        let path = stage.path(OsStr::from_bytes(name));
        fs::create_dir(&path)?;
        fs::write(path.join(format!("file{number}")), "x")?;
        if number > 0 {
            options.push(b':');
        }
        for &byte in *name {
            if b":,\\".contains(&byte) {
                options.push(b'\\');
            }
            options.push(byte);
        }
    }
    options.extend(b",upperdir=upper,workdir=work");
    let options = OsString::from_vec(options);
    succeeded(&stage.acetate(&[OsStr::new("mount"), OsStr::new("-o"), &options, OsStr::new("merged")])?)?;
    ensure!(fs::read_dir(stage.path("merged"))?.count() == 4);
    succeeded(&stage.acetate(&["mounts"])?)?;
    stage.umount()?;
    let mut args: Vec<OsString> = vec!["mount".into()];
    for name in names {
        args.push("--lower".into());
        args.push(OsStr::from_bytes(name).to_owned());
    }
    args.extend(["--upper", "upper", "merged"].map(OsString::from));
    succeeded(&stage.acetate(&args)?)?;
    ensure!(fs::read_dir(stage.path("merged"))?.count() == 4);
    ensure!(stage.path("upper.work").is_dir(), "the work directory is made beside the upper layer");
    stage.umount()
}

#[test]
fn without_an_upper_layer_nothing_can_be_written() -> Result<()> {
    if !can_mount("read-only")? {
        return Ok(());
    }
    let stage = Stage::new("read-only")?;
    fs::create_dir(stage.path("lower2"))?;
    stage.mount("lowerdir=lower:lower2")?;
    let denied = fs::write(stage.path("merged/a"), "x").map_err(|error| error.raw_os_error());
    ensure!(denied == Err(Some(30)), "EROFS, but {denied:?}");
    ensure!(fs::read(stage.path("merged/a"))? == b"lower a");
    stage.umount()
}

#[test]
fn a_full_disk_leaves_the_old_file_and_no_residue() -> Result<()> {
    if !have("full disk", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let small = Scratch::on(FsKind::Tmpfs, "full", 1)?;
    let stage = Stage::new("full")?;
    fs::write(stage.path("lower/big"), vec![7; 4 << 20])?;
    fs::create_dir_all(small.path().join("upper"))?;
    fs::create_dir_all(small.path().join("work"))?;
    let options = format!("lowerdir=lower,upperdir={0}/upper,workdir={0}/work", small.path().display());
    stage.mount(&options)?;
    let result = fs::OpenOptions::new().append(true).open(stage.path("merged/big")).map(drop);
    ensure!(
        result.as_ref().err().and_then(std::io::Error::raw_os_error) == Some(28),
        "ENOSPC, but {result:?}"
    );
    ensure!(fs::read(stage.path("merged/big"))? == vec![7; 4 << 20]);
    let residue: Vec<_> = fs::read_dir(small.path().join("work/work"))?.collect();
    ensure!(residue.is_empty(), "{residue:?}");
    // Truncating by opening copies nothing, so there is room.
    fs::write(stage.path("merged/big"), "small")?;
    stage.umount()
}

/// What a rootless mount is tried with: change, create, remove, make a directory over a removed one.
const ROOTLESS: &str = r#"
set -e
"$ACETATE" mount -o lowerdir=lower,upperdir=upper,workdir=work merged
echo changed >> merged/a
echo new > merged/new
rm merged/d/f
rmdir merged/d
mkdir merged/d
ls merged merged/d
"$ACETATE" umount merged
"$ACETATE" mount -o lowerdir=lower,upperdir=upper,workdir=work merged
ls merged/d
cat merged/a
"$ACETATE" umount merged
"#;

#[test]
fn in_a_user_namespace_marks_are_user_attributes() -> Result<()> {
    if !can_mount("user namespace")? {
        return Ok(());
    }
    let stage = Stage::new("userns")?;
    let script = format!(
        "{ROOTLESS}\nmount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work,userxattr merged\nls merged/d\ncat merged/new\n"
    );
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-c", &script])
        .env("ACETATE", acetate_bin()?)
        .current_dir(stage.scratch.path())
        .output()?;
    succeeded(&output)?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(printed == "merged:\na\nd\nnew\n\nmerged/d:\nlower achanged\nnew\n", "{printed}");
    ensure!(stderr(&output).contains("user.overlay"), "it says what it chose: {}", stderr(&output));
    Ok(())
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() -> Result<()> {
    if !have("fusermount3", &[Need::Root, Need::Fuse, Need::Tool("fusermount3")])? {
        return Ok(());
    }
    let stage = Stage::new("user")?;
    for name in ["", "lower", "lower/a", "lower/d", "lower/d/f", "upper", "work", "merged"] {
        std::os::unix::fs::chown(stage.path(name), Some(1000), Some(1000))?;
    }
    let as_user = |script: &str| {
        Command::new("sh")
            .args(["-c", script])
            .env("ACETATE", acetate_bin()?)
            .current_dir(stage.scratch.path())
            .uid(1000)
            .gid(1000)
            .output()
            .map_err(anyhow::Error::from)
    };
    let device = Path::new("/dev/fuse");
    let before = fs::metadata(device)?.permissions();
    fs::set_permissions(device, fs::Permissions::from_mode(0o600))?;
    let closed = as_user("\"$ACETATE\" mount -o lowerdir=lower,upperdir=upper,workdir=work merged");
    fs::set_permissions(device, fs::Permissions::from_mode(0o666))?;
    let open = as_user(ROOTLESS);
    fs::set_permissions(device, before)?;
    let closed = stderr(&closed?);
    ensure!(
        closed.contains("mode is 0600, should be 0666") && closed.contains("chmod 666 /dev/fuse"),
        "{closed}"
    );
    let open = open?;
    succeeded(&open)?;
    let printed = String::from_utf8_lossy(&open.stdout).into_owned();
    ensure!(printed == "merged:\na\nd\nnew\n\nmerged/d:\nlower achanged\n", "{printed}");
    Ok(())
}

/// The lower layer is a mount whose daemon is stopped, so that the copy-up cannot go on before the program is killed.
#[test]
fn a_killed_program_does_not_wait_for_its_copy() -> Result<()> {
    use rustix::process::{Signal, kill_process};
    if !can_mount("killed")? {
        return Ok(());
    }
    let stage = Stage::new("killed")?;
    for dir in ["slow", "upper2", "work2"] {
        fs::create_dir(stage.path(dir))?;
    }
    succeeded(&stage.acetate(&["mount", "-o", USUAL, "merged"])?)?;
    let below = daemon(&stage)?;
    let options = "lowerdir=merged,upperdir=upper2,workdir=work2";
    succeeded(&stage.acetate(&["mount", "-o", options, "slow"])?)?;
    // The kernel knows the way by now.
    ensure!(fs::read(stage.path("slow/a"))? == b"lower a");
    kill_process(below, Signal::STOP)?;
    let mut program =
        Command::new("sh").args(["-c", "echo more >>slow/a"]).current_dir(stage.scratch.path()).spawn()?;
    let status = format!("/proc/{}/status", program.id());
    let waits = eventually("the program waits for its copy", || {
        let status = fs::read_to_string(&status)?;
        Ok(status.contains("Name:\tsh\n") && status.contains("State:\tS"))
    });
    // What takes no time is not given up.
    std::thread::sleep(Duration::from_millis(300));
    let killed = program.kill();
    kill_process(below, Signal::CONT)?;
    waits?;
    killed?;
    eventually("the program ends", || Ok(program.try_wait()?.is_some()))?;
    ensure!(fs::read_dir(stage.path("upper2"))?.next().is_none(), "the copy was made");
    ensure!(fs::read(stage.path("slow/a"))? == b"lower a");
    succeeded(&stage.acetate(&["umount", "slow"])?)?;
    ensure!(
        fs::read_dir(stage.path("work2/work"))?.next().is_none(),
        "something is left in the work directory"
    );
    stage.umount()
}

#[test]
fn the_tour_shows_what_it_says() -> Result<()> {
    if !can_mount("tour")? {
        return Ok(());
    }
    let stage = Stage::new("tour")?;
    let output = stage.acetate(&["tour", "--yes"])?;
    succeeded(&output)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for fact in [
        "from upper",
        "c---------",
        "0, 0",
        "No such device or address",
        "lower layer: nowhere: no such file or directory",
        "did you mean upperdir?",
        "layer 1",
    ] {
        ensure!(text.contains(fact), "no {fact:?} in:\n{text}");
    }
    ensure!(!text.contains('\x1b'), "no colours where no terminal is");
    Ok(())
}

#[test]
fn whiteouts_share_an_inode() -> Result<()> {
    if !can_mount("whiteouts")? {
        return Ok(());
    }
    use std::os::unix::fs::MetadataExt;
    let stage = Stage::new("whiteouts")?;
    for number in 0..5 {
        fs::write(stage.path(format!("lower/f{number}")), "")?;
    }
    stage.mount(USUAL)?;
    for number in 0..5 {
        fs::remove_file(stage.path(format!("merged/f{number}")))?;
    }
    let stats = (0..5).map(|number| fs::symlink_metadata(stage.path(format!("upper/f{number}"))));
    let stats = stats.collect::<Result<Vec<_>, _>>()?;
    ensure!(stats.iter().all(|stat| stat.file_type().is_char_device() && stat.rdev() == 0));
    ensure!(
        stats.iter().all(|stat| stat.ino() == stats[0].ino() && stat.nlink() == 6),
        "one inode, six names"
    );
    stage.umount()
}
