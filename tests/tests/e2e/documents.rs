//! What documents say of the tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use acetate_testkit::driver::acetate_bin;
use anyhow::{Context, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Rust files below a directory, with their text.
fn sources(dir: &Path, found: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.insert(path.clone(), fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// The tests and modules of tests, by name, each with where it is: a crate, `e2e`, or the module.
struct Tests {
    files: BTreeMap<PathBuf, String>,
}

impl Tests {
    fn read() -> Result<Tests> {
        let mut files = BTreeMap::new();
        for dir in ["crates", "tests"] {
            sources(&root().join(dir), &mut files)?;
        }
        files.retain(|_, text| text.contains("#[test]"));
        Ok(Tests { files })
    }

    /// Whether a file is the module `place` of the tests, or one of the crate `place`.
    fn is_at(path: &Path, place: &str) -> bool {
        path.file_stem().is_some_and(|stem| stem == place)
            || path.starts_with(root().join("crates").join(place))
    }

    fn has_module(&self, place: &str) -> bool {
        self.files.keys().any(|path| path.file_stem().is_some_and(|stem| stem == place))
    }

    fn has(&self, place: &str, name: &str) -> bool {
        let function = format!("fn {name}(");
        let is_test = |text: &str| {
            text.match_indices(&function).any(|(at, _)| {
                let before = &text[..at];
                before.rfind("#[test]").is_some_and(|test| !before[test..].contains("\n}\n"))
            })
        };
        let here = self.files.iter().filter(|(path, _)| Tests::is_at(path, place));
        here.into_iter()
            .any(|(path, text)| path.file_stem().is_some_and(|stem| stem == name) || is_test(text))
    }
}

/// The last cells of the tables whose last column is headed `test`.
fn cells(document: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut lines = document.lines().peekable();
    while let Some(line) = lines.next() {
        if line.ends_with("| test |") {
            lines.next();
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                found.extend(row.trim_end_matches(['|', ' ']).rsplit('|').next().map(str::trim));
            }
        }
    }
    found
}

/// Every hazard names tests, and they are there: `module`, ``module `test` `` or `` `testkit ...` ``, in any number.
#[test]
fn the_tests_that_hazards_name_are_there() -> Result<()> {
    let document = fs::read_to_string(root().join("docs/hazards.md"))?;
    let (tests, cells) = (Tests::read()?, cells(&document));
    ensure!(cells.len() > 20, "{cells:#?}");
    for cell in cells {
        // Remarks in brackets say with which options.
        let named: String = cell.split('(').map(|part| part.rsplit(')').next().unwrap_or_default()).collect();
        for item in named.split(", ").map(str::trim) {
            let (place, name) = item.split_once('`').unwrap_or((item, ""));
            let (place, name) = (place.trim(), name.trim_end_matches('`'));
            let known = match name.split_once(' ') {
                Some(("testkit", words)) => {
                    let testkit = acetate_bin()?.with_file_name("testkit");
                    let help = Command::new(testkit).args(words.split(' ')).arg("--help").output()?;
                    help.status.success()
                }
                _ if name.is_empty() => tests.has_module(place),
                _ => tests.has(place, name),
            };
            ensure!(known, "docs/hazards.md: no such test: {item}");
        }
    }
    Ok(())
}

/// Rows of a table that others refer to by number.
#[test]
fn differences_from_the_kernel_are_numbered() -> Result<()> {
    let semantics = fs::read_to_string(root().join("docs/semantics.md"))?;
    let numbers = semantics
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |")?.0.parse::<usize>().ok());
    let numbers: Vec<usize> = numbers.collect();
    ensure!(!numbers.is_empty() && numbers.iter().copied().eq(1..=numbers.len()), "{numbers:?}");
    Ok(())
}

#[test]
fn no_document_was_left_half_merged() -> Result<()> {
    for dir in [root(), root().join("docs"), root().join("docs/adr")] {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == "md") {
                let text = fs::read_to_string(&path)?;
                let mark =
                    text.lines().find(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "));
                ensure!(mark.is_none(), "{}: {mark:?}", path.display());
            }
        }
    }
    Ok(())
}
