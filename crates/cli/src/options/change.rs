//! Whether options ask for another mount than the one that is there.

use super::Options;
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
            (self.userxattr && !mounted.userxattr, "userxattr"),
        ];
        differences.iter().find(|(differs, _)| *differs).map(|(_, option)| *option)
    }
}

/// What is not asked for is as it is.
fn differs<T: PartialEq>(asked: Option<T>, mounted: Option<T>) -> bool {
    asked.is_some() && asked != mounted
}
