//! Signals: the daemon ends with its mount, and takes the mount with it.

use super::identity::Identity;
use super::unmount::{Unmount, unmount};
use crate::error::Failure;
use crate::out::{cause, note, shown, warn};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The signals that end a mount.
const ENDING: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];
/// Signals to a server that has a holder are one if they come within this time.
const TOGETHER: Duration = Duration::from_secs(1);

/// Keeps the signals back until [`listen`]: one that ended the process between mounting and that would leave a mount
/// that nobody serves.
///
/// # Errors
/// If signals cannot be blocked.
pub(super) fn hold() -> Result<(), Failure> {
    acetate_sys::signal::Signals::of(&ENDING)
        .and_then(|set| set.block())
        .map_err(|errno| Failure::errno("hold signals back", errno))
}

/// Starts to listen: the first signal unmounts. If the mount is in use it leaves the tree and is served until its last
/// user has gone; another signal ends it at once. `identity` is that of the mount. `held`: what is sent to all
/// processes of the mount comes twice, once from the holder, and is one signal.
///
/// # Errors
/// If handlers cannot be set.
pub(super) fn listen(point: PathBuf, identity: Option<Identity>, held: bool) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io("listen for signals", &error);
    let mut signals = Signals::new(ENDING).map_err(failed)?;
    // Held back until now, if not by us then by whoever started this.
    acetate_sys::signal::Signals::of(&ENDING)
        .and_then(|set| set.unblock())
        .map_err(|errno| Failure::errno("listen for signals", errno))?;
    let watch = move || {
        let mut asked: Option<Instant> = None;
        for signal in signals.forever() {
            match asked {
                Some(first) if held && first.elapsed() < TOGETHER => continue,
                Some(_) => std::process::exit(128 + signal),
                None => asked = Some(Instant::now()),
            }
            // It may have been detached, and somebody else may have mounted something there since.
            if Identity::at(&point) == identity {
                end(&point);
            }
        }
    };
    std::thread::Builder::new().name("acetate-signal".into()).spawn(watch).map_err(failed)?;
    Ok(())
}

fn end(point: &PathBuf) {
    match unmount(point, Unmount::WhenIdle) {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(Errno::BUSY) => {
            note(format_args!(
                "{}: in use: it ends with its last user, or with another signal",
                shown(point)
            ));
            if let Err(errno) = unmount(point, Unmount::Detach) {
                warn(format_args!("{}: cannot be unmounted: {}", shown(point), cause(errno)));
            }
        }
        Err(errno) => warn(format_args!("{}: cannot be unmounted: {}", shown(point), cause(errno))),
    }
}
