//! Mounts that outlive their servers.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use acetate_testkit::driver::{acetate_bin, is_mounted};
use acetate_testkit::inject::{self, Injection, Kind};
use acetate_testkit::need::{Need, have};
use acetate_testkit::takeover::{PROGRAMS, attempt, holder, many_nodes, server};
use acetate_testkit::userns;
use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::lifecycle::{Stage, USUAL, eventually, stderr, succeeded};

fn can(name: &str) -> Result<bool> {
    have(name, &[Need::Root, Need::Fuse, Need::Resend])
}

/// Kills the server and waits until there is another one.
fn replace(stage: &Stage) -> Result<()> {
    let holder = holder(&stage.path("merged"))?;
    let old = server(holder)?.context("no server")?;
    kill_process(old, Signal::KILL)?;
    eventually("another server", || Ok(server(holder)?.is_some_and(|new| new != old)))
}

fn mounted(name: &str) -> Result<Stage> {
    let stage = Stage::new(name)?;
    stage.mount(&format!("{USUAL},takeover=on"))?;
    Ok(stage)
}

/// No process of the mount is left.
fn expect_gone(holder: i32) -> Result<()> {
    eventually("the end of the holder", || Ok(!Path::new(&format!("/proc/{holder}")).exists()))
}

#[test]
fn what_is_open_goes_on_with_the_next_server() -> Result<()> {
    if !can("what_is_open_goes_on_with_the_next_server")? {
        return Ok(());
    }
    let stage = mounted("takeover-open")?;
    let merged = stage.path("merged");
    let number = fs::metadata(merged.join("a"))?.ino();
    let mut lower = File::open(merged.join("a"))?;
    let mut upper =
        OpenOptions::new().create(true).truncate(true).read(true).write(true).open(merged.join("new"))?;
    upper.write_all(b"one ")?;
    let gone = OpenOptions::new().read(true).write(true).open(merged.join("new"))?;
    let (unlinked, below) = (File::open(merged.join("d/f"))?, merged.join("d"));
    fs::remove_file(merged.join("d/f"))?;
    fs::rename(merged.join("new"), merged.join("d/moved"))?;
    replace(&stage)?;
    let mut text = String::new();
    lower.read_to_string(&mut text)?;
    ensure!(text == "lower a", "{text}");
    upper.write_all(b"two")?;
    fs::remove_file(merged.join("d/moved"))?;
    replace(&stage)?;
    upper.write_all(b" three")?;
    let mut bytes = [0; 64];
    let length = gone.read_at(&mut bytes, 0)?;
    ensure!(&bytes[..length] == b"one two three", "{:?}", &bytes[..length]);
    ensure!(gone.metadata()?.nlink() == 0, "a removed file has names");
    let length = unlinked.read_at(&mut bytes, 0)?;
    ensure!(&bytes[..length] == b"lower f", "{:?}", &bytes[..length]);
    ensure!(fs::read_dir(&below)?.count() == 0, "what was removed is back");
    ensure!(fs::metadata(merged.join("a"))?.ino() == number, "another inode number");
    upper.seek(SeekFrom::Start(0))?;
    drop((lower, upper, gone, unlinked));
    let holder = holder(&merged)?;
    stage.umount()?;
    expect_gone(holder)
}

/// Files that the kernel has opened by itself have no record; they are read by node.
#[test]
fn what_the_kernel_has_opened_itself_goes_on_with_the_next_server() -> Result<()> {
    if !can("what_the_kernel_has_opened_itself_goes_on_with_the_next_server")? {
        return Ok(());
    }
    let stage = Stage::new("takeover-no-open")?;
    fs::write(stage.path("lower/long"), vec![b'x'; 100 << 10])?;
    stage.mount("lowerdir=lower:upper,takeover=on")?;
    let merged = stage.path("merged");
    for _ in 0..600 {
        File::open(merged.join("a"))?;
    }
    let open = File::open(merged.join("long"))?;
    replace(&stage)?;
    let mut bytes = vec![0; 100 << 10];
    open.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes.iter().all(|byte| *byte == b'x'), "other bytes");
    ensure!(fs::read(merged.join("d/f"))? == b"lower f", "another file");
    drop(open);
    let holder = holder(&merged)?;
    stage.umount()?;
    expect_gone(holder)
}

