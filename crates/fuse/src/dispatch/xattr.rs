//! Extended attributes.

use super::{Call, Failure};
use crate::wire::flags::SETXATTR_ACL_KILL_SGID;
use crate::wire::input::Request;
use crate::wire::output::Reply;
use acetate_layer::{SetXattr, UpperLayer, acl};
use acetate_overlay::Overlay;

/// `XATTR_CREATE`
const CREATE: u32 = 1;
/// `XATTR_REPLACE`
const REPLACE: u32 = 2;

pub(super) fn answer<L: UpperLayer>(
    overlay: &Overlay<L>,
    call: &Call<'_>,
    reply: &mut Reply,
) -> Result<(), Failure> {
    let node = call.node();
    match call.request {
        Request::SetXattr { name, value, flags, setxattr_flags } => {
            let how = match flags {
                0 => SetXattr::Any,
                CREATE => SetXattr::Create,
                REPLACE => SetXattr::Replace,
                _ => return Err(Failure::Invalid),
            };
            let clear_sgid = clears_sgid(name, setxattr_flags);
            overlay.setxattr(node, name, value, how, &call.caller(), clear_sgid)?;
        }
        Request::GetXattr { name, size } => put_value(reply, &overlay.getxattr(node, name)?, size)?,
        Request::ListXattr { size } => put_value(reply, &overlay.listxattr(node, &call.caller())?, size)?,
        Request::RemoveXattr { name } => overlay.removexattr(node, name, &call.caller())?,
        _ => return Err(Failure::Internal),
    }
    Ok(())
}

/// Whether the set-group-id bit goes with setting an attribute. The kernel says so of default ACLs too, which have
/// nothing to do with the mode.
fn clears_sgid(name: &[u8], setxattr_flags: u32) -> bool {
    setxattr_flags & SETXATTR_ACL_KILL_SGID != 0 && name == acl::ACCESS
}

/// Answers with a value, or with its length if the caller has no room at all (getxattr(2)).
fn put_value(reply: &mut Reply, value: &[u8], size: u32) -> Result<(), Failure> {
    if size == 0 {
        reply.size_out(value.len() as u32);
    } else if value.len() > (size as usize).min(reply.room()) {
        return Err(Failure::NoRoom);
    } else {
        reply.put(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_access_acl_takes_the_set_group_id_bit_away() {
        assert!(clears_sgid(acl::ACCESS, SETXATTR_ACL_KILL_SGID));
        assert!(!clears_sgid(acl::ACCESS, 0));
        assert!(!clears_sgid(acl::DEFAULT, SETXATTR_ACL_KILL_SGID));
    }

    #[test]
    fn a_value_has_to_fit() {
        let mut reply = Reply::with_room(64);
        assert_eq!(put_value(&mut reply, b"four", 3), Err(Failure::NoRoom));
        assert_eq!(put_value(&mut reply, b"four", 4), Ok(()));
        assert_eq!(&reply.finish(1, 0)[16..], b"four");
        reply.clear();
        assert_eq!(put_value(&mut reply, b"four", 0), Ok(()));
        assert_eq!(&reply.finish(1, 0)[16..], [4u32.to_ne_bytes(), [0; 4]].concat());
        reply.clear();
        assert_eq!(put_value(&mut reply, &[0; 65], 1000), Err(Failure::NoRoom));
    }
}
