//! Images and workspaces as users make them, on small images: every step, every way to be interrupted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::inject::{self, Injection};
use acetate_testkit::need::{Need, have};
use acetate_testkit::real::fingerprint::Fingerprint;
use acetate_testkit::scratch::{FsKind, Scratch};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A directory with a store in it.
pub struct Home {
    scratch: Scratch,
}

impl Home {
    pub fn new(name: &str) -> Result<Home> {
        Ok(Home { scratch: Scratch::new(name)? })
    }

    /// For gigabytes.
    pub fn roomy(name: &str, mib: u64) -> Result<Home> {
        Ok(Home { scratch: Scratch::roomy(name, mib)? })
    }

    pub fn on(kind: FsKind, name: &str, mib: u64) -> Result<Home> {
        Ok(Home { scratch: Scratch::on(kind, name, mib)? })
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(acetate_bin()?);
        command.args(args).env("ACETATE_STORE", self.path("store")).current_dir(self.scratch.path());
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `acetate`, whatever comes of it.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        Ok(self.command(args)?.output()?)
    }

    /// Runs `acetate`, which has to succeed; returns what it prints.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{args:?}: {}: {stderr}", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Runs `acetate`, which has to fail; returns what it says.
    pub fn fails(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        ensure!(output.status.code() == Some(2), "{args:?}: {}", output.status);
        Ok(String::from_utf8(output.stderr)?)
    }

    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.run(args)?;
        ensure!(output.status.code().is_some_and(|code| code < 2), "{args:?}: {output:?}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Mounts a workspace and returns where.
    pub fn mount(&self, name: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(self.ok(&["workspace", "mount", name])?))
    }

