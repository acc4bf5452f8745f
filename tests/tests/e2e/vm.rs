//! The same program on other kernels, and where only a machine of its own can show it, in an emulated one (tests/vm).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have, tool};
use acetate_testkit::scenario::{RECORDED, load};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::engines::run;

/// Whether a machine with that kernel can be emulated for the test `name`.
fn can_boot(name: &str, kernel: &'static str) -> Result<bool> {
    have(
        name,
        &[Need::Tool("qemu-system-x86_64"), Need::Tool("cpio"), Need::Tool("busybox"), Need::Linux(kernel)],
    )
}

/// Boots a kernel, runs a script of tests/vm there, and returns what it says. `env` are words for tests/vm/boot.
fn boot(kernel: &str, script: &Path, files: &[PathBuf], env: &[(&str, &str)]) -> Result<String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/boot");
    let mut command = Command::new(program);
    let output = command.arg(kernel).arg(script).args(files).envs(env.iter().copied()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

/// A script of tests/vm.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm").join(name)
}

/// Where a program is that the scripts need.
fn program(name: &str) -> Result<PathBuf> {
    tool(name).with_context(|| format!("no program {name}"))
}

/// An empty ext4 in a file.
fn disk(scratch: &Scratch) -> Result<PathBuf> {
    let image = scratch.path().join("disk.img");
    File::create(&image)?.set_len(512 << 20)?;
    run(Command::new(program("mkfs.ext4")?).args(["-qF", "-E", "lazy_itable_init=1"]).arg(&image))?;
    Ok(image)
}

/// Runs tests/vm/smoke with every `step`-th of the recorded scenarios, which takes most of the time (all of them:
/// tests/vm/run). Returns what the mount says of the kernel.
fn smoke(kernel: &'static str, step: usize) -> Result<Option<Value>> {
    if !can_boot("vm", kernel)? {
        return Ok(None);
    }
    let scratch = Scratch::new("vm")?;
    let rows = load(RECORDED)?;
    let ids: Vec<&str> = rows.iter().step_by(step).map(|row| row.id.as_str()).collect();
    let testkit = acetate_bin()?.with_file_name("testkit");
    let mut files = vec![acetate_bin()?, testkit];
    for name in ["cp", "mkfs.ext4", "setpriv", "unshare"] {
        files.push(program(name)?);
    }
    files.push(disk(&scratch)?);
    let said = boot(kernel, &script("smoke"), &files, &[("GUEST", &format!("ROWS={}", ids.join(",")))])?;
    ensure!(said.contains("smoke: an ordinary user has mounted"), "{said}");
    let json = said.split("\n{").nth(1).and_then(|rest| rest.split("\n}").next()).context(said.clone())?;
    let document: Value = serde_json::from_str(&format!("{{{json}\n}}")).with_context(|| said.clone())?;
    Ok(Some(document["mounts"][0]["kernel"].clone()))
}

#[test]
fn linux_5_10_lacks_much_and_is_told_so() -> Result<()> {
    let Some(kernel) = smoke("5.10", 12)? else { return Ok(()) };
    let missing = ["handle_killpriv_v2", "setxattr_ext", "passthrough", "no_export_support", "has_resend"];
    ensure!(kernel == serde_json::json!({"protocol": "7.32", "missing": missing}), "{kernel}");
    Ok(())
}

#[test]
fn linux_6_1_lacks_less() -> Result<()> {
    let Some(kernel) = smoke("6.1", 12)? else { return Ok(()) };
    let missing = ["passthrough", "no_export_support", "has_resend"];
    ensure!(kernel["missing"] == serde_json::json!(missing), "{kernel}");
    Ok(())
}

