//! End-to-end tests on real mounts.

mod real;
mod suites;
