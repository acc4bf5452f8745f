//! create, mkdir, mknod, symlink and unnamed files.
//!
//! Where upper holds nothing of that name, the object is created in place, which is atomic. Over a whiteout it is
//! made in the staging directory with everything that its directory would have given it, and renamed onto the
//! whiteout.

use crate::error::{OpError, Result, Step};
use crate::ledger::{self, Intent};
use crate::node::{Node, Real};
use crate::op::lookup::Slot;
use crate::protect::{self, Change};
use crate::state::{Place, State};
use crate::{Attr, Caller, Entry, HandleId, NodeId, OpenFlags, Overlay};
use acetate_layer::mark::Mark;
use acetate_layer::{Access, At, Errno, Kind, Owner, Rdev, SetXattr, UpperLayer, acl};
use std::sync::Arc;

const STEP: &str = "create an object";
const SET_GID: u32 = 0o2000;

/// What is to be created.
#[derive(Clone, Copy)]
enum What<'a> {
    File,
    Dir,
    Node(Kind, Rdev),
    Symlink(&'a [u8]),
}

/// A new node, its attributes and, if it is a regular file, the file open for reading and writing.
type Made<L> = (Arc<Node<L>>, Attr, Option<<L as acetate_layer::Layer>::File>);

impl What<'_> {
    fn kind(self) -> Kind {
        match self {
            What::File => Kind::File,
            What::Dir => Kind::Dir,
            What::Node(kind, _) => kind,
            What::Symlink(_) => Kind::Symlink,
        }
    }
}

impl<L: UpperLayer> Overlay<L> {
    /// Creates a regular file and opens it. The name must not exist.
    ///
    /// # Errors
    /// [`OpError::Exists`], [`OpError::NotPermitted`], those of a copy-up of the directory, [`OpError::Layer`].
    pub fn create(
        &self,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
        caller: &Caller,
    ) -> Result<(Entry, HandleId)> {
        let (node, attr, file) = self.make(parent, name, What::File, mode, caller)?;
        let file = match file {
            Some(file) => file,
            None => return Err(OpError::Stale),
        };
        let handle = self.add_new_handle(&node, flags, Arc::new(file), attr.mode);
        self.nodes.refer(&node);
        Ok((Entry { node: node.id, attr }, handle))
    }

    /// Creates an unnamed regular file (`O_TMPFILE`) and opens it; [`Overlay::link`] can name it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where upper has no unnamed files; else as for [`Overlay::create`].
    pub fn tmpfile(
        &self,
        parent: NodeId,
        mode: u32,
        flags: OpenFlags,
        caller: &Caller,
    ) -> Result<(Entry, HandleId)> {
        let dir = self.dir(parent)?;
        let upper = self.upper()?;
        protect::check(&dir, Change::AddEntry)?;
        self.copy_up(&dir, crate::copyup::Data::Whole)?;
        let mode = self.mode_in(upper, &dir, mode, caller)?;
        let file = {
            let state = dir.state.read();
            let real = state.upper_dir().ok_or(OpError::Stale)?;
            Arc::new(upper.create_unnamed(real, mode, owner(caller)).step("create an unnamed file")?)
        };
        let stat = upper.stat(At::Open(file.as_ref())).step(STEP)?;
        let mut state = State::new(self.inodes.upper(stat.ino));
        state.set_upper(Real::Held(file.clone()));
        let node = self.new_node(Kind::File, state);
        let handle = self.add_new_handle(&node, flags, file.clone(), stat.mode);
        self.keep_reachable(&node, Some(&file));
        self.nodes.refer(&node);
        Ok((Entry { node: node.id, attr: self.attr_of(&node, &stat) }, handle))
    }

    /// Creates a fifo, socket, device or empty regular file.
    ///
    /// # Errors
    /// [`OpError::NotPermitted`] for the whiteout device, character 0:0; else as for [`Overlay::create`].
    pub fn mknod(
        &self,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: Rdev,
        caller: &Caller,
    ) -> Result<Entry> {
        if kind == Kind::CharDevice && rdev == Rdev::default() {
            return Err(OpError::NotPermitted);
        }
        self.make_entry(parent, name, What::Node(kind, rdev), mode, caller)
    }

