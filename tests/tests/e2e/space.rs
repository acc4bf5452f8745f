//! Stores on filesystems that become full, and commands that get in one another's way.

use crate::store::Home;
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::FsKind;
use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Stdio};

fn can(name: &str, more: &[Need]) -> Result<bool> {
    let needs = [Need::Root, Need::KernelOverlay, Need::Loop];
    have(name, &needs.iter().chain(more).copied().collect::<Vec<_>>())
}

/// A store with the image `base`, of so many files of 4 KiB.
fn with_image(home: &Home, files: u32) -> Result<()> {
    let tree = home.path("tree");
    fs::create_dir_all(tree.join("dir"))?;
    (0..files).try_for_each(|number| fs::write(tree.join(format!("dir/{number}")), vec![b'x'; 4096]))?;
    home.ok(&["image", "import", "tree", "--name", "base"])?;
    Ok(())
}

/// Allots all space of a btrfs to data, then frees most of the data, so that df(1) shows plenty.
fn allot_all_to_data(dir: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    let path = |number: u32| dir.join(number.to_string());
    let mut count = 0;
    loop {
        let file = File::create(path(count))?;
        if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).is_err() {
            break;
        }
        count += 1;
    }
    for number in (0..=count).filter(|number| number % 10 != 0 || *number == count) {
        fs::remove_file(path(number))?;
    }
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

#[test]
fn btrfs_without_room_for_metadata_refuses_in_time_and_is_freed() -> Result<()> {
    if !can("metadata exhaustion", &[])? {
        return Ok(());
    }
    let home = Home::on(FsKind::Btrfs, "metadata", 256)?;
    with_image(&home, 10)?;
    allot_all_to_data(&home.path("data"))?;
    let create = |number: u32| {
        home.run(&["workspace", "create", &format!("w{number}"), "--image", "base", "--driver", "btrfs"])
    };
    let (mut count, mut warned) = (0, 0);
    let refused = loop {
        let made = create(count)?;
        let said = String::from_utf8(made.stderr)?;
        if !made.status.success() {
            break said;
        }
        warned += u32::from(said.contains("warning: btrfs has ") && said.contains(" left for metadata"));
        // Files so small that they are metadata.
        let tree = home.mount(&format!("w{count}"))?;
        (0..200).try_for_each(|file| fs::write(tree.join(format!("small{file}")), [b'x'; 1900]))?;
        rustix::fs::syncfs(File::open(&tree)?)?;
        count += 1;
        ensure!(count < 500, "the metadata never ends");
    };
    ensure!(warned > 0, "there was no warning");
    ensure!(
        refused.contains(" of metadata space left (") && refused.contains("hint: remove workspaces"),
        "{refused}"
    );
    let df = home.run(&["image", "df"])?;
    ensure!(String::from_utf8(df.stderr)?.contains("nothing new can be made"), "df does not warn");
    let left = home.json(&["image", "df", "--json"])?["metadata_headroom"].as_u64().context("headroom")?;
    ensure!(left < 8 << 20, "{left}");
    let list = home.json(&["workspace", "list", "--json"])?["workspaces"].as_array().map(Vec::len);
    ensure!(list == Some(count as usize), "a workspace that was refused is there: {list:?}");
    // What exists goes on working, and may fill the rest.
    let tree = home.mount("w0")?;
    let mut file = 0;
    let full = loop {
        match fs::write(tree.join(format!("more{file}")), [b'x'; 1900]) {
            Ok(()) => file += 1,
            Err(error) => break error,
        }
    };
    ensure!(full.kind() == ErrorKind::StorageFull, "{full}");
    home.ok(&["workspace", "list"])?;
    // Now all that can be done is to remove, and that can be done.
    let half: Vec<String> = (0..count / 2).map(|number| format!("w{number}")).collect();
    let remove: Vec<&str> =
        ["workspace", "remove"].into_iter().chain(half.iter().map(String::as_str)).collect();
    home.ok(&remove)?;
    home.ok(&["image", "gc"])?;
    home.sound()?;
    let now = home.json(&["image", "df", "--json"])?["metadata_headroom"].as_u64().context("headroom")?;
    ensure!(now > 8 << 20, "gc has not freed it: {left}, then {now}");
    let again = create(0)?;
    ensure!(again.status.success(), "{again:?}");
    Ok(())
}

