//! What each layer's filesystem offers, for `acetate mounts`.

use super::place::Place;
use crate::mountinfo;
use crate::options::{Mounter, Role};
use crate::out::exact;
use crate::record::LayerRecord;
use acetate_layer::Layer;
use acetate_layer::dir::{DirLayer, Features, Handles, UpperFeatures};
use acetate_layer::work::WhiteoutForm;

/// Looks at layers one after the other.
pub(super) struct Surveyor {
    mounter: Mounter,
    mounts: Vec<mountinfo::Mount>,
    /// What upper can do, and the form of its whiteouts, where it can be written to.
    upper: Option<(UpperFeatures, WhiteoutForm)>,
}

impl Surveyor {
    pub(super) fn new(mounter: Mounter, upper: Option<(UpperFeatures, WhiteoutForm)>) -> Surveyor {
        // Without the table the names of filesystems are not known.
        Surveyor { mounter, mounts: mountinfo::mounts().unwrap_or_default(), upper }
    }

    /// What a layer offers. What cannot be found out is left out.
    pub(super) fn look(&self, place: &Place, layer: &DirLayer, upper: Option<&DirLayer>) -> LayerRecord {
        let known = layer.features().ok();
        let is_upper = place.role == Role::Upper;
        let shares = upper.is_some_and(|upper| upper.filesystem() == layer.filesystem());
        let of_upper = |say: fn(&UpperFeatures) -> bool| {
            self.upper.as_ref().filter(|_| is_upper).map(|(features, _)| say(features))
        };
        LayerRecord {
            role: match place.role {
                Role::Upper => "upper",
                Role::Data => "data",
                Role::Lower | Role::Work => "lower",
            }
            .into(),
            path: exact(&std::fs::canonicalize(&place.path).unwrap_or_else(|_| place.path.clone())),
            filesystem: self.filesystem(place),
            xattrs: known.as_ref().map(|known| self.xattrs(known)).unwrap_or_default(),
            file_handles: known.as_ref().map(|known| handles(known.handles).into()),
            d_type: of_upper(|upper| upper.types_listed)
                .or_else(|| known.as_ref().and_then(|known| known.types_listed)),
            fs_verity: known.as_ref().map(|known| known.verity),
            reflink: self.upper.as_ref().map(|(features, _)| features.reflinks && shares),
            whiteout_device: self
                .upper
                .as_ref()
                .filter(|_| is_upper)
                .map(|(_, form)| *form == WhiteoutForm::Device),
            o_tmpfile: of_upper(|upper| upper.unnamed_files),
            rename_exchange: of_upper(|upper| upper.exchange),
            rename_whiteout: of_upper(|upper| upper.leaves_whiteout),
        }
    }

    /// The type of the filesystem, as the mount table calls it.
    fn filesystem(&self, place: &Place) -> Option<String> {
        let (major, minor, _) = place.id.inode;
        let by_mount = self.mounts.iter().find(|mount| u64::from(mount.id) == place.id.mount);
        let found = by_mount.or_else(|| self.mounts.iter().find(|mount| mount.device == (major, minor)))?;
        Some(exact(std::path::Path::new(&found.fstype)))
    }

    /// The kinds of attributes that are there for us.
    fn xattrs(&self, known: &Features) -> Vec<String> {
        let trusted = known.trusted_xattrs && self.mounter == Mounter::Admin;
        let kinds = [("trusted", trusted), ("user", known.user_xattrs)];
        kinds.into_iter().filter(|(_, there)| *there).map(|(kind, _)| kind.to_owned()).collect()
    }
}

fn handles(handles: Handles) -> &'static str {
    match handles {
        Handles::None => "none",
        Handles::Named => "named",
        Handles::Open => "open",
    }
}
