//! The changes of an upper layer carried to other lower layers: planned here, made by [`super::rebuild`].
//!
//! Three trees are compared where upper changes something: what it was made over, what it makes of that, and what it is to
//! lie over. What both sides changed in different respects goes together; all else is a conflict.

use std::collections::{BTreeMap, BTreeSet};

use acetate_layer::mark::Opaque;
use acetate_layer::{Kind, Layer};

use crate::diff::{self, Change, Differs, How, Options, differs};
use crate::node::{Node, What};
use crate::view::View;
use crate::{Result, Stack, joined, split};

/// Where something comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The upper layer.
    Upper,
    /// The new lower layers.
    Lower,
}

/// Why a change cannot be carried over without somebody's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Upper and the new lower layers changed the same of it.
    ChangedOnBoth,
    /// Both added it, and the two differ.
    AddedOnBoth,
    /// Upper changed or added it, the new lower layers do not have it, or not the directory that it is in.
    DeletedBelow,
    /// Upper deleted it, the new lower layers changed it.
    ChangedBelow,
    /// It is new in the lower layers, in a directory that upper has made opaque.
    HiddenByOpaque,
}

impl Why {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Why::ChangedOnBoth => "changed-on-both",
            Why::AddedOnBoth => "added-on-both",
            Why::DeletedBelow => "deleted-below",
            Why::ChangedBelow => "changed-below",
            Why::HiddenByOpaque => "hidden-by-opaque",
        }
    }
}

/// A change that needs a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The path.
    pub path: Vec<u8>,
    /// Why.
    pub why: Why,
}

/// What a path becomes in the new upper layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// What the old one shows.
    Mine,
    /// A mixture.
    Mixed {
        /// Whose data, target or device number.
        content: Side,
        /// Whose owner, mode and attributes.
        metadata: Side,
    },
    /// A whiteout.
    Whiteout,
}

/// What the new upper layer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By path.
    pub becomes: BTreeMap<Vec<u8>, Becomes>,
    /// By path; with a decision about them they are in `becomes` as well.
    pub conflicts: Vec<Conflict>,
}

/// What of `old`, a stack with an upper layer, has to be in an upper layer over `new` so that it changes that in the same
/// way. `prefer` decides conflicts.
///
/// # Errors
/// A layer that cannot be read; [`crate::Error::Broken`] for a mark that leads nowhere.
pub fn plan(old: &Stack, new: &Stack, prefer: Option<Side>) -> Result<Plan> {
    let changes = diff::diff(old, Options::default())?;
    let mut planner =
        Planner { old: old.below(), mine: old.merged(), new: new.merged(), prefer, plan: Plan::default() };
    for change in &changes {
        planner.change(change)?;
    }
    planner.opaques()?;
    let mut plan = planner.plan;
    plan.conflicts.sort_by(|a, b| a.path.cmp(&b.path).then(a.why.cmp(&b.why)));
    plan.conflicts.dedup();
    Ok(plan)
}

struct Planner<'a> {
    old: View<'a>,
    mine: View<'a>,
    new: View<'a>,
    prefer: Option<Side>,
    plan: Plan,
}

