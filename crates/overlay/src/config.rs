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
}

/// The rules of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which private attributes are read and written.
    pub dialect: Dialect,
    /// How whiteouts are made.
    pub whiteouts: WhiteoutForm,
    /// Private attributes can be stored in upper. Without them there is no origin, impure or opaque mark.
    pub marks_storable: bool,
    /// Redirects in layers are followed (`redirect_dir=follow`, the kernel's default); else meeting one is an error.
    pub follow_redirects: bool,
    /// No operation changes anything, although there is an upper layer.
    pub read_only: bool,
    /// Device and inode numbers of further directories that may not be reached as children: the work directory.
    pub trapped: Vec<(u64, u64)>,
}

impl Default for Config {
    /// The defaults of a current kernel for a privileged mounter.
    fn default() -> Self {
        Config {
            dialect: Dialect::Trusted,
            whiteouts: WhiteoutForm::Device,
            marks_storable: true,
            follow_redirects: true,
            read_only: false,
            trapped: Vec::new(),
        }
    }
}
