//! Flattening, compacting, merging and rebasing, for random trees; kernel mounts say what the layers show.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use acetate_layer::mark::Dialect;
use acetate_stack::Stack;
use acetate_stack::change::rebase::{self, Side};
use acetate_stack::change::{Act, Found, Site, compact, flatten, merge};
use acetate_testkit::driver::{Driver, Stack as Mount};
use acetate_testkit::edits::{edit, plant};
use acetate_testkit::need::{Need, have};
use acetate_testkit::real::fingerprint::{Entry, Fingerprint};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};

use crate::diff::copy;

/// Layers of one overlay, made by a kernel mount.
struct Made {
    scratch: Scratch,
    lowers: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
    options: &'static str,
    dialect: Dialect,
}

impl Made {
    /// `layers` layers, each made by edits through a mount of those below.
    fn new(seed: u64, layers: usize, edits: usize, options: &'static str, dialect: Dialect) -> Result<Made> {
        let mut random = fastrand::Rng::with_seed(seed);
        let scratch = Scratch::new("stack-change")?;
        let base = scratch.dir("base")?;
        plant(&base, &mut random)?;
        let mut lowers = vec![base];
        for number in 0..layers {
            let (upper, work) =
                (scratch.dir(&format!("layer{number}"))?, scratch.dir(&format!("work{number}"))?);
            let merged = scratch.path().join("merged");
            fs::create_dir_all(&merged)?;
            let mount = Driver::Kernel.mount(&Mount::writable(&lowers, &upper, &work), &merged, options)?;
            for _ in 0..edits {
                edit(&merged, &mut random)?;
            }
            stir(&merged, &mut random)?;
            mount.unmount()?;
            lowers.insert(0, upper);
        }
        let upper = lowers.remove(0);
        let work = scratch.path().join(format!("work{}", layers - 1));
        Ok(Made { scratch, lowers, upper, work, options, dialect })
    }

    /// A directory, made if it is not there.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The layers again with a copy of the upper one.
    fn with_copy(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        let (upper, work) = (self.path(name), self.dir(&format!("{name}-work"))?);
        copy(&self.upper, &upper)?;
        Ok((upper, work))
    }

    /// What a kernel mount shows of layers; one with an upper layer writes its own marks only.
    fn shows(&self, upper: Option<(&Path, &Path)>, lowers: &[PathBuf], options: &str) -> Result<Fingerprint> {
        let merged = self.dir("merged")?;
        let stack = match upper {
            Some((upper, work)) => Mount::writable(lowers, upper, work),
            None => Mount::read_only(lowers),
        };
        let mount = Driver::Kernel.mount(&stack, &merged, options)?;
        let found = Fingerprint::take(&merged);
        mount.unmount()?;
        let mut found = found?.portable();
        for entry in found.entries.values_mut() {
            entry.links = 0;
        }
        Ok(found)
    }

    fn stack(&self, upper: &Path, lowers: &[PathBuf]) -> Result<Stack> {
        Ok(Stack::open(Some(upper), lowers, self.dialect)?)
    }
}

