//! `acetate snapshotter`.

use crate::Exit;
use crate::daemon::notify;
use crate::error::Failure;
use crate::out::{note, shown};
use crate::store::StoreArgs;
use acetate_snapshotter::{How, Listener, Service};
use acetate_store::snapshots::Snapshots;
use std::path::PathBuf;

/// Serve containerd as a snapshotter
///
/// In containerd's config.toml:
/// `[proxy_plugins.acetate] type = "snapshot" address = "/run/acetate/snapshotter.sock"`. Images that the store has are
/// not unpacked again. Mounts belong to their containers: they stay when this ends. docs/containerd.md has the units.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotterArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The socket to listen on
    #[arg(long, value_name = "PATH", default_value = "/run/acetate/snapshotter.sock")]
    socket: PathBuf,
    /// Who mounts overlays: the kernel, or acetate itself (containerd then needs mount.fuse3 on its PATH)
    #[arg(long, value_name = "DRIVER", default_value = "kernel")]
    driver: Driver,
}

/// Who mounts overlays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Driver {
    Kernel,
    Fuse,
}

pub(crate) fn run(args: &SnapshotterArgs) -> Result<Exit, Failure> {
    let snapshots = Snapshots::open(args.store.open()?)?;
    let how = match args.driver {
        Driver::Kernel => How::Kernel,
        Driver::Fuse => {
            let program =
                std::env::current_exe().map_err(|error| Failure::io("find the running program", &error))?;
            How::Fuse(program)
        }
    };
    snapshots.clean_up()?;
    let failed = |error| Failure::new(error, "name another socket: --socket PATH");
    let listener = Listener::bind(&args.socket).map_err(failed)?;
    let status = format!("{}: a snapshotter of {}", shown(&args.socket), shown(snapshots.store().root()));
    note(&status);
    notify::ready(&status);
    listener.serve(Service::new(snapshots, how)).map_err(failed)?;
    Ok(Exit::Done)
}
