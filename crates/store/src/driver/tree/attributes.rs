//! The attributes of objects, without those that only an overlay understands.

use acetate_layer::dir::DirLayer;
use acetate_layer::mark::{self, Dialect, Mark, Opaque};
use acetate_layer::{At, Errno, Kind, Layer, Result, SetTime, SetXattr, Stat, UpperLayer, acl};

/// What a layer says about an object beside its `Stat`.
#[derive(Default)]
pub(crate) struct Extras {
    /// Extended attributes by the names that users know.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// A directory that hides what lies below.
    pub opaque: bool,
    /// An empty file that is a whiteout.
    pub whiteout: bool,
    /// A mark that cannot be followed here.
    pub unsupported: Option<&'static str>,
}

/// Whether the target may hold more attributes than it shall have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// It has just been made.
    New,
    /// It was there.
    Old,
}

impl Extras {
    /// Reads them. Without `marks` all attributes are the users'.
    pub(crate) fn read(
        layer: &DirLayer,
        at: At<'_, DirLayer>,
        stat: &Stat,
        marks: Option<Dialect>,
    ) -> Result<Extras> {
        let mut extras = Extras::default();
        let names = match layer.list_xattrs(at) {
            Err(Errno::OPNOTSUPP) => return Ok(extras),
            names => names?,
        };
        for name in names {
            // One that vanishes between list and get was not there.
            let Some(value) = layer.get_xattr(at, &name)? else { continue };
            match marks {
                None => extras.xattrs.push((name, value)),
                Some(dialect) => match mark::to_user(dialect, &name) {
                    Some(user) => extras.xattrs.push((user.into_owned(), value)),
                    None => extras.note(dialect, stat, &name, &value),
                },
            }
        }
        Ok(extras)
    }

    /// Takes in a private attribute. Those that only identify objects mean nothing in a plain tree.
    fn note(&mut self, dialect: Dialect, stat: &Stat, name: &[u8], value: &[u8]) {
        let is = |mark| name == dialect.name(mark);
        match stat.kind {
            Kind::Dir if is(Mark::Opaque) => self.opaque = mark::opaque(Some(value)) == Opaque::Yes,
            Kind::Dir if is(Mark::Redirect) => self.unsupported = Some("redirect"),
            Kind::File if is(Mark::Metacopy) => self.unsupported = Some("metacopy"),
            Kind::File if is(Mark::Whiteout) => self.whiteout = mark::may_be_xattr_whiteout(stat),
            _ => {}
        }
    }
}

/// Gives an object the attributes of another one. Returns how many extended attributes were lost.
///
/// The order matters: a change of owner takes set-id bits and capabilities away, an ACL changes the mode.
pub(crate) fn set(
    layer: &DirLayer,
    at: At<'_, DirLayer>,
    stat: &Stat,
    extras: &Extras,
    before: Before,
) -> Result<u64> {
    layer.set_owner(at, Some(stat.uid), Some(stat.gid))?;
    if before == Before::Old {
        remove_others(layer, at, extras)?;
    }
    let mut lost = 0;
    for (name, value) in &extras.xattrs {
        match layer.set_xattr(at, name, value, SetXattr::Any) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) if !must_keep(name) => lost += 1,
            // Who may not set it could not have used it either (user namespaces).
            Err(Errno::PERM) if is_privileged(name) => lost += 1,
            Err(errno) => return Err(errno),
        }
    }
    if stat.kind != Kind::Symlink {
        layer.set_mode(at, stat.mode)?;
    }
    layer.set_times(at, SetTime::To(stat.atime), SetTime::To(stat.mtime))?;
    Ok(lost)
}

/// Removes the attributes that the object shall not have.
fn remove_others(layer: &DirLayer, at: At<'_, DirLayer>, extras: &Extras) -> Result<()> {
    let names = match layer.list_xattrs(at) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        names => names?,
    };
    for name in names {
        // Labels belong to the machine's security module, and only files have capabilities.
        let kept = name.starts_with(b"security.") || extras.xattrs.iter().any(|(wanted, _)| *wanted == name);
        if !kept {
            gone(layer.remove_xattr(at, &name))?;
        }
    }
    Ok(())
}

/// Takes a directory's default ACL away, so that what is made in it inherits nothing.
pub(crate) fn stop_inheritance(layer: &DirLayer, dir: At<'_, DirLayer>) -> Result<()> {
    gone(layer.remove_xattr(dir, acl::DEFAULT))
}

/// What matters of a removal is that there is none now.
fn gone(removed: Result<()>) -> Result<()> {
    match removed {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// Attributes without which an object would give more, or less, than it should.
fn must_keep(name: &[u8]) -> bool {
    name == b"security.capability" || name == acl::ACCESS || name == acl::DEFAULT
}

fn is_privileged(name: &[u8]) -> bool {
    name.starts_with(b"trusted.") || name.starts_with(b"security.")
}
