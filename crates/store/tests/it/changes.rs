//! What an upper directory changes is what a kernel mount of it shows.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use acetate_layer::Kind;
use acetate_layer::mark::Dialect;
use acetate_store::changes::{Change, ChangeKind, between, by_importance, of_upper};
use acetate_testkit::driver::{Driver, Stack};
use acetate_testkit::edits::{edit, plant};
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
