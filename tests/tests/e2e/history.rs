//! Bugs that overlay filesystems have had, by the name of what went wrong.
//!
//! Each row is a lower tree, what somebody did on the mount, and what is then to be seen: on the mount, after a remount,
//! and on the kernel's mount of our upper layer.

use std::process::{Command, Stdio};

use acetate_testkit::driver::{Driver, Stack};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};

/// One bug. Scripts run in `sh -eu` with umask 022, `lower` in the lower layer, the others in the mount.
struct Bug {
    name: &'static str,
    /// Mount options, for all mounts.
    options: &'static str,
    lower: &'static str,
    act: &'static str,
    /// Says what is there. It must say the same at all three times.
    look: &'static str,
    says: &'static str,
}

const fn bug(
    name: &'static str,
    lower: &'static str,
    act: &'static str,
    look: &'static str,
    says: &'static str,
) -> Bug {
    Bug { name, options: "", lower, act, look, says }
}

/// Whiteouts, opaque directories, what must not come back.
const HIDDEN: &[Bug] = &[
    bug(
        "a directory made anew shows nothing of the old one",
        "mkdir d; touch d/old",
        "rm -rf d; mkdir d; touch d/new",
        "ls -A d",
        "new\n",
    ),
    bug(
        "a tree made anew is empty and can be removed",
        "mkdir -p p/t/a/b; touch p/t/a/b/info p/t/a/b/page",
        "rm -rf p/t; mkdir -p p/t/a/b; ls -R p >/dev/null; rmdir p/t/a/b",
        "find p | sort",
        "p\np/t\np/t/a\n",
    ),
    bug(
        "a directory moved out of one made anew stays",
        "mkdir -p a/b; touch a/b/x",
        "rm -rf a; mkdir -p a/b; mv a/b b; ls a",
        "ls -A . a b",
        ".:\na\nb\n\na:\n\nb:\n",
    ),
    bug(
        "a large directory made anew can be removed again",
        "mkdir -p d/e; for i in $(seq 400); do : >d/e/f$i; done",
        "rm -rf d; mkdir -p d/e; for i in $(seq 50); do : >d/e/f$i; done; rm -rf d",
        "ls -A",
        "",
    ),
    bug(
        "a removed name hides no other directory's",
        "mkdir sub; echo top >test; echo sub >sub/test",
        "rm test",
        "ls -A; cat sub/test",
        "sub\nsub\n",
    ),
    bug(
        "a name replaced by a symlink to its new one",
        "echo a >a",
        "mv a a2; ln -s a2 a",
        "ls -A; readlink a; cat a",
        "a\na2\na2\na\n",
    ),
    bug(
        "renaming what only upper has leaves no whiteout",
        "touch l",
        ": >tmp; mv tmp final",
        "ls -A",
        "final\nl\n",
    ),
    bug("the first removal of all", "touch a", "rm a", "ls -A", ""),
    bug(
        "a directory renamed over one whose entries are all removed",
        "mkdir d; touch d/a d/b",
        "rm d/a d/b; mkdir new; touch new/c; mv -T new d",
        "ls -A . d",
        ".:\nd\n\nd:\nc\n",
    ),
    bug(
        "files that look like whiteouts of archives are files",
        "touch .wh.bar bar",
        ":",
        "ls -A",
        ".wh.bar\nbar\n",
    ),
    bug(
        "a file that looks like a whiteout can be made",
        "echo foo >foo",
        ": >.wh.foo",
        "ls -A; cat foo",
        ".wh.foo\nfoo\nfoo\n",
    ),
    bug(
        "a name of 255 bytes can be removed",
        "touch $(printf 'x%.0s' $(seq 255))",
        "rm x*; mkdir $(printf 'y%.0s' $(seq 255)); rmdir y*",
        "ls -A",
        "",
    ),
    bug(
        "what was moved into a new directory and removed is gone from both",
        "touch test",
        "mkdir dir; mv test dir/; rm dir/test",
        "ls -A . dir",
        ".:\ndir\n\ndir:\n",
    ),
    bug(
        "a file created over a whiteout has the new content",
        "echo old >f; mkdir d; echo old >d/f",
        "rm f; echo new >f; rm d/f; mkdir d/f; echo in >d/f/in",
        "cat f d/f/in",
        "new\nin\n",
    ),
];

