//! Attributes that no layer holds: which layers an object of the mount is made of.
//!
//! They can be read by those who know their names and are in no list, so nothing that copies attributes takes them along,
//! and nobody pays for them who does not ask.

use crate::Overlay;
use crate::error::Result;
use crate::node::Node;
use crate::state::State;
use acetate_layer::{Kind, UpperLayer};

/// What they tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// `user.acetate.layer`: the layer that gives the object its attributes.
    Layer,
    /// `user.acetate.layers`: all layers that are part of it, the topmost first.
    Layers,
    /// `user.acetate.data`: the layer that holds the data of a regular file.
    Data,
}

impl Told {
    /// What an attribute tells; `None` for all that are stored.
    pub(super) fn of(name: &[u8]) -> Option<Told> {
        match name {
            b"user.acetate.layer" => Some(Told::Layer),
            b"user.acetate.layers" => Some(Told::Layers),
            b"user.acetate.data" => Some(Told::Data),
            _ => None,
        }
    }
}

impl<L: UpperLayer> Overlay<L> {
    /// The value of such an attribute; `None` if the object has none.
    ///
    /// # Errors
    /// Those of finding the data in a data-only layer.
    pub(super) fn tell(&self, node: &Node<L>, told: Told) -> Result<Option<Vec<u8>>> {
        if told == Told::Data {
            if node.kind != Kind::File {
                return Ok(None);
            }
            let part = self.data_part(node)?;
            return Ok(Some(part.map_or("upper".into(), |lower| self.layer_name(lower.layer)).into_bytes()));
        }
        let mut names = self.part_names(&node.state.read());
        if told == Told::Layer {
            names.truncate(1);
        }
        Ok(Some(names.join(",").into_bytes()))
    }

    fn part_names(&self, state: &State<L>) -> Vec<String> {
        let upper = state.upper_at().into_iter().map(|_| "upper".to_owned());
        upper.chain(state.lowers().map(|lower| self.layer_name(lower.layer))).collect()
    }

    /// As `acetate explain` calls it.
    fn layer_name(&self, layer: usize) -> String {
        match layer.checked_sub(self.regular) {
            None => format!("lower {}", layer + 1),
            Some(data) => format!("data {}", data + 1),
        }
    }
}
