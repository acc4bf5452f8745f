//! Copy-up: the first change of a lower object makes a copy of it in upper.
//!
//! The copy is made in the staging directory, or as an unnamed file, and published by one link or rename, ancestors
//! first. Only the object's own `copy` lock is held meanwhile: everybody else goes on, readers of the object too.
//! Order of the steps: docs/semantics.md, "Copy-up"; after the kernel's `ovl_copy_up_one` (Linux 6.18).

use crate::error::{OpError, Result, Step};
use crate::node::{Lower, Node, Real};
use crate::state::{Links, Place};
use crate::{Changed, Durability, Index, Overlay};
use acetate_layer::mark::{self, Below, Digest, Mark, ProtAttr};
use acetate_layer::work::Staged;
use acetate_layer::{Access, At, Errno, Kind, Owner, SetTime, SetXattr, Stat, UpperLayer, acl};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How much of a regular file is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// All of it.
    Whole,
    /// None: it is about to be truncated to nothing.
    Nothing,
    /// None, if it may stay below (`metacopy=on`); else all of it.
    Below,
}

/// Who learns that the attributes of what was copied are others now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// The kernel is told.
    Kernel,
    /// The caller has the answer carry them.
    Caller,
}

/// What a copy keeps of the lower object's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// Nothing: it is a new object.
    Nothing,
    /// The inode number, recorded in upper where that is possible.
    Number,
}

/// Whose a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owned {
    /// The lower object's owner, who is the mounter.
    AsMade,
    /// The lower object's owner.
    AsLower,
    /// The mounter's, although the lower object is not.
    ByMounter,
}

const OWNER_ALL: u32 = 0o700;
/// Set-user-id and set-group-id.
const SET_IDS: u32 = 0o6000;

/// Inode flags that a copy keeps (FS_SYNC_FL, FS_NOATIME_FL; linux/fs.h).
const KEPT_FLAGS: u32 = 0x8 | 0x80;

/// A staged copy: unnamed, or named in the staging directory.
enum Copy<'a, L: UpperLayer> {
    Unnamed(L::File),
    Named(Staged<'a, L>),
}

impl<L: UpperLayer> Copy<'_, L> {
    fn at(&self) -> At<'_, L> {
        match self {
            Copy::Unnamed(file) => At::Open(file),
            Copy::Named(staged) => staged.at(),
        }
    }
}

impl<L: UpperLayer> Overlay<L> {
    /// Brings a node to upper, its ancestors first. Nothing to do if it is there.
    ///
    /// # Errors
    /// [`OpError::ReadOnly`]; `EEXIST` for a removed lower file and `ENOTDIR` for a removed lower directory, as in
    /// the kernel; what a step answers (`ENOSPC`, `EDQUOT`, `EIO`, ...). After a failure the node is as before, and
    /// ancestors that were copied stay.
    pub(crate) fn copy_up(&self, node: &Arc<Node<L>>, data: Data) -> Result<()> {
        self.copy_up_place(node, None, data, Telling::Kernel).map(drop)
    }

    /// As [`Overlay::copy_up`], but leaves it to the caller to tell that the attributes of the node itself have changed.
    /// Returns whether they have: whether it was copied now.
    pub(crate) fn copy_up_untold(&self, node: &Arc<Node<L>>, data: Data) -> Result<bool> {
        self.copy_up_place(node, None, data, Telling::Caller)
    }

    /// As [`Overlay::copy_up`], and what is indexed gets this name in upper. Else it gets the one that was looked up
    /// last: a request that names an object does not say which of its names was used.
    pub(crate) fn copy_up_name(
        &self,
        node: &Arc<Node<L>>,
        dir: &Arc<Node<L>>,
        name: &[u8],
        data: Data,
    ) -> Result<()> {
        self.copy_up_place(node, Some((dir, name)), data, Telling::Kernel).map(drop)
    }

