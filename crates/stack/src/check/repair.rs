//! Mending what was found, one finding at a time, each by calls that can be repeated.

use std::fmt;
use std::path::Path;

use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::{At, Errno, Kind as Type, Layer, Owner, Rdev, Rename, SetXattr, UpperLayer, work};

use super::{Finding, Place};
use crate::{Error, Result, failed, joined, split};

/// Where what cannot be mended is put, below the work directory.
const ASIDE: &[u8] = b"lost";

/// What mends a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Removes the object.
    Remove,
    /// Removes the object and all below it.
    RemoveTree,
    /// Sets a mark.
    SetMark {
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Removes a mark.
    DropMark {
        /// Its name.
        name: Vec<u8>,
    },
    /// Sets a mark of ours in place of another one.
    Translate {
        /// The name that is removed.
        from: Vec<u8>,
        /// The name that is set.
        to: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Makes a directory opaque and removes its redirect.
    CutOff {
        /// The name of the opaque mark.
        opaque: Vec<u8>,
        /// The name of the redirect mark.
        redirect: Vec<u8>,
    },
    /// Puts a whiteout at a path where upper has nothing.
    Cover {
        /// The path.
        path: Vec<u8>,
    },
    /// Makes a whiteout of a `.wh.` file.
    MakeWhiteout {
        /// What it hides.
        path: Vec<u8>,
    },
    /// Marks the directory of a `.wh..wh..opq` file opaque, and removes the file.
    MakeOpaque {
        /// The name of the opaque mark.
        opaque: Vec<u8>,
    },
    /// Moves the object to `lost` in the work directory.
    PutAside,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove | Self::RemoveTree => f.write_str("remove it"),
            Self::SetMark { name, .. } => write!(f, "set {}", name.escape_ascii()),
            Self::DropMark { name } => write!(f, "remove {}", name.escape_ascii()),
            Self::Translate { to, .. } => write!(f, "set {} in its place", to.escape_ascii()),
            Self::CutOff { .. } => f.write_str("make it opaque and remove its redirect"),
            Self::Cover { path } => write!(f, "put a whiteout at {}", path.escape_ascii()),
            Self::MakeWhiteout { path } => write!(f, "make a whiteout of it at {}", path.escape_ascii()),
            Self::MakeOpaque { .. } => f.write_str("make its directory opaque and remove it"),
            Self::PutAside => f.write_str("move it to `lost` in the work directory"),
        }
    }
}

/// Changes an upper layer and its work directory.
#[derive(Debug)]
pub struct Mender {
    layer: DirLayer,
    work: Option<Dir>,
}

impl Mender {
    /// Opens both for writing. Whoever calls this sees to it that no mount uses them.
    ///
    /// # Errors
    /// A directory that cannot be opened.
    pub fn open(upper: &Path, work: Option<&Path>) -> Result<Mender> {
        let opened = |path: &Path| {
            let path = path.to_owned();
            move |errno| Error::Open { path, errno }
        };
        let layer = DirLayer::open_upper(upper).map_err(opened(upper))?;
        let work = work.map(|path| layer.open_workdir(path).map_err(opened(path))).transpose()?;
        Ok(Mender { layer, work })
    }

    /// Mends a finding.
    ///
    /// # Errors
    /// Those of the filesystem; `ENOTSUP` if the finding has no repair, or needs a work directory and there is none.
    pub fn repair(&self, finding: &Finding) -> Result<()> {
        let path = &finding.path;
        let step = failed(path, "repair");
        let mended = self.mend(finding);
        mended.map_err(step)
    }

    fn mend(&self, finding: &Finding) -> acetate_layer::Result<()> {
        let layer = &self.layer;
        let Some(repair) = &finding.repair else { return Err(Errno::NOTSUP) };
        let root = match finding.place {
            Place::Upper => layer.root(),
            Place::Work => self.work.as_ref().ok_or(Errno::NOTSUP)?,
        };
        let Some((dir, name)) = split(&finding.path) else {
            return self.mark(At::Dir(root), repair);
        };
        let parent = self.dir(root, dir)?;
        let at = At::Name(&parent, name);
        match repair {
            Repair::Remove => layer.unlink(&parent, name),
            Repair::RemoveTree => work::remove_tree(layer, &parent, name),
            Repair::SetMark { .. }
            | Repair::DropMark { .. }
            | Repair::Translate { .. }
            | Repair::CutOff { .. } => self.mark(at, repair),
            Repair::Cover { path } => self.whiteout(path),
            Repair::MakeWhiteout { path } => {
                self.whiteout(path)?;
                layer.unlink(&parent, name)
            }
            Repair::MakeOpaque { opaque } => {
                layer.set_xattr(At::Dir(&parent), opaque, b"y", SetXattr::Any)?;
                layer.unlink(&parent, name)
            }
            Repair::PutAside => {
                let work = self.work.as_ref().ok_or(Errno::NOTSUP)?;
                match layer.make_dir(work, ASIDE, 0o700, Owner::Mounter) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                let aside = layer.open_dir(work, ASIDE)?;
                let new = self.free_name(&aside, name)?;
                layer.rename((&parent, name), (&aside, &new), Rename::NoReplace)
            }
        }
    }

    fn mark(&self, at: At<'_, DirLayer>, repair: &Repair) -> acetate_layer::Result<()> {
        let remove = |name: &[u8]| match self.layer.remove_xattr(at, name) {
            Err(Errno::NODATA) => Ok(()),
            other => other,
        };
        match repair {
            Repair::SetMark { name, value } => self.layer.set_xattr(at, name, value, SetXattr::Any),
            Repair::DropMark { name } => remove(name),
            Repair::Translate { from, to, value } => {
                self.layer.set_xattr(at, to, value, SetXattr::Any)?;
                remove(from)
            }
            // In this order: an opaque directory's redirect is not read, so nothing below shows up in between.
            Repair::CutOff { opaque, redirect } => {
                self.layer.set_xattr(at, opaque, b"y", SetXattr::Any)?;
                remove(redirect)
            }
            _ => Err(Errno::NOTSUP),
        }
    }

    /// Makes a whiteout, unless there is something.
    fn whiteout(&self, path: &[u8]) -> acetate_layer::Result<()> {
        let (dir, name) = split(path).ok_or(Errno::INVAL)?;
        let parent = self.dir(self.layer.root(), dir)?;
        match self.layer.make_node(&parent, name, Type::CharDevice, 0, Rdev::default(), Owner::Mounter) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    fn dir(&self, root: &Dir, path: &[u8]) -> acetate_layer::Result<Dir> {
        let mut dir = root.clone();
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            dir = self.layer.open_dir(&dir, name)?;
        }
        Ok(dir)
    }

    /// The name, with a number behind it if it is taken.
    fn free_name(&self, dir: &Dir, name: &[u8]) -> acetate_layer::Result<Vec<u8>> {
        let mut number = 0_u64;
        loop {
            let end = if number == 0 { Vec::new() } else { format!(".{number}").into_bytes() };
            let candidate = [name, &end].concat();
            match self.layer.stat(At::Name(dir, &candidate)) {
                Err(Errno::NOENT) => return Ok(candidate),
                Err(errno) => return Err(errno),
                Ok(_) => {}
            }
            number += 1;
        }
    }
}

/// The path of a finding below the directory that it is in, for messages.
impl Finding {
    /// The path below a root.
    pub fn below(&self, root: &Path) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        if self.path.is_empty() {
            return root.as_os_str().as_bytes().to_vec();
        }
        joined(root.as_os_str().as_bytes(), &self.path)
    }
}
