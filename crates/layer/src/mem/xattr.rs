//! Which extended attributes an object may have and what setting them entails (xattr(7), acl(5)).

use super::state::{Inode, State};
use crate::{Errno, Kind, Result, SetXattr, Time, acl};

/// File capabilities; gone after every change of content or owner.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

const NAME_MAX: usize = 255;
const VALUE_MAX: usize = 65536;

/// What the namespace of a name says about an object.
enum Access {
    /// The object may have it.
    Yes,
    /// The object never has one, and setting it is not permitted.
    Never,
}

fn access(state: &State, kind: Kind, name: &[u8]) -> Result<Access> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Errno::RANGE);
    }
    if matches!(name, acl::ACCESS | acl::DEFAULT) {
        let able = state.abilities.acls && kind != Kind::Symlink;
        return if able { Ok(Access::Yes) } else { Err(Errno::OPNOTSUPP) };
    }
    if !state.abilities.xattrs {
        return Err(Errno::OPNOTSUPP);
    }
    let in_namespace = |prefix: &[u8]| name.strip_prefix(prefix).map(|rest| !rest.is_empty());
    if let Some(named) = in_namespace(b"user.") {
        let able = matches!(kind, Kind::File | Kind::Dir);
        return if named { Ok(if able { Access::Yes } else { Access::Never }) } else { Err(Errno::INVAL) };
    }
    if let Some(named) = in_namespace(b"trusted.") {
        let able = state.abilities.trusted;
        return if named { Ok(if able { Access::Yes } else { Access::Never }) } else { Err(Errno::INVAL) };
    }
    match in_namespace(b"security.") {
        Some(true) => Ok(Access::Yes),
        Some(false) => Err(Errno::INVAL),
        None => Err(Errno::OPNOTSUPP),
    }
}

pub(super) fn get(state: &State, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let inode = state.get(ino)?;
    match access(state, inode.kind, name)? {
        Access::Yes => Ok(inode.xattrs.get(name).cloned()),
        Access::Never => Ok(None),
    }
}

pub(super) fn list(state: &State, ino: u64) -> Result<Vec<Vec<u8>>> {
    let inode = state.get(ino)?;
    let seen = |name: &&Vec<u8>| state.abilities.trusted || !name.starts_with(b"trusted.");
    Ok(inode.xattrs.keys().filter(seen).cloned().collect())
}

pub(super) fn set(state: &mut State, ino: u64, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
    let inode = state.get(ino)?;
    if let Access::Never = access(state, inode.kind, name)? {
        return Err(Errno::PERM);
    }
    if inode.frozen() {
        return Err(Errno::PERM);
    }
    if value.len() > VALUE_MAX {
        return Err(Errno::TOOBIG);
    }
    let now = state.tick();
    let inode = state.get_mut(ino)?;
    if name == acl::ACCESS || name == acl::DEFAULT {
        // The kernel does not look at the flags of setxattr(2) for these.
        return set_acl(inode, name, value, now);
    }
    match (how, inode.xattrs.contains_key(name)) {
        (SetXattr::Create, true) => return Err(Errno::EXIST),
        (SetXattr::Replace, false) => return Err(Errno::NODATA),
        _ => {}
    }
    inode.xattrs.insert(name.to_vec(), value.to_vec());
    inode.ctime = now;
    Ok(())
}

/// Sets or (if it has no entries) removes an access control list; an access list sets the permission bits too, and
/// is not stored where they say it all.
fn set_acl(inode: &mut Inode, name: &[u8], value: &[u8], now: Time) -> Result<()> {
    let list = acl::Acl::parse(value)?;
    if name == acl::DEFAULT && inode.kind != Kind::Dir {
        return if list.is_some() { Err(Errno::ACCESS) } else { Ok(()) };
    }
    inode.ctime = now;
    match list {
        Some(list) if name == acl::DEFAULT => {
            inode.xattrs.insert(name.to_vec(), list.encode());
        }
        Some(list) => {
            inode.mode = inode.mode & !0o777 | list.mode();
            if list.is_mode() {
                inode.xattrs.remove(name);
            } else {
                inode.xattrs.insert(name.to_vec(), list.encode());
            }
        }
        None => {
            inode.xattrs.remove(name);
        }
    }
    Ok(())
}

pub(super) fn remove(state: &mut State, ino: u64, name: &[u8]) -> Result<()> {
    let inode = state.get(ino)?;
    if let Access::Never = access(state, inode.kind, name)? {
        return Err(Errno::PERM);
    }
    if inode.frozen() {
        return Err(Errno::PERM);
    }
    let now = state.tick();
    let inode = state.get_mut(ino)?;
    if inode.xattrs.remove(name).is_none() && name != acl::ACCESS && name != acl::DEFAULT {
        return Err(Errno::NODATA);
    }
    inode.ctime = now;
    Ok(())
}
