//! Owners, modes and whiteouts that are shown otherwise than they are stored.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use acetate_testkit::driver::{Driver, Mounted, Stack, acetate_bin, is_mounted};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Result, ensure};

/// Layers `l2` below `l`, upper, work and the mount point, filled by a shell script.
struct Stage {
    scratch: Scratch,
}

impl Stage {
    fn new(name: &str, script: &str) -> Result<Stage> {
        let stage = Stage { scratch: Scratch::new(name)? };
        for dir in ["l", "l2", "u", "w", "m"] {
            stage.scratch.dir(dir)?;
        }
        stage.sh(script)?;
        Ok(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Runs a script in the scratch directory and returns what it prints.
    fn sh(&self, script: &str) -> Result<String> {
        sh(self.scratch.path(), script)
    }

    fn mount(&self, options: &str) -> Result<Mounted> {
        let stack = Stack::writable([self.path("l"), self.path("l2")], self.path("u"), self.path("w"));
        Ok(Driver::acetate()?.mount(&stack, &self.path("m"), options)?)
    }

    /// Mounts with these options, runs a script and unmounts.
    fn with(&self, options: &str, script: &str) -> Result<String> {
        let mounted = self.mount(options)?;
        let said = self.sh(script)?;
        mounted.unmount()?;
        Ok(said)
    }
}

fn sh(dir: &Path, script: &str) -> Result<String> {
    let output = Command::new("sh").args(["-euc", script]).current_dir(dir).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{script}: {}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

fn can(name: &str) -> Result<bool> {
    have(name, &[Need::Root, Need::Fuse])
}

#[test]
fn mapped_ids_are_translated_both_ways() -> Result<()> {
    if !can("mapped_ids_are_translated_both_ways")? {
        return Ok(());
    }
    let stage = Stage::new(
        "owners",
        "echo a >l/a; chown 1:1 l/a; mkdir l/d; echo b >l/b; chown 9000:9000 l/b; chmod 4755 l/b",
    )?;
    let options = "uidmapping=0:1000:1:1:2000:100,gidmapping=0:1000:1:1:2000:100";
    let said = stage.with(
        options,
        "stat -c %u:%g m/d m/a m/b
         chown 2005:1000 m/a; stat -c %u:%g m/a
         setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo x >m/d/new'; stat -c %u:%g m/d/new
         ! chown 5:5 m/a 2>/dev/null
         echo more >>m/b; stat -c %u:%g:%a m/b",
    )?;
    assert_eq!(said, "1000:1000\n2000:2000\n65534:65534\n2005:1000\n1000:1000\n65534:65534:4755\n");
    // As stored; an owner that cannot be shown is kept.
    assert_eq!(stage.sh("stat -c %u:%g u/a u/d/new u/b")?, "6:0\n0:0\n9000:9000\n");
    // A plain mount shows what is stored.
    assert_eq!(stage.with("", "stat -c %u:%g m/a m/b")?, "6:0\n9000:9000\n");
    Ok(())
}

#[test]
fn squashed_owners_are_all_one() -> Result<()> {
    if !can("squashed_owners_are_all_one")? {
        return Ok(());
    }
    let stage = Stage::new("owners", "echo a >l/a; chown 5:6 l/a; mkdir l/d; chown 5:6 l/d")?;
    let said = stage.with(
        "squash_to_uid=1234,squash_to_gid=4321",
        "stat -c %u:%g m/a m/d; chown 9:9 m/a; echo x >m/new; stat -c %u:%g m/a m/new",
    )?;
    assert_eq!(said, "1234:4321\n1234:4321\n1234:4321\n1234:4321\n");
    assert_eq!(stage.sh("stat -c %u:%g u/a u/new")?, "5:6\n1234:4321\n");
    assert_eq!(stage.with("squash_to_root", "stat -c %u:%g m/a m/new")?, "0:0\n0:0\n");
    assert_eq!(stage.with("squash_to_root,squash_to_uid=7", "stat -c %u:%g m/a")?, "7:0\n");
    Ok(())
}

#[test]
fn records_hold_owners_and_modes() -> Result<()> {
    let name = "records_hold_owners_and_modes";
    if !have(name, &[Need::Root, Need::Fuse, Need::Tool("setfattr")])? {
        return Ok(());
    }
    let stage = Stage::new(
        "owners",
        "echo a >l/a; setfattr -n user.containers.override_stat -v 10:20:0640 l/a
         mkdir l/d; setfattr -n user.containers.override_stat -v 10:20:02755 l/d
         echo b >l/b; setfattr -n user.fuseoverlayfs.override_stat -v 1:2:100600 l/b",
    )?;
    let said = stage.with(
        "xattr_permissions=2",
        "umask 022; stat -c %u:%g:%a m/a m/d m/b
         chown 3:4 m/a; chmod 4711 m/a; stat -c %u:%g:%a m/a
         echo x >>m/a; mkdir m/d/s; echo n >m/d/f; stat -c %u:%g:%a m/d/s m/d/f
         setpriv --reuid 7 --regid 8 --clear-groups sh -c '! echo no >>m/b' 2>/dev/null
         getfattr -d m/a m/d 2>/dev/null; chmod 0 m/d/s; ls m/d/s; mkdir m/plain; stat -c %a m/plain",
    )?;
    assert_eq!(said, "10:20:640\n10:20:2755\n1:2:600\n3:4:4711\n0:20:2755\n0:20:644\n755\n");
    let stored = stage.sh(
        "stat -c %u:%g:%a u/a u/d/s u/plain; getfattr --only-values -n user.containers.override_stat u/a u/d/s u/d",
    )?;
    assert_eq!(stored, "0:0:640\n0:0:755\n0:0:755\n3:4:047110:20:0200010:20:02755");
    let again = stage.with("xattr_permissions=2", "stat -c %u:%g:%a m/a m/d/s m/d/f; cat m/a")?;
    assert_eq!(again, "3:4:4711\n0:20:2000\n0:20:644\na\nx\n");
    Ok(())
}

/// As container engines unpack layers for a mount program. Only where asked for, and only in the layers named.
#[test]
fn whiteouts_of_archives_are_read_where_asked_for() -> Result<()> {
    if !can("whiteouts_of_archives_are_read_where_asked_for")? {
        return Ok(());
    }
    let stage = Stage::new(
        "owners",
        "cd l2; touch gone kept; mkdir dir opaque both; touch dir/in opaque/old both/old; cd ../l
         touch .wh.gone .wh.dir opaque.txt; mkdir opaque both; touch opaque/.wh..wh..opq opaque/new both/new .wh.both",
    )?;
    let look =
        "cd m; find . -mindepth 1 | sort | tr '\\n' ' '; ls -d gone dir opaque/old .wh.gone 2>&1 | wc -l";
    let plain = "./.wh.both ./.wh.dir ./.wh.gone ./both ./both/new ./both/old ./dir ./dir/in ./gone ./kept \
                 ./opaque ./opaque.txt ./opaque/.wh..wh..opq ./opaque/new ./opaque/old 4\n";
    let read = "./both ./both/new ./kept ./opaque ./opaque.txt ./opaque/new 4\n";
    assert_eq!(stage.with("", look)?, plain);
    assert_eq!(stage.with("oci_whiteouts=2", look)?, plain);
    assert_eq!(stage.with("oci_whiteouts", look)?, read);
    let changed = stage.with(
        "oci_whiteouts=1",
        "cd m; echo new >gone; mkdir dir; touch .wh.kept; rm -r opaque; mkdir opaque; ls -A . dir opaque; cat gone",
    )?;
    assert_eq!(changed, ".:\n.wh.kept\nboth\ndir\ngone\nkept\nopaque\nopaque.txt\n\ndir:\n\nopaque:\nnew\n");
    Ok(())
}

/// The program that container engines call reads what they have unpacked, without being told.
#[test]
fn called_as_fuse_overlayfs_it_reads_archives() -> Result<()> {
    if !can("called_as_fuse_overlayfs_it_reads_archives")? {
        return Ok(());
    }
    let stage = Stage::new(
        "owners",
        "touch l2/gone l2/kept l/.wh.gone; mkdir l2/d; touch l2/d/old; mkdir u/d
         setfattr -n user.fuseoverlayfs.opaque -v y u/d",
    )?;
    std::os::unix::fs::symlink(acetate_bin()?, stage.path("fuse-overlayfs"))?;
    stage.sh("./fuse-overlayfs -o lowerdir=l:l2,upperdir=u,workdir=w,,volatile,private m")?;
    let said = stage.sh("ls -A m m/d; umount m")?;
    assert!(!is_mounted(&stage.path("m"))?);
    assert_eq!(said, "m:\nd\nkept\n\nm/d:\n");
    assert!(fs::exists(stage.path("u/d"))?);
    Ok(())
}

#[test]
fn directories_show_one_link_and_numbers_have_32_bits_where_asked_for() -> Result<()> {
    if !can("directories_show_one_link_and_numbers_have_32_bits_where_asked_for")? {
        return Ok(());
    }
    let stage = Stage::new("owners", "mkdir -p u/d/a u/d/b")?;
    assert_eq!(stage.with("", "stat -c %h m/d")?, "4\n");
    assert_eq!(
        stage.with("static_nlink,ino32_t", "stat -c %h m/d; [ $(stat -c %i m/d) -lt 4294967296 ]")?,
        "1\n"
    );
    Ok(())
}
