//! Any bytes as values of marks and of what else is read from layers.
#![no_main]

use acetate_layer::mark::harness::read_as_all;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| read_as_all(value));
