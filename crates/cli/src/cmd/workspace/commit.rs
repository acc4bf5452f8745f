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
    #[command(flatten)]
    edit: EditArgs,
}

/// What is changed in an image's configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct EditArgs {
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

impl EditArgs {
    pub(crate) fn edit(&self) -> Edit {
        Edit {
            command: self.cmd.clone(),
            entrypoint: self.entrypoint.clone(),
            env: self.env.clone(),
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            message: self.message.clone(),
            author: self.author.clone(),
        }
    }
}

pub(super) fn run(store: &Store, args: &CommitArgs) -> Result<Exit, Failure> {
    release(store, &args.name)?;
    let id = store.commit_workspace(&args.name, args.image.as_deref(), &args.edit.edit())?;
    answer_line(id)?;
    Ok(Exit::Done)
}
