//! What is released: packed by packaging/release, installed in a fresh root directory, and used there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have, root_tree};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};

use super::engines::run;

const NEEDS: [Need; 5] =
    [Need::Root, Need::Fuse, Need::KernelOverlay, Need::RootTree, Need::Tool("dpkg-deb")];

/// Packs the program under test into `dist`.
fn release(dist: &Path) -> Result<()> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/release");
    run(Command::new(program).arg(acetate_bin()?).env("DIST", dist).env("SOURCE_DATE_EPOCH", "1700000000"))
        .map(drop)
}

fn find(dist: &Path, ending: &str) -> Result<PathBuf> {
    let mut paths = fs::read_dir(dist)?.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.to_string_lossy().ends_with(ending)).with_context(|| format!("no {ending}"))
}

/// Runs a script in a Debian root tree with the release in /dist; the tree is read-only below an overlay in memory.
fn in_debian(dist: &Path, script: &str) -> Result<String> {
    let scratch = Scratch::new("packages")?;
    let tree = scratch.dir("tree")?;
    run(Command::new("tar").args(["--numeric-owner", "-xpf"]).arg(root_tree()).arg("-C").arg(&tree))?;
    fs::create_dir(tree.join("dist"))?;
    let text = format!(
        "set -e; cd {0}; mount -t proc proc proc; mount --rbind /dev dev; mount --bind {1} dist
         mount -t tmpfs tmpfs mnt
         exec chroot . /bin/sh -ec '{script}'",
        tree.display(),
        dist.display()
    );
    run(Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", &text]))
}

/// What a user does first with what was installed: mount by mount(8), and look at it.
const USE: &str = "
    mkdir /mnt/l /mnt/u /mnt/w /mnt/m; echo low >/mnt/l/f
    mount -t acetate none /mnt/m -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w >/dev/null 2>&1
    cat /mnt/m/f; echo new >/mnt/m/n; umount /mnt/m; cat /mnt/u/n";

/// Packed twice, and then used: packing takes longer than all else.
#[test]
fn a_release_is_reproducible_complete_and_installs() -> Result<()> {
    if !have("release", &NEEDS)? {
        return Ok(());
    }
    let scratch = Scratch::new("release")?;
    let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
    release(&one)?;
    release(&two)?;
    let sums = fs::read_to_string(one.join("SHA256SUMS"))?;
    ensure!(sums == fs::read_to_string(two.join("SHA256SUMS"))?, "the same binary gives the same files");
    run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&one))?;
    ensure!(sums.lines().count() == 3, "{sums}");
    says_what_it_is_made_of(&find(&one, ".cdx.json")?)?;
    installs_as_a_package(&one)?;
    installs_from_the_archive(&one)
}

fn says_what_it_is_made_of(bill: &Path) -> Result<()> {
    let bill: serde_json::Value = serde_json::from_slice(&fs::read(bill)?)?;
    let components = bill["components"].as_array().context("no components")?;
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    ensure!(named("rustix").is_some_and(|found| found["hashes"][0]["content"].is_string()));
    ensure!(named("proptest").is_none(), "what only tests is no part");
    ensure!(components.iter().all(|component| component["licenses"].is_array()), "a licence for each");
    Ok(())
}

fn installs_as_a_package(dist: &Path) -> Result<()> {
    let said = in_debian(
        dist,
        &format!(
            "dpkg -i /dist/*.deb >/dev/null; dpkg --verify acetate; acetate --version | cut -d\" \" -f1{USE}
             dpkg -L acetate | grep -c systemd/system/acetate
             dpkg -P acetate >/dev/null; ls /usr/bin/acetate /usr/sbin/mount.acetate 2>/dev/null || echo gone"
        ),
    )?;
    ensure!(said == "acetate\nlow\nnew\n2\ngone", "{said}");
    Ok(())
}

fn installs_from_the_archive(dist: &Path) -> Result<()> {
    let said = in_debian(
        dist,
        &format!(
            "mkdir /tmp/a; tar -C /tmp/a --strip-components 1 -xzf /dist/*.tar.gz
             /tmp/a/install.sh | cut -d\" \" -f1{USE}
             /tmp/a/install.sh --uninstall; ls /usr/local/bin
             HOME=/tmp/home /tmp/a/install.sh --user >/dev/null; ls /tmp/home/.local/bin"
        ),
    )?;
    ensure!(said == "acetate\nlow\nnew\nacetate", "{said}");
    Ok(())
}

/// systemd takes the units as they are installed. The program is not in its place here, so they name where it is.
#[test]
fn units_are_what_systemd_expects() -> Result<()> {
    if !have("units", &[Need::Tool("systemd-analyze")])? {
        return Ok(());
    }
    let scratch = Scratch::new("units")?;
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let program = acetate_bin()?.display().to_string();
    let mut units = Vec::new();
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        ensure!(text.contains("ExecStart=/usr/bin/acetate "), "{}", path.display());
        let unit = scratch.path().join(path.file_name().context("no name")?);
        fs::write(&unit, text.replace("/usr/bin/acetate", &program))?;
        units.push(unit);
    }
    ensure!(units.len() == 2, "{units:?}");
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["verify", "--man=no", "--recursive-errors=no"]).args(&units).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::Ok((output.status.success(), said))
    };
    ensure!(verify()? == (true, String::new()), "{:?}", verify()?);
    // What it says of a unit that is wrong.
    fs::write(&units[0], "[Service]\nType=never\nExecStart=/bin/true\n")?;
    ensure!(verify()?.1.contains("never"), "{:?}", verify()?);
    Ok(())
}
