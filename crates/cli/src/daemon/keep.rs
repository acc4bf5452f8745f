//! What the holder keeps for the next server, and how the two talk: messages over a socket, each with a key, a text and
//! perhaps a descriptor.

use acetate_overlay::{HandleId, Keeper, KeptFor, NodeId};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The longest message in bytes; the largest is a record, whose paths take the most.
const LONGEST: usize = 192 * 1024;
/// What tells the number of an open file from that of a node.
const HANDLE: u64 = 1 << 62;
/// Bytes before the text.
const HEAD: usize = 9;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The device of the connection. The text is the path of the mount.
    Device,
    /// The memory of the ledger.
    Memory,
    /// The record of the mount, as its text.
    Record,
    /// The file that others find the record in, locked.
    RecordFile,
    /// A lock on a writable directory.
    Lock(u32),
    /// A layer, by its place among the lower layers, the data-only ones, the upper layer and the work directory.
    Layer(u32),
    /// A file that no name leads to, or that is open. The text is the number of its lower layer; without one it is in upper.
    File(KeptFor),
}

impl Key {
    fn to_number(self) -> u64 {
        match self {
            Key::Device => 1,
            Key::Memory => 2,
            Key::Record => 3,
            Key::RecordFile => 4,
            Key::Lock(number) => 1 << 32 | u64::from(number),
            Key::Layer(number) => 2 << 32 | u64::from(number),
            Key::File(KeptFor::Node(node)) => 1 << 63 | node.0,
            Key::File(KeptFor::Handle(handle)) => 1 << 63 | HANDLE | handle.0,
        }
    }

    fn from_number(number: u64) -> Option<Key> {
        Some(match (number >> 32, number as u32) {
            (0, 1) => Key::Device,
            (0, 2) => Key::Memory,
            (0, 3) => Key::Record,
            (0, 4) => Key::RecordFile,
            (1, number) => Key::Lock(number),
            (2, number) => Key::Layer(number),
            _ if number >> 63 == 0 => return None,
            _ if number & HANDLE != 0 => Key::File(KeptFor::Handle(HandleId(number & !(1 << 63 | HANDLE)))),
            _ => Key::File(KeptFor::Node(NodeId(number & !(1 << 63)))),
        })
    }
}

/// A message.
#[derive(Debug)]
pub(super) enum Message {
    /// This is to be kept, or was.
    Keep(Item),
    /// This need not be kept any longer.
    LetGo(Key),
    /// The server serves; the text is the path of its log, if it has one.
    Ready(Vec<u8>),
    /// That was all; from a server: the mount is gone.
    End,
}

/// What is kept under a key.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) text: Vec<u8>,
    pub(super) fd: Option<OwnedFd>,
}

/// Sends a message.
///
/// # Errors
/// Those of sendmsg(2).
pub(super) fn send(
    socket: impl AsFd,
    kind: u8,
    key: u64,
    text: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut head = [kind; HEAD];
    head[1..].copy_from_slice(&key.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(&head), IoSlice::new(text)];
    rustix::io::retry_on_intr(|| sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Sends something to keep, or that was kept.
///
/// # Errors
/// Those of sendmsg(2).
pub(super) fn send_item(
    socket: impl AsFd,
    key: Key,
    text: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    send(socket, b'K', key.to_number(), text, fd)
}

/// Says that there is nothing more to be sent.
///
/// # Errors
/// Those of sendmsg(2).
pub(super) fn send_end(socket: impl AsFd) -> io::Result<()> {
    send(socket, b'E', 0, b"", None)
}

/// Receives a message; `None` at the end, or if `flags` say not to wait and there is none.
///
/// # Errors
/// Those of recvmsg(2); a message that is none.
pub(super) fn receive(socket: impl AsFd, flags: RecvFlags) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
    });
    let message = match received {
        Ok(message) if message.bytes == 0 => return Ok(None),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNRESET) => return Ok(None),
        other => other?,
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    bytes.truncate(message.bytes);
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    if message.bytes < HEAD || message.flags.contains(ReturnFlags::TRUNC) {
        return Err(broken());
    }
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[1..HEAD]);
    let key = Key::from_number(u64::from_le_bytes(number));
    let text = bytes[HEAD..].to_vec();
    Ok(Some(match (bytes[0], key) {
        (b'K', Some(key)) => Message::Keep(Item { key, text, fd }),
        (b'F', Some(key)) => Message::LetGo(key),
        (b'R', _) => Message::Ready(text),
        (b'E', _) => Message::End,
        _ => return Err(broken()),
    }))
}

