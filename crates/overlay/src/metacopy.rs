//! Metadata-only copies: upper holds the attributes of a regular file, a layer below still its data.
//!
//! The mark `metacopy` says so. Where the data is follows from the name, or from a redirect; it may be a data-only layer,
//! whose files are looked for when the data is first needed (overlayfs.rst, "Metadata only copy up" and "Data-only lower
//! layers").

use crate::copyup::Data;
use crate::error::{OpError, Result, Step};
use crate::node::{Lower, Node, Real};
use crate::state::State;
use crate::{Changed, Overlay, Verity};
use acetate_layer::mark::{Digest, Mark};
use acetate_layer::{Access, At, Errno, Kind, SetXattr, Stat, UpperLayer};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CAPABILITY: &[u8] = b"security.capability";

/// The shortest value of the mark that says more than that it is there, in bytes.
const HEADER: usize = 4;

/// Whether a value of the mark can be one.
///
/// # Errors
/// [`OpError::BrokenMark`] for one that is cut off.
pub(crate) fn check_mark(value: &[u8]) -> Result<()> {
    if value.is_empty() || value.len() >= HEADER {
        return Ok(());
    }
    Err(OpError::BrokenMark { what: "a metacopy mark is cut off", errno: Errno::IO })
}

impl<L: UpperLayer> Overlay<L> {
    /// The lower part that holds the data of a regular file; `None` if upper does.
    ///
    /// # Errors
    /// `ENOENT` or `ELOOP` if no data-only layer has it; [`OpError::Layer`].
    pub(crate) fn data_part(&self, node: &Node<L>) -> Result<Option<Lower<L>>> {
        let state = node.state.read();
        if state.has_upper() && !state.metacopy() {
            return Ok(None);
        }
        let Some(path) = state.data_path().map(<[_]>::to_vec) else {
            let last = state.lowers().next_back().ok_or(OpError::Stale)?;
            return Ok(Some(last.to_lower()));
        };
        drop(state);
        let found = self.find_data(&path)?;
        let mut state = node.state.write();
        // Somebody else may have found or copied it in between.
        if state.data_path().is_some() {
            state.set_data_path(None);
            state.add_lower(found.clone());
        }
        Ok(Some(found))
    }

    /// Looks a path up in the data-only layers; the first one that has a regular file there wins.
    fn find_data(&self, path: &[Vec<u8>]) -> Result<Lower<L>> {
        let mut error = Errno::NOENT;
        for layer in self.regular..self.lowers.len() {
            match find_file(&self.lowers[layer], path) {
                Ok(real) => return Ok(Lower { layer, real, xattr_whiteouts: false }),
                Err(errno) => error = errno,
            }
        }
        Err(OpError::Layer { step: "find the data in the data-only layers", errno: error })
    }

    /// Checks that data below, open as `file`, has the digest that the topmost copy of the attributes records
    /// (`verity`). Once it does that counts for as long as the node is known, as in the kernel.
    ///
    /// # Errors
    /// [`OpError::BrokenMark`] (`EIO`) if it has another one or none, or if none is recorded and there has to be one.
    pub(crate) fn verify_data(&self, node: &Node<L>, layer: &L, file: &L::File) -> Result<()> {
        let wrong = |what| Err(OpError::BrokenMark { what, errno: Errno::IO });
        if self.config.verity == Verity::Off || node.verified.load(Ordering::Acquire) {
            return Ok(());
        }
        let value = {
            let state = node.state.read();
            if !state.data_is_apart() {
                return Ok(());
            }
            match (state.upper_at(), state.lower()) {
                (Some(upper), _) => self.mark(self.upper_layer()?, upper, Mark::Metacopy),
                (None, Some(lower)) => self.mark(&self.lowers[lower.layer], lower.at(), Mark::Metacopy),
                (None, None) => return Err(OpError::Stale),
            }
            .step("read the metacopy mark")?
        };
        match Digest::decode(&value.unwrap_or_default()) {
            Err(_) => return wrong("a recorded digest is malformed"),
            Ok(None) if self.config.verity == Verity::Require => return wrong("no digest is recorded"),
            Ok(None) => {}
            Ok(recorded) if layer.verity(file).step("measure the data")? == recorded => {}
            Ok(_) => return wrong("data below is not what the recorded digest says"),
        }
        node.verified.store(true, Ordering::Release);
        Ok(())
    }

