//! `acetate check`.

mod layers;
mod store;

use crate::Exit;
use crate::error::{Convention, Failure};
use crate::layers::LayerArgs;
use std::path::PathBuf;

/// Find what is wrong with an upper layer or a store, and mend it
///
/// Changes nothing without --repair. Of an upper layer: broken and duplicate redirects, whiteouts that hide nothing,
/// stale origins and index entries, metacopy files without data, missing impure marks, leftovers in the work directory,
/// changed lower layers, and marks of other programs.
///
/// Exit status, of an upper layer as fsck(8) has it: 0 all is well, 1 all was mended, 4 something is wrong still, 8
/// failed, 2 wrong usage. Of a store: 0 all is well, or is again; 1 something is wrong; 2 failed.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").args(["store", "upper"]).required(true)))]
pub(crate) struct CheckArgs {
    /// Check a store [default: $ACETATE_STORE, /var/lib/acetate, or ~/.local/share/acetate for ordinary users]
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with_all = ["lower", "work", "userxattr"])]
    store: Option<Option<PathBuf>>,
    #[command(flatten)]
    layers: LayerArgs,
    /// The work directory of the upper layer
    #[arg(long, value_name = "DIR", requires = "upper")]
    work: Option<PathBuf>,
    /// Also read every byte of every layer of a store and compare its digest
    #[arg(long, requires = "store")]
    full: bool,
    /// Mend what can be mended; of an upper layer, ask before each
    #[arg(long)]
    repair: bool,
    /// Mend without asking
    #[arg(long, requires = "repair")]
    yes: bool,
    /// Print one JSON document (schemas acetate-check-v1 and acetate-check-layers-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    if let Some(store) = &args.store {
        return store::run(store.clone(), args);
    }
    // fsck(8): "operational error".
    layers::run(args).or_else(|failure| {
        failure.report(Convention::Command);
        Ok(Exit::Status(8))
    })
}
