//! `lower=revalidate`: what is changed in lower layers behind the mount is shown at the next lookup.

use std::path::Path;
use std::process::{Command, Stdio};

use acetate_testkit::driver::{Driver, MountError, Stack};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Result, ensure};

fn sh(dir: &Path, script: &str) -> Result<String> {
    let output = Command::new("sh").args(["-euc", script]).current_dir(dir).stdin(Stdio::null()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {}: {errors}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn can(name: &str) -> Result<bool> {
    have(name, &[Need::Root, Need::Fuse, Need::KernelOverlay])
}

#[test]
fn changes_of_lower_layers_are_seen_at_the_next_lookup() -> Result<()> {
    if !can("changes_of_lower_layers_are_seen_at_the_next_lookup")? {
        return Ok(());
    }
    let scratch = Scratch::new("revalidate")?;
    let (lower, upper) = (scratch.dir("l")?, scratch.dir("u")?);
    let stack = Stack::writable([lower.clone()], upper, scratch.dir("w")?);
    sh(
        &lower,
        "mkdir d e; echo 1 >f; echo 1 >d/f; echo 1 >grows; echo 1 >type; echo 1 >gone; ln -s a link; echo up >e/up",
    )?;
    let mounted = Driver::acetate()?.mount(&stack, &scratch.dir("m")?, "lower=revalidate")?;
    let here = scratch.path();
    let steps = [
        // Everything is known to the kernel, and some of it open.
        (
            "find m >/dev/null; cat m/f m/grows m/d/f; ! cat m/new 2>/dev/null; readlink m/link; echo x >>m/e/up",
            "1\n1\n1\na\n",
        ),
        // Replaced, written in place, grown, shrunk, removed, made, another type, another target.
        ("echo 22 >l/f.new; mv l/f.new l/f; cat m/f; stat -c %s m/f", "22\n3\n"),
        (
            "echo more >>l/grows; cat m/grows; stat -c %s m/grows; : >l/grows; cat m/grows; stat -c %s m/grows",
            "1\nmore\n7\n0\n",
        ),
        ("rm l/gone; ! cat m/gone 2>/dev/null; ls m | grep -c gone || :", "0\n"),
        ("echo n >l/new; cat m/new; ls m | grep new", "n\nnew\n"),
        ("rm l/type; mkdir l/type; touch l/type/x; ls m/type; stat -c %F m/type", "x\ndirectory\n"),
        ("ln -sfn b l/link; readlink m/link", "b\n"),
        ("chmod 600 l/new; chown 5:6 l/new; stat -c %a:%u:%g m/new", "600:5:6\n"),
        // A directory that is replaced, in lower only and merged.
        ("mv l/d l/d2; mkdir l/d; echo other >l/d/g; ls m/d m/d2; cat m/d/g", "m/d:\ng\n\nm/d2:\nf\nother\n"),
        ("mv l/e l/e2; mkdir l/e; echo fresh >l/e/h; ls m/e; cat m/e/h; cat m/e/up", "h\nup\nfresh\nup\nx\n"),
        ("rm -r l/e; ls m/e; echo y >>m/e/up; cat m/e/up", "up\nup\nx\ny\n"),
        // What is in upper counts, and whiteouts stay.
        (
            "rm m/new; echo again >l/new; ! cat m/new 2>/dev/null; echo z >l/f; echo mine >m/f; echo theirs >l/f; cat m/f",
            "mine\n",
        ),
        ("exec 3<m/d2/f; rm l/d2/f; cat <&3; ls m/d2", "1\n"),
    ];
    for (script, expected) in steps {
        assert_eq!(sh(here, script)?, expected, "{script}");
    }
    // Read to its end although it was replaced: nothing of the new one.
    let said = sh(
        here,
        "seq 1 50000 >l/big; exec 3<m/big; head -c 100 <&3 | head -1; echo new >l/b; mv l/b l/big; tail -1 <&3; cat m/big",
    )?;
    assert_eq!(said, "1\n50000\nnew\n");
    mounted.unmount()?;
    // As by default nothing of it is promised, it is no default; and an index would take new files for old ones.
    let refused = Driver::acetate()?.mount(&stack, &scratch.path().join("m"), "lower=revalidate,index=on");
    let Err(MountError::Command { stderr, .. }) = refused else {
        anyhow::bail!("it was mounted with an index");
    };
    ensure!(stderr.contains("lower=revalidate"), "{stderr}");
    Ok(())
}

/// The live mount shows after each of many changes what the kernel's overlayfs shows when it is mounted anew.
#[test]
fn random_changes_are_seen_as_on_a_new_mount() -> Result<()> {
    if !can("random_changes_are_seen_as_on_a_new_mount")? {
        return Ok(());
    }
    let scratch = Scratch::new("revalidate")?;
    let lowers = [scratch.dir("l1")?, scratch.dir("l2")?];
    let upper = scratch.dir("u")?;
    let stack = Stack::writable(lowers.clone(), upper.clone(), scratch.dir("w")?);
    let fresh = Stack::read_only([upper, lowers[0].clone(), lowers[1].clone()]);
    let (merged, other) = (scratch.dir("m")?, scratch.dir("k")?);
    let mounted = Driver::acetate()?.mount(&stack, &merged, "lower=revalidate")?;
    let look = "find . -mindepth 1 -printf '%P %y %m %l\\n' | sort; find . -type f -printf '%P %s\\n' | sort
        find . -type f | sort | while read -r f; do echo $f $(cat $f); done";
    let mut random = 88172645463325252_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for step in 0..150 {
        let names = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "e", "e/a"];
        let [name, target] = [next(9), next(9)].map(|index| names[index as usize]);
        // One change in four is made through the mount.
        let dir = ["l1", "l2", "l1", "m"][next(4) as usize];
        let change = match next(9) {
            0 | 1 => format!("echo {step} >{dir}/{name}"),
            2 => format!("echo {step} >>{dir}/{name}"),
            3 => format!("mkdir -p {dir}/{name}"),
            4 => format!("rm -r {dir}/{name}"),
            5 => format!("mv -T {dir}/{name} {dir}/{target}"),
            6 => format!("echo {step} >{dir}/new && mv -f {dir}/new {dir}/{name}"),
            7 => format!("rm -rf {dir}/{name}; ln -s {target} {dir}/{name}"),
            _ => format!("chmod {} {dir}/{name}", ["700", "711", "755"][next(3) as usize]),
        };
        sh(scratch.path(), &format!("{{ {change}; }} 2>/dev/null || :"))?;
        let shown = sh(&merged, look)?;
        let kernel = Driver::Kernel.mount(&fresh, &other, "")?;
        let expected = sh(&other, look)?;
        kernel.unmount()?;
        assert_eq!(shown, expected, "step {step}: {change}");
    }
    mounted.unmount()
}
