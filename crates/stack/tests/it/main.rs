//! What is said of a stack of layers is what a kernel mount of it shows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod change;
mod diff;
mod explain;
mod survey;
