//! Requests as any bytes, answered by a small overlay in memory: for tests and for the fuzz target.

#![allow(clippy::unwrap_used, clippy::panic)]

use super::{Answer, Call, dispatch};
use crate::device::Device;
use crate::files::Files;
use crate::init::{Answer as Agreement, Changes, negotiate};
use crate::readers::Readers;
use crate::wire::input::{Header, InitIn};
use crate::wire::output::{HEADER, Reply};
use acetate_layer::mem::{MemFs, MemLayer, Put};
use acetate_layer::{FsId, Kind, Rdev};
use acetate_overlay::{Config, Overlay, Stack};

/// The room for replies; requests that ask for more have to be refused.
const ROOM: usize = 128 * 1024;

fn overlay() -> Overlay<MemLayer> {
    let fs = MemFs::new(FsId(1));
    let (upper, lower) = (fs.layer().unwrap(), fs.layer().unwrap());
    let objects: [(&[u8], Put); 5] = [
        (b"d", Put::dir()),
        (b"d/f", Put::file(b"hello")),
        (b"g", Put::file(b"x").mode(0o4755).xattr(b"user.x", b"1")),
        (b"l", Put::symlink(b"g")),
        (b"p", Put::node(Kind::Fifo, Rdev::default())),
    ];
    for (path, object) in objects {
        lower.put(path, object).unwrap();
    }
    let stack = Stack { upper: Some(upper), lowers: vec![lower], data: vec![] };
    Overlay::new(stack, Config::default(), Box::new(|_, _| {})).unwrap()
}

/// Answers requests one after the other.
///
/// # Errors
/// What is wrong with an answer: the kernel would not take it.
pub fn answer_all<'a>(requests: impl Iterator<Item = &'a [u8]>) -> Result<(), String> {
    let overlay = overlay();
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()).unwrap();
    let device = Device::new(null);
    let files = Files::new(&device, false);
    let readers = Readers::new();
    let offer = InitIn { major: 7, minor: 45, max_readahead: 1 << 17, flags: u64::MAX };
    let Agreement::Agreed(in_force) = negotiate(&offer, 1 << 17, 12, Changes::Known) else {
        panic!("no agreement")
    };
    let mut reply = Reply::with_room(ROOM);
    for bytes in requests {
        let Ok((header, body)) = Header::split(bytes) else { continue };
        reply.clear();
        let answer = Call::new(header, body, &in_force)
            .and_then(|call| dispatch(&overlay, &files, &readers, &call, &mut reply));
        let errno = answer.err().map_or(0, |failure| failure.errno().raw_os_error());
        // fuse_dev_do_write() takes errnos below 512.
        if !(0..512).contains(&errno) {
            return Err(format!("errno {errno}"));
        }
        if answer != Ok(Answer::Silence) {
            let length = reply.finish(header.unique, errno).len();
            if length < HEADER || (errno != 0 && length != HEADER) || length > HEADER + ROOM {
                return Err(format!("an answer of {length} bytes, errno {errno}"));
            }
        }
    }
    Ok(())
}
