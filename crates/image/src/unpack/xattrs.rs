//! Extended attributes of entries.

use crate::archive::Entry;
use crate::error::{Error, Result, shown};
use acetate_layer::mark::{Dialect, to_disk};
use acetate_layer::{At, Errno, SetXattr, UpperLayer};

/// Where owner and mode are recorded (containers/storage, pkg/idtools), as `UID:GID:MODE` with the mode in octal.
pub const OVERRIDE: &[u8] = b"user.containers.override_stat";

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
    let value = format!("{}:{}:0{:o}", entry.uid, entry.gid, entry.mode);
    match layer.set_xattr(object, OVERRIDE, value.as_bytes(), SetXattr::Any) {
        Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(Error::Entry { path: shown(&entry.path), step: "record the owner", errno }),
    }
}

/// The mode of what has another one recorded: its owner has to be able to read it all, and must not lend it a set-id bit.
pub fn own_mode(recorded: u32, is_dir: bool) -> u32 {
    (recorded & 0o1777) | if is_dir { 0o700 } else { 0o600 }
}

/// Reads what [`record_owner`] wrote: owner, group and mode.
pub fn recorded_owner(value: &[u8]) -> Option<(u32, u32, u32)> {
    let mut parts = std::str::from_utf8(value).ok()?.split(':');
    let (uid, gid, mode) = (parts.next()?, parts.next()?, parts.next()?);
    Some((uid.parse().ok()?, gid.parse().ok()?, u32::from_str_radix(mode, 8).ok()? & 0o7777))
}
