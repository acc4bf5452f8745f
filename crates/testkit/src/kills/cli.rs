//! `testkit kills`.

use clap::ValueEnum;

use super::Plan;
use crate::scratch::FsKind;
use crate::userns;

/// A filesystem for layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fs {
    /// Whatever the temporary directory is on
    Dir,
    /// A tmpfs
    Tmpfs,
    /// An ext4 image
    Ext4,
    /// An xfs image
    Xfs,
    /// A btrfs image
    Btrfs,
}

/// Kill the server, or let its system calls fail, at every step of every operation
///
/// After that the tree is the old or the new one, for the kernel as for a new mount, nothing is left in the work
/// directory, and the operation can be done again. Needs root. Exit status: 0 all right, 1 something is wrong, 2 error.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Mount options besides the layers; may be repeated [default: several sets]
    #[arg(long, value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// The filesystem of the layers
    #[arg(long, value_enum, default_value = "tmpfs")]
    pub fs: Fs,
    /// Only kills
    #[arg(long, conflicts_with = "failures")]
    pub kills: bool,
    /// Only kills, of mounts that outlive their servers (takeover=on): whoever uses them must not notice
    #[arg(long, conflicts_with = "failures")]
    pub kept: bool,
    /// Do it in a user namespace, as a container's root or an ordinary user would; needs unshare and setpriv
    #[arg(long)]
    pub user_namespace: bool,
    /// Only failures
    #[arg(long)]
    pub failures: bool,
    /// Try one of so many points
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub one_in: usize,
    /// Which ones
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: usize,
    /// Only operations whose names hold this
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub only: String,
    /// How many to run at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub jobs: usize,
}

/// The options that each bring other steps.
pub const OPTIONS: [&str; 4] = ["", "redirect_dir=on", "metacopy=on,index=on", "nfs_export=on"];

/// Options of owners, modes and whiteouts, as container engines have them; the kernel's overlayfs has none of them.
pub const OWNERS: [&str; 3] =
    ["xattr_permissions=2", "uidmapping=100000:0:65536,gidmapping=100000:0:65536", "oci_whiteouts"];

/// The options of a mount that outlives its server.
pub fn kept(options: &str) -> String {
    let words = [options, super::KEPT];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(",")
}

/// Runs it and prints the results; `false` if something is wrong.
///
/// # Errors
/// If it cannot be run.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    if args.user_namespace {
        let rest = std::env::args().skip(1).filter(|word| word != "--user-namespace");
        return Ok(userns::run(&std::env::current_exe()?, &rest.collect::<Vec<_>>(), &[])?.success());
    }
    let given = args.options.iter().map(String::as_str);
    let sets: Vec<&str> = if args.options.is_empty() { OPTIONS.to_vec() } else { given.collect() };
    let mut good = true;
    for options in sets {
        let plan = Plan {
            options: if args.kept { kept(options) } else { options.to_owned() },
            fs: match args.fs {
                Fs::Dir => None,
                Fs::Tmpfs => Some(FsKind::Tmpfs),
                Fs::Ext4 => Some(FsKind::Ext4),
                Fs::Xfs => Some(FsKind::Xfs),
                Fs::Btrfs => Some(FsKind::Btrfs),
            },
            kills: !args.failures,
            failures: !args.kills && !args.kept,
            one_in: args.one_in,
            seed: args.seed,
            only: args.only.clone(),
            jobs: args.jobs,
        };
        let report = super::run(&plan)?;
        println!("options {options:?}: {report}");
        good &= report.wrong.is_empty();
    }
    Ok(good)
}
