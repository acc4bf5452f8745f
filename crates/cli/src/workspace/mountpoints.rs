//! Directories and files that commands need to mount on. What an image lacks is made for a command, and is no change of
//! the workspace: it goes after the last command unless something has been put there.

use crate::error::Failure;
use crate::out::shown;
use acetate_store::{Own, Store, Workspace};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat, unlinkat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

/// What a command needs, parents first.
const NEEDED: [&str; 6] = ["proc", "sys", "dev", "etc", "etc/resolv.conf", "etc/hosts"];

/// Notes what is not there, before a command makes it.
///
/// # Errors
/// If the tree cannot be looked into, or the note cannot be written.
pub(super) fn note(store: &Store, workspace: &Workspace, root: &Path) -> Result<(), Failure> {
    let tree = open(root)?;
    let mut missing = Vec::new();
    for path in NEEDED {
        match openat2(&tree, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(_there) => {}
            Err(Errno::NOENT) => missing.push(path),
            // Whoever mounts there will say so.
            Err(_) => {}
        }
    }
    let known = store.made(workspace)?;
    missing.retain(|path| !known.iter().any(|known| known == path));
    if missing.is_empty() { Ok(()) } else { Ok(store.note_made(workspace, &missing)?) }
}

/// Removes what was noted, as far as it is empty. The workspace must not be mounted, nor used by others.
///
/// # Errors
/// If something empty cannot be removed.
pub(super) fn clear(store: &Store, workspace: &Workspace) -> Result<(), Failure> {
    let made = store.made(workspace)?;
    if made.is_empty() {
        return Ok(());
    }
    let own = store.own_dir(workspace);
    let root = if matches!(workspace.own, Own::Upper(_)) { own.join("diff") } else { own };
    let tree = open(&root)?;
    for path in NEEDED.iter().rev().filter(|needed| made.iter().any(|made| made == *needed)) {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |errno| Failure::errno(format_args!("remove {} in {}", path, shown(&root)), errno);
        let Ok(dir) = openat(&tree, parent, flags, Mode::empty()) else { continue };
        let Ok(stat) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let removed = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => unlinkat(&dir, name, AtFlags::REMOVEDIR),
            rustix::fs::FileType::RegularFile if stat.st_size == 0 => unlinkat(&dir, name, AtFlags::empty()),
            _ => Ok(()),
        };
        match removed {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(store.forget_made(workspace)?)
}

fn open(root: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, root, flags, Mode::empty()).and_then(|dir| fstat(&dir).map(|_| dir));
    opened.map_err(|errno| Failure::path("open", root, errno))
}