#[test]
fn a_listing_goes_on_with_the_next_server() -> Result<()> {
    if !can("a_listing_goes_on_with_the_next_server")? {
        return Ok(());
    }
    let stage = Stage::new("takeover-list")?;
    let many = stage.path("lower/many");
    fs::create_dir(&many)?;
    (0..5000).try_for_each(|number| fs::write(many.join(format!("name-{number}")), ""))?;
    stage.mount(&format!("{USUAL},takeover=on"))?;
    let mut names = Vec::new();
    for (index, entry) in fs::read_dir(stage.path("merged/many"))?.enumerate() {
        names.push(entry?.file_name());
        if index % 2000 == 100 {
            replace(&stage)?;
        }
    }
    names.sort();
    names.dedup();
    ensure!(names.len() == 5000, "{} names", names.len());
    stage.umount()
}

#[test]
fn a_server_is_replaced_on_request() -> Result<()> {
    if !can("a_server_is_replaced_on_request")? {
        return Ok(());
    }
    let stage = mounted("takeover-upgrade")?;
    let merged = stage.path("merged");
    let file = File::open(merged.join("a"))?;
    let holder = holder(&merged)?;
    let first = server(holder)?;
    let program = acetate_bin()?;
    for _ in 0..10 {
        let program = program.to_str().context("no text")?;
        succeeded(&stage.acetate(&["upgrade", "--to", program, "merged"])?)?;
    }
    ensure!(server(holder)? != first, "the same server");
    // What does not serve leaves the mount to what did.
    let refused = stage.acetate(&["upgrade", "--to", "/bin/false", "merged"])?;
    ensure!(refused.status.code() == Some(2), "{}", refused.status);
    let said = stderr(&refused);
    ensure!(said.contains("goes on with the server it had"), "{said}");
    let mut bytes = [0; 7];
    file.read_exact_at(&mut bytes, 0)?;
    ensure!(&bytes == b"lower a", "{bytes:?}");
    drop(file);
    stage.umount()?;
    expect_gone(holder)?;
    stage.mount(&format!("{USUAL},takeover=off"))?;
    let refused = stage.acetate(&["upgrade", "merged"])?;
    ensure!(stderr(&refused).contains("takeover=on"), "{}", stderr(&refused));
    stage.umount()
}

/// Writes a program, and returns its path.
fn script(stage: &Stage, text: &str) -> Result<String> {
    let path = stage.path("program");
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.to_str().context("no text")?.to_owned())
}

/// Asks for a server that is the script `text`.
fn upgrade_to(stage: &Stage, text: &str) -> Result<Command> {
    let mut command = Command::new(acetate_bin()?);
    command.args(["upgrade", "--to", &script(stage, text)?, "merged"]).current_dir(stage.path(""));
    Ok(command)
}

#[test]
fn what_cannot_serve_leaves_the_mount_to_the_server_before() -> Result<()> {
    if !can("what_cannot_serve_leaves_the_mount_to_the_server_before")? {
        return Ok(());
    }
    let stage = mounted("takeover-refused")?;
    let merged = stage.path("merged");
    let file = File::open(merged.join("a"))?;
    let holder = holder(&merged)?;
    for (program, why) in [
        ("no program, and no script", "exec format error"),
        ("#!/nowhere/interpreter\n", "no such file or directory"),
        ("#!/bin/sh\nkill -9 $$\n", "signal: 9"),
    ] {
        let refused = upgrade_to(&stage, program)?.stdin(Stdio::null()).output()?;
        let said = stderr(&refused);
        ensure!(refused.status.code() == Some(2) && said.contains(why), "{program}: {said}");
        ensure!(said.contains("goes on with the server it had"), "{program}: {said}");
        let mut bytes = [0; 7];
        file.read_exact_at(&mut bytes, 0)?;
        ensure!(&bytes == b"lower a", "{bytes:?}");
    }
    // One that does not come up is given up with whoever waits for it.
    let begun = stage.path("begun");
    let never = format!("#!/bin/sh\n: >'{}'\nexec sleep 1000\n", begun.display());
    let mut waits = upgrade_to(&stage, &never)?.spawn()?;
    eventually("the new server", || Ok(begun.exists()))?;
    waits.kill()?;
    waits.wait()?;
    ensure!(fs::read(merged.join("d/f"))? == b"lower f");
    drop(file);
    stage.umount()?;
    expect_gone(holder)
}

