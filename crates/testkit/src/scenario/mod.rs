//! Replays scenarios that were recorded from the kernel's overlayfs.
//!
//! A [`Row`] says which layers to build, which operations to run below the mount point, and what the kernel answered:
//! the result of each operation, the tree seen through the mount, and what the upper and index directories hold. A
//! [`Runner`] does the same with any [`Driver`] and gives an [`Outcome`] to compare. Running with the kernel as driver
//! proves the runner; running with `acetate` tests the engine.
//!
//! All layers lie on one small ext4 of the runner's own, as they did in the recording.

pub mod expect;
mod ops;
mod render;
mod row;
mod setup;

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::fs::{Gid, Mode, Uid};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::umask;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

pub use self::row::{Difference, Outcome, RECORDED, Row, load};

use self::ops::{Answer, Ops, Stop};
use self::setup::{Layer, Token, layer_and_path};
use crate::driver::{Driver, MountError, Mounted, Stack, is_mounted};
use crate::errno;
use crate::scratch::{FsKind, Scratch};

/// What a refused mount answers if its errno is not known.
const REFUSED: &str = "mount: refused";

/// Size of the filesystems that layers are built on, in MiB.
const FS_MIB: u64 = 128;

/// How long one row may take before its mount is torn down.
const ROW_LIMIT: Duration = Duration::from_secs(20);

/// Builds, mounts and checks rows, one after another.
#[derive(Debug)]
pub struct Runner {
    driver: Driver,
    /// Holds the layers and mount points.
    home: Scratch,
    /// Holds the lower layers that a row wants on another filesystem.
    other: Scratch,
    /// Numbers the rows run so far: each gets fresh directories.
    count: u32,
}

impl Runner {
    /// Makes the filesystems. Sets the umask of the process to 022, as in the recording.
    pub fn new(driver: Driver) -> anyhow::Result<Self> {
        umask(Mode::from_raw_mode(0o022));
        let home = Scratch::on(FsKind::Ext4, "acetate-matrix", FS_MIB)?;
        let other = Scratch::on(FsKind::Ext4, "acetate-matrix", FS_MIB)?;
        Ok(Self { driver, home, other, count: 0 })
    }

    /// Who mounts.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Runs `row` on fresh layers and says what happened.
    ///
    /// # Errors
    /// If the row cannot be carried out to its end; what it led to otherwise is in the outcome, however wrong.
    pub fn run(&mut self, row: &Row) -> anyhow::Result<Outcome> {
        let mut stage = self.build(row).context("cannot build the layers")?;
        let target = stage.target.clone();
        let (done, watched) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            // A server that hangs would hang every call below its mount: tear it down from outside.
            let watchdog = scope.spawn(move || {
                let timed_out = watched.recv_timeout(ROW_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
                timed_out.then(|| unmount(&target, UnmountFlags::FORCE | UnmountFlags::DETACH))
            });
            let outcome = stage.play(row);
            drop(done);
            match watchdog.join() {
                Ok(None) => outcome,
                Ok(Some(torn_down)) => {
                    bail!("no end within {ROW_LIMIT:?} (torn down: {torn_down:?}): {outcome:?}")
                }
                Err(_) => bail!("the watchdog panicked"),
            }
        })
    }

    /// Makes the directories of a row and fills the layers.
    fn build(&mut self, row: &Row) -> anyhow::Result<Stage> {
        self.count += 1;
        let dir_name = format!("{}-{}", row.id, self.count);
        let base = self.home.dir(&dir_name)?;
        let make = |path: PathBuf| -> anyhow::Result<PathBuf> {
            std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
            Ok(path)
        };
        let tokens: Vec<Token<'_>> =
            row.setup.split_whitespace().map(Token::parse).collect::<Result<_, _>>()?;
        let deepest = tokens.iter().filter_map(|token| match token.layer {
            Layer::Lower(index) => Some(index),
            Layer::Upper => None,
        });
        let mut lowers = Vec::new();
        for index in 0..=deepest.max().unwrap_or(0) {
            let elsewhere = row.lfs.as_ref().is_some_and(|kinds| kinds.get(index).is_some());
            let parent = if elsewhere { self.other.dir(&dir_name)? } else { base.clone() };
            lowers.push(make(parent.join(format!("L{}", index + 1)))?);
        }
        let (upper, work) = (make(base.join("U"))?, make(base.join("W"))?);
        let target = make(base.join("m"))?;
        let mut stack = arrange(&lowers, row.lower.as_deref())?;
        if row.upper {
            stack.upper = Some(crate::driver::Writable { upper: upper.clone(), work: work.clone() });
        }
        let ops = Ops::new(target.clone(), lowers[0].clone(), row.upper.then(|| upper.clone()));
        let stage =
            Stage { driver: self.driver.clone(), stack, lowers, upper, work, target, ops, mounted: None };
        for token in tokens {
            token.apply(stage.layer(token.layer)?)?;
        }
        Ok(stage)
    }
}

/// Puts the layers into a stack: all in order, or as a pattern like `{0}:{1}::{2}` says.
fn arrange(lowers: &[PathBuf], pattern: Option<&str>) -> anyhow::Result<Stack> {
    let Some(pattern) = pattern else {
        return Ok(Stack::read_only(lowers));
    };
    let pick = |item: &str| -> anyhow::Result<PathBuf> {
        let index: Option<usize> = item
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .and_then(|digits| digits.parse().ok());
        let lower = index.and_then(|index| lowers.get(index));
        lower.cloned().with_context(|| format!("{item:?} in {pattern:?} is no layer"))
    };
    let mut sections = pattern.split("::");
    let regular = sections.next().unwrap_or_default();
    Ok(Stack {
        lowers: regular.split(':').map(pick).collect::<Result<_, _>>()?,
        data_only: sections.map(pick).collect::<Result<_, _>>()?,
        upper: None,
    })
}

