//! Origins: which lower object a copy comes from, as a file handle in the mark `origin`.

use crate::error::{OpError, Result, Step};
use crate::node::{Lower, Node, Real};
use crate::state::State;
use crate::{Changed, Index, Overlay};
use acetate_layer::mark::{Below, Mark, Origin};
use acetate_layer::{At, Errno, Handle, Kind, Layer, SetXattr, Stat, UpperLayer};

/// The lower object that a copy comes from.
pub(crate) struct Source {
    /// Its layer.
    pub layer: usize,
    /// Its type.
    pub kind: Kind,
    /// Its inode number, if that is known.
    pub ino: Option<u64>,
    /// How many links it has; [`UNKNOWN_LINKS`] if that is not known.
    pub nlink: u32,
    /// The name that its copy has in the index.
    pub index_name: Box<[u8]>,
}

/// More links than any file has: they are not known, and nothing can be told from a number relative to them.
pub(crate) const UNKNOWN_LINKS: u32 = u32::MAX;

/// The name of the index entry for a lower object: its handle in hexadecimal.
pub(crate) fn index_name(origin: &[u8]) -> Box<[u8]> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS[usize::from(value & 15)];
    origin.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

impl<L: UpperLayer> Overlay<L> {
    /// Stores the origin of a merged upper directory that has none, and marks its parent impure. The kernel does
    /// this at lookup, even on a read-only mount; a failure is not one of the lookup. Returns whether anything was
    /// stored: then both directories have new change times.
    ///
    /// # Errors
    /// With [`Index::All`] those of storing the origin.
    pub(crate) fn fix_origin(
        &self,
        dir: &Node<L>,
        parent: &State<L>,
        layer: &L,
        upper: &Real<L>,
        lower: &Lower<L>,
    ) -> Result<bool> {
        if !self.config.marks_storable {
            return Ok(false);
        }
        let name = self.config.dialect.name(Mark::Origin);
        if self.mark(layer, upper.at(), Mark::Origin).step("read the origin mark")?.is_some() {
            return Ok(false);
        }
        let value = self.origin_value(lower)?;
        if let Some(at) = parent.upper_at() {
            let impure = self.config.dialect.name(Mark::Impure);
            // As above: without it only the inode numbers of a listing differ.
            let _not_essential = layer.set_xattr(at, impure, b"y", SetXattr::Any);
            (self.changed)(dir.id, Changed::Attributes);
        }
        match layer.set_xattr(upper.at(), name, &value, SetXattr::Any) {
            Ok(()) => Ok(true),
            // Only what the mark says is merged then: without it what is below would be missing.
            Err(errno) if self.config.index == Index::All => {
                Err(OpError::Layer { step: "store the origin of a directory", errno })
            }
            Err(_) => Ok(false),
        }
    }

    /// The value of the origin mark for a copy of `lower`; empty where the filesystem has no handles.
    pub(crate) fn origin_value(&self, lower: &Lower<L>) -> Result<Vec<u8>> {
        let handle = self.handle_of(&self.lowers[lower.layer], lower.real.at())?;
        Ok(handle.as_ref().map(Origin::encode).unwrap_or_default())
    }

    /// The handle of an object as it is stored; `None` where the filesystem has none.
    pub(crate) fn handle_of(&self, layer: &L, at: At<'_, L>) -> Result<Option<Handle>> {
        match layer.handle(at) {
            Ok(Some(handle)) if !self.config.uuid_in_handles => Ok(Some(Handle { uuid: [0; 16], ..handle })),
            Ok(handle) => Ok(handle),
            Err(Errno::OPNOTSUPP | Errno::OVERFLOW) => Ok(None),
            Err(errno) => Err(OpError::Layer { step: "get the handle of an object", errno }),
        }
    }

    /// The lower object that an upper one was copied from, if its mark names one that is still there.
    pub(crate) fn source(&self, layer: &L, at: At<'_, L>, kind: Kind) -> Result<Option<Source>> {
        let Some(value) = self.mark(layer, at, Mark::Origin).step("read the origin mark")? else {
            return Ok(None);
        };
        let Origin::Known(handle) = Origin::decode(&value) else {
            return Ok(None);
        };
        if !self.config.handles_open {
            return self.recorded_source(layer, at, kind, &handle);
        }
        for (number, lower) in self.lowers[..self.regular].iter().enumerate() {
            // A handle that cannot be resolved only costs the old number.
            if let Ok(Some(stat)) = self.resolve_handle(lower, &handle) {
                let index_name = index_name(&Origin::encode(&handle));
                let source =
                    Source { layer: number, kind, ino: Some(stat.ino), nlink: stat.nlink, index_name };
                return Ok((stat.kind == kind).then_some(source));
            }
        }
        Ok(None)
    }

    /// Whether what is in upper says where it comes from, so that the directory it is in has to be marked impure. Where
    /// handles cannot be opened, the mark of what others have copied names nothing that is known.
    pub(crate) fn is_copy(&self, state: &State<L>) -> Result<bool> {
        if state.has_origin() || self.config.handles_open {
            return Ok(state.has_origin());
        }
        let Some(at) = state.upper_at() else {
            return Ok(false);
        };
        let mark = self.mark(self.upper_layer()?, at, Mark::Origin).step("read the origin mark")?;
        Ok(mark.is_some_and(|value| matches!(Origin::decode(&value), Origin::Known(_))))
    }

    /// As [`Overlay::source`], from what was recorded with the copy, because the handle cannot be opened.
    fn recorded_source(
        &self,
        layer: &L,
        at: At<'_, L>,
        kind: Kind,
        handle: &Handle,
    ) -> Result<Option<Source>> {
        if !self.records_below(kind) {
            return Ok(None);
        }
        let is_on = |uuid: &[u8; 16]| !self.config.uuid_in_handles || *uuid == handle.uuid;
        let Some(number) = self.lower_uuids.iter().position(is_on) else {
            return Ok(None);
        };
        // Copies that the kernel has made lack it.
        let below = self.recorded_below(layer, at)?;
        Ok(Some(Source {
            layer: number,
            kind,
            ino: below.map(|below| below.ino),
            nlink: below.map_or(UNKNOWN_LINKS, |below| below.nlink),
            index_name: index_name(&Origin::encode(handle)),
        }))
    }

    /// Whether copies of objects of that type say what their lower object was.
    pub(crate) fn records_below(&self, kind: Kind) -> bool {
        !self.config.handles_open && self.config.index != Index::Nothing && kind != Kind::Dir
    }

    /// What a copy says of its lower object.
    pub(crate) fn recorded_below(&self, layer: &L, at: At<'_, L>) -> Result<Option<Below>> {
        let value = self.mark(layer, at, Mark::Below).step("read what the lower file was")?;
        Ok(value.as_deref().and_then(Below::parse))
    }

    /// The object behind a stored handle. Without UUIDs in handles that of the filesystem is taken for granted.
    pub(crate) fn resolve_handle(&self, layer: &L, handle: &Handle) -> acetate_layer::Result<Option<Stat>> {
        if self.config.uuid_in_handles {
            return layer.resolve(handle);
        }
        let uuid = layer.handle(At::Dir(Layer::root(layer)))?.map(|root| root.uuid).unwrap_or_default();
        layer.resolve(&Handle { uuid, ..handle.clone() })
    }
}
