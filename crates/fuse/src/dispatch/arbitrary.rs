//! Requests of any bytes at all: none makes the server panic, each gets an answer that is one.
//!
//! The corpus (tests/data/requests.hex) has requests of each kind as a kernel sent them. They are cut off, lengthened, and
//! changed byte by byte and word by word, and sent in any order to one overlay, so that nodes and handles of earlier ones
//! are met. `PROPTEST_CASES` says how many sequences are tried; `tests/fuzz` looks for others by what code they reach.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use std::sync::LazyLock;

static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let text = include_str!("../../tests/data/requests.hex");
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    text.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
});

/// A change of a request.
#[derive(Clone, Debug)]
enum Mutation {
    /// Some byte has another value.
    Byte(prop::sample::Index, u8),
    /// Some word of eight bytes has another value; small ones are nodes and handles that there are.
    Word(prop::sample::Index, u64),
    /// It ends early.
    Cut(prop::sample::Index),
    /// Something follows.
    More(Vec<u8>),
    /// It is another operation.
    Opcode(u32),
    /// It is about another node.
    Node(u64),
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..12_u64,
        1 => prop_oneof![Just(u64::MAX), Just(i64::MAX as u64), Just(u64::from(u32::MAX)), Just(1 << 40)],
        1 => any::<u64>(),
    ]
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        4 => (index(), number()).prop_map(|(at, word)| Mutation::Word(at, word)),
        1 => index().prop_map(Mutation::Cut),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Mutation::More),
        1 => prop_oneof![0..60_u32, any::<u32>()].prop_map(Mutation::Opcode),
        4 => number().prop_map(Mutation::Node),
    ]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec(mutation(), 0..4);
    (any::<prop::sample::Index>(), changes).prop_map(|(which, changes)| {
        let mut bytes = which.get(&CORPUS).clone();
        for change in changes {
            apply(&mut bytes, change);
        }
        bytes
    })
}

fn apply(bytes: &mut Vec<u8>, change: Mutation) {
    let put = |bytes: &mut Vec<u8>, at: usize, value: &[u8]| {
        bytes.iter_mut().skip(at).zip(value).for_each(|(byte, new)| *byte = *new);
    };
    match change {
        Mutation::Byte(at, byte) if !bytes.is_empty() => *at.get_mut(&mut bytes[..]) = byte,
        Mutation::Word(at, word) if bytes.len() >= 48 => {
            let words = (bytes.len() - 40) / 8;
            put(bytes, 40 + 8 * at.index(words), &word.to_ne_bytes());
        }
        Mutation::Cut(at) if !bytes.is_empty() => bytes.truncate(at.index(bytes.len())),
        Mutation::More(more) => bytes.extend(more),
        Mutation::Opcode(opcode) => put(bytes, 4, &opcode.to_ne_bytes()),
        Mutation::Node(node) => put(bytes, 16, &node.to_ne_bytes()),
        Mutation::Byte(..) | Mutation::Word(..) | Mutation::Cut(_) => {}
    }
    // The kernel says how long it is.
    let length = bytes.len() as u32;
    put(bytes, 0, &length.to_ne_bytes());
}

proptest! {
    #[test]
    fn any_request_has_an_answer(requests in prop::collection::vec(request(), 1..60)) {
        let answered = super::harness::answer_all(requests.iter().map(Vec::as_slice));
        prop_assert!(answered.is_ok(), "{}", answered.unwrap_err());
    }
}
