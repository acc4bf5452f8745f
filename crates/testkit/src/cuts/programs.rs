//! Programs that change files, each by what programs do: append, append and sync, replace by a synced file, chmod.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};

/// How many lower files there are, each of which is changed once.
pub(super) const FILES: usize = 400;
/// What is appended.
const TAIL: &[u8] = b"appended by a program";

/// How a file is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Something is appended.
    Append,
    /// Something is appended and synced.
    AppendSynced,
    /// It is replaced by a file that was synced before, and the directory is synced.
    Replace,
    /// It gets another mode.
    Mode,
}

fn change(number: usize) -> Change {
    [Change::Append, Change::AppendSynced, Change::Replace, Change::Mode][number % 4]
}

fn name(number: usize) -> PathBuf {
    PathBuf::from(if number % 8 < 4 { format!("file{number}") } else { format!("dir/file{number}") })
}

/// The content of a lower file, of other length and bytes for each.
fn old(number: usize) -> Vec<u8> {
    (0..4000 + number * 37).map(|at| b'a' + ((at / 7 + number) % 26) as u8).collect()
}

/// The content of what replaces it.
fn new(number: usize) -> Vec<u8> {
    (0..6000 + number * 11).map(|at| b'A' + ((at / 5 + number) % 26) as u8).collect()
}

/// Makes the lower files.
pub(super) fn plant(lower: &Path) -> Result<()> {
    for number in 0..FILES {
        let path = lower.join(name(number));
        fs::write(&path, old(number))?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// The programs and how far they are.
pub(super) struct Programs {
    merged: PathBuf,
    next: AtomicUsize,
    synced: Vec<AtomicBool>,
}

impl Programs {
    pub(super) fn new(merged: &Path) -> Programs {
        let synced = (0..FILES).map(|_| AtomicBool::new(false)).collect();
        Programs { merged: merged.to_owned(), next: AtomicUsize::new(0), synced }
    }

    /// How many files have been begun with.
    pub(super) fn begun(&self) -> usize {
        self.next.load(Ordering::SeqCst)
    }

    /// What has been synced by now.
    pub(super) fn synced(&self) -> Expected {
        Expected(self.synced.iter().map(|synced| synced.load(Ordering::SeqCst)).collect())
    }

    /// Changes files until there are none left. Any number may run at a time.
    pub(super) fn run(&self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::SeqCst) {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            if number >= FILES {
                break;
            }
            let synced = self.change(number).with_context(|| format!("changing file {number}"))?;
            self.synced[number].store(synced, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Changes a file; returns whether the change was synced.
    fn change(&self, number: usize) -> io::Result<bool> {
        let path = self.merged.join(name(number));
        match change(number) {
            Change::Append | Change::AppendSynced => {
                let mut file = OpenOptions::new().append(true).open(&path)?;
                file.write_all(TAIL)?;
                if change(number) == Change::Append {
                    return Ok(false);
                }
                file.sync_all()?;
            }
            Change::Replace => {
                let staged = self.merged.join(format!("staged{number}"));
                let mut file = File::create(&staged)?;
                file.write_all(&new(number))?;
                file.sync_all()?;
                fs::rename(&staged, &path)?;
                File::open(path.parent().unwrap_or(&self.merged))?.sync_all()?;
            }
            Change::Mode => {
                fs::set_permissions(&path, Permissions::from_mode(0o600))?;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Which files had their changes synced.
#[derive(Debug, Clone)]
pub(super) struct Expected(Vec<bool>);

impl Expected {
    /// Fails unless every file is old or new, and new where that was synced. Returns how many are new, and how many of them
    /// had to be.
    pub(super) fn check(&self, merged: &Path) -> Result<(usize, usize)> {
        let mut changed = 0;
        for (number, synced) in self.0.iter().enumerate() {
            let path = merged.join(name(number));
            let is_new =
                is_new(number, &path).with_context(|| format!("{:?} {}", change(number), path.display()))?;
            ensure!(is_new || !synced, "{}: {:?} was synced and is lost", path.display(), change(number));
            changed += usize::from(is_new);
        }
        Ok((changed, self.0.iter().filter(|synced| **synced).count()))
    }
}

/// Whether a file is changed, or as it was.
fn is_new(number: usize, path: &Path) -> Result<bool> {
    let content = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("it is gone"),
        other => other?,
    };
    let mode = fs::metadata(path)?.mode() & 0o7777;
    let old = old(number);
    if change(number) == Change::Replace && content == new(number) {
        return Ok(true);
    }
    ensure!(content.len() >= old.len(), "{} bytes of {}", content.len(), old.len());
    let (head, tail) = content.split_at(old.len());
    ensure!(head == old, "what was there before is not there any more");
    match change(number) {
        Change::Mode => {
            ensure!(tail.is_empty() && matches!(mode, 0o644 | 0o600), "mode {mode:o}");
            Ok(mode == 0o600)
        }
        Change::Append | Change::AppendSynced => {
            ensure!(mode == 0o644, "mode {mode:o}");
            // What was not synced may be there in part, or the size without it.
            let whole = tail == TAIL;
            let begun =
                tail.len() <= TAIL.len() && tail.iter().zip(TAIL).all(|(is, was)| is == was || *is == 0);
            ensure!(whole || begun, "{} bytes follow that nobody wrote", tail.len());
            Ok(whole)
        }
        Change::Replace => {
            ensure!(tail.is_empty(), "neither the old nor the new file");
            Ok(false)
        }
    }
}
