//! What an upper layer holds in vain: copies that equal what is below, whiteouts that hide nothing, opaque marks over
//! nothing.

use acetate_layer::Kind;
use acetate_layer::mark::{Mark, Opaque};

use super::{Act, Step, from_layer};
use crate::diff::differs;
use crate::node::{Node, Object, What};
use crate::view::View;
use crate::{Error, Result, Stack, failed, joined};

/// What counts as equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Modification times do: nothing that is shown changes.
    Count,
    /// A copy is removed that only differs from what is below by its modification time, which is then shown.
    Ignored,
}

/// What can be removed from the upper layer of a stack, what is in a directory before the directory.
///
/// # Errors
/// A layer that cannot be read; [`Error::Broken`] for a mark that leads nowhere.
pub fn plan(stack: &Stack, times: Times) -> Result<Vec<Step>> {
    let mut plan = Plan { view: stack.merged(), below: stack.below(), times, steps: Vec::new() };
    let root = plan.view.root()?;
    let mut frames = vec![plan.enter(Vec::new(), root, None)?];
    while let Some(top) = frames.last_mut() {
        let Some(name) = top.left.pop() else {
            let Some(done) = frames.pop() else { break };
            let kept = plan.leave(&done)?;
            if let Some(above) = frames.last_mut() {
                above.kept |= kept;
            }
            continue;
        };
        let path = joined(&top.path, &name);
        let node = plan.view.lookup(&top.node, &name)?;
        let under = plan.below.lookup(&from_layer(&top.node, 1), &name)?;
        if let Some(problem) = node.problem {
            return Err(Error::Broken { path, problem });
        }
        match node.at(0).map(|seen| &seen.what) {
            Some(What::Whiteout(_)) if under.winner().is_none() => {
                plan.steps.push(Step { path, act: Act::Unhide });
            }
            Some(What::Object(object)) if object.stat.kind == Kind::Dir => {
                let frame = plan.enter(path, node, Some(under))?;
                frames.push(frame);
            }
            Some(What::Object(object)) if plan.is_vain(&path, &node, object, &under)? => {
                let bytes = if object.stat.kind == Kind::File { object.stat.size } else { 0 };
                plan.steps.push(Step { path, act: Act::Remove { bytes } });
            }
            Some(What::Object(_) | What::Whiteout(_)) => top.kept = true,
            Some(What::Absent) | None => {}
        }
    }
    Ok(plan.steps)
}

struct Plan<'a> {
    view: View<'a>,
    below: View<'a>,
    times: Times,
    steps: Vec<Step>,
}

/// A directory of upper.
struct Frame {
    path: Vec<u8>,
    node: Node,
    /// What would be shown without it; nothing is without the root.
    under: Option<Node>,
    left: Vec<Vec<u8>>,
    /// Something in it stays.
    kept: bool,
}

impl Plan<'_> {
    fn enter(&self, path: Vec<u8>, node: Node, under: Option<Node>) -> Result<Frame> {
        let mut left = match node.part(0) {
            Some(part) => self.view.names_in(&path, 0, part)?,
            None => Vec::new(),
        };
        left.sort_by(|a, b| b.cmp(a));
        Ok(Frame { path, node, under, left, kept: false })
    }

    /// Decides about a directory when all in it is decided. Returns whether it stays.
    fn leave(&mut self, done: &Frame) -> Result<bool> {
        let (Some(under), Some(object)) = (&done.under, done.node.part(0)) else { return Ok(true) };
        let path = done.path.clone();
        let same_below = under.is_dir() && under.ids_from(1) == done.node.ids_from(1);
        if !done.kept && same_below && self.looks_same(&path, &done.node, object, under)? {
            self.steps.push(Step { path, act: Act::Remove { bytes: 0 } });
            return Ok(false);
        }
        if object.opaque == Opaque::Yes && object.redirect.is_none() && !under.is_dir() {
            self.steps.push(Step { path, act: Act::Unmark(Mark::Opaque) });
        }
        Ok(true)
    }

    /// Whether an object that is no directory equals what is below. One of several names stays: what it shares a file
    /// with would change.
    fn is_vain(&self, path: &[u8], node: &Node, object: &Object, under: &Node) -> Result<bool> {
        let Some((_, below)) = under.winner() else { return Ok(false) };
        Ok(object.stat.nlink == 1
            && below.stat.nlink == 1
            && below.stat.kind == object.stat.kind
            && self.looks_same(path, node, object, under)?)
    }

    fn looks_same(&self, path: &[u8], node: &Node, object: &Object, under: &Node) -> Result<bool> {
        let Some((_, below)) = under.winner() else { return Ok(false) };
        if self.times == Times::Count && below.stat.mtime != object.stat.mtime {
            return Ok(false);
        }
        let protected = match object.stat.kind {
            Kind::File | Kind::Dir => {
                let layer = self.view.stack().layer(0);
                let mark = self.view.mark(layer, object.at(), Mark::ProtAttr);
                mark.map_err(failed(path, "read a mark"))?.is_some()
            }
            _ => false,
        };
        if protected || below.stat.immutable || below.stat.append_only {
            return Ok(false);
        }
        Ok(!differs((self.below, path, under), (self.view, path, node))?.any())
    }
}
