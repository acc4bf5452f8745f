//! The transport between the kernel's FUSE device and the overlay engine.
//!
//! A [`Connection`] is a mounted FUSE filesystem whose requests wait for a server; [`Connection::serve`] answers them
//! from an [`Overlay`](acetate_overlay::Overlay) until the filesystem is unmounted. Nothing here knows what an overlay
//! is, and nothing here looks at the mount: a server that waits for itself never answers.

mod awake;
mod device;
mod dispatch;
mod files;
mod flight;
mod helper;
mod init;
mod mount;
mod notify;
mod opens;
mod pool;
mod readers;
mod session;
mod stats;
mod trace;
mod waiting;
mod wire;

#[cfg(fuzzing)]
pub use dispatch::harness::answer_all;

pub use acetate_sys::mount::Unmount;
pub use awake::Awake;
pub use flight::{Flight, Flights};
pub use init::{Feature, InForce};
pub use mount::{MountError, MountSpec, UnmountError, unmount};
pub use pool::Polling;
pub use rustix::mount::MountFlags;
pub use session::{Connection, Ended, ServeError, Tuning};
pub use stats::{OpStats, Stats};
pub use waiting::Waiting;
