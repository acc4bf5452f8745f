//! Layers from archives and back, on real directories.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hostile;
mod layers;
mod tree;