/// Renames.
const RENAMED: &[Bug] = &[
    Bug {
        options: "redirect_dir=on",
        ..bug(
            "a lower directory can be renamed",
            "mkdir -p d/e; echo f >d/e/f",
            "mv d new; mv new/e e; mv e new/back",
            "find . | sort; cat new/back/f",
            ".\n./new\n./new/back\n./new/back/f\nf\n",
        )
    },
    bug(
        "a lower directory moved without redirects keeps its content",
        "mkdir -p d/e; echo f >d/e/f",
        "mv d new",
        "find . | sort; cat new/e/f",
        ".\n./new\n./new/e\n./new/e/f\nf\n",
    ),
    bug(
        "a lower file and an upper file exchanged",
        "echo lower >a",
        "echo upper >b; python3 -c 'import ctypes; libc = ctypes.CDLL(None, use_errno=True)
assert libc.renameat2(-100, b\"a\", -100, b\"b\", 2) == 0, ctypes.get_errno()'",
        "cat a b",
        "upper\nlower\n",
    ),
    bug(
        "a package replaced as installers do",
        "mkdir -p site/pkg; touch site/pkg/old",
        "mkdir n; touch n/new; mv site/pkg site/~kg 2>/dev/null; rm -rf site/~kg; mv n site/pkg",
        "find . | sort",
        ".\n./site\n./site/pkg\n./site/pkg/new\n",
    ),
    bug(
        "a configuration file replaced as dpkg does",
        "echo old >conf",
        "ln conf conf.dpkg-tmp; echo new >conf.dpkg-new; mv conf.dpkg-new conf; rm conf.dpkg-tmp",
        "ls -A; cat conf; stat -c %h conf",
        "conf\nnew\n1\n",
    ),
    bug(
        "an open file that is renamed stays the same file",
        "echo old >f",
        "exec 3<f; mv f g; echo new >>g; cat <&3 >seen",
        "cat seen g",
        "old\nnew\nold\nnew\n",
    ),
    bug(
        "a directory that others may not read can be moved by its owner",
        "mkdir -m 0777 p",
        "setpriv --reuid 1 --regid 1 --clear-groups sh -c 'mkdir p/d; chmod 0007 p/d; mv p/d p/e </dev/null'",
        "stat -c %a:%u p/e",
        "7:1\n",
    ),
];

/// Hard links, numbers and counts.
const LINKED: &[Bug] = &[
    Bug {
        options: "index=on",
        ..bug(
            "names of a lower file are one file",
            "echo old >a; ln a b; ln a c",
            "echo new >a; rm c; mv b d",
            "cat d; stat -c %h a d; [ a -ef d ]",
            "new\n2\n2\n",
        )
    },
    bug(
        "a new link counts for both names",
        "touch l",
        "touch t; ln t t2",
        "stat -c %h t t2; [ t -ef t2 ]",
        "2\n2\n",
    ),
    bug(
        "a link over a whiteout",
        "touch a; touch b",
        "rm a; ln b a",
        "stat -c %h a b; [ a -ef b ]",
        "2\n2\n",
    ),
    bug("a link to a lower file", "echo x >x", "ln x y; echo z >>y", "cat x; [ x -ef y ]", "x\nz\n"),
    bug(
        "entries have the numbers of their objects",
        "touch a b; ln -s nowhere dangling; mkdir d; touch d/f",
        "echo x >>a; touch -h dangling; : >d/g",
        "for d in . d; do ls -Ai $d | while read i n; do [ $i = $(stat -c %i $d/$n) ] || echo $d/$n; done; done",
        "",
    ),
    bug(
        "different files have different numbers",
        "for i in $(seq 30); do : >l$i; done",
        "for i in $(seq 30); do : >u$i; done; for i in $(seq 10); do echo x >>l$i; done",
        "stat -c %i * | sort | uniq -d",
        "",
    ),
];

/// Open files, content, attributes.
const CONTENT: &[Bug] = &[
    bug(
        "an unlinked open file can be used",
        "touch l",
        "python3 -c 'import os
f = os.open(\"t\", os.O_RDWR | os.O_CREAT); os.write(f, b\"hello\"); os.unlink(\"t\")
assert os.fstat(f).st_nlink == 0; os.ftruncate(f, 3); os.fchmod(f, 0o600); os.utime(f, (1, 1))
os.posix_fallocate(f, 0, 10); os.setxattr(f, \"user.a\", b\"b\"); assert os.fstat(f).st_size == 10
g = os.open(\"copy\", os.O_RDWR | os.O_CREAT)
assert os.copy_file_range(f, g, 3, 0) == 3'",
        "ls -A; cat copy",
        "copy\nl\nhel",
    ),
    bug(
        "a temporary file has its size",
        "touch l",
        "python3 -c 'import os, tempfile
f = tempfile.TemporaryFile(dir=\".\"); f.write(b\"x\" * 100000); f.flush(); assert os.fstat(f.fileno()).st_size == 100000'",
        "ls -A",
        "l\n",
    ),
    bug(
        "a file open for reading sees what is written later",
        "echo old >f",
        "python3 -c 'import os
r = os.open(\"f\", os.O_RDONLY); w = os.open(\"f\", os.O_WRONLY | os.O_TRUNC); os.write(w, b\"newer\")
assert os.read(r, 9) == b\"newer\"'",
        "cat f",
        "newer",
    ),
    bug(
        "longer content replaces shorter whole",
        "printf short >f",
        "printf 'something longer' >f; sync f",
        "cat f",
        "something longer",
    ),
    bug(
        "appending and truncating by turns",
        "printf 0123456789 >f",
        "exec 3>>f 4>f; printf a >&3; printf bc >&3; printf d >&3",
        "cat f",
        "abcd",
    ),
    bug(
        "every name is listed once while names go",
        "for i in $(seq 300); do : >f$i; done",
        "python3 -c 'import os
n = 0
for e in os.scandir(\".\"):
    os.unlink(e.name); n += 1
assert n == 300, n'",
        "ls -A",
        "",
    ),
    bug(
        "a sparse file stays sparse",
        "truncate -s 200M f",
        "printf x >>f",
        "stat -c %s f; [ $(stat -c %b f) -lt 2048 ]",
        "209715201\n",
    ),
    bug(
        "the time of a directory stays when an entry is copied",
        "mkdir d; echo a >d/f; touch -d @1000 d",
        "echo b >>d/f",
        "stat -c %Y d",
        "1000\n",
    ),
    bug(
        "set-id bits stay when root writes and changes them",
        "touch l",
        "echo x >f; chown 5:6 f; chmod 4755 f; sync f",
        "stat -c %a:%u:%g f",
        "4755:5:6\n",
    ),
    bug(
        "directories with the set-group-id bit hand their group down",
        "mkdir d; chown 0:1000 d; chmod 2775 d",
        "mkdir d/s; touch d/f",
        "stat -c %g:%a d/s d/f",
        "1000:2755\n1000:644\n",
    ),
    bug(
        "capabilities and many attributes are copied",
        "echo x >f; for i in $(seq 5); do setfattr -n user.a$i -v $(printf '%0300d' $i) f; done
         setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA= f; chmod 755 f",
        "touch f",
        "getfattr -d -m - --absolute-names f | grep -c .; getfattr --only-values -n security.capability f | wc -c",
        "7\n20\n",
    ),
    bug(
        "ordinary users can use a umask that takes their own rights",
        "mkdir -m 0777 p",
        "setpriv --reuid 1 --regid 1 --clear-groups sh -c 'umask 0222; mkdir p/d; : >p/f; mkdir -m 0555 p/e'",
        "stat -c %a p/d p/f p/e",
        "555\n444\n555\n",
    ),
    bug(
        "ordinary users can remove and change read-only files of theirs",
        "mkdir p; touch p/a p/b; chmod 444 p/a p/b; chown -R 1:1 p",
        "setpriv --reuid 1 --regid 1 --clear-groups sh -c 'rm -f p/a; chmod 600 p/b; echo x >p/b'",
        "ls -A p; cat p/b",
        "b\nx\n",
    ),
    bug(
        "ordinary users can unpack files without any mode",
        "mkdir -m 0777 p; cd p; touch f; chmod 0 f; tar cf t.tar f; rm f; chmod 644 t.tar",
        "setpriv --reuid 1 --regid 1 --clear-groups tar -xf p/t.tar -C p",
        "stat -c %a:%u p/f",
        "0:1\n",
    ),
    bug(
        "others may write to what is open to all",
        "echo a >f; chown 5:5 f; chmod 666 f",
        "setpriv --reuid 1 --regid 1 --clear-groups sh -c 'echo b >>f'",
        "cat f; stat -c %u:%a f",
        "a\nb\n5:666\n",
    ),
    bug(
        "symlinks have attributes, times and owners of their own",
        "ln -s nowhere s; ln -s nowhere t",
        "setfattr -h -n trusted.a -v b s; touch -h -d @5 s; chown -h 3:4 t",
        "getfattr -h --only-values -n trusted.a s; stat -c ' %Y' s; stat -c %u:%g t",
        "b 5\n3:4\n",
    ),
];

/// Runs a script with a directory as its working directory and returns what it prints.
fn sh(dir: &std::path::Path, script: &str) -> Result<String> {
    let output = Command::new("sh")
        .args(["-euc", &format!("umask 022; {script}")])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {}: {said}{errors}", output.status);
    Ok(said)
}

fn run(bug: &Bug, kernel: bool) -> Result<()> {
    let scratch = Scratch::new("history")?;
    let stack = Stack::writable([scratch.dir("l")?], scratch.dir("u")?, scratch.dir("w")?);
    let merged = scratch.dir("m")?;
    sh(&scratch.path().join("l"), bug.lower).context("lower")?;
    let ours = Driver::acetate()?;
    let drivers: &[(&str, Driver)] =
        &[("mount", ours.clone()), ("remount", ours), ("kernel", Driver::Kernel)];
    for (when, driver) in drivers.iter().take(if kernel { 3 } else { 2 }) {
        let mounted = driver.mount(&stack, &merged, bug.options).context(*when)?;
        if *when == "mount" {
            sh(&merged, bug.act).context("act")?;
        }
        let said = sh(&merged, bug.look).context(*when)?;
        ensure!(said == bug.says, "{when}: {said:?} instead of {:?}", bug.says);
        mounted.unmount()?;
    }
    Ok(())
}

fn run_all(name: &str, bugs: &[Bug]) -> Result<()> {
    if !have(name, &[Need::Root, Need::Fuse, Need::Tool("python3"), Need::Tool("setfattr")])? {
        return Ok(());
    }
    let kernel = have(name, &[Need::KernelOverlay])?;
    let failed: Vec<String> = bugs
        .iter()
        .filter_map(|bug| run(bug, kernel).err().map(|error| format!("{}: {error:#}", bug.name)))
        .collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

#[test]
fn what_was_removed_stays_removed() -> Result<()> {
    run_all("what_was_removed_stays_removed", HIDDEN)
}

#[test]
fn what_was_renamed_is_found() -> Result<()> {
    run_all("what_was_renamed_is_found", RENAMED)
}

#[test]
fn names_of_one_file_are_one_file() -> Result<()> {
    run_all("names_of_one_file_are_one_file", LINKED)
}

#[test]
fn content_and_attributes_are_as_written() -> Result<()> {
    run_all("content_and_attributes_are_as_written", CONTENT)
}
