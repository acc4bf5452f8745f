//! Changes as the archive of an OCI layer (image-spec, "Image Layer Filesystem Changeset").

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};

use acetate_image::archive::{Entry, EntryKind, Writer};
use acetate_layer::{Kind, Time};

use crate::diff::{self, How, Options};
use crate::node::Node;
use crate::view::View;
use crate::{Error, Result, Stack, joined, split};

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Objects, directories above changes included.
    pub objects: u64,
    /// Names hidden.
    pub whiteouts: u64,
    /// Sockets, which no archive can hold.
    pub sockets_skipped: u64,
}

/// Writes what the upper layer of a stack changes as the archive of a layer that does the same over the same lowers.
/// Renames are deletions and additions there; all names of an object of upper with several names are in it.
///
/// # Errors
/// As [`diff::diff`]; [`Error::Inexpressible`] for a new name that means something else in an archive (`.wh.`).
pub fn write<W: Write>(stack: &Stack, output: W) -> Result<(Totals, W)> {
    let changes = diff::diff(stack, Options::default())?;
    let mut plan: BTreeMap<Vec<u8>, Item> = BTreeMap::new();
    for change in &changes {
        let item = if change.how == How::Deleted { Item::Whiteout } else { Item::Object };
        plan.insert(change.path.clone(), item);
        let mut path = change.path.as_slice();
        while let Some((parent, _)) = split(path) {
            plan.entry(parent.to_vec()).or_insert(Item::Object);
            path = parent;
        }
    }
    plan.insert(Vec::new(), Item::Object);
    let mut packer = Packer {
        view: stack.merged(),
        output: Writer::new(output),
        linked: HashMap::new(),
        totals: Totals::default(),
    };
    packer.tree(&plan)?;
    Ok((packer.totals, packer.output.finish()?))
}

/// What a path becomes in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Object,
    Whiteout,
}

struct Packer<'a, W: Write> {
    view: View<'a>,
    output: Writer<W>,
    /// The first path of objects with several names.
    linked: HashMap<(u64, u64), Vec<u8>>,
    totals: Totals,
}

impl<W: Write> Packer<'_, W> {
    fn tree(&mut self, plan: &BTreeMap<Vec<u8>, Item>) -> Result<()> {
        let mut inside: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
        for path in plan.keys() {
            if let Some((parent, name)) = split(path) {
                inside.entry(parent).or_default().insert(name);
            }
        }
        let root = self.view.root()?;
        self.object(b"", &root)?;
        let mut todo = vec![(Vec::new(), root)];
        while let Some((path, dir)) = todo.pop() {
            let names = inside.get(path.as_slice()).into_iter().flatten();
            let (hidden, shown): (Vec<_>, Vec<_>) =
                names.partition(|name| plan.get(&joined(&path, name)) == Some(&Item::Whiteout));
            // Whiteouts first: they are about the layers below only.
            for name in hidden {
                self.whiteout(&path, name, &dir)?;
            }
            for name in shown {
                let inner = joined(&path, name);
                let node = self.view.lookup(&dir, name)?;
                self.object(&inner, &node)?;
                if node.is_dir() {
                    todo.push((inner, node));
                }
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, dir: &[u8], name: &[u8], node: &Node) -> Result<()> {
        let (_, object) = self.view.shown(dir, node)?;
        let time = Time { nsec: 0, ..object.stat.mtime };
        let path = joined(dir, &[b".wh.", name].concat());
        let entry = Entry {
            path,
            kind: EntryKind::Object(Kind::File),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: time,
            size: 0,
            rdev: acetate_layer::Rdev::default(),
            xattrs: Vec::new(),
            sparse: None,
        };
        self.totals.whiteouts += 1;
        Ok(self.output.append(&entry, &mut io::empty())?)
    }

    fn object(&mut self, path: &[u8], node: &Node) -> Result<()> {
        let (_, object) = self.view.shown(path, node)?;
        let stat = &object.stat;
        if split(path).is_some_and(|(_, name)| name.starts_with(b".wh.")) {
            let reason = "its name means something else in an image (.wh.)";
            return Err(Error::Inexpressible { path: path.to_vec(), reason });
        }
        if stat.kind == Kind::Socket {
            self.totals.sockets_skipped += 1;
            return Ok(());
        }
        self.totals.objects += 1;
        let facts = self.view.facts(path, node)?;
        let mut entry = Entry {
            path: match stat.kind {
                Kind::Dir if path.is_empty() => b"./".to_vec(),
                Kind::Dir => [path, b"/"].concat(),
                _ => path.to_vec(),
            },
            kind: EntryKind::Object(stat.kind),
            link: Vec::new(),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            size: if stat.kind == Kind::File { stat.size } else { 0 },
            rdev: stat.rdev,
            // Labels belong to a machine's policy, not to an image.
            xattrs: facts.xattrs.into_iter().filter(|(name, _)| name != b"security.selinux").collect(),
            sparse: None,
        };
        if stat.kind != Kind::Dir && stat.nlink > 1 {
            if let Some(first) = self.linked.get(&object.id()) {
                entry.kind = EntryKind::HardLink;
                entry.link = first.clone();
                entry.size = 0;
                entry.xattrs.clear();
                return Ok(self.output.append(&entry, &mut io::empty())?);
            }
            self.linked.insert(object.id(), path.to_vec());
        }
        match stat.kind {
            Kind::File => Ok(self.output.append(&entry, &mut self.view.data(path, node)?)?),
            Kind::Symlink => {
                entry.link = self.view.read_link(path, node)?;
                Ok(self.output.append(&entry, &mut io::empty())?)
            }
            _ => Ok(self.output.append(&entry, &mut io::empty())?),
        }
    }
}