/// A root tree that the machine can boot: busybox, and tests/vm/root-init.
fn root_tree(scratch: &Scratch) -> Result<PathBuf> {
    let tree = scratch.dir("tree")?;
    for dir in ["bin", "sbin", "etc", "usr", "usr/doc", "proc", "sys", "dev", "run", "tmp"] {
        std::fs::create_dir(tree.join(dir))?;
    }
    std::fs::copy(program("busybox")?, tree.join("bin/busybox"))?;
    run(Command::new("chroot").arg(&tree).args(["/bin/busybox", "--install", "-s", "/bin"]))?;
    std::fs::copy(script("root-init"), tree.join("sbin/init"))?;
    for (file, text) in [("etc/issue", "image\n"), ("etc/old", "old\n"), ("usr/doc/d", "doc\n")] {
        std::fs::write(tree.join(file), text)?;
    }
    Ok(tree)
}

/// Boots `image` with the script of the initramfs, `word` on the kernel's command line, and looks at what the image's init
/// says. The kernel is one that asks for attributes by way of /proc, which is moved away under the daemon.
fn boots_with(word: &str, files: &[PathBuf]) -> Result<()> {
    let mut all = vec![acetate_bin()?, script("../../packaging/initramfs/init-bottom")];
    all.extend_from_slice(files);
    let said = boot("6.1", &script("root"), &all, &[("INIT", "1"), ("GUEST", word)])?;
    let expected = "acetate fuse.acetate\nimage\n/usr/doc: \nchanged\nold\na copied program runs\n\
         below: image, above: bin etc usr x \nthe daemon has its name\nread-only at the end\n";
    ensure!(said.starts_with(expected), "{said}\n--- expected\n{expected}");
    Ok(())
}

#[test]
fn a_squashfs_as_root_is_changed_in_memory() -> Result<()> {
    if !can_boot("squashfs-root", "6.1")? || !have("squashfs-root", &[Need::Root, Need::Tool("mksquashfs")])?
    {
        return Ok(());
    }
    let scratch = Scratch::new("squashfs-root")?;
    let image = scratch.path().join("root.img");
    run(Command::new("mksquashfs").arg(root_tree(&scratch)?).arg(&image).args(["-quiet", "-no-progress"]))?;
    boots_with("acetate.root=tmpfs", &[image])
}

#[test]
fn an_erofs_as_root_is_changed_on_a_disk() -> Result<()> {
    if !can_boot("erofs-root", "6.1")? || !have("erofs-root", &[Need::Root, Need::Tool("mkfs.erofs")])? {
        return Ok(());
    }
    let scratch = Scratch::new("erofs-root")?;
    let image = scratch.path().join("root.img");
    run(Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(root_tree(&scratch)?))?;
    boots_with("acetate.root=/dev/vdb", &[image, disk(&scratch)?])
}

/// Neither attributes nor devices nor symlinks: what is hidden is hidden by files.
#[test]
fn an_upper_layer_on_vfat() -> Result<()> {
    if !can_boot("vfat", "6.1")? || !have("vfat", &[Need::Tool("mkfs.vfat")])? {
        return Ok(());
    }
    let scratch = Scratch::new("vfat")?;
    let image = scratch.path().join("disk.img");
    File::create(&image)?.set_len(32 << 20)?;
    run(Command::new(program("mkfs.vfat")?).arg(&image))?;
    let said = boot("6.1", &script("vfat"), &[acetate_bin()?, image], &[])?;
    let tree = ". ./b ./c ./d ./d/n low b\nmore\nlow b\nmore\n";
    let expected = format!("no symlinks on vfat\n{tree}{tree}./.wh.a\n./d/.wh..wh..opq\n");
    ensure!(said.starts_with(&expected), "{said}\n--- expected\n{expected}");
    Ok(())
}

/// Programs write on while everything is frozen for a suspend, and thawed.
#[test]
fn a_suspend_loses_nothing() -> Result<()> {
    if !can_boot("suspend", "6.1")? {
        return Ok(());
    }
    let scratch = Scratch::new("suspend")?;
    let said = boot("6.1", &script("suspend"), &[acetate_bin()?, disk(&scratch)?], &[])?;
    ensure!(said.contains("nothing lost"), "{said}");
    println!("{said}");
    Ok(())
}
