//! End-to-end tests on real mounts.

mod suites;
