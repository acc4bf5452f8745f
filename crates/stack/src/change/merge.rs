//! An upper layer folded into the layer below it, or into a copy of that.
//!
//! Every change of the lower layer is hidden by what upper has at the same path, so the stack shows the same all the
//! time. Only when the lower layer holds all of upper is upper emptied, a directory's opaque mark before what is in it.

use std::path::{Path, PathBuf};

use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::mark::{Mark, Opaque};
use acetate_layer::work::{self, Staging, WhiteoutForm};
use acetate_layer::{At, Errno, Kind, Layer, Owner, Rename, SetXattr, UpperLayer};

use super::copy::{Copier, Flags};
use super::{Act, Site, Step, from_layer, site, view_from};
use crate::node::{Node, Object, What};
use crate::{Error, Result, Stack, failed, joined, split};

/// A step in the lower layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// The path from the root of the layer.
    pub path: Vec<u8>,
    /// What becomes of it.
    pub into: Into,
}

/// What becomes of a path of the lower layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// The object that upper has there, which is no directory.
    Object {
        /// Length of its data in bytes.
        bytes: u64,
    },
    /// All that is shown there, in a directory of its own: upper has a redirected one.
    Tree {
        /// It has to hide what lies below the lower layer.
        opaque: bool,
    },
    /// An empty directory, in place of what is there.
    Dir {
        /// It has to hide what lies below the lower layer.
        opaque: bool,
    },
    /// A directory with the attributes of upper's, all in it having been done.
    Attributes,
    /// Nothing.
    Nothing,
    /// A whiteout: there is something below the lower layer.
    Whiteout,
}

/// What has to be done with the topmost lower layer of a stack, in its order.
///
/// # Errors
/// A layer that cannot be read; [`Error::Broken`] for a mark that leads nowhere.
pub fn plan(stack: &Stack) -> Result<Vec<Fold>> {
    let mut plan = Plan { stack, steps: Vec::new() };
    let root = stack.merged().root()?;
    let low = from_layer(&root, 1);
    let mut todo = vec![Todo::Enter(Vec::new(), root, low)];
    while let Some(next) = todo.pop() {
        match next {
            Todo::Enter(path, node, low) => {
                let Some(part) = node.part(0) else { continue };
                let mut names = stack.merged().names_in(&path, 0, part)?;
                names.sort_by(|a, b| b.cmp(a));
                todo.push(Todo::Leave(path.clone()));
                for name in names {
                    todo.push(Todo::Look(path.clone(), node.clone(), low.clone(), name));
                }
            }
            Todo::Look(dir, parent, low, name) => {
                let path = joined(&dir, &name);
                todo.extend(plan.entry(path, &parent, &low, &name)?);
            }
            Todo::Leave(path) => plan.steps.push(Fold { path, into: Into::Attributes }),
        }
    }
    Ok(plan.steps)
}

/// What is still to be looked at, the next one last. The second node is what the lower layer's directory, as it will be,
/// and those below it have.
enum Todo {
    Enter(Vec<u8>, Node, Node),
    Look(Vec<u8>, Node, Node, Vec<u8>),
    Leave(Vec<u8>),
}

struct Plan<'a> {
    stack: &'a Stack,
    steps: Vec<Fold>,
}

impl Plan<'_> {
    fn entry(&mut self, path: Vec<u8>, parent: &Node, low: &Node, name: &[u8]) -> Result<Option<Todo>> {
        let node = self.stack.merged().lookup(parent, name)?;
        if let Some(problem) = node.problem {
            return Err(Error::Broken { path, problem });
        }
        let target = view_from(self.stack, 1).lookup(low, name)?;
        // What is below the lower layer, whatever that has at this name.
        let under = view_from(self.stack, 2).lookup(&from_layer(low, 2), name)?;
        let there = target.at(1).map(|seen| &seen.what);
        let object = match node.at(0).map(|seen| &seen.what) {
            None | Some(What::Absent) => return Ok(None),
            Some(What::Whiteout(_)) => {
                match (under.winner(), there) {
                    (Some(_), Some(What::Whiteout(_))) | (None, None | Some(What::Absent)) => {}
                    (Some(_), _) => self.steps.push(Fold { path, into: Into::Whiteout }),
                    (None, _) => self.steps.push(Fold { path, into: Into::Nothing }),
                }
                return Ok(None);
            }
            Some(What::Object(object)) => object,
        };
        if object.stat.kind != Kind::Dir {
            let bytes = if object.stat.kind == Kind::File { object.stat.size } else { 0 };
            self.steps.push(Fold { path, into: Into::Object { bytes } });
            return Ok(None);
        }
        self.dir(path, node.clone(), object, target, under)
    }

    fn dir(
        &mut self,
        path: Vec<u8>,
        node: Node,
        object: &Object,
        target: Node,
        under: Node,
    ) -> Result<Option<Todo>> {
        let opaque = object.opaque == Opaque::Yes;
        if !opaque && object.redirect.is_some() && node.parts().nth(1).is_some() {
            self.steps.push(Fold { path, into: Into::Tree { opaque: under.is_dir() } });
            return Ok(None);
        }
        let cut_off = opaque || object.redirect.is_some();
        let there = target.at(1).map(|seen| &seen.what);
        let low = match there {
            Some(What::Object(there)) if !cut_off && there.stat.kind == Kind::Dir => target,
            None | Some(What::Absent) if !cut_off => {
                self.steps.push(Fold { path: path.clone(), into: Into::Dir { opaque: false } });
                under
            }
            _ => {
                let into = Into::Dir { opaque: under.is_dir() };
                self.steps.push(Fold { path: path.clone(), into });
                Node { seen: Vec::new(), problem: None }
            }
        };
        Ok(Some(Todo::Enter(path, node, low)))
    }
}