impl Planner<'_> {
    fn change(&mut self, change: &Change) -> Result<()> {
        let path = change.path.as_slice();
        let (old, mine, new) = (self.old.find(path)?, self.mine.find(path)?, self.new.find(path)?);
        match change.how {
            How::Deleted => self.deleted(path, &old, &new),
            How::Added => self.added(path, &mine, &new),
            How::Changed(differs) => self.changed(path, differs, &old, &mine, &new),
            // Not looked for.
            How::Renamed { .. } | How::Touched => Ok(()),
        }
    }

    fn becomes(&mut self, path: &[u8], becomes: Becomes) {
        self.plan.becomes.insert(path.to_vec(), becomes);
    }

    /// A conflict at a path, of a change that is about `of`.
    fn conflict(&mut self, path: &[u8], why: Why, of: &[u8], becomes: Becomes) {
        self.plan.conflicts.push(Conflict { path: path.to_vec(), why });
        if self.prefer == Some(Side::Upper) {
            self.becomes(of, becomes);
        }
    }

    fn deleted(&mut self, path: &[u8], old: &Node, new: &Node) -> Result<()> {
        if new.winner().is_none() {
            return Ok(());
        }
        match self.first_difference(path, old, new)? {
            None => self.becomes(path, Becomes::Whiteout),
            Some(at) => self.conflict(&at, Why::ChangedBelow, path, Becomes::Whiteout),
        }
        Ok(())
    }

    fn added(&mut self, path: &[u8], mine: &Node, new: &Node) -> Result<()> {
        if new.winner().is_some() {
            if differs((self.new, path, new), (self.mine, path, mine))?.any() {
                self.conflict(path, Why::AddedOnBoth, path, Becomes::Mine);
            }
        } else if self.has_directory(path)? {
            self.becomes(path, Becomes::Mine);
        } else {
            self.conflict(path, Why::DeletedBelow, path, Becomes::Mine);
        }
        Ok(())
    }

    /// Whether the directory that a path is in is there in the new stack: below, or because upper brings it.
    fn has_directory(&self, path: &[u8]) -> Result<bool> {
        let Some((dir, _)) = split(path) else { return Ok(true) };
        Ok(self.plan.becomes.get(dir).is_some_and(|becomes| *becomes == Becomes::Mine)
            || self.new.find(dir)?.is_dir())
    }

    fn changed(&mut self, path: &[u8], by_us: Differs, old: &Node, mine: &Node, new: &Node) -> Result<()> {
        if new.winner().is_none() {
            self.conflict(path, Why::DeletedBelow, path, Becomes::Mine);
            return Ok(());
        }
        if !differs((self.new, path, new), (self.mine, path, mine))?.any() && !by_us.links {
            // Both made the same of it.
            return Ok(());
        }
        if by_us.kind && old.is_dir() {
            // All below it goes with it.
            match self.first_difference(path, old, new)? {
                None => self.becomes(path, Becomes::Mine),
                Some(at) => self.conflict(&at, Why::ChangedOnBoth, path, Becomes::Mine),
            }
            return Ok(());
        }
        let below = differs((self.old, path, old), (self.new, path, new))?;
        let both = by_us.kind && below.any()
            || below.kind
            || by_us.content && below.content
            || by_us.metadata && below.metadata
            || by_us.links && below.any();
        if both {
            self.conflict(path, Why::ChangedOnBoth, path, Becomes::Mine);
        } else if below.any() {
            let side = |ours: bool| if ours { Side::Upper } else { Side::Lower };
            let (content, metadata) = (side(by_us.content), side(by_us.metadata));
            self.becomes(path, Becomes::Mixed { content, metadata });
        } else {
            self.becomes(path, Becomes::Mine);
        }
        Ok(())
    }

    /// The first path at or below this one at which two trees differ.
    fn first_difference(&self, path: &[u8], old: &Node, new: &Node) -> Result<Option<Vec<u8>>> {
        let mut todo = vec![(path.to_vec(), old.clone(), new.clone())];
        while let Some((path, old, new)) = todo.pop() {
            let both = old.winner().is_some() && new.winner().is_some();
            if !both || differs((self.old, &path, &old), (self.new, &path, &new))?.any() {
                return Ok(Some(path));
            }
            if !old.is_dir() {
                continue;
            }
            let mut names: BTreeSet<Vec<u8>> = BTreeSet::new();
            names.extend(self.old.children(&path, &old)?.into_iter().map(|(name, _)| name));
            names.extend(self.new.children(&path, &new)?.into_iter().map(|(name, _)| name));
            for name in names.into_iter().rev() {
                let (old, new) = (self.old.lookup(&old, &name)?, self.new.lookup(&new, &name)?);
                todo.push((joined(&path, &name), old, new));
            }
        }
        Ok(None)
    }

    /// What is new below directories that upper has made opaque: it was made so when nothing of it was there.
    fn opaques(&mut self) -> Result<()> {
        let root = self.mine.root()?;
        let mut todo = vec![(Vec::new(), root, false)];
        while let Some((path, node, inside)) = todo.pop() {
            let Some(part) = node.part(0).filter(|object| object.stat.kind == Kind::Dir) else { continue };
            let opaque = inside || part.opaque == Opaque::Yes && !path.is_empty();
            if opaque {
                self.opaque(&path, &node)?;
            }
            for name in self.mine.names_in(&path, 0, part)? {
                let node = self.mine.lookup(&node, &name)?;
                if matches!(node.at(0).map(|seen| &seen.what), Some(What::Object(_))) {
                    todo.push((joined(&path, &name), node, opaque));
                }
            }
        }
        Ok(())
    }

    fn opaque(&mut self, path: &[u8], mine: &Node) -> Result<()> {
        let (old, new) = (self.old.find(path)?, self.new.find(path)?);
        if !old.is_dir() || !new.is_dir() {
            return Ok(());
        }
        for (name, _) in self.new.children(path, &new)? {
            let is_new = self.old.lookup(&old, &name)?.winner().is_none();
            if is_new && self.mine.lookup(mine, &name)?.winner().is_none() {
                let path = joined(path, &name);
                self.conflict(&path, Why::HiddenByOpaque, &path, Becomes::Whiteout);
            }
        }
        Ok(())
    }
}

/// Whether the layers of two stacks are the same directories: then there is nothing to carry.
pub fn same_layers(old: &Stack, new: &Stack) -> bool {
    let ids = |stack: &Stack, top: usize| -> Vec<_> {
        (top..stack.depth())
            .map(|number| {
                let layer = stack.layer(number);
                layer.stat(acetate_layer::At::Dir(layer.root())).map(|stat| (stat.dev, stat.ino))
            })
            .collect()
    };
    let below = usize::from(old.has_upper());
    ids(old, below) == ids(new, usize::from(new.has_upper()))
}
