//! Lockstep: random stacks and random calls on two drivers at once, compared after every step.
//!
//! A [`script`] (layers and steps, one line each) is made from a seed by [`generate`]. [`case`] makes
//! the layers twice, mounts each copy with a driver, lets [`worker`] processes carry out every step
//! on both sides by real system calls ([`exec`]) and compares: the result of each step; the visible
//! trees at random points and at the end; what lies in the upper and work directories; the trees
//! after a remount (at a hand-over each side is mounted by the other driver), and again with each upper directory mounted by the other driver; and that no
//! lower layer changed in any way. [`compare`] says what counts as a difference and what is known
//! and accepted. A script that shows a difference is made short by [`shrink`] and written to a file
//! that `testkit lockstep --replay` takes.
//!
//! Needs root: the oracle is the kernel's overlayfs, and calls are made as several users.

pub mod acl;
pub mod attrs;
pub mod case;
pub mod compare;
pub mod dump;
pub mod exec;
pub mod generate;
mod generate_ops;
mod guess;
pub mod op;
pub mod script;
pub mod setup;
pub mod shrink;
pub mod taken;
pub mod text;
pub mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::case::Rig;
use self::compare::Difference;
use self::script::Script;

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// After this many cases.
    Cases(u64),
    /// After the case that runs when this much time is over.
    Time(Duration),
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of the first case; the next one has the next number.
    pub seed: u64,
    /// When to stop.
    pub limit: Limit,
    /// Mount options of both sides, comma separated.
    pub options: String,
    /// Let the mounts change hands every few steps.
    pub handover: bool,
    /// Directory for the scripts of failures; made if it is missing.
    pub out: PathBuf,
    /// The most time that shrinking one failure may take.
    pub shrink_for: Duration,
    /// Stop after this many failures of different kinds.
    pub kinds: usize,
}

/// One kind of failure: how it shows, and a short script for it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed of the first case that showed it.
    pub seed: u64,
    /// How many cases showed it.
    pub cases: u64,
    /// The shrunk script, with the differences as comments.
    pub text: String,
    /// Where the script was written.
    pub file: PathBuf,
}

/// What a run found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Cases in which the sides agreed.
    pub passed: u64,
    /// Cases in which they did not.
    pub failed: u64,
    /// The failures by kind.
    pub failures: BTreeMap<String, Failure>,
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A case ended.
    Case(&'a Report),
    /// A failure of a new kind was shrunk and written down.
    Failure(&'a str, &'a Failure),
}

/// Runs cases until the plan's limit.
///
/// # Errors
/// The test itself cannot go on; names the seed of the case.
pub fn run(rig: &mut Rig, plan: &Plan, tell: &mut dyn FnMut(Event<'_>)) -> Result<Report> {
    let start = Instant::now();
    let mut report = Report::default();
    let mut number = 0;
    loop {
        let over = match plan.limit {
            Limit::Cases(cases) => number >= cases,
            Limit::Time(time) => start.elapsed() >= time,
        };
        if over || report.failures.len() >= plan.kinds {
            return Ok(report);
        }
        let seed = plan.seed.wrapping_add(number);
        number += 1;
        let mut script = generate::script(seed, &plan.options);
        if plan.handover {
            script = generate::with_handovers(script);
        }
        let found = rig.run(&script).with_context(|| format!("seed {seed}"))?;
        let Some(first) = found.first() else {
            report.passed += 1;
            tell(Event::Case(&report));
            continue;
        };
        report.failed += 1;
        if let Some(known) = report.failures.get_mut(&first.kind) {
            known.cases += 1;
        } else {
            let failure = shorten(rig, plan, seed, &script, &first.kind)?;
            tell(Event::Failure(&first.kind, &failure));
            report.failures.insert(first.kind.clone(), failure);
        }
        tell(Event::Case(&report));
    }
}

/// Shrinks a failing script and writes it down.
fn shorten(rig: &mut Rig, plan: &Plan, seed: u64, script: &Script, kind: &str) -> Result<Failure> {
    let mut fails = |candidate: &Script| {
        // A candidate whose layers cannot be made (an item lost its hard link's target) shows nothing.
        Ok(rig.run(candidate).is_ok_and(|found| found.iter().any(|difference| difference.kind == kind)))
    };
    let short = shrink::shrink(script, plan.shrink_for, &mut fails)?;
    let found = rig.run(&short)?;
    let text = describe(seed, [rig.drivers[0].name(), rig.drivers[1].name()], &found, &short);
    std::fs::create_dir_all(&plan.out).with_context(|| format!("cannot make {}", plan.out.display()))?;
    let file = plan.out.join(format!("lockstep-{seed}.txt"));
    std::fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(Failure { seed, cases: 1, text, file })
}

/// Returns a script with what it shows as comments before it.
fn describe(seed: u64, drivers: [&str; 2], found: &[Difference], script: &Script) -> String {
    let mut text = format!("# seed {seed}; A is {}, B is {}\n", drivers[0], drivers[1]);
    if found.is_empty() {
        text.push_str("# does not fail every time\n");
    }
    for difference in found.iter().take(10) {
        for line in difference.to_string().lines() {
            text.push_str(&format!("# {line}\n"));
        }
    }
    text.push_str(&script.to_string());
    text
}

/// Runs a script from a file once.
///
/// # Errors
/// The file cannot be read or is no script.
pub fn replay(rig: &mut Rig, file: &Path) -> Result<Vec<Difference>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let script = Script::parse(&text).with_context(|| format!("{} is no script", file.display()))?;
    rig.run(&script)
}

#[cfg(test)]
mod tests;
