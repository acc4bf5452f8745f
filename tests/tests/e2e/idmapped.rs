//! Layers that are idmapped mounts, as on the kernel's overlayfs, which itself cannot be idmapped either.

use std::path::Path;
use std::process::{Command, Stdio};

use acetate_testkit::driver::{Driver, Stack};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};

/// `idmap.py SOURCE TARGET MAPS`: mounts SOURCE once more on TARGET, with ids mapped as lines of uid_map(5) say, commas between
/// them. util-linux can do it from 2.39 on.
const IDMAP: &str = r#"
import ctypes, os, struct, subprocess, sys, time
source, target, maps = sys.argv[1:4]
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    return result
child = subprocess.Popen(["unshare", "-U", "sleep", "60"])
try:
    space = "/proc/%d/ns/user" % child.pid
    while os.readlink(space) == os.readlink("/proc/self/ns/user"):
        time.sleep(0.001)
    for name in ("uid_map", "gid_map"):
        with open("/proc/%d/%s" % (child.pid, name), "w") as file:
            file.write(maps.replace(",", "\n") + "\n")
    space = os.open(space, os.O_RDONLY)
    tree = call(428, -100, source.encode(), 1)  # open_tree(2), OPEN_TREE_CLONE
    attributes = struct.pack("QQQQ", 0x100000, 0, 0, space)  # MOUNT_ATTR_IDMAP
    call(442, tree, b"", 0x1000, attributes, len(attributes))  # mount_setattr(2), AT_EMPTY_PATH
    call(429, tree, b"", -100, target.encode(), 4)  # move_mount(2), MOVE_MOUNT_F_EMPTY_PATH
finally:
    child.kill()
    child.wait()
"#;

fn sh(dir: &Path, script: &str) -> Result<String> {
    let output = Command::new("sh").args(["-euc", script]).current_dir(dir).stdin(Stdio::null()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {}: {errors}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An idmapped mount, unmounted on drop.
struct Mapped<'a>(&'a Path, &'a str);

impl<'a> Mapped<'a> {
    fn new(dir: &'a Path, source: &str, target: &'a str) -> Result<Mapped<'a>> {
        std::fs::write(dir.join("idmap.py"), IDMAP)?;
        sh(dir, &format!("python3 idmap.py {source} {target} '0 0 1,1001 1000 1'"))?;
        Ok(Mapped(dir, target))
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        if let Err(error) = sh(self.0, &format!("umount {}", self.1)) {
            eprintln!("{error:#}");
        }
    }
}

fn can(name: &str) -> Result<bool> {
    let tools = ["python3", "unshare", "setpriv"].map(Need::Tool);
    have(name, &[&[Need::Root, Need::Fuse, Need::KernelOverlay], &tools[..]].concat())
}

/// What both drivers say to `act` in the mount, and what is then in upper. `lower` and `upper` are reached through idmapped
/// mounts if so asked.
fn both(lower: bool, upper: bool, act: &str) -> Result<[String; 2]> {
    let mut said = [String::new(), String::new()];
    for (driver, said) in [Driver::acetate()?, Driver::Kernel].iter().zip(&mut said) {
        let scratch = Scratch::new("idmapped")?;
        let here = scratch.path();
        std::fs::set_permissions(here, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        sh(
            here,
            "mkdir -p l/d up/u up/w lm um m; chmod 777 up/u; for i in 0 1000 1001 2002; do
            echo $i >l/$i; chown $i:$i l/$i; done; chmod 777 l/d; chmod 4755 l/1001",
        )?;
        let _lower = lower.then(|| Mapped::new(here, "l", "lm")).transpose()?;
        let _upper = upper.then(|| Mapped::new(here, "up", "um")).transpose()?;
        let [l, up] = [if lower { "lm" } else { "l" }, if upper { "um" } else { "up" }];
        let stack = Stack::writable([here.join(l)], here.join(up).join("u"), here.join(up).join("w"));
        let mounted = driver.mount(&stack, &here.join("m"), "")?;
        *said = sh(here, &format!("cd m; exec 2>&1; {act}")).context(driver.name())?;
        mounted.unmount()?;
        said.push_str(&sh(here, "cd up/u; find . -printf '%P %y %m %U:%G\\n' | sort")?);
    }
    Ok(said)
}

#[test]
fn idmapped_layers_are_as_on_the_kernels_overlayfs() -> Result<()> {
    if !can("idmapped_layers_are_as_on_the_kernels_overlayfs")? {
        return Ok(());
    }
    let list = "find . -mindepth 1 -printf '%P %m %U:%G\\n' | sort";
    let act = format!(
        "{list}; for f in 0 1000 1001; do chmod 600 $f || :; done; chown 1000 0 || :; touch n; chown 1001 n || :
         for u in 1000 1001; do setpriv --reuid=$u --regid=$u --clear-groups touch d/by$u || :; done
         setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'echo x >>1000' || :; mv d e || mv n e; {list}"
    );
    for (lower, upper) in [(true, false), (false, true)] {
        // An owner that the lower mount does not map is left alone: see the test below.
        let act = if lower { act.replace("1000 1001; do chmod", "1001; do chmod") } else { act.clone() };
        let [ours, kernel] = both(lower, upper, &act)?;
        assert_eq!(ours, kernel, "lower {lower}, upper {upper}");
        ensure!(ours.contains("by1000"), "{ours}");
    }
    Ok(())
}

/// The copy of what nobody owns through a lower mount is owned by the overflow id; the kernel refuses to copy it.
#[test]
fn what_a_lower_mount_does_not_map_can_be_changed() -> Result<()> {
    if !can("what_a_lower_mount_does_not_map_can_be_changed")? {
        return Ok(());
    }
    let [ours, kernel] = both(true, false, "stat -c %u 2002; chmod 600 2002 || :")?;
    assert_eq!(ours, "65534\n d 777 0:0\n2002 f 600 65534:65534\n");
    ensure!(kernel.contains("Value too large"), "{kernel}");
    Ok(())
}

/// Neither mount can be idmapped: a FUSE server that allowed it would not be told who calls any more.
#[test]
fn the_mount_itself_cannot_be_idmapped() -> Result<()> {
    if !can("the_mount_itself_cannot_be_idmapped")? {
        return Ok(());
    }
    let scratch = Scratch::new("idmapped")?;
    let here = scratch.path();
    for dir in ["l", "u", "w", "m", "im"] {
        scratch.dir(dir)?;
    }
    for driver in [Driver::acetate()?, Driver::Kernel] {
        let stack = Stack::writable([here.join("l")], here.join("u"), here.join("w"));
        let mounted = driver.mount(&stack, &here.join("m"), "")?;
        let refused = Mapped::new(here, "m", "im").map(drop);
        mounted.unmount()?;
        let error = format!("{:#}", refused.err().context("it was idmapped")?);
        ensure!(error.contains("Invalid argument"), "{error}");
    }
    Ok(())
}