    /// How much of a regular file a change of its attributes copies, and the digest that the copy of the attributes
    /// records.
    pub(crate) fn leave_below(&self, node: &Node<L>) -> Result<(Data, Option<Digest>)> {
        if self.config.verity == Verity::Off {
            return Ok((Data::Below, None));
        }
        let part = self.data_part(node)?.ok_or(OpError::Stale)?;
        let layer = &self.lowers[part.layer];
        let file = layer.open_file(part.real.at(), Access::Read).step("open the lower file")?;
        match layer.verity(&file).step("measure the data")? {
            None if self.config.verity == Verity::Require => Ok((Data::Whole, None)),
            digest => Ok((Data::Below, digest)),
        }
    }

    /// Makes the allocated space in the attributes of a regular file that of its data.
    pub(crate) fn count_data_blocks(&self, state: &State<L>, stat: &mut Stat) -> Result<()> {
        if stat.kind != Kind::File || !state.data_is_apart() {
            return Ok(());
        }
        stat.blocks = match (state.data_path(), state.lowers().next_back()) {
            // As the kernel guesses: the data is not looked for to answer stat(2).
            (Some(_), _) => stat.size.next_multiple_of(u64::from(stat.blksize.max(1))) / 512,
            (None, Some(data)) => {
                self.lowers[data.layer].stat(data.at()).step("stat the data of a file")?.blocks
            }
            (None, None) => return Err(OpError::Stale),
        };
        Ok(())
    }

    /// Copies the data of a regular file whose attributes are in upper already. Until the mark is removed everybody
    /// reads the data below. So it is copied even if it is about to be truncated: the size alone cannot change, because a
    /// copy of attributes whose size is not that of the data shows neither the old file nor an empty one.
    pub(crate) fn copy_up_data(&self, node: &Arc<Node<L>>, data: Data) -> Result<()> {
        if data == Data::Below || node.data_in_upper() {
            return Ok(());
        }
        let _copying = node.copy.lock();
        if node.data_in_upper() {
            return Ok(());
        }
        let upper = self.upper()?;
        let target = {
            let state = node.state.read();
            let at = state.in_upper()?;
            upper.open_file(at, Access::Write).step("open the copy of the attributes")?
        };
        let copy = At::Open(&target);
        let size = upper.stat(copy).step("stat the copy of the attributes")?.size;
        if size > 0 {
            let capability = match upper.get_xattr(copy, CAPABILITY) {
                Err(Errno::OPNOTSUPP) => None,
                other => other.step("read the file capabilities")?,
            };
            let part = self.data_part(node)?.ok_or(OpError::Stale)?;
            let source = self.lowers[part.layer].open_file(part.real.at(), Access::Read);
            let source = source.step("open the lower file")?;
            self.verify_data(node, &self.lowers[part.layer], &source)?;
            self.copy_data(upper, &source, &target, size)?;
            self.settle_data(upper, &target)?;
            // Writing has taken them away.
            if let Some(value) = capability {
                upper.set_xattr(copy, CAPABILITY, &value, SetXattr::Any).step("restore capabilities")?;
            }
        }
        upper
            .remove_xattr(copy, self.config.dialect.name(Mark::Metacopy))
            .step("remove the metacopy mark")?;
        let mut state = node.state.write();
        state.set_metacopy(false);
        state.leave_lowers();
        node.data_in_upper.store(true, Ordering::Release);
        drop(state);
        (self.changed)(node.id, Changed::Attributes);
        Ok(())
    }
}

/// The regular file at a path in a data-only layer.
///
/// # Errors
/// `ENOENT` if there is none, `ELOOP` for a symlink on the way: none is followed.
fn find_file<L: UpperLayer>(layer: &L, path: &[Vec<u8>]) -> acetate_layer::Result<Real<L>> {
    let (name, above) = path.split_last().ok_or(Errno::NOENT)?;
    let mut dir = layer.root().clone();
    for component in above {
        match layer.stat(At::Name(&dir, component))?.kind {
            Kind::Dir => dir = layer.open_dir(&dir, component)?,
            Kind::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NOTDIR),
        }
    }
    match layer.stat(At::Name(&dir, name))?.kind {
        Kind::File => Ok(Real::Named(dir, name.as_slice().into())),
        Kind::Symlink => Err(Errno::LOOP),
        _ => Err(Errno::NOENT),
    }
}