#[test]
fn a_server_whose_file_is_gone_is_started_again() -> Result<()> {
    if !can("a_server_whose_file_is_gone_is_started_again")? {
        return Ok(());
    }
    let stage = mounted("takeover-removed")?;
    let program = stage.path("program");
    fs::copy(acetate_bin()?, &program)?;
    succeeded(&stage.acetate(&["upgrade", "--to", program.to_str().context("no text")?, "merged"])?)?;
    fs::remove_file(&program)?;
    replace(&stage)?;
    ensure!(fs::read(stage.path("merged/a"))? == b"lower a");
    stage.umount()
}

#[test]
fn a_signal_is_not_lost_while_the_next_server_starts() -> Result<()> {
    if !can("a_signal_is_not_lost_while_the_next_server_starts")? {
        return Ok(());
    }
    for signals in [1, 2] {
        let stage = mounted("takeover-starts")?;
        let merged = stage.path("merged");
        let holder = holder(&merged)?;
        let (begun, go) = (stage.path("begun"), stage.path("go"));
        let waits = format!(
            "#!/bin/sh\n: >'{}'\nuntil [ -e '{}' ]; do sleep 0.02; done\nexec '{}' \"$@\"\n",
            begun.display(),
            go.display(),
            acetate_bin()?.display()
        );
        let mut asks = upgrade_to(&stage, &waits)?.stderr(Stdio::null()).spawn()?;
        eventually("the new server", || Ok(begun.exists()))?;
        let holder_pid = Pid::from_raw(holder).context("no holder")?;
        kill_process(holder_pid, Signal::TERM)?;
        if signals == 1 {
            fs::write(&go, "")?;
        } else {
            // The first one has been taken note of when the second one comes.
            eventually("the first signal", || Ok(!has_pending(holder)?))?;
            kill_process(holder_pid, Signal::TERM)?;
        }
        expect_gone(holder)?;
        ensure!(!is_mounted(&merged)?, "{signals} signals: still mounted");
        asks.wait()?;
    }
    Ok(())
}

/// Whether a process has yet to read of a signal that it has got: it sleeps again once it has.
fn has_pending(process: i32) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let is = |line: &str| line.starts_with("State:\tS");
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).context("no signals")?;
    Ok(!status.lines().any(is) || pending.trim().bytes().any(|digit| digit != b'0'))
}

#[test]
fn more_files_without_a_name_than_a_process_may_have_open_at_first() -> Result<()> {
    if !can("more_files_without_a_name_than_a_process_may_have_open_at_first")? {
        return Ok(());
    }
    let stage = Stage::new("takeover-many-open")?;
    let program = acetate_bin()?;
    let mount = format!("ulimit -Sn 256; exec '{}' mount -o {USUAL},takeover=on merged", program.display());
    succeeded(&Command::new("sh").args(["-c", &mount]).current_dir(stage.path("")).output()?)?;
    let files = (0..400).map(|number| -> Result<File> {
        let path = stage.path(format!("merged/{number}"));
        fs::write(&path, format!("{number}"))?;
        let file = File::open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    });
    let files: Vec<File> = files.collect::<Result<_>>()?;
    replace(&stage)?;
    for (number, mut file) in files.into_iter().enumerate() {
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        ensure!(text == format!("{number}"), "{number}: {text}");
    }
    stage.umount()
}

/// What takes room in upper is given back also if nobody has it open when the next server comes.
#[test]
fn files_without_a_name_are_not_kept_for_ever() -> Result<()> {
    if !can("files_without_a_name_are_not_kept_for_ever")? {
        return Ok(());
    }
    let stage = mounted("takeover-kept")?;
    let path = stage.path("merged/file");
    let known = {
        let file = File::create(&path)?;
        let known = rustix::fs::open(&path, OFlags::PATH, Mode::empty())?;
        fs::remove_file(&path)?;
        drop(file);
        known
    };
    let holder = holder(&stage.path("merged"))?;
    let kept = || -> Result<usize> {
        let links = fs::read_dir(format!("/proc/{holder}/fd"))?.map(|fd| fs::read_link(fd?.path()));
        let links: Vec<_> = links.collect::<std::io::Result<_>>()?;
        Ok(links.iter().filter(|link| link.to_string_lossy().contains("/upper/")).count())
    };
    ensure!(kept()? == 1, "the file was not kept");
    replace(&stage)?;
    ensure!(fs::read(stage.path("merged/a"))? == b"lower a");
    drop(known);
    eventually("the file is gone", || Ok(kept()? == 0))?;
    stage.umount()
}

