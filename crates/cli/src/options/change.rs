//! Whether options ask for another mount than the one that is there.

use super::{Options, Owners};
use std::ffi::{OsStr, OsString};

impl Options {
    /// The first option of these, flags aside, that is given and is not as in `mounted`. `same` tells whether two paths
    /// are of one directory.
    pub(crate) fn differs_from(
        &self,
        mounted: &Options,
        same: impl Fn(&OsStr, &OsStr) -> bool,
    ) -> Option<&'static str> {
        let lists = |ours: &[OsString], theirs: &[OsString]| {
            let equal = ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| same(a, b));
            !ours.is_empty() && !equal
        };
        let single = |ours: &Option<OsString>, theirs: &Option<OsString>| match (ours, theirs) {
            (None, _) => false,
            (Some(ours), Some(theirs)) => !same(ours, theirs),
            (Some(_), None) => true,
        };
        let differences = [
            (lists(&self.lowers, &mounted.lowers), "lowerdir"),
            (lists(&self.data, &mounted.data), "datadir+"),
            (single(&self.upper, &mounted.upper), "upperdir"),
            (single(&self.work, &mounted.work), "workdir"),
            (differs(self.redirect_dir, mounted.redirect_dir), "redirect_dir"),
            (differs(self.metacopy, mounted.metacopy), "metacopy"),
            (differs(self.index, mounted.index), "index"),
            (differs(self.nfs_export, mounted.nfs_export), "nfs_export"),
            (differs(self.xino, mounted.xino), "xino"),
            (differs(self.uuid, mounted.uuid), "uuid"),
            (differs(self.verity, mounted.verity), "verity"),
            (differs(self.fsync, mounted.fsync), "fsync"),
            (differs(self.compat, mounted.compat), "compat"),
            (differs(self.lower, mounted.lower), "lower"),
            (differs(self.takeover, mounted.takeover), "takeover"),
            (differs(self.busy_poll, mounted.busy_poll), "busy_poll"),
            (differs(self.oci_whiteouts.as_ref(), mounted.oci_whiteouts.as_ref()), "oci_whiteouts"),
            (self.owners != Owners::default() && self.owners != mounted.owners, "the owners that are shown"),
            (!self.contexts.is_empty() && self.contexts != mounted.contexts, "context"),
            (self.userxattr && !mounted.userxattr, "userxattr"),
            (self.static_nlink && !mounted.static_nlink, "static_nlink"),
            (self.noacl && !mounted.noacl, "noacl"),
            (self.ino32 && !mounted.ino32, "ino32_t"),
            (self.foreign_opaque && !mounted.foreign_opaque, "foreign_opaque"),
        ];
        differences.iter().find(|(differs, _)| *differs).map(|(_, option)| *option)
    }
}

/// What is not asked for is as it is.
fn differs<T: PartialEq>(asked: Option<T>, mounted: Option<T>) -> bool {
    asked.is_some() && asked != mounted
}
