//! `testkit cuts`.

use super::Plan;
use crate::scratch::FsKind;

/// Cut the power while programs write through a mount, and look at what is left
///
/// On ext4, xfs and btrfs: changed files are whole, what was fsynced is there, nothing is left in the work directory, for
/// a new mount as for the kernel. Needs root and loop devices. Exit status: 0 all right, 1 something is wrong, 2 error.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Power cuts for each filesystem
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub cuts: usize,
    /// Mount options besides the layers
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    pub options: String,
    /// Decides on the moments; chosen at random if not given
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// The filesystems that are tried.
pub const FILESYSTEMS: [FsKind; 3] = [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs];

/// Runs it and prints the results; `false` if something is wrong.
///
/// # Errors
/// If it cannot be run.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut good = true;
    for fs in FILESYSTEMS {
        let report = super::run(&Plan { fs, options: args.options.clone(), cuts: args.cuts, seed })?;
        println!("{}, seed {seed}: {report}", fs.name());
        good &= report.wrong.is_empty();
    }
    Ok(good)
}
