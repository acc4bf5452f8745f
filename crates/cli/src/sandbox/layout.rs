//! Which part of the tree that a command sees is what: pure, from the list of mounts.

use std::path::{Path, PathBuf};

/// One mount that can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) point: PathBuf,
    pub(super) fstype: String,
    pub(super) read_only: bool,
    /// A file is mounted on a file.
    pub(super) is_file: bool,
}

/// What is made at a path of the command's tree. The order is that of mounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An overlay, whose changes count.
    Cover(PathBuf),
    /// An overlay, whose changes are thrown away.
    Scratch(PathBuf),
    /// The live one, to be read.
    ReadOnly(PathBuf),
    /// The same, and the user has to know why.
    Uncovered(PathBuf, String),
}

impl Part {
    pub(super) fn path(&self) -> &Path {
        match self {
            Part::Cover(path) | Part::Scratch(path) | Part::ReadOnly(path) | Part::Uncovered(path, _) => path,
        }
    }
}

/// The parts of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Everything begins as the live tree that can only be read.
    pub(super) base: bool,
    pub(super) parts: Vec<Part>,
}

/// What is to be covered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    /// The directory, absolute and without symlinks.
    pub(super) target: &'a Path,
    /// What lies here is hidden, and not looked at.
    pub(super) store: &'a Path,
    /// Mounts cannot be told from what they are mounted on: only directories without mounts in them can be covered.
    pub(super) locked: bool,
    /// Directories of the user's own in directories of others.
    pub(super) own: &'a [PathBuf],
}

/// Answers about the live tree.
pub(super) trait Look {
    /// The directories in a directory, symlinks to some not among them.
    fn dirs(&self, dir: &Path) -> Vec<PathBuf>;
    /// Whether it is a directory and no symlink.
    fn is_dir(&self, path: &Path) -> bool;
}

/// Filesystems that hold no files, but are the kernel's or a program's own tree of answers.
const PSEUDO: [&str; 22] = [
    "autofs",
    "bdev",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];
/// Where the command gets mounts of its own.
const OWN: [&str; 2] = ["/proc", "/dev"];
/// Where programs leave what nobody wants.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Decides.
pub(super) fn plan(wish: Wish<'_>, mounts: &[Seen], look: &dyn Look) -> Layout {
    let base = wish.locked || wish.target != Path::new("/");
    let mut parts = Vec::new();
    if base {
        scratch(wish, mounts, look, &mut parts);
    }
    if wish.locked {
        split(wish, wish.target, mounts, look, &mut parts);
        for path in TEMPORARY.iter().map(Path::new).chain(wish.own.iter().map(PathBuf::as_path)) {
            // Who may not own what a directory belongs to can write in it only if it is the root of an overlay.
            let inside = path.starts_with(wish.target) && path != wish.target;
            if inside
                && parts
                    .iter()
                    .any(|part| matches!(part, Part::Cover(dir) if path.starts_with(dir) && path != dir))
                && look.is_dir(path)
            {
                parts.push(Part::Cover(path.to_owned()));
            }
        }
    } else {
        parts.push(Part::Cover(wish.target.to_owned()));
        let below = |mount: &&Seen| mount.point.starts_with(wish.target) && mount.point != wish.target;
        parts.extend(mounts.iter().filter(below).filter(|mount| !is_ours(wish, &mount.point)).map(of_mount));
    }
    // Parents before what is in them.
    parts.sort_by(|a, b| a.path().cmp(b.path()));
    Layout { base, parts }
}

/// Scratch space for what is usually written elsewhere than in the target.
fn scratch(wish: Wish<'_>, mounts: &[Seen], look: &dyn Look, parts: &mut Vec<Part>) {
    for path in TEMPORARY.map(Path::new) {
        if path.starts_with(wish.target) || !look.is_dir(path) {
            continue;
        }
        parts.push(Part::Scratch(path.to_owned()));
        let below = |mount: &&Seen| mount.point.starts_with(path) && mount.point != path;
        let outside = |mount: &&Seen| !mount.point.starts_with(wish.target) && !is_ours(wish, &mount.point);
        let mounts = mounts.iter().filter(below).filter(outside);
        parts.extend(mounts.map(|mount| Part::ReadOnly(mount.point.clone())));
    }
}

fn of_mount(mount: &Seen) -> Part {
    let point = mount.point.clone();
    if PSEUDO.contains(&&*mount.fstype) || mount.read_only {
        Part::ReadOnly(point)
    } else if mount.is_file {
        Part::Uncovered(point, "a file is mounted there, and an overlay covers directories".into())
    } else {
        Part::Cover(point)
    }
}

