//! The tools around layers: what they say, and what they mend, beside kernel mounts of the same layers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use acetate_testkit::driver::{Driver, Stack, acetate_bin};
use acetate_testkit::need::{Need, have};
use acetate_testkit::real::fingerprint::Fingerprint;
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, lremovexattr, lsetxattr, mknodat};
use serde_json::Value;

/// Directories of one overlay.
struct Layers {
    scratch: Scratch,
}

impl Layers {
    fn new(name: &str) -> Result<Layers> {
        let scratch = Scratch::new(name)?;
        for dir in ["lower", "upper", "work", "merged"] {
            scratch.dir(dir)?;
        }
        Ok(Layers { scratch })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn mount(&self, driver: &Driver, options: &str) -> Result<acetate_testkit::driver::Mounted> {
        let stack = Stack::writable([self.path("lower")], self.path("upper"), self.path("work"));
        Ok(driver.mount(&stack, &self.path("merged"), options)?)
    }

    fn kernel<T>(&self, options: &str, act: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let mount = self.mount(&Driver::Kernel, options)?;
        let result = act(mount.path());
        mount.unmount()?;
        result
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(acetate_bin()?);
        Ok(command.args(args).current_dir(self.scratch.path()).stdin(Stdio::null()).output()?)
    }

    /// Runs `acetate`, which has to end with `code`; returns what it prints.
    fn ends(&self, code: i32, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        ensure!(output.status.code() == Some(code), "{args:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn json(&self, code: i32, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.ends(code, args)?)?)
    }
}

fn can(name: &str, more: &[Need]) -> Result<bool> {
    let needs: Vec<Need> = [Need::Root, Need::KernelOverlay].iter().chain(more).copied().collect();
    have(name, &needs)
}

fn mark(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    lsetxattr(path, name, value, XattrFlags::empty()).with_context(|| format!("set {name}"))
}

fn has_mark(path: &Path, name: &str) -> bool {
    lgetxattr(path, name, &mut [0; 256][..]).is_ok()
}

/// A lower tree.
fn fill(lower: &Path) -> Result<()> {
    fs::create_dir_all(lower.join("d/in"))?;
    fs::create_dir_all(lower.join("e"))?;
    for name in ["d/1", "d/2", "d/in/3", "e/4", "f", "g"] {
        fs::write(lower.join(name), format!("{name}\n"))?;
    }
    Ok(())
}

/// Changes as a mount with redirect_dir=on makes them.
fn edit(merged: &Path) -> Result<()> {
    fs::write(merged.join("d/1"), "changed\n")?;
    fs::rename(merged.join("e"), merged.join("moved"))?;
    fs::write(merged.join("f"), "changed\n")?;
    fs::remove_file(merged.join("g"))?;
    fs::write(merged.join("new"), "new\n")?;
    Ok(())
}

fn edited(name: &str) -> Result<Layers> {
    let layers = Layers::new(name)?;
    fill(&layers.path("lower"))?;
    layers.kernel("redirect_dir=on", edit)?;
    Ok(layers)
}

#[test]
fn explain_tells_of_live_mounts_and_of_layers() -> Result<()> {
    if !can("explain", &[Need::Fuse])? {
        return Ok(());
    }
    let layers = edited("tools-explain")?;
    let by_name = ["--lower", "lower", "--upper", "upper"];
    let root = layers.json(0, &[&["explain", "--json", "d/2"], &by_name[..]].concat())?;
    ensure!(root["schema"] == "acetate-explain-v1" && root["paths"][0]["shown"] == "lower 1", "{root}");
    ensure!(root["paths"][0]["write"]["bytes"] == 4, "{root}");
    for driver in [Driver::Kernel, Driver::acetate()?] {
        let mount = layers.mount(&driver, "redirect_dir=on")?;
        // What a mount shows and what is said of it.
        for (path, shown, line) in [
            ("d/1", true, "file from upper"),
            ("d/2", true, "file from lower 1"),
            ("moved", true, "directory from upper, merged from 2 layers"),
            ("moved/4", true, "file from lower 1"),
            ("g", false, "nothing: upper has a whiteout"),
            ("e", false, "nothing: upper has a whiteout"),
            ("e/4", false, "nothing: upper has a whiteout at e"),
            ("none", false, "nothing: no layer has it"),
        ] {
            ensure!(mount.path().join(path).symlink_metadata().is_ok() == shown, "{path}");
            let text = layers.ends(i32::from(!shown), &["explain", &format!("merged/{path}")])?;
            ensure!(
                text.lines().next() == Some(&format!("merged/{path}: {line}")),
                "{}: {text}",
                driver.name()
            );
        }
        let moved = layers.json(0, &["explain", "--json", "merged/moved/4"])?;
        let lower = &moved["paths"][0]["layers"][1];
        ensure!(lower["path"] == "e/4" && lower["part"] == true && lower["size"] == 4, "{moved}");
        mount.unmount()?;
    }
    // A write copies what was said.
    let before = layers.json(0, &[&["explain", "--json", "d/in/3"], &by_name[..]].concat())?;
    let copies: Vec<&str> = before["paths"][0]["write"]["copies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|copy| copy["path"].as_str())
        .collect();
    ensure!(copies == ["d/in", "d/in/3"], "{before}");
    layers
        .kernel("", |merged| Ok(fs::File::options().append(true).open(merged.join("d/in/3")).map(drop)?))?;
    ensure!(layers.path("upper/d/in/3").exists());
    let after = layers.json(0, &[&["explain", "--json", "d/in/3"], &by_name[..]].concat())?;
    ensure!(after["paths"][0]["write"]["copies"] == serde_json::json!([]), "{after}");
    let output = layers.run(&["explain", "/proc/self"])?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2) && error.contains("no overlay shows it\nhint: "), "{error}");
    Ok(())
}

#[test]
fn diff_tells_of_live_mounts_and_of_layers() -> Result<()> {
    if !can("diff", &[Need::Fuse])? {
        return Ok(());
    }
    let layers = edited("tools-diff")?;
    let expected = "C d/1  (content)\nC f  (content)\nD g\nR e/ -> moved/\nA new  (4 B)\n";
    let by_name = ["diff", "--lower", "lower", "--upper", "upper"];
    ensure!(layers.ends(1, &by_name)? == expected);
    for driver in [Driver::Kernel, Driver::acetate()?] {
        let mount = layers.mount(&driver, "redirect_dir=on")?;
        let text = layers.ends(1, &["diff", "merged"])?;
        mount.unmount()?;
        ensure!(text == expected, "{}: {text}", driver.name());
    }
    let all = layers.ends(1, &[&by_name[..], &["--touched"]].concat())?;
    ensure!(all.contains("T d/\n"), "{all}");
    let stat = layers.ends(1, &[&by_name[..], &["--stat"]].concat())?;
    ensure!(stat.contains("2 changed") && stat.contains("1 renamed"), "{stat}");
    let json = layers.json(1, &[&by_name[..], &["--json"]].concat())?;
    let renamed = &json["changes"][3];
    ensure!(json["schema"] == "acetate-diff-v1" && renamed["from"] == "e", "{json}");
    let patch = layers.ends(1, &[&by_name[..], &["--patch"]].concat())?;
    ensure!(patch.contains("--- a/d/1\n+++ b/d/1\n@@ -1 +1 @@\n-d/1\n+changed\n"), "{patch}");
    ensure!(patch.contains("--- a/e/4\n+++ /dev/null\n") && patch.contains("+++ b/moved/4\n"), "{patch}");
    // Two directories.
    ensure!(layers.ends(0, &["diff", "lower", "lower"])?.is_empty());
    fs::create_dir(layers.path("other"))?;
    fill(&layers.path("other"))?;
    fs::write(layers.path("other/f"), "other")?;
    ensure!(layers.ends(1, &["diff", "lower", "other"])? == "C f  (content)\n");
    // The archive over the same lower is the same tree.
    layers.ends(1, &[&by_name[..], &["--tar", "layer.tar"]].concat())?;
    let names = Command::new("tar").arg("-tf").arg(layers.path("layer.tar")).output()?;
    let names = String::from_utf8(names.stdout)?;
    let expected = "./\n.wh.e\n.wh.g\nd/\nf\nmoved/\nnew\nmoved/4\nd/1\n";
    ensure!(names == expected, "{names}");
    // An upper layer that changes nothing.
    let empty = Layers::new("tools-diff-empty")?;
    ensure!(empty.ends(0, &by_name)?.is_empty());
    Ok(())
}

/// All of a tree can be listed and looked at.
fn whole(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
        let path = entry?.path();
        let stat = fs::symlink_metadata(&path).with_context(|| format!("stat {}", path.display()))?;
        ensure!(
            !(stat.file_type().is_char_device() && stat.rdev() == 0),
            "{}: a stray whiteout",
            path.display()
        );
        if stat.is_dir() {
            whole(&path)?;
        }
    }
    Ok(())
}

