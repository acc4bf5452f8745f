//! Plays the kernel over a socket: requests laid out by hand as in linux/fuse.h, replies compared byte by byte.

use acetate_fuse::{Connection, Ended, ServeError};
use acetate_layer::mem::{MemFs, MemLayer, Put};
use acetate_layer::{FsId, Time};
use acetate_overlay::{Changed, Config, NodeId, Overlay, Stack};
use acetate_sys::Errno;
use rustix::io::{read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::OwnedFd;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const READLINK: u32 = 5;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const GETXATTR: u32 = 22;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const ACCESS: u32 = 34;
const IOCTL: u32 = 39;
const BATCH_FORGET: u32 = 42;
const RENAME2: u32 = 45;

/// A year in seconds.
const VALID: u64 = 31_536_000;

/// The kernel's end of the socket.
struct Kernel(OwnedFd);

/// A number of a structure, in the machine's byte order.
enum Field<'a> {
    U32(u32),
    U64(u64),
    Bytes(&'a [u8]),
}
use Field::{Bytes, U32, U64};

fn lay_out(fields: &[Field<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        match field {
            U32(number) => bytes.extend(number.to_ne_bytes()),
            U64(number) => bytes.extend(number.to_ne_bytes()),
            Bytes(text) => bytes.extend_from_slice(text),
        }
    }
    bytes
}

impl Kernel {
    fn send(&self, opcode: u32, unique: u64, node: u64, body: &[Field<'_>]) {
        let body = lay_out(body);
        let length = U32(40 + body.len() as u32);
        let ids = [U32(1000), U32(1001), U32(42), U32(0)];
        let mut bytes = lay_out(&[length, U32(opcode), U64(unique), U64(node)]);
        bytes.extend(lay_out(&ids));
        bytes.extend(body);
        assert_eq!(write(&self.0, &bytes), Ok(bytes.len()));
    }

    /// The next reply or notification: its error and `unique`, and its body.
    fn receive(&self) -> (i32, u64, Vec<u8>) {
        let mut bytes = vec![0; 4096];
        let length = read(&self.0, &mut bytes).unwrap();
        bytes.truncate(length);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(word(0) as usize, length, "the length in the header");
        let unique = u64::from_ne_bytes(bytes[8..16].try_into().unwrap());
        (word(4).cast_signed(), unique, bytes.split_off(16))
    }

    /// Asks and returns the body of the reply.
    fn ask(&self, opcode: u32, node: u64, body: &[Field<'_>]) -> Result<Vec<u8>, Errno> {
        let unique = u64::from(opcode) << 8;
        self.send(opcode, unique, node, body);
        let (mut error, mut replied, mut body) = self.receive();
        while replied == 0 {
            // A notification, which an operation sends before it answers.
            (error, replied, body) = self.receive();
        }
        assert_eq!(replied, unique, "a reply to another request");
        if error == 0 {
            return Ok(body);
        }
        assert_eq!(body, [], "a failure has no body");
        Err(Errno::from_raw_os_error(-error))
    }

    /// Offers everything.
    fn shake_hands(&self) {
        self.shake_hands_offering(u32::MAX);
    }

    /// Offers these features of the first word, and all of the second.
    fn shake_hands_offering(&self, features: u32) {
        let offer = [U32(7), U32(45), U32(131_072), U32(features), U32(u32::MAX), Bytes(&[0; 44])];
        let reply = self.ask(INIT, 0, &offer).unwrap();
        assert_eq!(reply.len(), 64);
        assert_eq!(reply[..12], lay_out(&[U32(7), U32(45), U32(1 << 20)])[..]);
    }
}

fn socket() -> (Kernel, OwnedFd) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    (Kernel(ours), theirs)
}

/// A lower layer with a file, a symlink and nothing else, below an empty upper one.
fn stack() -> Stack<MemLayer> {
    let fs = MemFs::new(FsId(1));
    let (upper, lower) = (fs.layer().unwrap(), fs.layer().unwrap());
    let old = Time { sec: -2, nsec: 3 };
    let file = Put::file(b"lower text").mode(0o4751).owner(5, 6).xattr(b"user.k", b"value").times(old, old);
    lower.put(b"file", file).unwrap();
    lower.put(b"link", Put::symlink(b"target\xff")).unwrap();
    Stack { upper: Some(upper), lowers: vec![lower], data: Vec::new() }
}

/// Serves `stack` over a socket while `talk` plays the kernel; ends by closing the kernel's end.
fn converse(talk: impl FnOnce(&Kernel, &dyn Fn(NodeId, Changed))) -> Result<Ended, ServeError> {
    let (kernel, device) = socket();
    let connection = Connection::from_device(device);
    let overlay = Overlay::new(stack(), Config::default(), Box::new(connection.notifier())).unwrap();
    let notify = connection.notifier();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| connection.serve(&overlay, |_| {}));
        talk(&kernel, &notify);
        drop(kernel);
        server.join().unwrap()
    })
}

