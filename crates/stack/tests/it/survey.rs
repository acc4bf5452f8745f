//! A survey counts what a mount shows, and what it does not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use acetate_layer::Kind;
use acetate_layer::mark::Dialect;
use acetate_stack::Stack;
use acetate_stack::survey::{Fate, Survey, Totals};
use acetate_testkit::driver::{Driver, Stack as Mount};
use acetate_testkit::edits::{edit, plant};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Result, ensure};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

fn write(path: PathBuf, bytes: usize) -> Result<()> {
    fs::create_dir_all(path.parent().expect("below the layer"))?;
    Ok(fs::write(path, vec![b'x'; bytes])?)
}

fn whiteout(path: &Path) -> Result<()> {
    Ok(mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)?)
}

fn mark(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    Ok(lsetxattr(path, format!("trusted.overlay.{name}"), value, XattrFlags::empty())?)
}

/// What layers hold at each path: the layer, its bytes, and `+` shown, `&` part, `~` elsewhere, or who hides it.
fn lines(survey: &Survey) -> BTreeMap<String, String> {
    let part = |part: &acetate_stack::survey::Part| {
        let fate = match part.fate {
            Fate::Shown => "+".to_owned(),
            Fate::Part => "&".to_owned(),
            Fate::Elsewhere => "~".to_owned(),
            Fate::Hidden { by, at, how } => {
                format!("{how:?} {by} at {}", survey.path(at).escape_ascii())
            }
        };
        let kind = part.kind.map_or("W".to_owned(), |kind| format!("{kind:?}"));
        format!("{} {kind} {} {fate}", part.layer, part.bytes)
    };
    let line = |number: usize| {
        let parts: Vec<String> = survey.entries[number].parts.iter().map(part).collect();
        (survey.path(number).escape_ascii().to_string(), parts.join(", "))
    };
    (1..survey.entries.len()).map(line).collect()
}

#[test]
fn three_layers_by_hand() -> Result<()> {
    if !have("survey", &[Need::Root])? {
        return Ok(());
    }
    let scratch = Scratch::new("stack-survey")?;
    let [top, middle, bottom] = [scratch.dir("top")?, scratch.dir("middle")?, scratch.dir("bottom")?];
    write(bottom.join("both"), 100)?;
    write(bottom.join("dir/a"), 1000)?;
    write(bottom.join("dir/deep/b"), 200)?;
    write(bottom.join("turns"), 50)?;
    write(bottom.join("opaque/x"), 7)?;
    write(bottom.join("moves/m"), 11)?;
    write(bottom.join("link1"), 13)?;
    fs::hard_link(bottom.join("link1"), bottom.join("link2"))?;
    symlink("both", bottom.join("symlink"))?;
    write(middle.join("both"), 300)?;
    write(middle.join("dir/a"), 2000)?;
    write(middle.join("opaque/y"), 9)?;
    mark(&middle.join("opaque"), "opaque", b"y")?;
    write(top.join("both"), 400)?;
    whiteout(&top.join("dir"))?;
    whiteout(&top.join("nothing"))?;
    whiteout(&top.join("link1"))?;
    write(top.join("turns/new"), 1)?;
    whiteout(&top.join("moves"))?;
    fs::create_dir(top.join("moved"))?;
    mark(&top.join("moved"), "redirect", b"moves")?;
    let stack = Stack::open(Some(&top), &[middle, bottom], Dialect::Trusted)?;
    let survey = Survey::of(stack.merged())?;
    let expected = [
        ("both", "0 File 400 +, 1 File 300 Object 0 at both, 2 File 100 Object 1 at both"),
        ("dir", "0 W 0 +, 1 Dir 0 Whiteout 0 at dir, 2 Dir 0 Whiteout 0 at dir"),
        ("dir/a", "1 File 2000 Whiteout 0 at dir, 2 File 1000 Object 1 at dir/a"),
        ("dir/deep", "2 Dir 0 Whiteout 0 at dir"),
        ("dir/deep/b", "2 File 200 Whiteout 0 at dir"),
        ("link1", "0 W 0 +, 2 File 13 ~"),
        ("link2", "2 File 0 +"),
        ("moved", "0 Dir 0 +, 2 Dir 0 &"),
        ("moved/m", "2 File 11 +"),
        ("moves", "0 W 0 +, 2 Dir 0 ~"),
        ("moves/m", "2 File 11 ~"),
        ("nothing", "0 W 0 +"),
        ("opaque", "1 Dir 0 +, 2 Dir 0 Opaque 1 at opaque"),
        ("opaque/x", "2 File 7 Opaque 1 at opaque"),
        ("opaque/y", "1 File 9 +"),
        ("symlink", "2 Symlink 0 +"),
        ("turns", "0 Dir 0 +, 2 File 50 Object 0 at turns"),
        ("turns/new", "0 File 1 +"),
    ];
    let expected = expected.map(|(path, line)| (path.to_owned(), line.to_owned())).into_iter().collect();
    ensure!(lines(&survey) == expected, "{:#?}", lines(&survey));
    let totals = [
        Totals {
            // What it moves it neither adds nor changes.
            objects: 4,
            bytes: 401,
            added: 1,
            changed: 2,
            deleted: 3,
            hides_objects: 7,
            hides_bytes: 2550,
            wasted_bytes: 0,
        },
        Totals {
            objects: 5,
            bytes: 2309,
            added: 1,
            changed: 3,
            deleted: 0,
            hides_objects: 4,
            hides_bytes: 1107,
            wasted_bytes: 2300,
        },
        Totals { objects: 13, bytes: 1381, added: 13, wasted_bytes: 1357, ..Totals::default() },
    ];
    ensure!(survey.layers == totals, "{:#?}", survey.layers);
    let waste: Vec<(Vec<u8>, u64, u64, Vec<usize>)> = survey
        .waste()
        .into_iter()
        .map(|waste| (survey.path(waste.at), waste.objects, waste.bytes, waste.layers))
        .collect();
    let expected = [
        (b"dir".to_vec(), 5, 2200, vec![1, 2]),
        (b"dir/a".to_vec(), 1, 1000, vec![2]),
        (b"both".to_vec(), 2, 400, vec![1, 2]),
        (b"turns".to_vec(), 1, 50, vec![2]),
        (b"opaque".to_vec(), 2, 7, vec![2]),
    ];
    ensure!(waste == expected, "{waste:?}");
    // Of both 100 of 800; of dir/a 1000 of 3000; of link1 0 of 13; whiteouts of directories 2200 and 11; all else once.
    let efficiency = survey.efficiency();
    let once = 200 + 50 + 1 + 7 + 9 + 11 + 2200 + 11;
    ensure!(efficiency.minimal == 100 + 1000 + once, "{efficiency:?}");
    ensure!(efficiency.discovered == 800 + 3000 + 13 + once, "{efficiency:?}");
    Ok(())
}

