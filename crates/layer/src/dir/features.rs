//! What a layer's filesystem and our privileges offer, found out by asking or trying.

use super::{DirLayer, File, is_fuse};
use crate::{At, Errno, Kind, Layer, Owner, Rdev, Rename, Result, UpperLayer};
use rustix::fs::{Dir as Listing, FileType, ioctl_ficlone};
use std::os::fd::AsFd;

/// How many entries of a directory are looked at to find one that says its type.
const ENTRIES: usize = 16;

/// What can be done with file handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handles {
    /// There are none, or none that last longer than the server of the filesystem.
    None,
    /// Objects say what theirs are. Opening them takes `CAP_DAC_READ_SEARCH` in the initial user namespace.
    Named,
    /// Objects are found by them.
    Open,
}

/// What reading a layer can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// There are attributes `user.*`.
    pub user_xattrs: bool,
    /// There are attributes `trusted.*`. Without `CAP_SYS_ADMIN` they seem absent.
    pub trusted_xattrs: bool,
    /// File handles.
    pub handles: Handles,
    /// Listings say the types of entries; `None` for an empty directory.
    pub types_listed: Option<bool>,
    /// The filesystem has fs-verity.
    pub verity: bool,
}

/// What changing the writable layer can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperFeatures {
    /// Files without a name (`O_TMPFILE`).
    pub unnamed_files: bool,
    /// Two objects can be exchanged (`RENAME_EXCHANGE`).
    pub exchange: bool,
    /// A rename can leave a whiteout (`RENAME_WHITEOUT`).
    pub leaves_whiteout: bool,
    /// Files can share data (`FICLONE`).
    pub reflinks: bool,
    /// Listings say the types of entries.
    pub types_listed: bool,
}

impl DirLayer {
    /// What can be done with file handles.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn handles(&self) -> Result<Handles> {
        let Some(handle) = self.handle(At::Dir(self.root()))? else {
            return Ok(Handles::None);
        };
        if matches!(self.resolve(&handle), Ok(Some(_))) {
            return Ok(Handles::Open);
        }
        // Those of a FUSE server's files may end with the server.
        Ok(if is_fuse(&*self.root.descriptor()?)? { Handles::None } else { Handles::Named })
    }

    /// Finds out what reading the layer can rely on. Nothing is changed.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn features(&self) -> Result<Features> {
        let has = |name: &[u8]| match self.get_xattr(At::Dir(self.root()), name) {
            Ok(_) => Ok(true),
            Err(Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno),
        };
        let root = self.full()?;
        Ok(Features {
            user_xattrs: has(b"user.overlay.probe")?,
            trusted_xattrs: has(b"trusted.overlay.probe")?,
            handles: self.handles()?,
            types_listed: self.types_listed()?,
            verity: acetate_sys::verity::is_known(root.as_fd())?,
        })
    }

    /// Whether a listing of the root says the type of its entries; `None` if there are none.
    fn types_listed(&self) -> Result<Option<bool>> {
        let listing = Listing::new(self.open_to_list(&*self.root.descriptor()?)?)?;
        for entry in listing.take(ENTRIES) {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(Some(entry.file_type() != FileType::Unknown));
            }
        }
        Ok(None)
    }

    /// Finds out what changing the layer can rely on, by doing it in the staging directory.
    ///
    /// # Errors
    /// Failures other than "not supported" and "not permitted"; what was made stays until the next mount then.
    pub fn upper_features(&self) -> Result<UpperFeatures> {
        let names: [&[u8]; 2] = [b"#probe-a", b"#probe-b"];
        let [a, b] = names;
        let work = self.work();
        let first = self.create(work, a, 0o600, Owner::Mounter)?;
        self.make_node(work, b, Kind::Fifo, 0o600, Rdev::default(), Owner::Mounter)?;
        // Both names are there afterwards, whatever was done.
        let exchange = supported(self.rename((work, a), (work, b), Rename::Exchange))?;
        let leaves_whiteout = supported(self.rename((work, a), (work, b), Rename::Whiteout))?;
        let mut types_listed = true;
        self.list(work, &mut |entry| types_listed &= entry.kind.is_some())?;
        self.unlink(work, a)?;
        self.unlink(work, b)?;
        let second = self.create_unnamed(work, 0o600, Owner::Mounter);
        let unnamed_files = supported(second.as_ref().map(drop).map_err(|errno| *errno))?;
        let reflinks = match &second {
            Ok(second) => self.can_clone(&first, second),
            Err(_) => {
                let second = self.create(work, a, 0o600, Owner::Mounter)?;
                let can = self.can_clone(&first, &second);
                self.unlink(work, a)?;
                can
            }
        };
        Ok(UpperFeatures { unnamed_files, exchange, leaves_whiteout, reflinks, types_listed })
    }

    /// Whether the filesystem lets two files share data, tried with two empty ones.
    fn can_clone(&self, from: &File, to: &File) -> bool {
        ioctl_ficlone(to, from).is_ok()
    }
}

/// Whether something could be done.
fn supported(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS | Errno::PERM) => Ok(false),
        Err(errno) => Err(errno),
    }
}
