//! Test support: what mounts a stack, where layers live, and the recorded scenarios.
//!
//! - [`cgroup`]: processes frozen together, or with little memory.
//! - [`cuts`]: power cuts under a mount.
//! - [`driver`]: one interface over the kernel's overlayfs and the `acetate` binary.
//! - [`edits`]: random trees and random edits of them.
//! - [`exec`]: running programs to an end, within a limit.
//! - [`inject`]: stopping a program at any of its system calls, or making one fail.
//! - [`kills`]: a server that is killed, or whose calls fail, at every step of every operation.
//! - [`load`]: much of everything, and what is held on to.
//! - [`need`]: what a test needs of the machine, and how a skip is told.
//! - [`real`]: real programs on a mount: apt, git, Python, sqlite, tar.
//! - [`scratch`]: directories and small filesystems that vanish with their handle.
//! - [`scenario`]: scenarios recorded from the kernel, and the runner that replays them.
//! - [`errno`]: errnos by name.
//! - [`suites`]: published filesystem test suites on a mount and below.
//! - [`takeover`]: programs, and a large tree, on a mount whose server is killed again and again.
//! - [`userns`]: running a program in a user namespace.
//! - [`lockstep`]: random calls on two mounts at once.
//!
//! Nothing here is used by the engine; failures are returned, not panicked, so that a runner can report them all.

pub mod cgroup;
pub mod cuts;
pub mod driver;
pub mod edits;
pub mod errno;
pub mod exec;
pub mod inject;
pub mod kills;
pub mod load;
pub mod lockstep;
pub mod need;
pub mod real;
pub mod scenario;
pub mod scratch;
pub mod suites;
pub mod takeover;
pub mod userns;