/// Renames directories and changes modes, which redirects and metacopy are made for.
fn stir(merged: &Path, random: &mut fastrand::Rng) -> Result<()> {
    for (number, entry) in fs::read_dir(merged)?.collect::<std::io::Result<Vec<_>>>()?.into_iter().enumerate()
    {
        let kind = entry.file_type()?;
        if kind.is_dir() && random.bool() {
            // Without redirect_dir a merged one stays.
            let _may_be_refused = fs::rename(entry.path(), merged.join(format!("moved-{number}")));
        } else if kind.is_file() && random.bool() {
            fs::set_permissions(entry.path(), std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
        }
    }
    Ok(())
}

const FORMS: [(&str, Dialect); 4] = [
    ("", Dialect::Trusted),
    ("redirect_dir=on", Dialect::Trusted),
    ("redirect_dir=on,metacopy=on", Dialect::Trusted),
    ("userxattr", Dialect::User),
];

fn can(what: &str) -> Result<bool> {
    have(what, &[Need::Root, Need::KernelOverlay])
}

/// How many seeds each form is tried with; `CHANGE_SEEDS` makes it more.
fn seeds() -> u64 {
    std::env::var("CHANGE_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(5)
}

/// Calls `each` for every form and seed, with one and two layers below.
fn for_all(each: impl Fn(&Made, &str) -> Result<()>) -> Result<()> {
    for (options, dialect) in FORMS {
        for seed in 0..seeds() {
            let layers = 1 + seed as usize % 2;
            let what = format!("seed {seed}, {layers} layers, {options}");
            let made = Made::new(seed, layers, 25, options, dialect)?;
            each(&made, &what).with_context(|| what.clone())?;
        }
    }
    Ok(())
}

/// The objects of a layer that have a mark of this name.
fn marked(root: &Path, name: &str) -> Result<usize> {
    let found = Fingerprint::take(root)?;
    Ok(found.entries.values().filter(|entry| entry.xattrs.contains_key(name.as_bytes())).count())
}

fn flattened(made: &Made, upper: &Path, work: &Path) -> Result<usize> {
    let stack = made.stack(upper, &made.lowers)?;
    let (site, found) = Site::open(upper, work, made.dialect)?;
    ensure!(found == Found::Nothing);
    let steps = flatten::plan(&stack)?;
    site.run(&stack, &steps)?;
    ensure!(flatten::plan(&made.stack(upper, &made.lowers)?)?.is_empty(), "nothing is left to be done");
    Ok(steps.len())
}

#[test]
fn a_flattened_layer_shows_the_same_to_any_mount() -> Result<()> {
    if !can("flatten")? {
        return Ok(());
    }
    let total = std::cell::Cell::new(0);
    for_all(|made, what| {
        let before = made.shows(Some((&made.upper, &made.work)), &made.lowers, made.options)?;
        let (upper, work) = made.with_copy("flat")?;
        total.set(total.get() + flattened(made, &upper, &work)?);
        for name in ["trusted.overlay.redirect", "trusted.overlay.metacopy"] {
            ensure!(marked(&upper, name)? == 0, "{name} is left");
        }
        let after = made.shows(Some((&upper, &work)), &made.lowers, made.options)?;
        before.expect(&after, what)?;
        if made.lowers.len() == 1 && made.dialect == Dialect::Trusted {
            let options = "redirect_dir=nofollow,metacopy=off";
            before.expect(&made.shows(Some((&upper, &work)), &made.lowers, options)?, options)?;
        }
        Ok(())
    })?;
    ensure!(total.get() > 10, "{} steps in all", total.get());
    Ok(())
}

#[test]
fn a_compacted_layer_shows_the_same() -> Result<()> {
    if !can("compact")? {
        return Ok(());
    }
    let total = std::cell::Cell::new(0);
    for_all(|made, what| {
        let (upper, work) = made.with_copy("small")?;
        let before = made.shows(Some((&upper, &work)), &made.lowers, made.options)?;
        let (site, _) = Site::open(&upper, &work, made.dialect)?;
        let stack = made.stack(&upper, &made.lowers)?;
        let steps = compact::plan(&stack, compact::Times::Count)?;
        site.run(&stack, &steps)?;
        total.set(total.get() + steps.len());
        let again = compact::plan(&made.stack(&upper, &made.lowers)?, compact::Times::Count)?;
        ensure!(again.is_empty(), "{what}: left {again:?}");
        before.expect(&made.shows(Some((&upper, &work)), &made.lowers, made.options)?, what)
    })?;
    ensure!(total.get() > 10, "{} steps in all", total.get());
    Ok(())
}

#[test]
fn what_is_needless_goes_and_what_is_not_stays() -> Result<()> {
    if !can("compact, one by one")? {
        return Ok(());
    }
    let made = Made::new(0, 1, 0, "", Dialect::Trusted)?;
    let lower = made.dir("small-lower")?;
    for dir in ["d/in", "e"] {
        fs::create_dir_all(lower.join(dir))?;
    }
    for name in ["d/in/f", "same", "other", "d/kept", "gone"] {
        fs::write(lower.join(name), name)?;
    }
    let lowers = vec![lower];
    let merged = made.dir("merged")?;
    let mount = Driver::Kernel.mount(&Mount::writable(&lowers, &made.upper, &made.work), &merged, "")?;
    for name in ["d/in/f", "same", "d/kept"] {
        // Opened for writing, so copied; nothing is written.
        drop(fs::File::options().append(true).open(merged.join(name))?);
    }
    fs::write(merged.join("other"), "OTHER")?;
    fs::write(merged.join("d/kept"), "d/kept")?;
    fs::remove_file(merged.join("gone"))?;
    fs::remove_dir(merged.join("e"))?;
    fs::create_dir(merged.join("e"))?;
    mount.unmount()?;
    for name in ["none", "d/in/none"] {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            made.upper.join(name),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        )?;
    }
    fs::create_dir(made.upper.join("fresh"))?;
    let opaque = |name: &str| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(made.upper.join(name), "trusted.overlay.opaque", b"y", flags)
    };
    opaque("fresh")?;
    let acts = |times| -> Result<Vec<String>> {
        let stack = made.stack(&made.upper, &lowers)?;
        let name = |act: &Act| format!("{act:?}").split(' ').next().unwrap_or_default().to_owned();
        let steps = compact::plan(&stack, times)?;
        Ok(steps.iter().map(|step| format!("{} {}", name(&step.act), step.path.escape_ascii())).collect())
    };
    // The times of directories in which something was written are not those below.
    let strict = ["Remove d/in/f", "Unhide d/in/none", "Unmark(Opaque) fresh", "Unhide none", "Remove same"];
    ensure!(acts(compact::Times::Count)? == strict, "{:?}", acts(compact::Times::Count)?);
    let loose = [
        "Remove d/in/f",
        "Unhide d/in/none",
        "Remove d/in",
        "Remove d/kept",
        "Remove d",
        "Unmark(Opaque) fresh",
        "Unhide none",
        "Remove same",
    ];
    ensure!(acts(compact::Times::Ignored)? == loose, "{:?}", acts(compact::Times::Ignored)?);
    Ok(())
}