    fn copy_up_place(
        &self,
        node: &Arc<Node<L>>,
        name: Option<(&Arc<Node<L>>, &[u8])>,
        data: Data,
        telling: Telling,
    ) -> Result<bool> {
        self.upper()?;
        let mut copied = false;
        // A rename may give the node another parent while the old one is being copied.
        loop {
            let place = match node.in_upper() {
                true => match self.place_to_link(node, name) {
                    Some(place) => place,
                    None => return self.copy_up_data(node, data).map(|()| copied),
                },
                false => self.place_for_copy(node, name)?,
            };
            self.copy_up(&place.parent, Data::Whole)?;
            let _copying = node.copy.lock();
            if !self.still_at(node, &place) {
                continue;
            }
            if !node.in_upper() {
                self.copy_up_locked(node, &place, data)?;
                copied = true;
                if telling == Telling::Kernel {
                    (self.changed)(node.id, Changed::Attributes);
                }
            } else if self.place_to_link(node, name).is_some_and(|now| now.is(&place.parent, &place.name)) {
                self.link_up(node, &place)?;
            }
        }
    }

    /// The name at which an indexed object in upper still has to be linked.
    fn place_to_link(&self, node: &Node<L>, name: Option<(&Arc<Node<L>>, &[u8])>) -> Option<Place<L>> {
        if self.config.index == Index::Nothing {
            return None;
        }
        let state = node.state.read();
        state.index()?;
        let place = match name {
            Some((dir, name)) => state.places().find(|place| place.is(dir, name)),
            None => state.places().next_back(),
        };
        place.filter(|place| !place.in_upper).map(|place| place.to_place())
    }

    /// Gives an indexed object a name in upper that it has in the overlay already.
    fn link_up(&self, node: &Arc<Node<L>>, place: &Place<L>) -> Result<()> {
        let upper = self.upper()?;
        let parent = crate::op::remove::real_dir(&place.parent)?;
        let times = upper.stat(At::Dir(&parent)).step("stat the parent directory in upper")?;
        self.mark_impure(&place.parent)?;
        let mut state = node.state.write();
        if !state.has_place(&place.parent, &place.name) {
            return Err(OpError::Exists);
        }
        let real = state.upper().ok_or(OpError::Stale)?;
        if let Some(links) = state.links() {
            self.store_links_below(upper, real.at(), links)?;
        }
        upper.link(real.at(), &parent, &place.name).step("link a copy from the index")?;
        state.set_in_upper(|now| now.is(&place.parent, &place.name));
        // The count is right as it is; this form is the one that later changes start from.
        let _as_good = self.store_links(upper, &state);
        let _times_are_cosmetic =
            upper.set_times(At::Dir(&parent), SetTime::To(times.atime), SetTime::To(times.mtime));
        drop(state);
        place.parent.forget_listing();
        // Its change time and size cannot be given back.
        (self.changed)(place.parent.id, Changed::Attributes);
        (self.changed)(node.id, Changed::Attributes);
        Ok(())
    }

    /// Where the copy goes. What has been removed cannot be copied; the kernel finds out late, and has marked the
    /// directory by then.
    fn place_for_copy(&self, node: &Node<L>, name: Option<(&Arc<Node<L>>, &[u8])>) -> Result<Place<L>> {
        let parent = {
            let state = node.state.read();
            let named = name.and_then(|(dir, name)| state.places().find(|place| place.is(dir, name)));
            if let Some(place) = named.or(state.places().next_back()) {
                return Ok(place.to_place());
            }
            state.removed_from().cloned()
        };
        if let Some(parent) = parent {
            self.mark_impure(&parent)?;
        }
        Err(if node.kind == Kind::Dir { OpError::NotDir } else { OpError::Exists })
    }

    fn still_at(&self, node: &Node<L>, place: &Place<L>) -> bool {
        node.state.read().has_place(&place.parent, &place.name)
    }

