//! Redirects and metacopy unfolded: afterwards whatever knows whiteouts and opaque directories reads the layer.

use acetate_layer::mark::{Mark, Opaque, is_private};
use acetate_layer::{Access, At, Kind, Layer, Rename, SetXattr, UpperLayer, work};

use super::copy::{Copier, Flags};
use super::{Act, Site, Step};
use crate::node::{Node, Object, What};
use crate::view::View;
use crate::{Error, Result, Stack, failed, joined, split};

/// What has to be done with the upper layer of a stack, in its order.
///
/// # Errors
/// A layer that cannot be read; [`Error::Broken`] for a mark that leads nowhere.
pub fn plan(stack: &Stack) -> Result<Vec<Step>> {
    let mut plan = Plan { view: stack.merged(), steps: Vec::new(), inside: None };
    let root = plan.view.root()?;
    let mut todo = vec![Todo::Enter(Vec::new(), root)];
    while let Some(next) = todo.pop() {
        match next {
            Todo::Enter(path, node) => {
                let Some(part) = node.part(0) else { continue };
                let mut names = plan.view.names_in(&path, 0, part)?;
                names.sort_by(|a, b| b.cmp(a));
                for name in names {
                    todo.push(Todo::Look(path.clone(), node.clone(), name));
                }
            }
            Todo::Look(dir, parent, name) => {
                let path = joined(&dir, &name);
                let node = plan.view.lookup(&parent, &name)?;
                todo.extend(plan.entry(path, node)?);
            }
            Todo::Unfold(path, node) => {
                plan.inside = None;
                let act = plan.unfold(&path, &node)?;
                plan.steps.push(Step { path, act });
            }
        }
    }
    Ok(plan.steps)
}

/// What is still to be looked at, the next one last.
enum Todo {
    Enter(Vec<u8>, Node),
    Look(Vec<u8>, Node, Vec<u8>),
    /// All below a redirected directory has been seen.
    Unfold(Vec<u8>, Node),
}

struct Plan<'a> {
    view: View<'a>,
    steps: Vec<Step>,
    /// The redirected directory that the walk is in: it is replaced as a whole.
    inside: Option<Vec<u8>>,
}

impl Plan<'_> {
    fn entry(&mut self, path: Vec<u8>, node: Node) -> Result<Vec<Todo>> {
        let Some(What::Object(object)) = node.at(0).map(|seen| &seen.what) else { return Ok(Vec::new()) };
        if let Some(problem) = node.problem {
            return Err(Error::Broken { path, problem });
        }
        match object.stat.kind {
            Kind::File if object.metacopy => {
                let act = Act::Fill { bytes: object.stat.size };
                self.steps.push(Step { path, act });
            }
            Kind::File if self.value(&path, object, Mark::Redirect)?.is_some() => {
                self.steps.push(Step { path, act: Act::Unmark(Mark::Redirect) });
            }
            Kind::Dir => return Ok(self.dir(path, &node, object)),
            _ => {}
        }
        Ok(Vec::new())
    }

    fn dir(&mut self, path: Vec<u8>, node: &Node, object: &Object) -> Vec<Todo> {
        let enter = Todo::Enter(path.clone(), node.clone());
        if object.redirect.is_none() || self.inside.is_some() {
            return vec![enter];
        }
        if object.opaque == Opaque::Yes {
            self.steps.push(Step { path, act: Act::Unmark(Mark::Redirect) });
            return vec![enter];
        }
        if node.parts().nth(1).is_none() {
            self.steps.push(Step { path, act: Act::CutOff });
            return vec![enter];
        }
        self.inside = Some(path.clone());
        vec![Todo::Unfold(path, node.clone()), enter]
    }

    /// What unfolding a directory copies.
    fn unfold(&self, path: &[u8], node: &Node) -> Result<Act> {
        let (mut objects, mut bytes) = (0, 0);
        self.view.visit(path, node, &mut |_, node| {
            if let Some((number, object)) = node.winner()
                && number > 0
            {
                objects += 1;
                bytes += if object.stat.kind == Kind::File { object.stat.size } else { 0 };
            }
            Ok(())
        })?;
        Ok(Act::Unfold { objects, bytes })
    }

    fn value(&self, path: &[u8], object: &Object, mark: Mark) -> Result<Option<Vec<u8>>> {
        self.view.mark(self.view.stack().layer(0), object.at(), mark).map_err(failed(path, "read a mark"))
    }
}

