//! Why the store cannot do something.

use crate::driver::DriverName;
use acetate_image::Digest;
use std::io;
use std::path::PathBuf;

/// Why the store cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step on a path failed.
    #[error("{step}: {path}: {source}", path = path.display())]
    Path {
        /// What was being done.
        step: &'static str,
        /// With which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The directory is no store, or one of another version.
    #[error("{path}: {reason}", path = path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A record cannot be understood.
    #[error("the record {path} is damaged: {reason}", path = path.display())]
    Record {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody else is working on the store.
    #[error("the store {path} is in use", path = path.display())]
    Busy {
        /// The store.
        path: PathBuf,
    },
    /// No image of that name or id.
    #[error("no image {0:?}")]
    NoImage(String),
    /// Several images' ids begin so.
    #[error("{prefix:?} means several images: {found}")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Their ids.
        found: String,
    },
    /// A name that cannot be given.
    #[error("{name:?} is no name for {what}: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What was to be named.
        what: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The image is what a workspace stands on.
    #[error("image {image} is in use by {users}")]
    InUse {
        /// The image.
        image: String,
        /// By whom.
        users: String,
    },
    /// A layer that should be there is not.
    #[error("layer {0} is missing")]
    NoLayer(Digest),
    /// The layers of an image do not fit its configuration.
    #[error("the image has {layers} layers, its configuration names {diff_ids}")]
    LayerCount {
        /// Layers that came.
        layers: usize,
        /// Layers that should.
        diff_ids: usize,
    },
    /// No workspace of that name.
    #[error("no workspace {0:?}")]
    NoWorkspace(String),
    /// The name is taken.
    #[error("there is a workspace {0:?}")]
    WorkspaceExists(String),
    /// The workspace is mounted, or a command runs in it.
    #[error("workspace {name:?} is in use: {reason}")]
    WorkspaceBusy {
        /// Its name.
        name: String,
        /// Who uses it.
        reason: String,
    },
    /// No try of that name.
    #[error("no try {0:?}")]
    NoTry(String),
    /// The name is taken.
    #[error("there is a try {0:?}")]
    TryExists(String),
    /// The try cannot be worked with at the moment.
    #[error("try {name:?}: {reason}")]
    TryBusy {
        /// Its name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A try changes nothing at a path.
    #[error("{path}: nothing is changed there{as_whole}", path = path.display(), as_whole = match whole {
        Some(whole) => format!(" by itself: {} is deleted or replaced as a whole", whole.display()),
        None => String::new(),
    })]
    NotChanged {
        /// The path.
        path: PathBuf,
        /// What it lies in that goes as a whole.
        whole: Option<PathBuf>,
    },
    /// Others have changed the same.
    #[error("try {name:?}: {count} of its paths were changed by others", count = conflicts.len())]
    TryConflict {
        /// Its name.
        name: String,
        /// The paths.
        conflicts: Vec<crate::tries::Conflict>,
    },
    /// No snapshot of that key.
    #[error("no snapshot {0:?}")]
    NoSnapshot(String),
    /// The key is taken, or the content is there.
    #[error("there is a snapshot {0:?}")]
    SnapshotExists(String),
    /// Only committed snapshots can be stood on.
    #[error("snapshot {0:?} is not committed, so nothing can stand on it")]
    SnapshotParent(String),
    /// The snapshot is of another kind.
    #[error("snapshot {key:?} is {kind}")]
    SnapshotKind {
        /// Its key.
        key: String,
        /// What it is.
        kind: &'static str,
    },
    /// Others stand on the snapshot.
    #[error("cannot remove snapshot {key:?}: {child:?} stands on it")]
    SnapshotInUse {
        /// Its key.
        key: String,
        /// One of them.
        child: String,
    },
    /// Something cannot be done with a driver.
    #[error("driver {driver}: {reason}")]
    Driver {
        /// Which one.
        driver: DriverName,
        /// Why not.
        reason: String,
    },
    /// The files of a workspace do not have the form that a driver shows.
    #[error(
        "workspace {name:?} cannot go from driver {from} to {to} as it is: its files have to be converted"
    )]
    Convert {
        /// Its name.
        name: String,
        /// Its driver.
        from: DriverName,
        /// The driver that was asked for.
        to: DriverName,
    },
    /// What concerns images themselves.
    #[error(transparent)]
    Image(#[from] acetate_image::Error),
    /// What concerns registries.
    #[error(transparent)]
    Registry(#[from] acetate_image::registry::Error),
    /// What concerns changes of an upper directory.
    #[error(transparent)]
    Changes(#[from] crate::changes::Error),
    /// What concerns drivers.
    #[error(transparent)]
    Drivers(#[from] crate::driver::Error),
}

impl Error {
    /// What can be done about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Path { .. } | Error::Image(_) if is_full(self) => {
                "`acetate image gc` frees what nothing uses; `acetate image df` shows what does"
            }
            Error::Path { step: "export to", .. } => "name a file or directory in a directory that is there",
            Error::Image(acetate_image::Error::Malformed(_)) => {
                "it has to be a docker archive, an OCI layout, an archive of a root directory, or a directory"
            }
            Error::Busy { .. } => "wait until the other command is done, and run it again",
            Error::NoImage(_) => "`acetate image list` shows what there is, `acetate image pull` gets more",
            Error::Ambiguous { .. } => "write more of the id",
            Error::NoWorkspace(_) => "`acetate workspace list` shows what there is",
            Error::WorkspaceExists(_) => "choose another name, or remove it: `acetate workspace remove NAME`",
            Error::WorkspaceBusy { .. } => {
                "end what runs in it, and unmount it: `acetate workspace umount NAME`"
            }
            Error::Convert { name, to, .. } => {
                return Some(format!(
                    "make an image of it, and a workspace of that: acetate workspace commit {name} NEW-IMAGE && \
                     acetate workspace create NEW-NAME --image NEW-IMAGE --driver {to}"
                ));
            }
            Error::NoTry(_) => "`acetate try list` shows what there is",
            Error::TryExists(_) => "choose another name, or discard it: `acetate try discard NAME`",
            Error::TryBusy { reason, .. } if reason.contains("interrupted") => {
                "go on with `acetate try resume NAME`, or go back with `acetate try undo NAME`"
            }
            Error::TryBusy { .. } => "wait until it is done",
            Error::NotChanged { .. } => "`acetate try show NAME` lists what is changed",
            Error::InUse { .. } => {
                "remove the workspaces first, or only its name: `acetate image remove --untag`"
            }
            Error::NoLayer(_) => {
                "import or pull the image again; `acetate check --store` shows what else is missing"
            }
            Error::Record { .. } => "`acetate check --store --repair` moves damaged records out of the way",
            Error::Drivers(error) => error.hint(),
            Error::Registry(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Whether the cause of an error is that the disk is full.
fn is_full(error: &Error) -> bool {
    if let Error::Image(acetate_image::Error::Entry { errno, .. }) = error {
        return *errno == acetate_sys::Errno::NOSPC;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::StorageFull) {
            return true;
        }
        cause = error.source();
    }
    false
}

macro_rules! from_drivers {
    ($($error:ty),*) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Error {
                Error::Drivers(error.into())
            }
        })*
    };
}

from_drivers!(
    crate::driver::tree::TreeError,
    crate::driver::btrfs::BtrfsError,
    crate::driver::ProbeError,
    crate::driver::kernel::MountError
);

/// What the store's operations return.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds a path and the step to an error of the system.
pub(crate) trait Step<T> {
    fn step(self, step: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Step<T> for std::result::Result<T, E> {
    fn step(self, step: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|error| Error::Path { step, path: path.into(), source: error.into() })
    }
}
