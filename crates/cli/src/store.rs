//! The store that commands work on.

use crate::error::Failure;
use crate::out::{note, shown};
use acetate_image::Owners;
use acetate_store::{Imported, Store, default_root};
use std::path::PathBuf;

/// Which store.
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// The store's directory [default: $ACETATE_STORE, /var/lib/acetate, or ~/.local/share/acetate for ordinary users]
    #[arg(long, value_name = "DIR", global = true, display_order = 900)]
    store: Option<PathBuf>,
}

impl StoreArgs {
    /// Opens it; makes it if need be.
    pub(crate) fn open(&self) -> Result<Store, Failure> {
        open_store(self.store.clone())
    }

    /// Opens it for what is not about images, so that there is nothing to be said about them.
    pub(crate) fn open_without_images(&self) -> Result<Store, Failure> {
        Ok(Store::open(&place(self.store.clone())?)?)
    }
}

/// Opens the named store, or the user's; makes it if need be.
pub(crate) fn open_store(named: Option<PathBuf>) -> Result<Store, Failure> {
    let root = place(named)?;
    let is_new = !root.join("store.json").exists();
    let store = Store::open(&root)?;
    if is_new && store.options().owners == Owners::Recorded {
        note(format_args!(
            "{}: files of images will be your own, their owners recorded in extended attributes; \
                 run acetate in a user namespace with subordinate ids (podman unshare) to have them as they are",
            shown(store.root())
        ));
    }
    Ok(store)
}

/// Where the named store is, or the user's.
fn place(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let named = named.or_else(|| std::env::var_os("ACETATE_STORE").map(PathBuf::from));
    let none = || Failure::new("no place for a store: $HOME is not set", "name a directory with --store");
    named.or_else(default_root).ok_or_else(none)
}

impl From<acetate_store::Error> for Failure {
    fn from(error: acetate_store::Error) -> Failure {
        let failure = Failure::new(chain(&error), "");
        Failure { hint: error.hint(), ..failure }
    }
}

impl From<acetate_image::Error> for Failure {
    fn from(error: acetate_image::Error) -> Failure {
        acetate_store::Error::from(error).into()
    }
}

/// An error and its causes on one line. Causes that the error has named itself are not repeated.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = plain(&error.to_string());
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = plain(&inner.to_string());
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// With the cause in lower case and without the number that the standard library appends, as all causes are told.
fn plain(text: &str) -> String {
    let Some(at) = text.find(" (os error ") else { return text.to_owned() };
    let end = text[at..].find(')').map_or(text.len(), |end| at + end + 1);
    let cause = text[..at].rfind(": ").map_or(0, |colon| colon + 2);
    let mut letters = text[cause..at].chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    let first = first.map(String::from).unwrap_or_default();
    format!("{}{first}{}{}", &text[..cause], letters.as_str(), &text[end..])
}

/// Tells what of an image could not be made here.
pub(crate) fn tell_skipped(imported: &Imported) {
    let (devices, xattrs) = imported.skipped;
    if devices > 0 {
        note(format_args!("{devices} device nodes were left out, for lack of privilege to make them"));
    }
    if xattrs > 0 {
        note(format_args!("{xattrs} extended attributes were left out, which cannot be stored here"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_their_errors() {
        let inner = std::io::Error::from_raw_os_error(28);
        let error = acetate_store::Error::Path { step: "write", path: "/a".into(), source: inner };
        assert_eq!(chain(&error), "write: /a: no space left on device");
    }
}
