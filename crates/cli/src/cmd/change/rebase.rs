//! `acetate rebase`.

use super::report::Report;
use super::{FormArgs, Named, hold, real};
use crate::Exit;
use crate::error::Failure;
use crate::layers::Layers;
use crate::out::{note, shown};
use acetate_layer::mark::Dialect;
use acetate_stack::Stack;
use acetate_stack::change::Found;
use acetate_stack::change::rebase::{Side, plan, same_layers};
use std::path::PathBuf;

/// Carry the changes of an upper layer to other lower layers
///
/// What upper changes over its old lower layers it changes over the new ones afterwards. Files that both sides changed in
/// different respects (data; owner, mode and attributes) get both changes. Anything else that both changed is a conflict:
/// then nothing is done unless --prefer decides. The new layer is made beside the old one and takes its place at once.
///
/// Exit status: 0 done, 1 there are conflicts (nothing was done), 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct RebaseArgs {
    /// The writable layer
    upper: PathBuf,
    /// A lower layer that it was made over, the topmost first
    #[arg(long, value_name = "DIR", required = true)]
    lower: Vec<PathBuf>,
    /// A lower layer that it is to lie over, the topmost first
    #[arg(long, value_name = "DIR", required = true)]
    onto: Vec<PathBuf>,
    /// The work directory of the upper layer; not needed for --dry-run
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    work: Option<PathBuf>,
    /// Marks are user.overlay.* [default: trusted.overlay.*]
    #[arg(long)]
    userxattr: bool,
    /// Decide conflicts: keep what upper has, or what the new lower layers have
    #[arg(long, value_name = "SIDE")]
    prefer: Option<Prefer>,
    #[command(flatten)]
    form: FormArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Prefer {
    Upper,
    Lower,
}

pub(crate) fn run(args: &RebaseArgs) -> Result<Exit, Failure> {
    let upper = real(&args.upper)?;
    let dialect = if args.userxattr { Dialect::User } else { Dialect::Trusted };
    let layers = Layers { upper: Some(upper.clone()), lowers: args.lower.clone(), data: Vec::new(), dialect };
    let named = Named { layers, upper };
    let form = args.form;
    let held = match &args.work {
        Some(work) if !form.dry_run => Some((hold(&named, work)?, work)),
        _ => None,
    };
    if held.as_ref().is_some_and(|(held, _)| held.found == Found::Exchanged) {
        Report::new("rebase", form).print(form)?;
        return Ok(Exit::Done);
    }
    let old = named.layers.open()?;
    let new = Stack::open(None, &args.onto, dialect)?;
    if same_layers(&old, &new) {
        note(format_args!("{}: it lies over these layers already", shown(&named.upper)));
    }
    let prefer = args.prefer.map(|prefer| match prefer {
        Prefer::Upper => Side::Upper,
        Prefer::Lower => Side::Lower,
    });
    let plan = plan(&old, &new, prefer)?;
    let stuck = prefer.is_none() && !plan.conflicts.is_empty();
    if let Some((held, work)) = held.filter(|_| !stuck) {
        held.site.rebase(&old, &new, &plan, work)?;
    }
    let report = Report::new("rebase", form);
    if stuck && !form.dry_run {
        // Nothing was done.
        let conflicts =
            acetate_stack::change::rebase::Plan { conflicts: plan.conflicts, ..Default::default() };
        report.plan(&conflicts).print(form)?;
        note(
            "nothing was done: decide all conflicts at once with --prefer upper or --prefer lower, or change a layer",
        );
        return Ok(Exit::No);
    }
    report.plan(&plan).print(form)?;
    Ok(if stuck { Exit::No } else { Exit::Done })
}
