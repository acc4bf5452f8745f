//! Runs one script on both sides and reports the first thing in which they differ.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::attrs::Fields;
use super::compare::{self, Difference};
use super::dump::{LowerInodes, Tree, View, dump, lower_inodes};
use super::exec::Outcome;
use super::generate::{join, parent};
use super::op::Op;
use super::script::{Body, Layer, Script, Step};
use super::setup::Side;
use super::taken::{Taken, changed_slot};
use super::text::escape;
use super::worker::{Reentry, Worker};
use crate::driver::{Driver, MountError, Mounted};

/// Changes side A's upper directory behind the back of both drivers, to prove that it is noticed.
pub type Tamper = fn(&Path) -> Result<()>;

/// What runs scripts: two drivers, a place for layers, and the processes that make the calls.
#[derive(Debug)]
pub struct Rig {
    /// Directory in which the layers of each case are made; both sides on one filesystem.
    pub place: PathBuf,
    /// The drivers of sides A and B.
    pub drivers: [Driver; 2],
    /// Mount options for one side only, added to those of the script.
    pub extra: [String; 2],
    /// How to start worker processes.
    pub reentry: Reentry,
    /// A step that takes longer is a failure.
    pub patience: Duration,
    /// Acetate cannot open file handles. What the kernel has copied up then keeps the number of its copy.
    pub closed_handles: bool,
    /// Prints every step with its result on side B.
    pub trace: bool,
    /// Leaves the layers of each case in place.
    pub keep: bool,
    /// See [`Tamper`]; none but in tests of this oracle.
    pub tamper: Option<Tamper>,
    workers: BTreeMap<(usize, u32), Worker>,
    cases: u64,
}

impl Rig {
    /// Returns a rig without options for one side only.
    pub fn new(place: &Path, drivers: [Driver; 2], reentry: Reentry) -> Self {
        Self {
            place: place.to_path_buf(),
            drivers,
            extra: [String::new(), String::new()],
            reentry,
            patience: Duration::from_secs(20),
            closed_handles: false,
            trace: false,
            keep: false,
            tamper: None,
            workers: BTreeMap::new(),
            cases: 0,
        }
    }

    /// Runs `script`; returns how the sides differ, nothing if they agree.
    ///
    /// # Errors
    /// The layers cannot be made as the script says, or the machine refuses something the test
    /// itself needs.
    pub fn run(&mut self, script: &Script) -> Result<Vec<Difference>> {
        self.cases += 1;
        let base = self.place.join(format!("case-{}", self.cases));
        let result = Case::new(self, script, &base).and_then(|mut case| {
            let result = case.run();
            // Also after an error: nothing may stay mounted.
            let cleared = case.clear();
            result.and_then(|found| cleared.map(|()| found))
        });
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&base)
        {
            return Err(error).with_context(|| format!("cannot remove {}", base.display()));
        }
        result
    }

    fn worker(&mut self, side: usize, uid: u32) -> Result<&mut Worker> {
        match self.workers.entry((side, uid)) {
            std::collections::btree_map::Entry::Occupied(found) => Ok(found.into_mut()),
            std::collections::btree_map::Entry::Vacant(free) => {
                Ok(free.insert(Worker::start(&self.reentry, uid)?))
            }
        }
    }

    /// Makes every worker close its descriptors and start below `root` of its side from now on.
    fn point_workers(&mut self, roots: [&Path; 2]) -> Result<()> {
        for ((side, _), worker) in &mut self.workers {
            worker.set_root(roots[*side])?;
        }
        Ok(())
    }
}

/// How long a layer may be busy after its mount is gone.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// The two sides, as words of a report.
const NAMES: [&str; 2] = ["A", "B"];

struct Case<'a> {
    rig: &'a mut Rig,
    script: &'a Script,
    sides: [Side; 2],
    lowers: [LowerInodes; 2],
    /// What the lower layers looked like before the first mount.
    untouched: [Vec<Tree>; 2],
    mounts: [Option<Mounted>; 2],
    /// Each side is mounted by the driver of the other one.
    swapped: bool,
    /// Each side has been mounted by the driver of the other one.
    mixed: bool,
}

