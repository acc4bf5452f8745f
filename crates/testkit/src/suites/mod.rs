//! Test suites that others wrote, run on a mount and on the filesystem below it.
//!
//! A mount has to pass what the filesystem below passes. Each runner returns one [`Verdict`] per test case;
//! [`compare`] sets the two runs side by side, leaves out what a committed list knows with a reason ([`known`]), and
//! also names the entries of that list that are no longer needed, so that it can only shrink.
//!
//! - [`pjdfstest`]: errnos, times, modes and owners of every call.
//! - [`fsx`]: the bytes of one file under random reads, writes, mappings, truncation and holes.
//! - [`stress`]: stress-ng's filesystem stressors with verification.
//! - [`runs`]: each of them as a whole, on a mount made for it.
//! - [`cli`]: all of them by hand, for longer runs.

pub mod cli;
pub mod fsx;
pub mod known;
pub mod pjdfstest;
pub mod runs;
pub mod stress;

use std::collections::BTreeMap;
use std::fmt;

pub use known::Known;

/// How one test case of a suite ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Ok,
    /// The suite did not run it; the text is its reason.
    Skipped(String),
    /// It failed; the text is the suite's message.
    Failed(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// Test cases by name.
pub type Verdicts = BTreeMap<String, Verdict>;

/// One test case that the mount does worse than the filesystem below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The test case.
    pub name: String,
    /// How it ended on the mount.
    pub mount: Verdict,
    /// How it ended below.
    pub below: Verdict,
}

/// What a run on a mount and one below say about the mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Worse on the mount, and not in the list: each one is a bug, or needs a line with a reason.
    pub new: Vec<Difference>,
    /// Worse on the mount, and in the list.
    pub known: Vec<Difference>,
    /// In the list, but they passed on the mount: to be taken out of it.
    pub stale: Vec<String>,
    /// How many test cases passed on the mount.
    pub passed: usize,
    /// How many test cases there are.
    pub total: usize,
}

impl Comparison {
    /// Whether the mount is as good as the list says, and the list no longer than it has to be.
    pub fn clean(&self) -> bool {
        self.new.is_empty() && self.stale.is_empty()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} passed on the mount, {} known differences, {} new, {} stale entries",
            self.passed,
            self.total,
            self.known.len(),
            self.new.len(),
            self.stale.len()
        )?;
        for Difference { name, mount, below } in &self.new {
            writeln!(f, "  NEW {name}: on the mount {mount}; below {below}")?;
        }
        for name in &self.stale {
            writeln!(f, "  STALE {name}: passes on the mount, take it off the list")?;
        }
        Ok(())
    }
}

/// Compares the verdicts on a mount with those on the filesystem below.
///
/// A test case that `below` does not hold counts as passed there; one that only `below` holds was lost on the mount.
pub fn compare(mount: &Verdicts, below: &Verdicts, known: &Known) -> Comparison {
    let mut result = Comparison { total: mount.len(), ..Comparison::default() };
    let lost = below.keys().filter(|name| !mount.contains_key(*name));
    for name in mount.keys().chain(lost) {
        let below = below.get(name).unwrap_or(&Verdict::Ok);
        let mount = match mount.get(name) {
            Some(verdict) => verdict.clone(),
            None => Verdict::Failed("not run on the mount".into()),
        };
        let worse = match mount {
            Verdict::Ok => false,
            Verdict::Skipped(_) => *below == Verdict::Ok,
            Verdict::Failed(_) => !matches!(below, Verdict::Failed(_)),
        };
        if worse {
            let listed = known.reason(name).is_some();
            let difference = Difference { name: name.clone(), mount, below: below.clone() };
            if listed { result.known.push(difference) } else { result.new.push(difference) }
        } else if mount == Verdict::Ok {
            result.passed += 1;
            if known.reason(name).is_some() {
                result.stale.push(name.clone());
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn verdicts(text: &[(&str, Verdict)]) -> Verdicts {
        text.iter().map(|(name, verdict)| ((*name).to_owned(), verdict.clone())).collect()
    }

    #[test]
    fn only_what_is_worse_than_below_counts() {
        let failed = || Verdict::Failed("EIO".into());
        let skipped = || Verdict::Skipped("no such feature".into());
        let mount = verdicts(&[
            ("bad", failed()),
            ("bad below too", failed()),
            ("fine", Verdict::Ok),
            ("listed", failed()),
            ("skipped", skipped()),
            ("skipped below too", skipped()),
            ("was listed", Verdict::Ok),
        ]);
        let below = verdicts(&[
            ("bad", skipped()),
            ("bad below too", failed()),
            ("gone", Verdict::Ok),
            ("skipped below too", skipped()),
        ]);
        let known: Known = "why\nlisted\nwas listed\nbad below too\n".parse().unwrap();
        let got = compare(&mount, &below, &known);
        let names = |list: &[Difference]| list.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&got.new), ["bad", "skipped", "gone"]);
        assert_eq!(names(&got.known), ["listed"]);
        assert_eq!(got.stale, ["was listed"]);
        assert_eq!((got.passed, got.total), (2, 7));
        assert!(!got.clean());
    }
}
