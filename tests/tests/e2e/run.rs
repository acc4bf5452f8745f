//! Commands in workspaces: what they see, how they end, and what they leave.

use crate::store::Home;
use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::FsKind;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const RUNTIMES: [&str; 3] = ["none", "crun", "runc"];

fn can(name: &str, more: &[Need]) -> Result<bool> {
    let needs = [Need::Root, Need::KernelOverlay, Need::Tool("busybox")];
    have(name, &needs.iter().chain(more).copied().collect::<Vec<_>>())
}

/// A tree with a shell and nothing that a command's mounts need.
fn shell(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("bin"))?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.exists());
    fs::copy(busybox.context("busybox")?, dir.join("bin/busybox"))?;
    for name in [
        "sh", "id", "cat", "ls", "sleep", "hostname", "tty", "env", "pwd", "ps", "touch", "stat", "stty",
        "mkdir", "echo",
    ] {
        symlink("busybox", dir.join("bin").join(name))?;
    }
    fs::write(dir.join("bin/data"), "no program")?;
    Ok(())
}

/// A store with a workspace `w` of a tree that is a shell.
fn ready(name: &str) -> Result<Home> {
    let home = Home::new(name)?;
    shell(&home.path("tree"))?;
    home.ok(&["image", "import", "tree", "--name", "sh"])?;
    home.ok(&["workspace", "create", "w", "--image", "sh", "--driver", "kernel"])?;
    Ok(home)
}