    /// Creates a directory.
    ///
    /// # Errors
    /// As for [`Overlay::create`].
    pub fn mkdir(&self, parent: NodeId, name: &[u8], mode: u32, caller: &Caller) -> Result<Entry> {
        self.make_entry(parent, name, What::Dir, mode, caller)
    }

    /// Creates a symlink to `target`.
    ///
    /// # Errors
    /// As for [`Overlay::create`].
    pub fn symlink(&self, parent: NodeId, name: &[u8], target: &[u8], caller: &Caller) -> Result<Entry> {
        self.make_entry(parent, name, What::Symlink(target), 0o777, caller)
    }

    fn make_entry(
        &self,
        parent: NodeId,
        name: &[u8],
        what: What<'_>,
        mode: u32,
        caller: &Caller,
    ) -> Result<Entry> {
        let (node, attr, _) = self.make(parent, name, what, mode, caller)?;
        self.nodes.refer(&node);
        Ok(Entry { node: node.id, attr })
    }

    fn make(
        &self,
        parent: NodeId,
        name: &[u8],
        what: What<'_>,
        mode: u32,
        caller: &Caller,
    ) -> Result<Made<L>> {
        // Check.
        let dir = self.dir(parent)?;
        let upper = self.upper()?;
        let _names = dir.as_dir()?.ns.write();
        if self.is_done(ledger::Change::Make)
            && let Some(made) = self.made_before(upper, &dir, name, what)?
        {
            return Ok(made);
        }
        protect::check(&dir, Change::AddEntry)?;
        if self.is_taken(&dir, name)? {
            return Err(OpError::Exists);
        }
        // Plan.
        self.copy_up(&dir, crate::copyup::Data::Whole)?;
        let wanted = mode;
        let mode = self.mode_in(upper, &dir, mode, caller)?;
        // Act.
        let real_dir = {
            let state = dir.state.read();
            state.upper_dir().cloned().ok_or(OpError::Stale)?
        };
        self.intend(&Intent::at(ledger::Change::Make, dir.id, name, None));
        let (file, before) = match self.make_at(upper, &real_dir, name, what, mode, owner(caller)) {
            Err(Errno::EXIST) => {
                if self.upper_slot(&real_dir, name)? != Slot::Whiteout {
                    return Err(OpError::Exists);
                }
                let made = self.make_over_whiteout(upper, &dir, &real_dir, name, what, wanted, caller)?;
                (made, Slot::Whiteout)
            }
            other => {
                let file = other.step(STEP)?;
                if matches!(what, What::Dir) {
                    self.hide_what_comes_below(upper, &dir, &real_dir, name);
                }
                (file, Slot::Nothing)
            }
        };
        // Record.
        let (node, attr) = self
            .record_new(upper, &dir, &real_dir, name, file.as_ref())
            .inspect_err(|_| self.take_back(upper, &real_dir, name, what.kind(), before))?;
        dir.forget_listing();
        Ok((node, attr, file))
    }

    /// Takes an object back that was made and cannot be shown: whoever is told of a failure remembers that the name was
    /// free. `before`: what upper had there.
    pub(crate) fn take_back(&self, upper: &L, dir: &L::Dir, name: &[u8], kind: Kind, before: Slot) {
        let whiteout = || self.staging.whiteout(upper);
        // What stays is found by the next listing.
        let _at_least_tried = match (before, kind) {
            (Slot::Whiteout, Kind::Dir) => {
                whiteout().and_then(|whiteout| whiteout.exchange(dir, name, true)).map(drop)
            }
            (Slot::Whiteout, _) => whiteout().and_then(|whiteout| whiteout.publish(dir, name)),
            (_, Kind::Dir) => upper.rmdir(dir, name),
            _ => upper.unlink(dir, name),
        };
    }

