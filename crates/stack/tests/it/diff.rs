//! Lower + diff = merged, for random trees.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use acetate_image::{Options as Unpacking, Owners, split, unpack};
use acetate_layer::dir::DirLayer;
use acetate_layer::mark::Dialect;
use acetate_layer::work::WhiteoutForm;
use acetate_layer::{Layer, Owner, UpperLayer};
use acetate_stack::diff::{Change, How, Options, diff};
use acetate_stack::{Stack, tar, text};
use acetate_store::changes::{self, ChangeKind, between};
use acetate_testkit::driver::{Driver, Stack as Mount};
use acetate_testkit::edits::{edit, plant};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Result, ensure};

pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

/// A change as the comparison of two copied trees would say it: without hard links.
fn as_compared(change: &Change) -> Option<changes::Change> {
    let what = match &change.how {
        How::Deleted => ChangeKind::Deleted,
        How::Added => ChangeKind::Added,
        How::Changed(differs) if !(differs.content || differs.metadata) => return None,
        How::Changed(differs) => {
            ChangeKind::Changed { content: differs.content, metadata: differs.metadata, kind: differs.kind }
        }
        How::Touched | How::Renamed { .. } => return None,
    };
    Some(changes::Change {
        path: change.path.clone(),
        what,
        kind: change.kind,
        size: change.size,
        below: change.below,
    })
}

fn lines(changes: &[changes::Change]) -> String {
    let line = |c: &changes::Change| {
        format!("{} {:?} {:?} {} {}\n", c.path.escape_ascii(), c.what, c.kind, c.size, c.below)
    };
    changes.iter().map(line).collect()
}

/// Which paths of a tree are names of one object.
fn hard_links(root: &Path) -> Result<Vec<Vec<PathBuf>>> {
    let mut groups = std::collections::BTreeMap::<u64, Vec<PathBuf>>::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path)?;
        if stat.is_dir() {
            for entry in fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        } else if stat.nlink() > 1 {
            groups.entry(stat.ino()).or_default().push(path.strip_prefix(root)?.to_owned());
        }
    }
    let mut groups: Vec<_> = groups.into_values().filter(|names| names.len() > 1).collect();
    groups.iter_mut().for_each(|names| names.sort());
    groups.sort();
    Ok(groups)
}

/// Unpacks an archive as a layer of its own.
fn unpacked(archive: &[u8], dir: &Path, work: &Path, dialect: Dialect) -> Result<()> {
    let mut layer = DirLayer::open_upper(dir)?;
    let workdir = layer.open_workdir(work)?;
    layer.make_dir(&workdir, b"work", 0o700, Owner::Mounter)?;
    layer.set_work(layer.open_dir(&workdir, b"work")?);
    let options = Unpacking { dialect, whiteouts: WhiteoutForm::Device, owners: Owners::Kept };
    let (totals, _) = unpack(archive, &layer, options, split::Writer::new(Vec::new())?)?;
    ensure!(totals.implicit.is_empty(), "all directories have entries");
    Ok(())
}

/// Three layers, each made by edits through a kernel mount of those below.
fn lower_and_diff_are_merged(options: &str, dialect: Dialect, seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let scratch = Scratch::new("stack-diff")?;
    let base = scratch.dir("base")?;
    plant(&base, &mut random)?;
    let mut lowers = vec![base];
    for round in 0..3 {
        let what = format!("seed {seed} round {round} {options}");
        let dir = |what: &str| scratch.dir(&format!("{what}{round}"));
        let (upper, work, merged) = (dir("upper")?, dir("work")?, dir("merged")?);
        let [before, after, again] =
            ["before", "after", "again"].map(|name| scratch.path().join(format!("{name}{round}")));
        let mount = Driver::Kernel.mount(&Mount::writable(&lowers, &upper, &work), &merged, options)?;
        copy(&merged, &before)?;
        for _ in 0..25 {
            edit(&merged, &mut random)?;
        }
        copy(&merged, &after)?;
        mount.unmount()?;
        let expected = between(&before, &after)?;
        let stack = Stack::open(Some(&upper), &lowers, dialect)?;
        let got = diff(&stack, Options::default())?;
        let got: Vec<_> = got.iter().filter_map(as_compared).collect();
        ensure!(got == expected, "{what}\nshould be\n{}is\n{}", lines(&expected), lines(&got));
        // The archive, as a layer over the same lowers.
        let (_, archive) = tar::write(&stack, Vec::new())?;
        let (layer, layer_work) = (dir("layer")?, dir("layer-work")?);
        unpacked(&archive, &layer, &layer_work, Dialect::Trusted)?;
        let all = std::iter::once(&layer).chain(&lowers);
        // Redirects and metacopy of the lower layers are followed as before.
        let options = if dialect == Dialect::User { "" } else { options };
        if dialect == Dialect::Trusted {
            let mount = Driver::Kernel.mount(&Mount::read_only(all), &merged, options)?;
            copy(&merged, &again)?;
            mount.unmount()?;
            let left: Vec<_> = between(&after, &again)?
                .into_iter()
                .filter(|change| change.kind != acetate_layer::Kind::Socket)
                .collect();
            ensure!(left.is_empty(), "{what}: lower + diff differs from merged\n{}", lines(&left));
            ensure!(hard_links(&after)? == hard_links(&again)?, "{what}: hard links");
        }
        lowers.insert(0, upper);
    }
    Ok(())
}

