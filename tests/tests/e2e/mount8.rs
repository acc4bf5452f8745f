//! mount(8), fstab and systemd: `acetate` as a mount helper.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};

use super::engines::run;

const NEEDS: [Need; 4] = [Need::Root, Need::Fuse, Need::KernelOverlay, Need::Tool("unshare")];

/// Layers in `l`, `u`, `w`, a mount point `m`, and a directory `sbin` with `acetate` under the names in `names`.
fn stage(name: &str, names: &[&str]) -> Result<Scratch> {
    let scratch = Scratch::new(name)?;
    for dir in ["l", "u", "w", "m", "sbin"] {
        scratch.dir(dir)?;
    }
    fs::write(scratch.path().join("l/a"), "lower")?;
    for name in names {
        symlink(acetate_bin()?, scratch.path().join("sbin").join(name))?;
    }
    Ok(scratch)
}

/// Runs a script in a mount namespace of its own, where `sbin` of the scratch directory lies over /usr/sbin, so that
/// mount(8) finds its helpers. `$D` is the scratch directory, `$O` options that mount its layers.
fn script(scratch: &Scratch, text: &str) -> Result<String> {
    let dir = scratch.path().display();
    let prologue = format!(
        "set -eu; D={dir}; cd $D; O=lowerdir=$D/l,upperdir=$D/u,workdir=$D/w
         mount -t overlay -o lowerdir=$D/sbin:/usr/sbin overlay /usr/sbin
         shown() {{ findmnt -no SOURCE,FSTYPE,OPTIONS $D/m | sed 's/  */ /g; s/,user_id.*//'; }}
         count() {{ findmnt -rno TARGET | grep -c \"^$D/m\\$\"; }}\n"
    );
    run(Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", &(prologue + text)]))
}

#[test]
fn mount_finds_its_helper_and_ignores_what_is_not_for_it() -> Result<()> {
    if !have("mount8", &NEEDS)? {
        return Ok(());
    }
    let scratch = stage("mount8", &["mount.acetate", "mount.fuse.acetate"])?;
    let said = script(
        &scratch,
        "mount -t acetate src m -o lowerdir=l,upperdir=u,workdir=w,noatime,nofail,_netdev,x-systemd.automount,defaults
         shown; cat m/a; umount m; echo; count || true
         mount -t fuse.acetate src m -o $O,nosuid,comment=x,user
         shown; umount m
         mount -f -t acetate src m -o $O; count || true
         mount -s -t acetate src m -o $O,bogus; shown; umount m
         mount -t acetate src m -o $O,bogus 2>err || { echo $?; cat err; }
         mount -t acetate src m -o lowerdir=$D/none,upperdir=u,workdir=w 2>err || { echo $?; cat err; }",
    )?;
    let expected = format!(
        "src fuse.acetate rw,noatime\nlower\n0\n\
         src fuse.acetate rw,nosuid,nodev,noexec,relatime\n0\nsrc fuse.acetate rw,relatime\n1\n\
         acetate: option bogus: unknown option\n\
         hint: the options are those of the kernel's overlayfs and of mount(8); docs/cli.md lists them\n32\n\
         acetate: lower layer: {}/none: no such file or directory\nhint: ",
        scratch.path().display()
    );
    ensure!(said.starts_with(&expected), "{said}\n--- expected\n{expected}");
    Ok(())
}

#[test]
fn a_remount_changes_flags_or_says_why_not() -> Result<()> {
    if !have("remount", &NEEDS)? {
        return Ok(());
    }
    let scratch = stage("remount", &["mount.acetate", "mount.fuse.acetate"])?;
    let said = script(
        &scratch,
        "no() { echo \"$?: $(head -n 1 err)\"; }
         mount -t acetate src m -o $O,nosuid; mount -o remount,ro m; shown; count
         touch m/x 2>err && exit 1
         mount -o remount,rw,noexec m; shown; count; touch m/x
         mount -o remount,rw,upperdir=$D m 2>err || no
         mount -o remount,metacopy=on m 2>err || no
         exec 3>m/open; mount -o remount,ro m 2>err || no; exec 3>&-
         mount -t acetate src m -o remount,ro,$O; shown; umount m
         mount -t acetate src m -o $O,ro; mount -o remount,rw m 2>err || no; umount m
         mount -t acetate src m -o lowerdir=l:u; mount -o remount,rw m 2>err || no; umount m
         /usr/sbin/mount.acetate src $D/m -o remount,rw 2>err || no; count || true",
    )?;
    let m = scratch.path().join("m");
    let m = m.display();
    let expected = format!(
        "src fuse.acetate ro,nosuid,relatime\n1\nsrc fuse.acetate rw,nosuid,noexec,relatime\n1\n\
         32: acetate: remount: upperdir cannot be changed while mounted\n\
         32: acetate: remount: metacopy cannot be changed while mounted\n\
         32: acetate: remount: {m}: device or resource busy\n\
         src fuse.acetate ro,relatime\n\
         32: acetate: remount: ro, with which it was mounted, cannot be changed while mounted\n\
         32: acetate: remount: rw: it has no upper layer\n\
         32: acetate: remount: {m}: no overlay of acetate is mounted there\n0"
    );
    ensure!(said == expected, "{said}\n--- expected\n{expected}");
    Ok(())
}

#[test]
fn an_fstab_line_mounts_once_and_makes_a_unit() -> Result<()> {
    let generator = Path::new("/usr/lib/systemd/system-generators/systemd-fstab-generator");
    if !have("fstab", &NEEDS)? {
        return Ok(());
    }
    let scratch = stage("fstab", &["mount.acetate"])?;
    let dir = scratch.path().display();
    let line = format!(
        "ovl {dir}/m acetate lowerdir={dir}/l,upperdir={dir}/u,workdir={dir}/w,nodev,nofail,\
         x-systemd.requires-mounts-for={dir}/l 0 0\n"
    );
    fs::write(scratch.path().join("fstab"), line)?;
    let said = script(
        &scratch,
        "mount -a -T fstab; mount -a -T fstab; shown; count; mount -T fstab -o remount,ro m; shown; umount m
         mount -T fstab m; shown; umount m; findmnt --verify -F fstab | grep -c '\\[E\\]' || true",
    )?;
    let shown = "ovl fuse.acetate rw,nodev,relatime";
    ensure!(said == format!("{shown}\n1\n{}\n{shown}\n0", shown.replace("rw", "ro")), "{said}");
    if generator.exists() {
        let units = scratch.dir("units")?;
        let mut command = Command::new(generator);
        command.args([&units, &units, &units]).env("SYSTEMD_FSTAB", scratch.path().join("fstab"));
        run(&mut command)?;
        let unit = run(Command::new("sh").arg("-c").arg(format!("cat {}/*.mount", units.display())))?;
        ensure!(unit.contains("Type=acetate") && unit.contains("RequiresMountsFor="), "{unit}");
    }
    Ok(())
}

/// Where no helper is installed, mount(8) has mount.fuse3 run the program by its own name.
#[test]
fn without_a_helper_the_program_itself_is_called() -> Result<()> {
    let mut needs = NEEDS.to_vec();
    needs.push(Need::Tool("mount.fuse3"));
    if !have("mount.fuse3", &needs)? {
        return Ok(());
    }
    let scratch = stage("mount-fuse3", &["acetate"])?;
    let said = script(
        &scratch,
        "mount -t fuse.acetate src m -o $O; shown; umount m
         mount.fuse3 overlay $D/m -o lowerdir=$D/l -o upperdir=$D/u -o workdir=$D/w -t acetate; shown; umount m
         acetate -o lowerdir=$D/l,upperdir=$D/u,workdir=$D/w,,private $D/m; shown; umount m",
    )?;
    let options = "fuse.acetate rw,relatime";
    ensure!(said == format!("src {options}\noverlay {options}\nacetate {options}"), "{said}");
    Ok(())
}

/// A service of `Type=notify` has started when the mount can be used, and not before.
#[test]
fn a_foreground_mount_tells_the_service_manager() -> Result<()> {
    if !have("notify", &[Need::Root, Need::Fuse])? {
        return Ok(());
    }
    let scratch = stage("notify", &[])?;
    let path = |name: &str| scratch.path().join(name);
    let socket = UnixDatagram::bind(path("socket"))?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut child = Command::new(acetate_bin()?)
        .args(["mount", "-f", "--lower", "l", "--upper", "u", "--work", "w", "m"])
        .current_dir(scratch.path())
        .env("NOTIFY_SOCKET", path("socket"))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut message = [0; 512];
    let length = socket.recv(&mut message);
    let usable = fs::read_to_string(path("m/a"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let status = child.wait()?;
    let mut said = String::new();
    child.stderr.take().context("no standard error")?.read_to_string(&mut said)?;
    let text = String::from_utf8_lossy(&message[..length.context(said.clone())?]).into_owned();
    let expected = format!("READY=1\nSTATUS=mounted at {}\n", PathBuf::from("m").display());
    ensure!(text == expected && usable? == "lower" && status.success(), "{text} {status} {said}");
    Ok(())
}
