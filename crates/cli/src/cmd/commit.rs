//! `acetate commit`.

use super::workspace::commit::EditArgs;
use crate::Exit;
use crate::error::Failure;
use crate::layers::{Layers, user_of};
use crate::out::{answer_line, note, shown};
use crate::store::StoreArgs;
use acetate_layer::mark::Dialect;
use acetate_stack::{Error, tar};
use acetate_store::CommitBase;
use std::io::{self, Write};
use std::path::PathBuf;

/// Make an image of what an upper layer changes, over an image or over directories
///
/// The upper layer may be one that the kernel wrote; redirects and metacopy are followed. It stays as it is. Prints the
/// image's id. Of a workspace: `acetate workspace commit`.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("below").args(["image", "lower"]).required(true)))]
pub(crate) struct CommitArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The image that the upper layer lies over
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// A lower layer that it lies over, the topmost first; it becomes a layer of the image
    #[arg(long, value_name = "DIR")]
    lower: Vec<PathBuf>,
    /// The upper layer
    #[arg(long, value_name = "DIR")]
    upper: PathBuf,
    /// Marks are user.overlay.* [default: trusted.overlay.*]
    #[arg(long)]
    userxattr: bool,
    /// What to call the image
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    edit: EditArgs,
}

pub(crate) fn run(args: &CommitArgs) -> Result<Exit, Failure> {
    let store = args.store.open()?;
    if let Some(point) = user_of(&args.upper)? {
        return Err(Failure::new(
            format_args!("{}: in use by the mount at {}", shown(&args.upper), shown(&point)),
            "what changes meanwhile is in the image by halves: unmount it first",
        ));
    }
    let image = args.image.as_ref().map(|name| store.image(name)).transpose()?;
    let lowers = match &image {
        Some(image) => image.layers.iter().rev().map(|id| store.layer_tree(id)).collect(),
        None => args.lower.clone(),
    };
    let dialect = if args.userxattr { Dialect::User } else { store.options().dialect };
    let stack = Layers { upper: Some(args.upper.clone()), lowers, data: Vec::new(), dialect }.open()?;
    let below: Vec<PathBuf> = args.lower.iter().rev().cloned().collect();
    let base = image.as_ref().map_or(CommitBase::Dirs(&below), CommitBase::Image);
    let mut written = Ok(0);
    let pack = |writer: io::BufWriter<io::PipeWriter>| {
        let (totals, mut writer) = match tar::write(&stack, writer) {
            Ok(done) => done,
            Err(Error::Write(error)) => return Err(error),
            Err(error) => {
                let text = error.to_string();
                written = Err(error);
                return Err(io::Error::other(text));
            }
        };
        written = Ok(totals.sockets_skipped);
        writer.flush()
    };
    let made = store.commit_layer(base, pack, args.name.as_deref(), &args.edit.edit());
    // What is wrong with a layer is said with what can be done about it.
    let skipped = written?;
    let id = made?;
    if skipped > 0 {
        note(format_args!("{skipped} sockets are left out: no archive can hold them"));
    }
    answer_line(id)?;
    Ok(Exit::Done)
}
