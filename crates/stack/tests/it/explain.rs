//! What a path is in each layer, and what the first write to it costs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use acetate_layer::Kind;
use acetate_layer::mark::Dialect;
use acetate_stack::explain::explain;
use acetate_stack::{Problem, Seen, Stack, What};
use acetate_testkit::driver::{Driver, Stack as Mount};
use acetate_testkit::edits::{edit, plant};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

fn short(seen: &Seen) -> String {
    let what = match &seen.what {
        What::Absent => "absent".to_owned(),
        What::Whiteout(form) => format!("whiteout {form:?}"),
        What::Object(object) => format!(
            "{:?}{}{}",
            object.stat.kind,
            if object.metacopy { " metacopy" } else { "" },
            object.redirect.as_ref().map(|to| format!(" to {}", to.escape_ascii())).unwrap_or_default()
        ),
    };
    let hidden = seen.hidden.as_ref();
    let hidden = hidden.map(|h| format!(" [{} {} {:?}]", h.by, h.path.escape_ascii(), h.how));
    format!("{} {what}{}", seen.path.escape_ascii(), hidden.unwrap_or_default())
}

/// Paths that are copied, with the bytes of each.
type Copies = Vec<(String, u64)>;

fn explained(stack: &Stack, path: &str) -> Result<(Vec<String>, Copies)> {
    let found = explain(stack.merged(), path.as_bytes())?;
    let copies = found.copies.iter().map(|copy| (copy.path.escape_ascii().to_string(), copy.bytes));
    Ok((found.node.seen.iter().map(short).collect(), copies.collect()))
}

fn mark(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    lsetxattr(path, name, value, XattrFlags::empty()).with_context(|| format!("set {name}"))
}

fn whiteout(path: &Path) -> Result<()> {
    Ok(mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)?)
}

/// Three layers in which every kind of mark hides something.
fn layers(scratch: &Scratch) -> Result<[PathBuf; 3]> {
    let all = [scratch.dir("upper")?, scratch.dir("middle")?, scratch.dir("bottom")?];
    let [upper, middle, bottom] = &all;
    for layer in [middle, bottom] {
        fs::create_dir_all(layer.join("opaque/in"))?;
        fs::create_dir_all(layer.join("dir/deep"))?;
        fs::create_dir_all(layer.join("old"))?;
        for name in ["gone", "both", "opaque/in/f", "dir/deep/f", "old/x"] {
            fs::write(layer.join(name), "12345")?;
        }
    }
    symlink("x", bottom.join("under"))?;
    fs::create_dir(middle.join("under"))?;
    whiteout(&upper.join("gone"))?;
    fs::create_dir(upper.join("opaque"))?;
    mark(&upper.join("opaque"), "trusted.overlay.opaque", b"y")?;
    fs::create_dir(upper.join("new"))?;
    mark(&upper.join("new"), "trusted.overlay.redirect", b"old")?;
    whiteout(&upper.join("old"))?;
    fs::write(upper.join("meta"), "")?;
    mark(&upper.join("meta"), "trusted.overlay.metacopy", b"")?;
    mark(&upper.join("meta"), "trusted.overlay.redirect", b"/both")?;
    fs::File::create(upper.join("meta"))?.set_len(5)?;
    fs::create_dir(upper.join("bad"))?;
    mark(&upper.join("bad"), "trusted.overlay.redirect", b"a/b")?;
    fs::write(upper.join("lost"), "")?;
    mark(&upper.join("lost"), "trusted.overlay.metacopy", b"")?;
    Ok(all)
}

