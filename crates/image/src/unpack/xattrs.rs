//! Extended attributes of entries.

use crate::archive::Entry;
use crate::error::{Error, Result, shown};
use acetate_layer::mark::{Dialect, to_disk};
use acetate_layer::view::{Record, Records};
use acetate_layer::{At, Errno, SetXattr, UpperLayer};

/// Sets the attributes of an object; returns how many the filesystem or the lack of privilege did not allow.
///
/// Names that look like private marks of the overlay are escaped: an archive cannot redirect anything.
///
/// # Errors
/// [`Error::Entry`].
pub fn set<L: UpperLayer>(layer: &L, object: At<'_, L>, entry: &Entry, dialect: Dialect) -> Result<u64> {
    let mut skipped = 0;
    for (name, value) in &entry.xattrs {
        // Set when nothing is made in the directory any more, so that nothing inherits it.
        if name == acetate_layer::acl::DEFAULT || name.contains(&0) {
            continue;
        }
        let set =
            to_disk(dialect, name).and_then(|name| layer.set_xattr(object, &name, value, SetXattr::Any));
        match set {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::PERM) => skipped += 1,
            Err(errno) => {
                return Err(Error::Entry {
                    path: shown(&entry.path),
                    step: "set an extended attribute",
                    errno,
                });
            }
        }
    }
    Ok(skipped)
}

/// Records owner and mode where they cannot be set. Symlinks and special files have no such attributes; they are
/// shown as the unpacking user's.
///
/// # Errors
/// [`Error::Entry`].
pub fn record_owner<L: UpperLayer>(layer: &L, object: At<'_, L>, entry: &Entry) -> Result<()> {
    let value = Record { uid: entry.uid, gid: entry.gid, mode: entry.mode }.format();
    match layer.set_xattr(object, Records::User.attribute(), &value, SetXattr::Any) {
        Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(Error::Entry { path: shown(&entry.path), step: "record the owner", errno }),
    }
}

/// The mode of what has another one recorded: its owner has to be able to read it all, and must not lend it a set-id bit.
pub fn own_mode(recorded: u32, is_dir: bool) -> u32 {
    (recorded & 0o1777) | if is_dir { 0o700 } else { 0o600 }
}
