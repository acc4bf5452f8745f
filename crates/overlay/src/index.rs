//! The index: copies that are found by the lower object they come from.
//!
//! With `index=on` the copy of a lower file with several names is made in the index directory, under the file handle of
//! the lower file, and then linked to each name that is used, so that all names stay one file. How many names the file
//! has, used or not, is kept in the mark `nlink`, relative to the links of the copy. With `nfs_export=on` everything is
//! indexed, and what was removed leaves a whiteout there (overlayfs.rst, "Inode index"; fs/overlayfs/copy_up.c, util.c).
//! The index directory is the staging directory, too.

use crate::error::{OpError, Result, Step};
use crate::node::{Lower, Node, Real};
use crate::state::{Links, State};
use crate::{Index, Overlay};
use acetate_layer::mark::{self, Dialect, Mark, Origin};
use acetate_layer::work::remove_tree;
use acetate_layer::{At, Errno, Kind, Owner, SetXattr, Stat, UpperLayer};
use std::sync::Arc;

/// Fewest digits of a name in the index: the header of a handle.
const SHORTEST_NAME: usize = 42;

impl<L: UpperLayer> Overlay<L> {
    /// Whether the copy of a lower object of that type with so many links goes to the index.
    pub(crate) fn is_indexed(&self, kind: Kind, nlink: u32) -> bool {
        match self.config.index {
            Index::Nothing => false,
            Index::Links => kind != Kind::Dir && nlink > 1 && self.can_have_marks(kind),
            Index::All => self.can_have_marks(kind),
        }
    }

    /// Whether objects of that type can say in the index what they come from: an entry that cannot keeps the kernel from
    /// mounting the layer again (`ENODATA`).
    fn can_have_marks(&self, kind: Kind) -> bool {
        self.config.dialect == Dialect::Trusted || matches!(kind, Kind::File | Kind::Dir)
    }

    /// Whether lookups ask the index about objects of that kind.
    pub(crate) fn asks_index(&self, kind: Kind) -> bool {
        match self.config.index {
            Index::Nothing => false,
            Index::Links => kind != Kind::Dir,
            Index::All => true,
        }
    }

    /// The entry of the index for a lower object. `upper` is what a lookup has found; an entry for another object is none.
    ///
    /// # Errors
    /// `EIO` for an entry that cannot be right: the whiteout of a removed object, another type, or a directory that
    /// belongs to another upper directory.
    pub(crate) fn find_index(
        &self,
        name: &[u8],
        kind: Kind,
        upper: Option<(At<'_, L>, &Stat)>,
    ) -> Result<Option<Stat>> {
        const STEP: &str = "look into the index";
        let broken = |what| Err(OpError::BrokenMark { what, errno: Errno::IO });
        let layer = self.upper_layer()?;
        let at = At::Name(layer.work(), name);
        let stat = match layer.stat(at) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(OpError::Layer { step: STEP, errno }),
        };
        if stat.kind != kind {
            return broken("an index entry is of another type");
        }
        let Some((upper, upper_stat)) = upper else {
            return if kind == Kind::Dir {
                broken("a directory is indexed elsewhere")
            } else {
                Ok(Some(stat))
            };
        };
        if kind != Kind::Dir {
            return Ok((upper_stat.ino == stat.ino).then_some(stat));
        }
        let stored = self.mark(layer, at, Mark::Upper).step(STEP)?;
        if stored != Some(self.upper_value(layer, upper)?) {
            return broken("an index entry belongs to another directory");
        }
        Ok(Some(stat))
    }

    /// The value of the mark `upper` for an object of upper.
    fn upper_value(&self, layer: &L, at: At<'_, L>) -> Result<Vec<u8>> {
        Ok(self.handle_of(layer, at)?.as_ref().map(Origin::encode_upper).unwrap_or_default())
    }

    /// The number of names of a file in upper that comes from a lower file with `lower` links; `None` if the real number counts.
    pub(crate) fn union_links(&self, lower: u32, at: At<'_, L>, upper: &Stat) -> Result<Option<Links>> {
        if lower == 1 {
            return Ok(None);
        }
        let value = self.mark(self.upper_layer()?, at, Mark::Nlink).step("read the nlink mark")?;
        let union = value
            .and_then(|value| mark::Links::parse(&value))
            .and_then(|links| links.union(lower, upper.nlink))
            .unwrap_or(upper.nlink);
        Ok(Some(Links { union, below: lower }))
    }

    /// Stores the number of names of what is indexed relative to the links of the copy.
    pub(crate) fn store_links(&self, upper: &L, state: &State<L>) -> Result<()> {
        const STEP: &str = "store the number of names";
        let (Some(_), Some(links), Some(at)) = (state.index(), state.links(), state.upper_at()) else {
            return Ok(());
        };
        let now = upper.stat(at).step(STEP)?.nlink;
        self.set_links(upper, at, mark::Links::to_upper(links.union, now))
    }

