//! Container engines that mount through Acetate: the scripts in tests/engines, against the installed program.

use std::path::Path;
use std::process::Command;

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result};

use super::engines::{Guard, Registry, run};

const NEEDS: [Need; 4] = [Need::Root, Need::Fuse, Need::KernelOverlay, Need::Tool("busybox")];

fn can(name: &str, tools: &[&'static str]) -> Result<bool> {
    let tools = tools.iter().map(|tool| Need::Tool(tool));
    have(name, &NEEDS.into_iter().chain(tools).collect::<Vec<_>>())
}

/// Runs a script of tests/engines in a scratch directory, in a mount namespace of its own, as `wrapper` does if one is
/// given.
fn script(name: &str, wrapper: Option<&str>, variables: &[(&str, &str)]) -> Result<()> {
    let scratch = Scratch::new("engine")?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let engines = here.join("engines");
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh"]);
    command.args(wrapper.map(|wrapper| engines.join(wrapper))).arg(engines.join(name));
    command.env("D", scratch.path()).env("ACETATE", acetate_bin()?);
    command.env("CONTAINERS_CONF", here.join("images/containers.conf")).envs(variables.iter().copied());
    run(&mut command).map(drop)
}

const PODMAN: [&str; 3] = ["podman", "runc", "unshare"];

#[test]
fn podman_mounts_by_us_and_shares_its_store_with_the_kernel() -> Result<()> {
    if !can("podman", &PODMAN)? {
        return Ok(());
    }
    script("podman.sh", None, &[("SHARED", "yes")])
}

#[test]
fn podman_without_root_mounts_by_us() -> Result<()> {
    if !can("rootless podman", &[&PODMAN[..], &["newuidmap", "setpriv"]].concat())? {
        return Ok(());
    }
    script("podman.sh", Some("rootless.sh"), &[])
}

#[test]
fn dockers_fuse_overlayfs_driver_finds_us() -> Result<()> {
    if !can("docker", &["dockerd", "docker", "docker-init", "docker-registry", "unshare"])? {
        return Ok(());
    }
    let scratch = Scratch::new("registry")?;
    let registry = Registry::start(&scratch.dir("registry")?, Guard::default())?;
    script("docker.sh", None, &[("REGISTRY", &format!("127.0.0.1:{}", registry.port))])
}

#[test]
fn containerd_uses_our_snapshotter_with_the_kernels_overlays() -> Result<()> {
    if !can("containerd", &["containerd", "ctr", "runc", "unshare"])? {
        return Ok(());
    }
    script("containerd.sh", None, &[("DRIVER", "kernel"), ("MANY", "50")])
}

#[test]
fn containerd_uses_our_snapshotter_with_our_overlays() -> Result<()> {
    if !can("containerd over FUSE", &["containerd", "ctr", "runc", "unshare", "mount.fuse3"])? {
        return Ok(());
    }
    script("containerd.sh", None, &[("DRIVER", "fuse"), ("MANY", "10")])
}

/// The manifest in the documentation gives the snapshotter all that it needs, and no more is taken here.
#[test]
fn the_capabilities_of_the_daemon_set_suffice() -> Result<()> {
    if !can("capabilities of the snapshotter", &["containerd", "ctr", "runc", "unshare", "setpriv"])? {
        return Ok(());
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/containerd.md");
    let text = std::fs::read_to_string(page)?;
    let (_, after) = text.split_once("drop: [ALL], add: [").context("the manifest names no capabilities")?;
    let (names, _) = after.split_once(']').context("the manifest names no capabilities")?;
    let kept = names.split(", ").fold("-all".to_owned(), |all, name| all + ",+" + &name.to_lowercase());
    let wrapper = format!("setpriv --bounding-set {kept} --inh-caps {kept} --no-new-privs");
    script("containerd.sh", None, &[("DRIVER", "kernel"), ("MANY", "3"), ("WRAPPER", &wrapper)])
}

/// As Kubernetes asks for a pod.
#[test]
fn a_pod_lives_by_the_container_runtime_interface() -> Result<()> {
    let tools = ["containerd", "ctr", "runc", "unshare", "mount.fuse3", "curl", "protoc"];
    if !can("container runtime interface", &tools)? {
        return Ok(());
    }
    script("cri.sh", None, &[("DRIVER", "kernel")])?;
    script("cri.sh", None, &[("DRIVER", "fuse")])
}

/// As Apptainer uses overlays: image files below, memory above, no privilege.
#[test]
fn users_write_over_image_files() -> Result<()> {
    if !can("image files", &["mksquashfs", "squashfuse", "mkfs.erofs", "setpriv", "unshare"])?
        || !have("image files", &[Need::Loop])?
    {
        return Ok(());
    }
    script("hpc-root.sh", None, &[])
}
