//! What probably exists at some point of a sequence, so that generated calls mostly hit something.
//!
//! A guess, not a model: permissions, redirects and symlinks on the way are ignored, and nothing is
//! judged by it.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::generate::{Names, join, once_in, parent};
use super::script::{Body, Entry, Layer};

/// What probably is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guess {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// Anything else.
    Other,
}

/// The names that probably exist, and those that probably did.
#[derive(Debug)]
pub(super) struct Guesses {
    names: Names,
    alive: BTreeMap<Vec<u8>, Guess>,
    gone: Vec<Vec<u8>>,
}

/// Returns whether `path` lies below `dir`.
fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.len() > dir.len() && path.starts_with(dir) && (dir.is_empty() || path[dir.len()] == b'/')
}

impl Guesses {
    /// Lays the entries of all layers over one another.
    pub(super) fn new(names: Names, entries: &[Entry]) -> Self {
        let mut guesses = Self { names, alive: BTreeMap::new(), gone: Vec::new() };
        let mut sorted: Vec<&Entry> = entries.iter().filter(|entry| !entry.path.is_empty()).collect();
        // From the bottom up; within a layer in their order.
        sorted.sort_by_key(|entry| match entry.layer {
            Layer::Upper => 0,
            Layer::Lower(number) => -i64::try_from(number).unwrap_or(0) - 1,
        });
        for entry in sorted {
            let opaque = entry.xattrs.iter().any(|(name, value)| name.ends_with(b".opaque") && value == b"y");
            match &entry.body {
                Body::Whiteout => guesses.remove(&entry.path),
                Body::Dir if opaque || guesses.alive.get(&entry.path) != Some(&Guess::Dir) => {
                    guesses.remove(&entry.path);
                    guesses.add(&entry.path, Guess::Dir);
                }
                Body::Dir => {}
                Body::File { .. } | Body::Link(_) => {
                    guesses.remove(&entry.path);
                    guesses.add(&entry.path, Guess::File);
                }
                _ => {
                    guesses.remove(&entry.path);
                    guesses.add(&entry.path, Guess::Other);
                }
            }
        }
        guesses
    }

    /// Notes that something was made at `path`.
    pub(super) fn add(&mut self, path: &[u8], guess: Guess) {
        if path.is_empty() || path.len() > 700 {
            return;
        }
        let mut above = parent(path);
        while !above.is_empty() {
            self.alive.entry(above.to_vec()).or_insert(Guess::Dir);
            above = parent(above);
        }
        self.alive.entry(path.to_vec()).or_insert(guess);
    }

    /// Notes that `path` and everything below it is gone.
    pub(super) fn remove(&mut self, path: &[u8]) {
        let lost: Vec<Vec<u8>> =
            self.alive.keys().filter(|known| *known == path || is_below(known, path)).cloned().collect();
        for path in lost {
            self.alive.remove(&path);
            self.gone.push(path);
        }
    }

    /// Notes that `old` and everything below it now is at `new`.
    pub(super) fn rename(&mut self, old: &[u8], new: &[u8]) {
        if old == new || is_below(new, old) || !self.alive.contains_key(old) {
            return;
        }
        let moved: Vec<(Vec<u8>, Guess)> = self
            .alive
            .iter()
            .filter(|(known, _)| *known == old || is_below(known, old))
            .map(|(path, guess)| ([new, &path[old.len()..]].concat(), *guess))
            .collect();
        self.remove(new);
        self.remove(old);
        for (path, guess) in moved {
            self.add(&path, guess);
        }
    }

    /// Returns what probably is at `path`.
    pub(super) fn at(&self, path: &[u8]) -> Option<Guess> {
        if path.is_empty() { Some(Guess::Dir) } else { self.alive.get(path).copied() }
    }

    /// Returns whether nothing is listed below `dir`.
    pub(super) fn is_empty(&self, dir: &[u8]) -> bool {
        !self.alive.keys().any(|path| is_below(path, dir))
    }

    /// Returns a path that probably exists and suits; now and then any other path.
    pub(super) fn pick(&self, rng: &mut Rng, suits: impl Fn(&[u8], Guess) -> bool) -> Vec<u8> {
        if once_in(rng, 12) {
            return self.names.path(rng);
        }
        let all = self.alive.iter().filter(|(path, guess)| suits(path, **guess));
        let all: Vec<&Vec<u8>> = all.map(|(path, _)| path).collect();
        if all.is_empty() { self.names.path(rng) } else { all[rng.usize(..all.len())].clone() }
    }

    /// Returns anything that probably exists.
    pub(super) fn any(&self, rng: &mut Rng) -> Vec<u8> {
        self.pick(rng, |_, _| true)
    }

    /// Returns a directory, also the root.
    pub(super) fn dir(&self, rng: &mut Rng) -> Vec<u8> {
        if once_in(rng, 5) { Vec::new() } else { self.pick(rng, |_, guess| guess == Guess::Dir) }
    }

    /// Returns a regular file.
    pub(super) fn file(&self, rng: &mut Rng) -> Vec<u8> {
        self.pick(rng, |_, guess| guess == Guess::File)
    }

    /// Returns a path to make something at: mostly free, often one that was there once.
    pub(super) fn free(&self, rng: &mut Rng) -> Vec<u8> {
        if once_in(rng, 150) {
            return join(&self.dir(rng), &[b'l'; 256]);
        }
        if once_in(rng, 8) {
            return self.any(rng);
        }
        for _ in 0..8 {
            let path = if !self.gone.is_empty() && rng.bool() {
                self.gone[rng.usize(..self.gone.len())].clone()
            } else {
                join(&self.dir(rng), &self.names.one(rng))
            };
            if self.at(&path).is_none() && self.at(parent(&path)) == Some(Guess::Dir) {
                return path;
            }
        }
        join(&self.dir(rng), &self.names.one(rng))
    }

    /// Returns the names that paths are made of.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }
}
