//! Where a node is, for messages about it.

use crate::node::Node;
use crate::{NodeId, Overlay};
use acetate_layer::UpperLayer;
use std::fmt;
use std::sync::Arc;

/// The most names of a path that are followed: what is moved meanwhile must not lead in a circle for ever.
const DEPTH: usize = 4096;

/// Which layer an object is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InLayer {
    /// The writable one.
    Upper,
    /// A lower one, 0 topmost.
    Lower(usize),
}

impl fmt::Display for InLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upper => f.write_str("upper"),
            Self::Lower(number) => write!(f, "lower {}", number + 1),
        }
    }
}

/// Where a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// One of its paths from the root of the mount; `None` if it has none or cannot be told now.
    pub path: Option<Vec<u8>>,
    /// The topmost layer that has it; `None` if that cannot be told now.
    pub layer: Option<InLayer>,
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}", path.escape_ascii())?,
            None => f.write_str("an unknown path")?,
        }
        self.layer.map_or(Ok(()), |layer| write!(f, " ({layer})"))
    }
}

impl<L: UpperLayer> Overlay<L> {
    /// Where a node is. Never waits: what an operation has locked at the moment is left out.
    pub fn whereabouts(&self, id: NodeId) -> Whereabouts {
        let Some(node) = self.nodes.get(id) else { return Whereabouts::default() };
        let layer = node.state.try_read().and_then(|state| {
            let lower = state.lower().map(|lower| InLayer::Lower(lower.layer));
            if state.has_upper() { Some(InLayer::Upper) } else { lower }
        });
        Whereabouts { path: path_of(&node), layer }
    }
}

fn path_of<L: UpperLayer>(node: &Arc<Node<L>>) -> Option<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut node = node.clone();
    while node.id != NodeId::ROOT {
        let (parent, name) = {
            let state = node.state.try_read()?;
            let place = state.place()?;
            (place.parent.clone(), place.name.to_vec())
        };
        names.push(name);
        node = parent;
        if names.len() > DEPTH {
            return None;
        }
    }
    let path: Vec<u8> = names.iter().rev().flat_map(|name| [b"/", &**name].concat()).collect();
    Some(if path.is_empty() { b"/".to_vec() } else { path })
}
