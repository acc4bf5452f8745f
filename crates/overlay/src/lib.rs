//! The semantics of an overlay: merge, copy-up and one file an operation.
//!
//! The engine works over any [`UpperLayer`]: directories or memory. It knows no FUSE, no system calls and no paths.
//! Every operation checks, plans, acts once and records; locks and their order are described in [`node`].

mod children;
mod config;
mod copyup;
mod error;
mod handle;
mod index;
mod inode;
mod ledger;
mod listing;
mod merge;
mod metacopy;
mod name;
mod node;
mod op;
mod order;
mod origin;
mod protect;
mod redirect;
mod renew;
mod state;
mod table;
mod takeover;
mod types;
mod whereabouts;

pub use acetate_layer::work::WhiteoutForm;
pub use config::{Config, Durability, Index, Redirects, Stack, Verity};
pub use error::{OpError, Result};
pub use ledger::{Keeper, KeptFor, LEDGER_BYTES, Ledger, LedgerError, Memory, TRANSPORT_WORDS};
pub use takeover::{KeptFiles, KeptHandle, TakenOver};
pub use types::*;
pub use whereabouts::{InLayer, Whereabouts};

use acetate_layer::work::Staging;
use acetate_layer::{At, Counted, FsId, Kind, Layer, Tally, UpperLayer};
use error::Step;
use node::{Lower, Node, Real};
use order::{Mutex, rank};
use state::State;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A mounted overlay. All methods may be called from any number of threads.
pub struct Overlay<L: UpperLayer> {
    upper: Option<L>,
    /// The read-only layers, then the data-only ones.
    lowers: Vec<L>,
    /// How many of the lower layers are no data-only ones.
    regular: usize,
    config: Config,
    /// The UUIDs of the filesystems of the regular lower layers, where they are needed to find a layer.
    lower_uuids: Vec<[u8; 16]>,
    inodes: inode::Numbering,
    staging: Staging,
    /// Device and inode numbers of layer roots and work directories: reaching one as a child is an error.
    traps: HashSet<(u64, u64)>,
    nodes: table::NodeTable<L>,
    handles: table::HandleTable<L>,
    /// Open lower files, where lower layers may change.
    kept: renew::Kept<L>,
    /// Longest name that any layer can hold, in bytes.
    namelen: usize,
    /// Held by renames between directories, so that ancestry does not change under them.
    renaming: Mutex<(), { rank::RENAMING }>,
    /// Names that were known when they were looked up.
    known_names: Tally,
    /// Listings that were at hand when they were asked for.
    known_listings: Tally,
    /// A volatile mount has lost data that was to be written in the background.
    lost_data: AtomicBool,
    changed: Box<dyn Fn(NodeId, Changed) + Send + Sync>,
    given_up: Box<dyn Fn() -> bool + Send + Sync>,
    /// What the next server will have to know, where there is to be one.
    ledger: Option<Arc<Ledger>>,
}

impl<L: UpperLayer> Overlay<L> {
    /// Puts layers over one another.
    ///
    /// `changed` is called when an operation changes attributes of a node other than those it was asked to change, or
    /// the listing of a directory other than by the names that it was asked to add or remove;
    /// it may be called with locks held and must not call back.
    ///
    /// # Errors
    /// [`OpError::Invalid`] without any layer; [`OpError::Stale`] for an index that belongs to other layers; a layer whose root cannot be read.
    pub fn new(
        stack: Stack<L>,
        config: Config,
        changed: Box<dyn Fn(NodeId, Changed) + Send + Sync>,
    ) -> Result<Overlay<L>> {
        let Stack { upper, mut lowers, mut data } = stack;
        let lower_ids: Vec<FsId> = lowers.iter().map(Layer::filesystem).collect();
        let regular = lowers.len();
        lowers.append(&mut data);
        let layers = || upper.iter().chain(&lowers);
        if layers().next().is_none() {
            return Err(OpError::Invalid);
        }
        let mut traps: HashSet<(u64, u64)> = config.trapped.iter().copied().collect();
        let mut namelen = 0;
        for layer in layers() {
            let stat = layer.stat(At::Dir(layer.root())).step("stat a layer's root")?;
            traps.insert((stat.dev, stat.ino));
            namelen = namelen.max(layer.statfs().step("statfs of a layer")?.namelen as usize);
        }
        let inodes =
            inode::Numbering::new(upper.as_ref().map(Layer::filesystem), &lower_ids, config.narrow_numbers);
        let lower_uuids = match config.handles_open {
            true => Vec::new(),
            false => lowers[..regular].iter().map(uuid_of).collect::<Result<_>>()?,
        };
        let mut overlay = Overlay {
            staging: Staging::new(config.dialect, config.whiteouts),
            nodes: table::NodeTable::new(),
            handles: table::HandleTable::new(),
            kept: renew::Kept::new(),
            upper,
            lowers,
            regular,
            config,
            lower_uuids,
            inodes,
            traps,
            namelen,
            renaming: Mutex::new(()),
            known_names: Tally::new(),
            known_listings: Tally::new(),
            lost_data: AtomicBool::new(false),
            changed,
            given_up: Box::new(|| false),
            ledger: None,
        };
        overlay.open_index()?;
        let root = overlay.root_node()?;
        overlay.nodes.set_root(root);
        Ok(overlay)
    }

