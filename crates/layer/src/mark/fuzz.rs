//! Any bytes as values of marks and of what else is read from layers: nothing panics, and what is read is written back.
//!
//! Longer: `PROPTEST_CASES=1000000 cargo test --release -p acetate-layer fuzz`.

use super::harness::read_as_all;
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
    fn fuzz_values(value in value()) {
        read_as_all(&value);
    }
}
