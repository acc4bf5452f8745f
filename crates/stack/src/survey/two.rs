//! A survey of two trees that are no layers of one another: the new one takes the part of a layer over the old one.

use std::collections::HashMap;

use super::{Entry, Fate, Part, Survey, Totals};
use crate::diff::{How as Differs, Options, between};
use crate::node::{How, Node};
use crate::view::View;
use crate::{Result, joined};
use acetate_layer::Kind;

/// The numbers of the two trees.
const NEW: usize = 0;
const OLD: usize = 1;

/// A directory of one or both trees that is still to be walked.
struct Pair {
    entry: usize,
    path: Vec<u8>,
    old: Option<Node>,
    new: Option<Node>,
    /// The entry that hides what the old tree has here.
    gone: Option<(usize, How)>,
    names: std::vec::IntoIter<Vec<u8>>,
}

impl Survey {
    /// What changes one tree into another one, as if the second were a layer over the first. What is the same in both is
    /// a part of the old one alone.
    ///
    /// # Errors
    /// A tree that cannot be read.
    pub fn of_two(old: View<'_>, new: View<'_>) -> Result<Survey> {
        let changes = between(old, new, Options::default())?;
        let changed = changes.iter().map(|change| (change.path.as_slice(), &change.how)).collect();
        let mut walk = Two { old, new, changed, entries: Vec::new() };
        walk.run()?;
        let mut survey = Survey { entries: walk.entries, layers: vec![Totals::default(); 2] };
        survey.count();
        Ok(survey)
    }
}

struct Two<'a> {
    old: View<'a>,
    new: View<'a>,
    changed: HashMap<&'a [u8], &'a Differs>,
    entries: Vec<Entry>,
}

impl Two<'_> {
    fn run(&mut self) -> Result<()> {
        let roots = (Some(self.old.root()?), Some(self.new.root()?));
        let mut todo: Vec<Pair> = self.enter(Vec::new(), Vec::new(), 0, roots, None)?.into_iter().collect();
        while let Some(pair) = todo.last_mut() {
            let Some(name) = pair.names.next() else {
                todo.pop();
                continue;
            };
            let find = |view: View<'_>, dir: &Option<Node>| -> Result<Option<Node>> {
                let Some(dir) = dir else { return Ok(None) };
                Ok(Some(view.lookup(dir, &name)?).filter(|node| node.winner().is_some()))
            };
            let nodes = (find(self.old, &pair.old)?, find(self.new, &pair.new)?);
            let (path, parent, gone) = (joined(&pair.path, &name), pair.entry, pair.gone);
            todo.extend(self.enter(path, name, parent, nodes, gone)?);
        }
        Ok(())
    }

    fn enter(
        &mut self,
        path: Vec<u8>,
        name: Vec<u8>,
        parent: usize,
        (old, new): (Option<Node>, Option<Node>),
        gone: Option<(usize, How)>,
    ) -> Result<Option<Pair>> {
        let entry = self.entries.len();
        let is_changed = self.changed.contains_key(path.as_slice());
        let is_dir = |node: &Option<Node>| node.as_ref().is_some_and(Node::is_dir);
        let merges = is_dir(&old) && is_dir(&new);
        let mut parts = Vec::new();
        let mut here = gone;
        if let Some(node) = &new
            && (old.is_none() || is_changed)
        {
            parts.push(part(NEW, node, Fate::Shown));
            here = here.or((old.is_some() && !merges).then_some((entry, How::Object)));
        }
        if new.is_none() && old.is_some() && gone.is_none() {
            parts.push(Part {
                layer: NEW,
                kind: None,
                opaque: false,
                bytes: 0,
                from: None,
                fate: Fate::Shown,
            });
            here = Some((entry, How::Whiteout));
        }
        if let Some(node) = &old {
            let fate = match here {
                Some((at, how)) => Fate::Hidden { by: NEW, at, how },
                None if parts.is_empty() => Fate::Shown,
                None => Fate::Part,
            };
            parts.push(part(OLD, node, fate));
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let mut names = Vec::new();
        for (view, node) in [(self.old, &old), (self.new, &new)] {
            if let Some(node) = node.as_ref().filter(|node| node.is_dir()) {
                names.extend(view.names(&path, node)?);
            }
        }
        names.sort();
        names.dedup();
        self.entries.push(Entry { name, parent, parts });
        Ok(Some(Pair { entry, path, old, new, gone: here, names: names.into_iter() }))
    }
}

fn part(layer: usize, node: &Node, fate: Fate) -> Part {
    let stat = node.winner().map(|(_, object)| &object.stat);
    let bytes = stat.filter(|stat| stat.kind == Kind::File).map_or(0, |stat| stat.size);
    Part { layer, kind: node.kind(), opaque: false, bytes, from: None, fate }
}