#[test]
fn every_layer_has_its_say() -> Result<()> {
    if !have("explain", &[Need::Root])? {
        return Ok(());
    }
    let scratch = Scratch::new("stack-explain")?;
    let [upper, middle, bottom] = layers(&scratch)?;
    let stack = Stack::open(Some(&upper), &[middle, bottom], Dialect::Trusted)?;
    type Case<'a> = (&'a str, [&'a str; 3], &'a [(&'a str, u64)]);
    let cases: [Case; 8] = [
        ("gone", ["gone whiteout Device", "gone File [0 gone Whiteout]", "gone File [0 gone Whiteout]"], &[]),
        ("both", ["both absent", "both File", "both File [1 both Object]"], &[("both", 5)]),
        (
            "opaque/in/f",
            [
                "opaque/in/f absent",
                "opaque/in/f File [0 opaque Opaque]",
                "opaque/in/f File [0 opaque Opaque]",
            ],
            &[],
        ),
        (
            "dir/deep/f",
            ["dir/deep/f absent", "dir/deep/f File", "dir/deep/f File [1 dir/deep/f Object]"],
            &[("dir", 0), ("dir/deep", 0), ("dir/deep/f", 5)],
        ),
        ("new/x", ["new/x absent", "old/x File", "old/x File [1 old/x Object]"], &[("new/x", 5)]),
        ("old/x", ["old/x absent", "old/x File [0 old Whiteout]", "old/x File [0 old Whiteout]"], &[]),
        ("under", ["under absent", "under Dir", "under Symlink [2 under Object]"], &[("under", 0)]),
        ("meta", ["meta File metacopy to /both", "both File", "both File [1 both Object]"], &[("meta", 5)]),
    ];
    for (path, layers, copies) in cases {
        let (seen, copied) = explained(&stack, path)?;
        ensure!(seen == layers, "{path}: {seen:#?}");
        let copies: Copies = copies.iter().map(|(path, bytes)| ((*path).to_owned(), *bytes)).collect();
        ensure!(copied == copies, "{path}: {copied:?}");
    }
    for (path, problem) in [("bad", Problem::BadRedirect), ("lost", Problem::NoData)] {
        ensure!(stack.merged().find(path.as_bytes())?.problem == Some(problem), "{path}");
    }
    Ok(())
}

/// The type, size and names of a tree as a mount shows it.
fn mounted(root: &Path) -> Result<Vec<(Vec<u8>, u64)>> {
    use std::os::unix::ffi::OsStrExt;
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let stat = fs::symlink_metadata(&path)?;
            let size = if stat.is_dir() { u64::MAX } else { stat.len() };
            found.push((path.strip_prefix(root)?.as_os_str().as_bytes().to_vec(), size));
            if stat.is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn lookup_shows_what_the_kernel_shows() -> Result<()> {
    if !have("lookup", &[Need::Root, Need::KernelOverlay])? {
        return Ok(());
    }
    for (options, seed) in [("", 1), ("redirect_dir=on", 2), ("redirect_dir=on,metacopy=on", 3)] {
        let mut random = fastrand::Rng::with_seed(seed);
        let scratch = Scratch::new("stack-lookup")?;
        let base = scratch.dir("base")?;
        plant(&base, &mut random)?;
        let mut lowers = vec![base];
        for round in 0..6 {
            let dir = |what: &str| scratch.dir(&format!("{what}{round}"));
            let (upper, work, merged) = (dir("upper")?, dir("work")?, dir("merged")?);
            let mount = Driver::Kernel.mount(&Mount::writable(&lowers, &upper, &work), &merged, options)?;
            for _ in 0..40 {
                edit(&merged, &mut random)?;
            }
            let expected = mounted(&merged)?;
            mount.unmount()?;
            let stack = Stack::open(Some(&upper), &lowers, Dialect::Trusted)?;
            let view = stack.merged();
            let mut found = Vec::new();
            view.visit(b"", &view.root()?, &mut |path, node| {
                let (_, object) = node.winner().expect("only what is shown is visited");
                let size = if object.stat.kind == Kind::Dir { u64::MAX } else { object.stat.size };
                found.push((path.to_vec(), size));
                Ok(())
            })?;
            found.sort();
            ensure!(found == expected, "{options} round {round}: {found:?}\n{expected:?}");
            lowers.insert(0, upper);
        }
    }
    Ok(())
}
