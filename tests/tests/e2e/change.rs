//! `acetate flatten`, `compact`, `merge` and `rebase`: killed at every change, without room, in use; and what a mount tells
//! of its layers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use acetate_testkit::driver::{Driver, Mounted, Stack, acetate_bin};
use acetate_testkit::inject::{self, Injection};
use acetate_testkit::need::{Need, have};
use acetate_testkit::real::fingerprint::{Content, Fingerprint};
use acetate_testkit::scratch::{FsKind, Scratch};
use anyhow::{Context, Result, ensure};
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};
use serde_json::Value;

/// A directory with layers in it.
struct Site {
    root: PathBuf,
    options: &'static str,
}

fn can(name: &str, more: &[Need]) -> Result<bool> {
    let needs: Vec<Need> = [Need::Root, Need::KernelOverlay].iter().chain(more).copied().collect();
    have(name, &needs)
}

/// The layers below: one of everything.
fn fill(lower: &Path) -> Result<()> {
    for dir in ["d/in", "e/deep", "gone", "replaced", "same"] {
        fs::create_dir_all(lower.join(dir))?;
    }
    for name in
        ["d/1", "d/in/2", "e/3", "e/deep/4", "f", "g", "gone/5", "replaced/6", "same/7", "meta", "tool"]
    {
        fs::write(lower.join(name), format!("{name}\n").repeat(50))?;
    }
    fs::hard_link(lower.join("e/3"), lower.join("e/deep/link"))?;
    symlink("nowhere", lower.join("e/symlink"))?;
    lsetxattr(lower.join("e"), "user.of-e", b"1", XattrFlags::empty())?;
    // A capability, which a write takes away.
    let capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    lsetxattr(lower.join("tool"), "security.capability", capability, XattrFlags::empty())?;
    let old = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 };
    let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
    for path in Fingerprint::take(lower)?.entries.keys().rev() {
        let path = if path.as_os_str().is_empty() { lower.to_owned() } else { lower.join(path) };
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Changes of every kind.
fn edit(merged: &Path) -> Result<()> {
    fs::rename(merged.join("e"), merged.join("moved"))?;
    fs::write(merged.join("moved/new"), "new")?;
    fs::write(merged.join("d/1"), "changed")?;
    fs::hard_link(merged.join("d/1"), merged.join("d/also"))?;
    fs::remove_dir_all(merged.join("gone"))?;
    fs::remove_dir_all(merged.join("replaced"))?;
    fs::create_dir(merged.join("replaced"))?;
    fs::write(merged.join("replaced/anew"), "anew")?;
    fs::remove_file(merged.join("g"))?;
    fs::set_permissions(merged.join("meta"), PermissionsExt::from_mode(0o640))?;
    rustix::fs::chownat(
        rustix::fs::CWD,
        merged.join("f"),
        Some(rustix::fs::Uid::from_raw(3)),
        None,
        rustix::fs::AtFlags::empty(),
    )?;
    // Only touched.
    drop(fs::File::options().append(true).open(merged.join("same/7"))?);
    lsetxattr(merged.join("tool"), "user.note", b"hi", XattrFlags::empty())?;
    Ok(())
}

const OPTIONS: &str = "redirect_dir=on,metacopy=on";

impl Site {
    /// Layers that a kernel mount made.
    fn make(root: &Path) -> Result<Site> {
        for dir in ["lower", "upper", "work", "merged", "onto"] {
            fs::create_dir_all(root.join(dir))?;
        }
        let site = Site { root: root.to_owned(), options: OPTIONS };
        fill(&site.path("lower"))?;
        fill(&site.path("onto"))?;
        fs::write(site.path("onto/d/below"), "new below")?;
        fs::write(site.path("onto/f"), "other data")?;
        let mount = site.mount(&Driver::Kernel, "lower")?;
        edit(mount.path())?;
        mount.unmount()?;
        Ok(site)
    }

    /// The same layers in another directory.
    fn copied(&self, to: &Path) -> Result<Site> {
        fs::create_dir_all(to)?;
        let status = Command::new("cp").arg("-a").arg(self.root.join(".")).arg(to).status()?;
        ensure!(status.success(), "cp: {status}");
        Ok(Site { root: to.to_owned(), options: self.options })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn mount(&self, driver: &Driver, lower: &str) -> Result<Mounted> {
        let stack = Stack::writable([self.path(lower)], self.path("upper"), self.path("work"));
        Ok(driver.mount(&stack, &self.path("merged"), self.options)?)
    }

    /// What a kernel mount over a lower layer shows.
    fn shows(&self, lower: &str) -> Result<Fingerprint> {
        let mount = self.mount(&Driver::Kernel, lower)?;
        let found = Fingerprint::take(mount.path());
        mount.unmount()?;
        Ok(comparable(found?))
    }

    /// A directory as it is.
    fn holds(&self, dir: &str) -> Result<Fingerprint> {
        Ok(comparable(Fingerprint::take(&self.path(dir))?))
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(acetate_bin()?);
        Ok(command.args(args).current_dir(&self.root).stdin(Stdio::null()).output()?)
    }

    fn ends(&self, code: i32, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        ensure!(output.status.code() == Some(code), "{args:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn fails(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        ensure!(output.status.code() == Some(2), "{args:?}: {output:?}");
        let text = String::from_utf8(output.stderr)?;
        ensure!(text.contains("\nhint: "), "{text}");
        Ok(text)
    }

    /// Runs a command and kills it when it is about to make its `n`th change, counted from zero over all threads. `false` if
    /// it came to its end before.
    fn killed_at(&self, args: &[&str], n: usize) -> Result<bool> {
        let mut command = Command::new(acetate_bin()?);
        command.args(args).current_dir(&self.root);
        let (output, seen) = inject::run(&mut command, Injection::Kill(n), KILL_LIMIT)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!seen.hung, "{args:?} killed at {n}: no end within {KILL_LIMIT:?}: {said}");
        ensure!(seen.hit != output.status.success(), "{args:?} at {n}: {}: {said}", output.status);
        Ok(seen.hit)
    }
}

/// How long a command may take.
const KILL_LIMIT: Duration = Duration::from_secs(60);

/// Without what copying layers changes: change times, link counts, the device numbers in handles.
fn comparable(found: Fingerprint) -> Fingerprint {
    let mut found = found.portable();
    for entry in found.entries.values_mut() {
        entry.links = 0;
        if entry.content == Content::Device(0) {
            // A whiteout, whose time means nothing.
            entry.mtime = (0, 0);
        }
        entry.xattrs.retain(|name, _| !name.ends_with(b"overlay.origin") && !name.ends_with(b"overlay.uuid"));
    }
    found
}

/// Without times.
fn untimed(mut found: Fingerprint) -> Fingerprint {
    for entry in found.entries.values_mut() {
        entry.mtime = (0, 0);
    }
    found
}

const LAYERS: [&str; 6] = ["--lower", "lower", "--upper", "upper", "--work", "work"];

/// What a command makes of the layers, and what they show before and after.
struct Case {
    args: Vec<&'static str>,
    /// What is over what afterwards, or may be before it is done.
    pairs: &'static [&'static str],
}

fn cases() -> Vec<Case> {
    let case = |command: &[&'static str], more: &[&'static str], pairs| Case {
        args: [command, &LAYERS[..], more].concat(),
        pairs,
    };
    vec![
        case(&["flatten"], &[], &["lower"]),
        case(&["compact"], &[], &["lower"]),
        case(&["merge"], &[], &["lower"]),
        case(&["merge", "--into", "new"], &[], &["lower"]),
        Case {
            args: vec!["rebase", "upper", "--lower", "lower", "--work", "work", "--onto", "onto"],
            pairs: &["lower", "onto"],
        },
    ]
}

/// Kills each command at each of its changes: the layers show the old tree (a rebased layer, exchanged at once, the new
/// one over the new layer), and the same command again does the rest.
#[test]
fn killed_at_any_change_it_shows_the_same_and_goes_on() -> Result<()> {
    if !can("change killed", &[])? {
        return Ok(());
    }
    // Each of so many points, others each time; all of them with CHANGE_KILLS=1.
    let stride = std::env::var("CHANGE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(13_usize);
    let begin = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_micros() as usize % stride;
    let scratch = Scratch::new("change-killed")?;
    let made = Site::make(&scratch.dir("made")?)?;
    let before = made.shows("lower")?;
    let mut points = 0;
    for case in cases() {
        let name = case.args[0];
        let done = made.copied(&scratch.path().join("done"))?;
        done.ends(0, &case.args)?;
        let last = *case.pairs.last().context("a pair")?;
        let after = done.shows(last)?;
        if last == "lower" {
            before.expect(&after, name)?;
        }
        let [upper, lower] = [done.holds("upper")?, done.holds("lower")?];
        fs::remove_dir_all(&done.root)?;
        for n in (begin..).step_by(stride) {
            let site = made.copied(&scratch.path().join("killed"))?;
            let what = format!("{:?} killed at {n}", case.args);
            if !site.killed_at(&case.args, n)? {
                println!("{:?}: {n} changes or fewer", case.args);
                fs::remove_dir_all(&site.root)?;
                break;
            }
            points += 1;
            // A mount sweeps the staging directory, and with it the note of the times of one directory.
            let mounted = points % 2 == 0;
            let seen = |tree: &Fingerprint| if mounted { untimed(tree.clone()) } else { tree.clone() };
            if mounted {
                let old = seen(&before).expect(&seen(&site.shows("lower")?), &what);
                if case.pairs.len() > 1 && old.is_err() {
                    seen(&after).expect(&seen(&site.shows(last)?), &what)?;
                } else {
                    old?;
                }
            }
            site.ends(0, &case.args).context(what.clone())?;
            seen(&after).expect(&seen(&site.shows(last)?), &format!("{what} and run again"))?;
            for (dir, tree) in [("upper", &upper), ("lower", &lower)] {
                seen(tree).expect(&seen(&site.holds(dir)?), &format!("{what} and run again: {dir}"))?;
            }
            let left: Vec<_> = fs::read_dir(&site.root)?.collect::<std::io::Result<Vec<_>>>()?;
            let left: Vec<_> = left
                .iter()
                .map(|entry| entry.file_name())
                .filter(|name| name.to_string_lossy().starts_with('.'))
                .collect();
            ensure!(left.is_empty(), "{what}: left {left:?}");
            fs::remove_dir_all(&site.root)?;
        }
    }
    println!("killed at {points} changes");
    ensure!(points > 40, "{points}");
    Ok(())
}

/// A small filesystem that is almost full.
#[test]
fn without_room_nothing_changes_and_with_room_it_goes_on() -> Result<()> {
    if !can("change without room", &[Need::Loop])? {
        return Ok(());
    }
    for command in [&["flatten"][..], &["merge"], &["merge", "--into", "new"], &["rebase"]] {
        let scratch = Scratch::on(FsKind::Ext4, "change-full", 60)?;
        let site = Site::make(&scratch.dir("made")?)?;
        // What is renamed has to be copied.
        let mount = site.mount(&Driver::Kernel, "lower")?;
        fs::rename(mount.path().join("moved"), mount.path().join("big"))?;
        mount.unmount()?;
        for lower in ["lower", "onto"] {
            fs::write(site.path(lower).join("e/large"), vec![1; 8 << 20])?;
        }
        let before = site.shows("lower")?;
        let args = match command {
            ["rebase"] => vec!["rebase", "upper", "--lower", "lower", "--work", "work", "--onto", "onto"],
            _ => [command, &LAYERS[..]].concat(),
        };
        let free = rustix::fs::statvfs(site.path("lower"))?;
        let room = free.f_bavail * free.f_bsize - (4 << 20);
        let filler = site.path("filler");
        rustix::fs::fallocate(fs::File::create(&filler)?, rustix::fs::FallocateFlags::empty(), 0, room)?;
        let error = site.fails(&args).with_context(|| format!("{command:?}"))?;
        ensure!(error.contains("no space left") && error.contains("make room"), "{error}");
        before.expect(&site.shows("lower")?, &format!("{command:?} without room"))?;
        fs::remove_file(&filler)?;
        site.ends(0, &args)?;
        if command != ["rebase"] {
            before.expect(&site.shows("lower")?, &format!("{command:?} with room"))?;
        }
    }
    Ok(())
}

#[test]
fn layers_in_use_are_left_alone_and_dry_runs_change_nothing() -> Result<()> {
    if !can("change in use", &[Need::Fuse])? {
        return Ok(());
    }
    let scratch = Scratch::new("change-in-use")?;
    let site = Site::make(&scratch.dir("made")?)?;
    let all = || -> Result<Fingerprint> { Fingerprint::take(&site.root) };
    for driver in [Driver::Kernel, Driver::acetate()?] {
        let mount = site.mount(&driver, "lower")?;
        for case in cases() {
            let error = site.fails(&case.args)?;
            ensure!(error.contains("in use by the"), "{}: {error}", driver.name());
        }
        mount.unmount()?;
        // As a lower layer of another mount.
        for shown in ["upper", "lower"] {
            let empty = scratch.dir(&format!("empty-{shown}-{}", driver.name()))?;
            let mount =
                driver.mount(&Stack::read_only([site.path(shown), empty]), &site.path("merged"), "")?;
            let error = site.fails(&[&["merge"][..], &LAYERS[..]].concat())?;
            mount.unmount()?;
            ensure!(error.contains("in use by the mount at"), "{}: {error}", driver.name());
        }
    }
    let before = all()?;
    for case in cases() {
        let mut args = case.args.clone();
        args.extend(["--dry-run", "--json"]);
        let report: Value = serde_json::from_str(&site.ends(0, &args)?)?;
        ensure!(report["schema"] == "acetate-change-v1" && report["dry_run"] == true, "{report}");
        ensure!(report["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{report}");
        args.retain(|arg| *arg != "--json");
        ensure!(!site.ends(0, &args)?.contains("nothing to do"), "{args:?}");
    }
    before.expect(&all()?, "dry runs")?;
    // Others keep the layer away: a volatile mount, an index.
    fs::create_dir_all(site.path("work/work/incompat/volatile"))?;
    let error = site.fails(&[&["flatten"][..], &LAYERS[..]].concat())?;
    ensure!(error.contains("volatile"), "{error}");
    fs::remove_dir_all(site.path("work/work/incompat"))?;
    fs::create_dir_all(site.path("work/index/00"))?;
    let error = site.fails(&[&["compact"][..], &LAYERS[..]].concat())?;
    ensure!(error.contains("index"), "{error}");
    fs::remove_dir_all(site.path("work/index"))?;
    // What is asked for makes no sense.
    let error = site.fails(&["flatten", "--upper", "upper", "--work", "work"])?;
    ensure!(error.contains("a layer is missing"), "{error}");
    let error = site.fails(&[&["merge", "--into", "onto"][..], &LAYERS[..]].concat())?;
    ensure!(error.contains("it exists"), "{error}");
    Ok(())
}

#[test]
fn conflicts_are_told_and_decided() -> Result<()> {
    if !can("rebase conflicts", &[])? {
        return Ok(());
    }
    let scratch = Scratch::new("change-conflicts")?;
    let site = Site::make(&scratch.dir("made")?)?;
    let onto = site.path("onto");
    fs::write(onto.join("d/1"), "changed below")?;
    fs::remove_file(onto.join("meta"))?;
    fs::write(onto.join("gone/5"), "changed below")?;
    fs::write(onto.join("replaced/late"), "new below")?;
    fs::create_dir(onto.join("moved"))?;
    fs::write(onto.join("moved/new"), "another")?;
    let args = ["rebase", "upper", "--lower", "lower", "--work", "work", "--onto", "onto"];
    let before = site.holds("upper")?;
    let report: Value = serde_json::from_str(&site.ends(1, &[&args[..], &["--json"]].concat())?)?;
    let found: Vec<String> = report["conflicts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|conflict| format!("{} {}", conflict["why"], conflict["path"]).replace('"', ""))
        .collect();
    let expected = [
        "changed-on-both d/1",
        "changed-below gone/5",
        "deleted-below meta",
        "added-on-both moved",
        "added-on-both moved/new",
        "hidden-by-opaque replaced/late",
    ];
    ensure!(found == expected, "{found:#?}");
    before.expect(&site.holds("upper")?, "with conflicts nothing is done")?;
    for (side, one, late, new) in
        [("upper", "changed", false, "new"), ("lower", "changed below", true, "another")]
    {
        let site = site.copied(&scratch.path().join(side))?;
        site.ends(0, &[&args[..], &["--prefer", side]].concat())?;
        let mount = site.mount(&Driver::Kernel, "onto")?;
        let read = |name: &str| fs::read_to_string(mount.path().join(name));
        let got = (read("d/1")?, mount.path().join("replaced/late").exists(), read("moved/new")?);
        let rest = (read("d/below")?, read("f")?, read("replaced/anew")?, mount.path().join("meta").exists());
        mount.unmount()?;
        ensure!(got == (one.into(), late, new.into()), "{side}: {got:?}");
        ensure!(
            rest == ("new below".into(), "other data".into(), "anew".into(), side == "upper"),
            "{rest:?}"
        );
    }
    Ok(())
}

#[test]
fn data_only_layers_are_told_of() -> Result<()> {
    if !can("data-only layers", &[Need::Fuse])? {
        return Ok(());
    }
    let scratch = Scratch::new("change-data")?;
    let site = Site { root: scratch.path().to_owned(), options: "" };
    for dir in ["lower", "data/blobs", "upper", "work", "merged"] {
        fs::create_dir_all(site.path(dir))?;
    }
    fs::write(site.path("data/blobs/1"), "the data")?;
    fs::write(site.path("lower/f"), "")?;
    fs::File::options().write(true).open(site.path("lower/f"))?.set_len(8)?;
    lsetxattr(site.path("lower/f"), "trusted.overlay.metacopy", b"", XattrFlags::empty())?;
    lsetxattr(site.path("lower/f"), "trusted.overlay.redirect", b"/blobs/1", XattrFlags::empty())?;
    let options = "redirect_dir=on,metacopy=on";
    let lowers = format!("lowerdir={}::{}", site.path("lower").display(), site.path("data").display());
    let rest = format!(",upperdir={},workdir={}", site.path("upper").display(), site.path("work").display());
    let mounted = |command: &mut Command| -> Result<()> {
        let status = command.arg("-o").arg(format!("{options},{lowers}{rest}")).status()?;
        ensure!(status.success(), "{command:?}: {status}");
        Ok(())
    };
    for ours in [false, true] {
        if ours {
            mounted(Command::new(acetate_bin()?).arg("mount").arg(site.path("merged")))?;
        } else {
            mounted(Command::new("mount").args(["-t", "overlay", "overlay"]).arg(site.path("merged")))?;
        }
        let read = fs::read_to_string(site.path("merged/f"));
        let report = site.run(&["explain", "--json", "merged/f", "merged/blobs"]);
        let diff = site.run(&["diff", "merged"]);
        let data = xattr(&site.path("merged/f"), "user.acetate.data");
        Command::new("umount").arg(site.path("merged")).status()?;
        ensure!(read? == "the data");
        let report: Value = serde_json::from_slice(&report?.stdout)?;
        let layers = &report["paths"][0]["layers"];
        ensure!(
            layers[2]["layer"] == "data 1" && layers[2]["path"] == "blobs/1" && layers[2]["part"] == true,
            "{report}"
        );
        ensure!(
            report["paths"][0]["write"]["bytes"] == 8 && report["paths"][1]["shown"].is_null(),
            "{report}"
        );
        ensure!(diff?.status.code() == Some(0));
        ensure!(!ours || data.as_deref() == Some("data 1"), "{data:?}");
    }
    let named = ["--lower", "lower", "--data", "data", "--upper", "upper"];
    site.ends(0, &[&["check"][..], &named[..]].concat())?;
    site.ends(0, &[&["diff"][..], &named[..]].concat())?;
    let out = site.run(&["check", "--lower", "lower", "--upper", "upper"])?;
    ensure!(out.status.code() == Some(0), "{out:?}");
    Ok(())
}

/// The value of an attribute as text.
fn xattr(path: &Path, name: &str) -> Option<String> {
    let mut value = vec![0; 256];
    let count = lgetxattr(path, name, &mut value[..]).ok()?;
    String::from_utf8(value[..count].to_vec()).ok()
}

#[test]
fn a_mount_tells_which_layer_an_object_is_from() -> Result<()> {
    if !can("virtual attributes", &[Need::Fuse])? {
        return Ok(());
    }
    let scratch = Scratch::new("change-told")?;
    let site = Site::make(&scratch.dir("made")?)?;
    let mount = site.mount(&Driver::acetate()?, "lower")?;
    let path = |name: &str| mount.path().join(name);
    let told = |name: &str, what: &str| xattr(&path(name), &format!("user.acetate.{what}"));
    let text = |text: &str| Some(text.to_owned());
    for (name, layer, layers, data) in [
        ("d/1", "upper", "upper", text("upper")),
        ("same/7", "upper", "upper", text("upper")),
        ("d/in/2", "lower 1", "lower 1", text("lower 1")),
        ("meta", "upper", "upper,lower 1", text("lower 1")),
        ("d", "upper", "upper,lower 1", None),
        ("moved", "upper", "upper,lower 1", None),
        ("replaced", "upper", "upper", None),
        ("moved/deep", "lower 1", "lower 1", None),
    ] {
        ensure!(told(name, "layer") == text(layer), "{name}: {:?}", told(name, "layer"));
        ensure!(told(name, "layers") == text(layers), "{name}: {:?}", told(name, "layers"));
        ensure!(told(name, "data") == data, "{name}: {:?}", told(name, "data"));
    }
    ensure!(told("d/1", "other").is_none());
    // Nobody who copies all attributes copies these, and nobody can set them.
    let mut names = vec![0; 4096];
    let count = llistxattr(path("d/1"), &mut names[..])?;
    ensure!(!String::from_utf8_lossy(&names[..count]).contains("acetate"));
    let set = lsetxattr(path("d/in/2"), "user.acetate.layer", b"x", XattrFlags::empty());
    ensure!(set == Err(rustix::io::Errno::PERM), "{set:?}");
    ensure!(told("d/in/2", "layer") == text("lower 1"), "asking and failing copy nothing");
    // What is written moves.
    fs::write(path("d/in/2"), "changed")?;
    ensure!(told("d/in/2", "layer") == text("upper") && told("d/in/2", "data") == text("upper"));
    mount.unmount()?;
    Ok(())
}

#[test]
fn an_upper_layer_becomes_an_image_and_images_are_compared() -> Result<()> {
    if !can("commit of an upper layer", &[Need::Fuse])? {
        return Ok(());
    }
    let scratch = Scratch::new("change-commit")?;
    let site = Site::make(&scratch.dir("made")?)?;
    let store = ["--store", "store"];
    let run = |args: &[&str]| -> Result<Output> {
        let mut command = Command::new(acetate_bin()?);
        command.args(args).current_dir(&site.root).env("ACETATE_STORE", "store");
        Ok(command.stdin(Stdio::null()).output()?)
    };
    let text = |code: i32, args: &[&str]| -> Result<String> {
        let output = run(args)?;
        ensure!(output.status.code() == Some(code), "{args:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let before = site.shows("lower")?;
    let expected = site.ends(1, &["diff", "--lower", "lower", "--upper", "upper"])?;
    let id = text(0, &[&["commit", "--lower", "lower", "--upper", "upper", "made"][..], &store].concat())?;
    text(0, &["image", "import", "lower", "--name", "base"])?;
    text(0, &["commit", "--image", "base", "--upper", "upper", "--cmd", "sh", "--", "changed"])?;
    // The image shows what the mount does; renames are deletions and additions there.
    for image in ["made", "changed"] {
        text(0, &["workspace", "create", image, "--image", image, "--driver", "kernel"])?;
        let point = PathBuf::from(text(0, &["workspace", "mount", image])?.trim());
        let found = Fingerprint::take(&site.root.join(&point));
        text(0, &["workspace", "umount", image])?;
        let whole = |tree: Fingerprint| {
            let mut tree = untimed(comparable(tree));
            tree.entries.remove(Path::new(""));
            // An image does not say which names of lower files are links of one another across layers.
            tree.entries.values_mut().for_each(|entry| entry.first = PathBuf::new());
            tree
        };
        whole(before.clone()).expect(&whole(found?), image)?;
    }
    ensure!(text(0, &["diff", "image:made", "image:changed"])?.is_empty());
    let between = text(1, &["diff", "image:base", "image:changed"])?;
    for line in expected.lines().filter(|line| !line.starts_with("R ") && !line.contains("links")) {
        let path = line.split_whitespace().nth(1).context("a path")?;
        ensure!(
            between.lines().any(|other| other.split_whitespace().nth(1) == Some(path)),
            "{line}: {between}"
        );
    }
    ensure!(text(0, &["diff", "image:changed", "workspace:changed"])?.is_empty());
    ensure!(text(0, &["image", "show", "made", "--json"])?.contains(id.trim()));
    // In use it is not committed.
    let mount = site.mount(&Driver::Kernel, "lower")?;
    let output = run(&["commit", "--image", "base", "--upper", "upper"])?;
    mount.unmount()?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    Ok(())
}

#[test]
fn an_extended_layer_becomes_one_that_the_kernel_reads() -> Result<()> {
    if !can("extended layers flattened", &[Need::Fuse])? {
        return Ok(());
    }
    let scratch = Scratch::new("change-extended")?;
    let site = Site { root: scratch.dir("made")?, options: "userxattr" };
    for dir in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(site.path(dir))?;
    }
    fill(&site.path("lower"))?;
    let extended = Site { root: site.root.clone(), options: "userxattr,compat=extended" };
    let mount = extended.mount(&Driver::acetate()?, "lower")?;
    edit(mount.path())?;
    let before = comparable(Fingerprint::take(mount.path())?);
    mount.unmount()?;
    ensure!(site.mount(&Driver::Kernel, "lower").is_err(), "the kernel stays away");
    let args = [&["flatten", "--userxattr"][..], &LAYERS[..]].concat();
    let mut refused = 0;
    for n in (0..).step_by(5) {
        let killed = site.copied(&scratch.path().join(format!("killed-{n}")))?;
        if !killed.killed_at(&args, n)? {
            break;
        }
        // The kernel stays away from half of it.
        match killed.mount(&Driver::Kernel, "lower") {
            Err(_) => refused += 1,
            Ok(mount) => {
                let found = Fingerprint::take(mount.path());
                mount.unmount()?;
                untimed(before.clone()).expect(&untimed(comparable(found?)), &format!("killed at {n}"))?;
            }
        }
        killed.ends(0, &args)?;
        // A mount sweeps the note of the times of a directory.
        let found = untimed(killed.shows("lower")?);
        untimed(before.clone()).expect(&found, &format!("killed at {n} and flattened"))?;
    }
    ensure!(refused > 3, "the kernel was refused {refused} times");
    site.ends(0, &args)?;
    before.expect(&site.shows("lower")?, "flattened")?;
    ensure!(site.ends(0, &args)? == "nothing to do\n");
    Ok(())
}
