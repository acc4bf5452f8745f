//! The efficiency of an image, as dive defines it (dive/filetree/efficiency.go).
//!
//! Each layer is a tree of its own. Of its leaves (objects with nothing below them in that layer, whiteouts included)
//! each counts with its size; a whiteout of a directory with the size of what the layers below have there, another one
//! with 0. Of every path, the smallest of these sizes would have been enough. The efficiency is the sum of the smallest
//! sizes divided by the sum of all.
//!
//! Two things follow that one would not guess: a file that is deleted makes the score worse, a directory that is deleted
//! makes it better, as its size is then counted on both sides. And opaque marks count nothing. So the bytes that nothing
//! shows ([`Survey::wasted_bytes`]) are a figure of their own.

use acetate_layer::Kind;

use super::{Part, Survey};

/// The sums of dive's definition, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Efficiency {
    /// What would have been enough: of every path, the smallest size of all layers.
    pub minimal: u64,
    /// All sizes.
    pub discovered: u64,
}

impl Efficiency {
    /// From 0 to 1; 1 if there is nothing.
    pub fn score(self) -> f64 {
        if self.discovered == 0 { 1.0 } else { self.minimal as f64 / self.discovered as f64 }
    }
}

impl Survey {
    /// How efficient the layers are.
    pub fn efficiency(&self) -> Efficiency {
        let children = self.children();
        let mut sums = Efficiency { minimal: 0, discovered: 0 };
        for (number, entry) in self.entries.iter().enumerate().skip(1) {
            let own = entry.parts.iter().filter(|part| part.from.is_none());
            let leaves = own.filter(|part| {
                !children[number].iter().any(|child| self.entries[*child].home(part.layer).is_some())
            });
            let sizes = leaves.map(|part| self.leaf_bytes(number, part, &children));
            let (smallest, sum) = sizes.fold((None, 0), |(smallest, sum): (Option<u64>, u64), size| {
                (Some(smallest.map_or(size, |smallest| smallest.min(size))), sum + size)
            });
            sums.minimal += smallest.unwrap_or(0);
            sums.discovered += sum;
        }
        sums
    }

    /// The entries of each directory, in their order.
    pub fn children(&self) -> Vec<Vec<usize>> {
        let mut children = vec![Vec::new(); self.entries.len()];
        for (number, entry) in self.entries.iter().enumerate().skip(1) {
            children[entry.parent].push(number);
        }
        children
    }

    fn leaf_bytes(&self, number: usize, part: &Part, children: &[Vec<usize>]) -> u64 {
        if part.kind.is_some() {
            return part.bytes;
        }
        let below = self.latest(number, part.layer, usize::MAX);
        if below.0.is_none_or(|below| below.kind != Some(Kind::Dir)) {
            return 0;
        }
        // Everything that the layers below have at the path, by the last word of each path.
        let mut bytes = 0;
        let mut todo = vec![(number, usize::MAX)];
        while let Some((at, end)) = todo.pop() {
            let (latest, end) = self.latest(at, part.layer, end);
            bytes += latest.map_or(0, |part| part.bytes);
            todo.extend(children[at].iter().map(|child| (*child, end)));
        }
        bytes
    }

    /// The topmost object at a path in the layers between `above` and `end`, and where a whiteout among them makes a new
    /// `end`.
    fn latest(&self, entry: usize, above: usize, end: usize) -> (Option<&Part>, usize) {
        let within = self.entries[entry].parts.iter();
        let mut within = within.filter(|part| part.from.is_none() && part.layer > above && part.layer < end);
        let whiteout = within.clone().find(|part| part.kind.is_none()).map_or(end, |part| part.layer);
        (within.find(|part| part.kind.is_some() && part.layer < whiteout), whiteout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::{Entry, Fate, Totals};

    const DIR: Option<Kind> = Some(Kind::Dir);
    const FILE: Option<Kind> = Some(Kind::File);

    /// A layer from the top, what it holds (none is a whiteout), and bytes.
    type Held = (usize, Option<Kind>, u64);

    /// A survey of paths, each with what layers hold there.
    fn survey(depth: usize, paths: &[(&str, &[Held])]) -> Survey {
        let root = Entry { name: Vec::new(), parent: 0, parts: Vec::new() };
        let mut survey = Survey { entries: vec![root], layers: vec![Totals::default(); depth] };
        for (path, parts) in paths {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            let parent = (0..survey.entries.len()).find(|at| survey.path(*at) == above.as_bytes());
            let part = |(layer, kind, bytes): &Held| Part {
                layer: *layer,
                kind: *kind,
                opaque: false,
                bytes: *bytes,
                from: None,
                fate: Fate::Shown,
            };
            survey.entries.push(Entry {
                name: name.as_bytes().to_vec(),
                parent: parent.unwrap_or_default(),
                parts: parts.iter().map(part).collect(),
            });
        }
        survey
    }

    fn sums(minimal: u64, discovered: u64) -> Efficiency {
        Efficiency { minimal, discovered }
    }

    #[test]
    fn the_example_in_dives_own_tests() {
        // Its trees have no entries for directories, so that the deleted one counts nothing: 0.75.
        let mut paths = survey(
            3,
            &[
                ("etc", &[(0, DIR, 0), (1, DIR, 0), (2, DIR, 0)]),
                ("etc/athing", &[(1, FILE, 10000)]),
                ("etc/nginx", &[(0, None, 0), (1, FILE, 0), (2, FILE, 0)]),
                ("etc/nginx/nginx.conf", &[(1, FILE, 5000), (2, FILE, 2000)]),
                ("etc/nginx/public", &[(2, FILE, 3000)]),
            ],
        );
        assert_eq!(paths.efficiency(), sums(15_000, 20_000));
        // With entries for directories, as archives have them, the whiteout counts 5,000 and 3,000.
        for part in &mut paths.entries[3].parts[1..] {
            part.kind = DIR;
        }
        assert_eq!(paths.efficiency(), sums(23_000, 28_000));
    }

    #[test]
    fn a_file_twice_and_a_file_deleted() {
        let twice = survey(2, &[("a", &[(0, FILE, 30), (1, FILE, 100)]), ("b", &[(1, FILE, 70)])]);
        assert_eq!(twice.efficiency(), sums(100, 200));
        let deleted = survey(2, &[("a", &[(0, None, 0), (1, FILE, 100)]), ("b", &[(1, FILE, 60)])]);
        assert_eq!(deleted.efficiency(), sums(60, 160));
        assert!((deleted.efficiency().score() - 0.375).abs() < 1e-9);
    }

    #[test]
    fn a_directory_counts_as_it_was_when_it_was_deleted() {
        let paths = survey(
            4,
            &[
                ("d", &[(0, None, 0), (1, DIR, 0), (2, None, 0), (3, DIR, 0)]),
                ("d/new", &[(1, FILE, 7)]),
                ("d/old", &[(3, FILE, 100)]),
            ],
        );
        // The whiteouts count 100 and 7; of the two the smaller one is enough.
        assert_eq!(paths.efficiency(), sums(7 + 7 + 100, 107 + 7 + 100));
    }

    #[test]
    fn nothing_is_efficient() {
        assert_eq!(survey(1, &[("empty", &[(0, FILE, 0)])]).efficiency().score(), 1.0);
    }
}