#[test]
fn hundreds_of_btrfs_workspaces_come_and_go() -> Result<()> {
    if !can("many snapshots", &[])? {
        return Ok(());
    }
    let home = Home::on(FsKind::Btrfs, "snapshots", 600)?;
    with_image(&home, 100)?;
    let names: Vec<String> = (0..200).map(|number| format!("w{number}")).collect();
    for name in &names {
        home.ok(&["workspace", "create", name, "--image", "base", "--driver", "btrfs"])?;
    }
    let tree = home.mount("w150")?;
    fs::write(tree.join("dir/7"), "changed")?;
    ensure!(fs::read(home.mount("w151")?.join("dir/7"))?.len() == 4096);
    let remove: Vec<&str> =
        ["workspace", "remove"].into_iter().chain(names.iter().map(String::as_str)).collect();
    home.ok(&remove)?;
    home.ok(&["image", "remove", "base"])?;
    home.ok(&["image", "gc"])?;
    home.sound()?;
    let left = home.json(&["image", "df", "--json"])?;
    ensure!(left["trees"] == 0 && left["layers"].as_array().is_some_and(Vec::is_empty), "{left}");
    Ok(())
}

#[test]
fn a_full_disk_is_told_and_leaves_the_store_whole() -> Result<()> {
    if !can("full disk", &[])? {
        return Ok(());
    }
    let home = Home::on(FsKind::Ext4, "full", 24)?;
    with_image(&home, 10)?;
    let source = Home::new("source")?;
    fs::create_dir(source.path("big"))?;
    fs::write(source.path("big/file"), vec![7; 40 << 20])?;
    let big = source.path("big");
    let said = home.fails(&["image", "import", big.to_str().context("path")?])?;
    ensure!(said.contains("o space left on device") && said.contains("hint: `acetate image gc`"), "{said}");
    home.sound()?;
    home.ok(&["workspace", "create", "w", "--image", "base"])?;
    let tree = home.mount("w")?;
    let full = fs::write(tree.join("fill"), vec![1; 40 << 20]);
    ensure!(full.is_err_and(|error| error.kind() == ErrorKind::StorageFull));
    home.umount("w")?;
    home.ok(&["workspace", "diff", "w"]).err().context("the workspace has changed")?;
    home.ok(&["workspace", "remove", "w"])?;
    home.ok(&["workspace", "create", "w", "--image", "base"])?;
    home.sound()
}

fn start(home: &Home, args: &[&str]) -> Result<Child> {
    Ok(home.command(args)?.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
}

#[test]
fn imports_at_once_share_and_an_interrupted_one_leaves_nothing_that_counts() -> Result<()> {
    if !have("imports at once", &[Need::Root, Need::KernelOverlay])? {
        return Ok(());
    }
    let home = Home::new("imports")?;
    fs::create_dir(home.path("tree"))?;
    (0..300).try_for_each(|number| fs::write(home.path("tree").join(number.to_string()), vec![3; 20_000]))?;
    let import = |name: &'static str| start(&home, &["image", "import", "tree", "--name", name]);
    for child in [import("a")?, import("b")?, import("c")?] {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{output:?}");
    }
    let list = home.json(&["image", "list", "--json"])?["images"].clone();
    let mut names: Vec<String> = list
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|image| image["names"].as_array().cloned().unwrap_or_default())
        .map(|name| name.to_string())
        .collect();
    names.sort();
    ensure!(names == ["\"a:latest\"", "\"b:latest\"", "\"c:latest\""], "{names:?}");
    ensure!(home.json(&["image", "df", "--json"])?["layers"].as_array().map(Vec::len) == Some(1));
    home.sound()?;
    fs::write(home.path("tree/more"), vec![5; 30 << 20])?;
    let child = import("d")?;
    std::thread::sleep(std::time::Duration::from_millis(30));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("pid")?;
    // It may be done already.
    let _ended = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    child.wait_with_output()?;
    home.ok(&["image", "gc"])?;
    home.sound()?;
    home.ok(&["image", "import", "tree", "--name", "d"])?;
    Ok(())
}

#[test]
fn a_directory_that_is_no_store_is_left_alone() -> Result<()> {
    let home = Home::new("foreign")?;
    fs::create_dir(home.path("other"))?;
    fs::write(home.path("other/file"), "somebody's")?;
    let said = home.fails(&["image", "list", "--store", "other"])?;
    ensure!(said.contains("is no store"), "{said}");
    ensure!(fs::read_dir(home.path("other"))?.count() == 1, "something was made there");
    let said = home.fails(&["image", "import", "other/file"])?;
    ensure!(said.starts_with("acetate: import other/file: "), "{said}");
    Ok(())
}
