//! Changing an upper layer that is not mounted: unfolding, compacting, folding into the layer below, carrying to others.
//!
//! [`flatten`], [`compact`] and [`merge`] are made of steps of which each leaves what the stack shows as it was, times
//! included. Whoever is killed between two of them leaves a layer that can be mounted, and the same command again goes on
//! from there. Within a step, what the next run has to put right is in a note ([`note`]). [`rebase`] makes a new layer
//! beside the old one and exchanges the two by one rename.
//!
//! All is planned first (which reads only), then done.

pub mod compact;
mod copy;
pub mod flatten;
pub mod merge;
mod note;
pub mod rebase;
mod rebuild;
mod site;

pub use site::{Found, Site};

use acetate_layer::mark::Mark;

use crate::Stack;
use crate::node::Node;
use crate::view::View;

/// A step within an upper layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The path from the root of the layer.
    pub path: Vec<u8>,
    /// What is done with it.
    pub act: Act,
}

/// What a step does. None of them changes what the stack shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Copies the data of a metacopy file into it.
    Fill {
        /// Length in bytes, holes included.
        bytes: u64,
    },
    /// Puts an opaque directory with all that is shown in it in place of a redirected one.
    Unfold {
        /// How many objects are copied from below.
        objects: u64,
        /// Length of their data in bytes.
        bytes: u64,
    },
    /// Makes a directory opaque whose redirect leads nowhere.
    CutOff,
    /// Removes a mark that means nothing.
    Unmark(Mark),
    /// Removes a whiteout that hides nothing.
    Unhide,
    /// Removes an object that is shown just the same without it.
    Remove {
        /// Length of its data in bytes.
        bytes: u64,
    },
}

/// A node as the layers from `top` on know it.
fn from_layer(node: &Node, top: usize) -> Node {
    Node { seen: node.seen.iter().filter(|seen| seen.layer >= top).cloned().collect(), problem: None }
}

/// The layers of a stack from `top` on.
fn view_from(stack: &Stack, top: usize) -> View<'_> {
    View { stack, top }
}
