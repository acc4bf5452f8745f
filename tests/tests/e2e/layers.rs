//! What `acetate mounts` tells of the layers and of the options in force.

use std::process::Command;

use acetate_testkit::driver::{Driver, Stack, acetate_bin};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::{FsKind, Scratch};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// The entry of the mount at `point`, or an error.
fn entry(point: &std::path::Path) -> Result<Value> {
    let output = Command::new(acetate_bin()?).args(["mounts", "--json"]).output()?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(document["schema"] == "acetate-mounts-v1", "{document}");
    let mut mounts = document["mounts"].as_array().into_iter().flatten();
    mounts.find(|mount| mount["mountpoint"].as_str() == point.to_str()).cloned().context("no record")
}

#[test]
fn layers_and_options_in_force_are_told() -> Result<()> {
    let needs = [Need::Root, Need::Fuse, Need::Loop, Need::KernelOverlay];
    if !have("layers_and_options_in_force_are_told", &needs)? {
        return Ok(());
    }
    let kinds = [(FsKind::Ext4, "ext4", false), (FsKind::Xfs, "xfs", true), (FsKind::Tmpfs, "tmpfs", false)];
    for (kind, name, reflink) in kinds {
        let on = Scratch::on(kind, "layers", 512)?;
        let other = Scratch::on(FsKind::Tmpfs, "layers", 16)?;
        let below = other.dir("below")?;
        std::fs::write(below.join("f"), "x")?;
        let kernel_stack = Stack::writable([&below], other.dir("ku")?, other.dir("kw")?);
        let kernel = Driver::Kernel.mount(&kernel_stack, &other.dir("k")?, "")?;
        let lowers = [on.dir("l")?, below.clone(), kernel.path().to_path_buf()];
        let stack = Stack::writable(&lowers[..2], on.dir("u")?, on.dir("w")?);
        let mounted = Driver::acetate()?.mount(&stack, &on.dir("m")?, "index=on,metacopy=on")?;
        let told = entry(mounted.path())?;
        let upper = json!({
            "role": "upper", "path": on.path().join("u"), "filesystem": name, "xattrs": ["trusted", "user"],
            "file_handles": "open", "d_type": true, "fs_verity": told["layers"][0]["fs_verity"],
            "reflink": reflink, "whiteout_device": true, "o_tmpfile": true, "rename_exchange": true,
            "rename_whiteout": true,
        });
        assert_eq!(told["layers"][0], upper, "{name}");
        ensure!(told["layers"][0]["fs_verity"].is_boolean(), "{told}");
        assert_eq!(told["layers"][1]["reflink"], json!(reflink), "{name}");
        let lower = &told["layers"][2];
        let said = ["filesystem", "d_type", "reflink", "o_tmpfile"].map(|member| lower[member].clone());
        assert_eq!(said, [json!("tmpfs"), json!(true), json!(false), Value::Null], "{name}");
        for (option, value) in
            [("index", "on"), ("metacopy", "on"), ("redirect_dir", "on"), ("verity", "off")]
        {
            assert_eq!(told["settings"][option], value, "{name}: {option}");
        }
        let left: Vec<_> = std::fs::read_dir(on.path().join("w/index"))?.collect();
        ensure!(left.is_empty(), "{left:?}");
        mounted.unmount()?;

        // The kernel's overlayfs has no file handles unless it exports them.
        let stack = Stack::writable(&lowers[2..], on.dir("u2")?, on.dir("w2")?);
        let mounted = Driver::acetate()?.mount(&stack, &on.path().join("m"), "index=on")?;
        let told = entry(mounted.path())?;
        let said = ["filesystem", "file_handles"].map(|member| told["layers"][1][member].clone());
        assert_eq!(said, [json!("overlay"), json!("none")], "{name}");
        assert_eq!(told["settings"]["index"], "off", "{name}");
        mounted.unmount()?;
        kernel.unmount()?;
    }
    Ok(())
}
