//! The layers that workloads run over: made once, the same for all systems, never changed by a run.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use acetate_testkit::exec;
use anyhow::Context;

/// Directories at the first level of the tree; each holds [`INNER_DIRS`] more.
const OUTER_DIRS: usize = 50;
const INNER_DIRS: usize = 20;
/// Files in each inner directory: 20,000 in all.
const FILES: usize = 20;

/// Entries of the wide directory, half of them in either of two layers.
pub const WIDE_ENTRIES: usize = 20_000;

/// Length of the big file in bytes.
pub const BIG_BYTES: usize = 256 << 20;

/// Layers of the deep stack.
const DEEP_LAYERS: usize = 25;
/// Directories that all layers of the deep stack share, and files that each layer puts into each.
const DEEP_DIRS: usize = 40;
const DEEP_FILES: usize = 10;

/// Which lower layers a workload is mounted over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lowers {
    /// An empty one.
    Empty,
    /// 20,000 small files in 1,050 directories, in one layer under a small one that touches every outer directory.
    Tree,
    /// One directory of 20,000 entries, merged of two layers.
    Wide,
    /// One file of 256 MiB.
    Big,
    /// A git repository with a work tree of 2,000 files.
    Repository,
    /// 25 layers that share their directories.
    Deep,
}

/// Where everything is.
#[derive(Debug)]
pub struct Layers {
    empty: PathBuf,
    tree: Vec<PathBuf>,
    wide: Vec<PathBuf>,
    big: PathBuf,
    repository: PathBuf,
    deep: Vec<PathBuf>,
    /// A tar file of a tenth of the tree, for unpacking.
    pub archive: PathBuf,
    /// The mount point.
    pub merged: PathBuf,
}

impl Layers {
    /// Where they are below `dir`, made or not.
    pub fn below(dir: &Path) -> Self {
        Self {
            empty: dir.join("empty"),
            tree: vec![dir.join("tree-top"), dir.join("tree")],
            wide: vec![dir.join("wide-top"), dir.join("wide")],
            big: dir.join("big"),
            repository: dir.join("git"),
            deep: (0..DEEP_LAYERS).map(|i| dir.join(format!("deep-{i}"))).collect(),
            archive: dir.join("archive.tar"),
            merged: dir.join("merged"),
        }
    }

    /// Makes all of them below `dir`.
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        let layers = Self::below(dir);
        let single = [&layers.empty, &layers.big, &layers.repository, &layers.merged];
        for dir in single.into_iter().chain(&layers.tree).chain(&layers.wide).chain(&layers.deep) {
            std::fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        make_tree(&layers.tree[0], &layers.tree[1])?;
        for (i, layer) in layers.wide.iter().enumerate() {
            let dir = layer.join("wide");
            std::fs::create_dir(&dir)?;
            for n in (i..WIDE_ENTRIES).step_by(2) {
                File::create(dir.join(format!("entry-{n:06}")))?;
            }
        }
        let mut big = File::create(layers.big.join("big"))?;
        // Not zeros: no filesystem may store it for free.
        let block: Vec<u8> =
            (0..1 << 20).map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
        for _ in 0..BIG_BYTES / block.len() {
            big.write_all(&block)?;
        }
        for (i, layer) in layers.deep.iter().enumerate() {
            for d in 0..DEEP_DIRS {
                let dir = layer.join(format!("dir-{d}"));
                std::fs::create_dir(&dir)?;
                for f in 0..DEEP_FILES {
                    std::fs::write(dir.join(format!("file-{i}-{f}")), "deep")?;
                }
            }
        }
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(&layers.archive).arg("-C").arg(&layers.tree[1]);
        tar.args((0..OUTER_DIRS / 10).map(|d| format!("outer-{d}")));
        exec::stdout_of(&mut tar, Duration::from_secs(120)).context("making an archive")?;
        make_repository(&layers.repository.join("repository"), &layers.archive)
            .context("making a git repository")?;
        Ok(layers)
    }

    /// The lower directories and an empty one above them: without an upper layer the kernel wants two.
    pub fn stack_of_two(&self, lowers: Lowers) -> Vec<PathBuf> {
        [vec![self.empty.clone()], self.stack(lowers)].concat()
    }

    /// The lower directories, the topmost first.
    pub fn stack(&self, lowers: Lowers) -> Vec<PathBuf> {
        match lowers {
            Lowers::Empty => vec![self.empty.clone()],
            Lowers::Tree => self.tree.clone(),
            Lowers::Wide => self.wide.clone(),
            Lowers::Big => vec![self.big.clone()],
            Lowers::Repository => vec![self.repository.clone()],
            Lowers::Deep => self.deep.clone(),
        }
    }
}

/// Small files as in a source tree: most below 4 KiB, some of 40 KiB.
fn make_tree(top: &Path, bottom: &Path) -> anyhow::Result<()> {
    for o in 0..OUTER_DIRS {
        let outer = bottom.join(format!("outer-{o}"));
        std::fs::create_dir(&outer)?;
        for i in 0..INNER_DIRS {
            let inner = outer.join(format!("inner-{i}"));
            std::fs::create_dir(&inner)?;
            for f in 0..FILES {
                let size = if f == 0 { 40 << 10 } else { 200 * f };
                std::fs::write(inner.join(format!("file-{f}.txt")), vec![b'x'; size])?;
            }
        }
        let outer = top.join(format!("outer-{o}"));
        std::fs::create_dir(&outer)?;
        std::fs::write(outer.join("patched.txt"), "a later layer")?;
    }
    Ok(())
}

/// The archive's files, committed, and an index that git trusts without reading them again.
fn make_repository(at: &Path, archive: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(at)?;
    let git = ["git", "-c", "user.name=b", "-c", "user.email=b@localhost", "-c", "safe.directory=*"];
    let run = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        exec::stdout_of(command.args(&words[1..]).current_dir(at), Duration::from_secs(120))
    };
    exec::stdout_of(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(at), Duration::from_secs(120))?;
    for words in [&["init", "-q"][..], &["add", "-A"], &["commit", "-q", "-m", "all"]] {
        run(&[&git[..], words].concat())?;
    }
    // An index as old as its files would have them read again.
    std::thread::sleep(Duration::from_millis(1100));
    run(&[&git[..], &["update-index", "--really-refresh"]].concat()).map(drop)
}