#[test]
fn what_is_not_wasted_is_what_is_shown() -> Result<()> {
    if !have("survey random", &[Need::Root, Need::KernelOverlay])? {
        return Ok(());
    }
    for (options, seed) in [("", 1), ("redirect_dir=on", 2), ("redirect_dir=on,metacopy=on", 3)] {
        let mut random = fastrand::Rng::with_seed(seed);
        let scratch = Scratch::new("stack-survey")?;
        let base = scratch.dir("base")?;
        plant(&base, &mut random)?;
        let mut lowers = vec![base.clone()];
        for round in 0..5 {
            let dir = |what: &str| scratch.dir(&format!("{what}{round}"));
            let (upper, work, merged) = (dir("upper")?, dir("work")?, dir("merged")?);
            let mount = Driver::Kernel.mount(&Mount::writable(&lowers, &upper, &work), &merged, options)?;
            for _ in 0..40 {
                edit(&merged, &mut random)?;
            }
            mount.unmount()?;
            let stack = Stack::open(Some(&upper), &lowers, Dialect::Trusted)?;
            let survey = Survey::of(stack.merged())?;
            let mut shown = BTreeMap::new();
            let mut paths = Vec::new();
            let view = stack.merged();
            view.visit(b"", &view.root()?, &mut |path, node| {
                paths.push(path.to_vec());
                if let Some((layer, object)) = node.data() {
                    shown.insert((layer, object.id()), object.stat.size);
                }
                Ok(())
            })?;
            let what = format!("{options} round {round}");
            ensure!(
                survey.bytes() - survey.wasted_bytes() == shown.values().sum::<u64>(),
                "{what}: {survey:?}"
            );
            let mut found: Vec<Vec<u8>> = (1..survey.entries.len())
                .filter(|entry| survey.entries[*entry].shown().is_some())
                .map(|entry| survey.path(entry))
                .collect();
            paths.sort();
            found.sort();
            ensure!(found == paths, "{what}: {found:?}");
            let hidden: u64 = survey.layers.iter().map(|layer| layer.hides_bytes).sum();
            ensure!(hidden == survey.wasted_bytes(), "{what}");
            let wasted: u64 = survey.waste().iter().map(|waste| waste.bytes).sum();
            ensure!(wasted == hidden, "{what}");
            // Between two trees the new one is shown, too.
            let old = Stack::open(None, &lowers, Dialect::Trusted)?;
            let two = Survey::of_two(old.merged(), stack.merged())?;
            let mut found: Vec<Vec<u8>> = (1..two.entries.len())
                .filter(|entry| two.entries[*entry].shown().is_some())
                .map(|entry| two.path(entry))
                .collect();
            found.sort();
            ensure!(found == paths, "{what}: two: {found:?}");
            let kinds = |survey: &Survey| {
                let entries = (1..survey.entries.len()).filter_map(|entry| {
                    let kind = survey.entries[entry].shown()?.kind?;
                    Some((survey.path(entry), kind == Kind::Dir))
                });
                entries.collect::<BTreeMap<_, _>>()
            };
            ensure!(kinds(&two) == kinds(&survey), "{what}: types");
            lowers.insert(0, upper);
        }
    }
    Ok(())
}