/// Whatever has been done by then, nothing is left mounted, and the reason is said.
#[test]
fn a_server_that_is_killed_before_it_serves_leaves_no_mount() -> Result<()> {
    if !can("a_server_that_is_killed_before_it_serves_leaves_no_mount")? {
        return Ok(());
    }
    let stage = Stage::new("takeover-early")?;
    for at in 0.. {
        let mut command = Command::new(acetate_bin()?);
        command.args(["mount", "-o", &format!("{USUAL},takeover=on"), "merged"]).current_dir(stage.path(""));
        let limit = Duration::from_secs(60);
        let (output, seen) = inject::run(&mut command, Injection::Kill(at), limit)?;
        let said = stderr(&output);
        let call = *seen.points(Injection::Kill(at)).get(at).context("no such call")?;
        ensure!(seen.hit && !seen.hung, "{at} {call:?}: {said}");
        let why = "ended by signal 9 before the mount could be used";
        ensure!(output.status.code() == Some(2) && said.contains(why), "{at} {call:?}: {said}");
        ensure!(!is_mounted(&stage.path("merged"))?, "{at} {call:?}: a dead mount is left");
        if call.kind == Kind::Answer {
            break;
        }
    }
    stage.mount(USUAL)?;
    stage.umount()
}

#[test]
fn a_signal_ends_mount_server_and_holder() -> Result<()> {
    if !can("a_signal_ends_mount_server_and_holder")? {
        return Ok(());
    }
    for to_holder in [true, false] {
        let stage = mounted("takeover-signal")?;
        let merged = stage.path("merged");
        replace(&stage)?;
        fs::write(merged.join("b"), "b")?;
        let holder = holder(&merged)?;
        let pid = if to_holder { Pid::from_raw(holder) } else { server(holder)? };
        kill_process(pid.context("no process")?, Signal::TERM)?;
        expect_gone(holder)?;
        ensure!(!is_mounted(&merged)?, "still mounted");
        ensure!(fs::read(stage.path("upper/b"))? == b"b", "what was written is gone");
    }
    Ok(())
}

/// Whether the mount has a holder.
fn has_holder(stage: &Stage) -> Result<bool> {
    Ok(stage.entry()?["holder"].is_u64())
}

#[test]
fn daemons_outlive_their_servers_unless_told_otherwise() -> Result<()> {
    if !can("daemons_outlive_their_servers_unless_told_otherwise")? {
        return Ok(());
    }
    let stage = Stage::new("takeover-default")?;
    stage.mount(USUAL)?;
    let merged = stage.path("merged");
    let file = File::open(merged.join("a"))?;
    replace(&stage)?;
    let mut bytes = [0; 7];
    file.read_exact_at(&mut bytes, 0)?;
    ensure!(&bytes == b"lower a", "{bytes:?}");
    drop(file);
    let holder = holder(&merged)?;
    stage.umount()?;
    // Whoever has waited for the end of the mount has waited for the holder: the layers are free.
    ensure!(!stage.path("merged/a").exists());
    expect_gone(holder)?;
    for options in ["takeover=off", "lower=revalidate"] {
        stage.mount(&format!("{USUAL},{options}"))?;
        ensure!(!has_holder(&stage)?, "{options}: a holder");
        let server = stage.entry()?["pid"].as_i64().context("no server")?;
        let parent = fs::read_to_string(format!("/proc/{server}/stat"))?;
        let parent =
            parent.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).context("stat")?;
        let program = fs::read_to_string(format!("/proc/{parent}/comm"))?;
        ensure!(program.trim() != "acetate", "{options}: a holder that holds nothing stays");
        stage.umount()?;
    }
    Ok(())
}

