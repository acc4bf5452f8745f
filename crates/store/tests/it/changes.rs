//! What an upper directory changes is what a kernel mount of it shows.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use acetate_layer::Kind;
use acetate_layer::mark::Dialect;
use acetate_store::changes::{Change, ChangeKind, between, by_importance, of_upper};
use acetate_testkit::driver::{Driver, Stack};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

/// Copies a tree with everything that cp(1) can keep.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

/// A change as a short line.
fn line(change: &Change) -> String {
    let Change { path, what, kind, size, below } = change;
    format!("{} {what:?} {kind:?} {size} {below}", path.escape_ascii())
}

fn lines(changes: &[Change]) -> String {
    changes.iter().map(|change| line(change) + "\n").collect()
}

/// Makes a tree of directories, files, symlinks, a fifo and attributes.
fn plant(root: &Path, random: &mut fastrand::Rng) -> Result<()> {
    let mut dirs = vec![root.to_owned()];
    for _ in 0..60 {
        let dir = dirs[random.usize(..dirs.len())].clone();
        let path = dir.join(name(random));
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match random.u8(..10) {
            0..4 => {
                fs::create_dir(&path)?;
                dirs.push(path);
            }
            4 => symlink("nowhere", &path)?,
            5 => mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?,
            6 => {
                fs::write(&path, "with an attribute")?;
                lsetxattr(&path, "user.x", b"1", XattrFlags::empty())?;
            }
            _ => fs::write(&path, vec![b'a' + random.u8(..3); random.usize(..300_000)])?,
        }
    }
    Ok(())
}

/// A name out of few, one of them hostile.
fn name(random: &mut fastrand::Rng) -> std::ffi::OsString {
    let names: [&[u8]; 7] = [b"a", b"b", b"c", b"d", b"e", b"a.b", b"\xff\n"];
    std::ffi::OsString::from_vec(names[random.usize(..names.len())].to_vec())
}

/// All paths of a tree.
fn paths(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![root.to_owned()];
    let mut at = 0;
    while at < found.len() {
        if fs::symlink_metadata(&found[at])?.is_dir() {
            for entry in fs::read_dir(&found[at])? {
                found.push(entry?.path());
            }
        }
        at += 1;
    }
    Ok(found)
}

/// Does one thing to a tree; what cannot be done is not done.
fn edit(root: &Path, random: &mut fastrand::Rng) -> Result<()> {
    let all = paths(root)?;
    let some = |random: &mut fastrand::Rng| all[random.usize(..all.len())].clone();
    let path = some(random);
    let kind = fs::symlink_metadata(&path)?.file_type();
    let is_root = path == root;
    match random.u8(..14) {
        0..3 if kind.is_file() => fs::remove_file(&path)?,
        0..3 if kind.is_dir() && !is_root => fs::remove_dir_all(&path)?,
        3 if !is_root => {
            // Another type of object at the same name.
            if kind.is_dir() {
                fs::remove_dir_all(&path)?;
                fs::write(&path, "was a directory")?;
            } else {
                fs::remove_file(&path)?;
                fs::create_dir(&path)?;
                fs::write(path.join(name(random)), "within what was none")?;
            }
        }
        4 if kind.is_dir() && !is_root => {
            // The same name anew: opaque.
            fs::remove_dir_all(&path)?;
            fs::create_dir(&path)?;
            fs::write(path.join(name(random)), "anew")?;
        }
        5 if kind.is_file() => {
            // Copied up and equal.
            let content = fs::read(&path)?;
            fs::write(&path, content)?;
        }
        6 if kind.is_file() => {
            let mut content = fs::read(&path)?;
            content.iter_mut().last().into_iter().for_each(|byte| *byte ^= 1);
            fs::write(&path, content)?;
        }
        7 if !kind.is_symlink() && !is_root => fs::set_permissions(&path, PermissionsExt::from_mode(0o711))?,
        8 if kind.is_file() || kind.is_dir() && !is_root => {
            lsetxattr(&path, "user.y", b"value", XattrFlags::empty())?;
        }
        9 if !is_root => {
            let to = some(random).join(name(random));
            // Into itself, over a full directory, from one layer to another: the kernel says no.
            let _may_be_refused = fs::rename(&path, to);
        }
        10 if kind.is_file() => {
            let _may_be_refused = fs::hard_link(&path, some(random).join(name(random)));
        }
        11 => {
            let to = if kind.is_dir() { path.join(name(random)) } else { path };
            let _may_be_refused = std::os::unix::fs::lchown(to, Some(12), None);
        }
        12 if kind.is_dir() => {
            // Only where there is nothing: writing to a fifo waits for a reader.
            let to = path.join(name(random));
            if fs::symlink_metadata(&to).is_err() {
                fs::write(to, "new")?;
            }
        }
        13 if kind.is_dir() => {
            let _may_be_refused = fs::create_dir_all(path.join(name(random)).join(name(random)));
        }
        _ => {}
    }
    Ok(())
}