    fn copy_up_locked(&self, node: &Arc<Node<L>>, place: &Place<L>, data: Data) -> Result<()> {
        let upper = self.upper()?;
        let lower = node.state.read().lower().map(|lower| lower.to_lower()).ok_or(OpError::Stale)?;
        let parent = &crate::op::remove::real_dir(&place.parent)?;
        let layer = &self.lowers[lower.layer];
        let mut stat = layer.stat(lower.real.at()).step("stat the lower object")?;
        if self.config.lower_changes && stat.kind != Kind::Dir {
            let state = node.state.read();
            if !self.is_same_lower(&state, lower.layer, &stat) {
                return Err(OpError::Stale);
            }
        }
        let times = upper.stat(At::Dir(parent)).step("stat the parent directory in upper")?;
        let data = match data {
            Data::Below if stat.kind != Kind::File || !self.config.metacopy => Data::Whole,
            other => other,
        };
        let (data, digest) = if data == Data::Below { self.leave_below(node)? } else { (data, None) };
        let indexed =
            self.is_indexed(stat.kind, stat.nlink).then(|| self.origin_value(&lower)).transpose()?;
        let indexed = indexed.map(|origin| crate::origin::index_name(&origin));
        // What has several names is made in the index and linked; all else is indexed when it has its name, because an
        // entry without any would be taken for what is left of something removed.
        let indexed_file = indexed.as_ref().filter(|_| stat.kind != Kind::Dir && stat.nlink > 1);
        if indexed_file.is_none() {
            self.mark_impure(&place.parent)?;
        }
        let (copy, source) = self.stage(upper, layer, node, &lower, &stat, data)?;
        let made = upper.stat(copy.at()).step("stat the copy")?;
        // Owner before xattrs and mode: changing it takes set-id bits and capabilities away.
        let mut mode_differs = made.mode != stat.mode;
        let owner = self.copy_owner(upper, layer, lower.real.at(), &stat, &made, copy.at())?;
        if owner == Owned::ByMounter {
            // Nobody is to act as the mounter by executing the copy.
            stat.mode &= !SET_IDS;
        }
        mode_differs |= owner != Owned::AsMade;
        mode_differs |= self.copy_xattrs(upper, layer, &lower, copy.at())?;
        let from = source.as_ref().map_or(lower.real.at(), At::Open);
        let prot = self.copy_flags(upper, layer, from, &stat, copy.at())?;
        let origin = self.mark_origin(upper, &lower, &stat, indexed.is_some(), copy.at())?;
        if data == Data::Below {
            let mark = self.config.dialect.name(Mark::Metacopy);
            let value = Digest::encode(digest.as_ref());
            upper.set_xattr(copy.at(), mark, &value, SetXattr::Any).step("set the metacopy mark")?;
        }
        // What is about to be emptied has just been changed, also if the truncation never comes.
        let emptied = data == Data::Nothing && stat.kind == Kind::File;
        let mtime = if emptied { SetTime::Now } else { SetTime::To(stat.mtime) };
        let staged_mode = self.staged_mode(stat.kind, stat.mode);
        mode_differs |= staged_mode != stat.mode;
        self.copy_attributes(upper, &Stat { mode: staged_mode, ..stat }, mtime, mode_differs, copy.at())?;
        let has_to_last = match self.config.durability {
            Durability::All => matches!(stat.kind, Kind::File | Kind::Dir),
            // The length is that of the data below: with none, there would be no data.
            Durability::Data => data == Data::Below && !upper.orders_lengths(),
            Durability::Nothing => false,
        };
        if has_to_last {
            upper.sync(copy.at(), false).step("sync the copy")?;
        }
        if let Some(name) = indexed_file {
            let links = Links { union: stat.nlink, below: stat.nlink };
            self.store_links_below(upper, copy.at(), links)?;
            return self.publish_in_index(node, copy, data, prot, name, links);
        }
        self.publish(node, place, parent, copy, &made, data, origin, prot)?;
        if staged_mode != stat.mode {
            let state = node.state.read();
            upper.set_mode(state.in_upper()?, stat.mode).step("set the mode of the copied directory")?;
        }
        if let Some(name) = indexed {
            self.index_named(upper, node, name);
        }
        // The parent shows its old times: nothing in it has changed for its users.
        let _times_are_cosmetic =
            upper.set_times(At::Dir(parent), SetTime::To(times.atime), SetTime::To(times.mtime));
        place.parent.forget_listing();
        // Its change time cannot be given back, and the entry may have another number.
        let parent = if origin == Kept::Nothing { Changed::Listing } else { Changed::Attributes };
        (self.changed)(place.parent.id, parent);
        if stat.kind == Kind::Dir {
            // It is merged from now on, and lists otherwise.
            node.forget_listing();
            (self.changed)(node.id, Changed::Listing);
        }
        Ok(())
    }