#[test]
fn servers_that_crash_again_and_again_end_the_mount() -> Result<()> {
    if !can("servers_that_crash_again_and_again_end_the_mount")? {
        return Ok(());
    }
    let stage = Stage::new("takeover-crash")?;
    let merged = stage.path("merged");
    let mut foreground = Command::new(acetate_bin()?)
        .args(["mount", "-f", "-o", &format!("{USUAL},takeover=on"), "merged"])
        .current_dir(stage.path(""))
        .stderr(Stdio::piped())
        .spawn()?;
    let holder = i32::try_from(foreground.id())?;
    eventually("a server", || Ok(is_mounted(&merged)? && fs::read(merged.join("a")).is_ok()))?;
    let mut crashed = Vec::new();
    eventually("the end of a mount whose servers crash", || {
        if let Some(server) = server(holder).unwrap_or_default()
            && !crashed.contains(&server)
        {
            // It may be ending by itself.
            crashed.extend(kill_process(server, Signal::ABORT).is_ok().then_some(server));
        }
        Ok(foreground.try_wait()?.is_some())
    })?;
    let mut said = String::new();
    foreground.stderr.take().context("no words")?.read_to_string(&mut said)?;
    ensure!(said.contains("servers in a row ended at once"), "{said}");
    ensure!(foreground.wait()?.code() == Some(2) && (5..20).contains(&crashed.len()), "{crashed:?}");
    ensure!(!is_mounted(&merged)?, "the mount is still there, and dead");
    stage.mount(USUAL)?;
    ensure!(fs::read(merged.join("a"))? == b"lower a");
    stage.umount()
}

/// systemd and killall(1) end all processes of a mount at once.
#[test]
fn a_signal_to_server_and_holder_is_one_signal() -> Result<()> {
    if !can("a_signal_to_server_and_holder_is_one_signal")? {
        return Ok(());
    }
    let stage = mounted("takeover-both")?;
    let merged = stage.path("merged");
    let mut file = File::open(merged.join("d/f"))?;
    let holder = holder(&merged)?;
    for process in [server(holder)?, Pid::from_raw(holder)] {
        kill_process(process.context("no process")?, Signal::TERM)?;
    }
    eventually("the mount has left the tree", || Ok(!is_mounted(&merged)?))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    ensure!(text == "lower f", "{text}");
    drop(file);
    expect_gone(holder)
}

#[test]
fn to_kill_both_ends_the_mount() -> Result<()> {
    if !can("to_kill_both_ends_the_mount")? {
        return Ok(());
    }
    let stage = mounted("takeover-both-killed")?;
    let merged = stage.path("merged");
    let holder = holder(&merged)?;
    let server = server(holder)?.context("no server")?;
    for process in [Pid::from_raw(holder).context("no holder")?, server] {
        kill_process(process, Signal::KILL)?;
    }
    eventually("the mount is dead", || {
        Ok(fs::metadata(merged.join("a"))
            .is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::NOTCONN)))
    })?;
    stage.mount(USUAL)?;
    ensure!(fs::read(merged.join("a"))? == b"lower a");
    stage.umount()
}

#[test]
fn a_large_tree_is_taken_over() -> Result<()> {
    if can("a_large_tree_is_taken_over")? {
        println!("{:?}", many_nodes(50_000)?);
    }
    Ok(())
}

#[test]
fn programs_do_not_notice_that_servers_are_killed() -> Result<()> {
    let needs =
        [Need::Root, Need::Fuse, Need::Resend, Need::Tool("fsx"), Need::Tool("git"), Need::Tool("sqlite3")];
    if !have("programs_do_not_notice_that_servers_are_killed", &needs)? {
        return Ok(());
    }
    let mut kills = 0;
    for program in PROGRAMS {
        let killed = attempt(&program)?;
        println!("{}: {killed} servers killed", program.0);
        kills += killed;
    }
    ensure!(kills > 20, "only {kills} servers were killed");
    Ok(())
}

/// Runs this test once more as an ordinary user. `false` if that is who runs it, and is to go on.
fn as_user(name: &str, more: &[Need]) -> Result<bool> {
    const INSIDE: &str = "ACETATE_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return Ok(false);
    }
    let needs = [Need::Root, Need::Fuse, Need::Resend];
    let tools = ["fusermount3", "unshare", "setpriv"].map(Need::Tool);
    if have(name, &[&needs[..], &tools, more].concat())? {
        let arguments = [&format!("takeover::{name}"), "--exact", "--nocapture"].map(str::to_owned);
        let status = userns::run_as_user(&std::env::current_exe()?, &arguments, &[(INSIDE, "1")])?;
        ensure!(status.success(), "as an ordinary user: {status}");
    }
    Ok(true)
}

