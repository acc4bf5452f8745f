//! Upper layers on filesystems without extended attributes: what is hidden is hidden by files.

use std::process::Command;

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Result, ensure};

use super::engines::run;

/// Runs a script in a mount namespace of its own. In `$D/bare` is a ramfs, which has no attributes, in `$D/full` a tmpfs,
/// and in both the same layers. `ours WHERE` mounts them, `see` tells all that a tree shows.
fn script(scratch: &Scratch, text: &str) -> Result<String> {
    let prologue = format!(
        "set -eu; D={}; A={}; cd $D; mkdir bare full; mount -t ramfs ramfs bare; mount -t tmpfs tmpfs full
         for where in bare full; do
             mkdir -p $where/l/d/sub $where/l/e $where/u $where/w $where/m
             for file in a b d/x d/sub/y e/z; do echo low $file >$where/l/$file; done
         done
         ours() {{ $A mount -o lowerdir=$D/$1/l,upperdir=$D/$1/u,workdir=$D/$1/w $D/$1/m; }}
         see() {{ (cd $1; find . -mindepth 1 -printf '%p %y %m %U:%G %n\\n' | sort
             find . -type f | sort | xargs cat); }}
         same() {{ see full/m >1; see bare/m >2; cmp 1 2 || diff 1 2; }}\n",
        scratch.path().display(),
        acetate_bin()?.display()
    );
    run(Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", &(prologue + text)]))
}

fn can(name: &str) -> Result<bool> {
    have(name, &[Need::Root, Need::Fuse, Need::Tool("unshare")])
}

/// Every kind of change, beside the same on a filesystem that has all; then after another mount, and as a lower layer.
#[test]
fn a_layer_without_attributes_shows_what_any_other_shows() -> Result<()> {
    if !can("bare")? {
        return Ok(());
    }
    let scratch = Scratch::new("bare")?;
    let said = script(
        &scratch,
        "ours bare 2>note; ours full; sed 's/.*cannot be set here: //' note
         for where in bare full; do (
             cd $where/m
             rm a; rm -r d; mkdir d; echo new >d/n; mv b b2; echo more >>e/z
             mkdir t; echo t >t/f; mv t e/t; rm -r e; mkdir e; touch e/late; rm e/late; rmdir e
             mkdir k; mv k b; ln b2 b3; rm b2; echo again >a; mkdir -p one/two; rm -r one
         ) done
         same; ls -A bare/u; ls -A bare/u/d
         for where in bare full; do umount $where/m; ours $where 2>/dev/null; done; same
         $A mounts --json | grep -c '\"whiteouts\": \"file\"'; umount bare/m full/m
         $A mount --driver kernel -o lowerdir=bare/l,upperdir=bare/u,workdir=bare/w bare/m 2>&1 | grep -c 'no extended'
         $A mount -o lowerdir=bare/u:bare/l,oci_whiteouts=1 bare/m; ours full
         same; umount bare/m full/m",
    )?;
    let expected = "what is hidden is kept in files named .wh.*, which the kernel's overlayfs does not read; \
                    inode numbers of changed files are not kept\n.wh.e\na\nb\nb3\nd\n.wh..wh..opq\nn\n1\n1";
    ensure!(said == expected, "{said}\n--- expected\n{expected}");
    Ok(())
}

/// Names that mean something else there are refused, not lost.
#[test]
fn names_of_whiteouts_cannot_be_given_to_files() -> Result<()> {
    if !can("bare-names")? {
        return Ok(());
    }
    let scratch = Scratch::new("bare-names")?;
    let said = script(
        &scratch,
        "echo low >bare/l/.wh.low; ours bare 2>/dev/null; cd bare/m
         for try in 'touch .wh.a' 'mkdir .wh..wh..opq' 'ln a .wh.b' 'mv a .wh.b' 'ln -s a .wh.b' 'touch .wh.low'; do
             $try 2>&1 | sed 's/.*: //; s/cannot move.*/Invalid argument/'
         done; cat a .wh.low; cd $D; umount bare/m; ls -A bare/u | grep wh || echo none",
    )?;
    let expected = ["Invalid argument"; 6].join("\n") + "\nlow a\nlow\nnone";
    ensure!(said == expected, "{said}\n--- expected\n{expected}");
    Ok(())
}
