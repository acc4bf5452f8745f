//! Users inside a mount, and layers made by somebody who means harm (docs/security.md).

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use acetate_testkit::need::{Need, have};
use anyhow::{Result, ensure};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};
use rustix::io::Errno;

use crate::lifecycle::{Stage, USUAL, eventually, stderr, succeeded};

fn can(name: &str) -> Result<bool> {
    have(name, &[Need::Root, Need::Fuse])
}

fn mark(path: impl AsRef<Path>, name: &str, value: &[u8]) -> Result<()> {
    Ok(lsetxattr(path.as_ref(), name, value, XattrFlags::empty())?)
}

fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().as_ref().and_then(Errno::from_io_error)
}

/// Somebody who can write to the layers puts a symlink in the place of a directory that the server knows.
#[test]
fn a_symlink_in_place_of_a_directory_leads_nowhere() -> Result<()> {
    if !can("symlinks in layers")? {
        return Ok(());
    }
    let stage = Stage::new("symlinks")?;
    for dir in ["outside", "upper/known", "lower/below"] {
        fs::create_dir(stage.path(dir))?;
    }
    fs::write(stage.path("outside/secret"), "secret")?;
    fs::write(stage.path("lower/below/file"), "file")?;
    symlink(stage.path("outside"), stage.path("upper/link"))?;
    stage.mount(USUAL)?;
    for dir in ["known", "below"] {
        ensure!(fs::read_dir(stage.path("merged").join(dir))?.count() < 2);
    }
    for (layer, dir) in [("upper", "known"), ("lower", "below")] {
        fs::rename(stage.path(layer).join(dir), stage.path("aside"))?;
        symlink(stage.path("outside"), stage.path(layer).join(dir))?;
        let inside = stage.path("merged").join(dir);
        ensure!(fs::read(inside.join("secret")).is_err(), "{dir}: read outside of the layers");
        let _either_way = fs::write(inside.join("made"), "made");
        let _either_way = fs::remove_file(inside.join("secret"));
        ensure!(!stage.path("outside/made").exists(), "{dir}: written outside of the layers");
        ensure!(stage.path("outside/secret").exists(), "{dir}: removed outside of the layers");
        fs::remove_file(stage.path(layer).join(dir))?;
        fs::remove_dir_all(stage.path("aside"))?;
    }
    // A symlink of a layer is followed by whoever uses the mount, in their own tree.
    ensure!(fs::read_link(stage.path("merged/link"))? == stage.path("outside"));
    stage.umount()
}

/// Marks that no overlay makes: each is an error of the one object, and a line in the log, and never the end.
#[test]
fn broken_marks_are_errors_and_lines_in_the_log() -> Result<()> {
    if !can("broken marks")? {
        return Ok(());
    }
    let stage = Stage::new("marks")?;
    fs::write(stage.path("outside"), "outside")?;
    let redirects: [(&str, &[u8]); 7] = [
        ("up", b"../outside"),
        ("dots", b"/d/../../outside"),
        ("nul", b"/d\0x"),
        ("empty", b""),
        ("slashes", b"///"),
        ("relative", b"a/b"),
        ("long", &[b'x'; 300]),
    ];
    for (name, value) in redirects {
        fs::create_dir(stage.path("upper").join(name))?;
        mark(stage.path("upper").join(name), "trusted.overlay.redirect", value)?;
    }
    fs::write(stage.path("upper/cut"), "")?;
    mark(stage.path("upper/cut"), "trusted.overlay.metacopy", b"x")?;
    fs::write(stage.path("upper/nothing"), "")?;
    mark(stage.path("upper/nothing"), "trusted.overlay.metacopy", b"")?;
    for (name, value) in [("o1", &b"\0"[..]), ("o2", &[0xff; 200]), ("o3", b"\0\xfb\xff\xff\xff\xff")] {
        fs::write(stage.path("upper").join(name), "origin")?;
        mark(stage.path("upper").join(name), "trusted.overlay.origin", value)?;
        mark(stage.path("upper").join(name), "trusted.overlay.nlink", value)?;
        mark(stage.path("upper").join(name), "trusted.overlay.protattr", value)?;
    }
    mark(stage.path("upper"), "trusted.overlay.uuid", b"short")?;
    stage.mount(&format!("{USUAL},metacopy=on"))?;
    let mut broken = 0;
    for entry in fs::read_dir(stage.path("merged"))? {
        let path = entry?.path();
        let seen = fs::symlink_metadata(&path);
        broken += usize::from(seen.is_err());
        if seen.is_ok_and(|seen| seen.is_dir()) {
            let _either_way = fs::read_dir(&path).map(Iterator::count);
        }
    }
    ensure!(broken >= 6, "{broken}");
    for name in ["o1", "o2", "o3"] {
        ensure!(fs::read(stage.path("merged").join(name))? == b"origin", "{name}");
    }
    ensure!(fs::read(stage.path("merged/a"))? == b"lower a", "the rest is as ever");
    let log = stage.entry()?["log"].as_str().map(fs::read_to_string).transpose()?.unwrap_or_default();
    ensure!(log.contains("a mark in a layer is broken") && !log.contains("panicked"), "{log}");
    for name in ["up", "cut"] {
        ensure!(log.contains(&format!(": {name}: ")), "{name}: {log}");
    }
    stage.umount()
}

