//! The system calls that the engine needs, as safe functions.
//!
//! This is the only crate that may use `unsafe`. Most calls are re-exported from or built on `rustix`; what it does
//! not wrap is wrapped here, one call a function. Nothing here knows of layers.

pub use rustix::io::Errno;

pub mod probe;
