//! fusermount3, the setuid program that mounts FUSE filesystems for ordinary users (fusermount3(1)).

use crate::mount::{MountError, MountSpec, SUBTYPE, UnmountError};
use acetate_sys::mount::Unmount;
use acetate_sys::retry;
use rustix::mount::MountFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};
use std::ffi::OsString;
use std::io::{ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Names of the program, the current one first.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];
/// The variable that tells it which descriptor to send the device over.
const COMM_FD: &str = "_FUSE_COMMFD";

/// Has a FUSE filesystem mounted at `target` and returns its device.
///
/// # Errors
/// [`MountError::NoHelper`], [`MountError::Helper`].
pub(crate) fn mount(target: &Path, spec: &MountSpec) -> Result<OwnedFd, MountError> {
    let refused = |errno: rustix::io::Errno| MountError::Helper(errno.to_string());
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(refused)?;
    let options = options(spec);
    // Its end is its standard input, so that nothing else is inherited by it or by anybody started meanwhile.
    let output = run(|command| {
        command.arg("-o").arg(&options).arg("--").arg(target).env(COMM_FD, "0");
        command.stdin(theirs.try_clone()?);
        Ok(())
    })
    .map_err(|error| match error.kind() {
        ErrorKind::NotFound => MountError::NoHelper,
        _ => MountError::Helper(error.to_string()),
    })?;
    drop(theirs);
    if !output.status.success() {
        return Err(MountError::Helper(said(&output)));
    }
    receive(&ours).map_err(refused)?.ok_or_else(|| MountError::Helper("it sent no device".into()))
}

/// Has the mount at `target` unmounted.
///
/// # Errors
/// [`UnmountError::NoHelper`], [`UnmountError::Helper`].
pub(crate) fn unmount(target: &Path, how: Unmount) -> Result<(), UnmountError> {
    let output = run(|command| {
        command.arg("-u");
        if how == Unmount::Detach {
            command.arg("-z");
        }
        command.arg("--").arg(target).stdin(Stdio::null());
        Ok(())
    })
    .map_err(|error| match error.kind() {
        ErrorKind::NotFound => UnmountError::NoHelper,
        _ => UnmountError::Helper(error.to_string()),
    })?;
    if output.status.success() { Ok(()) } else { Err(UnmountError::Helper(said(&output))) }
}

/// Runs the first of the programs that there is.
fn run(arguments: impl Fn(&mut Command) -> std::io::Result<()>) -> std::io::Result<Output> {
    let mut last = std::io::Error::from(ErrorKind::NotFound);
    for program in PROGRAMS {
        let mut command = Command::new(program);
        arguments(&mut command)?;
        match command.output() {
            Err(error) if error.kind() == ErrorKind::NotFound => last = error,
            other => return other,
        }
    }
    Err(last)
}

/// What the program said, in one line.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim().replace('\n', "; ");
    let text = text.strip_prefix("fusermount3: ").or(text.strip_prefix("fusermount: ")).unwrap_or(&text);
    if text.is_empty() { output.status.to_string() } else { text.to_owned() }
}

/// The option text; commas and backslashes in the source are escaped.
fn options(spec: &MountSpec) -> OsString {
    let mut text = b"default_permissions,subtype=".to_vec();
    text.extend_from_slice(SUBTYPE.as_bytes());
    text.extend_from_slice(b",fsname=");
    for &byte in &spec.source {
        if matches!(byte, b',' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    let words = [
        (MountFlags::RDONLY, ",ro"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::SYNCHRONOUS, ",sync"),
        (MountFlags::DIRSYNC, ",dirsync"),
    ];
    for (flag, word) in words {
        if spec.flags.contains(flag) {
            text.extend_from_slice(word.as_bytes());
        }
    }
    if spec.allow_other {
        text.extend_from_slice(b",allow_other");
    }
    OsString::from_vec(text)
}

/// Receives one descriptor.
fn receive(socket: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    retry(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).map(|_| ())
    })?;
    let mut device = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            device = fds.next().or(device);
        }
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_escaped() {
        let spec = MountSpec {
            source: b"a,b\\c".to_vec(),
            flags: MountFlags::RDONLY,
            allow_other: true,
            ..MountSpec::default()
        };
        let expected = "default_permissions,subtype=acetate,fsname=a\\,b\\\\c,ro,allow_other";
        assert_eq!(options(&spec), expected);
    }
}
