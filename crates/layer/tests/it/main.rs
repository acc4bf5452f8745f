//! Layers in memory against layers on disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod same;
