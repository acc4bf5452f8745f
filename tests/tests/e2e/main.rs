//! End-to-end tests on real mounts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod lifecycle;
mod lockstep;
mod matrix;
mod real;
mod run;
mod space;
mod store;
mod suites;
mod tools;
