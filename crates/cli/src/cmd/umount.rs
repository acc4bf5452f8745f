//! `acetate umount`.

use crate::Exit;
use crate::daemon::unmount::{Unmount, unmount};
use crate::error::Failure;
use crate::mount::mount_point;
use crate::mountinfo;
use crate::out::{shown, warn};
use crate::record;
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::Duration;

/// How long to wait for a daemon to let go of its layers.
const LETTING_GO: Duration = Duration::from_secs(60);

/// How long to wait for one whose connection was ended: what it hangs at may hang for ever.
const ABORTED: Duration = Duration::from_secs(5);

/// Unmount an overlay and wait until its layers are free
///
/// Exit status: 0 unmounted, 2 error.
#[derive(Debug, clap::Args)]
pub(crate) struct UmountArgs {
    /// Take it out of the tree at once, even if it is in use; it ends with its last user
    #[arg(short, long)]
    lazy: bool,
    /// End it at once even if its daemon hangs: whoever waits for it gets an error (needs root)
    #[arg(long, conflicts_with = "lazy")]
    abort: bool,
    /// Where it is mounted
    #[arg(value_name = "MERGED")]
    target: PathBuf,
}

pub(crate) fn run(args: &UmountArgs) -> Result<Exit, Failure> {
    let point = mount_point(&args.target).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Failure::path("mount point", &args.target, errno).hint("name the directory that was mounted on")
    })?;
    let table = |error: std::io::Error| Failure::io("mount table", &error);
    let Some(mount) = mountinfo::at(&point).map_err(table)? else {
        return Err(Failure::new(
            format_args!("mount point: {}: nothing is mounted there", shown(&point)),
            "`acetate mounts` lists what is",
        ));
    };
    if !mount.is_ours() && !mount.is_kernels() {
        return Err(Failure::new(
            format_args!("mount point: {}: a mount of type {}", shown(&point), shown(&mount.fstype)),
            "this command ends overlays only; use umount(8)",
        ));
    }
    let daemon = record::find(mount.device);
    let how = match (args.abort, args.lazy) {
        (true, _) => Unmount::Abort,
        (false, true) => Unmount::Detach,
        (false, false) => Unmount::WhenIdle,
    };
    unmount(&point, how).map_err(|errno| {
        let failure = Failure::path("unmount", &point, errno);
        match errno {
            Errno::PERM if args.abort => failure.hint("only root may; end the daemon instead (kill -9)"),
            Errno::BUSY => failure.hint("close what uses it (fuser -vm shows who), or unmount with --lazy"),
            Errno::PERM => failure.hint("only who mounted it, or root, may unmount it"),
            _ => failure,
        }
    })?;
    if let Some(daemon) = daemon
        && !args.lazy
        && !daemon.wait_until_gone(if args.abort { ABORTED } else { LETTING_GO })
    {
        warn(format_args!("{}: unmounted, but its daemon has not let go of the layers yet", shown(&point)));
    }
    Ok(Exit::Done)
}