    /// The mode that an object of that mode has until it has its name: without privilege only who may write to a directory can
    /// move it to another one (`may_delete`, `vfs_rename`, fs/namei.c).
    pub(crate) fn staged_mode(&self, kind: Kind, mode: u32) -> u32 {
        if kind == Kind::Dir && !self.config.overrides_modes { mode | OWNER_ALL } else { mode }
    }

    /// Makes the copy with its data. Returns the lower file too, if it was opened.
    fn stage<'a>(
        &'a self,
        upper: &'a L,
        layer: &L,
        node: &Node<L>,
        lower: &Lower<L>,
        stat: &Stat,
        data: Data,
    ) -> Result<(Copy<'a, L>, Option<L::File>)> {
        const STEP: &str = "make the copy in the staging directory";
        let owner = Owner::Mounter;
        let copy = match stat.kind {
            Kind::File => return self.stage_file(upper, node, lower, stat, data),
            Kind::Dir => Copy::Named(self.staging.dir(upper, 0o700, owner).step(STEP)?),
            Kind::Symlink => {
                let target = layer.read_link(lower.real.at()).step("read the lower symlink")?;
                let make = |work: &L::Dir, name: &[u8]| upper.make_symlink(work, name, &target, owner);
                Copy::Named(self.staging.object(upper, make).step(STEP)?.0)
            }
            kind => {
                let make =
                    |work: &L::Dir, name: &[u8]| upper.make_node(work, name, kind, 0o600, stat.rdev, owner);
                Copy::Named(self.staging.object(upper, make).step(STEP)?.0)
            }
        };
        Ok((copy, None))
    }

    fn stage_file<'a>(
        &'a self,
        upper: &'a L,
        node: &Node<L>,
        lower: &Lower<L>,
        stat: &Stat,
        data: Data,
    ) -> Result<(Copy<'a, L>, Option<L::File>)> {
        const STEP: &str = "make the copy in the staging directory";
        // Nobody else can reach it yet, so it may have its mode from the beginning, but for what stands in the way of
        // storing marks; set-id bits wait for the owner.
        let mode = stat.mode & 0o777 | 0o600;
        let (copy, file) = match upper.create_unnamed(upper.work(), mode, Owner::Mounter) {
            Ok(file) => (Copy::Unnamed(file), None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let make = |work: &L::Dir, name: &[u8]| upper.create(work, name, mode, Owner::Mounter);
                let (staged, file) = self.staging.object(upper, make).step(STEP)?;
                (Copy::Named(staged), Some(file))
            }
            Err(errno) => return Err(OpError::Layer { step: STEP, errno }),
        };
        let mut source = None;
        if data == Data::Whole && stat.size > 0 {
            let target = match (&copy, &file) {
                (Copy::Unnamed(file), _) | (Copy::Named(_), Some(file)) => file,
                (Copy::Named(_), None) => return Err(OpError::Stale),
            };
            let part = self.data_part(node)?.ok_or(OpError::Stale)?;
            let opened = self.lowers[part.layer].open_file(part.real.at(), Access::Read);
            let opened = opened.step("open the lower file")?;
            self.verify_data(node, &self.lowers[part.layer], &opened)?;
            self.copy_data(upper, &opened, target, stat.size)?;
            if self.config.durability == Durability::Data {
                self.settle_data(upper, target)?;
            }
            // The data may be that of another object than the attributes.
            source = (part.layer == lower.layer).then_some(opened);
        } else if data == Data::Below && stat.size > 0 {
            upper.set_len(copy.at(), stat.size).step("set the size of the copy")?;
        }
        Ok((copy, source))
    }

    /// What was published is whole after a crash: the data first, then what shows it.
    pub(crate) fn settle_data(&self, upper: &L, copy: &L::File) -> Result<()> {
        if self.config.durability == Durability::Nothing {
            return Ok(());
        }
        upper.put_data_first(copy).step("write the data of the copy")
    }

    /// Gives the copy, which was `made` so, the owner of the lower object.
    fn copy_owner(
        &self,
        upper: &L,
        layer: &L,
        from: At<'_, L>,
        stat: &Stat,
        made: &Stat,
        copy: At<'_, L>,
    ) -> Result<Owned> {
        match upper.copy_owner(copy, made, layer, from, stat) {
            Ok(false) => Ok(Owned::AsMade),
            Ok(true) => Ok(Owned::AsLower),
            // An owner that does not exist in the mounter's user namespace, or a mounter who may give nothing away:
            // whoever was allowed to change the object could have replaced it by one of the mounter's as well.
            Err(Errno::INVAL | Errno::PERM) => Ok(Owned::ByMounter),
            Err(errno) => Err(OpError::Layer { step: "set the owner of the copy", errno }),
        }
    }

    /// Copies xattrs and ACLs, without marks. Returns whether there are any.
    fn copy_xattrs(&self, upper: &L, layer: &L, lower: &Lower<L>, copy: At<'_, L>) -> Result<bool> {
        let mut any = false;
        let names = match layer.list_xattrs(lower.real.at()) {
            Ok(names) => names,
            Err(Errno::OPNOTSUPP) => return Ok(false),
            Err(errno) => return Err(OpError::Layer { step: "list the xattrs of the lower object", errno }),
        };
        for name in names {
            if mark::is_private(self.config.dialect, &name) {
                continue;
            }
            // One that vanishes between list and get was not ours to copy.
            let Some(value) =
                layer.get_xattr(lower.real.at(), &name).step("read an xattr of the lower object")?
            else {
                continue;
            };
            any = true;
            match upper.set_xattr(copy, &name, &value, SetXattr::Any) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) if !must_keep(&name) => {}
                // A mounter who may not set it could not have seen it used either (user namespaces).
                Err(Errno::PERM) if name.starts_with(b"trusted.") || name.starts_with(b"security.") => {}
                Err(errno) => return Err(OpError::Layer { step: "copy an xattr", errno }),
            }
        }
        Ok(any)
    }

    /// Keeps the flags sync and noatime on the copy and the forbidding ones in its mark.
    fn copy_flags(
        &self,
        upper: &L,
        layer: &L,
        lower: At<'_, L>,
        stat: &Stat,
        copy: At<'_, L>,
    ) -> Result<ProtAttr> {
        let prot = crate::protect::real_protection(stat);
        if !matches!(stat.kind, Kind::File | Kind::Dir) {
            return Ok(ProtAttr::default());
        }
        if prot != ProtAttr::default() && self.config.marks_storable {
            let name = self.config.dialect.name(Mark::ProtAttr);
            upper.set_xattr(copy, name, prot.format(), SetXattr::Any).step("set the protattr mark")?;
        }
        // Filesystems without such flags have nothing to keep.
        if let Ok(flags) = layer.inode_flags(lower)
            && flags & KEPT_FLAGS != 0
            && let Ok(now) = upper.inode_flags(copy)
        {
            upper.set_inode_flags(copy, now | flags & KEPT_FLAGS).step("set the inode flags of the copy")?;
        }
        Ok(prot)
    }

    /// Records where the copy came from.
    fn mark_origin(
        &self,
        upper: &L,
        lower: &Lower<L>,
        stat: &Stat,
        indexed: bool,
        copy: At<'_, L>,
    ) -> Result<Kept> {
        // The copy of one of several names is a new object, unless the index keeps them together.
        if !indexed && stat.kind != Kind::Dir && stat.nlink > 1 {
            return Ok(Kept::Nothing);
        }
        if self.config.marks_storable {
            let value = self.origin_value(lower)?;
            match upper.set_xattr(copy, self.config.dialect.name(Mark::Origin), &value, SetXattr::Any) {
                // Symlinks and special files cannot carry user.* attributes.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(errno) => return Err(OpError::Layer { step: "set the origin mark", errno }),
            }
        }
        if self.records_below(stat.kind) {
            let value = Below { ino: stat.ino, nlink: stat.nlink }.encode();
            match upper.set_xattr(copy, self.config.dialect.name(Mark::Below), &value, SetXattr::Any) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(errno) => return Err(OpError::Layer { step: "record what the lower file was", errno }),
            }
        }
        Ok(Kept::Number)
    }

    fn copy_attributes(
        &self,
        upper: &L,
        stat: &Stat,
        mtime: SetTime,
        mode_differs: bool,
        copy: At<'_, L>,
    ) -> Result<()> {
        if mode_differs && stat.kind != Kind::Symlink {
            upper.set_mode(copy, stat.mode).step("set the mode of the copy")?;
        }
        upper.set_times(copy, SetTime::To(stat.atime), mtime).step("set the times of the copy")
    }

    #[expect(clippy::too_many_arguments, reason = "the pieces of one atomic step")]
    fn publish(
        &self,
        node: &Arc<Node<L>>,
        place: &Place<L>,
        parent: &L::Dir,
        copy: Copy<'_, L>,
        made: &Stat,
        data: Data,
        origin: Kept,
        prot: ProtAttr,
    ) -> Result<()> {
        const STEP: &str = "publish the copy";
        let kind = node.kind;
        let upper = self.upper()?;
        let mut state = node.state.write();
        // A rename or removal since then has changed the place; both copy up first or leave none.
        let kept = state.has_place(&place.parent, &place.name);
        if !kept {
            return Err(if kind == Kind::Dir { OpError::NotDir } else { OpError::Exists });
        }
        // All that can fail comes before the one step that is seen.
        let real = match &copy {
            // The handle follows the directory when it is renamed.
            Copy::Named(staged) if kind == Kind::Dir => {
                let dir = upper.known_dir(upper.work(), staged.name(), made);
                Real::Dir(dir.step("open the copied directory")?)
            }
            _ => Real::Named(parent.clone(), place.name.clone()),
        };
        match copy {
            Copy::Unnamed(file) => upper.link(At::Open(&file), parent, &place.name).step(STEP)?,
            Copy::Named(staged) => staged.publish_new(parent, &place.name).step(STEP)?,
        }
        if origin == Kept::Nothing {
            state.ino = self.inodes.upper(made.ino);
        }
        if kind != Kind::Dir {
            state.set_metacopy(data == Data::Below);
            if !state.metacopy() {
                state.leave_lowers();
            }
        }
        state.set_upper(real);
        state.set_origin(origin != Kept::Nothing);
        state.set_in_upper(|_| true);
        state.set_prot(prot);
        node.in_upper.store(true, Ordering::Release);
        node.data_in_upper.store(data != Data::Below, Ordering::Release);
        Ok(())
    }

    /// Publishes a copy in the index. It has no name in upper yet, and shows at all names that the lower file has.
    fn publish_in_index(
        &self,
        node: &Arc<Node<L>>,
        copy: Copy<'_, L>,
        data: Data,
        prot: ProtAttr,
        name: &[u8],
        links: Links,
    ) -> Result<()> {
        const STEP: &str = "publish the copy in the index";
        let upper = self.upper()?;
        let mut state = node.state.write();
        match copy {
            Copy::Unnamed(file) => upper.link(At::Open(&file), upper.work(), name).step(STEP)?,
            Copy::Named(staged) => staged.publish_new(upper.work(), name).step(STEP)?,
        }
        state.set_metacopy(data == Data::Below);
        if !state.metacopy() {
            state.leave_lowers();
        }
        state.set_prot(prot);
        state.set_index(Some(name.into()));
        state.set_links(Some(links));
        state.set_upper(Real::Named(upper.work().clone(), name.into()));
        state.set_origin(true);
        state.set_in_index_only();
        node.in_upper.store(true, Ordering::Release);
        node.data_in_upper.store(data != Data::Below, Ordering::Release);
        Ok(())
    }

    /// Marks the upper part of a directory impure: it may now hold objects with an origin.
    pub(crate) fn mark_impure(&self, dir: &Node<L>) -> Result<()> {
        let part = dir.as_dir()?;
        if !self.config.marks_storable || part.impure.load(Ordering::Acquire) {
            return Ok(());
        }
        let upper = self.upper()?;
        let state = dir.state.read();
        let at = state.in_upper()?;
        let name = self.config.dialect.name(Mark::Impure);
        upper.set_xattr(at, name, b"y", SetXattr::Any).step("mark a directory impure")?;
        part.impure.store(true, Ordering::Release);
        drop(state);
        // Whoever lists it next finds out whether it needs the mark.
        dir.forget_listing();
        (self.changed)(dir.id, Changed::Listing);
        Ok(())
    }
}

/// Attributes that a copy must not lose even where upper cannot hold them.
fn must_keep(name: &[u8]) -> bool {
    name.starts_with(b"security.") || name == acl::ACCESS || name == acl::DEFAULT
}
