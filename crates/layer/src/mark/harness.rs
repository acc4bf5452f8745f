//! What has to hold for any bytes as the value of a mark, or of what else is read from layers: for tests and for the fuzz
//! target.

use super::{Dialect, Digest, Links, Origin, ProtAttr, Redirect, opaque, to_disk, to_user};
use crate::acl::Acl;
use crate::view::{Record, oci};

/// Reads `value` as everything that it could be. Nothing panics, and what is read is written back.
///
/// # Panics
/// If that does not hold.
pub fn read_as_all(value: &[u8]) {
    if let Ok(redirect) = Redirect::parse(value) {
        let until_nul = value.split(|byte| *byte == 0).next().unwrap_or_default();
        assert_eq!(redirect.encode(), until_nul);
    }
    if let Origin::Known(handle) = Origin::decode(value) {
        assert_eq!(Origin::decode(&Origin::encode(&handle)), Origin::Known(handle));
    }
    if let Some(links) = Links::parse(value) {
        assert_eq!(Links::parse(&links.encode()), Some(links));
    }
    if let Some(flags) = ProtAttr::parse(value) {
        assert_eq!(ProtAttr::parse(flags.format()), Some(flags));
    }
    if let Ok(digest) = Digest::decode(value) {
        assert_eq!(Digest::decode(&Digest::encode(digest.as_ref())), Ok(digest));
    }
    if let Ok(record) = Record::parse(value) {
        assert_eq!(Record::parse(&record.format()), Ok(record));
    }
    if let Ok(Some(list)) = Acl::parse(value) {
        assert_eq!(Acl::parse(&list.encode()), Ok(Some(list)));
    }
    let _any = (Origin::is_upper(value), opaque(Some(value)), oci::meaning(value));
    for dialect in [Dialect::Trusted, Dialect::User] {
        if let Ok(disk) = to_disk(dialect, value) {
            let shown = to_user(dialect, &disk);
            assert_eq!(shown.as_deref(), Some(value));
        }
    }
}
