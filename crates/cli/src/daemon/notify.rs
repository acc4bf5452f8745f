//! Telling the service manager that started us how far we are (sd_notify(3)).

use crate::out::{shown, warn};
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that a service of `Type=notify` has started, and in one line how it is. Nothing happens where nobody asked.
pub(crate) fn ready(status: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, &format!("READY=1\nSTATUS={status}\n")) {
        warn(format_args!("the service manager at {} cannot be told: {error}", shown(&socket)));
    }
}

/// Sends one message. A name that begins with `@` is none of the filesystem (unix(7), "abstract").
fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_reach_both_kinds_of_sockets() {
        let name = format!("acetate-notify-test-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let abstract_address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        for (receiver, socket) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into()),
        ] {
            send(&socket, "READY=1\n").unwrap();
            let mut text = [0; 64];
            let length = receiver.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"READY=1\n");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str(), "READY=1\n").is_err());
    }
}
