//! Any bytes as values of marks and of what else is read from layers: nothing panics, and what is read is written back.
//!
//! Longer: `PROPTEST_CASES=1000000 cargo test --release -p acetate-layer fuzz`.

use super::{Dialect, Digest, Links, Origin, ProtAttr, Redirect, opaque, to_disk, to_user};
use crate::acl::Acl;
use crate::view::{Record, oci};
use proptest::prelude::*;

/// Bytes that the formats are made of, and any others.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        prop::sample::select(vec![
            &b"/"[..],
            b"..",
            b".",
            b"\0",
            b"U+",
            b"L-",
            b"a",
            b"i",
            b":",
            b"0",
            b"7",
            b"4294967295",
            b".wh.",
            b"\x00\xfb\x1d\x00\x01",
            b"\x00\x24\x00\x01",
            b"\x02\0\0\0",
            b"trusted.overlay.",
            b"user.overlay.",
        ])
        .prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn fuzz_redirects(value in value()) {
        if let Ok(redirect) = Redirect::parse(&value) {
            let until_nul = value.split(|byte| *byte == 0).next().unwrap_or_default();
            prop_assert_eq!(redirect.encode(), until_nul);
        }
    }

    #[test]
    fn fuzz_handles(value in value()) {
        if let Origin::Known(handle) = Origin::decode(&value) {
            prop_assert_eq!(Origin::decode(&Origin::encode(&handle)), Origin::Known(handle));
        }
        let _either = Origin::is_upper(&value);
    }

    #[test]
    fn fuzz_small_values(value in value()) {
        if let Some(links) = Links::parse(&value) {
            prop_assert_eq!(Links::parse(&links.encode()), Some(links));
        }
        if let Some(flags) = ProtAttr::parse(&value) {
            prop_assert_eq!(ProtAttr::parse(flags.format()), Some(flags));
        }
        if let Ok(digest) = Digest::decode(&value) {
            prop_assert_eq!(Digest::decode(&Digest::encode(digest.as_ref())), Ok(digest));
        }
        if let Ok(record) = Record::parse(&value) {
            prop_assert_eq!(Record::parse(&record.format()), Ok(record));
        }
        let _any = (opaque(Some(&value)), oci::meaning(&value));
    }

    #[test]
    fn fuzz_access_lists(value in value()) {
        if let Ok(Some(list)) = Acl::parse(&value) {
            prop_assert_eq!(Acl::parse(&list.encode()), Ok(Some(list)));
        }
    }

    #[test]
    fn fuzz_names(name in value()) {
        for dialect in [Dialect::Trusted, Dialect::User] {
            if let Ok(disk) = to_disk(dialect, &name) {
                let shown = to_user(dialect, &disk);
                prop_assert_eq!(shown.as_deref(), Some(&*name));
            }
        }
    }
}
