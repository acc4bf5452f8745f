//! The walk through an upper layer.

use std::collections::HashMap;

use acetate_layer::dir::DirLayer;
use acetate_layer::mark::{Dialect, Mark, Opaque};
use acetate_layer::{At, Errno, Kind as Type, Layer, Stat};

use super::{Finding, Kind, Origin, Origins, Place, Repair};
use crate::node::{Node, Object, What};
use crate::view::View;
use crate::{Problem, Result, Stack, failed, joined, split};

/// What fuse-overlayfs calls its own.
const FUSE_OVERLAYFS: &[u8] = b"user.fuseoverlayfs.";

pub(super) struct Walk<'a> {
    stack: &'a Stack,
    origins: &'a Origins<'a>,
    view: View<'a>,
    found: Vec<Finding>,
    /// The paths that lead to lower directories.
    leads: HashMap<(u64, u64), Vec<u8>>,
    /// Redirected directories: the old path and the new one.
    redirected: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A directory of upper that is still to be looked into.
struct Open {
    path: Vec<u8>,
    /// Its path in the layers below.
    old: Vec<u8>,
    node: Node,
}

impl<'a> Walk<'a> {
    pub(super) fn new(stack: &'a Stack, origins: &'a Origins<'a>) -> Self {
        let view = stack.merged();
        Walk { stack, origins, view, found: Vec::new(), leads: HashMap::new(), redirected: Vec::new() }
    }

    pub(super) fn run(mut self) -> Result<Vec<Finding>> {
        let root = self.view.root()?;
        self.root(&root)?;
        let mut todo = vec![Open { path: Vec::new(), old: Vec::new(), node: root }];
        while let Some(open) = todo.pop() {
            let Some(part) = open.node.part(0) else { continue };
            let mut names = self.view.names_in(&open.path, 0, part)?;
            names.sort();
            let mut copies = false;
            for name in names {
                let node = self.view.lookup(&open.node, &name)?;
                todo.extend(self.entry(&open, &name, node, &mut copies)?);
            }
            if copies && self.value(&open.path, part.at(), Mark::Impure)?.is_none() {
                let repair = self.set(Mark::Impure, b"y");
                self.add(
                    Kind::ImpureMissing,
                    &open.path,
                    "holds copies, and has no impure mark",
                    Some(repair),
                );
            }
        }
        self.uncovered()?;
        self.found.sort_by(|a, b| a.path.cmp(&b.path).then(a.kind.cmp(&b.kind)));
        Ok(self.found)
    }

