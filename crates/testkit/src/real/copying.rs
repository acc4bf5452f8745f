//! cp and tar of a tree with one of everything, from and to a mount; the copy has to be the same to the last byte.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Dev, FileType, Mode, XattrFlags, mknodat, setxattr};

use super::fingerprint::Fingerprint;
use super::{LIMIT, Place, run_in};
use crate::driver::Driver;
use crate::exec;

/// Copies a tree of the lower layer within, to and out of a mount of `driver`, by cp and by tar.
pub fn cp_and_tar(driver: &Driver) -> anyhow::Result<String> {
    let place = Place::new(driver, "acetate-copy", |lower, scratch| {
        make_tree(&lower.join("tree"))?;
        make_tree(&scratch.path().join("outside"))
    })?;
    let merged = place.merged.clone();
    let outside = place.scratch.path();
    let source = Fingerprint::take(&place.lower.join("tree"))?.portable();
    let same = |tree: &Path, what: &str| source.expect(&Fingerprint::take(tree)?.portable(), what);

    same(&merged.join("tree"), "the lower tree seen through the mount")?;
    run_in(&merged, "cp -a tree copied")?;
    same(&merged.join("copied"), "cp -a within the mount")?;
    tar(&merged.join("tree"), &merged.join("untarred"))?;
    same(&merged.join("untarred"), "tar within the mount")?;
    tar(&merged.join("copied"), &outside.join("out"))?;
    same(&outside.join("out"), "tar out of the mount")?;
    run_in(&merged, "cp -a tree/. copied")?;
    same(&merged.join("copied"), "cp -a over itself")?;
    run_in(&merged, "mv copied moved")?;
    same(&merged.join("moved"), "a renamed tree")?;
    run_in(&merged, "rm -r untarred tree")?;
    // The same names again, over whiteouts.
    tar(&merged.join("moved"), &merged.join("tree"))?;
    same(&merged.join("tree"), "a tree in the place of a removed lower tree")?;

    let inside = Fingerprint::take(&outside.join("outside"))?.portable();
    tar(&outside.join("outside"), &merged.join("from-outside"))?;
    inside.expect(&Fingerprint::take(&merged.join("from-outside"))?.portable(), "tar into the mount")?;
    let files = source.entries.len();
    place.finish(|_| Ok(()))?;
    Ok(format!("a tree of {files} files copied seven ways"))
}

/// `from` to the new directory `to`, through a pipe.
fn tar(from: &Path, to: &Path) -> anyhow::Result<()> {
    const SCRIPT: &str = r#"
        all="--numeric-owner --xattrs --xattrs-include=* --acls --sparse"
        mkdir "$2"
        tar $all --sort=name --format=posix -cf "$2.tar" -C "$1" .
        tar $all -xpf "$2.tar" -C "$2"
        rm "$2.tar""#;
    let mut command = Command::new("sh");
    exec::stdout_of(command.args(["-efc", SCRIPT, "sh"]).arg(from).arg(to), LIMIT).map(drop)
}

/// One of everything, and many of the usual.
fn make_tree(root: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(root)?;
    for dir in 0..40 {
        let dir = root.join(format!("dir{dir}"));
        std::fs::create_dir(&dir)?;
        for file in 0..25 {
            std::fs::write(dir.join(format!("file{file}")), vec![b'a' + (file % 26) as u8; file * 997])?;
        }
    }
    std::fs::create_dir(root.join("odd"))?;
    let odd = |name: &[u8]| root.join("odd").join(OsStr::from_bytes(name));
    std::fs::write(odd(b"not \xff\xfe utf-8\n"), "x")?;
    std::fs::write(odd(b"back\\slash, comma: colon"), "y")?;
    std::fs::write(odd(&[b'n'; 255]), "longest name")?;
    symlink("dir0/file1", odd(b"symlink"))?;
    symlink(OsStr::from_bytes(&[b't'; 4000]), odd(b"long symlink"))?;
    lchown(odd(b"symlink"), Some(1234), Some(4321))?;
    mknodat(CWD, odd(b"fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), Dev::default())?;

    let hard = odd(b"hard");
    std::fs::write(&hard, "three names")?;
    std::fs::hard_link(&hard, odd(b"hard2"))?;
    std::fs::hard_link(&hard, root.join("dir3/hard3"))?;

    let mut sparse = File::create(odd(b"sparse"))?;
    sparse.seek(SeekFrom::Start(64 << 20))?;
    sparse.write_all(b"end")?;
    sparse.set_len(100 << 20)?;

    let owned = odd(b"setuid");
    std::fs::write(&owned, "#!/bin/sh\n")?;
    lchown(&owned, Some(65534), Some(1))?;
    std::fs::set_permissions(&owned, Permissions::from_mode(0o6755))?;
    setxattr(&owned, "user.note", b"kept\0bytes\xff", XattrFlags::empty())?;
    setxattr(&owned, "trusted.note", b"root only", XattrFlags::empty())?;
    let setgid = odd(b"setgid dir");
    std::fs::create_dir(&setgid)?;
    std::fs::set_permissions(&setgid, Permissions::from_mode(0o3770))?;
    run_in(&odd(b""), "setfacl -m u:daemon:rw,g:daemon:r setuid")?;
    std::fs::create_dir(odd(b"default-acl"))?;
    run_in(&odd(b""), "setfacl -d -m u:daemon:rwx default-acl")?;

    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    File::options().write(true).open(odd(b"hard2"))?.set_modified(old)?;
    File::open(root.join("dir7"))?.set_modified(old)?;
    Ok(())
}