/// What has to be so.
fn holds(is: bool, what: &str) -> Result<()> {
    ensure!(is, "{what}: no");
    Ok(())
}

type Act = fn(&Layers) -> Result<()>;

/// A kind of damage: what it is called, how it is done, what a kernel mount shows before and after the repair.
struct Damage {
    kind: &'static str,
    options: &'static str,
    make: Act,
    before: fn(&Layers, &str) -> Result<()>,
    after: fn(&Path, &Layers) -> Result<()>,
}

const REDIRECT: &str = "trusted.overlay.redirect";

/// A mount at which something cannot be used.
fn fails(layers: &Layers, options: &str, path: &str) -> Result<()> {
    layers.kernel(options, |merged| {
        ensure!(
            fs::symlink_metadata(merged.join(path)).is_err(),
            "{path} can be used in spite of the damage"
        );
        Ok(())
    })
}

fn whiteout(path: &Path) -> Result<()> {
    Ok(mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)?)
}

fn damages() -> Vec<Damage> {
    let fine: fn(&Layers, &str) -> Result<()> = |_, _| Ok(());
    let nothing: fn(&Path, &Layers) -> Result<()> = |_, _| Ok(());
    let damage =
        |kind, make: Act, before, after| Damage { kind, options: "redirect_dir=on", make, before, after };
    vec![
        damage(
            "redirect-broken",
            |layers| mark(&layers.path("upper/moved"), REDIRECT, b"a//b"),
            |layers, options| fails(layers, options, "moved"),
            |merged, _| Ok(fs::write(merged.join("moved/usable"), "")?),
        ),
        damage(
            "redirect-broken",
            |layers| mark(&layers.path("upper/moved"), REDIRECT, b"/nowhere"),
            fine,
            |merged, _| holds(fs::read_dir(merged.join("moved"))?.count() == 0, "as it should be"),
        ),
        damage(
            "redirect-duplicate",
            |layers| Ok(fs::remove_file(layers.path("upper/e"))?),
            |layers, options| {
                layers.kernel(options, |merged| {
                    let both = ["e", "moved"].map(|name| fs::metadata(merged.join(name)));
                    holds(both.iter().any(Result::is_err), "one lower directory at two places")
                })
            },
            |merged, _| {
                holds(!merged.join("e").exists() && merged.join("moved/4").exists(), "as it should be")
            },
        ),
        damage(
            "redirect-duplicate",
            |layers| {
                fs::create_dir(layers.path("upper/twin"))?;
                mark(&layers.path("upper/twin"), REDIRECT, b"/e")
            },
            fine,
            |merged, _| {
                holds(merged.join("twin").exists() && merged.join("moved/4").exists(), "as it should be")
            },
        ),
        damage(
            "whiteout-orphan",
            |layers| whiteout(&layers.path("upper/none")),
            fine,
            |_, layers| holds(!layers.path("upper/none").exists(), "as it should be"),
        ),
        damage(
            "origin-stale",
            |layers| mark(&layers.path("upper/f"), "trusted.overlay.origin", b"x"),
            fine,
            nothing,
        ),
        damage(
            "origin-stale",
            |layers| Ok(fs::remove_file(layers.path("lower/f"))?),
            fine,
            |merged, _| holds(fs::read(merged.join("f"))? == b"changed\n", "as it should be"),
        ),
        damage(
            "lower-changed",
            |layers| {
                fs::rename(layers.path("lower/d"), layers.path("old"))?;
                fs::create_dir(layers.path("lower/d"))?;
                Ok(fs::write(layers.path("lower/d/other"), "")?)
            },
            fine,
            |merged, _| {
                holds(merged.join("d/other").exists() && merged.join("d/1").exists(), "as it should be")
            },
        ),
        Damage {
            kind: "metacopy-no-data",
            options: "redirect_dir=on,metacopy=on",
            make: |layers| {
                fs::write(layers.path("upper/lost"), "")?;
                mark(&layers.path("upper/lost"), "trusted.overlay.metacopy", b"")
            },
            before: |layers, options| fails(layers, options, "lost"),
            after: |merged, layers| {
                holds(
                    !merged.join("lost").exists() && layers.path("work/lost/lost").exists(),
                    "as it should be",
                )
            },
        },
        damage(
            "impure-missing",
            |layers| Ok(lremovexattr(layers.path("upper"), "trusted.overlay.impure")?),
            fine,
            |_, layers| holds(has_mark(&layers.path("upper"), "trusted.overlay.impure"), "as it should be"),
        ),
        damage("work-leftover", |layers| Ok(fs::write(layers.path("work/work/#12"), "")?), fine, nothing),
        damage(
            "work-incompatible",
            |layers| Ok(fs::create_dir_all(layers.path("work/work/incompat/volatile"))?),
            |layers, options| holds(layers.mount(&Driver::Kernel, options).is_err(), "it can be mounted"),
            nothing,
        ),
        damage(
            "foreign-mark",
            |layers| mark(&layers.path("upper/d"), "user.fuseoverlayfs.opaque", b"y"),
            |layers, options| {
                layers.kernel(options, |merged| holds(merged.join("d/2").exists(), "as it should be"))
            },
            |merged, _| holds(!merged.join("d/2").exists() && merged.join("d/1").exists(), "as it should be"),
        ),
        damage(
            "foreign-mark",
            |layers| Ok(fs::write(layers.path("upper/d/.wh.2"), "")?),
            fine,
            |merged, _| {
                holds(!merged.join("d/2").exists() && !merged.join("d/.wh.2").exists(), "as it should be")
            },
        ),
        damage(
            "foreign-mark",
            |layers| Ok(fs::write(layers.path("upper/d/.wh..wh..opq"), "")?),
            fine,
            |merged, _| {
                holds(
                    !merged.join("d/in").exists() && fs::read_dir(merged.join("d"))?.count() == 1,
                    "as it should be",
                )
            },
        ),
    ]
}

