//! Redirects: an object that goes on in the layers below is found there after it was renamed or linked.
//!
//! Within its directory the old name does; elsewhere it takes the path from the root of the layers below, in which each
//! ancestor counts with its own redirect, if it has one (the kernel's `ovl_set_redirect`). A redirect that is there
//! stays, even if the object comes back to where it was. It is set before the rename: until then it leads to where the
//! object is anyway.

use crate::Overlay;
use crate::error::{OpError, Result};
use crate::node::Node;
use acetate_layer::mark::{Mark, Redirect};
use acetate_layer::{SetXattr, UpperLayer};
use std::sync::Arc;

/// Where an object is going to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goes {
    /// To another name in the same directory.
    Aside,
    /// To another directory.
    Away,
}

impl<L: UpperLayer> Overlay<L> {
    /// Sets the redirect of an object in upper that is `name` in `parent` now.
    ///
    /// # Errors
    /// [`OpError::CrossesLayers`] if it is too long or cannot be stored.
    pub(crate) fn set_redirect(
        &self,
        node: &Node<L>,
        parent: &Arc<Node<L>>,
        name: &[u8],
        goes: Goes,
    ) -> Result<()> {
        let known = node.state.read().redirect().cloned();
        let redirect = match (known, goes) {
            (Some(Redirect::Absolute(_)), _) | (Some(_), Goes::Aside) => return Ok(()),
            (None, Goes::Aside) => Redirect::Relative(name.to_vec()),
            (Some(Redirect::Relative(own)), Goes::Away) => path_below(parent, own),
            (None, Goes::Away) => path_below(parent, name.to_vec()),
        };
        let value = redirect.encode();
        if matches!(redirect, Redirect::Absolute(_)) && value.len() > self.config.redirect_max {
            return Err(OpError::CrossesLayers);
        }
        let mut state = node.state.write();
        let at = state.in_upper()?;
        let mark = self.config.dialect.name(Mark::Redirect);
        // Whoever moves files falls back to copying them, as on any filesystem that cannot.
        self.upper()?.set_xattr(at, mark, &value, SetXattr::Any).map_err(|_| OpError::CrossesLayers)?;
        state.set_redirect(Some(redirect));
        Ok(())
    }
}

/// The path of `name` in a directory as the layers below know it.
fn path_below<L: UpperLayer>(dir: &Arc<Node<L>>, name: Vec<u8>) -> Redirect {
    let mut reversed = vec![name];
    let mut current = Some(dir.clone());
    while let Some(dir) = current.take() {
        let state = dir.state.read();
        match (state.redirect(), state.place()) {
            (Some(Redirect::Absolute(path)), _) => reversed.extend(path.iter().rev().cloned()),
            (redirect, Some(place)) => {
                reversed.push(match redirect {
                    Some(Redirect::Relative(name)) => name.clone(),
                    _ => place.name.to_vec(),
                });
                current = Some(place.parent.clone());
            }
            (_, None) => {}
        }
    }
    reversed.reverse();
    Redirect::Absolute(reversed)
}
