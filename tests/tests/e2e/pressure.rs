//! Servers and programs that are frozen, that have little memory, or are killed for lack of it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use acetate_testkit::cgroup::{Controller, Group};
use acetate_testkit::driver::{acetate_bin, is_mounted};
use acetate_testkit::exec::{self, Finished};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::{FsKind, Scratch};
use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

use crate::lifecycle::{Stage, USUAL, daemon};

/// How long something may take that does not hang.
const LIMIT: Duration = Duration::from_secs(300);

/// Mounts with the options; the daemon belongs to the group from its beginning.
fn mount_in(group: &Group, stage: &Stage, options: &str) -> Result<()> {
    let mut command = group.command(acetate_bin()?);
    let mounted = command.args(["mount", "-o", options, "merged"]).current_dir(stage.path("")).status()?;
    ensure!(mounted.success(), "{mounted}");
    Ok(())
}

fn can(name: &str, controller: Controller, more: &[Need]) -> Result<bool> {
    have(name, &[&[Need::Root, Need::Fuse, Need::Group(controller)], more].concat())
}

fn server(stage: &Stage) -> Result<u32> {
    Ok(daemon(stage)?.as_raw_nonzero().get().unsigned_abs())
}

/// Writes, renames, copies up and removes until `stop`, and counts the rounds of all writers. Returns its own.
fn write(merged: &Path, number: usize, stop: &AtomicBool, rounds: &AtomicUsize) -> Result<usize> {
    let dir = merged.join(format!("own-{number}"));
    fs::create_dir(&dir)?;
    for round in 0.. {
        if stop.load(Ordering::SeqCst) {
            return Ok(round);
        }
        let mut file = File::create(dir.join("new"))?;
        write!(file, "{number} {round}")?;
        if round % 16 == 0 {
            file.sync_all()?;
        }
        fs::rename(dir.join("new"), dir.join(format!("kept-{}", round % 50)))?;
        let lower = merged.join(format!("lower/{number}-{}", round % 50));
        write!(File::options().append(true).open(lower)?, " {round}")?;
        ensure!(
            fs::read_dir(&dir)?.count() == 50.min(round + 1),
            "{number}: names are missing in round {round}"
        );
        rounds.fetch_add(1, Ordering::SeqCst);
    }
    bail!("no end")
}

/// What [`write`] has left after so many rounds.
fn expect_written(merged: &Path, number: usize, rounds: usize) -> Result<()> {
    for name in 0..50.min(rounds) {
        let wrote: Vec<_> = (name..rounds).step_by(50).collect();
        let last = wrote.last().context("no round")?;
        let kept = fs::read_to_string(merged.join(format!("own-{number}/kept-{name}")))?;
        ensure!(kept == format!("{number} {last}"), "{number} {name}: {kept}");
        let lower = fs::read_to_string(merged.join(format!("lower/{number}-{name}")))?;
        let expected: String = wrote.iter().map(|round| format!(" {round}")).collect();
        ensure!(lower == format!("lower{expected}"), "{number} {name}: {lower}");
    }
    Ok(())
}

