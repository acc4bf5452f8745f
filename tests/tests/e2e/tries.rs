//! `acetate try`: commands over a directory and over the live root, what becomes of their changes, and every way to be
//! interrupted.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::Need;
use acetate_testkit::real::fingerprint::{Content, Fingerprint};
use acetate_testkit::scratch::FsKind;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::store::{Home, can, killed_at};

/// A tree with one of everything.
fn fill(dir: &Path) -> Result<()> {
    for path in ["gone/deep", "old-dir/in", "deep/x", "deep/y", "replaced", "opaque", "open", "private"] {
        fs::create_dir_all(dir.join(path))?;
    }
    for path in [
        "gone/1",
        "gone/deep/2",
        "file-gone",
        "conf",
        "emptied",
        "tool",
        "owned",
        "noted",
        "old-dir/in/f",
        "deep/x/file",
        "replaced/f",
        "became",
        "same",
        "pair-a",
        "opaque/old",
        "open/untouched",
        "private/f",
    ] {
        fs::write(dir.join(path), path)?;
    }
    fs::hard_link(dir.join("pair-a"), dir.join("pair-b"))?;
    symlink("conf", dir.join("link"))?;
    rustix::fs::setxattr(dir.join("noted"), "user.old", b"old", rustix::fs::XattrFlags::empty())?;
    // Times that a change would show.
    let old = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 };
    let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
    for path in Fingerprint::take(dir)?.entries.keys().rev() {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let path = if path.as_os_str().is_empty() { dir.to_owned() } else { dir.join(path) };
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags)?;
    }
    Ok(())
}

/// Changes of every kind, in the current directory.
const EDIT: &str = r#"
set -e
rm -r gone
rm file-gone
echo changed >>conf
: >emptied
chmod 700 private
chmod 4755 tool
setfattr -n user.note -v hi noted
setfattr -x user.old noted
mv old-dir new-dir
mv deep/x/file deep/y/renamed
rm -r replaced
echo file >replaced
rm became
mkdir -p became/in
echo in >became/in/f
rm link
ln -s elsewhere link
ln same same-link
echo more >>pair-a
mkfifo pipe
mkdir -p fresh/a/b
echo f >fresh/a/b/f
ln fresh/a/b/f fresh/hard
ln fresh/a/b/f hard-outside
rm -r opaque
mkdir opaque
echo new >opaque/new
echo odd >"$(printf 'odd\377\nname')"
truncate -s 1M sparse
"#;
/// What only root may do.
const EDIT_AS_ROOT: &str = "chown 3:4 owned\nmknod null c 1 3\n";

/// What can be compared between a tree and a copy of it: all but link counts, which names outside of it add to.
fn visible(root: &Path) -> Result<Fingerprint> {
    let mut seen = Fingerprint::take(root)?.portable();
    for entry in seen.entries.values_mut() {
        entry.links = 0;
    }
    Ok(seen)
}

/// A directory `d` to try things over, and `seen` for a copy of what a command saw.
fn stage(home: &Home) -> Result<PathBuf> {
    let dir = home.path("d");
    fs::create_dir(&dir)?;
    fill(&dir)?;
    fs::create_dir(home.path("seen"))?;
    Ok(dir)
}