    fn set_links(&self, upper: &L, at: At<'_, L>, links: mark::Links) -> Result<()> {
        let name = self.config.dialect.name(Mark::Nlink);
        upper.set_xattr(at, name, &links.encode(), SetXattr::Any).step("store the number of names")
    }

    /// Stores the number of names relative to the links of the lower file, which do not change.
    pub(crate) fn store_links_below(&self, upper: &L, at: At<'_, L>, links: Links) -> Result<()> {
        self.set_links(upper, at, mark::Links::to_lower(links.union, links.below))
    }

    /// Gets an object ready to lose the name `name` in `dir`: what must be indexed is copied up, so that the number of
    /// names can be kept.
    pub(crate) fn before_losing_name(
        &self,
        node: &Arc<Node<L>>,
        dir: &Arc<Node<L>>,
        name: &[u8],
    ) -> Result<()> {
        if self.config.index == Index::Nothing {
            return Ok(());
        }
        let (indexed, only_below) = {
            let state = node.state.read();
            (
                state.index().is_some(),
                state.lower().filter(|_| !state.has_upper()).map(|lower| lower.to_lower()),
            )
        };
        let will_be = match only_below {
            Some(lower) => {
                let stat = self.lowers[lower.layer].stat(lower.real.at()).step("stat the lower object")?;
                self.is_indexed(stat.kind, stat.nlink)
            }
            None => false,
        };
        if indexed || will_be {
            self.copy_up_name(node, dir, name, crate::copyup::Data::Below)?;
            self.store_links(self.upper()?, &node.state.read())?;
        }
        Ok(())
    }

    /// Whether losing one more name is the end of an indexed file.
    pub(crate) fn is_last_link(&self, state: &State<L>) -> bool {
        state.links().is_none_or(|links| links.union <= 1)
    }

    /// Records that an indexed object has lost a name; one without any leaves the index.
    pub(crate) fn after_losing_name(&self, upper: &L, node: &Node<L>, state: &mut State<L>) {
        let Some(name) = state.index().map(Box::<[u8]>::from) else {
            return;
        };
        let name = &*name;
        if node.kind != Kind::Dir {
            let Some(mut links) = state.links() else {
                return;
            };
            // The layers may have changed underneath: a name that is known counts.
            if links.union > u32::from(state.place().is_some()) {
                links.union -= 1;
                state.set_links(Some(links));
            }
            if links.union > 0 {
                return;
            }
        }
        // What stays is an orphan, which the next mount removes.
        let whiteout = || self.staging.whiteout(upper);
        let _swept_later = match (self.config.index, node.kind) {
            (Index::All, Kind::Dir) => {
                whiteout().and_then(|whiteout| whiteout.exchange(upper.work(), name, true)).map(drop)
            }
            (Index::All, _) => whiteout().and_then(|whiteout| whiteout.publish(upper.work(), name)),
            _ => upper.unlink(upper.work(), name),
        };
        state.set_index(None);
    }

    /// Makes the entry of an object that has just got its name in upper. Without it the object is a plain one, so a
    /// failure is none of the copy-up.
    pub(crate) fn index_named(&self, upper: &L, node: &Node<L>, name: Box<[u8]>) {
        let mut state = node.state.write();
        let Some(real) = state.upper() else {
            return;
        };
        if node.kind == Kind::Dir {
            if self.index_directory(upper, &name, real.at()).is_ok() {
                state.set_index(Some(name));
            }
            return;
        }
        if upper.link(real.at(), upper.work(), &name).is_ok() {
            state.set_upper(Real::Named(upper.work().clone(), (&*name).into()));
            state.set_index(Some(name));
            state.set_links(Some(Links { union: 1, below: 1 }));
            // The real number counts as long as the lower file has one name.
            let _not_read = self.store_links(upper, &state);
        }
    }

    /// Makes the entry of a directory: an empty directory that says which one it is.
    fn index_directory(&self, upper: &L, name: &[u8], dir: At<'_, L>) -> Result<()> {
        let value = self.upper_value(upper, dir)?;
        let staged = self.staging.dir(upper, 0, Owner::Mounter).step("make an index entry")?;
        let mark = self.config.dialect.name(Mark::Upper);
        upper.set_xattr(staged.at(), mark, &value, SetXattr::Any).step("mark an index entry")?;
        staged.publish(upper.work(), name).step("publish an index entry")
    }

