//! Hard links of lower files in a user namespace, where no file handle can be opened.

use std::path::Path;
use std::process::{Command, Stdio};

use acetate_testkit::driver::{Driver, Stack, acetate_bin};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Result, ensure};

/// Runs a script in a user namespace and returns what it prints; `mounted OPTIONS SCRIPT` mounts before it and unmounts
/// after it.
fn as_user(dir: &Path, script: &str) -> Result<String> {
    let mounted = "mounted() { \"$ACETATE\" mount -o \"lowerdir=l,upperdir=u,workdir=w,index=on$1\" m
        (cd m; eval \"$2\"); \"$ACETATE\" umount m; }";
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-euc", &format!("{mounted}\n{script}")])
        .env("ACETATE", acetate_bin()?)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{script}: {}: {said}{errors}", output.status);
    ensure!(!errors.contains("index=off"), "{errors}");
    Ok(said.into_owned())
}

fn sh(dir: &Path, script: &str) -> Result<String> {
    let output = Command::new("sh").args(["-euc", script]).current_dir(dir).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Through copy-up, rename, link and unlink of any of them, after remounts by users, by root and by the kernel.
#[test]
fn names_of_a_lower_file_stay_one_file() -> Result<()> {
    let needs = [Need::Root, Need::Fuse, Need::KernelOverlay, Need::Tool("unshare")];
    if !have("names_of_a_lower_file_stay_one_file", &needs)? {
        return Ok(());
    }
    for extra in ["", ",compat=extended"] {
        let scratch = Scratch::new("links")?;
        let here = scratch.path();
        for dir in ["l", "u", "w", "m"] {
            scratch.dir(dir)?;
        }
        sh(here, "cd l; mkdir d; echo one >a; ln a b; ln a c; ln a d/e; echo single >s")?;
        let numbers = "find . -type f -printf \"%p %i %n\\n\" | sort";
        let before = as_user(here, &format!("mounted '{extra}' '{numbers}'"))?;

        let look = format!("cat b; chmod 600 s; {numbers}");
        let said = as_user(here, &format!("mounted '{extra}' 'echo two >>a; {look}'"))?;
        ensure!(said == format!("one\ntwo\n{before}"), "{extra}: live: {said} was {before}");
        let said = as_user(here, &format!("mounted '{extra}' '{look}'"))?;
        ensure!(said == format!("one\ntwo\n{before}"), "{extra}: mounted again: {said} was {before}");

        let change = "mv b d/b; rm a; ln c new; echo three >>d/e";
        let say = "cat d/b; stat -c %h c d/b d/e new; stat -c %i c d/b d/e new | uniq | wc -l; ls";
        let expected = "one\ntwo\nthree\n4\n4\n4\n4\n1\nc\nd\nnew\ns\n";
        let said = as_user(here, &format!("mounted '{extra}' '{change}; {say}'; mounted '{extra}' '{say}'"))?;
        assert_eq!(said, expected.repeat(2), "{extra}");

        // Who may open handles finds the same, and leaves what the user goes on with.
        let stack = Stack::writable([here.join("l")], here.join("u"), here.join("w"));
        let marks = "userxattr,index=on";
        let ours = Driver::acetate()?.mount(&stack, &here.join("m"), &format!("{marks}{extra}"))?;
        assert_eq!(sh(&here.join("m"), say)?, expected, "{extra}: as root");
        sh(&here.join("m"), "rm new; ln d/e new")?;
        ours.unmount()?;
        if extra.is_empty() {
            let kernel = Driver::Kernel.mount(&stack, &here.join("m"), marks)?;
            assert_eq!(sh(&here.join("m"), say)?, expected, "by the kernel");
            sh(&here.join("m"), "rm new; ln c new")?;
            kernel.unmount()?;
        }
        assert_eq!(as_user(here, &format!("mounted '{extra}' '{say}'"))?, expected, "{extra}: back");
        let rest = "rm c d/b d/e; cat new; stat -c %h new; rm new";
        let said = as_user(here, &format!("mounted '{extra}' '{rest}; ls'; ls w/index | wc -l"))?;
        assert_eq!(said, "one\ntwo\nthree\n1\nd\ns\n0\n", "{extra}");
    }
    Ok(())
}
