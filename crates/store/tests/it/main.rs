//! Tests of the store on real directories and mounts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changes;
