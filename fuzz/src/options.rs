//! Any bytes as mount options.
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
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// As in the program.
pub(crate) enum Exit {
    Done,
}

fuzz_target!(|bytes: &[u8]| options::harness::read_and_write(OsString::from_vec(bytes.to_vec())));
