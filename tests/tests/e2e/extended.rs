//! `compat=extended`: redirects and metadata-only copies with marks of users, and that nobody misreads them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use acetate_testkit::driver::{Driver, MountError, Stack};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Result, ensure};

const OPTIONS: &str = "userxattr,compat=extended";

fn sh(dir: &Path, script: &str) -> Result<String> {
    let output = Command::new("sh").args(["-euc", script]).current_dir(dir).stdin(Stdio::null()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {}: {errors}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn refusal(result: Result<acetate_testkit::driver::Mounted, MountError>) -> Result<String> {
    match result {
        Ok(mounted) => {
            mounted.unmount()?;
            anyhow::bail!("it was mounted")
        }
        Err(MountError::Command { stderr, .. }) => Ok(stderr),
        Err(error) => Ok(error.to_string()),
    }
}

#[test]
fn users_rename_directories_and_nobody_misreads_it() -> Result<()> {
    let name = "users_rename_directories_and_nobody_misreads_it";
    if !have(name, &[Need::Root, Need::Fuse, Need::KernelOverlay, Need::Tool("python3")])? {
        return Ok(());
    }
    let scratch = Scratch::new("extended")?;
    let (lower, upper) = (scratch.dir("l")?, scratch.dir("u")?);
    let stack = Stack::writable([lower.clone()], upper.clone(), scratch.dir("w")?);
    let merged = scratch.dir("m")?;
    sh(&lower, "mkdir -p d/e; echo f >d/e/f; head -c 1000000 /dev/zero >big")?;
    let ours = Driver::acetate()?;

    let mounted = ours.mount(&stack, &merged, OPTIONS)?;
    sh(
        &merged,
        "python3 -c 'import os; os.rename(\"d\", \"n\"); os.rename(\"n/e\", \"away\")'; chmod 600 big",
    )?;
    // Longer than any redirect of the kernel's.
    let deep = (0..4).map(|_| "x".repeat(200)).collect::<Vec<_>>().join("/");
    sh(&merged, &format!("mkdir -p {deep}; mv away {deep}/e; mv {deep}/e back"))?;
    let look = "find n back big -type f -o -type d | sort; cat back/f; stat -c %a:%s big; ls -A n";
    let says = "back\nback/f\nbig\nn\nf\n600:1000000\n";
    assert_eq!(sh(&merged, look)?, says);
    mounted.unmount()?;
    let big = fs::metadata(upper.join("big"))?;
    ensure!(big.size() == 1_000_000 && big.blocks() < 100, "the data was copied");

    let kernel = Driver::Kernel.mount(&stack, &merged, "userxattr").map(drop);
    ensure!(matches!(kernel, Err(MountError::Kernel(_))), "the kernel took it");
    for options in ["userxattr", "", "userxattr,compat=kernel"] {
        let said = refusal(ours.mount(&stack, &merged, options))?;
        ensure!(said.contains("compat=extended") && said.contains("flatten"), "{options}: {said}");
    }
    let below = Stack::read_only([upper.clone(), lower.clone()]);
    for options in ["userxattr", ""] {
        let said = refusal(ours.mount(&below, &merged, options))?;
        ensure!(said.contains("flatten"), "{options}: {said}");
    }
    let again = ours.mount(&stack, &merged, OPTIONS)?;
    assert_eq!(sh(&merged, look)?, says);
    sh(&merged, "echo more >>back/f; ! ls d 2>/dev/null")?;
    again.unmount()
}

/// Digests that are recorded, on filesystems that vouch for nothing, as on the kernel's overlayfs.
#[test]
fn recorded_digests_are_asked_for() -> Result<()> {
    let name = "recorded_digests_are_asked_for";
    if !have(name, &[Need::Root, Need::Fuse, Need::KernelOverlay, Need::Tool("setfattr")])? {
        return Ok(());
    }
    let digest = format!("0x00240001{}", "ab".repeat(32));
    let values = ["0x", "0x00", "0x00040000", "0x0004000000", "0x01240001", &digest];
    let look = "for f in *; do echo $f $(stat -c %s $f 2>&1 | tail -c 20) $(cat $f 2>&1 | tail -c 20); done
         chmod 600 plain; getfattr -h --only-values -n trusted.overlay.metacopy ../u/plain 2>&1 | wc -c";
    for options in ["metacopy=on", "metacopy=on,verity=on", "metacopy=on,verity=require", "verity=require"] {
        let mut said = Vec::new();
        for driver in [Driver::acetate()?, Driver::Kernel] {
            let scratch = Scratch::new("verity")?;
            let (top, bottom) = (scratch.dir("l")?, scratch.dir("l2")?);
            let stack = Stack::writable([top.clone(), bottom.clone()], scratch.dir("u")?, scratch.dir("w")?);
            let merged = scratch.dir("m")?;
            sh(&bottom, "echo plain >plain")?;
            for (number, value) in values.iter().enumerate() {
                sh(&bottom, &format!("echo content >f{number}"))?;
                let set = format!(
                    "truncate -s 8 f{number}; setfattr -n trusted.overlay.metacopy -v {value} f{number}"
                );
                sh(&top, &set)?;
            }
            let mounted = driver.mount(&stack, &merged, options)?;
            said.push(sh(&merged, look)?);
            mounted.unmount()?;
        }
        assert_eq!(said[0], said[1], "{options}");
    }
    Ok(())
}

/// Anybody can set such marks on what is theirs in a lower layer, and lead to what they may not see.
#[test]
fn marks_of_users_in_lower_layers_lead_nowhere() -> Result<()> {
    let name = "marks_of_users_in_lower_layers_lead_nowhere";
    if !have(name, &[Need::Root, Need::Fuse, Need::Tool("setfattr")])? {
        return Ok(());
    }
    let scratch = Scratch::new("extended")?;
    let (top, bottom) = (scratch.dir("l")?, scratch.dir("l2")?);
    let stack = Stack::writable([top.clone(), bottom.clone()], scratch.dir("u")?, scratch.dir("w")?);
    let merged = scratch.dir("m")?;
    sh(
        &bottom,
        "mkdir -m 700 private; echo secret >private/f; mkdir mine; echo secret >data; chmod 600 data",
    )?;
    sh(
        &top,
        "mkdir mine; setfattr -n user.overlay.redirect -v /private mine
         truncate -s 7 file; setfattr -n user.overlay.metacopy file; setfattr -n user.overlay.redirect -v /data file",
    )?;
    let mounted = Driver::acetate()?.mount(&stack, &merged, OPTIONS)?;
    let said = sh(&merged, "! cat mine/f 2>&1; ! cat file 2>&1")?;
    ensure!(said.matches("Operation not permitted").count() == 2, "{said}");
    mounted.unmount()
}