    /// What the last server has made for the same request. `None` for a file of a mode with which it cannot be opened again,
    /// which is taken back: it is empty, and nobody knows of it.
    fn made_before(
        &self,
        upper: &L,
        dir: &Arc<Node<L>>,
        name: &[u8],
        what: What<'_>,
    ) -> Result<Option<Made<L>>> {
        let file = match what {
            What::File => {
                let state = dir.state.read();
                let real_dir = state.upper_dir().ok_or(OpError::Stale)?;
                match upper.open_file(At::Name(real_dir, name), Access::ReadWrite) {
                    Err(Errno::ACCESS) if !self.config.overrides_modes => {
                        let before = if state.has_lowers() { Slot::Whiteout } else { Slot::Nothing };
                        self.take_back(upper, real_dir, name, Kind::File, before);
                        return Ok(None);
                    }
                    other => Some(other.step("open the new file again")?),
                }
            }
            _ => None,
        };
        let (node, attr) = self.child_with_attr(dir, name, None)?.ok_or(OpError::Stale)?;
        Ok(Some((node, attr, file)))
    }

    /// Marks a new directory opaque if its own one merges and lower layers are not to change: lookups in it can then
    /// end there. Only an optimisation, so a failure is none.
    fn hide_what_comes_below(&self, upper: &L, dir: &Node<L>, real_dir: &L::Dir, name: &[u8]) {
        let merged = dir.state.read().has_lowers();
        if merged && !self.config.offline_changes && self.config.marks_storable {
            let opaque = self.config.dialect.name(Mark::Opaque);
            let _slower_lookups = upper.set_xattr(At::Name(real_dir, name), opaque, b"y", SetXattr::Any);
        }
    }

    /// Whether the directory shows an object of that name, as far as creating one in upper will not find out.
    fn is_taken(&self, dir: &Arc<Node<L>>, name: &[u8]) -> Result<bool> {
        let upper_alone = {
            let state = dir.state.read();
            state.has_upper() && !state.has_lowers()
        };
        if upper_alone { Ok(dir.child(name).is_some()) } else { Ok(self.child(dir, name)?.is_some()) }
    }

    /// Makes an object of final mode and owner at a free name.
    fn make_at(
        &self,
        upper: &L,
        dir: &L::Dir,
        name: &[u8],
        what: What<'_>,
        mode: u32,
        owner: Owner,
    ) -> acetate_layer::Result<Option<L::File>> {
        match what {
            What::File => upper.create(dir, name, mode, owner).map(Some),
            What::Dir => upper.make_dir(dir, name, mode, owner).map(|()| None),
            What::Node(kind, rdev) => upper.make_node(dir, name, kind, mode, rdev, owner).map(|()| None),
            What::Symlink(target) => upper.make_symlink(dir, name, target, owner).map(|()| None),
        }
    }