/// What a user of the mount writes is never taken for a mark.
#[test]
fn marks_cannot_be_forged_through_the_mount() -> Result<()> {
    if !can("forged marks")? {
        return Ok(());
    }
    for (prefix, options) in [("trusted", USUAL.to_owned()), ("user", format!("{USUAL},userxattr"))] {
        let stage = Stage::new("forged")?;
        fs::create_dir(stage.path("lower/hidden"))?;
        stage.mount(&options)?;
        let merged = stage.path("merged");
        fs::write(merged.join("d/empty"), "")?;
        let marks: [(&str, &str, &[u8]); 7] = [
            ("", "compat", b"extended"),
            ("d", "opaque", b"y"),
            ("d", "redirect", b"/hidden"),
            ("a", "metacopy", b""),
            ("a", "origin", b"\0"),
            ("d/empty", "whiteout", b"y"),
            ("d", "whiteout", b"y"),
        ];
        // Which dialect a layer is in is not asked about this one.
        let compat = ("", "user.overlay.compat".to_owned(), &b"extended"[..]);
        let marks = marks.map(|(path, name, value)| (path, format!("{prefix}.overlay.{name}"), value));
        for (path, name, value) in marks.into_iter().chain([compat]) {
            // Either it is refused, or it is kept apart and can be read again.
            if lsetxattr(merged.join(path), &name, value, XattrFlags::empty()).is_ok() {
                let mut buffer = [0; 64];
                let length = rustix::fs::lgetxattr(merged.join(path), &name, &mut buffer)?;
                ensure!(&buffer[..length] == value, "{path} {name}");
            }
        }
        for _ in 0..2 {
            ensure!(fs::read(merged.join("a"))? == b"lower a");
            ensure!(fs::read(merged.join("d/f"))? == b"lower f", "{prefix}: it became opaque");
            ensure!(fs::read(merged.join("d/empty"))?.is_empty());
            ensure!(fs::read_dir(merged.join("d"))?.count() == 2);
            stage.umount()?;
            stage.mount(&options)?;
        }
        stage.umount()?;
    }
    Ok(())
}

/// A whiteout that a user makes hides nobody's files.
#[test]
fn a_users_whiteout_hides_nothing() -> Result<()> {
    if !can("whiteouts of users")? {
        return Ok(());
    }
    let stage = Stage::new("user-whiteouts")?;
    stage.mount(USUAL)?;
    let merged = stage.path("merged");
    let make = |name: &str| {
        let made = mknodat(CWD, merged.join(name), FileType::CharacterDevice, Mode::RWXU, 0);
        errno(made.map_err(std::io::Error::from))
    };
    ensure!(make("new") == Some(Errno::PERM), "a device 0:0 was made");
    ensure!(make("a") == Some(Errno::EXIST));
    // By mknod elsewhere, and moved in.
    mknodat(CWD, stage.path("moved"), FileType::CharacterDevice, Mode::RWXU, 0)?;
    ensure!(errno(fs::rename(stage.path("moved"), merged.join("a"))) == Some(Errno::XDEV));
    // A device of other numbers is one.
    mknodat(CWD, merged.join("null"), FileType::CharacterDevice, Mode::RWXU, rustix::fs::makedev(1, 3))?;
    ensure!(fs::metadata(merged.join("null"))?.file_type().is_char_device());
    ensure!(fs::metadata(merged.join("null"))?.rdev() == rustix::fs::makedev(1, 3));
    ensure!(fs::read(merged.join("a"))? == b"lower a");
    stage.umount()
}

