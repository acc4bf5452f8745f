//! The new mount API: a filesystem is configured step by step, and says in words why it refuses (fsopen(2)).

use crate::{Errno, Result, retry};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// Longest message of the kernel, in bytes.
const MESSAGE_BYTES: usize = 4096;

/// A filesystem that is being configured.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Starts to configure a filesystem of this type.
    ///
    /// # Errors
    /// `ENODEV` for a type that the kernel does not know, `EPERM` without CAP_SYS_ADMIN in the user namespace of the
    /// mount namespace, `ENOSYS` before Linux 5.2.
    pub fn open(fstype: &str) -> Result<FsContext> {
        fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map(FsContext)
    }

    /// Sets an option with a value of at most 255 bytes.
    ///
    /// # Errors
    /// `EINVAL` for an option or value that the filesystem does not take; else what it finds wrong with it.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        retry(|| fsconfig_set_string(&self.0, key, value))
    }

    /// Sets an option without a value.
    ///
    /// # Errors
    /// As [`FsContext::set`].
    pub fn set_flag(&self, key: &str) -> Result<()> {
        retry(|| fsconfig_set_flag(&self.0, key))
    }

    /// Sets an option to an open file.
    ///
    /// # Errors
    /// As [`FsContext::set`].
    pub fn set_fd(&self, key: &str, value: BorrowedFd<'_>) -> Result<()> {
        retry(|| fsconfig_set_fd(&self.0, key, value))
    }

    /// Makes the filesystem and a mount of it that is attached nowhere: it ends with the descriptor, unless
    /// [`attach`] gives it a place. `flags` are those of the mount (`nosuid`, `noatime`).
    ///
    /// # Errors
    /// What the filesystem finds wrong with its options.
    pub fn mount(&self, flags: MountAttrFlags) -> Result<OwnedFd> {
        // Not repeated when interrupted: a failed attempt spoils the context.
        fsconfig_create(&self.0)?;
        fsmount(&self.0, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    }

    /// What the kernel has said since the last call: messages of one line, the first letter and blank telling error
    /// (`e `), warning (`w `) or information (`i `) removed.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut buffer = [0; MESSAGE_BYTES];
        // ENODATA ends the list; any other failure has no more to tell either.
        while let Ok(length) = rustix::io::read(&self.0, &mut buffer) {
            let message = buffer[..length].trim_ascii_end();
            messages.push(message.get(2..).unwrap_or_default().to_vec());
        }
        messages
    }
}

/// Attaches a mount at the directory `target`; a symlink there is followed.
///
/// # Errors
/// Those of move_mount(2), among them `EPERM` and `ENOTDIR`.
pub fn attach(mount: &OwnedFd, target: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(mount, c"", CWD, target, flags)
}

/// Mounts by the old call: one text with all options, of which the kernel takes at most 4095 bytes.
///
/// # Errors
/// Those of mount(2); `E2BIG` for a longer text; `EINVAL` if it holds NUL.
pub fn mount_text(
    fstype: &str,
    source: &[u8],
    target: &Path,
    flags: MountFlags,
    options: &[u8],
) -> Result<()> {
    if options.len() >= 4096 {
        return Err(Errno::TOOBIG);
    }
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(source, target, fstype, flags, options.as_c_str())
}
