//! A slice of the lockstep oracle: random calls on an Acetate mount and on a kernel mount of identical layers.
//!
//! The cases are always the same here, so that a change is told what it has broken, and nothing else;
//! `ACETATE_LOCKSTEP_SEED` chooses others. Longer runs, each with a seed of its own:
//! `cargo run --release -p acetate-testkit -- lockstep --minutes N`.

use std::path::Path;
use std::process::Command;

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use anyhow::{Context, Result, ensure};

/// Runs so many cases on layers of that filesystem. Failures are shrunk and printed by the program.
fn slice(fs: &str, options: &str, cases: &str, more: &[&str]) -> Result<()> {
    if !have("lockstep", &[Need::Root, Need::Fuse, Need::Loop, Need::KernelOverlay])? {
        return Ok(());
    }
    let program = acetate_bin()?.with_file_name("testkit");
    let mut command = Command::new(&program);
    command.args(["lockstep", "--driver-a", "acetate", "--driver-b", "kernel"]);
    command.args(["--fs", fs, "--options", options, "--cases", cases]);
    command.args(more);
    command.arg("--seed").arg(std::env::var_os("ACETATE_LOCKSTEP_SEED").unwrap_or_else(|| "1".into()));
    let output =
        command.output().with_context(|| format!("{} (cargo build --release)", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    println!("lockstep on {fs} with \"{options}\": {text}");
    Ok(())
}

#[test]
fn with_default_options_on_tmpfs() -> Result<()> {
    slice("tmpfs", "", "150", &[])
}

#[test]
fn with_default_options_on_ext4() -> Result<()> {
    slice("ext4", "", "60", &[])
}

#[test]
fn with_userxattr_on_ext4() -> Result<()> {
    slice("ext4", "userxattr", "60", &[])
}

#[test]
fn with_redirects_and_copies_of_attributes() -> Result<()> {
    slice("ext4", "metacopy=on", "40", &[])
}

#[test]
fn with_an_index_on_tmpfs() -> Result<()> {
    slice("tmpfs", "index=on", "40", &[])
}

/// As ordinary users have it, who cannot open file handles; the kernel's mounts of the same layers are as ever.
#[test]
fn with_an_index_without_opening_handles() -> Result<()> {
    if have("closed handles", &[Need::Tool("setpriv")])? {
        slice("ext4", "index=on", "30", &["--closed-handles"])?;
        slice("ext4", "index=on", "15", &["--closed-handles", "--handover"])?;
    }
    Ok(())
}

/// The mount changes hands between Acetate and the kernel every few steps.
#[test]
fn changing_hands() -> Result<()> {
    for options in ["", "redirect_dir=on", "metacopy=on", "index=on,metacopy=on", "index=on,xino=on"] {
        slice("ext4", options, "15", &["--handover"])?;
    }
    Ok(())
}

/// Short scripts that have shown a bug once, or a difference that is accepted for its reason only.
#[test]
fn scripts_that_have_failed() -> Result<()> {
    if !have("lockstep", &[Need::Root, Need::Fuse, Need::KernelOverlay])? {
        return Ok(());
    }
    let program = acetate_bin()?.with_file_name("testkit");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("lockstep");
    let mut count = 0;
    for script in std::fs::read_dir(&scripts).with_context(|| scripts.display().to_string())? {
        let script = script?.path();
        let output = Command::new(&program).args(["lockstep", "--replay"]).arg(&script).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (shown, errors) = (script.display(), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{shown}: {}\n{text}{errors}", output.status);
        count += 1;
    }
    ensure!(count > 0, "{} is empty", scripts.display());
    Ok(())
}
