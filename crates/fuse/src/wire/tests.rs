//! Decodes bytes laid out by hand, and bytes that are no requests at all.
#![allow(clippy::unwrap_used)]

use super::input::{Header, Malformed, Request, SetXattrForm, decode};
use super::op::Op;
use proptest::prelude::*;

/// A header as linux/fuse.h lays it out.
fn header(length: u32, opcode: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(7u64.to_ne_bytes());
    bytes.extend(9u64.to_ne_bytes());
    for word in [1000u32, 1001, 42, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

#[test]
fn a_lookup_is_a_header_and_a_name() {
    let mut bytes = header(46, Op::Lookup as u32);
    bytes.extend(b"name\xff\0");
    let (header, body) = Header::split(&bytes).unwrap();
    assert_eq!((header.unique, header.node, header.uid, header.gid), (7, 9, 1000, 1001));
    let decoded = decode(Op::Lookup, body, SetXattrForm::Short).unwrap();
    assert!(matches!(decoded, Request::Lookup { name: b"name\xff" }), "{decoded:?}");
}

#[test]
fn names_that_are_no_components_are_refused() {
    for name in [&b"\0"[..], b".\0", b"..\0", b"a/b\0"] {
        let result = decode(Op::Lookup, name, SetXattrForm::Short);
        assert_eq!(result.err(), Some(Malformed::NotAName), "{name:?}");
    }
    assert_eq!(decode(Op::Lookup, b"abc", SetXattrForm::Short).err(), Some(Malformed::NoEnd));
}

proptest! {
    /// Whatever the device brings is decoded or refused; nothing panics.
    #[test]
    fn any_bytes_are_decoded_or_refused(opcode in 0u32..70, body in prop::collection::vec(any::<u8>(), 0..200)) {
        for form in [SetXattrForm::Short, SetXattrForm::Extended] {
            if let Some(op) = Op::from_number(opcode) {
                let _either_way = decode(op, &body, form);
            }
        }
        let _either_way = Header::split(&body);
    }
}
