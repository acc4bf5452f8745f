//! A slice of the lockstep oracle: random calls on an Acetate mount and on a kernel mount of identical layers.
//!
//! Longer runs: `cargo run --release -p acetate-testkit -- lockstep --minutes N`. The seed is printed;
//! `ACETATE_LOCKSTEP_SEED` sets it.

use std::process::Command;

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use anyhow::{Context, Result, ensure};

/// Runs so many cases on layers of that filesystem. Failures are shrunk and printed by the program.
fn slice(fs: &str, options: &str, cases: &str) -> Result<()> {
    if !have("lockstep", &[Need::Root, Need::Fuse, Need::Loop, Need::KernelOverlay])? {
        return Ok(());
    }
    let program = acetate_bin()?.with_file_name("testkit");
    let mut command = Command::new(&program);
    command.args(["lockstep", "--driver-a", "acetate", "--driver-b", "kernel"]);
    command.args(["--fs", fs, "--options", options, "--cases", cases]);
    if let Some(seed) = std::env::var_os("ACETATE_LOCKSTEP_SEED") {
        command.arg("--seed").arg(seed);
    }
    let output =
        command.output().with_context(|| format!("{} (cargo build --release)", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    println!("lockstep on {fs} with \"{options}\": {text}");
    Ok(())
}

#[test]
fn with_default_options_on_tmpfs() -> Result<()> {
    slice("tmpfs", "", "150")
}

#[test]
fn with_default_options_on_ext4() -> Result<()> {
    slice("ext4", "", "60")
}

#[test]
fn with_userxattr_on_ext4() -> Result<()> {
    slice("ext4", "userxattr", "60")
}
