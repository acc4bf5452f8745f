//! The subcommands of `testkit`, one a file.

pub(crate) mod lockstep;
pub(crate) mod matrix;