/// Serves over a socket without anybody who talks after `open`.
fn refused(open: impl FnOnce(&Kernel)) -> ServeError {
    let (kernel, device) = socket();
    open(&kernel);
    let connection = Connection::from_device(device);
    let overlay = Overlay::new(stack(), Config::default(), Box::new(|_, _| {})).unwrap();
    drop(kernel);
    connection.serve(&overlay, |_| panic!("ready without a handshake")).unwrap_err()
}

#[test]
fn serving_begins_with_a_handshake() {
    assert!(matches!(refused(|_| {}), ServeError::Gone));
    let lookup = |kernel: &Kernel| kernel.send(LOOKUP, 2, 1, &[Bytes(b"file\0")]);
    assert!(matches!(refused(lookup), ServeError::NoHandshake));
    let old = |kernel: &Kernel| kernel.send(INIT, 2, 0, &[U32(7), U32(22), U32(0), U32(0)]);
    assert!(matches!(refused(old), ServeError::TooOld { major: 7, minor: 22 }));
}

#[test]
fn a_newer_kernel_is_told_our_version_and_offers_again() {
    let result = converse(|kernel, _| {
        let reply = kernel.ask(INIT, 0, &[U32(8), U32(1), U32(0), U32(0)]).unwrap();
        assert_eq!(reply[..4], 7u32.to_ne_bytes());
        kernel.shake_hands();
        assert_eq!(kernel.ask(ACCESS, 1, &[U32(4), U32(0)]), Err(Errno::NOSYS));
    });
    assert_eq!(result.unwrap(), Ended::Unmounted);
}

#[test]
fn a_lookup_gives_a_node_and_its_attributes() {
    converse(|kernel, _| {
        kernel.shake_hands();
        let reply = kernel.ask(LOOKUP, 1, &[Bytes(b"file\0")]).unwrap();
        // The numbers of node and inode are the engine's choice.
        let (node, ino) = (&reply[..8], &reply[40..48]);
        assert_ne!(node, [0; 8]);
        let negative = (-2i64).cast_unsigned();
        let ctime = u64::from_ne_bytes(reply[80..88].try_into().unwrap());
        let ctime_nsec = u32::from_ne_bytes(reply[96..100].try_into().unwrap());
        let expected = lay_out(&[
            Bytes(node),
            U64(0),
            U64(VALID),
            U64(VALID),
            U64(0),
            Bytes(ino),
            U64(10),
            U64(8),
            U64(negative),
            U64(negative),
            U64(ctime),
            U32(3),
            U32(3),
            U32(ctime_nsec),
            U32(0o104_751),
            U32(1),
            U32(5),
            U32(6),
            U32(0),
            U32(4096),
            U32(0),
        ]);
        assert_eq!(reply, expected);
        let node = u64::from_ne_bytes(node.try_into().unwrap());
        let attr = kernel.ask(GETATTR, node, &[U32(0), U32(0), U64(0)]).unwrap();
        assert_eq!(attr[16..], reply[40..]);
        assert_eq!(attr[..16], lay_out(&[U64(VALID), U64(0)])[..]);
    })
    .unwrap();
}

