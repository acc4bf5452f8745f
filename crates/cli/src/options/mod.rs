//! Mount options: the text after `-o`, as bytes, and what it means.
//!
//! Everything here is pure: no path is looked at. [`parse`](fn@parse) splits and checks words one by one, in the
//! order and with the escapes of the kernel's overlayfs; [`resolve`](fn@resolve) applies the rules that tie options
//! to one another. Every refusal is an [`Error`] that names the option.

mod change;
mod error;
mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod harness;
mod names;
mod owners;
mod parse;
mod resolve;
#[cfg(test)]
mod tests;

pub(crate) use error::Error;
pub(crate) use names::Flags;
pub(crate) use owners::{ArchiveLayers, Owners};
pub(crate) use parse::{Parsed, Unknown, parse};
pub(crate) use resolve::{Marks, Mounter, Resolved, resolve};

use std::ffi::OsString;

/// The most lower layers that one mount takes, data-only layers included.
pub(crate) const MAX_LOWERS: usize = 500;

/// Makes an enum of the words that an option takes as its value.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All values with the words for them.
            pub(crate) const ALL: &[($name, &str)] = &[$(($name::$variant, $word)),+];

            /// The word for a value.
            #[allow(dead_code, reason = "asked of some of them only")]
            pub(crate) fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }
    };
}

choices! {
    /// Directory redirects.
    RedirectDir {
        /// Create and follow.
        On = "on",
        /// Follow those that layers hold.
        Follow = "follow",
        /// Neither.
        NoFollow = "nofollow",
        /// Do not create; followed all the same, as kernels are configured everywhere.
        Off = "off",
    }
}
choices! {
    /// A feature that is on or off.
    Switch {
        /// Use it.
        On = "on",
        /// Do without.
        Off = "off",
    }
}
choices! {
    /// One space of inode numbers over several filesystems.
    Xino {
        /// Always.
        On = "on",
        /// Where the filesystems allow it.
        Auto = "auto",
        /// Never.
        Off = "off",
    }
}
choices! {
    /// Identity of the overlay.
    Uuid {
        /// Stored in the upper layer.
        On = "on",
        /// As found in the upper layer.
        Auto = "auto",
        /// That of the upper filesystem.
        Null = "null",
        /// As `null`, and file handles carry none.
        Off = "off",
    }
}
choices! {
    /// Verification of data below metadata-only copies.
    Verity {
        /// None.
        Off = "off",
        /// Where a digest is recorded.
        On = "on",
        /// Always.
        Require = "require",
    }
}
choices! {
    /// Whether processors may be kept busy in waiting for requests.
    BusyPoll {
        /// While many requests come, if it makes the mount faster.
        Auto = "auto",
        /// Never.
        Off = "off",
    }
}
choices! {
    /// Who can read the upper layer.
    Compat {
        /// Every kernel.
        Kernel = "kernel",
        /// Only who knows the extensions: redirects and metadata-only copies with marks of users.
        Extended = "extended",
    }
}
choices! {
    /// When changes of lower layers behind the mount are seen.
    LowerChanges {
        /// There are none while it is mounted.
        Static = "static",
        /// At the next lookup.
        Revalidate = "revalidate",
    }
}
choices! {
    /// What a copy-up makes durable.
    Fsync {
        /// The data of each file.
        Auto = "auto",
        /// Data and directory entries.
        Strict = "strict",
        /// Nothing, not even on request.
        Volatile = "volatile",
    }
}

/// The options of one mount. Of options that were given more than once, the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Lower layers, the topmost first.
    pub(crate) lowers: Vec<OsString>,
    /// Data-only lower layers, below all others.
    pub(crate) data: Vec<OsString>,
    /// The writable layer.
    pub(crate) upper: Option<OsString>,
    /// The work directory.
    pub(crate) work: Option<OsString>,
    /// `redirect_dir=`
    pub(crate) redirect_dir: Option<RedirectDir>,
    /// `metacopy=`
    pub(crate) metacopy: Option<Switch>,
    /// `index=`
    pub(crate) index: Option<Switch>,
    /// `nfs_export=`
    pub(crate) nfs_export: Option<Switch>,
    /// `xino=`
    pub(crate) xino: Option<Xino>,
    /// `uuid=`
    pub(crate) uuid: Option<Uuid>,
    /// `verity=`
    pub(crate) verity: Option<Verity>,
    /// `fsync=`, `volatile`
    pub(crate) fsync: Option<Fsync>,
    /// `compat=`
    pub(crate) compat: Option<Compat>,
    /// `lower=`
    pub(crate) lower: Option<LowerChanges>,
    /// `takeover=`: the mount outlives its server.
    pub(crate) takeover: Option<Switch>,
    /// `busy_poll=`: how the daemon may wait.
    pub(crate) busy_poll: Option<BusyPoll>,
    /// `userxattr`
    pub(crate) userxattr: bool,
    /// Who is shown as the owner of what.
    pub(crate) owners: Owners,
    /// `static_nlink`: directories show one link.
    pub(crate) static_nlink: bool,
    /// `noacl`: there are no access control lists.
    pub(crate) noacl: bool,
    /// `ino32_t`: inode numbers have 32 bits.
    pub(crate) ino32: bool,
    /// `context=` and its like, as they were given: SELinux labels, for the kernel.
    pub(crate) contexts: Vec<OsString>,
    /// `oci_whiteouts`: the lower layers whose `.wh.` files are whiteouts.
    pub(crate) oci_whiteouts: Option<ArchiveLayers>,
    /// `foreign_opaque`: opaque marks of fuse-overlayfs, and those of the other dialect, count.
    pub(crate) foreign_opaque: bool,
    /// `allow_other`: let other users in although an ordinary user mounts.
    pub(crate) allow_other: bool,
    /// `fsname=`: the source that the mount table shows.
    pub(crate) fsname: Option<OsString>,
    /// Flags that every filesystem has.
    pub(crate) flags: Flags,
    /// `remount`: change the flags of a mount that is there.
    pub(crate) remount: bool,
}

/// Which directory of a mount a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A lower layer.
    Lower,
    /// A data-only lower layer.
    Data,
    /// The writable layer.
    Upper,
    /// The work directory.
    Work,
}

impl Role {
    /// The words for it in messages.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Role::Lower => "lower layer",
            Role::Data => "data-only layer",
            Role::Upper => "upper layer",
            Role::Work => "work directory",
        }
    }

    /// The option that gives it.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Role::Lower | Role::Data => "lowerdir",
            Role::Upper => "upperdir",
            Role::Work => "workdir",
        }
    }
}
