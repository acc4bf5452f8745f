//! `acetate workspace run`.

use crate::Exit;
use crate::error::{Class, Failure};
use crate::run::{self, Net, Runtime, Wish, hold_signals, job};
use crate::workspace::Used;
use acetate_store::Store;
use std::ffi::OsString;
use std::path::PathBuf;

/// Run a command in a workspace
///
/// The workspace is the root of the command, with namespaces of its own for processes, mounts, host name and IPC. It is
/// mounted as long as commands run in it. Environment, user, directory, entrypoint and command are the image's, unless
/// said otherwise.
///
/// Exit status: the command's; 128 and the number of the signal that ended it; 127 if there is no such command, 126 if it
/// cannot be executed, 125 if nothing could be run.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Which one
    name: String,
    /// The command with its arguments, after the image's entrypoint [default: the image's, or sh]
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
    /// As whom, by name or number [default: the image's, or root]
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Where [default: the image's, or /]
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Set a variable, or take it from here; repeat for more
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// What comes before the command, in place of the image's entrypoint; empty for nothing
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Which network the command has
    #[arg(long, value_enum, default_value_t)]
    net: Net,
    /// Who makes the command's namespaces and mounts
    #[arg(long, value_enum, default_value_t)]
    runtime: Runtime,
}

pub(super) fn run(store: &Store, args: RunArgs) -> Result<Exit, Failure> {
    inside(store, args).map(Exit::Status).map_err(|failure| Failure { class: Class::NotRun, ..failure })
}

fn inside(store: &Store, args: RunArgs) -> Result<u8, Failure> {
    let signals = hold_signals()?;
    let used = Used::begin(store, &args.name)?;
    let image = used.workspace().image().map(|id| store.image(&id.to_string())).transpose()?;
    let wish = Wish {
        words: args.command,
        entrypoint: args.entrypoint,
        user: args.user,
        workdir: args.workdir,
        env: args.env,
        net: args.net,
    };
    let config = image.as_ref().map(|image| image.config.as_slice());
    let result =
        job(used.path(), &args.name, config, wish).and_then(|job| run::run(&job, args.runtime, &signals));
    let ended = used.end();
    let code = result?;
    if let Err(failure) = ended {
        // The command has its result; what is left mounted is used by the next one.
        crate::out::warn(failure.message);
    }
    Ok(code)
}
