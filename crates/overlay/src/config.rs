//! What an overlay is made of and which rules it follows.

use acetate_layer::mark::Dialect;
use acetate_layer::work::WhiteoutForm;

/// The layers of an overlay.
#[derive(Debug)]
pub struct Stack<L> {
    /// The writable layer, if there is one.
    pub upper: Option<L>,
    /// The read-only layers, topmost first.
    pub lowers: Vec<L>,
    /// Data-only layers: nothing but data of metadata-only copies is looked for in them.
    pub data: Vec<L>,
}

/// What is done with redirects (`redirect_dir`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirects {
    /// They are followed, and made when a directory with lower parts is renamed (`on`).
    Make,
    /// Those that layers hold are followed (`follow`, the kernel's default).
    Follow,
    /// Meeting one is an error (`nofollow`).
    Refuse,
}

/// Which copies are found by the lower object they come from (`index`, `nfs_export`). The index directory is then the
/// staging directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// None: the copy of one of several hard links is a new file.
    Nothing,
    /// Those of files with several names (`index=on`).
    Links,
    /// All, directories included (`nfs_export=on`).
    All,
}

/// What is made durable before it is published (`fsync`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The data of copies (`auto`).
    Data,
    /// Copies with their attributes, directories too (`strict`).
    All,
    /// Nothing, not even on request (`volatile`).
    Nothing,
}

/// What is asked of the data below metadata-only copies (`verity`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verity {
    /// Nothing.
    Off,
    /// Where a digest is recorded, the data has it, by fs-verity. Copies record it where there is one.
    On,
    /// A digest is recorded, and the data has it. What has none is copied whole.
    Require,
}

/// The rules of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which private attributes are read and written.
    pub dialect: Dialect,
    /// How whiteouts are made.
    pub whiteouts: WhiteoutForm,
    /// Private attributes can be stored in upper. Without them there is no origin or impure mark.
    pub marks_storable: bool,
    /// Opaque marks can be stored in upper, be it as attributes or otherwise.
    pub opaque_storable: bool,
    /// What is done with redirects.
    pub redirects: Redirects,
    /// A change of attributes copies only these, and such copies are followed (`metacopy`). Needs
    /// [`Redirects::Make`] to rename them.
    pub metacopy: bool,
    /// What is asked of the data below metadata-only copies.
    pub verity: Verity,
    /// Marks of lower layers are followed. Not so where everybody could have set them: meeting a redirect or a
    /// metadata-only copy below is then an error.
    pub follows_below: bool,
    /// The longest redirect from the root, in bytes (the kernel's parameter `redirect_max`).
    pub redirect_max: usize,
    /// Which copies are indexed.
    pub index: Index,
    /// File handles can be opened (`CAP_DAC_READ_SEARCH`). Else a copy is found by the handle of its lower file only, and
    /// what has to be known of that one is recorded with the copy; there is no [`Index::All`] then.
    pub handles_open: bool,
    /// Files can be opened whatever their modes say (`CAP_DAC_OVERRIDE`). Else what is open stays open: what could not be opened
    /// again is opened before a mode forbids it.
    pub overrides_modes: bool,
    /// Stored file handles hold the UUID of their filesystem (not so with `uuid=off`).
    pub uuid_in_handles: bool,
    /// What is made durable.
    pub durability: Durability,
    /// Lower layers may be changed while they are mounted (`lower=revalidate`): what is known of a name is looked at again
    /// each time the name is looked up.
    pub lower_changes: bool,
    /// Lower layers may be changed while nothing is mounted. Not so once an option needs to find lower objects again;
    /// new directories in merged ones are then marked opaque at once, which saves lookups.
    pub offline_changes: bool,
    /// Inode numbers have 32 bits (`ino32_t`): what differs in the others only has the same one.
    pub narrow_numbers: bool,
    /// No operation changes anything, although there is an upper layer.
    pub read_only: bool,
    /// Device and inode numbers of further directories that may not be reached as children: the work directory.
    pub trapped: Vec<(u64, u64)>,
}

impl Config {
    /// Whether redirects that layers hold are followed.
    pub(crate) fn follows_redirects(&self) -> bool {
        self.redirects != Redirects::Refuse
    }
}

impl Default for Config {
    /// The defaults of a current kernel for a privileged mounter.
    fn default() -> Self {
        Config {
            dialect: Dialect::Trusted,
            whiteouts: WhiteoutForm::Device,
            marks_storable: true,
            opaque_storable: true,
            redirects: Redirects::Follow,
            metacopy: false,
            verity: Verity::Off,
            follows_below: true,
            redirect_max: 256,
            index: Index::Nothing,
            handles_open: true,
            overrides_modes: true,
            uuid_in_handles: true,
            durability: Durability::Data,
            lower_changes: false,
            offline_changes: true,
            narrow_numbers: false,
            read_only: false,
            trapped: Vec::new(),
        }
    }
}
