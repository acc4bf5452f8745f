//! Whiteouts and opaque marks of an upper layer as files, where neither devices 0:0 nor attributes can be made: those of
//! layer archives ([`oci`](super::oci)), which fuse-overlayfs reads and writes too.
//!
//! What takes one rename elsewhere takes two steps here, because a name can have two files: the object `N` and the
//! whiteout `.wh.N`. While both are there the object counts. So what is to be seen is put in place first, and what it
//! hides goes second: whoever is killed in between leaves the old state, or the new one with a whiteout beside it that
//! hides nothing but what is below a directory, which was to be hidden.

use super::{View, oci};
use crate::{At, Errno, Kind, Owner, Rdev, Rename, Result, SetTime, UpperLayer};

/// A name in a directory.
type Place<'a, D> = (&'a D, &'a [u8]);

impl<L: UpperLayer> View<L> {
    /// Refuses names that would be taken for whiteouts.
    pub(super) fn check_name(&self, name: &[u8]) -> Result<()> {
        if self.oci && oci::meaning(name) != oci::Meaning::Object { Err(Errno::INVAL) } else { Ok(()) }
    }

    /// Refuses a name that an object is to be created at, if there is a whiteout.
    pub(super) fn check_free(&self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        self.check_name(name)?;
        if self.oci && self.whiteout(dir, name)?.is_some() { Err(Errno::EXIST) } else { Ok(()) }
    }

    fn make_file(&self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        match self.inner.make_node(dir, name, Kind::File, 0o600, Rdev::default(), Owner::Mounter) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    /// Makes the whiteout of a name.
    pub(super) fn make_whiteout(&self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        match self.inner.stat(At::Name(dir, name)) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => self.make_file(dir, &oci::whiteout_of(name)),
            Err(errno) => Err(errno),
        }
    }

    /// Removes the whiteout of a name, if there is one, after the change that made it needless.
    fn drop_whiteout(&self, (dir, name): Place<'_, L::Dir>) {
        // What stays hides nothing but what is hidden already, or is not there.
        let _needless = self.inner.unlink(dir, &oci::whiteout_of(name));
    }

    /// Makes a directory opaque, which leaves it the times it had.
    pub(super) fn make_opaque(&self, at: At<'_, Self>) -> Result<()> {
        let opened;
        let dir = match at {
            At::Dir(dir) => dir,
            At::Name(parent, name) => {
                opened = self.inner.open_dir(parent, name)?;
                &opened
            }
            At::Open(_) => return Err(Errno::NOTDIR),
        };
        let stat = self.inner.stat(At::Dir(dir))?;
        self.make_file(dir, oci::OPAQUE)?;
        self.inner.set_times(At::Dir(dir), SetTime::To(stat.atime), SetTime::To(stat.mtime))
    }

    /// Removes a non-directory or a whiteout.
    pub(super) fn unlink_either(&self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        match self.inner.unlink(dir, name) {
            Err(Errno::NOENT) => self.inner.unlink(dir, &oci::whiteout_of(name)),
            Ok(()) => {
                self.drop_whiteout((dir, name));
                Ok(())
            }
            other => other,
        }
    }

    /// Removes a directory that is empty but for what makes it opaque.
    pub(super) fn rmdir_opaque(&self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        match self.inner.rmdir(dir, name) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let inner = self.inner.open_dir(dir, name)?;
                let mut others = false;
                self.inner.list(&inner, &mut |entry| others |= entry.name != oci::OPAQUE)?;
                if others {
                    return Err(Errno::NOTEMPTY);
                }
                self.inner.unlink(&inner, oci::OPAQUE)?;
                self.inner.rmdir(dir, name)?;
            }
            other => other?,
        }
        self.drop_whiteout((dir, name));
        Ok(())
    }

    /// Whether there is an object or a whiteout.
    fn is_object(&self, (dir, name): Place<'_, L::Dir>) -> Result<bool> {
        match self.inner.stat(At::Name(dir, name)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) if self.whiteout(dir, name)?.is_some() => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Renames what may be a whiteout, or lie where one is.
    pub(super) fn rename_either(
        &self,
        from: Place<'_, L::Dir>,
        to: Place<'_, L::Dir>,
        how: Rename,
    ) -> Result<()> {
        self.check_name(to.1)?;
        let source = self.is_object(from)?;
        match how {
            Rename::Exchange => self.exchange(from, source, to),
            Rename::NoReplace if self.whiteout(to.0, to.1)?.is_some() => Err(Errno::EXIST),
            Rename::Whiteout => {
                self.make_file(from.0, &oci::whiteout_of(from.1))?;
                self.inner.rename(from, to, Rename::Replace)?;
                self.drop_whiteout(to);
                Ok(())
            }
            Rename::Replace | Rename::NoReplace if source => {
                self.inner.rename(from, to, how)?;
                self.drop_whiteout(to);
                self.drop_whiteout(from);
                Ok(())
            }
            Rename::Replace | Rename::NoReplace => {
                self.move_whiteout(from, to)?;
                match self.inner.unlink(to.0, to.1) {
                    Err(Errno::NOENT) => Ok(()),
                    other => other,
                }
            }
        }
    }

    fn move_whiteout(&self, from: Place<'_, L::Dir>, to: Place<'_, L::Dir>) -> Result<()> {
        let (source, target) = (oci::whiteout_of(from.1), oci::whiteout_of(to.1));
        self.inner.rename((from.0, &source), (to.0, &target), Rename::Replace)
    }

    fn exchange(&self, from: Place<'_, L::Dir>, source: bool, to: Place<'_, L::Dir>) -> Result<()> {
        match (source, self.is_object(to)?) {
            (true, true) => self.inner.rename(from, to, Rename::Exchange),
            (false, false) => Ok(()),
            (true, false) => {
                self.make_file(from.0, &oci::whiteout_of(from.1))?;
                self.inner.rename(from, to, Rename::NoReplace)?;
                // A directory over a whiteout is opaque, so that what stays hides nothing more.
                self.drop_whiteout(to);
                Ok(())
            }
            (false, true) => {
                self.move_whiteout(from, to)?;
                self.inner.rename(to, from, Rename::NoReplace)
            }
        }
    }
}
