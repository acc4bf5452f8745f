//! Asking what to do with what a command changed.

use super::report::{Report, coloured};
use crate::error::Failure;
use crate::out::talk;
use acetate_store::changes::Change;
use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Apply all of it.
    All,
    /// Apply what is at and below these paths.
    Some(Vec<PathBuf>),
    /// Keep it for later.
    Keep,
    /// Throw it away.
    Discard,
}

/// Whether there is somebody to ask.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks until there is an answer. Whoever ends the input keeps all.
///
/// # Errors
/// Those of reading the terminal.
pub(super) fn ask(report: &Report, name: &str, colours: bool) -> Result<Answer, Failure> {
    loop {
        talk(&format!("Apply [a]ll, apply [s]ome, [k]eep as try {name}, [d]iscard, [l]ist again? "));
        let Some(word) = read()? else {
            talk("\n");
            return Ok(Answer::Keep);
        };
        match &*word {
            "a" | "all" => return Ok(Answer::All),
            "s" | "some" => {
                if let Some(paths) = choose(report.changes(), colours)? {
                    return Ok(Answer::Some(paths));
                }
            }
            "k" | "keep" => return Ok(Answer::Keep),
            "d" | "discard" => return Ok(Answer::Discard),
            "l" | "list" => talk(&format!("{}\n{}\n", report.lines(colours), report.summary(colours))),
            _ => talk("Answer with one of the letters.\n"),
        }
    }
}

/// Asks about each change; what is in a new directory goes with it. `None` goes back.
fn choose(changes: &[Change], colours: bool) -> Result<Option<Vec<PathBuf>>, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let dirs: BTreeSet<&[u8]> =
        changes.iter().filter(|change| is_new_dir(change)).map(|change| &*change.path).collect();
    let is_inner = |path: &[u8]| {
        let mut above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
        above.any(|dir| dirs.contains(dir))
    };
    let top: Vec<&Change> = changes.iter().filter(|change| !is_inner(&change.path)).collect();
    let mut chosen = Vec::new();
    let mut rest = false;
    for (at, change) in top.iter().enumerate() {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&change.path));
        if rest {
            chosen.push(path);
            continue;
        }
        let is_inside = |other: &&Change| {
            other.path.strip_prefix(&change.path[..]).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        let inside = changes.iter().filter(is_inside).count();
        let inside = match is_new_dir(change) && inside > 0 {
            true => format!("  (and {inside} in it)"),
            false => String::new(),
        };
        loop {
            let text = coloured(change, colours);
            talk(&format!(
                "({}/{}) {text}{inside}\nApply this? [y]es, [n]o, [a]ll the rest, [q] none of the rest, [b]ack: ",
                at + 1,
                top.len()
            ));
            match read()?.as_deref() {
                Some("y" | "yes") => chosen.push(path.clone()),
                Some("n" | "no") => {}
                Some("a" | "all") => {
                    chosen.push(path.clone());
                    rest = true;
                }
                Some("q") => return Ok(Some(chosen)),
                Some("b" | "back") | None => return Ok(None),
                Some(_) => {
                    talk("Answer with one of the letters.\n");
                    continue;
                }
            }
            break;
        }
    }
    Ok(Some(chosen))
}

fn is_new_dir(change: &Change) -> bool {
    use acetate_store::changes::ChangeKind::{Added, Changed};
    change.kind == acetate_layer::Kind::Dir && matches!(change.what, Added | Changed { kind: true, .. })
}

/// One line of the terminal; `None` at the end of the input.
fn read() -> Result<Option<String>, Failure> {
    let mut line = String::new();
    match io::stdin().read_line(&mut line) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(line.trim().to_lowercase())),
        Err(error) => Err(Failure::io("read the answer", &error)),
    }
}