#[test]
fn what_is_not_there_stays_not_there() {
    converse(|kernel, _| {
        kernel.shake_hands();
        let reply = kernel.ask(LOOKUP, 1, &[Bytes(b"none\0")]).unwrap();
        let mut expected = lay_out(&[U64(0), U64(0), U64(VALID), U64(VALID)]);
        expected.resize(128, 0);
        assert_eq!(reply, expected);
        assert_eq!(kernel.ask(GETATTR, 77, &[U32(0), U32(0), U64(0)]), Err(Errno::STALE));
    })
    .unwrap();
}

/// Looks up a name of the root and returns its node.
fn node(kernel: &Kernel, name: &[u8]) -> u64 {
    let reply = kernel.ask(LOOKUP, 1, &[Bytes(name)]).unwrap();
    u64::from_ne_bytes(reply[..8].try_into().unwrap())
}

#[test]
fn a_file_is_read_written_and_closed() {
    converse(|kernel, _| {
        kernel.shake_hands();
        let node = node(kernel, b"file\0");
        let opened = kernel.ask(OPEN, node, &[U32(2), U32(0)]).unwrap();
        let handle = u64::from_ne_bytes(opened[..8].try_into().unwrap());
        assert_eq!(opened[8..], lay_out(&[U32(1 << 1 | 1 << 5), U32(0)])[..]);
        let write_in = [U64(handle), U64(6), U32(2), U32(0), U64(0), U32(0), U32(0), Bytes(b"TE")];
        assert_eq!(kernel.ask(WRITE, node, &write_in), Ok(lay_out(&[U32(2), U32(0)])));
        let read_in = |offset| [U64(handle), U64(offset), U32(4096), U32(0), U64(0), U32(0), U32(0)];
        assert_eq!(kernel.ask(READ, node, &read_in(0)), Ok(b"lower TExt".to_vec()));
        assert_eq!(kernel.ask(READ, node, &read_in(100)), Ok(Vec::new()));
        let release = [U64(handle), U32(0), U32(0), U64(0)];
        assert_eq!(kernel.ask(RELEASE, node, &release), Ok(Vec::new()));
    })
    .unwrap();
}

#[test]
fn attributes_flags_and_links() {
    converse(|kernel, _| {
        kernel.shake_hands();
        let (file, link) = (node(kernel, b"file\0"), node(kernel, b"link\0"));
        assert_eq!(kernel.ask(READLINK, link, &[]), Ok(b"target\xff".to_vec()));
        let get = |size: u32| kernel.ask(GETXATTR, file, &[U32(size), U32(0), Bytes(b"user.k\0")]);
        assert_eq!(get(0), Ok(lay_out(&[U32(5), U32(0)])));
        assert_eq!(get(4), Err(Errno::RANGE));
        assert_eq!(get(5), Ok(b"value".to_vec()));
        let ioctl = |command: u32, out: u32| {
            kernel.ask(IOCTL, file, &[U64(0), U32(0), U32(command), U64(0), U32(0), U32(out)])
        };
        assert_eq!(ioctl(0x8008_6601, 4), Ok(vec![0; 20]));
        assert_eq!(ioctl(0x1234, 4), Err(Errno::NOTTY));
        let rename =
            |flags: u32| kernel.ask(RENAME2, 1, &[U64(1), U32(flags), U32(0), Bytes(b"file\0new\0")]);
        assert_eq!(rename(3), Err(Errno::INVAL));
        assert_eq!(rename(8), Err(Errno::INVAL));
    })
    .unwrap();
}

