//! Any bytes as mount options: they are refused, with a hint, or mean the same when written again.
#![no_main]
// Of these files of the program only a part is used here.
#![allow(dead_code, unused_imports, unused_macros)]

#[path = "../../crates/cli/src/error.rs"]
mod error;
#[path = "../../crates/cli/src/options/mod.rs"]
mod options;
#[path = "../../crates/cli/src/out.rs"]
mod out;

use libfuzzer_sys::fuzz_target;
use options::{Mounter, Parsed, Unknown, parse, resolve};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// As in the program.
pub(crate) enum Exit {
    Done,
}

fuzz_target!(|bytes: &[u8]| {
    let text = OsString::from_vec(bytes.to_vec());
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
});