/// Runs a script over the directory, and keeps its changes as the try `t`; `seen` is then the tree that it saw.
fn edit(home: &Home, script: &str, flags: &[&str]) -> Result<Output> {
    let (dir, seen) = (home.path("d"), home.path("seen"));
    let script = format!("{script}\ncp -a . '{}'\n", seen.display());
    let mut command = home.command(&["try", "--name", "t", "--dir"])?;
    command.arg(&dir).arg("--allow").arg(&seen).args(flags);
    Ok(command.args(["--", "sh", "-c", &script]).output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Fails unless a command ended with this status.
fn expect(output: &Output, status: i32) -> Result<()> {
    ensure!(
        output.status.code() == Some(status),
        "{}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(())
}

#[test]
fn all_of_it_applied_is_the_tree_that_the_command_saw_and_undone_the_old_one() -> Result<()> {
    if !can("try", &[Need::Fuse, Need::Loop, Need::Tool("setfattr")])? {
        return Ok(());
    }
    for (driver, fs_kind) in
        [("kernel", None), ("fuse", None), ("kernel", Some(FsKind::Xfs)), ("kernel", Some(FsKind::Btrfs))]
    {
        let home = match fs_kind {
            Some(kind) => Home::on(kind, "try", 400)?,
            None => Home::new("try")?,
        };
        let about = format!("{driver} on {fs_kind:?}");
        let dir = stage(&home)?;
        let before = Fingerprint::take(&dir)?;
        let output = edit(&home, &format!("{EDIT}{EDIT_AS_ROOT}"), &["--driver", driver, "--keep"])?;
        expect(&output, 0)?;
        before.expect(&Fingerprint::take(&dir)?, &format!("{about}: running changes nothing"))?;
        let shown = text(&home.run(&["try", "show", "t"])?.stdout);
        let is_change = |line: &&str| ["D ", "C ", "A "].iter().any(|start| line.starts_with(start));
        let lines: Vec<&str> = shown.lines().filter(is_change).collect();
        let letters: String = lines.iter().map(|line| &line[..1]).collect();
        ensure!(
            letters.trim_start_matches('D').trim_start_matches('C').trim_start_matches('A').is_empty(),
            "{shown}"
        );
        ensure!(shown.contains(r"odd\xff\x0aname"), "names are escaped: {shown}");
        home.ok(&["try", "apply", "t"])?;
        let seen = visible(&home.path("seen"))?;
        seen.expect(&visible(&dir)?, &format!("{about}: applied"))?;
        ensure!(home.run(&["try", "show", "t"])?.status.code() == Some(0), "nothing is left");
        home.ok(&["try", "undo", "t"])?;
        before
            .clone()
            .portable()
            .expect(&Fingerprint::take(&dir)?.portable(), &format!("{about}: undone"))?;
        // Undone, it can be applied again.
        home.ok(&["try", "apply", "t"])?;
        seen.expect(&visible(&dir)?, &format!("{about}: applied again"))?;
        home.ok(&["try", "discard", "t"])?;
        seen.expect(&visible(&dir)?, &format!("{about}: discarding the rest changes nothing"))?;
        ensure!(home.json(&["try", "list", "--json"])?["tries"] == serde_json::json!([]));
        ensure!(
            fs::read_dir(home.path("store/tries"))?.count() == 0,
            "{about}: nothing is left in the store"
        );
    }
    Ok(())
}

#[test]
fn what_is_discarded_leaves_no_trace() -> Result<()> {
    if !can("try discarded", &[Need::Tool("setfattr")])? {
        return Ok(());
    }
    let home = Home::new("try-discard")?;
    let dir = stage(&home)?;
    let before = Fingerprint::take(&dir)?;
    let output = edit(&home, &format!("{EDIT}{EDIT_AS_ROOT}exit 7"), &["--discard"])?;
    expect(&output, 7)?;
    before.expect(&Fingerprint::take(&dir)?, "discarded")?;
    ensure!(fs::read_dir(home.path("store/tries"))?.count() == 0);
    Ok(())
}

#[test]
fn some_of_it_can_be_applied_and_the_rest_later() -> Result<()> {
    if !can("try some", &[Need::Tool("setfattr")])? {
        return Ok(());
    }
    let home = Home::new("try-some")?;
    let dir = stage(&home)?;
    let before = Fingerprint::take(&dir)?.portable();
    expect(&edit(&home, &format!("{EDIT}{EDIT_AS_ROOT}"), &[])?, 0)?;
    let apply = |paths: &[&str]| -> Result<Output> {
        Ok(home.command(&["try", "apply", "t"])?.args(paths).current_dir(&dir).output()?)
    };
    // One file of a new directory brings the directory, and nothing else.
    expect(&apply(&["fresh/a/b/f", "gone"])?, 0)?;
    ensure!(
        dir.join("fresh/a/b/f").is_file() && !dir.join("fresh/hard").exists() && !dir.join("gone").exists()
    );
    ensure!(dir.join("file-gone").exists() && fs::read_to_string(dir.join("conf"))? == "conf");
    let shown = home.json(&["try", "show", "t", "--json"])?;
    let applied: Vec<&str> = shown["changes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|change| change["applied"] == true)
        .filter_map(|change| change["path"].as_str())
        .filter_map(|path| path.strip_prefix(dir.to_str()?))
        .collect();
    ensure!(applied == ["/gone", "/fresh", "/fresh/a", "/fresh/a/b", "/fresh/a/b/f"], "{applied:?}");
    ensure!(shown["outcome"] == "partly", "{shown}");
    // A path without changes, and one that goes as a whole.
    let error = text(&apply(&["open"])?.stderr);
    ensure!(error.contains("nothing is changed there"), "{error}");
    let error = text(&apply(&["gone/1"])?.stderr);
    ensure!(error.contains("nothing is changed there by itself"), "{error}");
    // The rest.
    expect(&apply(&[])?, 0)?;
    visible(&home.path("seen"))?.expect(&visible(&dir)?, "applied in two parts")?;
    expect(&home.run(&["try", "undo", "t", "--last"])?, 0)?;
    ensure!(
        dir.join("fresh/a/b/f").is_file()
            && !dir.join("fresh/hard").exists()
            && dir.join("file-gone").exists()
    );
    expect(&home.run(&["try", "undo", "t"])?, 0)?;
    before.expect(&Fingerprint::take(&dir)?.portable(), "undone in two parts")
}

#[test]
fn what_others_have_changed_is_refused() -> Result<()> {
    if !can("try conflicts", &[Need::Tool("setfattr")])? {
        return Ok(());
    }
    type Meddle = fn(&Path) -> std::io::Result<()>;
    let cases: [(&str, Meddle); 9] = [
        ("conf", |dir| fs::write(dir.join("conf"), "mine")),
        ("conf", |dir| fs::remove_file(dir.join("conf"))),
        ("tool", |dir| fs::set_permissions(dir.join("tool"), fs::Permissions::from_mode(0o600))),
        ("gone", |dir| fs::write(dir.join("gone/deep/precious"), "mine")),
        ("gone", |dir| fs::write(dir.join("gone/1"), "m")),
        ("fresh", |dir| fs::create_dir(dir.join("fresh"))),
        ("private", |dir| fs::set_permissions(dir.join("private"), fs::Permissions::from_mode(0o711))),
        ("deep/y/renamed", |dir| fs::remove_dir(dir.join("deep/y"))),
        ("link", |dir| fs::remove_file(dir.join("link")).and_then(|()| symlink("mine", dir.join("link")))),
    ];
    let home = Home::new("try-conflict")?;
    for (path, meddle) in cases {
        let dir = stage(&home)?;
        expect(&edit(&home, EDIT, &[])?, 0)?;
        meddle(&dir)?;
        let before = Fingerprint::take(&dir)?;
        let output = home.run(&["try", "apply", "t"])?;
        expect(&output, 1)?;
        let said = text(&output.stderr);
        ensure!(said.contains(&format!("  {}: ", dir.join(path).display())), "{path}: {said}");
        before.expect(&Fingerprint::take(&dir)?, "nothing is applied")?;
        // All others can be.
        expect(&home.run(&["try", "apply", "t", "--skip-conflicts"])?, 0)?;
        let show = home.json(&["try", "show", "t", "--json"])?;
        let left: Vec<&str> = show["changes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|change| change["applied"] == false)
            .filter_map(|change| change["path"].as_str())
            .collect();
        let full = dir.join(path).display().to_string();
        ensure!(!left.is_empty() && left.iter().all(|left| left.starts_with(&full)), "{path}: {left:?}");
        ensure!(dir.join("new-dir/in/f").exists() && dir.join("hard-outside").exists());
        expect(&home.run(&["try", "undo", "t"])?, 0)?;
        before.clone().portable().expect(&Fingerprint::take(&dir)?.portable(), path)?;
        home.ok(&["try", "discard", "t"])?;
        fs::remove_dir_all(&dir)?;
        fs::remove_dir_all(home.path("seen"))?;
    }
    Ok(())
}

#[test]
fn what_is_changed_while_the_command_runs_is_refused_too() -> Result<()> {
    if !can("try races", &[])? {
        return Ok(());
    }
    let home = Home::new("try-race")?;
    let dir = stage(&home)?;
    fs::create_dir(home.path("signal"))?;
    // The command has changed its copy, and waits; meanwhile somebody changes the original.
    let script = "echo ours >conf; rm -r gone; echo new >added; : >../signal/ready; \
                  until test -e ../signal/go; do sleep 0.01; done";
    let mut command =
        home.command(&["try", "--name", "t", "--dir", "d", "--keep", "--allow", "signal", "--"])?;
    let mut child = command.args(["sh", "-c", script]).stderr(Stdio::null()).spawn()?;
    while !home.path("signal/ready").exists() {
        ensure!(child.try_wait()?.is_none(), "the command has ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    fs::write(dir.join("conf"), "theirs")?;
    fs::write(dir.join("gone/precious"), "theirs")?;
    fs::write(dir.join("added"), "theirs")?;
    let busy = home.fails(&["try", "show", "t"])?;
    ensure!(busy.contains("its command runs"), "{busy}");
    fs::write(home.path("signal/go"), "")?;
    ensure!(child.wait()?.success());
    let before = Fingerprint::take(&dir)?;
    let output = home.run(&["try", "apply", "t"])?;
    expect(&output, 1)?;
    let said = text(&output.stderr);
    for path in ["conf", "gone", "added"] {
        ensure!(said.contains(&format!("  {}: somebody else", dir.join(path).display())), "{path}: {said}");
    }
    before.expect(&Fingerprint::take(&dir)?, "nothing is applied")
}

#[test]
fn what_has_been_changed_since_is_not_undone() -> Result<()> {
    if !can("try undo", &[Need::Tool("setfattr")])? {
        return Ok(());
    }
    let home = Home::new("try-undo")?;
    let dir = stage(&home)?;
    expect(&edit(&home, EDIT, &["--apply"])?, 0)?;
    for (path, put_back) in [("new-dir/later", None), ("gone", None), ("conf", Some("conf\nchanged\n"))] {
        fs::write(dir.join(path), "later")?;
        let before = Fingerprint::take(&dir)?;
        let output = home.run(&["try", "undo", "t"])?;
        expect(&output, 1)?;
        let said = text(&output.stderr);
        ensure!(said.contains("since it was"), "{path}: {said}");
        before.expect(&Fingerprint::take(&dir)?, "nothing is undone")?;
        if put_back.is_none() {
            fs::remove_file(dir.join(path))?;
        }
    }
    Ok(())
}

/// A few changes of every kind, so that there are not too many points to be killed at.
const SMALL: &str = "set -e\nrm -r gone\necho changed >>conf\nchmod 700 private\nrm -r replaced\necho file >replaced\n\
    mkdir -p fresh/a\necho f >fresh/a/f\nln fresh/a/f hard\nrm became; mkdir became";

/// Every path is as in one of the two trees.
fn old_or_new(dir: &Path, old: &Fingerprint, new: &Fingerprint) -> Result<()> {
    let contents = |tree: &Fingerprint| -> BTreeMap<PathBuf, Content> {
        tree.entries.iter().map(|(path, entry)| (path.clone(), entry.content.clone())).collect()
    };
    let (old, new, now) = (contents(old), contents(new), contents(&visible(dir)?));
    for path in old.keys().chain(new.keys()).chain(now.keys()) {
        let is = now.get(path);
        ensure!(is == old.get(path) || is == new.get(path), "{} is {is:?}", path.display());
    }
    Ok(())
}

#[test]
fn killed_at_every_change_it_goes_on_or_back() -> Result<()> {
    if !can("try killed", &[])? {
        return Ok(());
    }
    let fresh = || -> Result<(Home, PathBuf, Fingerprint, Fingerprint)> {
        let home = Home::new("try-killed")?;
        let dir = stage(&home)?;
        let old = visible(&dir)?;
        expect(&edit(&home, SMALL, &[])?, 0)?;
        let new = visible(&home.path("seen"))?;
        Ok((home, dir, old, new))
    };
    let mut points = [0, 0];
    for n in 1.. {
        let (home, dir, old, new) = fresh()?;
        let at = format!("apply killed at change {n}");
        if killed_at(&home, &["try", "apply", "t"], n)?.is_none() {
            break;
        }
        points[0] += 1;
        old_or_new(&dir, &old, &new).context(at.clone())?;
        if n % 2 == 0 {
            home.ok(&["try", "undo", "t"]).context(at.clone())?;
            old.expect(&visible(&dir)?, &format!("{at} and undone"))?;
        }
        home.ok(&["try", "resume", "t"]).context(at.clone())?;
        // Killed before the first record, there is nothing to be resumed.
        home.ok(&["try", "apply", "t"]).context(at.clone())?;
        new.expect(&visible(&dir)?, &format!("{at} and resumed"))?;
    }
    for n in 1.. {
        let (home, dir, old, new) = fresh()?;
        let at = format!("undo killed at change {n}");
        home.ok(&["try", "apply", "t"])?;
        if killed_at(&home, &["try", "undo", "t"], n)?.is_none() {
            break;
        }
        points[1] += 1;
        old_or_new(&dir, &old, &new).context(at.clone())?;
        home.ok(&["try", "resume", "t"]).context(at.clone())?;
        home.ok(&["try", "undo", "t"]).context(at.clone())?;
        old.expect(&visible(&dir)?, &format!("{at} and resumed"))?;
        home.ok(&["try", "discard", "t"])?;
        ensure!(fs::read_dir(home.path("store/tries"))?.count() == 0);
    }
    println!("killed at {} changes of apply, {} of undo", points[0], points[1]);
    ensure!(points.iter().all(|count| *count > 30), "{points:?}");
    Ok(())
}

#[test]
fn the_live_root_is_covered_with_its_submounts() -> Result<()> {
    if !can("try over the root", &[Need::Loop])? {
        return Ok(());
    }
    let home = Home::new("try-root")?;
    let disk = Home::on(FsKind::Xfs, "try-disk", 300)?;
    for path in ["plain", "tmpfs", "xfs", "read-only"] {
        fs::create_dir(home.path(path))?;
    }
    // Mounts of other tests come and go; in this namespace there are none.
    let script = r#"
set -e
cd "$DIR"
for point in $(awk '$5 ~ "^/tmp/" || $5 ~ ENVIRON["TMP_PREFIX"] { print $5 }' /proc/self/mountinfo | tac); do
    umount -l "$point"
done
mount -t tmpfs tmpfs tmpfs
mount --bind "$DISK" xfs
mount -t tmpfs -o ro tmpfs read-only
for dir in plain tmpfs xfs; do echo old >$dir/file; mkdir $dir/gone; echo 1 >$dir/gone/1; done
"$ACETATE" try --name t -- sh -c '
    for dir in plain tmpfs xfs; do
        echo new >$dir/file; rm -r $dir/gone; mkdir -p $dir/fresh/in; echo f >$dir/fresh/in/f
    done
    ! touch read-only/x && ! sh -c "echo 1 >/proc/sys/vm/drop_caches" && ! touch /sys/x && ! ls -A "$ACETATE_STORE" | grep .
    test ! -e /dev/loop0 && test -c /dev/null && test "$(id -u)" = 0 && test "$(cat tmpfs/file)" = new
' 2>said
cat plain/file tmpfs/file xfs/file tmpfs/gone/1
ls xfs
"$ACETATE" try apply t "$DIR/plain" "$DIR/tmpfs" "$DIR/xfs" 2>>said
cat plain/file tmpfs/file xfs/file xfs/fresh/in/f
ls -A tmpfs xfs | sed s/t-.*/t/
"$ACETATE" try undo t 2>>said
cat plain/file tmpfs/file xfs/file tmpfs/gone/1
ls -A tmpfs xfs
"$ACETATE" try show t >shown || test $? = 1
"#;
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script])
        .env("ACETATE", acetate_bin()?)
        .env("ACETATE_STORE", home.path("store"))
        .env("DIR", home.path(""))
        .env("TMP_PREFIX", format!("^{}/", std::env::temp_dir().display()))
        .env("DISK", disk.path(""))
        .output()?;
    let said = fs::read_to_string(home.path("said")).unwrap_or_default();
    ensure!(output.status.success(), "{}{}{said}", text(&output.stdout), text(&output.stderr));
    let expected = "old\nold\nold\n1\nfile\ngone\nnew\nnew\nnew\nf\ntmpfs:\n.acetate-try-t\nfile\nfresh\n\nxfs:\n\
        .acetate-try-t\nfile\nfresh\nold\nold\nold\n1\ntmpfs:\nfile\ngone\n\nxfs:\nfile\ngone\n";
    ensure!(text(&output.stdout) == expected, "{}{said}", text(&output.stdout));
    let shown = fs::read_to_string(home.path("shown"))?;
    for dir in ["plain", "tmpfs", "xfs"] {
        let dir = home.path(dir);
        for line in [format!("D {}/gone/", dir.display()), format!("A {}/fresh/in/f", dir.display())] {
            ensure!(shown.contains(&line), "{line}: {shown}");
        }
    }
    Ok(())
}

#[test]
fn outside_a_directory_nothing_can_be_changed() -> Result<()> {
    if !can("try in a directory", &[])? {
        return Ok(());
    }
    let home = Home::new("try-outside")?;
    stage(&home)?;
    fs::create_dir(home.path("allowed"))?;
    let outside = "/etc/acetate-try-test";
    let script = format!(
        "! touch {outside} && touch ../beside && touch /var/tmp/acetate-try-test ../allowed/made && pwd && ls /dev"
    );
    let output = home
        .command(&["try", "--dir", "d", "--allow", "allowed", "--keep", "--", "sh", "-c", &script])?
        .output()?;
    expect(&output, 0)?;
    ensure!(text(&output.stdout).starts_with(&format!("{}\n", home.path("d").display())), "it begins there");
    ensure!(!Path::new(outside).exists() && !home.path("beside").exists());
    ensure!(!Path::new("/var/tmp/acetate-try-test").exists(), "scratch space is thrown away");
    ensure!(home.path("allowed/made").exists(), "what is allowed is real");
    ensure!(text(&output.stderr).contains("nothing was changed"), "{}", text(&output.stderr));
    ensure!(
        home.json(&["try", "list", "--json"])?["tries"] == serde_json::json!([]),
        "there is nothing to keep"
    );
    Ok(())
}

#[test]
fn where_the_kernel_refuses_our_own_overlay_takes_over() -> Result<()> {
    if !can("try on an overlay", &[Need::Fuse])? {
        return Ok(());
    }
    // An overlay cannot be the upper layer of the kernel's.
    let home = Home::new("try-nested")?;
    for path in ["lower", "upper", "work", "merged"] {
        fs::create_dir(home.path(path))?;
    }
    let options = format!(
        "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work",
        home.path("").display().to_string().trim_end_matches('/')
    );
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(home.path("merged"))
        .status()?;
    ensure!(mounted.success());
    let dir = stage(&home)?;
    let result = (|| -> Result<()> {
        let old = Fingerprint::take(&dir)?.portable();
        let output = home
            .command(&["try", "--name", "t", "--dir", "d", "--keep", "--", "sh", "-c", SMALL])?
            .env("ACETATE_STORE", home.path("merged/store"))
            .output()?;
        expect(&output, 0)?;
        let record = fs::read_to_string(home.path("merged/store/tries/t/try.json"))?;
        ensure!(record.contains("\"driver\": \"fuse\""), "{record}");
        for (command, status) in [("apply", 0), ("undo", 0), ("discard", 0)] {
            let output = home
                .command(&["try", command, "t"])?
                .env("ACETATE_STORE", home.path("merged/store"))
                .output()?;
            expect(&output, status)?;
            ensure!(dir.join("fresh/a/f").exists() == (command == "apply"));
        }
        old.expect(&Fingerprint::take(&dir)?.portable(), "undone")
    })();
    ensure!(Command::new("umount").arg("-l").arg(home.path("merged")).status()?.success());
    result
}

#[test]
fn an_ordinary_user_needs_no_privilege() -> Result<()> {
    if !can("try rootless", &[Need::Tool("setpriv")])? {
        return Ok(());
    }
    let home = Home::new("try-user")?;
    let dir = stage(&home)?;
    for path in Fingerprint::take(&dir)?.entries.keys() {
        let path = if path.as_os_str().is_empty() { dir.clone() } else { dir.join(path) };
        std::os::unix::fs::lchown(path, Some(1000), Some(1000))?;
    }
    let before = Fingerprint::take(&dir)?.portable();
    for path in ["store", "seen"] {
        fs::create_dir_all(home.path(path))?;
        chown(home.path(path), Some(1000), Some(1000))?;
    }
    // The program itself may be out of the user's reach.
    let program = home.path("acetate");
    fs::copy(acetate_bin()?, &program)?;
    let user = |args: &[&str]| -> Result<Output> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=1000", "--regid=1000", "--clear-groups"]).arg(&program).args(args);
        Ok(command.env("ACETATE_STORE", home.path("store")).current_dir(&dir).output()?)
    };
    // Under userxattr an overlay does not show that a copy and its link are one file.
    let edit = EDIT.replace("ln same same-link\n", "");
    let script = format!("{edit}\ntest \"$(id -u)\" = 1000\n! touch /etc/x\ncp -a . ../seen");
    let output =
        user(&["try", "--name", "t", "--dir", ".", "--allow", "../seen", "--", "sh", "-c", &script])?;
    expect(&output, 0)?;
    before.expect(&Fingerprint::take(&dir)?.portable(), "running changes nothing")?;
    expect(&user(&["try", "apply", "t"])?, 0)?;
    visible(&home.path("seen"))?.expect(&visible(&dir)?, "applied")?;
    expect(&user(&["try", "undo", "t"])?, 0)?;
    before.expect(&Fingerprint::take(&dir)?.portable(), "undone")?;
    expect(&user(&["try", "discard", "t"])?, 0)?;
    // Over the whole tree, as far as a user can change it.
    let script = format!("rm '{}/conf'; echo t >/var/tmp/try-{}", dir.display(), std::process::id());
    let output = user(&["try", "--json", "--", "sh", "-c", &script])?;
    expect(&output, 0)?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let paths: Vec<&str> = document["changes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|change| change["path"].as_str())
        .collect();
    let conf = dir.join("conf").display().to_string();
    ensure!(paths.len() == 2 && paths[0] == conf && paths[1].starts_with("/var/tmp/try-"), "{document}");
    before.expect(&Fingerprint::take(&dir)?.portable(), "the live tree is as it was")
}

#[test]
fn exit_statuses_are_the_commands() -> Result<()> {
    if !can("try statuses", &[])? {
        return Ok(());
    }
    let home = Home::new("try-status")?;
    stage(&home)?;
    let cases: [(&[&str], i32); 7] = [
        (&["true"], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["no-such-program"], 127),
        (&["./conf"], 126),
        (&["sh", "-c", "echo >new; exit 5"], 5),
    ];
    for (command, status) in cases {
        for end in ["--keep", "--discard", "--apply"] {
            let mut args = vec!["try", "--dir", "d", end, "--"];
            args.extend(command);
            expect(&home.run(&args)?, status).with_context(|| format!("{command:?} {end}"))?;
        }
    }
    ensure!(!home.path("d/new").exists(), "what failed is not applied by itself");
    expect(&home.run(&["try", "--dir", "nowhere", "--", "true"])?, 125)?;
    expect(&home.run(&["try", "--dir", "store", "--", "true"])?, 125)?;
    expect(&home.run(&["try", "--name", "a/b", "--", "true"])?, 125)?;
    expect(&home.run(&["try", "--keep", "--apply", "--", "true"])?, 2)?;
    expect(&home.run(&["try", "show", "nothing"])?, 2)?;
    // Signals reach the command, and nothing of it stays.
    let mut child = home
        .command(&["try", "--dir", "d", "--name", "s", "--keep", "--", "sh", "-c"])?
        .arg("trap 'echo >trapped; exit 9' TERM; : >waits; while :; do sleep 0.01; done")
        .stderr(Stdio::null())
        .spawn()?;
    let waits = home.path("store/tries/s/covers");
    let begun = || {
        fs::read_dir(&waits)
            .into_iter()
            .flatten()
            .flatten()
            .any(|cover| cover.path().join("diff/waits").exists())
    };
    while !begun() {
        ensure!(child.try_wait()?.is_none(), "the command has ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    ensure!(Command::new("kill").arg("-TERM").arg(child.id().to_string()).status()?.success());
    ensure!(child.wait()?.code() == Some(9));
    let shown = text(&home.run(&["try", "show", "s"])?.stdout);
    ensure!(shown.contains("/d/trapped"), "{shown}");
    Ok(())
}

#[test]
fn one_that_is_killed_keeps_what_it_did() -> Result<()> {
    if !can("try runner killed", &[Need::Fuse])? {
        return Ok(());
    }
    kill_the_runner("kernel")?;
    kill_the_runner("fuse")
}

fn kill_the_runner(driver: &str) -> Result<()> {
    let home = Home::new("try-orphan")?;
    let dir = stage(&home)?;
    let mut child = home
        .command(&["try", "--dir", "d", "--name", "k", "--driver", driver, "--", "sh", "-c"])?
        .arg("echo new >made; (sleep 1000; echo later >late) & while :; do sleep 0.01; done")
        .stderr(Stdio::null())
        .spawn()?;
    let covers = home.path("store/tries/k/covers");
    let begun = || {
        fs::read_dir(&covers)
            .into_iter()
            .flatten()
            .flatten()
            .any(|cover| cover.path().join("diff/made").exists())
    };
    while !begun() {
        ensure!(child.try_wait()?.is_none(), "the command has ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    // All others end with it, the last of them a moment later.
    for _ in 0..1000 {
        if home.run(&["try", "show", "k"])?.status.code() == Some(1) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let shown = home.json(&["try", "show", "k", "--json"])?;
    ensure!(shown["status"].is_null() && shown["changes"].as_array().map(Vec::len) == Some(1), "{shown}");
    home.ok(&["try", "apply", "k"])?;
    ensure!(fs::read_to_string(dir.join("made"))? == "new\n");
    // Daemons end with the mounts that they serve.
    for _ in 0..1000 {
        if !serves(&home.path("store"))? {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    anyhow::bail!("{driver}: a daemon stays")
}

/// Whether a daemon serves a mount of a store.
fn serves(store: &Path) -> Result<bool> {
    let store = store.display().to_string();
    let processes = fs::read_dir("/proc")?.flatten().map(|process| process.path().join("cmdline"));
    // Some of them end meanwhile.
    let mut lines = processes.filter_map(|path| fs::read(path).ok()).map(|line| text(&line));
    Ok(lines.any(|line| line.contains("--with-parent") && line.contains(&store)))
}

#[test]
fn programs_get_one_document() -> Result<()> {
    if !can("try json", &[Need::Tool("setfattr")])? {
        return Ok(());
    }
    let home = Home::new("try-json")?;
    let dir = stage(&home)?;
    let output = home
        .command(&["try", "--dir", "d", "--name", "t", "--json", "--", "sh", "-c"])?
        .arg("echo to-stdout; rm -r gone; echo x >>conf; echo new >new; exit 4")
        .output()?;
    expect(&output, 4)?;
    ensure!(text(&output.stderr).contains("to-stdout"), "the command's output goes to standard error");
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let path = |name: &str| dir.join(name).display().to_string();
    let change = |name: &str, change: &str, of: &[&str], kind: &str, size: u64, below: u64| {
        serde_json::json!({
            "path": path(name), "change": change, "of": of, "kind": kind, "size": size, "below": below,
            "applied": false, "conflict": null,
        })
    };
    ensure!(
        document["schema"] == "acetate-try-v1" && document["outcome"] == "kept" && document["status"] == 4
    );
    ensure!(
        document["changes"]
            == serde_json::json!([
                change("gone", "deleted", &[], "directory", 0, 3),
                change("conf", "changed", &["content"], "file", 6, 0),
                change("new", "added", &[], "file", 4, 0),
            ]),
        "{document}"
    );
    fs::write(dir.join("conf"), "theirs")?;
    let shown = home.json(&["try", "show", "t", "--json"])?;
    ensure!(shown["changes"][1]["conflict"] == "it has been changed since", "{shown}");
    let output = home.run(&["try", "apply", "t", "--json", "--skip-conflicts"])?;
    expect(&output, 0)?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(document["outcome"] == "partly" && document["changes"][0]["applied"] == true, "{document}");
    Ok(())
}

/// Runs a program on a terminal of its own and answers what it asks: pairs of what is waited for and what is typed.
const TERMINAL: &str = r#"
import os, pty, select, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1 + int(sys.argv[1]) * 2 + 1], sys.argv[1 + int(sys.argv[1]) * 2 + 1:])
pairs = sys.argv[2:2 + int(sys.argv[1]) * 2]
seen, everything, end = b"", b"", time.time() + 120
while time.time() < end:
    if pairs and pairs[0].encode() in seen:
        os.write(terminal, pairs[1].encode().replace(b"^C", b"\x03").replace(b"^D", b"\x04"))
        pairs, seen = pairs[2:], b""
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        seen += data
        everything += data
sys.stdout.buffer.write(everything)
sys.stdout.flush()
status = os.waitpid(pid, 0)[1]
sys.exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
"#;

fn on_a_terminal(home: &Home, answers: &[(&str, &str)], args: &[&str]) -> Result<Output> {
    let mut command = Command::new("python3");
    command.args(["-c", TERMINAL]).arg(answers.len().to_string());
    for (prompt, answer) in answers {
        command.args([prompt, answer]);
    }
    command.arg(acetate_bin()?).args(args);
    command.env("ACETATE_STORE", home.path("store")).env_remove("NO_COLOR").current_dir(home.path(""));
    Ok(command.stdin(Stdio::null()).output()?)
}

#[test]
fn on_a_terminal_it_asks() -> Result<()> {
    if !can("try on a terminal", &[Need::Tool("python3")])? {
        return Ok(());
    }
    let home = Home::new("try-ask")?;
    let dir = stage(&home)?;
    let script = "rm -r gone; echo x >>conf; mkdir new; echo new >new/f; exit 3";
    let run = |name: &str, answers: &[(&str, &str)]| -> Result<(Output, String)> {
        let args = ["try", "--dir", "d", "--name", name, "--", "sh", "-c", script];
        let output = on_a_terminal(&home, answers, &args)?;
        let shown = text(&output.stdout);
        Ok((output, shown))
    };
    let before = Fingerprint::take(&dir)?;
    let (output, shown) =
        run("discarded", &[("ist again?", "what\n"), ("ist again?", "l\n"), ("ist again?", "d\n")])?;
    expect(&output, 3)?;
    ensure!(shown.contains("\u{1b}[1;31mD ") && shown.contains("Answer with one of the letters"), "{shown}");
    ensure!(shown.matches("(3 objects below it)").count() == 2, "{shown}");
    before.expect(&Fingerprint::take(&dir)?, "discarded")?;
    // Whoever interrupts or ends the input keeps everything.
    for (name, keys, status) in [("interrupted", "^C", 130), ("ended", "^D", 3), ("kept", "k\n", 3)] {
        let (output, shown) = run(name, &[("ist again?", keys)])?;
        expect(&output, status).with_context(|| shown.clone())?;
        before.expect(&Fingerprint::take(&dir)?, name)?;
        ensure!(home.json(&["try", "show", name, "--json"])?["outcome"] == "kept");
    }
    // Ctrl-C ends the command, not what watches it.
    let args = [
        "try",
        "--dir",
        "d",
        "--name",
        "slept",
        "--",
        "sh",
        "-c",
        "echo x >>conf; echo ready; exec sleep 1000",
    ];
    let output = on_a_terminal(&home, &[("ready", "^C"), ("ist again?", "k\n")], &args)?;
    expect(&output, 130)?;
    ensure!(home.json(&["try", "show", "slept", "--json"])?["changes"].as_array().map(Vec::len) == Some(1));
    // Some: the deletion not, the change yes, the new directory as one.
    let answers = [("ist again?", "s\n"), ("(1/3)", "n\n"), ("(2/3)", "y\n"), ("(3/3)", "y\n")];
    let (output, shown) = run("some", &answers)?;
    expect(&output, 3).with_context(|| shown.clone())?;
    ensure!(shown.contains("(and 1 in it)"), "{shown}");
    ensure!(
        dir.join("gone").exists()
            && dir.join("new/f").exists()
            && fs::read_to_string(dir.join("conf"))? == "confx\n"
    );
    home.ok(&["try", "undo", "some"])?;
    let (output, _) = run("all", &[("ist again?", "a\n")])?;
    expect(&output, 3)?;
    ensure!(!dir.join("gone").exists() && dir.join("new/f").exists());
    Ok(())
}

#[test]
fn many_changes_are_all_listed() -> Result<()> {
    if !can("try many", &[])? {
        return Ok(());
    }
    let home = Home::new("try-many")?;
    let dir = stage(&home)?;
    let script = "i=0; while [ $i -lt 3000 ]; do : >f$i; i=$((i+1)); done; rm conf";
    let output = home.command(&["try", "--dir", "d", "--name", "t", "--", "sh", "-c", script])?.output()?;
    expect(&output, 0)?;
    let said = text(&output.stderr);
    ensure!(said.lines().filter(|line| line.starts_with("A ")).count() == 3000);
    let first = said.lines().find(|line| line.get(1..2) == Some(" "));
    ensure!(first == Some(&*format!("D {}", dir.join("conf").display())), "{first:?}");
    ensure!(said.contains("1 deleted, 3000 added"), "the end says what is above");
    home.ok(&["try", "apply", "t"])?;
    ensure!(fs::metadata(dir.join("f2999"))?.nlink() == 1);
    home.ok(&["try", "undo", "t"])?;
    ensure!(!dir.join("f2999").exists() && dir.join("conf").exists());
    std::io::stdout().flush()?;
    Ok(())
}