    fn layer(&self) -> &'a DirLayer {
        self.stack.layer(0)
    }

    fn add(&mut self, kind: Kind, path: &[u8], what: impl Into<String>, repair: Option<Repair>) {
        self.found.push(Finding {
            kind,
            place: Place::Upper,
            path: path.to_vec(),
            what: what.into(),
            repair,
        });
    }

    fn set(&self, mark: Mark, value: &[u8]) -> Repair {
        Repair::SetMark { name: self.stack.dialect().name(mark).to_vec(), value: value.to_vec() }
    }

    fn drop_mark(&self, mark: Mark) -> Repair {
        Repair::DropMark { name: self.stack.dialect().name(mark).to_vec() }
    }

    fn value(&self, path: &[u8], at: At<'_, DirLayer>, mark: Mark) -> Result<Option<Vec<u8>>> {
        self.view.mark(self.layer(), at, mark).map_err(failed(path, "read a mark"))
    }

    fn root(&mut self, root: &Node) -> Result<()> {
        let at = At::Dir(self.layer().root());
        self.foreign_marks(b"", at)?;
        let Some(value) = self.value(b"", at, Mark::Origin)? else { return Ok(()) };
        let lower = root.parts().nth(1).map(|(_, object)| object.id());
        match self.origins.find(b"", &value)? {
            Origin::Object(dev, ino) if lower != Some((dev, ino)) => {
                let repair = Some(self.drop_mark(Mark::Origin));
                self.add(Kind::LowerChanged, b"", "was mounted over another lower layer", repair);
            }
            Origin::Gone | Origin::Invalid => {
                let repair = Some(self.drop_mark(Mark::Origin));
                self.add(Kind::LowerChanged, b"", "was mounted over a lower layer that is gone", repair);
            }
            Origin::Object(..) | Origin::Unknown => {}
        }
        Ok(())
    }

    /// Checks one entry of an upper directory; a directory is still to be looked into.
    fn entry(&mut self, open: &Open, name: &[u8], node: Node, copies: &mut bool) -> Result<Option<Open>> {
        let path = joined(&open.path, name);
        let Some(seen) = node.at(0) else { return Ok(None) };
        let object = match &seen.what {
            What::Absent => return Ok(None),
            What::Whiteout(_) => {
                self.whiteout(open, name, &path)?;
                return Ok(None);
            }
            What::Object(object) => object,
        };
        if name.starts_with(b".wh.") && is_marker(&object.stat) {
            self.aufs_marker(&open.path, name, &path);
            return Ok(None);
        }
        self.foreign_marks(&path, object.at())?;
        self.origin(&path, &node, object, copies)?;
        if let Some(problem) = node.problem {
            self.problem(&path, object, problem);
        }
        if object.stat.kind != Type::Dir {
            return Ok(None);
        }
        let old = self.redirect(open, name, &path, &node, object);
        Ok(Some(Open { path, old, node }))
    }

    fn whiteout(&mut self, open: &Open, name: &[u8], path: &[u8]) -> Result<()> {
        let seen = open.node.seen.iter().filter(|seen| seen.layer > 0).cloned().collect();
        let below = Node { seen, problem: None };
        if self.stack.below().lookup(&below, name)?.winner().is_none() {
            let repair = Some(Repair::Remove);
            self.add(Kind::WhiteoutOrphan, path, "a whiteout that hides nothing", repair);
        }
        Ok(())
    }

    fn problem(&mut self, path: &[u8], object: &Object, problem: Problem) {
        let is_dir = object.stat.kind == Type::Dir;
        let (kind, repair) = match problem {
            Problem::NoData => (Kind::MetacopyNoData, Some(Repair::PutAside)),
            // Whose marks these are is not known.
            Problem::Refused => (Kind::RedirectBroken, None),
            Problem::BadRedirect if is_dir => (Kind::RedirectBroken, Some(self.cut_off())),
            Problem::BadRedirect => (Kind::RedirectBroken, Some(Repair::PutAside)),
        };
        self.add(kind, path, problem.to_string(), repair);
    }

    /// Makes a directory opaque in place of redirected: its own entries stay as they are shown.
    fn cut_off(&self) -> Repair {
        let dialect = self.stack.dialect();
        Repair::CutOff {
            opaque: dialect.name(Mark::Opaque).to_vec(),
            redirect: dialect.name(Mark::Redirect).to_vec(),
        }
    }

    /// Checks where a directory leads to; returns its path in the layers below.
    fn redirect(&mut self, open: &Open, name: &[u8], path: &[u8], node: &Node, object: &Object) -> Vec<u8> {
        let lower = node.parts().nth(1).map(|(_, object)| object.id());
        let mut old = joined(&open.old, name);
        let opaque = object.opaque == Opaque::Yes;
        if let Some(redirect) = object.follows().filter(|_| !opaque && node.problem.is_none()) {
            old = match redirect {
                acetate_layer::mark::Redirect::Relative(name) => joined(&open.old, &name),
                acetate_layer::mark::Redirect::Absolute(names) => names.join(&b'/'),
            };
            if lower.is_none() {
                let what = format!("its redirect to {} leads nowhere", old.escape_ascii());
                self.add(Kind::RedirectBroken, path, what, Some(self.cut_off()));
            } else {
                self.redirected.push((old.clone(), path.to_vec()));
            }
        }
        let Some(id) = lower else { return old };
        if let Some(other) = self.leads.get(&id) {
            // Below two paths that lead to one directory, all others do as well.
            let known = |path: &[u8]| {
                let dup = |f: &Finding| f.kind == Kind::RedirectDuplicate && path.starts_with(&f.path);
                self.found.iter().any(dup)
            };
            if !known(path) && !known(other) {
                let what = format!("leads to the same lower directory as {}", other.escape_ascii());
                let repair = object.redirect.is_some().then(|| self.cut_off());
                self.add(Kind::RedirectDuplicate, path, what, repair);
            }
        } else {
            self.leads.insert(id, path.to_vec());
        }
        old
    }

    /// Redirects to directories that are still shown at their own path, where upper has nothing.
    fn uncovered(&mut self) -> Result<()> {
        for (old, new) in std::mem::take(&mut self.redirected) {
            if self.found.iter().any(|f| f.kind == Kind::RedirectDuplicate && f.path == new) {
                continue;
            }
            let (there, here) = (self.view.find(&old)?, self.view.find(&new)?);
            let lower = here.ids_from(1);
            if there.part(0).is_some() || there.ids_from(1) != lower || lower.is_empty() {
                continue;
            }
            let parent = split(&old).map(|(parent, _)| self.view.find(parent)).transpose()?;
            let covered = parent.is_some_and(|parent| parent.part(0).is_some());
            let what = format!("leads to {}, which is shown there as well", old.escape_ascii());
            let repair = if covered { Repair::Cover { path: old } } else { self.cut_off() };
            self.add(Kind::RedirectDuplicate, &new, what, Some(repair));
        }
        Ok(())
    }

    fn origin(&mut self, path: &[u8], node: &Node, object: &Object, copies: &mut bool) -> Result<()> {
        let Some(value) = self.value(path, object.at(), Mark::Origin)? else { return Ok(()) };
        let repair = Some(self.drop_mark(Mark::Origin));
        let origin = self.origins.find(path, &value)?;
        // What names nothing gives a copy no other number.
        *copies |= matches!(origin, Origin::Object(..) | Origin::Gone);
        match origin {
            Origin::Invalid => self.add(Kind::OriginStale, path, "its origin mark is malformed", repair),
            Origin::Gone => self.add(Kind::OriginStale, path, "its origin is gone", repair),
            Origin::Object(dev, ino) if object.stat.kind == Type::Dir => {
                let lower = node.parts().nth(1).map(|(_, object)| object.id());
                if lower.is_some_and(|lower| lower != (dev, ino)) {
                    let what = "what lies below is not the directory that it was copied from";
                    self.add(Kind::LowerChanged, path, what, repair);
                }
            }
            Origin::Object(..) | Origin::Unknown => {}
        }
        Ok(())
    }

    /// Marks that mean something to others only.
    fn foreign_marks(&mut self, path: &[u8], at: At<'_, DirLayer>) -> Result<()> {
        let names = match self.layer().list_xattrs(at) {
            Err(Errno::OPNOTSUPP) => return Ok(()),
            other => other.map_err(failed(path, "list the attributes"))?,
        };
        let other = match self.stack.dialect() {
            Dialect::Trusted => Dialect::User,
            Dialect::User => Dialect::Trusted,
        };
        for name in names {
            let what = |by: &str| format!("{}: a mark of {by}", name.escape_ascii());
            if name == b"user.fuseoverlayfs.opaque" {
                let opaque = self.stack.dialect().name(Mark::Opaque).to_vec();
                let repair = Repair::Translate { from: name.clone(), to: opaque, value: b"y".to_vec() };
                self.add(Kind::ForeignMark, path, what("fuse-overlayfs"), Some(repair));
            } else if name.starts_with(FUSE_OVERLAYFS) {
                let repair = Repair::DropMark { name: name.clone() };
                self.add(Kind::ForeignMark, path, what("fuse-overlayfs"), Some(repair));
            } else if [Mark::Opaque, Mark::Redirect, Mark::Whiteout, Mark::Metacopy]
                .iter()
                .any(|mark| name == other.name(*mark))
            {
                // They may well belong to an overlay inside of this one.
                self.add(Kind::ForeignMark, path, what("a mount with the other kind of marks"), None);
            }
        }
        Ok(())
    }

    /// A whiteout of aufs, of an image, or of fuse-overlayfs.
    fn aufs_marker(&mut self, dir: &[u8], name: &[u8], path: &[u8]) {
        let what = "a marker of an image or of aufs (.wh.), which a mount shows as a file";
        let hidden = &name[b".wh.".len()..];
        let repair = match hidden {
            b".wh..opq" => Repair::MakeOpaque { opaque: self.stack.dialect().name(Mark::Opaque).to_vec() },
            hidden if hidden.starts_with(b".wh.") || hidden.is_empty() => Repair::Remove,
            hidden => Repair::MakeWhiteout { path: joined(dir, hidden) },
        };
        self.add(Kind::ForeignMark, path, what, Some(repair));
    }
}

/// An object that could be a `.wh.` marker: they are empty.
fn is_marker(stat: &Stat) -> bool {
    stat.kind == Type::File && stat.size == 0
}
