//! Test support: what mounts a stack, where layers live, and the recorded scenarios.
//!
//! - [`driver`]: one interface over the kernel's overlayfs and the `acetate` binary.
//! - [`edits`]: random trees and random edits of them.
//! - [`exec`]: running programs to an end, within a limit.
//! - [`need`]: what a test needs of the machine, and how a skip is told.
//! - [`real`]: real programs on a mount: apt, git, Python, sqlite, tar.
//! - [`scratch`]: directories and small filesystems that vanish with their handle.
//! - [`scenario`]: scenarios recorded from the kernel, and the runner that replays them.
//! - [`errno`]: errnos by name.
//! - [`suites`]: published filesystem test suites on a mount and below.
//! - [`lockstep`]: random calls on two mounts at once.
//!
//! Nothing here is used by the engine; failures are returned, not panicked, so that a runner can report them all.

pub mod driver;
pub mod edits;
pub mod errno;
pub mod exec;
pub mod lockstep;
pub mod need;
pub mod real;
pub mod scenario;
pub mod scratch;
pub mod suites;
