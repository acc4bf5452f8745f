//! Expected failures, and the verdict over many rows.
//!
//! The list may only shrink: a listed row that passes is itself a failure, so that it gets removed.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, bail};

use super::{Difference, Row, Runner};

/// Rows that the engine is known not to pass, as committed: `ID reason` on each line, `#` comments.
pub const EXPECTED: &str = include_str!("../../../../tests/data/matrix-expected-failures.txt");

/// Expected failures: the reason by row id.
pub type Expected = BTreeMap<String, String>;

/// Reads a list of expected failures and checks that each id is one of `rows`, listed once, with a reason.
pub fn parse(text: &str, rows: &[Row]) -> anyhow::Result<Expected> {
    let mut expected = Expected::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (id, reason) = line.split_once(' ').with_context(|| format!("{line:?} gives no reason"))?;
        if !rows.iter().any(|row| row.id == id) {
            bail!("there is no row {id}");
        }
        if expected.insert(id.to_owned(), reason.trim().to_owned()).is_some() {
            bail!("row {id} is listed twice");
        }
    }
    Ok(expected)
}

/// What came of one row.
#[derive(Debug)]
pub enum Verdict {
    /// As recorded.
    Passed,
    /// Not as recorded, and listed.
    ExpectedFailure(String),
    /// As recorded although listed.
    UnexpectedPass,
    /// Not as recorded.
    Failed(Box<Report>),
}

/// Why a row failed, readable.
#[derive(Debug)]
pub struct Report {
    row: Row,
    why: Result<Vec<Difference>, anyhow::Error>,
    /// What the mount command said if it refused.
    refusal: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { id, setup, opts, ops, .. } = &self.row;
        writeln!(f, "{id}: {setup}{}{opts}", if opts.is_empty() { "" } else { " -o " })?;
        let differences = match &self.why {
            Ok(differences) => differences,
            Err(error) => {
                writeln!(f, "    operations  {ops}")?;
                return writeln!(f, "    cannot run  {error:#}");
            }
        };
        if let Some(said) = &self.refusal {
            writeln!(f, "    refused     {said}")?;
        }
        for Difference { what, expected, got } in differences {
            let (wanted, gained) = (expected.split(" ; "), got.split(" ; "));
            let per_operation = self.refusal.is_none() && !expected.starts_with("mount: ");
            if *what == "results" && per_operation && wanted.clone().count() == gained.clone().count() {
                for ((op, wanted), gained) in self.row.operations().zip(wanted).zip(gained) {
                    let mark = if wanted == gained { "" } else { "   <-- expected " };
                    writeln!(f, "    {op} => {gained}{mark}{}", if mark.is_empty() { "" } else { wanted })?;
                }
                continue;
            }
            if *what != "results" && !differences.iter().any(|other| other.what == "results") {
                writeln!(f, "    operations  {ops}")?;
            }
            writeln!(f, "    {what:<8} expected  {expected}\n    {what:<8} got       {got}")?;
        }
        Ok(())
    }
}

/// Counts over many rows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// As recorded.
    pub passed: usize,
    /// Neither as recorded nor listed, or listed but as recorded.
    pub failed: usize,
    /// Listed and not as recorded.
    pub expected_failures: usize,
}

impl Summary {
    /// Counts one verdict.
    pub fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::ExpectedFailure(_) => self.expected_failures += 1,
            Verdict::UnexpectedPass | Verdict::Failed(_) => self.failed += 1,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, expected_failures } = self;
        write!(f, "{passed} passed, {failed} failed, {expected_failures} expected failures")
    }
}

/// Runs one row and judges it.
pub fn judge(runner: &mut Runner, row: &Row, expected: &Expected) -> Verdict {
    let (why, refusal) = match runner.run(row) {
        Ok(outcome) => (Ok(row.differences(&outcome, runner.driver())), outcome.refusal),
        Err(error) => (Err(error), None),
    };
    let listed = expected.get(&row.id);
    match (&why, listed) {
        (Ok(differences), None) if differences.is_empty() => Verdict::Passed,
        (Ok(differences), Some(_)) if differences.is_empty() => Verdict::UnexpectedPass,
        (Ok(_), Some(reason)) => Verdict::ExpectedFailure(reason.clone()),
        // A row that cannot be carried out (a hang, a crash) is never expected.
        (Err(_), _) | (Ok(_), None) => Verdict::Failed(Box::new(Report { row: row.clone(), why, refusal })),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::scenario::{RECORDED, load};

    #[test]
    fn the_committed_list_is_sound_and_a_bad_one_is_refused() {
        let rows = load(RECORDED).unwrap();
        let expected = parse(EXPECTED, &rows).unwrap();
        let plain = |row: &&Row| row.opts.is_empty() && row.lower.is_none() && !row.ops.contains('=');
        let excused: Vec<_> =
            rows.iter().filter(plain).filter(|row| expected.contains_key(&row.id)).collect();
        assert_eq!(excused.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["F02"]);
        for bad in ["W01", "ZZ99 why", "W01 why\nW01 again"] {
            assert!(parse(bad, &rows).is_err(), "{bad}");
        }
    }
}