const CHECK: [&str; 7] = ["check", "--lower", "lower", "--upper", "upper", "--work", "work"];

fn kinds(report: &Value) -> Vec<String> {
    let problems = report["problems"].as_array().into_iter().flatten();
    problems.filter_map(|problem| problem["kind"].as_str()).map(str::to_owned).collect()
}

#[test]
fn every_damage_is_found_and_mended() -> Result<()> {
    if !can("check of layers", &[])? {
        return Ok(());
    }
    for (number, damage) in damages().iter().enumerate() {
        let what = format!("{} ({number})", damage.kind);
        let layers = edited("tools-check")?;
        let sound = layers.json(0, &[&CHECK[..], &["--json"]].concat()).context("before the damage")?;
        ensure!(kinds(&sound).is_empty(), "{what}: {sound}");
        (damage.make)(&layers).with_context(|| what.clone())?;
        // Nothing is changed without --repair.
        let before = Fingerprint::take(layers.scratch.path())?;
        let report = layers.json(4, &[&CHECK[..], &["--json"]].concat()).with_context(|| what.clone())?;
        before.expect(&Fingerprint::take(layers.scratch.path())?, &what)?;
        ensure!(report["schema"] == "acetate-check-layers-v1", "{report}");
        let found = kinds(&report);
        ensure!(found.iter().any(|kind| kind == damage.kind), "{what}: {report}");
        (damage.before)(&layers, damage.options).with_context(|| format!("{what}: before"))?;
        let output = layers.run(&[&CHECK[..], &["--repair", "--yes"]].concat())?;
        ensure!(output.status.code() == Some(1), "{what}: {output:?}");
        layers.ends(0, &CHECK).with_context(|| format!("{what}: after the repair"))?;
        layers
            .kernel(damage.options, |merged| {
                whole(merged)?;
                (damage.after)(merged, &layers)
            })
            .with_context(|| format!("{what}: mounted after the repair"))?;
    }
    Ok(())
}

