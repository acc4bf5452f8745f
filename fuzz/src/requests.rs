//! FUSE requests of any bytes: a length of two bytes, little end first, before each. None makes the server panic, and each
//! gets an answer that the kernel takes.
#![no_main]

use acetate_fuse::answer_all;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut requests: Vec<Vec<u8>> = Vec::new();
    let mut rest = bytes;
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (request, tail) = tail.split_at(tail.len().min(u16::from_le_bytes(*length).into()));
        let mut request = request.to_vec();
        // The kernel says how long it is.
        let length = (request.len() as u32).to_ne_bytes();
        request.iter_mut().zip(length).for_each(|(byte, new)| *byte = new);
        requests.push(request);
        rest = tail;
    }
    if let Err(why) = answer_all(requests.iter().map(Vec::as_slice)) {
        panic!("{why}");
    }
});
