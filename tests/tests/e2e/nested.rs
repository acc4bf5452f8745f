//! Overlays on overlays, ours and the kernel's in every combination: the same calls have the same results and leave the same
//! layers, marks of the inner one that the outer one reads included.

use std::path::Path;
use std::process::{Command, Stdio};

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Result, ensure};

/// Mounts, and tells what a tree holds: types, modes, contents, links, and attributes but for those that name inodes. `$P` is
/// the prefix of marks.
const FUNCTIONS: &str = r#"
layer() { case $1 in kernel) mount -t overlay overlay -o "$2" "$3";; *) "$ACETATE" mount -o "$2" "$3" 2>/dev/null;; esac; }
# umount(8) does not wait until a daemon has let go of its layers.
leave() { case $1 in kernel) umount "$2";; *) "$ACETATE" umount "$2";; esac; }
try() { if "$@" 2>/dev/null; then echo "$* ok"; else echo "$* fails"; fi; }
tell() { (cd $1; echo "== $1"; find . -mindepth 1 ! -type d ! -type c -printf '%P %y %m %n %s %l\n' | sort; find . -type c | sort
    find . -type d -printf '%P %y %m\n' | sort
    find . -type f | sort | while read -r f; do echo "$f: $(cat "$f" 2>&1 | tail -c 40)"; done
    find . ! -type l | sort | xargs -d '\n' getfattr -h -d -m '^(trusted|user)[.]' -e text 2>/dev/null |
        grep -v '[.]\(origin\|impure\|uuid\|nlink\)=' || :); }
mkdir l iu iw im ou ow om
(cd l; mkdir -p a/b c; echo 1 >f; echo 2 >a/g; echo 3 >a/b/h; echo 4 >c/i; ln -s f s)
"#;

/// Calls in one mount, chosen by the state of `random`.
fn calls(random: &mut u64, count: usize) -> String {
    let mut next = |below: usize| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        (*random % below as u64) as usize
    };
    let names = ["f", "s", "a", "a/g", "a/b", "a/b/h", "c", "c/i", "n", "a/n", "c/n"];
    let mut script = String::new();
    for number in 0..count {
        let [one, two] = [names[next(11)], names[next(11)]];
        let mark = ["opaque", "whiteout", "redirect", "metacopy", "origin", "overlay.opaque", "foo"][next(7)];
        let call = match next(12) {
            0 => format!("sh -c 'echo {number} >>{one}'"),
            1 => format!("sh -c 'echo {number} >{one}'"),
            2 => format!("mkdir {one}"),
            3 => format!("rm -r {one}"),
            4 => format!("mv -T {one} {two}"),
            5 => format!("ln {one} {two}"),
            6 => format!("chmod {} {one}", ["700", "751"][next(2)]),
            7 => format!("setfattr -h -n user.x -v {number} {one}"),
            8 | 9 => format!("setfattr -h -n $P.overlay.{mark} -v {} {one}", ["x", "y"][next(2)]),
            10 => format!("setfattr -h -x $P.overlay.{mark} {one}"),
            // A whiteout for whoever has this mount as a layer.
            _ => format!(
                "sh -c 'rm -r {one}; : >{one}; setfattr -n $P.overlay.whiteout -v y {one} &&
                setfattr -n $P.overlay.opaque -v x $(dirname {one})'"
            ),
        };
        script.push_str(&format!("try {call}\n"));
    }
    script
}

/// What a pair of drivers makes of the calls, in a user namespace if so asked.
fn pair(inner: &str, outer: &str, user: bool, calls: [&str; 2]) -> Result<String> {
    let scratch = Scratch::new("nested")?;
    let (prefix, more) = if user { ("user", ",userxattr") } else { ("trusted", "") };
    let script = format!(
        "export P={prefix}\n{FUNCTIONS}
         layer {inner} lowerdir=l,upperdir=iu,workdir=iw{more} im
         (cd im; {}\n)
         tell im
         layer {outer} lowerdir=im,upperdir=ou,workdir=ow{more} om
         (cd om; {}\n)
         tell om; leave {outer} om; leave {inner} im; tell ou; tell iu",
        calls[0], calls[1]
    );
    let mut command = Command::new("unshare");
    command.args(if user { &["-Urm"][..] } else { &["-m"] }).args(["sh", "-euc", &script]);
    let output =
        command.env("ACETATE", acetate_bin()?).current_dir(scratch.path()).stdin(Stdio::null()).output()?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{outer} on {inner}: {}: {said}{errors}", output.status);
    Ok(said.into_owned())
}

/// Leaves the first line in which two texts differ, with what was before it.
fn difference(ours: &str, kernel: &str) -> Option<String> {
    let (mut left, mut right) = (ours.lines(), kernel.lines());
    loop {
        match (left.next(), right.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            (a, b) => return Some(format!("{a:?} instead of {b:?}")),
        }
    }
}

fn same_on_every_pair(name: &str, user: bool) -> Result<()> {
    let needs = [Need::Root, Need::Fuse, Need::KernelOverlay, Need::Tool("setfattr"), Need::Tool("unshare")];
    if !have(name, &needs)? {
        return Ok(());
    }
    ensure!(Path::new("/proc/self/ns/user").exists(), "no user namespaces");
    for seed in 1..=8_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let [first, second] = [calls(&mut random, 14), calls(&mut random, 14)];
        let kernel = pair("kernel", "kernel", user, [&first, &second])?;
        for (inner, outer) in [("acetate", "acetate"), ("kernel", "acetate"), ("acetate", "kernel")] {
            let ours = pair(inner, outer, user, [&first, &second])?;
            if let Some(difference) = difference(&ours, &kernel) {
                anyhow::bail!("seed {seed}, {outer} on {inner}: {difference}\n{first}--\n{second}{ours}");
            }
        }
    }
    Ok(())
}

#[test]
fn overlays_on_overlays_are_the_same_whoever_mounts_them() -> Result<()> {
    same_on_every_pair("overlays_on_overlays_are_the_same_whoever_mounts_them", false)
}

#[test]
fn so_they_are_in_a_user_namespace() -> Result<()> {
    same_on_every_pair("so_they_are_in_a_user_namespace", true)
}