/// The server's end of the socket.
#[derive(Clone, Debug)]
pub(super) struct Holder(Arc<OwnedFd>);

impl Holder {
    /// Over a socket to a holder.
    pub(super) fn new(socket: OwnedFd) -> Holder {
        Holder(Arc::new(socket))
    }

    /// Has something kept.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub(super) fn keep(&self, key: Key, text: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        send_item(&*self.0, key, text, fd)
    }

    /// Says that the mount is served.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub(super) fn ready(&self, log: &[u8]) -> io::Result<()> {
        send(&*self.0, b'R', 0, log, None)
    }

    /// Says that the mount is gone, so that nothing is needed any more: others may want the layers at once.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub(super) fn over(&self) -> io::Result<()> {
        send_end(&*self.0)
    }

    /// Receives what was kept.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub(super) fn receive_all(&self) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        loop {
            match receive(&*self.0, RecvFlags::empty())? {
                Some(Message::Keep(item)) => items.push(item),
                Some(Message::End) => return Ok(items),
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

impl Keeper for Holder {
    fn keep(&self, what: KeptFor, lower: Option<usize>, file: BorrowedFd<'_>) -> io::Result<()> {
        let text = lower.map(|number| number.to_string()).unwrap_or_default();
        Holder::keep(self, Key::File(what), text.as_bytes(), Some(file))
    }

    fn let_go(&self, what: KeptFor) {
        // It keeps one more file, then.
        let _kept_longer = send(&*self.0, b'F', Key::File(what).to_number(), b"", None);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn what_is_kept_comes_back() {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let holder = Holder::new(ours);
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let handle = KeptFor::Handle(HandleId(9));
        Keeper::keep(&holder, KeptFor::Node(NodeId(9)), Some(2), file.as_fd()).unwrap();
        Keeper::keep(&holder, handle, None, file.as_fd()).unwrap();
        holder.keep(Key::Record, &[b'x'; 100_000], None).unwrap();
        holder.let_go(KeptFor::Node(NodeId(9)));
        holder.ready(b"/log").unwrap();
        let next = || receive(&theirs, RecvFlags::DONTWAIT).unwrap();
        let Some(Message::Keep(item)) = next() else { panic!() };
        assert_eq!(
            (item.key, &*item.text, item.fd.is_some()),
            (Key::File(KeptFor::Node(NodeId(9))), &b"2"[..], true)
        );
        let Some(Message::Keep(item)) = next() else { panic!() };
        assert_eq!((item.key, &*item.text, item.fd.is_some()), (Key::File(handle), &b""[..], true));
        let Some(Message::Keep(item)) = next() else { panic!() };
        assert_eq!((item.key, item.text.len(), item.fd.is_some()), (Key::Record, 100_000, false));
        assert!(matches!(next(), Some(Message::LetGo(Key::File(KeptFor::Node(NodeId(9)))))));
        assert!(matches!(next(), Some(Message::Ready(log)) if log == b"/log"));
        assert!(next().is_none());
        send_item(&theirs, Key::Layer(7), b"", Some(file.as_fd())).unwrap();
        send_end(&theirs).unwrap();
        let items = holder.receive_all().unwrap();
        assert_eq!((items.len(), items[0].key), (1, Key::Layer(7)));
    }
}
