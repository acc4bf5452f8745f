//! Container images: layers to and from archives, directories and registries.
//!
//! This crate turns tar entries into changes of a layer and back, and speaks the formats around them. It knows no
//! store: where a layer is kept, and what for, is not its business.

pub mod archive;
mod compression;
mod digest;
mod error;
pub mod export;
mod pack;
pub mod registry;
mod rejoin;
pub mod source;
pub mod split;
mod unpack;

pub use compression::{Compression, Encoder, decoder};
pub use digest::{Digest, Hashing, NoDigest};
pub use error::{Error, Result};
pub use pack::{Packed, Selection, pack, pack_some};
pub use rejoin::rejoin;
pub use unpack::{Options, Owners, Replaced, Totals, unpack};
