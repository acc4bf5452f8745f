//! The live tree below the directory of an overlay, and the directories where objects wait.
//!
//! Everything is reached through one layer, opened at the root of its mount: no symlink is followed and no mount crossed
//! on the way to an object, whatever others do meanwhile, and objects can be renamed between all directories of it.

use crate::error::{Result, Step};
use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::{At, Errno, Layer};
use rustix::fs::{Access, AtFlags, CWD, StatxAttributes, StatxFlags, accessat, statx};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// A directory of the live tree.
pub(super) struct Place {
    pub layer: DirLayer,
    /// The root of the mount.
    top: PathBuf,
    /// The directory, and its path.
    pub base: Dir,
    pub point: PathBuf,
}

impl Place {
    /// Opens an absolute path without symlinks.
    pub(super) fn open(point: &Path) -> Result<Place> {
        let top = mount_root(point);
        let layer = DirLayer::open_upper(&top).step("open", &top)?;
        let base = walk(&layer, &top, point).step("open", point)?;
        Ok(Place { layer, top, base, point: point.to_owned() })
    }

    /// The directory at a path below this one.
    pub(super) fn dir(&self, path: &[u8]) -> acetate_layer::Result<Dir> {
        descend(&self.layer, self.base.clone(), path)
    }

    /// The directory at an absolute path of the same mount.
    pub(super) fn absolute(&self, path: &Path) -> acetate_layer::Result<Dir> {
        walk(&self.layer, &self.top, path)
    }

    /// The directory in which the object at a path is, and its name there. The path is not empty.
    pub(super) fn parent<'p>(&self, path: &'p [u8]) -> acetate_layer::Result<(Dir, &'p [u8])> {
        let (parent, name) = split(path);
        Ok((self.dir(parent)?, name))
    }

    /// Calls `act` with the object at a path; an empty one is the directory itself.
    pub(super) fn with<T>(
        &self,
        path: &[u8],
        act: impl FnOnce(At<'_, DirLayer>) -> acetate_layer::Result<T>,
    ) -> acetate_layer::Result<T> {
        if path.is_empty() {
            return act(At::Dir(&self.base));
        }
        let (dir, name) = self.parent(path)?;
        act(At::Name(&dir, name))
    }

    /// A directory from which, and to which, objects in the directory `parent` below this one can be renamed: the
    /// preferred one, or the one nearest to the root of the mount in which we may make directories.
    pub(super) fn side(&self, parent: &[u8], preferred: &Path) -> acetate_layer::Result<PathBuf> {
        let device = self.layer.stat(At::Dir(&self.dir(parent)?))?.dev;
        if mount_id(preferred).is_some() && mount_id(preferred) == mount_id(&self.point) {
            // An absolute path of the same mount may still be one of another subvolume, or lead through a symlink.
            let stat = self.absolute(preferred).and_then(|dir| self.layer.stat(At::Dir(&dir)));
            if stat.is_ok_and(|stat| stat.dev == device) {
                return Ok(preferred.to_owned());
            }
        }
        let mut dir = self.base.clone();
        let mut path = self.point.clone();
        let names = parent.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let mut names = names.map(Some).chain([None]);
        loop {
            let may = accessat(CWD, &path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok();
            if may && self.layer.stat(At::Dir(&dir))?.dev == device {
                return Ok(path);
            }
            let Some(Some(name)) = names.next() else { return Err(Errno::ACCESS) };
            dir = self.layer.open_dir(&dir, name)?;
            path.push(std::ffi::OsStr::from_bytes(name));
        }
    }
}

/// The path of the directory, and the name in it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn walk(layer: &DirLayer, top: &Path, path: &Path) -> acetate_layer::Result<Dir> {
    let below = path.strip_prefix(top).map_err(|_| Errno::XDEV)?;
    descend(layer, layer.root().clone(), below.as_os_str().as_bytes())
}

fn descend(layer: &DirLayer, mut dir: Dir, path: &[u8]) -> acetate_layer::Result<Dir> {
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        dir = layer.open_dir(&dir, name)?;
    }
    Ok(dir)
}

fn mount_root(point: &Path) -> PathBuf {
    let is_root = |path: &Path| {
        statx(CWD, path, AtFlags::empty(), StatxFlags::TYPE)
            .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    };
    point.ancestors().find(|path| is_root(path)).unwrap_or(Path::new("/")).to_owned()
}

fn mount_id(path: &Path) -> Option<u64> {
    statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok().map(|stat| stat.stx_mnt_id)
}

/// Gives the root of a writable layer the attributes of the directory that it covers. `false` if the owner cannot be
/// had: then it allows us what the directory allows us.
pub(super) fn copy_root(from: &Path, to: &Path) -> Result<bool> {
    let (stat, own) = (fs::metadata(from).step("look at", from)?, fs::metadata(to).step("look at", to)?);
    let same_owner = (stat.uid(), stat.gid()) == (own.uid(), own.gid())
        || chown(to, Some(stat.uid()), Some(stat.gid())).is_ok();
    if !same_owner {
        // What is below is read with our own privileges, whatever the mode of this one says.
        let may_write = accessat(CWD, from, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
        let mode = stat.mode() & 0o7077 | 0o500 | if may_write { 0o200 } else { 0 };
        fs::set_permissions(to, fs::Permissions::from_mode(mode)).step("set the mode of", to)?;
        return Ok(false);
    }
    super::stage::copy_attributes(from, to)?;
    Ok(true)
}
