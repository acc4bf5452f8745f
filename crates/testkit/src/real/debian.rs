//! A Debian (or Ubuntu) root tree as the lower layer; packages installed in a chroot on the merged tree.
//!
//! dpkg is a hard customer: it writes each file beside its place, links the old one away, renames, and syncs; package
//! scripts make users, alternatives and caches. The tree comes from `tests/install`, packages from the mirror that
//! apt on this machine uses.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::{LIMIT, Place, expect_eq, run_in};
use crate::driver::Driver;
use crate::{exec, need};

/// Installed on top: dependencies, alternatives, a trigger, a service user with its own directory.
const INSTALL: &str = "man-db vim-tiny";

/// Installed again over the lower layer's files.
const REINSTALL: &str = "dash gzip sed";

/// Runs `$2` in a chroot at `$1`, with /proc and /dev in a mount namespace that vanishes with it.
const CHROOT: &str = r#"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
exec chroot "$1" /bin/sh -ec "$2"
"#;

/// Installs, reinstalls and purges packages on a mount of `driver`; dpkg has to find every file as packaged.
pub fn apt_get_install(driver: &Driver) -> anyhow::Result<String> {
    let mut place = Place::new(driver, "acetate-debian", |lower, _| {
        let mut tar = Command::new("tar");
        tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]).arg(need::root_tree());
        exec::stdout_of(tar.arg("-C").arg(lower), LIMIT).map(drop)
    })?;
    let root = place.merged.clone();
    copy_host_network(&root)?;
    in_chroot(&root, "apt-get -qq update")?;
    verify(&root).context("before anything was installed")?;
    in_chroot(&root, &format!("apt-get -qq -y --no-install-recommends install {INSTALL}"))?;
    verify(&root).context("after apt-get install")?;
    in_chroot(&root, &format!("apt-get -qq -y --reinstall install {REINSTALL}"))?;
    in_chroot(&root, "vi --version | head -n 1 | grep -q VIM; man -w man >/dev/null; echo aXb | sed s/X/Y/")
        .and_then(|out| expect_eq(&out.trim(), &"aYb", "programs in the chroot"))?;
    place.remount()?;
    in_chroot(&root, "apt-get -qq -y purge vim-tiny; apt-get -qq -y autoremove; apt-get clean")?;
    verify(&root).context("after apt-get purge")?;
    let packages = in_chroot(&root, "dpkg-query -W | wc -l")?;
    let files = run_in(&root, "find . -xdev")?.lines().count();
    place.finish(verify)?;
    Ok(format!("{INSTALL} installed, {REINSTALL} reinstalled: {} packages, {files} files", packages.trim()))
}

/// Every file has the checksum its package says, and no package is half-way.
fn verify(root: &Path) -> anyhow::Result<()> {
    let said = in_chroot(root, "dpkg --verify; dpkg --audit; apt-get -qq check")?;
    expect_eq(&said.trim(), &"", "dpkg --verify, dpkg --audit, apt-get check")
}

/// Names, hosts and certificates as on this machine; proxies come in the environment and in the tree's apt settings.
fn copy_host_network(root: &Path) -> anyhow::Result<()> {
    for file in ["etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"] {
        let from = Path::new("/").join(file);
        if from.exists() {
            let to = root.join(file);
            // The tree may have a symbolic link there that leads nowhere.
            if to.is_symlink() {
                std::fs::remove_file(&to)?;
            }
            std::fs::copy(&from, &to).with_context(|| format!("copying {file}"))?;
        }
    }
    Ok(())
}

/// Runs a shell script in the tree and returns its stdout; services are not started there.
fn in_chroot(root: &Path, script: &str) -> anyhow::Result<String> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--fork", "--kill-child", "sh", "-ec", CHROOT, "sh"]).arg(root).arg(script);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env_remove("TMPDIR");
    let done = exec::run(&mut command, LIMIT)?;
    if !done.status.success() {
        bail!("in the chroot: {script}: {}: {}", done.status, done.tail(30));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
