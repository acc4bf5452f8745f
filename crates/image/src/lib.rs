//! Container images: layers to and from archives, directories and registries.
//!
//! This crate turns tar entries into changes of a layer and back, and speaks the formats around them. It knows no
//! store: where a layer is kept, and what for, is not its business.

pub mod registry;
