//! What an operation is about, in the form that the `*at` calls take.

use super::name::Name;
use super::{Dir, DirLayer, File};
use crate::{At, Result};
use acetate_sys::xattr;
use rustix::fs::AtFlags;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A descriptor and a name: the name in that directory, or the descriptor's object if it is empty.
pub(super) struct Target<'a> {
    descriptor: Descriptor<'a>,
    name: Name,
    what: What,
}

enum Descriptor<'a> {
    Dir(Arc<OwnedFd>),
    File(BorrowedFd<'a>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Dir,
    Name,
    File,
    Reference,
}

impl<'a> Target<'a> {
    /// # Errors
    /// `EINVAL` for a name that is no component; `ESTALE` for a directory that others have taken away.
    pub(super) fn of(at: At<'a, DirLayer>) -> Result<Target<'a>> {
        Ok(match at {
            At::Dir(dir) => Target::dir(dir)?,
            At::Name(dir, name) => Target {
                descriptor: Descriptor::Dir(dir.descriptor()?),
                name: Name::component(name)?,
                what: What::Name,
            },
            At::Open(file) => Target::file(file),
        })
    }

    fn dir(dir: &Dir) -> Result<Target<'a>> {
        let descriptor = Descriptor::Dir(dir.descriptor()?);
        Ok(Target { descriptor, name: Name::empty(), what: What::Dir })
    }

    fn file(file: &'a File) -> Target<'a> {
        let what = if file.access.is_some() { What::File } else { What::Reference };
        Target { descriptor: Descriptor::File(file.as_fd()), name: Name::empty(), what }
    }

    /// The directory, or the object itself.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match &self.descriptor {
            Descriptor::Dir(fd) => fd.as_fd(),
            Descriptor::File(fd) => *fd,
        }
    }

    /// The name; empty for the object itself.
    pub(super) fn name(&self) -> &CStr {
        self.name.as_c_str()
    }

    /// The flags that make a call mean this object and not the target of a symlink.
    pub(super) fn flags(&self) -> AtFlags {
        if self.what == What::Name { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::EMPTY_PATH }
    }

    /// The same for calls about extended attributes.
    pub(super) fn xattr(&self) -> xattr::Object<'_> {
        match self.what {
            What::Dir => xattr::Object::Dir(self.fd()),
            What::Name => xattr::Object::Name(self.fd(), self.name()),
            What::File => xattr::Object::File(self.fd()),
            What::Reference => xattr::Object::Reference(self.fd()),
        }
    }
}