    /// Lets long copies be given up: `given_up` is asked now and then, by the thread that carries an operation out,
    /// whether nobody waits for its result any more. The operation then fails with `EINTR` and leaves nothing behind.
    #[must_use]
    pub fn giving_up_when(self, given_up: impl Fn() -> bool + Send + Sync + 'static) -> Overlay<L> {
        Overlay { given_up: Box::new(given_up), ..self }
    }

    /// Copies the data of a lower file.
    pub(crate) fn copy_data(&self, upper: &L, from: &L::File, to: &L::File, size: u64) -> Result<()> {
        upper.copy_data(from, to, size, &|| !(self.given_up)()).step("copy the data")
    }

    fn root_node(&self) -> Result<Arc<Node<L>>> {
        let mut lowers = Vec::with_capacity(self.regular);
        let bottom = self.regular.saturating_sub(1);
        for (number, layer) in self.lowers[..self.regular].iter().enumerate() {
            // The mark matters only where something can lie below.
            let xattr_whiteouts =
                number != bottom && self.has_xattr_whiteouts(layer, At::Dir(layer.root()))?;
            lowers.push(Lower { layer: number, real: Real::Dir(layer.root().clone()), xattr_whiteouts });
        }
        let upper = self.upper.as_ref().map(|layer| Real::Dir(layer.root().clone()));
        let ino = match (&self.upper, self.lowers.first()) {
            (Some(layer), _) => self.inodes.upper(layer.stat(At::Dir(layer.root())).step("stat upper")?.ino),
            (None, Some(layer)) => {
                self.inodes.lower(0, layer.stat(At::Dir(layer.root())).step("stat a lower root")?.ino)
            }
            (None, None) => return Err(OpError::Invalid),
        };
        let mut state = State::new(ino);
        if let Some(real) = upper {
            state.set_upper(real);
        }
        state.set_lowers(lowers);
        if let (Some(layer), Some(at)) = (&self.upper, state.upper_at()) {
            state.set_prot(self.read_protection(layer, at, None)?);
        }
        Ok(Arc::new(Node::new(NodeId::ROOT, Kind::Dir, state)))
    }

    /// The writable layer.
    pub(crate) fn upper(&self) -> Result<&L> {
        if self.config.read_only {
            return Err(OpError::ReadOnly);
        }
        self.upper.as_ref().ok_or(OpError::ReadOnly)
    }

    /// The layer of an upper real object, also on a read-only mount.
    pub(crate) fn upper_layer(&self) -> Result<&L> {
        self.upper.as_ref().ok_or(OpError::ReadOnly)
    }

    /// The node of that id.
    pub(crate) fn node(&self, id: NodeId) -> Result<Arc<Node<L>>> {
        self.nodes.get(id).or_else(|| self.revive(id)).ok_or(OpError::Stale)
    }

    /// The node of that id, if it is a directory.
    pub(crate) fn dir(&self, id: NodeId) -> Result<Arc<Node<L>>> {
        let node = self.node(id)?;
        if node.kind == Kind::Dir { Ok(node) } else { Err(OpError::NotDir) }
    }

    /// Removes what is kept in the staging directory from one operation to the next. For the end of the mount.
    ///
    /// # Errors
    /// Those of the layer; what could not be removed is swept by the next mount.
    pub fn clear_staging(&self) -> Result<()> {
        match &self.upper {
            Some(upper) if !self.config.read_only => {
                self.staging.clear(upper).step("clear the staging directory")
            }
            _ => Ok(()),
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many nodes and open handles there are, and how often what was needed was known.
    pub fn counts(&self) -> Counts {
        Counts {
            nodes: self.nodes.len(),
            handles: self.handles.len(),
            names: self.known_names.counted(),
            listings: self.known_listings.counted(),
        }
    }
}

/// The UUID of a layer's filesystem; zeros if there is none.
fn uuid_of<L: Layer>(layer: &L) -> Result<[u8; 16]> {
    let handle = layer.handle(At::Dir(layer.root())).step("get the handle of a layer's root")?;
    Ok(handle.map(|handle| handle.uuid).unwrap_or_default())
}

/// Sizes of the engine's tables and what they are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Nodes that the kernel knows.
    pub nodes: usize,
    /// Open files.
    pub handles: usize,
    /// Names that were looked up: those whose nodes were known, and those that were looked for in the layers.
    pub names: Counted,
    /// Listings that were asked for: those at hand, and those that were read from the layers.
    pub listings: Counted,
}