/// Three layers, each made by edits through a kernel mount of those below.
fn layers_say_what_their_mounts_show(options: &str, dialect: Dialect, seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let scratch = Scratch::new("store-changes")?;
    let base = scratch.dir("base")?;
    plant(&base, &mut random)?;
    let mut lowers = vec![base];
    for round in 0..3 {
        let dir = |what: &str| scratch.dir(&format!("{what}{round}"));
        let (upper, work, merged) = (dir("upper")?, dir("work")?, dir("merged")?);
        let (before, after) =
            (scratch.path().join(format!("before{round}")), scratch.path().join(format!("after{round}")));
        let mount = Driver::Kernel.mount(&Stack::writable(&lowers, &upper, &work), &merged, options)?;
        copy(&merged, &before)?;
        for _ in 0..25 {
            edit(&merged, &mut random)?;
        }
        copy(&merged, &after)?;
        mount.unmount()?;
        let got = of_upper(&upper, &lowers, dialect)?;
        let expected = between(&before, &after)?;
        ensure!(
            got == expected,
            "seed {seed} round {round} {options}\nshould be\n{}is\n{}",
            lines(&expected),
            lines(&got)
        );
        ensure!(between(&after, &after)?.is_empty());
        lowers.insert(0, upper);
    }
    Ok(())
}

#[test]
fn an_upper_directory_changes_what_its_mount_shows() -> Result<()> {
    if !have("changes of upper", &[Need::Root, Need::KernelOverlay])? {
        return Ok(());
    }
    for seed in 0..12 {
        layers_say_what_their_mounts_show("", Dialect::Trusted, seed)?;
        layers_say_what_their_mounts_show("redirect_dir=on", Dialect::Trusted, 100 + seed)?;
        layers_say_what_their_mounts_show("userxattr", Dialect::User, 200 + seed)?;
    }
    Ok(())
}

/// The changes of a small upper directory that is made by hand.
fn by_hand(dialect: Dialect, make: impl FnOnce(&Path) -> Result<()>) -> Result<Vec<String>> {
    let scratch = Scratch::new("store-changes")?;
    let (lower, upper) = (scratch.dir("lower")?, scratch.dir("upper")?);
    fs::create_dir_all(lower.join("d/e"))?;
    for (path, content) in [("f", "12345"), ("d/g", "1"), ("d/e/h", "22"), ("z", "")] {
        fs::write(lower.join(path), content)?;
    }
    make(&upper)?;
    Ok(of_upper(&upper, &[lower], dialect)?.iter().map(line).collect())
}

fn mark(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    lsetxattr(path, name, value, XattrFlags::empty()).with_context(|| format!("set {name}"))
}

#[test]
fn both_kinds_of_whiteouts_are_deletions() -> Result<()> {
    let got = by_hand(Dialect::User, |upper| {
        for name in ["f", "d", "absent"] {
            fs::write(upper.join(name), "")?;
            mark(&upper.join(name), "user.overlay.whiteout", b"y")?;
        }
        // Empty, and no whiteout.
        Ok(fs::write(upper.join("z"), "")?)
    })?;
    assert_eq!(got, ["d Deleted Dir 0 3", "f Deleted File 5 0"]);
    if !have("whiteout devices", &[Need::Root])? {
        return Ok(());
    }
    let got = by_hand(Dialect::Trusted, |upper| {
        fs::create_dir(upper.join("d"))?;
        for name in ["f", "d/e", "absent"] {
            mknodat(CWD, upper.join(name), FileType::CharacterDevice, Mode::empty(), 0)?;
        }
        Ok(())
    })?;
    assert_eq!(got, ["d/e Deleted Dir 0 1", "f Deleted File 5 0"]);
    Ok(())
}