/// What is not covered because it is something else.
fn is_ours(wish: Wish<'_>, path: &Path) -> bool {
    OWN.into_iter().map(Path::new).chain([wish.store]).any(|own| path.starts_with(own))
}

/// Covers the largest directories that have no mounts in them.
fn split(wish: Wish<'_>, dir: &Path, mounts: &[Seen], look: &dyn Look, parts: &mut Vec<Part>) {
    let own = mounts.iter().rev().find(|mount| mount.point == dir);
    if is_ours(wish, dir) || own.is_some_and(|own| PSEUDO.contains(&&*own.fstype) || own.read_only) {
        return;
    }
    if !mounts.iter().any(|mount| mount.point.starts_with(dir) && mount.point != dir) {
        parts.push(Part::Cover(dir.to_owned()));
        return;
    }
    let why = "other filesystems are mounted below, which only root can take apart; directories without are covered";
    parts.push(Part::Uncovered(dir.to_owned(), why.into()));
    for inner in look.dirs(dir) {
        split(wish, &inner, mounts, look, parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    struct Tree(BTreeSet<PathBuf>);

    impl Look for Tree {
        fn dirs(&self, dir: &Path) -> Vec<PathBuf> {
            self.0.iter().filter(|path| path.parent() == Some(dir)).cloned().collect()
        }
        fn is_dir(&self, path: &Path) -> bool {
            self.0.contains(path)
        }
    }

    fn tree() -> Tree {
        let dirs = [
            "/tmp", "/var", "/var/tmp", "/var/lib", "/home", "/home/a", "/data", "/proc", "/dev", "/sys",
            "/run",
        ];
        Tree(dirs.into_iter().map(PathBuf::from).collect())
    }

    fn seen(point: &str, fstype: &str) -> Seen {
        Seen { point: point.into(), fstype: fstype.into(), read_only: false, is_file: false }
    }

    fn mounts() -> Vec<Seen> {
        let mut mounts = vec![
            seen("/", "ext4"),
            seen("/proc", "proc"),
            seen("/proc/sys/fs/binfmt_misc", "binfmt_misc"),
            seen("/sys", "sysfs"),
            seen("/dev", "devtmpfs"),
            seen("/dev/shm", "tmpfs"),
            seen("/run", "tmpfs"),
            seen("/var/lib/cd", "iso9660"),
            seen("/home/a", "xfs"),
            seen("/etc/hosts", "ext4"),
        ];
        mounts[7].read_only = true;
        mounts[9].is_file = true;
        mounts
    }

    fn wish(target: &str, locked: bool) -> Wish<'_> {
        Wish { target: Path::new(target), store: Path::new("/var/lib/acetate"), locked, own: &[] }
    }

    fn words(layout: &Layout) -> Vec<String> {
        let word = |part: &Part| match part {
            Part::Cover(path) => format!("cover {}", path.display()),
            Part::Scratch(path) => format!("scratch {}", path.display()),
            Part::ReadOnly(path) => format!("read {}", path.display()),
            Part::Uncovered(path, _) => format!("bare {}", path.display()),
        };
        layout.parts.iter().map(word).collect()
    }

    #[test]
    fn the_root_is_covered_mount_by_mount() {
        let layout = plan(wish("/", false), &mounts(), &tree());
        assert!(!layout.base);
        let expected =
            ["cover /", "bare /etc/hosts", "cover /home/a", "cover /run", "read /sys", "read /var/lib/cd"];
        assert_eq!(words(&layout), expected);
    }

    #[test]
    fn outside_a_directory_everything_is_read_only_but_scratch() {
        let layout = plan(wish("/home", false), &mounts(), &tree());
        assert!(layout.base);
        assert_eq!(words(&layout), ["cover /home", "cover /home/a", "scratch /tmp", "scratch /var/tmp"]);
        assert_eq!(words(&plan(wish("/tmp", false), &mounts(), &tree())), ["cover /tmp", "scratch /var/tmp"]);
    }

    #[test]
    fn without_privilege_directories_without_mounts_are_covered() {
        let layout = plan(wish("/", true), &mounts(), &tree());
        let expected = [
            "bare /",
            "cover /data",
            "bare /home",
            "cover /home/a",
            "cover /run",
            "cover /tmp",
            "bare /var",
            "bare /var/lib",
            "cover /var/tmp",
        ];
        assert_eq!(words(&layout), expected);
        let own = ["/data/mine".into(), "/home/a".into()];
        let mut tree = tree();
        tree.0.insert("/data/mine".into());
        let layout = plan(Wish { own: &own, ..wish("/", true) }, &mounts(), &tree);
        assert_eq!(words(&layout)[1..3], ["cover /data", "cover /data/mine"]);
        assert_eq!(words(&layout).iter().filter(|word| *word == "cover /home/a").count(), 1);
    }
}