    pub fn umount(&self, name: &str) -> Result<()> {
        // A process that another test is just starting holds this one's descriptors until it becomes its program.
        for _ in 0..300 {
            let output = self.run(&["workspace", "umount", name])?;
            if output.status.success() {
                return Ok(());
            }
            ensure!(String::from_utf8_lossy(&output.stderr).contains("busy"), "{output:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        anyhow::bail!("workspace {name} stays in use")
    }

    /// Fails unless the store is whole.
    pub fn sound(&self) -> Result<()> {
        self.ok(&["check", "--store", "--full"]).map(drop)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let mounts = fs::read_dir(self.path("store/mounts")).into_iter().flatten().flatten();
        for mount in mounts {
            let _not_mounted =
                Command::new("umount").arg("-l").arg(mount.path()).stderr(Stdio::null()).status();
        }
    }
}

pub fn can(name: &str, more: &[Need]) -> Result<bool> {
    let needs: Vec<Need> = [Need::Root, Need::KernelOverlay].iter().chain(more).copied().collect();
    have(name, &needs)
}

/// A small tree to make an image of.
fn fill(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("etc/deep/deeper"))?;
    fs::create_dir_all(dir.join("gone"))?;
    fs::write(dir.join("etc/conf"), "conf")?;
    fs::write(dir.join("etc/deep/deeper/leaf"), "leaf")?;
    fs::write(dir.join("gone/1"), "1")?;
    fs::write(dir.join("gone/2"), "2")?;
    fs::hard_link(dir.join("gone/1"), dir.join("link"))?;
    symlink("etc/conf", dir.join("symlink"))?;
    Ok(())
}

/// A store with the image `base`.
fn with_image(home: &Home) -> Result<()> {
    fs::create_dir_all(home.path("tree"))?;
    fill(&home.path("tree"))?;
    home.ok(&["image", "import", "tree", "--name", "base"])?;
    Ok(())
}

/// Changes of every kind below a workspace's root.
fn edit(root: &Path) -> Result<()> {
    fs::remove_dir_all(root.join("gone"))?;
    fs::write(root.join("etc/conf"), "changed")?;
    fs::create_dir(root.join("new"))?;
    fs::write(root.join("new/file"), "new")?;
    fs::remove_dir_all(root.join("etc/deep"))?;
    fs::create_dir(root.join("etc/deep"))?;
    fs::write(root.join("etc/deep/other"), "other")?;
    fs::remove_file(root.join("symlink"))?;
    fs::create_dir(root.join("symlink"))?;
    Ok(())
}

const EDITED: [&str; 7] = [
    "D etc/deep/deeper/  (1 objects below it)",
    "D gone/  (2 objects below it)",
    "C symlink/  (content, metadata, type)",
    "C etc/conf  (content)",
    "A etc/deep/other  (5 B)",
    "A new/",
    "A new/file  (3 B)",
];

#[test]
fn the_life_of_a_workspace_with_every_driver() -> Result<()> {
    if !can("workspaces", &[Need::Fuse, Need::Loop])? {
        return Ok(());
    }
    for driver in ["kernel", "fuse", "btrfs", "reflink", "copy"] {
        let home = Home::on(FsKind::Btrfs, "workspaces", 400)?;
        with_image(&home)?;
        home.ok(&["workspace", "create", "w", "--image", "base", "--driver", driver])?;
        let root = home.mount("w")?;
        let before = Fingerprint::take(&root)?.portable();
        Fingerprint::take(&home.path("tree"))?.portable().expect(&before, driver)?;
        edit(&root)?;
        let after = Fingerprint::take(&root)?.portable();
        let diff = home.run(&["workspace", "diff", "w"])?;
        let diff = String::from_utf8(diff.stdout)?;
        let expected: BTreeSet<&str> = EDITED.into_iter().collect();
        let found: BTreeSet<&str> = diff.lines().collect();
        ensure!(found == expected, "{driver}: {diff}");
        ensure!(diff.starts_with("D "), "{driver}: deletions come first: {diff}");
        // In use: nothing may change it from below.
        if ["kernel", "fuse"].contains(&driver) {
            for command in
                [["workspace", "reset", "w"], ["workspace", "remove", "w"], ["workspace", "commit", "w"]]
            {
                let error = home.fails(&command)?;
                ensure!(error.contains("is in use: it is mounted"), "{driver}: {error}");
            }
        }
        home.umount("w")?;
        // A branch begins with what is there, and then both go their own ways.
        home.ok(&["workspace", "create", "branch", "--from", "w"])?;
        let branch = home.mount("branch")?;
        Fingerprint::take(&branch)?.portable().expect(&after, driver)?;
        fs::write(branch.join("only-here"), "")?;
        home.umount("branch")?;
        let root = home.mount("w")?;
        Fingerprint::take(&root)?.portable().expect(&after, driver)?;
        home.umount("w")?;
        // The image of a workspace shows the same, with any driver.
        home.ok(&["workspace", "commit", "w", "next", "--message", "edited"])?;
        ensure!(home.run(&["workspace", "diff", "w"])?.status.code() == Some(0));
        home.ok(&["workspace", "create", "copy", "--image", "next", "--driver", "copy"])?;
        let tree = home.mount("copy")?;
        let names = after.clone().with_names_counted();
        Fingerprint::take(&tree)?.portable().with_names_counted().expect(&names, driver)?;
        // Reset is blank.
        let root = home.mount("w")?;
        fs::write(root.join("more"), "more")?;
        home.umount("w")?;
        home.ok(&["workspace", "reset", "w"])?;
        let root = home.mount("w")?;
        Fingerprint::take(&root)?.portable().expect(&after, driver)?;
        home.umount("w")?;
        home.sound()?;
        let in_use = home.fails(&["image", "remove", "next"])?;
        ensure!(in_use.contains("is in use by workspace"), "{in_use}");
        home.ok(&["workspace", "remove", "w", "branch", "copy"])?;
        home.ok(&["image", "remove", "next", "base"])?;
        let left = home.json(&["image", "df", "--json"])?;
        ensure!(left["layers"] == serde_json::json!([]), "{driver}: {left}");
        ensure!(left["workspaces"] == serde_json::json!([]) && left["trees"] == 0, "{driver}: {left}");
    }
    Ok(())
}

#[test]
fn kernel_and_fuse_show_each_others_workspaces() -> Result<()> {
    if !can("drivers of one format", &[Need::Fuse])? {
        return Ok(());
    }
    let home = Home::new("drivers")?;
    with_image(&home)?;
    let mut seen = Vec::new();
    for driver in ["kernel", "fuse"] {
        home.ok(&["workspace", "create", driver, "--image", "base", "--driver", driver])?;
        let root = home.mount(driver)?;
        edit(&root)?;
        seen.push(Fingerprint::take(&root)?.portable().entries.into_keys().collect::<Vec<_>>());
        home.umount(driver)?;
        // The record says who shows it; the directories do not care.
        let other = if driver == "kernel" { "fuse" } else { "kernel" };
        home.ok(&["workspace", "driver", driver, other])?;
        let root = home.mount(driver)?;
        let again: Vec<PathBuf> = Fingerprint::take(&root)?.entries.into_keys().collect();
        ensure!(Some(&again) == seen.last(), "{driver} seen by {other}");
        home.umount(driver)?;
    }
    ensure!(seen[0] == seen[1]);
    Ok(())
}

#[test]
fn a_hundred_workspaces_take_nothing_but_their_changes() -> Result<()> {
    if !can("many workspaces", &[])? {
        return Ok(());
    }
    let home = Home::new("many")?;
    with_image(&home)?;
    fs::write(home.path("tree/large"), vec![7; 8 << 20])?;
    home.ok(&["image", "import", "tree", "--name", "large"])?;
    let total = |home: &Home| -> Result<u64> {
        home.json(&["image", "df", "--json"])?["total"].as_u64().context("no total")
    };
    let before = total(&home)?;
    for number in 0..100 {
        home.ok(&["workspace", "create", &format!("w{number}"), "--image", "large", "--driver", "kernel"])?;
    }
    let each = (total(&home)? - before) / 100;
    println!("a workspace takes {each} bytes");
    ensure!(each <= 32 << 10, "{each} bytes each");
    // One page cache for all: the file is the same inode of the lower layer below each mount.
    let inodes: Result<BTreeSet<u64>> = (0..10)
        .map(|number| Ok(fs::metadata(home.mount(&format!("w{number}"))?.join("large"))?.ino()))
        .collect();
    ensure!(inodes?.len() == 1);
    let explained = home.json(&["image", "df", "--json"])?;
    let sum: u64 = ["layers", "workspaces"]
        .iter()
        .flat_map(|part| explained[*part].as_array().into_iter().flatten())
        .filter_map(|item| item["bytes"].as_u64())
        .chain(
            ["branches", "trees", "tries", "transient", "records"]
                .iter()
                .filter_map(|part| explained[*part].as_u64()),
        )
        .sum();
    ensure!(Some(sum) == explained["total"].as_u64(), "{explained}");
    for number in 0..10 {
        home.umount(&format!("w{number}"))?;
    }
    // du(1) is of the same opinion.
    let du = Command::new("du").args(["-s", "-B1"]).arg(home.path("store")).output()?;
    let du: u64 = String::from_utf8(du.stdout)?.split_whitespace().next().context("du")?.parse()?;
    let ours = total(&home)?;
    ensure!(du == ours, "du says {du}, df says {ours}");
    Ok(())
}

/// Runs `acetate` and kills it when it is about to make its `n`th change of files or names, counted from one over all
/// processes and threads. `None` if it came to its end before.
pub fn killed_at(home: &Home, args: &[&str], n: usize) -> Result<Option<()>> {
    let (output, seen) = inject::run(&mut home.command(args)?, Injection::Kill(n - 1), KILL_LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!seen.hung, "{args:?} killed at {n}: no end within {KILL_LIMIT:?}: {said}");
    // A parent whose child is killed says so and fails.
    ensure!(seen.hit != output.status.success(), "{args:?} at {n}: {}: {said}", output.status);
    Ok(seen.hit.then_some(()))
}

/// How long a command may take.
const KILL_LIMIT: Duration = Duration::from_secs(60);

/// What a test does before a command.
type Prepare<'a> = &'a (dyn Fn(&Home) -> Result<()> + Sync);

/// Kills a command at each of its changes; after each, the store is whole but for leftovers, shows the old state or the
/// new one, and the command, if the state is the old one, can be run again.
fn sweep(prepare: Prepare<'_>, args: &[&str], state: &dyn Fn(&Home) -> Result<Value>) -> Result<usize> {
    let fresh = || -> Result<Home> {
        let home = Home::new("killed")?;
        with_image(&home)?;
        prepare(&home)?;
        Ok(home)
    };
    let home = fresh()?;
    let old = state(&home)?;
    home.ok(args)?;
    let new = state(&home)?;
    ensure!(old != new, "{args:?} changes nothing that the test looks at");
    for n in 1..400 {
        let home = fresh()?;
        if killed_at(&home, args, n)?.is_none() {
            return Ok(n - 1);
        }
        let found = home.json(&["check", "--store", "--full", "--json"])?;
        let kinds: BTreeSet<&str> = found["problems"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|item| item["kind"].as_str())
            .collect();
        ensure!(kinds.iter().all(|kind| *kind == "leftover"), "{args:?} killed at change {n}: {found}");
        let now = state(&home)?;
        // A commit first makes the image, then lets the workspace stand on it; what has a branch first stands on what is
        // shared from then on. No file of any workspace is another one meanwhile.
        let committed = now[0] == new[0] && now[1] == old[1];
        let is_new = |workspace: &Value| new[1].as_array().is_some_and(|all| all.contains(workspace));
        let branched = now[0] == old[0] && now[1].as_array().is_some_and(|all| all.iter().all(is_new));
        let between = committed || branched && args[1] == "create";
        ensure!(
            now == old || now == new || between,
            "{args:?} killed at change {n}: {now}\nold {old}\nnew {new}"
        );
        if now != new {
            home.ok(args).with_context(|| format!("again, after a kill at change {n}"))?;
            ensure!(state(&home)? == new, "{args:?} run again after a kill at change {n}");
        }
        home.ok(&["image", "gc"])?;
        home.sound()?;
        ensure!(state(&home)? == new, "{args:?} after a kill at change {n} and gc");
    }
    anyhow::bail!("{args:?} never ends")
}

/// Names of images and workspaces with what they consist of, without times and random names.
fn state(home: &Home) -> Result<Value> {
    let listed = home.json(&["image", "list", "--json"])?["images"].clone();
    // Without names it is nothing that users would miss or find.
    let named = |image: &&Value| image["names"].as_array().is_some_and(|names| !names.is_empty());
    let image = |image: &Value| format!("{} {} {}", image["names"], image["layers"], image["source"]);
    let mut images: Vec<String> = listed.as_array().into_iter().flatten().filter(named).map(image).collect();
    // The order of the list is that of the ids, which depend on times.
    images.sort();
    let list = home.json(&["workspace", "list", "--json"])?["workspaces"].clone();
    let mut workspaces = Vec::new();
    for workspace in list.as_array().into_iter().flatten() {
        let name = workspace["name"].as_str().context("name")?;
        let changes = home.json(&["workspace", "diff", name, "--json"])?["changes"].clone();
        let base =
            workspace["base"].as_str().map(|base| base.split(' ').next().unwrap_or_default().to_owned());
        workspaces.push(serde_json::json!([name, base, changes, workspace["driver"]]));
    }
    Ok(serde_json::json!([images, workspaces]))
}

fn edited(home: &Home) -> Result<()> {
    home.ok(&["workspace", "create", "w", "--image", "base", "--driver", "kernel"])?;
    edit(&home.mount("w")?)?;
    home.umount("w")
}

fn swept(prepare: Prepare<'_>, args: &[&str]) -> Result<()> {
    let points = sweep(prepare, args, &state)?;
    println!("{args:?}: killed at {points} changes");
    ensure!(points > 0, "{args:?} was never killed");
    Ok(())
}

#[test]
fn killed_at_every_change_the_store_is_old_or_new() -> Result<()> {
    if !can("kill sweep", &[])? {
        return Ok(());
    }
    let nothing = |_: &Home| Ok(());
    let other = |home: &Home| -> Result<()> { Ok(fs::write(home.path("tree/more"), "more")?) };
    let branched = |home: &Home| -> Result<()> {
        edited(home)?;
        home.ok(&["workspace", "create", "child", "--from", "w"]).map(drop)
    };
    let cases: [(Prepare, &[&str]); 10] = [
        (&other, &["image", "import", "tree", "--name", "second"]),
        (&nothing, &["image", "tag", "base", "other"]),
        (&nothing, &["image", "remove", "base"]),
        (&nothing, &["workspace", "create", "w", "--image", "base", "--driver", "kernel"]),
        (&nothing, &["workspace", "create", "w", "--image", "base", "--driver", "copy"]),
        (&edited, &["workspace", "create", "child", "--from", "w"]),
        (&edited, &["workspace", "commit", "w", "next"]),
        (&edited, &["workspace", "reset", "w"]),
        (&edited, &["workspace", "driver", "w", "fuse"]),
        (&branched, &["workspace", "remove", "w"]),
    ];
    // Most of the time they wait for the disk.
    std::thread::scope(|scope| {
        let start = |(prepare, args)| scope.spawn(move || swept(prepare, args));
        let threads: Vec<_> = cases.into_iter().map(start).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

#[test]
fn damage_is_found_and_nothing_changes_without_repair() -> Result<()> {
    if !can("check", &[])? {
        return Ok(());
    }
    let home = Home::new("check")?;
    with_image(&home)?;
    edited(&home)?;
    home.ok(&["workspace", "commit", "w", "next"])?;
    home.sound()?;
    let shown = home.json(&["image", "show", "next", "--json"])?;
    let layer = |at: usize| shown["layers"][at]["path"].as_str().map(PathBuf::from).context("layer");
    // One byte in a file of a layer; the length stays.
    fs::write(layer(0)?.join("etc/conf"), "cone")?;
    // A name without an image, a damaged workspace, leftovers.
    let names = home.path("store/names");
    let record = fs::read_to_string(names.join("base%3Alatest"))?;
    let id = shown["id"].as_str().context("id")?;
    let base: Value = serde_json::from_str(&record)?;
    let dangling =
        record.replace(base["image"].as_str().context("image")?, &id.replace(&id[10..20], "0000000000"));
    fs::write(names.join("dangling%3Alatest"), dangling)?;
    fs::write(home.path("store/workspaces/broken"), "{")?;
    fs::create_dir(home.path("store/staging/0123"))?;
    let kinds = |args: &[&str]| -> Result<Vec<String>> {
        let found = home.json(args)?;
        let kinds = found["problems"].as_array().into_iter().flatten();
        Ok(kinds.filter_map(|item| item["kind"].as_str()).map(str::to_owned).collect())
    };
    let before = Fingerprint::take(&home.path("store"))?;
    // A quick look does not read files.
    ensure!(kinds(&["check", "--store", "--json"])? == ["leftover", "workspace-damaged", "leftover"]);
    let full = kinds(&["check", "--store", "--full", "--json"])?;
    let expected = [
        "layer-damaged",
        "image-incomplete",
        "image-incomplete",
        "workspace-incomplete",
        "workspace-damaged",
        "leftover",
    ];
    ensure!(full.iter().collect::<BTreeSet<_>>() == expected.map(str::to_owned).iter().collect(), "{full:?}");
    ensure!(home.run(&["check", "--store", "--full"])?.status.code() == Some(1));
    before.expect(&Fingerprint::take(&home.path("store"))?, "checking changes nothing")?;
    // A repair moves the layer away; importing the same tree again makes the images whole.
    home.run(&["check", "--store", "--full", "--repair"])?;
    ensure!(fs::read_dir(home.path("store/damaged"))?.count() == 2);
    home.ok(&["image", "import", "tree", "--name", "base"])?;
    home.sound()?;
    Ok(())
}

#[test]
fn many_at_once() -> Result<()> {
    if !can("concurrency", &[])? {
        return Ok(());
    }
    let home = Home::new("together")?;
    with_image(&home)?;
    for number in 0..4 {
        fs::create_dir(home.path(format!("tree{number}")))?;
        // Two of them are the same layer.
        fs::write(home.path(format!("tree{number}/file")), format!("{}", number / 2))?;
        let time = rustix::fs::Timespec { tv_sec: 1_000_000, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        for name in ["/file", ""] {
            let path = home.path(format!("tree{number}{name}"));
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty())?;
        }
    }
    let mut children = Vec::new();
    for round in 0..6 {
        for number in 0..4 {
            let tree = format!("tree{number}");
            children.push(
                home.command(&["image", "import", &tree, "--name", &format!("i{round}-{number}")])?
                    .spawn()?,
            );
        }
        let name = format!("w{round}");
        children.push(
            home.command(&["workspace", "create", &name, "--image", "base", "--driver", "kernel"])?
                .spawn()?,
        );
        // May find the store in use, and must not harm anybody.
        children.push(home.command(&["image", "gc"])?.stderr(Stdio::null()).spawn()?);
    }
    let ends: Result<Vec<_>, _> = children.iter_mut().map(std::process::Child::wait).collect();
    for (at, end) in ends?.into_iter().enumerate() {
        ensure!(end.success() || at % 6 == 5, "child {at}: {end}");
    }
    let images = home.json(&["image", "list", "--json"])?;
    let names = |image: &Value| image["names"].as_array().map_or(0, Vec::len);
    let count: usize = images["images"].as_array().into_iter().flatten().map(names).sum();
    ensure!(count == 25, "{images}");
    let layers = home.json(&["image", "df", "--json"])?;
    ensure!(layers["layers"].as_array().map(Vec::len) == Some(3), "{layers}");
    home.sound()
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() -> Result<()> {
    if !can("full disk", &[Need::Loop])? {
        return Ok(());
    }
    let home = Home::on(FsKind::Ext4, "full", 64)?;
    with_image(&home)?;
    let big = Home::new("big")?;
    fs::create_dir(big.path("tree"))?;
    let noise: Vec<u8> =
        (0..80_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(big.path("tree/file"), noise)?;
    let before = home.json(&["image", "df", "--json"])?;
    let source = big.path("tree");
    let error = home.fails(&["image", "import", &source.to_string_lossy(), "--name", "big"])?;
    ensure!(error.to_lowercase().contains("no space left on device"), "{error}");
    home.sound()?;
    let after = home.json(&["image", "df", "--json"])?;
    ensure!(before["layers"] == after["layers"] && after["transient"] == 0, "{before}\n{after}");
    // There is room again for what fits.
    home.ok(&["workspace", "create", "w", "--image", "base", "--driver", "copy"])?;
    Ok(())
}

#[test]
fn mistakes_are_explained() -> Result<()> {
    if !can("messages", &[])? {
        return Ok(());
    }
    let home = Home::new("messages")?;
    with_image(&home)?;
    let cases: [(&[&str], &str, &str); 10] = [
        (&["image", "show", "nothing"], "no image \"nothing\"", "image list"),
        (&["image", "import", "nowhere"], "nowhere", "name a docker archive"),
        (&["workspace", "create", "a/b", "--image", "base"], "\"a/b\" is no name", ""),
        (&["workspace", "create", "w", "--image", "nothing"], "no image", "image list"),
        (&["workspace", "create", "w", "--dir", "nowhere"], "nowhere", ""),
        (&["workspace", "mount", "w"], "no workspace \"w\"", "workspace list"),
        (&["workspace", "create", "w", "--image", "base", "--driver", "zfs"], "no driver is called", ""),
        (&["image", "tag", "base", "bad name"], "is no name for an image", ""),
        (&["image", "push", "base", "BAD"], "BAD", ""),
        (&["image", "--store", "/etc/passwd", "list"], "/etc/passwd: it is no directory", "name an empty"),
    ];
    for (args, what, hint) in cases {
        let error = home.fails(args)?;
        ensure!(error.contains(what) && error.contains(hint), "{args:?}: {error}");
    }
    let odd = home.path(std::ffi::OsStr::from_bytes(b"tree\xff"));
    fs::create_dir(&odd)?;
    let output = home.command(&["image", "import"])?.arg(&odd).output()?;
    ensure!(output.status.code() == Some(2), "a name cannot be made of it");
    let foreign = home.path("foreign");
    fs::create_dir(&foreign)?;
    fs::write(foreign.join("file"), "")?;
    let error = home.fails(&["image", "--store", "foreign", "list"])?;
    ensure!(error.contains("holds \"file\" and is no store"), "{error}");
    ensure!(fs::read_dir(&foreign)?.count() <= 2, "nothing is made there but the lock");
    Ok(())
}