#[test]
fn a_stale_index_is_found_and_mended() -> Result<()> {
    if !can("check of an index", &[])? {
        return Ok(());
    }
    let layers = Layers::new("tools-index")?;
    fill(&layers.path("lower"))?;
    fs::hard_link(layers.path("lower/f"), layers.path("lower/link"))?;
    layers.kernel("index=on", |merged| Ok(fs::write(merged.join("f"), "changed")?))?;
    ensure!(fs::read_dir(layers.path("work/index"))?.count() == 1, "the kernel made an index");
    layers.ends(0, &CHECK)?;
    fs::remove_file(layers.path("lower/f"))?;
    fs::remove_file(layers.path("lower/link"))?;
    let report = layers.json(4, &[&CHECK[..], &["--json"]].concat())?;
    let mut found = kinds(&report);
    found.sort();
    ensure!(found == ["index-stale", "origin-stale"], "{report}");
    layers.ends(1, &[&CHECK[..], &["--repair", "--yes"]].concat())?;
    layers.ends(0, &CHECK)?;
    layers
        .kernel("index=on", |merged| holds(fs::read(merged.join("f"))? == b"changed", "as it should be"))?;
    // The index of another upper layer keeps the kernel from mounting.
    fs::rename(layers.path("upper"), layers.path("old"))?;
    fs::create_dir(layers.path("upper"))?;
    ensure!(layers.mount(&Driver::Kernel, "index=on").is_err());
    let report = layers.json(4, &[&CHECK[..], &["--json"]].concat())?;
    ensure!(kinds(&report).contains(&"index-stale".to_owned()), "{report}");
    layers.ends(1, &[&CHECK[..], &["--repair", "--yes"]].concat())?;
    layers.kernel("index=on", whole)
}

#[test]
fn nothing_is_mended_in_use_or_unasked() -> Result<()> {
    if !can("check in use", &[Need::Fuse])? {
        return Ok(());
    }
    let layers = edited("tools-in-use")?;
    whiteout(&layers.path("upper/none"))?;
    let error = String::from_utf8(layers.run(&[&CHECK[..], &["--repair"]].concat())?.stderr)?;
    ensure!(error.contains("nobody to ask") && error.contains("--yes"), "{error}");
    for driver in [Driver::Kernel, Driver::acetate()?] {
        let mount = layers.mount(&driver, "redirect_dir=on")?;
        let output = layers.run(&[&CHECK[..], &["--repair", "--yes"]].concat())?;
        mount.unmount()?;
        let error = String::from_utf8(output.stderr)?;
        ensure!(
            output.status.code() == Some(8) && error.contains("in use by the"),
            "{}: {error}",
            driver.name()
        );
    }
    ensure!(layers.path("upper/none").symlink_metadata().is_ok());
    let output = layers.run(&["check", "--upper", "upper", "--lower", "nowhere", "--work", "work"])?;
    ensure!(output.status.code() == Some(8), "{output:?}");
    Ok(())
}
