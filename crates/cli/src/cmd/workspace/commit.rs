//! `acetate workspace commit`.

use crate::Exit;
use crate::error::Failure;
use crate::out::answer_line;
use crate::workspace::release;
use acetate_store::{Edit, Store};

/// Make an image of a workspace, whose changes become its topmost layer
///
/// The workspace then stands on the new image, without changes of its own. Prints the image's id.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct CommitArgs {
    /// Which one
    name: String,
    /// What to call the image
    image: Option<String>,
    /// What the image runs: the words of a command
    #[arg(long, value_name = "WORD", num_args = 1..)]
    cmd: Option<Vec<String>>,
    /// What comes before the command
    #[arg(long, value_name = "WORD", num_args = 1..)]
    entrypoint: Option<Vec<String>>,
    /// Add a variable to the environment; repeat for more
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Where the image's command runs
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// As whom the image's command runs
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// What to write into the image's history
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
    /// Who made it
    #[arg(long, value_name = "TEXT")]
    author: Option<String>,
}

pub(super) fn run(store: &Store, args: &CommitArgs) -> Result<Exit, Failure> {
    let edit = Edit {
        command: args.cmd.clone(),
        entrypoint: args.entrypoint.clone(),
        env: args.env.clone(),
        workdir: args.workdir.clone(),
        user: args.user.clone(),
        message: args.message.clone(),
        author: args.author.clone(),
    };
    release(store, &args.name)?;
    let id = store.commit_workspace(&args.name, args.image.as_deref(), &edit)?;
    answer_line(id)?;
    Ok(Exit::Done)
}
