//! Who may do what: the second of the two checks, by the mounter's rights, gives nobody more than the first one, by what
//! the mount shows. Among the tests are the security holes that overlay filesystems have had, by their numbers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use acetate_testkit::driver::{Driver, Stack, acetate_bin};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};

/// The ordinary user who mounts, and another one.
const MOUNTER: u32 = 1000;

/// Tests that open the device to all take turns.
static DEVICE: Mutex<()> = Mutex::new(());

struct Stage {
    scratch: Scratch,
}

impl Stage {
    /// `l`, `u`, `w`, `m` and what a script makes of them.
    fn new(script: &str) -> Result<Stage> {
        let stage = Stage { scratch: Scratch::new("permissions")? };
        for dir in ["l", "u", "w", "m"] {
            stage.scratch.dir(dir)?;
        }
        fs::set_permissions(stage.scratch.path(), fs::Permissions::from_mode(0o755))?;
        stage.run(0, script)?;
        Ok(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Runs a script in the scratch directory as that user and returns what it prints, errors included.
    fn run(&self, uid: u32, script: &str) -> Result<String> {
        run(self.scratch.path(), uid, script)
    }

    /// As root, with a mount that shows `l` below `u`, and once more on the kernel's.
    fn both(script: &str, uid: u32, act: &str) -> Result<[String; 2]> {
        let mut said = [String::new(), String::new()];
        for (driver, said) in [Driver::acetate()?, Driver::Kernel].iter().zip(&mut said) {
            let stage = Stage::new(script)?;
            let stack = Stack::writable([stage.path("l")], stage.path("u"), stage.path("w"));
            let mounted = driver.mount(&stack, &stage.path("m"), "")?;
            *said = stage.run(uid, &format!("cd m; {act}")).context(driver.name())?;
            mounted.unmount()?;
        }
        Ok(said)
    }
}

fn run(dir: &Path, uid: u32, script: &str) -> Result<String> {
    let mut command = Command::new("setpriv");
    let id = uid.to_string();
    if uid != 0 {
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    }
    let output = command
        .args(["sh", "-euc", &format!("umask 022; exec 2>&1; {script}")])
        .env("ACETATE", acetate_bin()?)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{script}: {}: {said}", output.status);
    Ok(said)
}

fn can(name: &str) -> Result<bool> {
    have(name, &[Need::Root, Need::Fuse, Need::KernelOverlay, Need::Tool("setfattr"), Need::Tool("setpriv")])
}

/// Lets an ordinary user mount, and runs a script as that user.
fn as_mounter(stage: &Stage, script: &str) -> Result<String> {
    let _turn = DEVICE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let device = Path::new("/dev/fuse");
    let before = fs::metadata(device)?.permissions();
    fs::set_permissions(device, fs::Permissions::from_mode(0o666))?;
    let said = stage.run(MOUNTER, script);
    fs::set_permissions(device, before)?;
    said
}

const MOUNT: &str = "\"$ACETATE\" mount -o lowerdir=l,upperdir=u,workdir=w m";
const UMOUNT: &str = "cd \"$OLDPWD\"; \"$ACETATE\" umount m";

/// Private attributes of an ordinary user's mount can be read by who may read the object: the others are shown all the same,
/// and what a directory hides stays hidden.
#[test]
fn what_its_mode_closes_to_the_mounter_is_shown() -> Result<()> {
    const NAME: &str = "what_its_mode_closes_to_the_mounter_is_shown";
    if !can(NAME)? || !have(NAME, &[Need::Tool("fusermount3")])? {
        return Ok(());
    }
    let tree = "chown 1000:1000 . u w m; for l in l u; do echo secret >$l/shadow-$l; chmod 600 $l/shadow-$l; done
        mkdir -m 700 l/root; mkdir l/d l/e l/g; touch l/d/x l/e/x l/g/x; echo f >l/f; chown -R 1000:1000 l/[defg]; chown 1000 l";
    let look = "for n in *; do stat -c '%n %a %u' $n; done";
    let stage = Stage::new(tree)?;
    let script = format!(
        "{MOUNT}; cd m; exec 3<f; chmod 0 f; cat <&3; exec 3<&-; echo new >new; chmod 0 new; mkdir -m 0 own
         rm -r d e g/x; mkdir -m 300 d; mkdir -m 555 e; chmod 0 g; {look}; {UMOUNT}; echo; {MOUNT}; cd m; {look}
         chmod 755 own d e f g new; cat f new; echo; echo */*; {UMOUNT}; echo; {MOUNT}; cd m; echo */*; {UMOUNT}"
    );
    let said = as_mounter(&stage, &script)?;
    let said: Vec<&str> = said.lines().filter(|line| !line.contains("user.overlay")).collect();
    let parts: Vec<String> = said.split(|line| line.is_empty()).map(|part| part.join("\n")).collect();
    let [first, again, found, last] = &parts[..] else {
        anyhow::bail!("{said:?}");
    };
    let shown = "d 300 1000\ne 555 1000\nf 0 1000\ng 0 1000\nnew 0 1000\nown 0 1000\nroot 700 0\nshadow-l 600 0\nshadow-u 600 0";
    assert_eq!(*first, format!("f\n{shown}"));
    assert_eq!(*again, format!("{shown}\nf\nnew"));
    assert_eq!((&**found, &**last), ("*/*", "*/*"));
    Ok(())
}

/// As caches of modules are made: directories of lower layers that their owner has closed against writing.
#[test]
fn a_mounter_can_open_and_remove_closed_directories() -> Result<()> {
    const NAME: &str = "a_mounter_can_open_and_remove_closed_directories";
    if !can(NAME)? || !have(NAME, &[Need::Tool("fusermount3")])? {
        return Ok(());
    }
    let tree =
        "mkdir -p l/mod/sub l/kept; for f in l/mod/f l/mod/sub/g l/kept/h; do echo x >$f; chmod 444 $f; done
        chmod 555 l/mod/sub l/mod l/kept; chown -R 1000:1000 l u w m";
    let stage = Stage::new(tree)?;
    let act = "chmod -R u+w mod; rm -r mod; touch -d @7 kept; stat -c '%a %Y' kept; cat kept/h";
    let script =
        format!("{MOUNT}; cd m; {act}; {UMOUNT}; {MOUNT}; cd m; ls -A; stat -c '%a %Y' kept; {UMOUNT}");
    let said = as_mounter(&stage, &script)?;
    let said: Vec<&str> = said.lines().filter(|line| !line.contains("user.overlay")).collect();
    assert_eq!(said, ["555 7", "x", "kept", "555 7"]);
    Ok(())
}

/// Root keeps the set-group-id bit of files that the group may not execute; others do unless they are of the group.
#[test]
fn chown_takes_set_id_bits_as_the_kernel_does() -> Result<()> {
    if !can("chown_takes_set_id_bits_as_the_kernel_does")? {
        return Ok(());
    }
    let tree =
        "cd l; for m in 2644 2755 6765 6711 4755; do echo x >$m; chown 1001:1002 $m; chmod $m $m; done";
    let act = "for f in *; do chgrp 1001 $f; stat -c %a:%u:%g $f; chown 1001:1003 $f || :; stat -c %a:%u:%g $f; done";
    for uid in [0, 1001] {
        let [ours, kernel] = Stage::both(tree, uid, act)?;
        assert_eq!(ours, kernel, "{uid}");
    }
    Ok(())
}

/// Who is not of the group takes its bit away by removing the ACL, whether there is one or not.
#[test]
fn removing_an_acl_takes_the_set_group_id_bit_as_the_kernel_does() -> Result<()> {
    if !can("removing_an_acl")? || !have("removing_an_acl", &[Need::Tool("setfacl")])? {
        return Ok(());
    }
    let tree = "for l in l u; do for g in 0 1001; do
         mkdir $l/$l-dir-$g; echo x >$l/$l-file-$g; for o in $l/$l-*-$g; do cp -r $o $o-acl; setfacl -m u:7:rwx $o-acl; done
         done; done; for l in l u; do for g in 0 1001; do for o in $l/$l-*-$g*; do chown 1001:$g $o; chmod 2755 $o; done; done; done";
    let act = "for o in *; do setfattr -x system.posix_acl_access $o 2>&1 || :; stat -c '%n %a' $o; done";
    for uid in [0, 1001] {
        let [ours, kernel] = Stage::both(tree, uid, act)?;
        assert_eq!(ours, kernel, "{uid}");
    }
    Ok(())
}

/// What one user after the other tries on the same tree, as on the kernel's overlayfs.
#[test]
fn users_get_what_the_merged_attributes_give_them() -> Result<()> {
    if !can("users_get_what_the_merged_attributes_give_them")? {
        return Ok(());
    }
    let tree = "cd l; echo secret >private; chmod 600 private; echo all >open; chmod 666 open; echo own >own
         chown 1001 own; chmod 600 own; mkdir -m 700 closed; echo in >closed/f; mkdir -m 1777 shared; echo r >shared/root
         mkdir acl; setfacl -m u:1001:rwx acl; echo acl >acl/f; setfacl -m u:1001:rw acl/f; chmod o= acl/f
         cp /bin/true suid; chmod 4755 suid; mkdir sgid; chown 0:1002 sgid; chmod 2777 sgid";
    let tries = "for c in 'cat private' 'echo x >>private' 'echo x >>open; cat open' 'cat own' 'chmod 644 own' \
         'cat closed/f' 'ls closed' 'touch new' 'rm open' 'echo x >shared/mine; ls shared' 'rm shared/root' \
         'mv shared/root shared/r2' 'ln open link' 'echo x >>acl/f; cat acl/f' 'touch acl/new' 'chown 1001 open' \
         'chmod 777 suid' 'echo x >>suid' 'touch sgid/f; stat -c %g sgid/f' 'mkdir sgid/d; stat -c %g:%a sgid/d' \
         'setfattr -n user.a -v b open; getfattr -n user.a --only-values open' 'setfattr -n user.a -v b suid' \
         'setfattr -n trusted.a -v b open' 'touch -d @1 open' 'touch -d @1 own && stat -c %Y own' \
         'setfacl -m u:1001:rw suid' 'truncate -s 0 suid' 'truncate -s 1 open' 'mknod n c 1 3' 'mkfifo shared/fifo'
         do echo \"$c:\"; sh -c \"$c\" 2>&1 | sed 's/^[^ ]*sh: [0-9]*: //' || :; done";
    for uid in [1001, 1002, 1003] {
        let [ours, kernel] = Stage::both(tree, uid, tries)?;
        assert_eq!(ours, kernel, "user {uid}");
        ensure!(!ours.contains("secret"), "{ours}");
    }
    Ok(())
}

/// Root without capabilities is an ordinary user who happens to own much.
#[test]
fn capabilities_are_the_callers() -> Result<()> {
    if !can("capabilities_are_the_callers")? {
        return Ok(());
    }
    let tree = "cd l; echo secret >f; chown 1001 f; chmod 600 f; echo x >g; chmod 0 g; mkdir -m 777 d";
    let drop =
        |set: &str, act: &str| format!("setpriv --bounding-set {set} --inh-caps {set} sh -c '{act}' || :");
    for (set, act) in [
        ("-all", "cat f; echo x >>g; chown 5 g; chmod 777 f; touch d/n"),
        ("-dac_override,-dac_read_search", "cat f; chown 5 g; stat -c %u g"),
        ("-chown", "chown 5 g; cat f"),
        ("-fowner", "chmod 777 f; cat f; rm f"),
    ] {
        let [ours, kernel] = Stage::both(tree, 0, &drop(set, act))?;
        assert_eq!(ours, kernel, "{set}: {act}");
    }
    Ok(())
}

/// The mounter's mount lets nobody write where the tree says no, the mounter included.
#[test]
fn cve_2015_1328_new_files_in_directories_of_others() -> Result<()> {
    if !can("cve_2015_1328")? || !have("cve_2015_1328", &[Need::Tool("fusermount3")])? {
        return Ok(());
    }
    let stage =
        Stage::new("mkdir l/etc; echo root >l/etc/shadow; chmod 600 l/etc/shadow; chown 1000:1000 u w m")?;
    let said = as_mounter(
        &stage,
        &format!(
            "{MOUNT}; cd m; ! echo x >etc/new; ! mkdir etc/d; ! rm etc/shadow; ! mv etc/shadow etc/s; {UMOUNT}"
        ),
    )?;
    ensure!(said.matches("Permission denied").count() == 4, "{said}");
    ensure!(!stage.path("u/etc").exists(), "something was copied");
    Ok(())
}

/// chmod(2) of somebody else's program must not make a copy of it that is one's own.
#[test]
fn cve_2015_8660_attributes_of_files_of_others() -> Result<()> {
    if !can("cve_2015_8660")? || !have("cve_2015_8660", &[Need::Tool("fusermount3")])? {
        return Ok(());
    }
    let stage = Stage::new("cp /bin/true l/suid; chmod 4755 l/suid; chown 1000:1000 u w m")?;
    let script = format!(
        "{MOUNT}; cd m; ! chmod 4777 suid; ! chown 1000 suid; ! setfattr -n user.a -v b suid; {UMOUNT}"
    );
    let said = as_mounter(&stage, &script)?;
    ensure!(said.matches("not permitted").count() + said.matches("denied").count() == 3, "{said}");
    ensure!(!stage.path("u/suid").exists(), "it was copied");
    Ok(())
}

/// What the mounter may not read cannot be read through the mount, nor can it be copied up and read then.
#[test]
fn cve_2020_16120_reading_with_the_mounters_rights() -> Result<()> {
    if !can("cve_2020_16120")? || !have("cve_2020_16120", &[Need::Tool("fusermount3")])? {
        return Ok(());
    }
    let stage = Stage::new(
        "chown 1000:1000 l u w m; echo secret >l/f; chmod 600 l/f; mkdir -m 700 l/d; echo secret >l/d/f
         echo secret >l/g; chmod 602 l/g",
    )?;
    let script =
        format!("{MOUNT}; cd m; ! cat f; ! cat d/f; ! mv f f2; ! echo x >>g; ! cat g; ! cat f2; {UMOUNT}");
    let said = as_mounter(&stage, &script)?;
    ensure!(!said.contains("secret"), "{said}");
    let copied = stage.run(0, "cat u/* 2>/dev/null || :")?;
    ensure!(!copied.contains("secret"), "{copied}");
    Ok(())
}

/// What a mount covers in a lower layer stays covered.
#[test]
fn cve_2021_3732_what_mounts_cover() -> Result<()> {
    if !can("cve_2021_3732")? || !have("cve_2021_3732", &[Need::Tool("fusermount3")])? {
        return Ok(());
    }
    let stage = Stage::new(
        "mkdir l/d; echo secret >l/d/f; mount -t tmpfs none l/d; echo shown >l/d/g; chown 1000:1000 u w m",
    )?;
    let said = as_mounter(&stage, &format!("{MOUNT}; cd m; ls d || :; cat d/f || :; {UMOUNT}"));
    stage.run(0, "umount l/d")?;
    let said = said?;
    ensure!(!said.contains("secret"), "{said}");
    Ok(())
}

/// Capabilities that root of a user namespace gives to a file count in that namespace only.
#[test]
fn cve_2021_3493_capabilities_from_user_namespaces() -> Result<()> {
    if !can("cve_2021_3493")? || !have("cve_2021_3493", &[Need::Tool("unshare"), Need::Tool("setcap")])? {
        return Ok(());
    }
    let stage = Stage::new("cp /bin/true l/p; cp /bin/true l/q; chown -R 1000:1000 l u w m")?;
    let inner = format!(
        "{MOUNT}; cd m; setcap cap_sys_admin+ep p; cp q r; setcap cap_sys_admin+ep r; mv r s; chmod 755 p; {UMOUNT}"
    );
    fs::write(stage.path("inner"), inner)?;
    as_mounter(&stage, "unshare -Urm sh -eu ./inner")?;
    for name in ["u/p", "u/s"] {
        let text = stage.run(0, &format!("getfattr -e hex -n security.capability {name}"))?;
        // Effective, of revision 3, which names the namespace's root; all little endian.
        ensure!(text.contains("=0x01000003"), "{name}: {text}");
    }
    Ok(())
}

/// A program that runs with the rights of an owner whom the mounter only claims, or may not be, loses them in the copy.
#[test]
fn cve_2023_0386_set_id_programs_of_owners_that_cannot_be_kept() -> Result<()> {
    if !can("cve_2023_0386")? || !have("cve_2023_0386", &[Need::Tool("fusermount3")])? {
        return Ok(());
    }
    let stage =
        Stage::new("chown 1000:1000 l u w m; cp /bin/true l/p; chmod 6755 l/p; mkdir l/d; cp -p l/p l/d")?;
    // The directory is the mounter's, so the name may be changed, which copies the program.
    as_mounter(&stage, &format!("{MOUNT}; cd m; mv p q; stat -c %u:%a q; {UMOUNT}"))?;
    assert_eq!(stage.run(0, "stat -c %u:%a u/q")?, "1000:755\n");
    // Root of a user namespace in which the owner does not exist may not even change the name.
    stage.run(0, "rm -rf u/* w/*; chown 1000:1000 u w")?;
    fs::write(stage.path("inner"), format!("{MOUNT}; cd m; ! mv p q; ! chmod 4777 p; {UMOUNT}"))?;
    let said = as_mounter(&stage, "unshare -Urm sh -eu ./inner")?;
    ensure!(!stage.path("u/q").exists() && !stage.path("u/p").exists(), "it was copied: {said}");
    Ok(())
}

/// Marks that somebody sets on the mount are that user's data, and lead nowhere.
#[test]
fn cve_2023_2640_marks_set_through_the_mount() -> Result<()> {
    if !can("cve_2023_2640")? {
        return Ok(());
    }
    let stage = Stage::new("mkdir -m 700 l/private; echo secret >l/private/f; mkdir l/d; chown 1001 l/d")?;
    let stack = Stack::writable([stage.path("l")], stage.path("u"), stage.path("w"));
    for options in ["", "userxattr", "userxattr,compat=extended"] {
        let mounted = Driver::acetate()?.mount(&stack, &stage.path("m"), options)?;
        let script = "cd m/d; for n in redirect metacopy opaque origin; do setfattr -n user.overlay.$n -v /private . || :; done";
        stage.run(1001, script)?;
        mounted.unmount()?;
        let mounted = Driver::acetate()?.mount(&stack, &stage.path("m"), options)?;
        let said = stage.run(1001, "ls -A m/d; ! cat m/d/f")?;
        ensure!(!said.contains("secret"), "{options}: {said}");
        mounted.unmount()?;
        stage.run(0, "rm -rf u w; mkdir u w")?;
    }
    Ok(())
}