/// The server keeps the privileges that serving needs, and they are listed.
#[test]
fn the_server_gives_up_what_it_does_not_need() -> Result<()> {
    if !can("privileges")? {
        return Ok(());
    }
    let stage = Stage::new("privileges")?;
    stage.mount(USUAL)?;
    let entry = stage.entry()?;
    let listed: Vec<&str> =
        entry["capabilities"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
    ensure!(listed.contains(&"cap_chown") && !listed.contains(&"cap_net_admin"), "{listed:?}");
    ensure!(entry["no_new_privs"] == true, "{entry}");
    let pid = entry["pid"].as_u64().unwrap_or_default();
    // The kernel says so, too, of each thread but the one that only waits for its end.
    fs::write(stage.path("merged/new"), "new")?;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            u64::from_str_radix(line.trim(), 16).unwrap_or(u64::MAX)
        };
        ensure!(field("NoNewPrivs:") == 1, "{status}");
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            ensure!(field(set).count_ones() as usize == listed.len(), "{set} {listed:?}: {status}");
        }
    }
    stage.umount()
}

/// Requests that hang are listed and told of, and the mount can be ended all the same.
#[test]
fn a_mount_that_hangs_is_shown_and_can_be_ended() -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    if !can("hanging")? {
        return Ok(());
    }
    let stage = Stage::new("hanging")?;
    for dir in ["slow", "upper2", "work2"] {
        fs::create_dir(stage.path(dir))?;
    }
    stage.mount(USUAL)?;
    let below = Pid::from_raw(i32::try_from(stage.entry()?["pid"].as_i64().unwrap_or_default())?);
    let Some(below) = below else { anyhow::bail!("no pid") };
    let options = "lowerdir=merged,upperdir=upper2,workdir=work2";
    succeeded(&stage.acetate(&["mount", "-o", options, "slow"])?)?;
    ensure!(fs::read_dir(stage.path("slow/d"))?.count() == 1);
    kill_process(below, Signal::STOP)?;
    let mut program =
        Command::new("cat").arg(stage.path("slow/d/f")).stderr(std::process::Stdio::piped()).spawn()?;
    let shown = eventually("the request is shown", || {
        let entry = stage.entry_of("slow")?;
        let text = entry["requests"].to_string();
        Ok(text.contains("\"path\":\"/d") && text.contains("lower 1"))
    });
    let logged = eventually("the slow request is told of", || {
        let entry = stage.entry_of("slow")?;
        let log = entry["log"].as_str().map(fs::read_to_string).transpose()?.unwrap_or_default();
        Ok(log.contains("acetate: slow: ") && log.contains("/d"))
    });
    let ended = stage.acetate(&["umount", "--abort", "slow"])?;
    let woken = eventually("the program gets its error", || Ok(program.try_wait()?.is_some()));
    kill_process(below, Signal::CONT)?;
    shown.and(logged).and(woken)?;
    succeeded(&ended)?;
    ensure!(!program.wait()?.success(), "{}", stderr(&ended));
    ensure!(!acetate_testkit::driver::is_mounted(&stage.path("slow"))?);
    stage.umount()
}

/// Somebody removes the upper layer and the work directory under a mount: errors, and a clean end.
#[test]
fn without_its_upper_layer_a_mount_fails_and_ends_cleanly() -> Result<()> {
    if !can("removed upper")? {
        return Ok(());
    }
    let stage = Stage::new("removed-upper")?;
    stage.mount(USUAL)?;
    fs::write(stage.path("merged/new"), "new")?;
    for dir in ["upper", "work"] {
        fs::remove_dir_all(stage.path(dir))?;
    }
    let merged = stage.path("merged");
    ensure!(fs::read(merged.join("a"))? == b"lower a", "what lies below can be read");
    ensure!(fs::write(merged.join("other"), "x").is_err() && fs::create_dir(merged.join("dir")).is_err());
    ensure!(fs::OpenOptions::new().append(true).open(merged.join("d/f")).is_err());
    ensure!(fs::remove_file(merged.join("a")).is_err());
    ensure!(fs::read(merged.join("a"))? == b"lower a");
    stage.umount()?;
    let again = stage.acetate(&["mount", "-o", USUAL, "merged"])?;
    ensure!(again.status.code() == Some(2) && stderr(&again).contains("upper layer"), "{}", stderr(&again));
    Ok(())
}
