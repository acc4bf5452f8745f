//! `acetate flatten`, `compact`, `merge` and `rebase`: what they share.

pub(crate) mod compact;
pub(crate) mod flatten;
pub(crate) mod merge;
pub(crate) mod rebase;
mod report;

use crate::error::Failure;
use crate::layers::{LayerArgs, Layers, user_of};
use crate::mount::{Locks, lock};
use crate::out::{note, shown};
use acetate_stack::change::{Found, Site};
use acetate_stack::{Stack, change};
use std::path::{Path, PathBuf};

/// An upper layer, what it lies over, and its work directory.
#[derive(Debug, clap::Args)]
pub(crate) struct UpperArgs {
    #[command(flatten)]
    layers: LayerArgs,
    /// The work directory of the upper layer; not needed for --dry-run
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    work: Option<PathBuf>,
    #[command(flatten)]
    form: FormArgs,
}

/// What is done and what is told.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct FormArgs {
    /// Tell what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document (schema acetate-change-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

/// Layers that the command line names, all of them.
struct Named {
    layers: Layers,
    upper: PathBuf,
}

impl UpperArgs {
    /// # Errors
    /// Without an upper layer, or without one below it.
    fn named(&self, command: &str) -> Result<Named, Failure> {
        let mut layers = self.layers.layers();
        let (Some(upper), false) = (layers.upper.clone(), layers.lowers.is_empty()) else {
            let hint = "name the layers, the topmost lower one first: --lower DIR --upper DIR";
            return Err(Failure::new(format_args!("{command}: a layer is missing"), hint).usage());
        };
        let upper = real(&upper)?;
        layers.upper = Some(upper.clone());
        Ok(Named { layers, upper })
    }
}

/// The path without symlinks.
fn real(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| {
        Failure::io(format_args!("layer: {}", shown(path)), &error).hint("name a directory that is there")
    })
}

/// An upper layer that is ours until this is dropped.
struct Held {
    site: Site,
    found: Found,
    _locks: Locks,
}

/// Takes an upper layer for itself: refuses while any mount uses it, and mends what a killed command has left.
fn hold(named: &Named, work: &Path) -> Result<Held, Failure> {
    let locks = lock(&named.upper, work)?;
    unused(&named.upper)?;
    let (site, found) = Site::open(&named.upper, work, named.layers.dialect)?;
    if found == Found::Exchanged {
        site.finish_exchange()?;
        note("what a killed `acetate rebase` had still to do is done");
    }
    Ok(Held { site, found, _locks: locks })
}

/// Refuses a layer that a mount shows, in whatever part.
fn unused(layer: &Path) -> Result<(), Failure> {
    match user_of(layer)? {
        None => Ok(()),
        Some(point) => Err(Failure::new(
            format_args!("{}: in use by the mount at {}", shown(layer), shown(&point)),
            "a layer must not change under a mount: unmount it first",
        )),
    }
}

/// Unfolds what can be unfolded; returns the steps.
fn flattened(named: &Named, site: &Site) -> Result<Vec<change::Step>, Failure> {
    let stack: Stack = named.layers.open()?;
    let steps = change::flatten::plan(&stack)?;
    site.run(&stack, &steps)?;
    if change::flatten::plan(&named.layers.open()?)?.is_empty() {
        site.declare_plain()?;
    }
    Ok(steps)
}