/// What empties an upper layer that the layer below has taken in.
///
/// # Errors
/// A layer that cannot be read.
pub fn clearing(stack: &Stack) -> Result<Vec<Step>> {
    let view = stack.merged();
    let mut steps = Vec::new();
    let root = view.root()?;
    let mut todo = vec![(Vec::new(), root, false)];
    while let Some((path, node, done)) = todo.pop() {
        let remove = |bytes| Step { path: path.clone(), act: Act::Remove { bytes } };
        let Some(object) = node.part(0).filter(|object| object.stat.kind == Kind::Dir) else {
            let object = node.part(0).filter(|object| object.stat.kind == Kind::File);
            steps.push(remove(object.map_or(0, |object| object.stat.size)));
            continue;
        };
        if done {
            steps.push(remove(0));
            continue;
        }
        if !path.is_empty() {
            if object.opaque == Opaque::Yes {
                steps.push(Step { path: path.clone(), act: Act::Unmark(Mark::Opaque) });
            }
            todo.push((path.clone(), node.clone(), true));
        }
        let mut names = view.names_in(&path, 0, object)?;
        names.sort_by(|a, b| b.cmp(a));
        for name in names {
            todo.push((joined(&path, &name), view.lookup(&node, &name)?, false));
        }
    }
    Ok(steps)
}

/// Where objects of a lower layer are made before they are put into it.
#[derive(Debug)]
pub struct Lower {
    layer: DirLayer,
    staging: Staging,
    /// The staging directory: the directory that the layer is in, and its name there.
    own: (DirLayer, Vec<u8>),
}

/// The name of the staging directory of a lower layer, in the directory that the layer is in.
fn staging_name(lower: &Path) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    Some([b".", lower.file_name()?.as_bytes(), b".acetate-merge"].concat())
}

impl Lower {
    /// Opens a lower layer for writing: with a staging directory of its own beside it, which is swept.
    ///
    /// # Errors
    /// A directory that cannot be opened or made; [`Error::Elsewhere`] if the layer is the root of a filesystem.
    pub fn open(lower: &Path, stack: &Stack) -> Result<Lower> {
        let opened = |errno| Error::Open { path: lower.to_owned(), errno };
        let elsewhere = || Error::Elsewhere(lower.to_owned());
        let parent: PathBuf = lower.parent().ok_or_else(elsewhere)?.to_owned();
        let name = staging_name(lower).ok_or_else(elsewhere)?;
        let mut layer = DirLayer::open_upper(lower).map_err(opened)?;
        let above = DirLayer::open_upper(&parent).map_err(opened)?;
        match work::remove_tree(&above, above.root(), &name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(opened(errno)),
        }
        above.make_dir(above.root(), &name, 0o700, Owner::Mounter).map_err(opened)?;
        let path = {
            use std::os::unix::ffi::OsStrExt;
            parent.join(std::ffi::OsStr::from_bytes(&name))
        };
        let staged = layer.open_workdir(&path);
        let own = (above, name);
        let work = match staged {
            Ok(work) => work,
            Err(errno) => {
                Lower { layer, staging: Staging::new(stack.dialect(), WhiteoutForm::Device), own }.close()?;
                return Err(if errno == Errno::INVAL { elsewhere() } else { opened(errno) });
            }
        };
        layer.set_work(work);
        let abilities = work::probe(&layer, Some(stack.dialect())).map_err(opened)?;
        let staging = Staging::new(stack.dialect(), abilities.whiteouts);
        Ok(Lower { layer, staging, own })
    }

    /// Does the steps, in their order. `site` is the upper layer if it is given up afterwards: then its objects are not
    /// copied but get further names, where that can be done.
    ///
    /// # Errors
    /// Those of the filesystems; [`Error::Inexpressible`] for an append-only or immutable object.
    pub fn run(&self, stack: &Stack, steps: &[Fold], site: Option<&Site>) -> Result<()> {
        let mut copier =
            Copier::new(stack.merged(), &self.layer, site.map(|site| &site.layer), Flags::Refuse);
        for step in steps {
            let done = self.step(stack, step, &mut copier);
            if done.is_err() {
                // Why it failed matters more than what is left in the staging directory.
                let _swept_later = self.sweep();
            }
            done?;
        }
        self.layer.sync_fs().map_err(failed(b"", "make the lower layer durable"))
    }