#[test]
fn an_opaque_directory_deletes_what_it_lacks() -> Result<()> {
    let got = by_hand(Dialect::User, |upper| {
        fs::create_dir_all(upper.join("d/e"))?;
        mark(&upper.join("d"), "user.overlay.opaque", b"y")?;
        Ok(fs::write(upper.join("d/new"), "new")?)
    })?;
    assert_eq!(got, ["d/e/h Deleted File 2 0", "d/g Deleted File 1 0", "d/new Added File 3 0"]);
    Ok(())
}

#[test]
fn types_replace_each_other() -> Result<()> {
    let got = by_hand(Dialect::User, |upper| {
        fs::write(upper.join("d"), "now a file")?;
        fs::create_dir(upper.join("f"))?;
        Ok(fs::write(upper.join("f/in"), "1")?)
    })?;
    let kind = "Changed { content: true, metadata: true, kind: true }";
    assert_eq!(
        got,
        [format!("d {kind} File 10 3"), format!("f {kind} Dir 0 0"), "f/in Added File 1 0".into()]
    );
    Ok(())
}

#[test]
fn a_copy_that_equals_the_original_is_no_change() -> Result<()> {
    let got = by_hand(Dialect::User, |upper| {
        fs::create_dir(upper.join("d"))?;
        mark(&upper.join("d"), "user.overlay.impure", b"y")?;
        fs::write(upper.join("f"), "12345")?;
        mark(&upper.join("f"), "user.overlay.origin", b"")?;
        fs::write(upper.join("d/g"), "2")?;
        fs::write(upper.join("z"), "")?;
        fs::set_permissions(upper, PermissionsExt::from_mode(0o700))?;
        Ok(fs::set_permissions(upper.join("z"), PermissionsExt::from_mode(0o600))?)
    })?;
    assert_eq!(
        got,
        [
            " Changed { content: false, metadata: true, kind: false } Dir 0 0",
            "d/g Changed { content: true, metadata: false, kind: false } File 1 0",
            "z Changed { content: false, metadata: true, kind: false } File 0 0"
        ]
    );
    Ok(())
}

#[test]
fn without_anything_below_all_is_new() -> Result<()> {
    let scratch = Scratch::new("store-changes")?;
    let upper = scratch.dir("upper")?;
    fs::create_dir(upper.join("d"))?;
    fs::write(upper.join("d/f"), "1")?;
    let got: Vec<String> = of_upper(&upper, &[], Dialect::User)?.iter().map(line).collect();
    assert_eq!(got, ["d Added Dir 0 0", "d/f Added File 1 0"]);
    Ok(())
}

#[test]
fn what_a_tree_below_cannot_tell_is_an_error() -> Result<()> {
    let scratch = Scratch::new("store-changes")?;
    let upper = scratch.dir("upper")?;
    let lost = scratch.path().join("lost");
    let error = of_upper(&upper, std::slice::from_ref(&lost), Dialect::User).unwrap_err();
    ensure!(error.to_string().as_bytes().starts_with(lost.as_os_str().as_bytes()), "{error}");
    Ok(())
}

#[test]
fn deletions_come_first() {
    let change = |path: &str, what| Change { path: path.into(), what, kind: Kind::File, size: 0, below: 0 };
    let changed = |kind| ChangeKind::Changed { content: true, metadata: false, kind };
    let mut changes = vec![
        change("a", ChangeKind::Added),
        change("b", changed(false)),
        change("c", changed(true)),
        change("e", ChangeKind::Deleted),
        change("d", ChangeKind::Deleted),
    ];
    by_importance(&mut changes);
    let order: Vec<&[u8]> = changes.iter().map(|change| change.path.as_slice()).collect();
    assert_eq!(order, [b"d", b"e", b"c", b"b", b"a"]);
}
