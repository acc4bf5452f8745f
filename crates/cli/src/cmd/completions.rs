//! `acetate completions`.

use crate::error::Failure;
use crate::{Command, Exit};
use clap::CommandFactory;
use clap_complete::Shell;

/// Print what a shell needs to complete commands and options
///
/// For bash: `acetate completions bash >/usr/share/bash-completion/completions/acetate`. For zsh: a file `_acetate` in a
/// directory of $fpath. For fish: `~/.config/fish/completions/acetate.fish`.
///
/// Exit status: 0 done, 2 wrong usage.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Command::command(), "acetate", &mut script);
    // The generators write text.
    crate::out::answer(&String::from_utf8_lossy(&script))
        .map_err(|error| Failure::io("write the answer", &error))?;
    Ok(Exit::Done)
}