/// Why a case ends before its last phase.
enum Stop {
    /// The sides differ.
    Differ(Vec<Difference>),
    /// They cannot be compared any more, and nothing is wrong.
    Over,
    /// The test itself failed.
    Error(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

type Phase<T> = Result<T, Stop>;

/// Ends the case if anything was found.
fn none_of(found: Vec<Difference>) -> Phase<()> {
    if found.is_empty() { Ok(()) } else { Err(Stop::Differ(found)) }
}

impl<'a> Case<'a> {
    fn new(rig: &'a mut Rig, script: &'a Script, base: &Path) -> Result<Self> {
        let sides = [Side::build(&base.join("a"), script)?, Side::build(&base.join("b"), script)?];
        let lowers = [lower_inodes(&sides[0])?, lower_inodes(&sides[1])?];
        let untouched = [lower_trees(&sides[0])?, lower_trees(&sides[1])?];
        Ok(Self { rig, script, sides, lowers, untouched, mounts: [None, None], swapped: false, mixed: false })
    }

    fn run(&mut self) -> Result<Vec<Difference>> {
        match self.phases() {
            Ok(()) | Err(Stop::Over) => Ok(Vec::new()),
            Err(Stop::Differ(found)) => Ok(found),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    /// The phases of a case, in order; the first that finds a difference is the last.
    fn phases(&mut self) -> Phase<()> {
        self.rig.point_workers([&self.sides[0].merged, &self.sides[1].merged])?;
        let own = self.rig.drivers.clone();
        if !self.mount("mount", [&own[0], &own[1]])? {
            return Ok(());
        }
        self.steps()?;
        let after = self.check("tree at the end")?;
        self.unmount()?;
        self.layers()?;
        self.swapped = false;
        if !self.mount("remount", [&own[0], &own[1]])? {
            return Ok(());
        }
        let again = self.check("tree after a remount")?;
        self.compare_numbers([&after[0], &again[0]], [&after[1], &again[1]])?;
        self.unmount()?;
        if own[0].name() != own[1].name() {
            // Each driver on the other's upper directory: what they leave on disk means the same.
            self.mixed = true;
            if !self.mount("mount of the other's upper", [&own[1], &own[0]])? {
                return Ok(());
            }
            self.check("tree of the other's upper")?;
            self.unmount()?;
        }
        self.lowers_are_untouched()
    }

    fn steps(&mut self) -> Phase<()> {
        for (index, step) in self.script.steps.iter().enumerate() {
            let place = format!("step {}: {step}", index + 1);
            match step {
                Step::Run { uid, umask, op } => {
                    let taken = self.taken(*uid, op)?;
                    let a = self.call(0, *uid, *umask, op)?;
                    let b = self.call(1, *uid, *umask, op)?;
                    if let Some(taken) = taken {
                        self.over_if_lost(&place, &taken, [&a, &b])?;
                    }
                    if self.rig.trace {
                        println!("{place} -> {b}");
                    }
                    // What is accepted is accepted of the first driver.
                    let (a, b) = if self.swapped { (b, a) } else { (a, b) };
                    if !self.led_twice().is_empty() && is_stale(&a) != is_stale(&b) {
                        return Err(Stop::Over);
                    }
                    let options = &self.script.options;
                    none_of(compare::step(&place, options, op, &a, &b).into_iter().collect())?;
                }
                Step::Check => {
                    self.check(&format!("tree at step {}", index + 1))?;
                }
                Step::Remount | Step::Handover => {
                    self.mixed |= *step == Step::Handover;
                    let before = self.check(&format!("tree at step {}", index + 1))?;
                    self.unmount()?;
                    self.swapped ^= *step == Step::Handover;
                    let mut drivers = self.rig.drivers.clone();
                    if self.swapped {
                        drivers.reverse();
                    }
                    if !self.mount("remount", [&drivers[0], &drivers[1]])? {
                        return Ok(());
                    }
                    let again = self.check(&format!("tree after the remount of step {}", index + 1))?;
                    if *step == Step::Handover {
                        // Whoever mounts it: the same tree as before.
                        for side in 0..2 {
                            let phase = format!("side {} before and after step {}", NAMES[side], index + 1);
                            let same = before[side].entries == again[side].entries;
                            if !same && !self.led_twice().is_empty() {
                                // They may have been renamed since.
                                return Err(Stop::Over);
                            }
                            none_of(compare::trees("handed over", &phase, &before[side], &again[side]))?;
                        }
                    }
                    self.compare_numbers([&before[0], &again[0]], [&before[1], &again[1]])?;
                }
            }
        }
        Ok(())
    }

    /// Which side the kernel has mounted, if one alone.
    fn kernel_side(&self) -> Option<usize> {
        let kernels = self.rig.drivers.each_ref().map(|driver| matches!(driver, Driver::Kernel));
        let driver = match kernels {
            [true, false] => 0,
            [false, true] => 1,
            _ => return None,
        };
        Some(if self.swapped { 1 - driver } else { driver })
    }

    fn uppers(&self) -> [&Path; 2] {
        [&self.sides[0].upper, &self.sides[1].upper]
    }

    /// What has the name of the open object that `op` is to change, if the object has lost it.
    fn taken(&mut self, uid: u32, op: &Op) -> Result<Option<Taken>> {
        let (Some(slot), Some(side)) = (changed_slot(op), self.kernel_side()) else { return Ok(None) };
        // Who has made no call yet has nothing open.
        let Some(worker) = self.rig.workers.get_mut(&(side, uid)) else { return Ok(None) };
        Taken::look(&worker.whereabouts(slot)?, &self.sides[side].merged, self.uppers())
    }

    /// Ends the case if the kernel has lost what has taken a name: nothing that follows is the same on both sides.
    /// Acetate has to have refused the call, and to have kept it.
    fn over_if_lost(&self, place: &str, taken: &Taken, outcomes: [&Outcome; 2]) -> Phase<()> {
        let Some(side) = self.kernel_side() else { return Ok(()) };
        if !taken.is_lost(side, self.uppers())? {
            return Ok(());
        }
        let wrong = taken.wrong(1 - side, self.uppers(), outcomes[1 - side])?;
        Err(wrong.map_or(Stop::Over, |a| {
            let (kind, b) = ("what has taken a name".to_owned(), "lost it".to_owned());
            Stop::Differ(vec![Difference { kind, place: place.to_owned(), a, b }])
        }))
    }

    /// Compares which inode numbers a remount has changed, where they can be the same.
    fn compare_numbers(&self, a: [&Tree; 2], b: [&Tree; 2]) -> Phase<()> {
        if self.forgets_numbers() { Ok(()) } else { none_of(compare::remounted(a, b)) }
    }

    /// Whether Acetate shows what the kernel has copied up and cannot find its lower objects.
    fn forgets_numbers(&self) -> bool {
        self.rig.closed_handles && self.mixed
    }

    /// Makes one call on one side; inode numbers of the result become comparable ones.
    fn call(&mut self, side: usize, uid: u32, umask: u32, op: &Op) -> Phase<Outcome> {
        let known = self.rig.workers.contains_key(&(side, uid));
        let merged = self.sides[side].merged.clone();
        let patience = self.rig.patience;
        let worker = self.rig.worker(side, uid)?;
        if !known {
            worker.set_root(&merged)?;
        }
        let outcome = match worker.call(umask, op, patience) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.rig.workers.remove(&(side, uid));
                return Err(error.context(format!("side {}", NAMES[side])).into());
            }
        };
        if outcome == Outcome::Failed("HANG".to_owned()) {
            // An aborted FUSE connection lets the caller go, so that its process can be ended.
            if let Err(error) = unmount(&merged, UnmountFlags::FORCE) {
                eprintln!("note: abort of {}: {error}", merged.display());
            }
            self.rig.workers.remove(&(side, uid));
        }
        Ok(match outcome {
            Outcome::Done(fields) => Outcome::Done(self.comparable(side, fields)),
            failed => failed,
        })
    }

    fn comparable(&self, side: usize, fields: Fields) -> Fields {
        let replace = |(key, value): (String, String)| match key.as_str() {
            "ino" if self.forgets_numbers() => None,
            "ino" => {
                let label = value.parse().ok().and_then(|ino: u64| self.lowers[side].get(&ino));
                Some((key, label.cloned().unwrap_or_else(|| "upper".to_owned())))
            }
            "dev" => None,
            "atime" if self.hands_over() => None,
            _ => Some((key, value)),
        };
        fields.into_iter().filter_map(replace).collect()
    }

    /// Mounts both sides; false if both refuse, a difference if one does.
    fn mount(&mut self, phase: &str, drivers: [&Driver; 2]) -> Phase<bool> {
        let mut failures = [None, None];
        for side in 0..2 {
            let options = [self.script.options.as_str(), self.rig.extra[side].as_str()];
            let options: Vec<&str> = options.into_iter().filter(|text| !text.is_empty()).collect();
            let here = &self.sides[side];
            match mount_patiently(drivers[side], here, &options.join(",")) {
                Ok(mounted) => self.mounts[side] = Some(mounted),
                Err(error) => failures[side] = Some(format!("{:#}", anyhow!(error))),
            }
        }
        if failures[0].is_some() == failures[1].is_some() {
            return Ok(failures[0].is_none());
        }
        let [a, b] = failures.map(|failure| failure.unwrap_or_else(|| "mounted".to_owned()));
        Err(Stop::Differ(vec![Difference { kind: format!("{phase} failed"), place: phase.to_owned(), a, b }]))
    }

    fn unmount(&mut self) -> Phase<()> {
        let roots = [self.sides[0].merged.clone(), self.sides[1].merged.clone()];
        self.rig.point_workers([&roots[0], &roots[1]])?;
        for (side, name) in NAMES.iter().enumerate() {
            let Some(mounted) = self.mounts[side].take() else { continue };
            if let Err(error) = mounted.unmount() {
                let text = escape(format!("{error:#}").as_bytes());
                let (a, b) = if side == 0 { (text, String::new()) } else { (String::new(), text) };
                let place = format!("unmount of {name}");
                return Err(Stop::Differ(vec![Difference {
                    kind: "unmount failed".to_owned(),
                    place,
                    a,
                    b,
                }]));
            }
        }
        if let Some(tamper) = self.rig.tamper {
            tamper(&self.sides[0].upper)?;
        }
        Ok(())
    }

    fn check(&mut self, phase: &str) -> Phase<[Tree; 2]> {
        let trees = [self.visible(0)?, self.visible(1)?];
        let (first, second) = if self.swapped { (1, 0) } else { (0, 1) };
        let differences =
            |trees: &[Tree; 2]| compare::trees(phase_word(phase), phase, &trees[first], &trees[second]);
        let found = differences(&trees);
        let mut led_twice = self.led_twice();
        // Who lists the directory that has such a name may meet the stale one.
        let stale = ("list".to_owned(), "ESTALE".to_owned());
        let parents: Vec<Vec<u8>> = led_twice.iter().map(|name| parent(name).to_vec()).collect();
        let fails = |dir: &Vec<u8>| {
            trees.iter().any(|tree| tree.entries.get(dir).is_some_and(|fields| fields.contains(&stale)))
        };
        led_twice.extend(parents.into_iter().filter(fails));
        if !found.is_empty() && !led_twice.is_empty() {
            let mut others = trees;
            for tree in &mut others {
                tree.entries.retain(|path, _| !led_twice.iter().any(|name| is_at_or_below(path, name)));
            }
            none_of(differences(&others))?;
            return Err(Stop::Over);
        }
        none_of(found)?;
        Ok(trees)
    }

    fn visible(&self, side: usize) -> Result<Tree> {
        let tree = dump(&self.sides[side].merged, View::Mount, &self.lowers[side])?;
        Ok(self.without_habits(tree))
    }

    /// Leaves out what depends on who has had the mount before: access times of what only one of the drivers has read
    /// through the page cache, and the numbers that a listing shows until its directory is marked impure.
    fn without_habits(&self, mut tree: Tree) -> Tree {
        if self.rig.closed_handles {
            // What Acetate records instead, and the kernel ignores; the mark that is kept where numbers are not known.
            for fields in tree.entries.values_mut() {
                let own = |key: &str| key.ends_with(".overlay.below") || key.ends_with(".overlay.impure");
                fields.retain(|(key, _)| !own(key));
            }
        }
        if self.forgets_numbers() {
            for fields in tree.entries.values_mut() {
                fields.retain(|(key, _)| !matches!(key.as_str(), "ino" | "d_ino"));
            }
        }
        if self.hands_over() {
            for fields in tree.entries.values_mut() {
                fields.retain(|(key, _)| key != "atime" && key != "d_ino");
            }
        }
        if self.counts_by_chance() || self.counts_the_index() {
            for fields in tree.entries.values_mut() {
                fields.retain(|(key, _)| key != "nlink" && !key.ends_with(".overlay.nlink"));
            }
        }
        if self.counts_the_index() {
            // What is not in the index makes its directory impure only for us (docs/semantics.md, difference 35).
            for fields in tree.entries.values_mut() {
                fields.retain(|(key, _)| !key.ends_with(".overlay.impure"));
            }
        }
        if self.may_link_others() {
            for fields in tree.entries.values_mut().filter(|fields| is_dir(fields)) {
                fields.retain(|(key, _)| key != "nlink");
            }
        }
        tree
    }

    /// Whether the kernel's link counts depend on what it remembers: it finds the lower file that names of a metadata-only
    /// copy share, and then counts names on one inode that it has taken away from another.
    fn counts_by_chance(&self) -> bool {
        let words = || self.script.options.split(',');
        let metacopy = words().any(|word| word == "metacopy=on") && !words().any(|word| word == "index=on");
        self.hands_over() && metacopy && self.has_links_below()
    }

    /// Whether the kernel counts the entry of the index as a name of a file that had one, once it has forgotten the file
    /// (docs/semantics.md).
    fn counts_the_index(&self) -> bool {
        self.script.options.split(',').any(|word| word == "nfs_export=on")
    }

    /// The names that lead to one lower directory, one of them by a redirect that the layers came with. Which of them is
    /// `ESTALE`, and what they list, then depends on which the kernel remembers (docs/semantics.md, difference 30).
    fn led_twice(&self) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        for entry in &self.script.entries {
            for (_, value) in entry.xattrs.iter().filter(|(name, _)| name.ends_with(b".overlay.redirect")) {
                let target = beside(&entry.path, value);
                let mut below = self.script.entries.iter().filter(|entry| entry.layer != Layer::Upper);
                if below.any(|entry| is_at_or_below(&entry.path, &target)) {
                    names.extend([entry.path.clone(), target]);
                }
            }
        }
        names
    }

    fn has_links_below(&self) -> bool {
        self.script.entries.iter().any(|entry| matches!(entry.body, Body::Link(_)))
    }

    /// Whether it may differ which names of a file get entries in upper, and so which directories are copied up: with an
    /// index a change through an open file or an inode does not say which name was meant (docs/semantics.md).
    fn may_link_others(&self) -> bool {
        let indexed = self.script.options.split(',').any(|word| matches!(word, "index=on" | "nfs_export=on"));
        indexed && self.has_links_below()
    }

    fn hands_over(&self) -> bool {
        self.script.steps.contains(&Step::Handover)
    }

    /// Compares what the sides left in their upper and work directories.
    fn layers(&mut self) -> Phase<()> {
        if self.may_link_others() {
            // What they mean is compared all the same, by both drivers.
            return Ok(());
        }
        let none = LowerInodes::new();
        let upper = |side: &Side| dump(&side.upper, View::Layer, &none).map(|tree| self.without_habits(tree));
        none_of(compare::trees(
            "upper",
            "upper directory",
            &upper(&self.sides[0])?,
            &upper(&self.sides[1])?,
        ))?;
        let counted = self.counts_the_index();
        let (a, b) = (left_in_work(&self.sides[0], counted)?, left_in_work(&self.sides[1], counted)?);
        if a != b {
            let place = "work directory".to_owned();
            return Err(Stop::Differ(vec![Difference { kind: place.clone(), place, a, b }]));
        }
        Ok(())
    }

    fn lowers_are_untouched(&mut self) -> Phase<()> {
        for (side, name) in NAMES.iter().enumerate() {
            for (before, after) in self.untouched[side].iter().zip(lower_trees(&self.sides[side])?) {
                let phase = format!("lower layer of {name} before (A) and after (B)");
                none_of(compare::trees("lower", &phase, before, &after))?;
            }
        }
        Ok(())
    }

    /// Unmounts what an early end left mounted.
    fn clear(&mut self) -> Result<()> {
        let nowhere = Path::new("/nonexistent");
        if let Err(error) = self.rig.point_workers([nowhere, nowhere]) {
            // A worker that does not answer is replaced by a new one.
            self.rig.workers.clear();
            eprintln!("note: {error:#}");
        }
        for mounted in &mut self.mounts {
            if let Some(mounted) = mounted.take()
                && let Err(error) = mounted.unmount()
            {
                eprintln!("note: {error:#}");
            }
        }
        Ok(())
    }
}

/// Mounts one side. Another process that has copied the mount table holds an unmounted kernel overlay for a moment, and
/// the kernel then takes its layers for used.
fn mount_patiently(driver: &Driver, side: &Side, options: &str) -> Result<Mounted, MountError> {
    let patience = Instant::now() + BUSY_LIMIT;
    loop {
        match driver.mount(&side.stack(), &side.merged, options) {
            Err(error) if error.errno() == Some(Errno::BUSY) && Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

fn is_stale(outcome: &Outcome) -> bool {
    *outcome == Outcome::Failed("ESTALE".to_owned())
}

/// Returns the path of another name in the directory that has `path`.
fn beside(path: &[u8], name: &[u8]) -> Vec<u8> {
    join(parent(path), name)
}

fn is_at_or_below(path: &[u8], name: &[u8]) -> bool {
    let rest = path.strip_prefix(name);
    rest.is_some_and(|rest| name.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
}

fn is_dir(fields: &Fields) -> bool {
    fields.iter().any(|(key, value)| key == "type" && value == "dir")
}

/// Leaves step numbers out, so that shrinking does not change the kind of a failure.
fn phase_word(phase: &str) -> &str {
    if phase.contains("remount") {
        "remounted tree"
    } else if phase.contains("other") {
        "the other's tree"
    } else {
        "tree"
    }
}

fn lower_trees(side: &Side) -> Result<Vec<Tree>> {
    side.lowers.iter().map(|lower| dump(lower, View::Layer, &LowerInodes::new())).collect()
}

/// Returns whether a path in the work directory is an entry of the index, whose name is a file handle.
fn index_entry(path: &[u8]) -> bool {
    let name = path.strip_prefix(b"index/").unwrap_or_default();
    name.len() >= 42 && name.iter().all(u8::is_ascii_hexdigit)
}

/// Returns what an entry of the index says besides its name. `counted`: one without another name may be left for the next
/// mount to remove, or be a whiteout already.
fn index_text(fields: &Fields, counted: bool) -> String {
    let is = |key: &str, value: &str| fields.iter().any(|(known, is)| known == key && is == value);
    if counted && (is("type", "whiteout") || is("nlink", "1") && !is_dir(fields)) {
        return "index:of none".to_owned();
    }
    let said = |key: &str| ["type", "nlink", "size"].contains(&key) || !counted && key.ends_with(".nlink");
    let said = fields.iter().filter(|(key, _)| said(key));
    let said: Vec<String> = said.map(|(key, value)| format!("{key}={value}")).collect();
    format!("index:{}", said.join(","))
}

/// Returns what lies in the staging directory besides whiteouts kept for sharing.
fn left_in_work(side: &Side, counted: bool) -> Result<String> {
    let tree = dump(&side.work, View::Layer, &LowerInodes::new())?;
    let shared = |fields: &Fields| fields.iter().any(|(key, value)| key == "type" && value == "whiteout");
    let left = tree
        .entries
        .iter()
        .filter(|(path, fields)| !path.is_empty() && (!shared(fields) || index_entry(path)));
    let mut names: Vec<String> = left
        .map(|(path, fields)| if index_entry(path) { index_text(fields, counted) } else { escape(path) })
        .collect();
    names.sort();
    Ok(names.join(" "))
}
