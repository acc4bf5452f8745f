//! What has to hold for any bytes as mount options: for tests and for the fuzz target.

use super::{Mounter, Parsed, Unknown, parse, resolve};
use std::ffi::OsString;

/// They are refused, with a hint, or mean the same when written again.
///
/// # Panics
/// If that does not hold.
pub(crate) fn read_and_write(text: OsString) {
    for unknown in [Unknown::Refuse, Unknown::Ignore] {
        match parse(&[&text], unknown) {
            Err(error) => assert!(!error.to_string().is_empty() && !error.hint().is_empty()),
            Ok(Parsed { options, .. }) => {
                for mounter in [Mounter::Admin, Mounter::User] {
                    if let Err(error) = resolve(&options, mounter) {
                        assert!(!error.to_string().is_empty() && !error.hint().is_empty());
                    }
                }
                // Data-only layers alone have no form as a list, and make no mount.
                if !options.lowers.is_empty() || options.data.is_empty() {
                    let again = parse(&[options.format()], Unknown::Refuse);
                    assert_eq!(again.map(|parsed| parsed.options), Ok(options));
                }
            }
        }
    }
}