fn content(file: &File) -> Result<String> {
    let mut bytes = [0; 64];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// Modes bind the server of an ordinary user, who may have files open that could not be opened again.
#[test]
fn what_a_user_has_open_goes_on_whatever_its_mode_says() -> Result<()> {
    if as_user("what_a_user_has_open_goes_on_whatever_its_mode_says", &[])? {
        return Ok(());
    }
    let stage = Stage::new("takeover-user")?;
    fs::write(stage.path("lower/b"), "lower b")?;
    stage.mount(USUAL)?;
    let merged = stage.path("merged");
    let close = |name: &str| fs::set_permissions(merged.join(name), fs::Permissions::from_mode(0o000));
    let options = |mode| OpenOptions::new().read(true).write(true).mode(mode).clone();
    let reader = File::open(merged.join("a"))?;
    close("a")?;
    ensure!(content(&reader)? == "lower a", "a file that was closed to others");
    // As git makes its objects.
    let new = options(0o444).create_new(true).open(merged.join("new"))?;
    new.write_all_at(b"one", 0)?;
    let unnamed = options(0).custom_flags(OFlags::TMPFILE.bits().cast_signed()).open(&merged)?;
    unnamed.write_all_at(b"unnamed", 0)?;
    let writer = options(0).open(merged.join("b"))?;
    close("b")?;
    let replaced = File::open(merged.join("d/f"))?;
    fs::write(merged.join("other"), "other")?;
    fs::rename(merged.join("other"), merged.join("d/f"))?;
    let holder = holder(&merged)?;
    let kept = || Ok::<_, anyhow::Error>(fs::read_dir(format!("/proc/{holder}/fd"))?.count());
    let most = kept()?;
    for round in 0..3 {
        replace(&stage)?;
        ensure!(content(&reader)? == "lower a", "round {round}");
        ensure!(content(&replaced)? == "lower f", "round {round}");
        new.write_all_at(b"two", 3 + 3 * round)?;
        writer.write_all_at(b"upper", 0)?;
        unnamed.write_all_at(b"UN", 0)?;
        if round == 1 {
            fs::remove_file(merged.join("new"))?;
        }
    }
    ensure!(content(&new)? == "onetwotwotwo", "{}", content(&new)?);
    ensure!(content(&writer)? == "upper b", "{}", content(&writer)?);
    ensure!(content(&unnamed)? == "UNnamed", "{}", content(&unnamed)?);
    ensure!(File::open(merged.join("a")).is_err(), "a file of mode 0 can be opened");
    drop((reader, new, unnamed, writer, replaced));
    eventually("the end of what was kept", || Ok(kept()? + 5 <= most))?;
    stage.umount()?;
    expect_gone(holder)
}

#[test]
fn programs_of_a_user_do_not_notice_that_servers_are_killed() -> Result<()> {
    let needs = ["fsx", "git", "sqlite3"].map(Need::Tool);
    if as_user("programs_of_a_user_do_not_notice_that_servers_are_killed", &needs)? {
        return Ok(());
    }
    for program in PROGRAMS {
        println!("{}: {} servers killed", program.0, attempt(&program)?);
    }
    Ok(())
}

/// It often gets the device number of the mount before it.
#[test]
fn the_mount_that_comes_next_is_left_alone() -> Result<()> {
    if !can("the_mount_that_comes_next_is_left_alone")? {
        return Ok(());
    }
    let stage = Stage::new("takeover-next")?;
    let merged = stage.path("merged");
    for _ in 0..20 {
        stage.mount(USUAL)?;
        let holder = holder(&merged)?;
        unmount(&merged, UnmountFlags::empty())?;
        mount("next", &merged, "tmpfs", MountFlags::empty(), None)?;
        expect_gone(holder)?;
        unmount(&merged, UnmountFlags::empty()).context("the next mount is gone")?;
    }
    Ok(())
}
