//! The engine against a reference model, and under failures at every point.
//!
//! [`model`] is one flat map; [`kernel`] checks that it agrees with the kernel's own overlayfs, so that it can judge
//! the engine where no kernel is at hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod agree;
mod cost;
mod engine;
mod faults;
mod kernel;
mod links;
mod model;
mod op;
mod side;
mod stack;
mod view;

/// How often a property is tried: `cases` times, or as `PROPTEST_CASES` says. Failures are printed in full, so nothing
/// is written beside the sources.
fn config(cases: u32) -> proptest::test_runner::Config {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let mut config = proptest::test_runner::Config { failure_persistence: None, ..Default::default() };
    if !asked {
        config.cases = cases;
    }
    config
}