/// Freezes and thaws a server again and again while others write, and looks that nothing is lost.
fn frozen(stage: &Stage, options: &str) -> Result<()> {
    const WRITERS: usize = 4;
    fs::create_dir(stage.path("lower/lower"))?;
    for name in (0..WRITERS).flat_map(|number| (0..50).map(move |name| format!("{number}-{name}"))) {
        fs::write(stage.path("lower/lower").join(name), "lower")?;
    }
    stage.mount(options)?;
    let group = Group::new(Controller::Freezer)?;
    group.add(server(stage)?)?;
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let goes_on = || {
        let (before, end) = (rounds.load(Ordering::SeqCst), Instant::now() + LIMIT);
        while rounds.load(Ordering::SeqCst) <= before + 2 * WRITERS {
            ensure!(Instant::now() < end && !stop.load(Ordering::SeqCst), "the writers do not go on");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    };
    let merged = stage.path("merged");
    let done: Vec<usize> = std::thread::scope(|scope| {
        let (merged, stop, rounds) = (&merged, &stop, &rounds);
        let start = |number| {
            scope.spawn(move || {
                let done = write(merged, number, stop, rounds);
                stop.fetch_or(done.is_err(), Ordering::SeqCst);
                done
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        let turns = (0..10).try_for_each(|_| {
            goes_on()?;
            ensure!(group.freeze(LIMIT)?, "the server cannot be frozen");
            let listed = exec::run(Command::new(acetate_bin()?).arg("mounts"), LIMIT)?;
            ensure!(listed.status.success(), "{}", listed.tail(5));
            group.thaw()
        });
        let turns = turns.and_then(|()| goes_on());
        let thawed = group.thaw();
        stop.store(true, Ordering::SeqCst);
        let done = writers.into_iter().map(|writer| writer.join().expect("a writer panicked"));
        let done: Result<Vec<usize>> = done.collect();
        // Why a writer failed says more than that it does not go on.
        let done = done?;
        turns.and(thawed).and(Ok(done))
    })?;
    for _ in 0..2 {
        for (number, rounds) in done.iter().enumerate() {
            expect_written(&merged, number, *rounds)?;
        }
        stage.umount()?;
        stage.mount(USUAL)?;
    }
    stage.umount()
}

#[test]
fn a_server_that_was_frozen_goes_on() -> Result<()> {
    if can("frozen server", Controller::Freezer, &[])? {
        frozen(&Stage::new("frozen-server")?, USUAL)?;
        if can("frozen server of a kept mount", Controller::Freezer, &[Need::Resend])? {
            frozen(&Stage::new("frozen-kept")?, &format!("{USUAL},takeover=on"))?;
        }
    }
    Ok(())
}

/// What the programs do that are frozen, until there is a file `stop`: all names are in one directory, and copies are large.
/// No shell: one that waits for what it has forked by vfork(2) is not always frozen.
const BUSY: &str = r#"
import os, sys
who, turn = sys.argv[1], 0
while not os.path.exists("stop"):
    turn += 1
    with open(who + ".new", "w") as file:
        file.write(str(turn))
    os.rename(who + ".new", who + ".name")
    os.link(who + ".name", who + ".link")
    assert open(who + ".link").read() == str(turn)
    os.remove(who + ".name")
    with open("large-%s-%d" % (who, turn if turn <= 30 else 1), "a") as file:
        file.write("more")
    os.listdir()
    os.mkdir(who + ".dir")
    os.rmdir(who + ".dir")
    os.remove(who + ".link")
"#;

/// Starts programs in `shared` whose group is frozen and thawed `turns` times, as is `also`. While they are frozen, `check`
/// is called. All have to succeed.
fn freeze_programs(
    shared: &Path,
    also: Option<u32>,
    turns: usize,
    check: impl Fn(bool) -> Result<()>,
) -> Result<()> {
    let group = Group::new(Controller::Freezer)?;
    also.map_or(Ok(()), |pid| group.add(pid))?;
    std::thread::scope(|scope| {
        let group = &group;
        let start = |name: &'static str| {
            let mut command = group.command("python3");
            command.args(["-c", BUSY, name]).current_dir(shared);
            scope.spawn(move || exec::run(&mut command, LIMIT))
        };
        let programs: Vec<_> = ["a", "b", "c"].into_iter().map(start).collect();
        let turn = || -> Result<()> {
            std::thread::sleep(Duration::from_millis(30));
            // With their server frozen, programs that wait for it may not be.
            let limit = if also.is_some() { Duration::from_millis(200) } else { LIMIT };
            let frozen = group.freeze(limit)?;
            let checked = check(frozen);
            group.thaw().and(checked)
        };
        let turned = (0..turns).try_for_each(|_| turn());
        let stopped = group.thaw().and_then(|()| Ok(fs::write(shared.join("stop"), "")?));
        let ended: Result<Vec<Finished>> =
            programs.into_iter().map(|program| program.join().expect("a thread panicked")).collect();
        turned.and(stopped)?;
        for program in ended? {
            ensure!(program.status.success(), "{}: {}", program.status, program.tail(5));
        }
        Ok(())
    })
}

fn with_large_files(name: &str) -> Result<Stage> {
    let stage = Stage::new(name)?;
    fs::create_dir(stage.path("lower/shared"))?;
    for name in
        ["a", "b", "c"].iter().flat_map(|who| (1..=30).map(move |number| format!("large-{who}-{number}")))
    {
        fs::write(stage.path("lower/shared").join(name), vec![b'x'; 1 << 20])?;
    }
    stage.mount(USUAL)?;
    Ok(stage)
}

/// Nothing but what the programs have made is there: no half copies, no half names.
fn expect_whole(stage: &Stage) -> Result<()> {
    for _ in 0..2 {
        for entry in fs::read_dir(stage.path("merged/shared"))? {
            let (name, size) = entry.and_then(|entry| Ok((entry.file_name(), entry.metadata()?.len())))?;
            let name = name.to_str().context("a name")?;
            ensure!(name == "stop" || name.starts_with("large-") && size >= 1 << 20, "{name}: {size} bytes");
        }
        stage.umount()?;
        ensure!(
            fs::read_dir(stage.path("work/work"))?.next().is_none(),
            "something is left in the work directory"
        );
        stage.mount(USUAL)?;
    }
    stage.umount()
}

#[test]
fn programs_that_are_frozen_hold_up_nobody() -> Result<()> {
    if !can("frozen programs", Controller::Freezer, &[Need::Tool("python3")])? {
        return Ok(());
    }
    let stage = with_large_files("frozen-programs")?;
    let shared = stage.path("merged/shared");
    freeze_programs(&shared, None, 25, |frozen| {
        ensure!(frozen, "a program cannot be frozen: it is not answered");
        let others = "echo 1 >x; mv x y; ls >/dev/null; echo more >>large-a-1; rm y; mkdir d; rmdir d";
        let done = exec::run(Command::new("sh").args(["-ec", others]).current_dir(&shared), LIMIT)?;
        ensure!(done.status.success(), "{}", done.tail(5));
        Ok(())
    })?;
    expect_whole(&stage)
}

/// As a suspend freezes everything, in any order.
#[test]
fn a_server_frozen_with_its_programs_goes_on_with_them() -> Result<()> {
    if !can("all frozen", Controller::Freezer, &[Need::Tool("python3")])? {
        return Ok(());
    }
    let stage = with_large_files("frozen-all")?;
    let complete = AtomicUsize::new(0);
    freeze_programs(&stage.path("merged/shared"), Some(server(&stage)?), 25, |frozen| {
        complete.fetch_add(usize::from(frozen), Ordering::SeqCst);
        Ok(())
    })?;
    println!("{} of 25 times all of them were frozen", complete.into_inner());
    expect_whole(&stage)
}

/// Fills a file with known bytes, by a mapping or by writing, or compares it.
const FILL: &str = r#"
import hashlib, mmap, os, sys
path, mib = sys.argv[1], int(sys.argv[2])
block = lambda number: hashlib.sha256(b"%s %d" % (path.encode(), number)).digest() * 2048
held = open(path, "rb")
if sys.argv[3] == "check":
    for number in range(mib * 16):
        assert held.read(1 << 16) == block(number), number
    sys.exit(held.read(1) != b"")
file = open(path, "r+b")
if path.endswith("mapped"):
    with mmap.mmap(file.fileno(), mib << 20) as memory:
        for number in range(mib * 16):
            memory[number << 16:(number + 1) << 16] = block(number)
else:
    for number in range(mib * 16):
        os.pwrite(file.fileno(), block(number), number << 16)
"#;

/// Server and programs together have less memory than the programs make dirty: the server has to write out pages of its own
/// mount to get any.
#[test]
fn pages_of_the_mount_are_written_when_there_is_no_memory() -> Result<()> {
    const MIB: u32 = 96;
    if !can("little memory", Controller::Memory, &[Need::Loop, Need::Tool("python3")])? {
        return Ok(());
    }
    let stage = Stage::on(Scratch::on(FsKind::Ext4, "little-memory", 1024)?)?;
    // A file that somebody has open when it is copied up goes through the mount's page cache; a new one does not.
    for name in ["held-mapped", "held-written"] {
        File::create(stage.path("lower").join(name))?.set_len(u64::from(MIB) << 20)?;
    }
    let group = Group::new(Controller::Memory)?;
    group.allow(Some(80 << 20))?;
    mount_in(&group, &stage, USUAL)?;
    for name in ["new-mapped", "new-written"] {
        File::create(stage.path("merged").join(name))?.set_len(u64::from(MIB) << 20)?;
    }
    let run = |what: &'static str| -> Result<()> {
        let start = |name: &str| {
            let mut command = group.command("python3");
            command.args(["-c", FILL, name, &MIB.to_string(), what]).current_dir(stage.path("merged"));
            command
        };
        std::thread::scope(|scope| {
            let names = ["held-mapped", "held-written", "new-mapped", "new-written"];
            let spawn = |name| {
                let mut command = start(name);
                scope.spawn(move || exec::run(&mut command, LIMIT).with_context(|| format!("{what} {name}")))
            };
            let programs: Vec<_> = names.into_iter().map(spawn).collect();
            let ended = programs.into_iter().map(|program| program.join().expect("a thread panicked"));
            for done in ended.collect::<Result<Vec<_>>>()? {
                ensure!(done.status.success(), "{what}: {}: {}", done.status, done.tail(5));
            }
            Ok(())
        })
    };
    for what in ["fill", "check", "fill"] {
        run(what)?;
    }
    ensure!(group.killed()? == 0, "somebody was killed for lack of memory");
    stage.umount()?;
    stage.mount(USUAL)?;
    run("check")?;
    stage.umount()
}

/// A mount whose server has so little memory that it is killed while somebody walks over many names.
struct Starved {
    stage: Stage,
    group: Group,
}

const NAMES: usize = 100_000;

impl Starved {
    fn new(name: &str, options: &str) -> Result<Starved> {
        let stage = Stage::on(Scratch::on(FsKind::Tmpfs, name, 1024)?)?;
        fs::create_dir(stage.path("lower/many"))?;
        (0..NAMES).try_for_each(|number| {
            File::create(stage.path("lower/many").join(format!("name-{number}"))).map(drop)
        })?;
        let group = Group::new(Controller::Memory)?;
        mount_in(&group, &stage, options)?;
        let mut file = File::options().append(true).open(stage.path("merged/a"))?;
        file.write_all(b", and more")?;
        file.sync_all()?;
        group.allow(Some(group.used_bytes()? + (2 << 20)))?;
        Ok(Starved { stage, group })
    }

    /// Looks at all names.
    fn walk(&self) -> std::io::Result<()> {
        let many = self.stage.path("merged/many");
        (0..NAMES).try_for_each(|number| fs::symlink_metadata(many.join(format!("name-{number}"))).map(drop))
    }

    fn expect_kept(&self) -> Result<()> {
        ensure!(fs::read(self.stage.path("merged/a"))? == b"lower a, and more", "what was synced is lost");
        ensure!(fs::read_dir(self.stage.path("merged/many"))?.count() == NAMES, "names are missing");
        Ok(())
    }
}

#[test]
fn after_a_kill_for_lack_of_memory_the_next_mount_goes_on() -> Result<()> {
    if !can("out of memory", Controller::Memory, &[])? {
        return Ok(());
    }
    let starved = Starved::new("starved", &format!("{USUAL},takeover=off"))?;
    let stage = &starved.stage;
    let Err(error) = starved.walk() else {
        bail!("{NAMES} names fit: {} bytes", starved.group.used_bytes()?)
    };
    let errno = Errno::from_io_error(&error);
    ensure!(matches!(errno, Some(Errno::NOTCONN | Errno::CONNABORTED)), "{error}");
    ensure!(starved.group.killed()? == 1, "another end");
    ensure!(is_mounted(&stage.path("merged"))?, "the dead mount is in the way of nobody");
    stage.mount(USUAL)?;
    starved.expect_kept()?;
    stage.umount()?;
    ensure!(!is_mounted(&stage.path("merged"))?, "the dead mount is below");
    ensure!(
        fs::read_dir(stage.path("work/work"))?.next().is_none(),
        "something is left in the work directory"
    );
    Ok(())
}

#[test]
fn a_kept_mount_outlives_a_kill_for_lack_of_memory() -> Result<()> {
    if !can("out of memory with takeover", Controller::Memory, &[Need::Resend])? {
        return Ok(());
    }
    let starved = Starved::new("starved-kept", &format!("{USUAL},takeover=on"))?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let more_memory = scope.spawn(|| -> Result<()> {
            while starved.group.killed()? == 0 && !done.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            starved.group.allow(None)
        });
        let walked = starved.walk();
        done.store(true, Ordering::SeqCst);
        more_memory.join().expect("a thread panicked")?;
        walked.context("an error is seen")
    })?;
    ensure!(starved.group.killed()? > 0, "{NAMES} names fit: {} bytes", starved.group.used_bytes()?);
    starved.expect_kept()?;
    starved.stage.umount()
}