    /// Makes an object in the staging directory as if it had been born in `dir`, and puts it over the whiteout.
    #[expect(clippy::too_many_arguments, reason = "everything that a birth depends on")]
    fn make_over_whiteout(
        &self,
        upper: &L,
        dir: &Node<L>,
        real_dir: &L::Dir,
        name: &[u8],
        what: What<'_>,
        wanted: u32,
        caller: &Caller,
    ) -> Result<Option<L::File>> {
        let kind = what.kind();
        let parent = upper.stat(At::Dir(real_dir)).step("stat the directory in upper")?;
        let default_acl = self.default_acl(upper, dir)?;
        let (mut mode, acls) = match &default_acl {
            Some(default) => {
                let inherited = acl::inherit(default, wanted, kind).step("inherit the default ACL")?;
                (inherited.mode, [(acl::ACCESS, inherited.access_acl), (acl::DEFAULT, inherited.default_acl)])
            }
            None => (wanted & !caller.umask, [(acl::ACCESS, None), (acl::DEFAULT, None)]),
        };
        let mut gid = caller.gid;
        if parent.mode & SET_GID != 0 {
            gid = parent.gid;
            if kind == Kind::Dir {
                mode |= SET_GID;
            }
        }
        let owner = Owner::User { uid: caller.uid, gid };
        let (staged, file) = if kind == Kind::Dir {
            (self.staging.dir(upper, self.staged_mode(kind, mode), owner).step(STEP)?, None)
        } else {
            self.staging
                .object(upper, |work, name| self.make_at(upper, work, name, what, mode, owner))
                .step(STEP)?
        };
        for (name, value) in acls {
            if let Some(value) = value {
                upper.set_xattr(staged.at(), name, &value, SetXattr::Any).step("set an inherited ACL")?;
            }
        }
        if kind == Kind::Dir {
            let opaque = self.config.dialect.name(Mark::Opaque);
            // Without the mark the lower directory would come back.
            if !self.config.opaque_storable {
                return Err(OpError::Layer { step: "mark a directory opaque", errno: Errno::IO });
            }
            upper.set_xattr(staged.at(), opaque, b"y", SetXattr::Any).step("mark a directory opaque")?;
        }
        let staged_mode = self.staged_mode(kind, mode);
        if kind != Kind::Symlink {
            upper.set_mode(staged.at(), staged_mode).step("set the mode of a new object")?;
        }
        if kind == Kind::Dir {
            // The whiteout is now the staged object, and removed.
            drop(staged.exchange(real_dir, name, false).step("publish a new directory")?);
            if staged_mode != mode {
                upper
                    .set_mode(At::Name(real_dir, name), mode)
                    .inspect_err(|_| self.take_back(upper, real_dir, name, kind, Slot::Whiteout))
                    .step("set the mode of a new directory")?;
            }
        } else {
            staged.publish(real_dir, name).step("publish a new object")?;
        }
        Ok(file)
    }

    /// The node of an object that was just created, and is open if it is a file that a handle asked for.
    fn record_new(
        &self,
        upper: &L,
        dir: &Arc<Node<L>>,
        real_dir: &L::Dir,
        name: &[u8],
        file: Option<&L::File>,
    ) -> Result<(Arc<Node<L>>, Attr)> {
        const STEP: &str = "look at a new object";
        let at = file.map_or(At::Name(real_dir, name), At::Open);
        let stat = upper.stat(at).step(STEP)?;
        let kind = stat.kind;
        let place = Place { parent: dir.clone(), name: name.into(), in_upper: true };
        let mut state = State::at(self.inodes.upper(stat.ino), place);
        state.set_upper(if kind == Kind::Dir {
            Real::Dir(upper.known_dir(real_dir, name, &stat).step(STEP)?)
        } else {
            Real::Named(real_dir.clone(), name.into())
        });
        let node = self.new_node(kind, state);
        self.settle(&node);
        dir.set_child(name, &node);
        let attr = self.attr_of(&node, &stat);
        Ok((node, attr))
    }

    /// The mode that a new object asks of the filesystem: the umask does not count where there is a default ACL.
    fn mode_in(&self, upper: &L, dir: &Node<L>, mode: u32, caller: &Caller) -> Result<u32> {
        if caller.umask == 0 || self.default_acl(upper, dir)?.is_some() {
            return Ok(mode);
        }
        Ok(mode & !caller.umask)
    }

    /// The default ACL of a directory in upper, read once.
    fn default_acl(&self, upper: &L, dir: &Node<L>) -> Result<Option<Arc<[u8]>>> {
        let part = dir.as_dir()?;
        if let Some(known) = &*part.default_acl.lock() {
            return Ok(known.clone());
        }
        let state = dir.state.read();
        let at = state.in_upper()?;
        let acl = match upper.get_xattr(at, acl::DEFAULT) {
            Ok(value) => value.map(Arc::from),
            Err(Errno::OPNOTSUPP) => None,
            Err(errno) => return Err(OpError::Layer { step: "read the default ACL", errno }),
        };
        *part.default_acl.lock() = Some(acl.clone());
        Ok(acl)
    }
}

fn owner(caller: &Caller) -> Owner {
    Owner::User { uid: caller.uid, gid: caller.gid }
}
