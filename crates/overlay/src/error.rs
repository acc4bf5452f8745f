//! Why an operation failed, and the one place that turns it into an errno.

use acetate_layer::Errno;

/// Why an operation failed. One variant per cause that a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// No such name, or no such node any more.
    #[error("no such entry")]
    NotFound,
    /// The kernel named a node or handle that it has been told to forget.
    #[error("unknown node or handle")]
    Stale,
    /// The name is taken.
    #[error("the name exists")]
    Exists,
    /// A directory is needed.
    #[error("not a directory")]
    NotDir,
    /// Anything but a directory is needed.
    #[error("is a directory")]
    IsDir,
    /// The directory still shows entries.
    #[error("directory not empty")]
    NotEmpty,
    /// There is no writable layer.
    #[error("no writable layer")]
    ReadOnly,
    /// The operation is never allowed on this object (append-only, immutable, whiteout device).
    #[error("not permitted")]
    NotPermitted,
    /// The program is running.
    #[error("the file is being executed")]
    Executed,
    /// A directory that has lower parts cannot be renamed without redirects (overlayfs.rst, "redirect_dir").
    #[error("a merged directory cannot be renamed")]
    CrossesLayers,
    /// The arguments make no sense together.
    #[error("invalid argument")]
    Invalid,
    /// The name is longer than any layer can hold.
    #[error("name too long")]
    NameTooLong,
    /// The object is the root of a layer or of the work directory, reached as a child.
    #[error("a layer lies within another")]
    LayerLoop,
    /// A mark in a layer needs a feature that this mount does not follow.
    #[error("a redirect or metacopy mark may not be followed")]
    MarkRefused,
    /// A mark in a layer cannot be understood or leads nowhere.
    #[error("a mark in a layer is broken: {what}")]
    BrokenMark {
        /// What is wrong with it.
        what: &'static str,
        /// What the kernel's overlayfs answers.
        errno: Errno,
    },
    /// A layer failed.
    #[error("{step}: {errno}")]
    Layer {
        /// What was being done.
        step: &'static str,
        /// The filesystem's answer.
        errno: Errno,
    },
}

impl OpError {
    /// Whether somebody should look at the layers: they are damaged, or were made by someone who means harm.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::BrokenMark { .. } | Self::MarkRefused | Self::LayerLoop => true,
            Self::Layer { errno, .. } => matches!(*errno, Errno::IO | Errno::UCLEAN | Errno::BADMSG),
            _ => false,
        }
    }

    /// The errno that the caller sees; decided nowhere else.
    pub fn errno(&self) -> Errno {
        match self {
            Self::NotFound => Errno::NOENT,
            Self::Stale => Errno::STALE,
            Self::Exists => Errno::EXIST,
            Self::NotDir => Errno::NOTDIR,
            Self::IsDir => Errno::ISDIR,
            Self::NotEmpty => Errno::NOTEMPTY,
            Self::ReadOnly => Errno::ROFS,
            Self::NotPermitted => Errno::PERM,
            Self::Executed => Errno::TXTBSY,
            Self::CrossesLayers => Errno::XDEV,
            Self::Invalid => Errno::INVAL,
            Self::NameTooLong => Errno::NAMETOOLONG,
            Self::LayerLoop => Errno::LOOP,
            Self::MarkRefused => Errno::PERM,
            Self::BrokenMark { errno, .. } | Self::Layer { errno, .. } => *errno,
        }
    }
}

/// What operations return.
pub type Result<T> = std::result::Result<T, OpError>;

/// Adds to a layer's errno what was being done.
pub(crate) trait Step<T> {
    /// Names the step that failed.
    fn step(self, step: &'static str) -> Result<T>;
}

impl<T> Step<T> for acetate_layer::Result<T> {
    fn step(self, step: &'static str) -> Result<T> {
        self.map_err(|errno| OpError::Layer { step, errno })
    }
}
