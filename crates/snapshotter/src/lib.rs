//! A snapshotter for containerd: its proxy plugin service (containerd, docs/snapshotters) on the snapshots of a store.
//!
//! The store keeps the snapshots and says what each is made of; this says how containerd is to mount that ([`How`]), and
//! speaks gRPC. Nothing is mounted here: a mount belongs to the container, so it stays when this process goes.

pub mod api;
mod filter;
mod mounts;
mod serve;
mod service;

pub use mounts::How;
pub use serve::{Listener, ServeError};
pub use service::Service;