#[test]
fn lower_plus_diff_is_merged() -> Result<()> {
    if !have("lower + diff = merged", &[Need::Root, Need::KernelOverlay])? {
        return Ok(());
    }
    for seed in 0..12 {
        lower_and_diff_are_merged("", Dialect::Trusted, seed)?;
        lower_and_diff_are_merged("redirect_dir=on", Dialect::Trusted, 100 + seed)?;
        lower_and_diff_are_merged("redirect_dir=on,metacopy=on", Dialect::Trusted, 200 + seed)?;
        lower_and_diff_are_merged("userxattr", Dialect::User, 300 + seed)?;
    }
    Ok(())
}

fn short(change: &Change) -> String {
    let path = change.path.escape_ascii();
    match &change.how {
        How::Deleted => format!("D {path} {}", change.below),
        How::Added => format!("A {path}"),
        How::Renamed { from, differs } => format!("R {} {path} {}", from.escape_ascii(), differs.any()),
        How::Changed(differs) => format!("C {path} {differs:?}"),
        How::Touched => format!("T {path}"),
    }
}

#[test]
fn renames_are_found_by_redirects_and_origins() -> Result<()> {
    if !have("renames", &[Need::Root, Need::KernelOverlay])? {
        return Ok(());
    }
    let scratch = Scratch::new("stack-renames")?;
    let dir = |name: &str| scratch.dir(name);
    let (lower, upper, work, merged) = (dir("lower")?, dir("upper")?, dir("work")?, dir("merged")?);
    fs::create_dir_all(lower.join("d/e"))?;
    for name in ["d/1", "d/2", "d/e/3", "f", "g", "h"] {
        fs::write(lower.join(name), name)?;
    }
    let stack = Mount::writable([&lower], &upper, &work);
    let mount = Driver::Kernel.mount(&stack, &merged, "redirect_dir=on,metacopy=on")?;
    fs::rename(merged.join("d"), merged.join("moved"))?;
    fs::remove_file(merged.join("moved/1"))?;
    fs::write(merged.join("moved/2"), "changed")?;
    fs::rename(merged.join("moved/e"), merged.join("top"))?;
    fs::rename(merged.join("f"), merged.join("renamed"))?;
    fs::write(merged.join("renamed"), "other")?;
    fs::rename(merged.join("g"), merged.join("moved/g"))?;
    fs::hard_link(merged.join("h"), merged.join("i"))?;
    mount.unmount()?;
    let stack = Stack::open(Some(&upper), &[lower], Dialect::Trusted)?;
    let found: Vec<String> =
        diff(&stack, Options { renames: true, touched: true })?.iter().map(short).collect();
    let links = "Differs { content: false, metadata: false, kind: false, links: true }";
    let content = "Differs { content: true, metadata: false, kind: false, links: false }";
    let expected = [
        "D d/1 0".to_owned(),
        format!("C h {links}"),
        "A i".into(),
        "R d moved false".into(),
        format!("C moved/2 {content}"),
        "R g moved/g false".into(),
        "R f renamed true".into(),
        "R d/e top false".into(),
    ];
    ensure!(found == expected, "{found:#?}");
    Ok(())
}

#[test]
fn a_unified_diff_can_be_applied() -> Result<()> {
    if !have("unified diff", &[Need::Root, Need::KernelOverlay, Need::Tool("patch")])? {
        return Ok(());
    }
    let scratch = Scratch::new("stack-text")?;
    let dir = |name: &str| scratch.dir(name);
    let (lower, upper, work, merged) = (dir("lower")?, dir("upper")?, dir("work")?, dir("merged")?);
    let numbers: String = (0..40).map(|n| format!("{n}\n")).collect();
    fs::write(lower.join("changed"), &numbers)?;
    fs::write(lower.join("deleted"), "one\ntwo")?;
    fs::write(lower.join("binary"), b"\0\xff")?;
    let mount = Driver::Kernel.mount(&Mount::writable([&lower], &upper, &work), &merged, "")?;
    fs::write(merged.join("changed"), numbers.replace("7\n", "seven\n") + "no end of line")?;
    fs::remove_file(merged.join("deleted"))?;
    fs::write(merged.join("added"), "new\n")?;
    fs::write(merged.join("binary"), b"\0\xfe")?;
    mount.unmount()?;
    let stack = Stack::open(Some(&upper), std::slice::from_ref(&lower), Dialect::Trusted)?;
    let mut patch = String::new();
    let mut binary = Vec::new();
    for change in diff(&stack, Options::default())? {
        let path = String::from_utf8(change.path.clone())?;
        match text::of(stack.below(), stack.merged(), &change)? {
            text::Text::Hunks(hunks) => {
                let name =
                    |is: bool, side: &str| if is { format!("{side}/{path}") } else { "/dev/null".into() };
                let (old, new) = (name(change.how != How::Added, "a"), name(change.how != How::Deleted, "b"));
                patch += &format!("--- {old}\n+++ {new}\n{hunks}");
            }
            text::Text::Binary => binary.push(path),
            text::Text::Nothing => {}
        }
    }
    ensure!(binary == ["binary"], "{binary:?}");
    let file = scratch.path().join("patch");
    fs::write(&file, &patch)?;
    let status = Command::new("patch").args(["-p1", "-s", "-i"]).arg(&file).current_dir(&lower).status()?;
    ensure!(status.success(), "{patch}");
    for name in ["changed", "added"] {
        ensure!(fs::read(lower.join(name))? == fs::read(upper.join(name))?, "{name}: {patch}");
    }
    ensure!(!lower.join("deleted").exists(), "{patch}");
    Ok(())
}
