//! The commands in docs/guides do what the text says: each page's are run as one script.
//!
//! A page begins with a comment `<!-- test: root` or `<!-- test: user`, and in it what has to be there before the reader's
//! first command. Its blocks of `sh` follow, in their order, until one fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};

use super::engines::run;

/// Who a page is for.
#[derive(Debug, PartialEq, Eq)]
enum Reader {
    Root,
    User,
}

/// The script that a page comes to.
fn script(page: &str) -> Result<(Reader, String)> {
    let (_, rest) = page.split_once("<!-- test: ").context("no test comment")?;
    let (reader, rest) = rest.split_once('\n').context("the test comment has no end")?;
    let (setup, rest) = rest.split_once("-->").context("the test comment has no end")?;
    let reader = match reader {
        "root" => Reader::Root,
        "user" => Reader::User,
        other => anyhow::bail!("no such reader: {other}"),
    };
    // Whatever a command leaves in a variable is there for the next; the last line that was begun is shown.
    let mut text = format!("set -eux\n{setup}\n");
    let mut blocks = 0;
    for block in rest.split("\n```sh\n").skip(1) {
        let (commands, _) = block.split_once("\n```").context("a block has no end")?;
        text += &format!("{commands}\n");
        blocks += 1;
    }
    ensure!(blocks > 0, "no blocks");
    Ok((reader, text))
}

fn follow(page: &str, tools: &[&'static str]) -> Result<()> {
    let tools = tools.iter().map(|tool| Need::Tool(tool));
    let needs: Vec<Need> = [Need::Root, Need::Fuse, Need::KernelOverlay, Need::Tool("unshare")]
        .into_iter()
        .chain(tools)
        .collect();
    if !have(page, &needs)? {
        return Ok(());
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (reader, text) = script(&fs::read_to_string(here.join("../docs/guides").join(page))?)?;
    let scratch = Scratch::new("guide")?;
    let bin = scratch.dir("bin")?;
    symlink(acetate_bin()?, bin.join("acetate"))?;
    let home = scratch.dir("home")?;
    let work = scratch.dir("home/work")?;
    let file = scratch.path().join("page.sh");
    fs::write(&file, format!("cd \"$D\"\n{text}"))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh"]);
    match reader {
        Reader::Root => command.arg(&file).env("D", &work).env("HOME", &home),
        Reader::User => command.arg(here.join("engines/rootless.sh")).arg(&file).env("D", scratch.path()),
    };
    command.env("PATH", path).env("ACETATE", acetate_bin()?);
    command.env("ACETATE_STORE", work.join("store"));
    command.env("CONTAINERS_CONF", here.join("images/containers.conf"));
    run(&mut command).map(drop)
}

#[test]
fn rootless_podman() -> Result<()> {
    follow("rootless-podman.md", &["podman", "runc", "newuidmap", "setpriv", "busybox"])
}

#[test]
fn ci_without_privilege() -> Result<()> {
    follow("ci-without-privilege.md", &["newuidmap", "setpriv", "busybox"])
}

#[test]
fn agent_copy() -> Result<()> {
    follow("agent-copy.md", &["git"])
}

#[test]
fn many_images() -> Result<()> {
    follow("many-images.md", &["busybox"])
}

#[test]
fn from_fuse_overlayfs() -> Result<()> {
    follow("from-fuse-overlayfs.md", &[])
}

#[test]
fn from_kernel_overlayfs() -> Result<()> {
    follow("from-kernel-overlayfs.md", &[])
}

/// No page without its test.
#[test]
fn all_pages_are_followed() -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides");
    let followed = include_str!("guides.rs");
    for entry in fs::read_dir(here)? {
        let name = entry?.file_name().into_string().map_err(|name| anyhow::anyhow!("{name:?}"))?;
        ensure!(followed.contains(&format!("follow(\"{name}\"")), "{name} has no test");
    }
    Ok(())
}
