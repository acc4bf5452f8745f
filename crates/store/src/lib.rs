//! Layers, images, workspaces and snapshots on this machine, and the drivers that show them.
//!
//! A [`Store`] is a directory; its layout is in [`root`](Store) and docs/formats.md. Whatever is made is made in
//! `staging/`, synced, and published by one rename; a record is a file that is replaced as a whole. So a process that is
//! killed leaves the old state or the new one, and rubbish that [`Store::gc`] removes.
//!
//! The store never mounts by itself: it hands out a [`Plan`].

pub mod changes;
mod check;
mod commit;
pub mod driver;
mod error;
mod export;
mod gc;
mod images;
mod import;
mod layers;
mod publish;
mod record;
mod root;
mod settle;
pub mod snapshots;
mod transfer;
mod trees;
pub mod tries;
mod workspaces;

pub use check::{Depth, Problem};
pub use commit::{CommitBase, Edit};
pub use error::{Error, Result};
pub use export::Form;
pub use gc::{Garbage, LayerUsage, Usage};
pub use images::{Image, full_name};
pub use import::{Imported, Progress};
pub use layers::{Expected, Layer, Stored};
pub use record::now;
pub use root::{Locked, Spool, Store, default_root};
pub use workspaces::{Base, InUse, Own, Part, Plan, Workspace, is_mountpoint};