/// One row in progress.
#[derive(Debug)]
struct Stage {
    driver: Driver,
    stack: Stack,
    lowers: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
    target: PathBuf,
    ops: Ops,
    mounted: Option<Mounted>,
}

impl Stage {
    fn layer(&self, layer: Layer) -> anyhow::Result<&PathBuf> {
        match layer {
            Layer::Upper => Ok(&self.upper),
            Layer::Lower(index) => {
                self.lowers.get(index).with_context(|| format!("there is no layer L{}", index + 1))
            }
        }
    }

    /// Mounts, runs all operations, walks the tree, unmounts and reads the layers.
    fn play(&mut self, row: &Row) -> anyhow::Result<Outcome> {
        if let Err(refusal) = self.mount(&row.opts) {
            let (res, said) = match refusal {
                Stop::Errno(errno) => (format!("mount: {}", errno::name(errno)), None),
                Stop::Broken(error) => match error.downcast_ref() {
                    // A refusal has to say why, and to leave nothing mounted.
                    Some(MountError::Command { stderr, .. }) if !stderr.trim().is_empty() => {
                        (REFUSED.to_owned(), Some(format!("{error:#}")))
                    }
                    _ => return Err(error),
                },
            };
            if is_mounted(&self.target)? {
                bail!("the mount was refused, but is there: {res}");
            }
            return Ok(Outcome { res, refusal: said, ..Outcome::default() });
        }
        let mut results = Vec::new();
        for operation in row.operations() {
            results.push(match self.operate(operation) {
                Ok(answer) => answer,
                Err(Stop::Errno(errno)) => errno::name(errno),
                Err(Stop::Broken(error)) => return Err(error.context(format!("operation `{operation}`"))),
            });
        }
        self.ops.release();
        let vis = render::visible(&self.target);
        self.unmount()?;
        let up = if row.upper {
            render::upper(&self.upper).context("cannot read the upper layer")?
        } else {
            String::new()
        };
        let idx = render::index(&self.work.join("index")).context("cannot read the index")?;
        Ok(Outcome { res: results.join(" ; "), vis, up, idx, refusal: None })
    }

    /// Runs one operation: as root, as another user, on the mount itself, or on the layers.
    fn operate(&mut self, operation: &str) -> Answer {
        let words: Vec<&str> = operation.split_whitespace().collect();
        match words.as_slice() {
            ["umount"] => self.unmount()?,
            ["remount"] | ["remount", "-"] => self.remount("")?,
            ["remount", options] => self.remount(options)?,
            ["x", rest @ ..] => self.on_layers(rest)?,
            [who, rest @ ..] if who.starts_with('@') => {
                let id: u32 = who[1..].parse().with_context(|| format!("{who:?} is no user"))?;
                let ops = &mut self.ops;
                let thread = std::thread::scope(|scope| {
                    scope
                        .spawn(|| {
                            become_user(id).with_context(|| format!("cannot become user {id}"))?;
                            ops.run(rest)
                        })
                        .join()
                });
                return thread.map_err(|_| anyhow!("the operation panicked"))?;
            }
            words => return self.ops.run(words),
        }
        Ok("ok".to_owned())
    }

    fn mount(&mut self, options: &str) -> Result<(), Stop> {
        let mounted = self.driver.mount(&self.stack, &self.target, options);
        self.mounted = Some(mounted.map_err(|error| match error.errno() {
            Some(errno) => Stop::Errno(errno),
            None => Stop::Broken(error.into()),
        })?);
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        self.ops.release();
        self.mounted.take().map_or(Ok(()), Mounted::unmount)
    }

    fn remount(&mut self, options: &str) -> Result<(), Stop> {
        self.unmount()?;
        self.mount(options)
    }

    /// Changes layers directly; nothing may be mounted meanwhile.
    fn on_layers(&self, words: &[&str]) -> anyhow::Result<()> {
        if self.mounted.is_some() {
            bail!("layers may not be changed below a mount");
        }
        let path = |text: &str| -> anyhow::Result<PathBuf> {
            let (layer, path) = layer_and_path(text)?;
            Ok(self.layer(layer)?.join(path))
        };
        match words {
            ["mv", from, to] => std::fs::rename(path(from)?, path(to)?)?,
            ["rm", victim] => {
                let victim = path(victim)?;
                if std::fs::symlink_metadata(&victim)?.is_dir() {
                    std::fs::remove_dir_all(victim)?;
                } else {
                    std::fs::remove_file(victim)?;
                }
            }
            ["cp", from, to] => {
                let status = Command::new("cp").arg("-a").arg(path(from)?).arg(path(to)?).status()?;
                if !status.success() {
                    bail!("cp -a: {status}");
                }
            }
            ["mk", token] => {
                let token = Token::parse(token)?;
                token.apply(self.layer(token.layer)?)?;
            }
            _ => bail!("unknown change of a layer: {words:?}"),
        }
        Ok(())
    }
}

/// Makes the calling thread user and group `id`, without further groups; capabilities go with the root user id.
fn become_user(id: u32) -> Result<(), rustix::io::Errno> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}