impl Site {
    /// Gives a metacopy file its data: as a complete copy in its place, or, if it has several names, by writing into it
    /// before the mark goes. Until then the data below counts.
    pub(super) fn fill(&self, stack: &Stack, path: &[u8]) -> Result<()> {
        let view = stack.merged();
        let node = view.find(path)?;
        let Some(object) = node.part(0).filter(|object| object.metacopy) else { return Ok(()) };
        if object.stat.nlink > 1 {
            return self.fill_in_place(stack, path, &node);
        }
        let name = self.staging.fresh_name();
        let work = self.layer.work();
        let staged = Copier::new(view, &self.layer, None, Flags::Mark)
            .object(path, &node, work, &name)
            .and_then(|()| self.private_marks(stack, path, &node, &name))
            .and_then(|()| {
                let durable = self.layer.sync(At::Name(work, &name), false);
                durable.map_err(failed(path, "make the copy durable"))
            });
        if let Err(error) = staged {
            return self.give_up(&name, error);
        }
        let (dir, own) = self.place(path)?;
        let held = self.hold(split(path).map_or(&b""[..], |(parent, _)| parent))?;
        self.layer
            .rename((work, &name), (&dir, own), Rename::Replace)
            .map_err(failed(path, "put the copy in its place"))?;
        self.give_back(&held)
    }

    fn fill_in_place(&self, stack: &Stack, path: &[u8], node: &Node) -> Result<()> {
        let (_, object) = stack.merged().shown(path, node)?;
        let size = object.stat.size;
        let Some((number, source)) = node.data() else {
            let problem = node.problem.unwrap_or(crate::Problem::NoData);
            return Err(Error::Broken { path: path.to_vec(), problem });
        };
        let from = stack.layer(number).open_file(source.at(), Access::Read).map_err(failed(path, "open"))?;
        let (dir, name) = self.place(path)?;
        let held = self.hold(path)?;
        let at = At::Name(&dir, name);
        let to = self.layer.open_file(at, Access::Write).map_err(failed(path, "open"))?;
        let filled = self
            .layer
            .copy_data(&from, &to, size, &|| true)
            .and_then(|()| self.layer.sync(At::Open(&to), false));
        // Given back in any case: its attributes are shown, whether its data is or not.
        self.give_back(&held)?;
        filled.map_err(failed(path, "copy the data"))?;
        self.unmark(path, Mark::Metacopy)?;
        self.unmark(path, Mark::Redirect)
    }

    /// Puts an opaque directory with all that is shown in place of a redirected one.
    pub(super) fn unfold(&self, stack: &Stack, path: &[u8]) -> Result<()> {
        let view = stack.merged();
        let node = view.find(path)?;
        let work = self.layer.work();
        let name = self.staging.fresh_name();
        let made = Copier::new(view, &self.layer, Some(&self.layer), Flags::Mark)
            .tree(path, &node, work, &name)
            .and_then(|()| self.private_marks(stack, path, &node, &name))
            .and_then(|()| {
                let opaque = self.dialect.name(Mark::Opaque);
                let marked = self.layer.set_xattr(At::Name(work, &name), opaque, b"y", SetXattr::Any);
                marked.and_then(|()| self.layer.sync_fs()).map_err(failed(path, "complete the copy"))
            });
        match made {
            Ok(()) => self.exchange(&name, path),
            Err(error) => self.give_up(&name, error),
        }
    }

    /// Removes what was staged of a step that failed.
    fn give_up(&self, staged: &[u8], error: Error) -> Result<()> {
        // Why it failed matters more than what is left of it, which the next mount sweeps.
        let _left_behind = work::remove_tree(&self.layer, self.layer.work(), staged);
        Err(error)
    }

    /// Gives the staged copy of an object the marks of the old one, but for those that say where it goes on below.
    fn private_marks(&self, stack: &Stack, path: &[u8], node: &Node, staged: &[u8]) -> Result<()> {
        let Some(old) = node.part(0) else { return Ok(()) };
        let to = At::Name(self.layer.work(), staged);
        let below = [Mark::Redirect, Mark::Opaque, Mark::Metacopy].map(|mark| self.dialect.name(mark));
        let copied = || {
            let layer = stack.layer(0);
            for name in layer.list_xattrs(old.at())? {
                if below.contains(&name.as_slice()) || !is_private(self.dialect, &name) {
                    continue;
                }
                if let Some(value) = layer.get_xattr(old.at(), &name)? {
                    self.layer.set_xattr(to, &name, &value, SetXattr::Any)?;
                }
            }
            Ok(())
        };
        copied().map_err(failed(path, "set marks on its copy"))
    }
}
