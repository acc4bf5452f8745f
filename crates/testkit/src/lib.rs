//! Test support: what mounts a stack, where layers live, and the recorded scenarios.
//!
//! - [`driver`]: one interface over the kernel's overlayfs and the `acetate` binary.
//! - [`scratch`]: directories and small filesystems that vanish with their handle.
//! - [`scenario`]: scenarios recorded from the kernel, and the runner that replays them.
//! - [`errno`]: errnos by name.
//! - [`lockstep`]: random calls on two mounts at once.
//!
//! Nothing here is used by the engine; failures are returned, not panicked, so that a runner can report them all.

pub mod driver;
pub mod errno;
pub mod lockstep;
pub mod scenario;
pub mod scratch;
