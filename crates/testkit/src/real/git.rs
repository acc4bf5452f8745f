//! git on a mount: a repository of some thousand objects, cloned, packed, checked and changed.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::{Place, expect_eq, run_in};
use crate::driver::Driver;

/// Commits in the repository.
const COMMITS: usize = 320;

/// Files that each commit adds or changes.
const FILES_PER_COMMIT: usize = 10;

/// Clones a repository of the lower layer on a mount of `driver`, packs both, goes back and forth in history.
pub fn clone_and_gc(driver: &Driver) -> anyhow::Result<String> {
    let mut place = Place::new(driver, "acetate-git", |lower, _| make_repository(&lower.join("origin")))?;
    let merged = place.merged.clone();
    let (origin, clone) = (merged.join("origin"), merged.join("clone"));

    // A local clone hard-links the objects: of a lower layer that means copy-up of each.
    git(&merged, "clone -q origin clone")?;
    check(&clone)?;
    git(&clone, "checkout -q HEAD~300")?;
    check(&clone)?;
    git(&clone, "checkout -q main")?;
    git(&clone, "gc -q --prune=now")?;
    check(&clone)?;

    // The lower repository itself: its loose objects are packed and removed, its work tree changes.
    git(&origin, "checkout -q -b topic HEAD~200")?;
    std::fs::write(origin.join("new file"), "new\n")?;
    git(&origin, "add -A")?;
    git(&origin, "commit -q -m topic")?;
    git(&origin, "gc -q --prune=now")?;
    git(&origin, "checkout -q main")?;
    git(&origin, "merge -q --no-edit topic")?;
    check(&origin)?;
    git(&clone, "pull -q")?;
    expect_eq(&git(&clone, "rev-parse HEAD")?, &git(&origin, "rev-parse HEAD")?, "the clone after a pull")?;

    place.remount()?;
    // Without a refresh: the index holds inode numbers and change times, which a remount has to keep.
    git(&clone, "diff-files --quiet").context("the index does not fit the files after a remount")?;
    let objects = git(&clone, "rev-list --all --objects")?.lines().count();
    place.finish(|merged| {
        check(&merged.join("origin"))?;
        check(&merged.join("clone"))
    })?;
    Ok(format!("{COMMITS} commits, {objects} objects cloned, packed and checked"))
}

/// No damage in the repository, no difference between work tree and commit.
fn check(repository: &Path) -> anyhow::Result<()> {
    git(repository, "fsck --full --strict --no-progress --no-dangling")
        .and_then(|said| expect_eq(&said.trim(), &"", "git fsck"))?;
    git(repository, "status --porcelain").and_then(|said| expect_eq(&said.trim(), &"", "git status"))
}

/// git with a fixed identity and none of this machine's settings.
fn command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(dir);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "T. Ester").env(format!("GIT_{who}_EMAIL"), "t@example.org");
    }
    command
}

fn git(dir: &Path, line: &str) -> anyhow::Result<String> {
    let mut command = command(dir);
    // Packing in the background would still write while the tree is unmounted.
    command.args(["-c", "gc.autoDetach=false", "-c", "maintenance.auto=false"]).args(line.split(' '));
    let out = crate::exec::stdout_of(&mut command, super::LIMIT)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// A repository with linear history and a work tree; half of its objects loose.
fn make_repository(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(dir)?;
    git(dir, "init -q -b main")?;
    let stream = dir.join(".git/stream");
    std::fs::write(&stream, history())?;
    let mut import = command(dir);
    // Below this limit git unpacks what it imported into loose objects.
    import.args(["-c", "fastimport.unpackLimit=1000000", "fast-import", "--quiet"]);
    let status = import.stdin(std::fs::File::open(&stream)?).stdout(Stdio::null()).status()?;
    if !status.success() {
        bail!("git fast-import: {status}");
    }
    std::fs::remove_file(&stream)?;
    git(dir, "reset -q --hard main")?;
    run_in(dir, "git count-objects").and_then(|said| {
        if said.starts_with("0 objects") { bail!("no loose objects: {said}") } else { Ok(()) }
    })
}

/// A stream for git-fast-import(1): every commit adds some files and changes some older ones.
fn history() -> String {
    let mut stream = String::new();
    for commit in 0..COMMITS {
        let message = format!("commit {commit}\n");
        // A String takes any text; writing to it cannot fail.
        let _ = write!(
            stream,
            "commit refs/heads/main\ncommitter T. Ester <t@example.org> {} +0000\ndata {}\n{message}",
            1_600_000_000 + commit,
            message.len()
        );
        for file in 0..FILES_PER_COMMIT {
            let owner = if file % 2 == 0 { commit } else { commit / 2 };
            let body = format!("file {file} of {owner}\n{}", format!("line {commit}\n").repeat(40));
            let _ = write!(
                stream,
                "M 100644 inline dir{}/sub{}/file-{owner}-{file}\ndata {}\n{body}\n",
                owner % 17,
                owner % 5,
                body.len()
            );
        }
    }
    stream
}
