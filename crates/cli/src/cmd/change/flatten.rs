//! `acetate flatten`.

use super::report::Report;
use super::{UpperArgs, flattened, hold};
use crate::Exit;
use crate::error::Failure;
use acetate_stack::change::flatten;

/// Unfold redirects and metacopy in an upper layer, so that any tool reads it
///
/// Directories that were renamed become opaque ones with all that is shown in them, and files whose data is below get it.
/// What a mount shows stays the same all the time: a command that was killed is finished by running it again.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct FlattenArgs {
    #[command(flatten)]
    upper: UpperArgs,
}

pub(crate) fn run(args: &FlattenArgs) -> Result<Exit, Failure> {
    let named = args.upper.named("flatten")?;
    let form = args.upper.form;
    let steps = match &args.upper.work {
        Some(work) if !form.dry_run => {
            let held = hold(&named, work)?;
            flattened(&named, &held.site)?
        }
        _ => flatten::plan(&named.layers.open()?)?,
    };
    Report::new("flatten", form).steps(&steps).print(form)?;
    Ok(Exit::Done)
}
