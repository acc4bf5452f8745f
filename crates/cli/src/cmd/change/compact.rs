//! `acetate compact`.

use super::report::Report;
use super::{UpperArgs, hold};
use crate::Exit;
use crate::error::Failure;
use acetate_stack::change::compact::{Times, plan};

/// Remove from an upper layer what it holds in vain
///
/// Copies that equal what is below, whiteouts that hide nothing, opaque marks of directories that hide nothing. What a
/// mount shows stays the same all the time: a command that was killed is finished by running it again.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct CompactArgs {
    #[command(flatten)]
    upper: UpperArgs,
    /// Also remove copies that differ by their modification time only; the time below is shown then
    #[arg(long)]
    ignore_times: bool,
}

pub(crate) fn run(args: &CompactArgs) -> Result<Exit, Failure> {
    let named = args.upper.named("compact")?;
    let form = args.upper.form;
    let times = if args.ignore_times { Times::Ignored } else { Times::Count };
    let steps = match &args.upper.work {
        Some(work) if !form.dry_run => {
            let held = hold(&named, work)?;
            let stack = named.layers.open()?;
            let steps = plan(&stack, times)?;
            held.site.run(&stack, &steps)?;
            steps
        }
        _ => plan(&named.layers.open()?, times)?,
    };
    Report::new("compact", form).steps(&steps).print(form)?;
    Ok(Exit::Done)
}
