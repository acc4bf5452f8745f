//! `acetate workspace create`.

use crate::Exit;
use crate::cmd::image::warn_of;
use crate::error::Failure;
use crate::out::{answer_line, shown, warn};
use crate::workspace::release;
use acetate_store::driver::{DriverName, choose, probe};
use acetate_store::{Base, Store};
use std::path::PathBuf;

/// Make a workspace
///
/// Nothing is copied with the drivers kernel, fuse and btrfs: it takes milliseconds and a few KiB, whatever the size of
/// what it stands on.
///
/// Exit status: 0 made, 2 failed.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("base").required(true))]
pub(crate) struct CreateArgs {
    /// What to call it
    name: String,
    /// Stand on an image
    #[arg(long, value_name = "IMAGE", group = "base")]
    image: Option<String>,
    /// Stand on a directory, which must not be changed as long as the workspace exists
    #[arg(long, value_name = "DIR", group = "base")]
    dir: Option<PathBuf>,
    /// Branch off another workspace as it is now; both go on from there
    #[arg(long, value_name = "WORKSPACE", group = "base")]
    from: Option<String>,
    /// How to show it: kernel, fuse, btrfs, reflink or copy [default: the first that works here]
    #[arg(long, value_name = "DRIVER")]
    driver: Option<DriverName>,
}

pub(super) fn run(store: &Store, args: &CreateArgs) -> Result<Exit, Failure> {
    let base = match (&args.image, &args.dir, &args.from) {
        (Some(image), _, _) => Base::Image(image.clone()),
        (_, Some(dir), _) => Base::Dir(dir.clone()),
        (_, _, Some(from)) => Base::Workspace(from.clone()),
        (None, None, None) => {
            return Err(Failure::new("no base", "name one with --image, --dir or --from").usage());
        }
    };
    warn_of(store.pressure()?.as_ref());
    if let Base::Workspace(from) = &base {
        release(store, from)?;
    }
    let driver = match (args.driver, &base) {
        (Some(driver), _) => driver,
        (None, Base::Workspace(from)) => store.workspace(from)?.driver,
        (None, _) => default_driver(store)?,
    };
    let workspace = store.create_workspace(&args.name, &base, driver)?;
    if let Base::Dir(dir) = &base
        && dir.join(".git").exists()
    {
        warn(format_args!("{}: changes below it while the workspace exists show through", shown(dir)));
    }
    answer_line(format_args!("{} (driver {})", workspace.name, workspace.driver))?;
    Ok(Exit::Done)
}

/// The driver that is chosen where nobody says another: `kernel` and `fuse` share one format, so that either can show
/// what the other has made.
fn default_driver(store: &Store) -> Result<DriverName, Failure> {
    let verdicts =
        probe(store.root()).map_err(|error| Failure::new(crate::store::chain(&error), error.hint()))?;
    choose(&verdicts).ok_or_else(|| {
        Failure::new(
            format_args!("{}: no driver works here", shown(store.root())),
            "`acetate driver DIR` tells why",
        )
    })
}