    /// Checks that upper and the index belong to these layers, and removes what has become meaningless.
    ///
    /// # Errors
    /// [`OpError::Stale`] if they were used with other layers; [`OpError::Invalid`] for entries of an unknown form.
    pub(crate) fn open_index(&self) -> Result<()> {
        if self.config.index == Index::Nothing {
            return Ok(());
        }
        let upper = self.upper_layer()?;
        let root = At::Dir(upper.root());
        if let Some(layer) = self.lowers.first() {
            let lower = Lower { layer: 0, real: Real::Dir(layer.root().clone()), xattr_whiteouts: false };
            self.verify_handle(upper, root, Mark::Origin, &self.origin_value(&lower)?)?;
        }
        let value = self.upper_value(upper, root)?;
        self.verify_handle(upper, At::Dir(upper.work()), Mark::Upper, &value)?;
        let mut names = Vec::new();
        upper.list(upper.work(), &mut |entry| names.push(entry.name.to_vec())).step("list the index")?;
        for name in names {
            if name.starts_with(b"#") {
                remove_tree(upper, upper.work(), &name).step("sweep the index")?;
            } else {
                self.check_entry(upper, &name)?;
            }
        }
        Ok(())
    }

    /// Compares a mark with what it has to be, or stores it.
    fn verify_handle(&self, layer: &L, at: At<'_, L>, mark: Mark, value: &[u8]) -> Result<()> {
        match self.mark(layer, at, mark).step("read a handle")? {
            Some(stored) if matches!(Origin::decode(&stored), Origin::Known(_)) => {
                if stored == value {
                    Ok(())
                } else {
                    Err(OpError::Stale)
                }
            }
            _ => layer
                .set_xattr(at, self.config.dialect.name(mark), value, SetXattr::Any)
                .step("store a handle"),
        }
    }

    /// Checks one entry; one that is stale or an orphan is removed.
    fn check_entry(&self, upper: &L, name: &[u8]) -> Result<()> {
        const STEP: &str = "check an index entry";
        let value = unhex(name).ok_or(OpError::Invalid)?;
        let handle = match Origin::decode(&value) {
            Origin::Known(handle) => handle,
            Origin::Unknown => return Err(OpError::Layer { step: STEP, errno: Errno::NODATA }),
            Origin::Invalid => return Err(OpError::Invalid),
        };
        let at = At::Name(upper.work(), name);
        let stat = upper.stat(at).step(STEP)?;
        if mark::is_device_whiteout(&stat) || stat.kind == Kind::Dir && self.config.index != Index::All {
            return Ok(());
        }
        if stat.kind == Kind::Dir {
            let Some(stored) = self.mark(upper, at, Mark::Upper).step(STEP)? else {
                return upper.rmdir(upper.work(), name).step("remove a stale index entry");
            };
            let Origin::Known(dir) = Origin::decode(&stored) else {
                return upper.rmdir(upper.work(), name).step("remove a stale index entry");
            };
            return match self.resolve_handle(upper, &dir).step(STEP)? {
                Some(_) => Ok(()),
                None => self.bury(upper, name, true),
            };
        }
        if self.mark(upper, at, Mark::Origin).step(STEP)?.as_deref() != Some(&value) {
            return upper.unlink(upper.work(), name).step("remove a stale index entry");
        }
        if stat.nlink > 1 {
            return Ok(());
        }
        let links_below = if self.config.handles_open {
            let lower = self.lowers[..self.regular]
                .iter()
                .find_map(|lower| self.resolve_handle(lower, &handle).ok().flatten());
            let Some(lower) = lower else {
                return upper.unlink(upper.work(), name).step("remove a stale index entry");
            };
            lower.nlink
        } else {
            let Some(below) = self.recorded_below(upper, at)? else {
                return Ok(());
            };
            below.nlink
        };
        let value = self.mark(upper, at, Mark::Nlink).step(STEP)?;
        let union = value
            .and_then(|value| mark::Links::parse(&value))
            .and_then(|links| links.union(links_below, stat.nlink));
        if links_below == 1 || union.is_none() { self.bury(upper, name, false) } else { Ok(()) }
    }

    /// Removes an entry whose object has lost all its names.
    fn bury(&self, upper: &L, name: &[u8], is_dir: bool) -> Result<()> {
        const STEP: &str = "remove an orphan of the index";
        if self.config.index == Index::All {
            let whiteout = self.staging.whiteout(upper).step(STEP)?;
            return match is_dir {
                true => whiteout.exchange(upper.work(), name, true).map(drop).step(STEP),
                false => whiteout.publish(upper.work(), name).step(STEP),
            };
        }
        if is_dir {
            upper.rmdir(upper.work(), name).step(STEP)
        } else {
            upper.unlink(upper.work(), name).step(STEP)
        }
    }
}

/// The bytes that a name in the index stands for.
fn unhex(name: &[u8]) -> Option<Vec<u8>> {
    if name.len() < SHORTEST_NAME || !name.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    name.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}
