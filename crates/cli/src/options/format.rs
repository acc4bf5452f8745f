//! [`Options`] to option text, which parses back to the same.

use super::names::FLAGS;
use super::{BusyPoll, Compat, Fsync, LowerChanges, Options, RedirectDir, Switch, Uuid, Verity, Xino};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

impl Options {
    /// The options as text for `-o`, paths escaped.
    pub(crate) fn format(&self) -> OsString {
        let mut words: Vec<Vec<u8>> = Vec::new();
        if !self.lowers.is_empty() || !self.data.is_empty() {
            words.push(self.lower_list());
        }
        for (name, path) in [("upperdir=", &self.upper), ("workdir=", &self.work), ("fsname=", &self.fsname)]
        {
            if let Some(path) = path {
                words.push([name.as_bytes(), &escape(path)].concat());
            }
        }
        let choices = [
            word("redirect_dir", self.redirect_dir, RedirectDir::ALL),
            word("metacopy", self.metacopy, Switch::ALL),
            word("index", self.index, Switch::ALL),
            word("nfs_export", self.nfs_export, Switch::ALL),
            word("xino", self.xino, Xino::ALL),
            word("uuid", self.uuid, Uuid::ALL),
            word("verity", self.verity, Verity::ALL),
            word("fsync", self.fsync, Fsync::ALL),
            word("compat", self.compat, Compat::ALL),
            word("lower", self.lower, LowerChanges::ALL),
            word("takeover", self.takeover, Switch::ALL),
            word("busy_poll", self.busy_poll, BusyPoll::ALL),
        ];
        words.extend(choices.into_iter().flatten());
        words.extend(self.owners.words());
        words.extend(self.oci_whiteouts.iter().map(super::ArchiveLayers::word));
        words.extend(self.contexts.iter().map(|word| word.as_bytes().to_vec()));
        let plain = [
            ("userxattr", self.userxattr),
            ("static_nlink", self.static_nlink),
            ("noacl", self.noacl),
            ("ino32_t", self.ino32),
            ("foreign_opaque", self.foreign_opaque),
            ("allow_other", self.allow_other),
            ("remount", self.remount),
        ];
        words.extend(plain.iter().filter(|(_, given)| *given).map(|(name, _)| name.as_bytes().to_vec()));
        words.extend(
            FLAGS
                .iter()
                .filter(|(_, set, _)| !set.is_empty() && self.flags.0.contains(*set))
                .map(|(name, ..)| name.as_bytes().to_vec()),
        );
        OsString::from_vec(words.join(&b','))
    }

    fn lower_list(&self) -> Vec<u8> {
        let mut text = b"lowerdir=".to_vec();
        text.extend(self.lowers.iter().map(|path| escape(path)).collect::<Vec<_>>().join(&b':'));
        for path in &self.data {
            text.extend_from_slice(b"::");
            text.extend(escape(path));
        }
        text
    }
}

/// Puts a backslash before everything that splitting takes for more than a character.
fn escape(path: &OsStr) -> Vec<u8> {
    let special = |byte: &u8| matches!(byte, b'\\' | b',' | b':');
    path.as_bytes()
        .iter()
        .flat_map(|byte| special(byte).then_some(b'\\').into_iter().chain([*byte]))
        .collect()
}

fn word<T: PartialEq + Copy>(name: &str, value: Option<T>, all: &[(T, &str)]) -> Option<Vec<u8>> {
    let value = value?;
    all.iter().find(|(each, _)| *each == value).map(|(_, word)| format!("{name}={word}").into_bytes())
}