#[test]
fn a_merged_lower_layer_shows_what_both_did() -> Result<()> {
    if !can("merge")? {
        return Ok(());
    }
    for_all(|made, what| {
        let before = made.shows(Some((&made.upper, &made.work)), &made.lowers, made.options)?;
        // Into a copy of the lower layer: upper stays as it is.
        let old = Fingerprint::take(&made.upper)?;
        let target = made.path("target");
        copy(&made.lowers[0], &target)?;
        let stack = made.stack(&made.upper, &made.lowers)?;
        let lower = merge::Lower::open(&target, &stack)?;
        lower.run(&stack, &merge::plan(&stack)?, None)?;
        lower.close()?;
        old.expect(&Fingerprint::take(&made.upper)?, "upper stays")?;
        let mut lowers = made.lowers.clone();
        lowers[0] = target;
        before.expect(&shown_below(made, &lowers)?, "merged into a copy")?;
        // Into the lower layer itself.
        let (upper, work) = made.with_copy("given")?;
        flattened(made, &upper, &work)?;
        let target = made.path("target2");
        copy(&made.lowers[0], &target)?;
        lowers[0] = target.clone();
        let stack = made.stack(&upper, &lowers)?;
        let (site, _) = Site::open(&upper, &work, made.dialect)?;
        let lower = merge::Lower::open(&target, &stack)?;
        lower.run(&stack, &merge::plan(&stack)?, Some(&site))?;
        lower.close()?;
        let between = made.shows(Some((&upper, &work)), &lowers, made.options)?;
        before.expect(&between, "before upper is emptied")?;
        let (site, _) = Site::open(&upper, &work, made.dialect)?;
        let stack = made.stack(&upper, &lowers)?;
        site.run(&stack, &merge::clearing(&stack)?)?;
        ensure!(fs::read_dir(&upper)?.count() == 0, "{what}: upper is empty");
        before.expect(&shown_below(made, &lowers)?, "merged")?;
        before.expect(
            &made.shows(Some((&upper, &work)), &lowers, made.options)?,
            "merged, with the empty upper",
        )
    })
}

/// What lower layers show; below one layer a kernel mount needs an empty one.
fn shown_below(made: &Made, lowers: &[PathBuf]) -> Result<Fingerprint> {
    let empty = made.dir("empty")?;
    let mut all = lowers.to_vec();
    if all.len() == 1 {
        all.push(empty);
    }
    made.shows(None, &all, made.options)
}

/// What of an entry is compared: mode, owner, attributes and content, but no times.
type Facts = (u32, (u32, u32), BTreeMap<Vec<u8>, Vec<u8>>, String);

fn facts(entry: &Entry) -> Facts {
    let content = format!("{:?}", entry.content);
    (entry.mode, entry.owner, entry.xattrs.clone(), content)
}

