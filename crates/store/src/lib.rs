//! Layers, images and workspaces on this machine, and the drivers that show them.
//!
//! The store never mounts by itself: it hands out a plan.

pub mod changes;
pub mod driver;