    /// Removes the staging directory.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn close(self) -> Result<()> {
        self.sweep().map_err(failed(b"", "remove the staging directory of the lower layer"))
    }

    fn sweep(&self) -> acetate_layer::Result<()> {
        let (above, name) = &self.own;
        match work::remove_tree(above, above.root(), name) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    fn step(&self, stack: &Stack, step: &Fold, copier: &mut Copier<'_>) -> Result<()> {
        let path = step.path.as_slice();
        let node = stack.merged().find(path)?;
        if step.into == Into::Attributes {
            let dir = site::open(&self.layer, self.layer.root(), path).map_err(failed(path, "open"))?;
            return copier.attributes(path, &node, At::Dir(&dir));
        }
        let (parent, name) = split(path).ok_or_else(|| failed(path, "open")(Errno::INVAL))?;
        let dir = site::open(&self.layer, self.layer.root(), parent).map_err(failed(parent, "open"))?;
        let work = self.layer.work();
        let opaque = match step.into {
            Into::Nothing => return self.clear(&dir, name).map_err(failed(path, "remove")),
            Into::Whiteout => {
                let staged = self.staging.whiteout(&self.layer).map_err(failed(path, "make a whiteout"))?;
                let staged = staged.disarm();
                self.announce(stack, &dir).map_err(failed(parent, "mark for whiteouts"))?;
                return self.publish(&staged, &dir, name).map_err(failed(path, "put a whiteout"));
            }
            Into::Tree { opaque } | Into::Dir { opaque } => opaque,
            Into::Object { .. } | Into::Attributes => false,
        };
        let staged = self.staging.fresh_name();
        match step.into {
            Into::Tree { .. } => copier.tree(path, &node, work, &staged)?,
            Into::Dir { .. } => self
                .layer
                .make_dir(work, &staged, 0o700, Owner::Mounter)
                .map_err(failed(path, "make the directory"))?,
            _ => {
                copier.object(path, &node, work, &staged)?;
                self.plain(stack, &staged).map_err(failed(path, "remove a mark"))?;
            }
        }
        if opaque {
            self.layer
                .set_xattr(At::Name(work, &staged), stack.dialect().name(Mark::Opaque), b"y", SetXattr::Any)
                .map_err(failed(path, "set a mark"))?;
        }
        self.publish(&staged, &dir, name).map_err(failed(path, "put it in its place"))?;
        if let Into::Object { .. } = step.into {
            copier.renamed(&dir, name);
        }
        Ok(())
    }

    /// Takes the marks from an object that upper has given another name: what it was copied from means nothing here.
    fn plain(&self, stack: &Stack, staged: &[u8]) -> acetate_layer::Result<()> {
        for mark in [Mark::Origin, Mark::Nlink] {
            let at = At::Name(self.layer.work(), staged);
            match self.layer.remove_xattr(at, stack.dialect().name(mark)) {
                // No such mark; an object that can have none.
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Says that a directory holds whiteouts of the form that needs saying.
    fn announce(&self, stack: &Stack, dir: &Dir) -> acetate_layer::Result<()> {
        let name = stack.dialect().name(Mark::Opaque);
        if self.staging.form() == WhiteoutForm::Xattr && self.layer.get_xattr(At::Dir(dir), name)?.is_none() {
            self.layer.set_xattr(At::Dir(dir), name, b"x", SetXattr::Any)?;
        }
        Ok(())
    }

    /// Puts a staged object in place of whatever is there.
    fn publish(&self, staged: &[u8], dir: &Dir, name: &[u8]) -> acetate_layer::Result<()> {
        let work = self.layer.work();
        let is_dir = |at| match self.layer.stat(at) {
            Err(Errno::NOENT) => Ok(None),
            other => other.map(|stat| Some(stat.kind == Kind::Dir)),
        };
        let new = is_dir(At::Name(work, staged))?;
        match is_dir(At::Name(dir, name))? {
            Some(old) if old || new == Some(true) => {
                self.layer.rename((work, staged), (dir, name), Rename::Exchange)?;
                work::remove_tree(&self.layer, work, staged)
            }
            _ => self.layer.rename((work, staged), (dir, name), Rename::Replace),
        }
    }

    /// Removes whatever is there.
    fn clear(&self, dir: &Dir, name: &[u8]) -> acetate_layer::Result<()> {
        match self.layer.stat(At::Name(dir, name)) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
            Ok(stat) if stat.kind == Kind::Dir => {
                let work = self.layer.work();
                let staged = self.staging.fresh_name();
                self.layer.rename((dir, name), (work, &staged), Rename::NoReplace)?;
                work::remove_tree(&self.layer, work, &staged)
            }
            Ok(_) => self.layer.unlink(dir, name),
        }
    }
}