/// One path of three trees put together, `None` if that is a conflict.
fn together(base: Option<&Entry>, mine: Option<&Entry>, theirs: Option<&Entry>) -> Option<Option<Entry>> {
    let [b, m, t] = [base, mine, theirs].map(|entry| entry.map(facts));
    if m == b || m == t {
        return Some(theirs.cloned());
    }
    if t == b {
        return Some(mine.cloned());
    }
    // Changed in different respects.
    let (base, mine, theirs) = (base?, mine?, theirs?);
    let (b, m, t) = (b?, m?, t?);
    let kind = |entry: &Entry| entry.mode & 0o170_000;
    if kind(base) != kind(mine) || kind(base) != kind(theirs) {
        return None;
    }
    let meta = |facts: &Facts| (facts.0, facts.1, facts.2.clone());
    match (m.3 == b.3, t.3 == b.3, meta(&m) == meta(&b), meta(&t) == meta(&b)) {
        // Ours the attributes, theirs the data.
        (true, _, _, true) => Some(Some(Entry { content: theirs.content.clone(), ..mine.clone() })),
        (_, true, true, _) => Some(Some(Entry { content: mine.content.clone(), ..theirs.clone() })),
        _ => None,
    }
}

#[test]
fn a_rebased_layer_makes_the_same_changes() -> Result<()> {
    if !can("rebase")? {
        return Ok(());
    }
    let (mut clean, mut conflicts) = (0, 0);
    for (options, dialect) in FORMS {
        for seed in 0..seeds() * 2 {
            let what = format!("seed {seed}, {options}");
            let edits = if seed % 2 == 0 { 4 } else { 20 };
            let made = Made::new(1000 + seed, 1, edits, options, dialect)?;
            // Another history of the same base.
            let mut random = fastrand::Rng::with_seed(seed);
            let onto = made.path("onto");
            copy(&made.lowers[0], &onto)?;
            for _ in 0..edits {
                edit(&onto, &mut random)?;
            }
            let onto = vec![onto];
            let trees = [
                shown_below(&made, &made.lowers)?,
                made.shows(Some((&made.upper, &made.work)), &made.lowers, options)?,
                shown_below(&made, &onto)?,
            ];
            let old = made.stack(&made.upper, &made.lowers)?;
            let new = Stack::open(None, &onto, dialect)?;
            let plan = rebase::plan(&old, &new, None)?;
            let plain = plan.conflicts.is_empty();
            let plan = if plain { plan } else { rebase::plan(&old, &new, Some(Side::Upper))? };
            let (site, _) = Site::open(&made.upper, &made.work, dialect)?;
            site.rebase(&old, &new, &plan, &made.work).with_context(|| what.clone())?;
            let after = made.shows(Some((&made.upper, &made.work)), &onto, options)?;
            // A path that has a conflict, or lies below or above one, is decided.
            let decided = |path: &Path| {
                use std::os::unix::ffi::OsStrExt;
                plan.conflicts.iter().any(|conflict| {
                    let at = Path::new(std::ffi::OsStr::from_bytes(&conflict.path));
                    path.starts_with(at) || at.starts_with(path)
                })
            };
            let paths: std::collections::BTreeSet<&PathBuf> =
                trees.iter().chain([&after]).flat_map(|tree| tree.entries.keys()).collect();
            for path in paths.into_iter().filter(|path| !decided(path)) {
                let [base, mine, theirs] = [0, 1, 2].map(|tree: usize| trees[tree].entries.get(path));
                let expected = together(base, mine, theirs);
                ensure!(
                    expected.is_some() || below_conflict(path, &plan),
                    "{what}: {}: no conflict was reported\nbase {base:?}\nmine {mine:?}\ntheirs {theirs:?}",
                    path.display()
                );
                let expected = expected.flatten().as_ref().map(facts);
                let got = after.entries.get(path).map(facts);
                ensure!(
                    got == expected || below_conflict(path, &plan),
                    "{what}: {}\nshould be {expected:?}\nis {got:?}\nmine {mine:?}",
                    path.display()
                );
            }
            clean += usize::from(plain);
            conflicts += plan.conflicts.len();
        }
    }
    ensure!(clean > 4 && conflicts > 10, "{clean} without conflicts, {conflicts} conflicts");
    Ok(())
}

/// Whether a path goes with one that was decided: what is deleted or replaced as a whole.
fn below_conflict(path: &Path, plan: &rebase::Plan) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let bytes = |path: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(path));
    plan.conflicts.iter().any(|conflict| {
        let at = bytes(&conflict.path);
        // The change that the conflict is about is at or above it.
        plan.becomes
            .keys()
            .map(|key| bytes(key))
            .any(|key| at.starts_with(&key) && path.starts_with(&key) && !key.as_os_str().is_empty())
    })
}
