//! What a write to a path would copy.

use acetate_layer::Kind;

use crate::node::Node;
use crate::view::View;
use crate::{Result, joined};

/// One object that is copied to upper before a path can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its path in the stack.
    pub path: Vec<u8>,
    /// Its type.
    pub kind: Kind,
    /// Bytes of data: the length of a file, holes included; 0 for all else.
    pub bytes: u64,
    /// Bytes that the data takes on disk, which is what a copy reads and writes.
    pub allocated: u64,
}

/// A path of a stack in all layers, and all the directories above it.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The path itself.
    pub node: Node,
    /// What the first write copies: directories from the root on, then the object. Nothing if the path shows nothing, or
    /// there is no upper layer.
    pub copies: Vec<Copied>,
}

/// Looks a path up and finds what its first write costs.
///
/// # Errors
/// A layer that cannot be read.
pub fn explain(view: View<'_>, path: &[u8]) -> Result<Explained> {
    let mut node = view.root()?;
    let mut at = Vec::new();
    let mut copies = Vec::new();
    let writable = view.stack().has_upper() && view.top() == 0;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        node = view.lookup(&node, name)?;
        at = joined(&at, name);
        if writable {
            copies.extend(cost(&at, &node));
        }
    }
    if node.winner().is_none() {
        copies.clear();
    }
    Ok(Explained { node, copies })
}

/// What a write copies of one object, the directories above left out.
fn cost(path: &[u8], node: &Node) -> Option<Copied> {
    let (_, winner) = node.winner()?;
    let data = match (node.part(0), winner.stat.kind) {
        (Some(upper), _) if !upper.metacopy => return None,
        (_, Kind::File) => node.data().map(|(_, object)| &object.stat),
        _ => None,
    };
    Some(Copied {
        path: path.to_vec(),
        kind: winner.stat.kind,
        bytes: data.map_or(0, |_| winner.stat.size),
        allocated: data.map_or(0, |stat| stat.blocks.saturating_mul(512)),
    })
}
