//! `acetate upgrade`.

use crate::Exit;
use crate::daemon::holder;
use crate::error::Failure;
use crate::mount::mount_point;
use crate::mountinfo;
use crate::out::shown;
use crate::record;
use rustix::io::Errno;
use std::path::PathBuf;

/// Replace the server of a mount that is in use
///
/// The mount has to be one that outlives its server (`-o takeover`). Programs that use it go on: the next server takes over all that they
/// have open, and answers what the last one has not. If it does not come up, the program that served before does.
///
/// Exit status: 0 the new server serves, 2 error.
#[derive(Debug, clap::Args)]
pub(crate) struct UpgradeArgs {
    /// The acetate that is to serve from now on [default: this one]
    #[arg(long, value_name = "BINARY")]
    to: Option<PathBuf>,
    /// Where it is mounted
    #[arg(value_name = "MERGED")]
    target: PathBuf,
}

pub(crate) fn run(args: &UpgradeArgs) -> Result<Exit, Failure> {
    let failed = |path: &PathBuf, error: &std::io::Error| {
        Failure::path("find", path, Errno::from_io_error(error).unwrap_or(Errno::IO))
    };
    let program = match &args.to {
        Some(path) => std::fs::canonicalize(path).map_err(|error| failed(path, &error))?,
        None => std::env::current_exe().map_err(|error| Failure::io("find the running program", &error))?,
    };
    rustix::fs::access(&program, rustix::fs::Access::EXEC_OK)
        .map_err(|errno| Failure::path("new server", &program, errno).hint("name a program: --to BINARY"))?;
    let point = mount_point(&args.target).map_err(|error| failed(&args.target, &error))?;
    let mount = mountinfo::at(&point).map_err(|error| Failure::io("mount table", &error))?;
    let found = mount.filter(mountinfo::Mount::is_ours).and_then(|mount| record::find(mount.device));
    let Some(found) = found.filter(|found| found.record.holder.is_some()) else {
        return Err(Failure::new(
            format_args!(
                "{}: no mount that outlives its server (takeover=on) can be found there",
                shown(&point)
            ),
            "`acetate mounts` shows the holder of those that have one",
        ));
    };
    holder::ask(&found.holder_socket(), program.as_os_str())?;
    Ok(Exit::Done)
}
