//! `acetate mount --driver`: the kernel's overlayfs serves where it can, on the same layers.

use std::fs;
use std::process::Command;

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use anyhow::{Context, Result, ensure};

use crate::lifecycle::{Stage, stderr, succeeded};

const LAYERS: &str = "lowerdir=lower,upperdir=upper,workdir=work";

fn can(test: &str) -> Result<bool> {
    have(test, &[Need::Root, Need::Fuse, Need::KernelOverlay])
}

/// The type of what is mounted on `merged`.
fn fstype(stage: &Stage) -> Result<String> {
    let point = fs::canonicalize(stage.path("merged"))?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let ours =
        table.lines().rev().find(|line| line.split(' ').nth(4).map(std::path::Path::new) == Some(&point));
    let (_, rest) = ours.and_then(|line| line.split_once(" - ")).context("nothing is mounted")?;
    Ok(rest.split(' ').next().unwrap_or_default().to_owned())
}

#[test]
fn one_driver_goes_on_where_the_other_has_stopped() -> Result<()> {
    if !can("drivers in turn")? {
        return Ok(());
    }
    let stage = Stage::new("drivers")?;
    fs::create_dir(stage.path("a:b,c"))?;
    fs::write(stage.path("a:b,c/odd"), "odd")?;
    let layers = r"lowerdir=lower:a\:b\,c,upperdir=upper,workdir=work,redirect_dir=on,noatime";
    for (turn, driver) in ["kernel", "fuse", "auto", "fuse"].into_iter().enumerate() {
        let output = stage.acetate(&["mount", "--driver", driver, "-o", layers, "merged"])?;
        succeeded(&output)?;
        ensure!(fstype(&stage)? == if driver == "fuse" { "fuse.acetate" } else { "overlay" }, "{driver}");
        ensure!(
            stderr(&output).contains("served by the kernel's overlayfs") == (driver == "auto"),
            "{output:?}"
        );
        ensure!(fs::read(stage.path("merged/odd"))? == b"odd");
        let entry = stage.entry()?;
        ensure!(entry["driver"] == if driver == "fuse" { "fuse" } else { "kernel" }, "{entry}");
        ensure!(entry["flags"].as_str().is_some_and(|flags| flags.contains("noatime")), "{entry}");
        for before in 0..turn {
            ensure!(
                fs::read_to_string(stage.path(format!("merged/d{turn}/by-{before}")))? == before.to_string()
            );
        }
        if turn == 0 {
            fs::rename(stage.path("merged/d"), stage.path("merged/d0"))?;
        }
        ensure!(fs::read_to_string(stage.path(format!("merged/d{turn}/f")))? == "lower f");
        fs::write(stage.path(format!("merged/d{turn}/by-{turn}")), turn.to_string())?;
        fs::rename(stage.path(format!("merged/d{turn}")), stage.path(format!("merged/d{}", turn + 1)))?;
        stage.umount()?;
    }
    Ok(())
}

#[test]
fn what_the_kernel_cannot_do_a_daemon_does_or_is_explained() -> Result<()> {
    if !can("refused by the kernel")? {
        return Ok(());
    }
    let stage = Stage::new("no-kernel")?;
    let mount =
        |driver: &str, options: &str| stage.acetate(&["mount", "--driver", driver, "-o", options, "merged"]);
    let extended = format!("{LAYERS},compat=extended");
    let refused = mount("kernel", &extended)?;
    ensure!(refused.status.code() == Some(2), "{refused:?}");
    ensure!(stderr(&refused).contains("compat=extended") && stderr(&refused).contains("--driver fuse"));
    let chosen = mount("auto", &extended)?;
    succeeded(&chosen)?;
    ensure!(stderr(&chosen).contains("served by a daemon"), "{chosen:?}");
    ensure!(fstype(&stage)? == "fuse.acetate");
    stage.umount()?;
    let single = mount("kernel", "lowerdir=lower")?;
    ensure!(!single.status.success() && stderr(&single).contains("only one given"), "{single:?}");
    let missing = mount("kernel", "lowerdir=missing,upperdir=upper,workdir=work")?;
    ensure!(stderr(&missing).contains("lower layer: missing: no such file"), "{missing:?}");
    let nothing_to_stay = stage.acetate(&["mount", "-f", "--driver", "kernel", "-o", LAYERS, "merged"])?;
    ensure!(!nothing_to_stay.status.success() && stderr(&nothing_to_stay).contains("foreground"));
    // Whoever has the upper layer keeps it.
    succeeded(&mount("kernel", LAYERS)?)?;
    let second = stage.acetate(&["mount", "--driver", "kernel", "-o", LAYERS, "lower/d"])?;
    ensure!(
        !second.status.success() && stderr(&second).contains("in use by the kernel overlay"),
        "{second:?}"
    );
    stage.umount()
}

/// In a user namespace the marks are those of users, by either driver.
#[test]
fn in_a_user_namespace_the_kernel_serves_too() -> Result<()> {
    if !have("user namespace", &[Need::Root, Need::KernelOverlay])? {
        return Ok(());
    }
    let stage = Stage::new("ns-kernel")?;
    let script = format!(
        "set -e; \"$0\" mount --driver kernel -o {LAYERS} merged; grep -q ' merged overlay ' /proc/mounts || \
         stat -f -c %T merged | grep -q overlayfs; rm merged/a; echo new >merged/d/new; \"$0\" umount merged"
    );
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-c", &script])
        .arg(acetate_bin()?)
        .current_dir(stage.path("."))
        .output()?;
    succeeded(&output)?;
    ensure!(fs::read_to_string(stage.path("upper/d/new"))? == "new\n");
    ensure!(fs::symlink_metadata(stage.path("upper/a")).is_ok(), "no whiteout");
    Ok(())
}
