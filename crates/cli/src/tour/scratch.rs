//! The directory that the tour takes place in, and its end.

use crate::daemon::unmount::{Unmount, unmount};
use crate::error::Failure;
use crate::mountinfo;
use crate::out::shown;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

/// A scratch directory; unmounted and removed on drop, and when a signal ends the tour.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

/// Holds a link to this program, so that commands find it by its name.
const PROGRAMS: &str = ".bin";

impl Scratch {
    /// Makes the directory.
    ///
    /// # Errors
    /// If the temporary directory cannot be written.
    pub(crate) fn make() -> Result<Scratch, Failure> {
        let parent = std::fs::canonicalize(std::env::temp_dir()).unwrap_or_else(|_| std::env::temp_dir());
        let path = parent.join(format!("acetate-tour-{}", std::process::id()));
        let failed = |error: std::io::Error| {
            Failure::io(format_args!("scratch directory: {}", shown(&path)), &error)
                .hint("set TMPDIR to a directory that can be written")
        };
        std::fs::DirBuilder::new().mode(0o755).create(&path).map_err(failed)?;
        let scratch = Scratch { path: path.clone() };
        let program = std::env::current_exe().map_err(failed)?;
        std::fs::create_dir(path.join(PROGRAMS)).map_err(failed)?;
        symlink(program, path.join(PROGRAMS).join("acetate")).map_err(failed)?;
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        let doomed = path.clone();
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                clear(&doomed);
                std::process::exit(128 + signal);
            }
        });
        Ok(scratch)
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory as text.
    pub(crate) fn shown(&self) -> String {
        shown(&self.path).to_string()
    }

    /// The directory in which commands find this program.
    pub(crate) fn programs(&self) -> PathBuf {
        self.path.join(PROGRAMS)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        clear(&self.path);
    }
}

/// Unmounts what is mounted below the directory and removes it, as far as possible.
fn clear(path: &Path) {
    for mount in mountinfo::mounts().unwrap_or_default().into_iter().rev() {
        if mount.point.starts_with(path) {
            let _as_far_as_possible = unmount(&mount.point, Unmount::Detach);
        }
    }
    if let Err(error) = std::fs::remove_dir_all(path) {
        crate::out::warn(format_args!("{}: cannot be removed: {error}", shown(path)));
    }
}