#[test]
fn a_listing_has_all_entries_once() {
    converse(|kernel, _| {
        kernel.shake_hands();
        // The kernel opens directories by itself from now on.
        assert_eq!(kernel.ask(OPENDIR, 1, &[U32(0), U32(0)]), Err(Errno::NOSYS));
        // Room for one entry at a time: each is 32 bytes long.
        let (mut offset, mut names) = (0, Vec::new());
        loop {
            let read_in = [U64(0), U64(offset), U32(40), U32(0), U64(0), U32(0), U32(0)];
            let entry = kernel.ask(READDIR, 1, &read_in).unwrap();
            if entry.is_empty() {
                break;
            }
            assert_eq!(entry.len(), 32);
            offset = u64::from_ne_bytes(entry[8..16].try_into().unwrap());
            let length = u32::from_ne_bytes(entry[16..20].try_into().unwrap()) as usize;
            let kind = u32::from_ne_bytes(entry[20..24].try_into().unwrap());
            names.push((entry[24..24 + length].to_vec(), kind));
        }
        names.sort();
        let expected = [(&b"."[..], 4), (b"..", 4), (b"file", 8), (b"link", 10)];
        assert_eq!(names, expected.map(|(name, kind)| (name.to_vec(), kind)));
    })
    .unwrap();
}

/// A kernel that does not say what it makes of `ENOSYS` would take it for an error.
#[test]
fn directories_are_opened_for_old_kernels() {
    converse(|kernel, _| {
        const NO_OPENDIR_SUPPORT: u32 = 1 << 24;
        kernel.shake_hands_offering(!NO_OPENDIR_SUPPORT);
        let keep_listings = U32(1 << 1 | 1 << 3);
        let opened = kernel.ask(OPENDIR, 1, &[U32(0), U32(0)]);
        assert_eq!(opened, Ok(lay_out(&[U64(0), keep_listings, U32(0)])));
        let release = [U64(0), U32(0), U32(0), U64(0)];
        assert_eq!(kernel.ask(RELEASEDIR, 1, &release), Ok(Vec::new()));
    })
    .unwrap();
}

#[test]
fn forgetting_is_not_answered() {
    converse(|kernel, _| {
        kernel.shake_hands();
        let (file, link) = (node(kernel, b"file\0"), node(kernel, b"link\0"));
        kernel.send(FORGET, 2, file, &[U64(1)]);
        kernel.send(BATCH_FORGET, 4, 0, &[U32(1), U32(0), U64(link), U64(1)]);
        // The next reply is that of the next question.
        let getattr = |node| kernel.ask(GETATTR, node, &[U32(0), U32(0), U64(0)]);
        assert_eq!(getattr(file), Err(Errno::STALE));
        assert_eq!(getattr(link), Err(Errno::STALE));
    })
    .unwrap();
}

#[test]
fn broken_and_unknown_requests_are_refused() {
    converse(|kernel, _| {
        kernel.shake_hands();
        assert_eq!(kernel.ask(999, 1, &[]), Err(Errno::NOSYS));
        assert_eq!(kernel.ask(LOOKUP, 1, &[Bytes(b"no end")]), Err(Errno::IO));
        assert_eq!(kernel.ask(LOOKUP, 1, &[Bytes(b"a/b\0")]), Err(Errno::INVAL));
        assert_eq!(kernel.ask(READ, 1, &[U64(1)]), Err(Errno::IO));
        assert_eq!(kernel.ask(INIT, 0, &[U32(7), U32(45), U32(0), U32(0)]), Err(Errno::IO));
        // Not even a header: nobody can be answered, and the next request is.
        assert_eq!(write(&kernel.0, b"short"), Ok(5));
        assert_eq!(kernel.ask(ACCESS, 1, &[U32(4), U32(0)]), Err(Errno::NOSYS));
    })
    .unwrap();
}

#[test]
fn a_notification_is_about_attributes_and_listings_only() {
    converse(|kernel, notify| {
        kernel.shake_hands();
        let none = (-1i64).cast_unsigned();
        for (what, offset) in [(Changed::Attributes, none), (Changed::Listing, 0)] {
            notify(NodeId(7), what);
            let (code, unique, body) = kernel.receive();
            assert_eq!((code, unique, body), (2, 0, lay_out(&[U64(7), U64(offset), U64(0)])), "{what:?}");
        }
    })
    .unwrap();
}