/// Runs a command in `w`.
fn run(home: &Home, runtime: &str, more: &[&str], command: &[&str]) -> Result<Output> {
    let args = [&["workspace", "run", "w", "--runtime", runtime], more, &["--"], command].concat();
    home.run(&args)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a command prints, which has to succeed.
fn says(home: &Home, runtime: &str, more: &[&str], script: &str) -> Result<String> {
    let output = run(home, runtime, more, &["sh", "-c", script])?;
    ensure!(output.status.success(), "{runtime} {more:?} {script}: {output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn is_mounted(home: &Home) -> Result<bool> {
    let point = fs::canonicalize(home.path("store"))?.join("mounts/w");
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().any(|line| line.split(' ').nth(4) == point.to_str()))
}

/// Waits until something is so.
fn until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !so()? {
        ensure!(begin.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A command that runs until it is told to end, and has begun.
fn begun(home: &Home, runtime: &str, script: &str) -> Result<Child> {
    let script = format!("{script}\necho begun; while :; do sleep 0.05; done");
    let args = ["workspace", "run", "w", "--runtime", runtime, "--", "sh", "-c", &script];
    let mut child = home.command(&args)?.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().context("stdout")?).read_line(&mut line)?;
    ensure!(line == "begun\n", "{runtime}: {line:?}");
    Ok(child)
}

/// The control groups that are named by the process that was asked to run a command.
fn groups(pid: u32) -> Result<Vec<PathBuf>> {
    let end = format!("-{pid}");
    let is_its = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.starts_with(b"acetate-") && name.ends_with(end.as_bytes())
    };
    let mut found = Vec::new();
    // Of version 2 a group is in the root, of version 1 in that of its controller.
    for root in fs::read_dir("/sys/fs/cgroup")? {
        let root = root?.path();
        found.extend(Some(root.clone()).filter(is_its));
        if root.is_dir() {
            let entries = fs::read_dir(&root)?.collect::<std::io::Result<Vec<_>>>()?;
            found.extend(entries.into_iter().map(|entry| entry.path()).filter(is_its));
        }
    }
    Ok(found)
}

fn signal(child: &Child, number: i32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("pid")?;
    let signal = rustix::process::Signal::from_named_raw(number).context("signal")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

#[test]
fn commands_run_alike_with_every_runtime() -> Result<()> {
    if !can("commands", &[Need::Tool("crun"), Need::Tool("runc")])? {
        return Ok(());
    }
    let home = ready("run")?;
    for runtime in RUNTIMES {
        let says = |more: &[&str], script: &str| says(&home, runtime, more, script);
        ensure!(says(&[], "id -u; hostname; pwd")? == "0\nw\n/", "{runtime}");
        ensure!(
            says(&["--user", "12:34", "--workdir", "/tmp/new"], "id -u; id -g; pwd")? == "12\n34\n/tmp/new"
        );
        ensure!(says(&["--env", "A=b c", "-e", "PATH=/bin"], "echo $A:$PATH:$HOME")? == "b c:/bin:/");
        // It sees its own processes only, and no device but those that are harmless.
        ensure!(says(&[], "ls -d /proc/[0-9]* | wc -l")?.parse::<u32>()? < 6, "{runtime}");
        ensure!(
            says(
                &[],
                "echo x >/dev/null; cat /dev/zero | head -c 2 | wc -c; ls -d /dev/pts /dev/shm /sys/class"
            )? == "2\n/dev/pts\n/dev/shm\n/sys/class"
        );
        let node =
            says(&[], "mknod /disk b 254 0 && cat /disk >/dev/null 2>&1 || echo refused; rm -f /disk")?;
        ensure!(node == "refused", "{runtime}: a device node works: {node}");
        let kernel = run(&home, runtime, &[], &["sh", "-c", "echo x >/proc/sys/kernel/hostname"])?;
        ensure!(!kernel.status.success(), "{runtime}: /proc/sys can be written to");
        ensure!(
            says(&[], "cat /etc/resolv.conf")? == fs::read_to_string("/etc/resolv.conf")?.trim(),
            "{runtime}"
        );
        let alone =
            says(&["--net", "none"], "cat /proc/net/dev | grep -c :; test -e /etc/resolv.conf || echo none")?;
        ensure!(alone.starts_with('1'), "{runtime}: {alone}");
        for (command, status) in [
            (vec!["sh", "-c", "exit 7"], 7),
            (vec!["sh", "-c", "kill -9 $$"], 137),
            (vec!["missing"], 127),
            (vec!["/bin/missing"], 127),
            (vec!["data"], 126),
            (vec!["/bin"], 126),
        ] {
            let output = run(&home, runtime, &[], &command)?;
            // As process 1, which a runtime may make it, a command cannot kill itself.
            let may_be = if status == 137 { vec![137, 0] } else { vec![status] };
            ensure!(
                output.status.code().is_some_and(|code| may_be.contains(&code)),
                "{runtime} {command:?}: {output:?}"
            );
            let explained = [126, 127].contains(&status);
            ensure!(!explained || text(&output).contains(command[0]), "{runtime} {command:?}: {output:?}");
        }
        let mut echo = home.command(&["workspace", "run", "w", "--runtime", runtime, "--", "cat"])?;
        let mut echo = echo.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        echo.stdin.take().context("stdin")?.write_all(b"through")?;
        ensure!(echo.wait_with_output()?.stdout == b"through", "{runtime}: standard input");
        ensure!(!is_mounted(&home)?, "{runtime}: it stays mounted");
        // What the image lacks was there for the commands, and is no change.
        let changes = home.json(&["workspace", "diff", "w", "--json"])?["changes"].clone();
        let paths: Vec<&str> =
            changes.as_array().into_iter().flatten().filter_map(|c| c["path"].as_str()).collect();
        ensure!(paths == ["tmp", "tmp/new"], "{runtime}: {paths:?}");
        home.ok(&["workspace", "reset", "w"])?;
    }
    home.sound()
}

#[test]
fn signals_reach_the_command_and_nothing_outlives_a_kill() -> Result<()> {
    if !can("signals", &[Need::Tool("crun"), Need::Tool("runc")])? {
        return Ok(());
    }
    let home = ready("signals")?;
    for runtime in RUNTIMES {
        let mut child = begun(&home, runtime, "trap 'exit 9' TERM; trap 'exit 8' INT")?;
        signal(&child, 15)?;
        ensure!(child.wait()?.code() == Some(9), "{runtime}: TERM");
        let mut child = begun(&home, runtime, "trap 'exit 8' INT")?;
        signal(&child, 2)?;
        ensure!(child.wait()?.code() == Some(8), "{runtime}: INT");
        // A marker that the command goes on touching as long as it lives.
        let mut child =
            begun(&home, runtime, "echo x >/beat; (while :; do echo x >>/beat; sleep 0.02; done) &")?;
        let groups = groups(child.id())?;
        signal(&child, 9)?;
        child.wait()?;
        ensure!(groups.is_empty(), "{runtime}: control groups: {groups:?}");
        let beat = home.path("store/mounts/w/beat");
        let mut last = u64::MAX;
        until("the command ends with its runner", || {
            std::thread::sleep(Duration::from_millis(200));
            let now = fs::metadata(&beat)?.len();
            Ok(std::mem::replace(&mut last, now) == now)
        })?;
        // The mount is left, and the next command takes it away; so does whoever needs it away.
        ensure!(is_mounted(&home)?, "{runtime}");
        ensure!(run(&home, runtime, &[], &["id"])?.status.success(), "{runtime}");
        ensure!(!is_mounted(&home)?, "{runtime}");
        let mut child = begun(&home, runtime, ":")?;
        let refused = home.fails(&["workspace", "reset", "w"])?;
        ensure!(refused.contains("is in use"), "{refused}");
        signal(&child, 9)?;
        child.wait()?;
        until("the workspace is free", || Ok(home.run(&["workspace", "reset", "w"])?.status.success()))?;
        ensure!(!is_mounted(&home)?, "{runtime}");
    }
    home.sound()
}

#[test]
fn commands_share_the_mount_of_their_workspace() -> Result<()> {
    if !can("shared mounts", &[Need::Fuse, Need::Tool("crun"), Need::Tool("runc")])? {
        return Ok(());
    }
    let home = ready("shared")?;
    for driver in ["kernel", "fuse"] {
        ensure!(home.ok(&["workspace", "driver", "w", driver])? == driver);
        let mut first = begun(&home, "none", "trap 'exit 0' TERM")?;
        ensure!(says(&home, "none", &[], "echo second >/shared; cat /shared")? == "second");
        ensure!(is_mounted(&home)?, "{driver}: taken from under the first");
        signal(&first, 15)?;
        ensure!(first.wait()?.success());
        ensure!(!is_mounted(&home)?, "{driver}: left by the last");
        // Many at once, all at their begin and end.
        let many: Result<Vec<Child>> = (0..12)
            .map(|number| {
                let script = format!("echo {number} >/n{number}; cat /shared");
                let runtime = RUNTIMES[number % RUNTIMES.len()];
                let mut command = home.command(&[
                    "workspace",
                    "run",
                    "w",
                    "--runtime",
                    runtime,
                    "--",
                    "sh",
                    "-c",
                    &script,
                ])?;
                Ok(command.stdout(Stdio::null()).spawn()?)
            })
            .collect();
        for mut child in many? {
            ensure!(child.wait()?.success(), "{driver}: one of many");
        }
        ensure!(!is_mounted(&home)?, "{driver}: left by many");
        home.mount("w")?;
        ensure!(says(&home, "none", &[], "ls / | grep -c ^n")? == "12", "{driver}");
        ensure!(is_mounted(&home)?, "{driver}: it was to stay");
        home.umount("w")?;
        home.ok(&["workspace", "reset", "w"])?;
    }
    home.sound()
}

#[test]
fn a_command_at_a_terminal_has_one_of_its_own() -> Result<()> {
    if !can("terminal", &[Need::Tool("script"), Need::Tool("runc")])? {
        return Ok(());
    }
    let home = ready("terminal")?;
    for runtime in ["none", "runc"] {
        let line = format!(
            "stty rows 33 cols 77; {} workspace run w --runtime {runtime} -- sh -c 'tty; stty size; exit 5'; echo status $?; stty -a | grep -o '.icanon'",
            acetate_bin()?.display()
        );
        let mut script = Command::new("script");
        script
            .args(["-qec", &line, "/dev/null"])
            .env("ACETATE_STORE", home.path("store"))
            .env("SHELL", "/bin/sh");
        let output = script.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).replace('\r', "").replace("^@", "");
        ensure!(said.contains("/dev/pts/0\n33 77\nstatus 5\n icanon"), "{runtime}: {said:?}");
    }
    Ok(())
}

#[test]
fn an_image_says_what_it_runs_and_symlinks_lead_nowhere() -> Result<()> {
    if !can("image configuration", &[])? {
        return Ok(());
    }
    let home = ready("configuration")?;
    let tree = home.path("tree");
    fs::create_dir_all(tree.join("etc"))?;
    fs::write(tree.join("etc/passwd"), "ann:x:7:8:::/bin/sh\n")?;
    // The host's files must not be touched by way of these.
    let outside = home.path("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("hosts"), "the host's")?;
    symlink(outside.join("hosts"), tree.join("etc/hosts"))?;
    symlink(&outside, tree.join("proc"))?;
    home.ok(&[
        "image",
        "import",
        "tree",
        "--name",
        "made",
        "--cmd",
        "sh",
        "--cmd=-c",
        "--cmd",
        "echo default",
    ])?;
    home.ok(&["workspace", "create", "m", "--image", "made"])?;
    let said = home.run(&["workspace", "run", "m", "--runtime", "none"])?;
    ensure!(fs::read_dir(&outside)?.count() == 1, "something was made outside");
    ensure!(fs::read_to_string(outside.join("hosts"))? == "the host's");
    ensure!(text(&said).contains("default") || said.status.code() == Some(125), "{said:?}");
    home.ok(&[
        "workspace",
        "commit",
        "w",
        "next",
        "--entrypoint",
        "echo",
        "--cmd",
        "by",
        "default",
        "--user",
        "0",
        "--workdir",
        "/bin",
    ])?;
    ensure!(home.fails(&["workspace", "run", "w", "--user", "ann"]).is_err());
    for (args, expected) in [
        (vec![], "by default"),
        (vec!["--", "typed"], "typed"),
        (vec!["typed", "--user", "x"], "typed --user x"),
        (vec!["--entrypoint", "pwd"], "/bin"),
        (vec!["--entrypoint", "", "--", "id", "-u"], "0"),
    ] {
        let found = home.ok(&[&["workspace", "run", "w", "--runtime", "none"], &args[..]].concat())?;
        ensure!(found == expected, "{args:?}: {found}");
    }
    Ok(())
}

/// `acetate` as a user without any privilege, who owns the directory.
fn as_user(home: &Home, before: &[&str], args: &[&str]) -> Result<Output> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=3456", "--regid=3456", "--clear-groups", "--inh-caps=-all"]).args(before);
    command.arg(acetate_bin()?).args(args).env("ACETATE_STORE", home.path("mine/store"));
    command.env("HOME", home.path("mine")).current_dir(home.path("mine"));
    Ok(command.stdin(Stdio::null()).output()?)
}

#[test]
fn an_ordinary_user_runs_commands() -> Result<()> {
    if !can("ordinary user", &[Need::Tool("setpriv"), Need::Tool("unshare")])? {
        return Ok(());
    }
    for before in [&[][..], &["unshare", "-Urm"]] {
        let home = Home::new("rootless")?;
        let mine: PathBuf = home.path("mine");
        shell(&mine.join("tree"))?;
        for path in [&mine, &mine.join("tree")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        ensure!(Command::new("chown").args(["-R", "3456:3456"]).arg(&mine).status()?.success());
        let ok = |args: &[&str]| -> Result<String> {
            let output = as_user(&home, before, args)?;
            ensure!(output.status.success(), "{before:?} {args:?}: {output:?}");
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        ok(&["image", "import", "tree", "--name", "sh"])?;
        ok(&["workspace", "create", "w", "--image", "sh"])?;
        let said =
            ok(&["workspace", "run", "w", "--", "sh", "-c", "id -u; echo x >/file; cat /file; hostname"])?;
        ensure!(said == "0\nx\nw", "{before:?}: {said}");
        let own = ok(&[
            "workspace",
            "run",
            "w",
            "--runtime",
            "none",
            "--",
            "sh",
            "-c",
            "id -g; ls /proc/1/comm /dev/null",
        ])?;
        ensure!(own == "0\n/dev/null\n/proc/1/comm", "{before:?}: {own}");
        let other = as_user(&home, before, &["workspace", "run", "w", "--user", "7", "--", "id"])?;
        ensure!(other.status.code() == Some(125), "{before:?}: {other:?}");
        ensure!(text(&other).contains("uid 7 means nothing in your user namespace"), "{before:?}: {other:?}");
        let missing = as_user(&home, before, &["workspace", "run", "w", "--", "missing"])?;
        ensure!(missing.status.code() == Some(127), "{before:?}: {missing:?}");
        let diff = as_user(&home, before, &["workspace", "diff", "w"])?;
        ensure!(String::from_utf8(diff.stdout)? == "A file  (2 B)\n", "{before:?}");
        ok(&["workspace", "remove", "w"])?;
        let owner = fs::metadata(mine.join("store"))?.uid();
        ensure!(owner == 3456, "{owner}");
    }
    Ok(())
}

#[test]
fn a_driver_is_changed_at_once_or_says_what_to_convert() -> Result<()> {
    if !can("change of driver", &[Need::Fuse, Need::Loop])? {
        return Ok(());
    }
    let home = Home::on(FsKind::Btrfs, "change", 400)?;
    shell(&home.path("tree"))?;
    home.ok(&["image", "import", "tree", "--name", "sh"])?;
    for (first, then) in
        [("kernel", "fuse"), ("fuse", "kernel"), ("reflink", "copy"), ("copy", "reflink"), ("btrfs", "copy")]
    {
        home.ok(&["workspace", "create", "w", "--image", "sh", "--driver", first])?;
        says(&home, "none", &[], "echo kept >/file")?;
        ensure!(home.ok(&["workspace", "driver", "w", then])? == then);
        ensure!(says(&home, "none", &[], "cat /file; echo more >>/file")? == "kept", "{first} to {then}");
        home.ok(&["workspace", "commit", "w", "next"])?;
        ensure!(says(&home, "none", &[], "cat /file")? == "kept\nmore", "{first} to {then}");
        home.sound()?;
        home.ok(&["workspace", "remove", "w"])?;
    }
    for (first, then) in [("kernel", "copy"), ("copy", "fuse"), ("copy", "btrfs"), ("btrfs", "kernel")] {
        home.ok(&["workspace", "create", "w", "--image", "sh", "--driver", first])?;
        let refused = home.fails(&["workspace", "driver", "w", then])?;
        ensure!(refused.contains("have to be converted"), "{refused}");
        ensure!(refused.contains(&format!("--driver {then}")), "{refused}");
        ensure!(home.ok(&["workspace", "driver", "w"])? == first);
        home.ok(&["workspace", "remove", "w"])?;
    }
    Ok(())
}
