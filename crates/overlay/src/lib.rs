//! The semantics of an overlay: merge, copy-up and one file an operation.
//!
//! The engine works over any [`UpperLayer`](acetate_layer::UpperLayer): directories or memory. It knows no FUSE, no
//! system calls and no paths.

mod error;
mod types;

pub use error::{OpError, Result};
pub use types::*;
