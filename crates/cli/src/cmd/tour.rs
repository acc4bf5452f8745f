//! `acetate tour`.

use crate::Exit;
use crate::error::Failure;
use crate::mount::check_device;
use crate::tour::{Scratch, Show, steps};
use std::io::{self, IsTerminal};

/// Walk through the idea in a scratch directory, with real commands on a real mount
///
/// Nothing outside the scratch directory is touched, and it is removed at the end.
///
/// Exit status: 0 done, 1 this machine cannot mount, 2 error.
#[derive(Debug, clap::Args)]
pub(crate) struct TourArgs {
    /// Do not wait for Enter between the steps
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(args: &TourArgs) -> Result<Exit, Failure> {
    if let Err(failure) = check_device() {
        crate::out::talk(&failure.text());
        crate::out::note("the tour needs a mount; nothing was changed");
        return Ok(Exit::No);
    }
    let pauses = !args.yes && io::stdin().is_terminal() && io::stdout().is_terminal();
    let scratch = Scratch::make()?;
    let show = Show::new(&scratch, pauses);
    show.say(format_args!("Everything here happens in {}, which is removed at the end.", scratch.shown()))?;
    for (number, step) in steps().iter().enumerate() {
        show.step(number + 1, step)?;
    }
    show.say("That is all: plain directories, and one mount that lays them over one another.")?;
    Ok(Exit::Done)
}
