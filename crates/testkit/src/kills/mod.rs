//! A server that is killed, or whose system calls fail, at every step of every operation.
//!
//! Each operation is run once to count the calls that it makes to the layers. Then it is run anew for each of them, on
//! fresh layers: the server is killed when it is about to make the call (which is also just after the one before), or the
//! call fails. After that the tree has to be the old or the new one, for the kernel's overlayfs as for a new mount of ours,
//! nothing may be left in the work directory, and the operation can be done, or done again.
//!
//! With `takeover=on` a killed server is replaced, and nobody may notice: the operation succeeds and the tree is the new one.

pub mod cli;
mod operations;
mod stage;

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

use crate::driver::{Driver, acetate_bin};
use crate::errno;
use crate::inject::{Call, Injection, Seen, during};
use crate::scratch::{FsKind, Scratch};
use operations::{ALL, Operation};
use stage::{Server, Stage, View, view};

/// What calls fail with.
pub const ERRNOS: [Errno; 5] = [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::MFILE, Errno::STALE];
/// How long an operation may take before it is said to hang. Machines are slow at times.
const LIMIT: Duration = Duration::from_secs(300);
/// The option by which a mount outlives its server.
pub const KEPT: &str = "takeover=on";
/// The operation that may fail when its server is killed: an unnamed file gets a name where there is a whiteout. It is
/// linked in the work directory first, and the kernel links an unnamed file once only.
const UNNAMED: &str = "name an unnamed file";
/// Options that show or store owners, modes and whiteouts otherwise than the kernel's overlayfs reads them.
const OURS: [&str; 8] = [
    "uidmapping",
    "gidmapping",
    "squash_to_root",
    "squash_to_uid",
    "squash_to_gid",
    "xattr_permissions",
    "static_nlink",
    "oci_whiteouts",
];
/// Size of a scratch filesystem, in MiB.
const FS_MIB: u64 = 400;

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Mount options besides the layers.
    pub options: String,
    /// The filesystem of the layers; `None` for that of the temporary directory.
    pub fs: Option<FsKind>,
    /// Kill the server at calls.
    pub kills: bool,
    /// Let calls fail.
    pub failures: bool,
    /// Only one of so many points, another choice for each `seed`.
    pub one_in: usize,
    /// See `one_in`.
    pub seed: usize,
    /// Only operations whose names hold this.
    pub only: String,
    /// How many to run at a time.
    pub jobs: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Servers killed.
    pub kills: usize,
    /// Calls that failed.
    pub failures: usize,
    /// Points that were not met again.
    pub missed: usize,
    /// Operations tried.
    pub operations: usize,
    /// What was wrong.
    pub wrong: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, killed at {} calls, failed at {}, not met again {}, wrong {}",
            self.operations,
            self.kills,
            self.failures,
            self.missed,
            self.wrong.len()
        )?;
        self.wrong.iter().take(20).try_for_each(|wrong| write!(f, "\n- {wrong}"))
    }
}

/// An operation with the trees before and after it.
struct Case {
    operation: Operation,
    old: View,
    new: View,
    seen: Seen,
}

/// One thing to inject into one operation.
struct Point<'a> {
    case: &'a Case,
    call: Call,
    injection: Injection,
    /// The kernel is the first to see what is left.
    kernel_first: bool,
}

impl Case {
    /// What of a tree is compared. While the data of a copy of attributes is written, its times move, in the kernel too.
    fn compared(&self, tree: &View) -> View {
        if self.operation.before.is_empty() { tree.loose() } else { tree.loose().timeless() }
    }

    fn expect_either(&self, now: &View, what: &str) -> Result<()> {
        let (old, new) = (self.compared(&self.old), self.compared(&self.new));
        View::expect_either(&old, &new, &self.compared(now), what)
    }

    fn expect_new(&self, now: &View, what: &str) -> Result<()> {
        self.compared(&self.new).expect(&self.compared(now), what)
    }
}

impl fmt::Display for Point<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.case.operation.name;
        match self.injection {
            Injection::Nothing => write!(f, "{name}"),
            Injection::Kill(at) => write!(f, "{name}, killed at {at} ({})", self.call.name),
            Injection::Fail(at, why) => {
                write!(f, "{name}, {} at {at} ({})", errno::name(why), self.call.name)
            }
        }
    }
}

/// Where one thread works.
struct Place {
    _scratch: Scratch,
    root: PathBuf,
    bin: PathBuf,
    options: String,
}

impl Place {
    fn new(plan: &Plan) -> Result<Place> {
        let scratch = match plan.fs {
            Some(kind) => Scratch::on(kind, "kills", FS_MIB)?,
            None => Scratch::new("kills")?,
        };
        let root = scratch.path().join("stage");
        Ok(Place { _scratch: scratch, root, bin: acetate_bin()?, options: plan.options.clone() })
    }

    fn driver(&self) -> Driver {
        Driver::Acetate { bin: self.bin.clone() }
    }

    /// The options for a mount that is only looked at, and for the kernel.
    fn plain_options(&self) -> String {
        let words = self.options.split(',').filter(|word| *word != KEPT);
        words.collect::<Vec<_>>().join(",")
    }

    /// Whether the kernel's overlayfs shows the layers as they are shown with these options.
    fn kernel_reads(&self) -> bool {
        let names = self.options.split(',').map(|word| word.split('=').next().unwrap_or_default());
        !names.into_iter().any(|name| OURS.contains(&name))
    }

    /// Fresh layers and a server of them; what has to be done before is done.
    fn start(&self, operation: &Operation) -> Result<(Stage, Server)> {
        let stage = Stage::new(&self.root)?;
        let server = Server::start(&self.bin, &stage, &self.options)?;
        for act in operation.before {
            act(&stage.merged()).context("before the operation")?;
        }
        Ok((stage, server))
    }

    /// Finds out what an operation does; `None` if it cannot be done with these options.
    fn record(&self, operation: &Operation) -> Result<Option<Case>> {
        let (stage, server) = match self.start(operation) {
            Ok(started) => started,
            Err(error) if !operation.before.is_empty() && is_refusal(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        server.unmount()?;
        let old = stage.look(&self.driver(), &self.plain_options())?;
        let (stage, server) = self.start(operation)?;
        let merged = stage.merged();
        let (result, seen) = during(server.pid()?, Injection::Nothing, LIMIT, || (operation.act)(&merged))?;
        if let Err(error) = result {
            ensure!(is_refusal(&error.into()), "{}: it fails", operation.name);
            server.unmount()?;
            return Ok(None);
        }
        let live = view(&merged)?;
        server.unmount()?;
        let new = stage.look(&self.driver(), &self.plain_options())?;
        new.loose().expect(&live.loose(), "after a remount")?;
        stage.expect_nothing_left(&self.bin, &self.options, false)?;
        ensure!(!seen.calls.is_empty(), "{}: no call was seen", operation.name);
        Ok(Some(Case { operation: *operation, old, new, seen }))
    }

    /// Tries one point; `false` if it was not met.
    fn attempt(&self, point: &Point<'_>) -> Result<bool> {
        let case = point.case;
        let (stage, mut server) = self.start(&case.operation)?;
        let merged = stage.merged();
        let (result, seen) = during(server.pid()?, point.injection, LIMIT, || (case.operation.act)(&merged))?;
        ensure!(!seen.hung, "the operation did not end");
        if !seen.hit {
            server.unmount()?;
            return Ok(false);
        }
        match point.injection {
            Injection::Fail(_, injected) => {
                let live = view(&merged).context("the tree right after it")?;
                match result {
                    Ok(()) => case.expect_new(&live, "success, but the new tree")?,
                    Err(error) => {
                        let errno = Errno::from_io_error(&error);
                        // After ESTALE the kernel itself tries once more, with what the first attempt has left.
                        let again = injected == Errno::STALE;
                        // A redirect that cannot be stored is EXDEV, so that mv(1) copies instead; as in the kernel.
                        let copied = errno == Some(Errno::XDEV) && !self.plain_options().is_empty();
                        ensure!(
                            errno == Some(injected) || again || copied,
                            "fails with another error: {error}"
                        );
                        case.expect_either(&live, "right after it")?;
                    }
                }
                server.unmount()?;
            }
            _ if self.options.contains(KEPT) => {
                let result = result.map_err(|error| (Errno::from_io_error(&error), error));
                if matches!(result, Err((Some(Errno::NOENT), _))) && case.operation.name == UNNAMED {
                    // The one thing that cannot be carried on (docs/hazards.md).
                    case.expect_either(&view(&merged)?, "after the one error that may be seen")?;
                    server.unmount()?;
                    return self.examine(point, &stage).map(|()| true);
                }
                result.map_err(|(_, error)| error).context("the operation, carried on by the next server")?;
                case.expect_new(&view(&merged)?, "carried on by the next server, the new tree")?;
                server.unmount()?;
            }
            _ => server.ended()?,
        }
        self.examine(point, &stage)?;
        Ok(true)
    }

    /// Looks at what is left on disk, with the kernel and a new mount of ours.
    fn examine(&self, point: &Point<'_>, stage: &Stage) -> Result<()> {
        let case = point.case;
        if point.kernel_first && self.kernel_reads() {
            // The dead mount is in the way of a mount by the kernel only in that it would cover it.
            let dead = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
            let _none_after_a_failure = rustix::mount::unmount(stage.merged(), dead);
            let seen = stage.look(&Driver::Kernel, &self.plain_options())?;
            case.expect_either(&seen, "the kernel's mount")?;
        }
        // On top of the dead one, as a user would.
        let server = Server::start(&self.bin, stage, &self.options)?;
        let merged = stage.merged();
        let now = view(&merged)?;
        case.expect_either(&now, "a new mount")?;
        if case.expect_new(&now, "").is_err() {
            (case.operation.act)(&merged).context("done again")?;
        }
        case.expect_new(&view(&merged)?, "done again, the new tree")?;
        server.unmount()?;
        stage.expect_nothing_left(&self.bin, &self.options, point.kernel_first)?;
        if !self.kernel_reads() {
            return Ok(());
        }
        let seen = stage.look(&Driver::Kernel, &self.plain_options())?;
        case.expect_new(&seen, "done again, the kernel's mount of the new tree")
    }
}

/// Whether an operation is impossible with these options.
fn is_refusal(error: &anyhow::Error) -> bool {
    let errno = error.root_cause().downcast_ref::<std::io::Error>().and_then(Errno::from_io_error);
    matches!(errno, Some(Errno::XDEV | Errno::OPNOTSUPP))
}

/// The points of a case that the plan chooses.
fn points<'a>(plan: &Plan, number: usize, case: &'a Case) -> Vec<Point<'a>> {
    let mut points = Vec::new();
    if plan.kills {
        for (at, call) in case.seen.points(Injection::Kill(0)).into_iter().enumerate() {
            for kernel_first in [false, true] {
                points.push(Point { case, call, injection: Injection::Kill(at), kernel_first });
            }
        }
    }
    if plan.failures {
        for (at, call) in case.seen.points(Injection::Fail(0, Errno::IO)).into_iter().enumerate() {
            for (turn, errno) in ERRNOS.into_iter().enumerate() {
                let kernel_first = (at + turn) % 2 == 0;
                points.push(Point { case, call, injection: Injection::Fail(at, errno), kernel_first });
            }
        }
    }
    let one_in = plan.one_in.max(1);
    let chosen =
        |(at, point): (usize, Point<'a>)| (at + number + plan.seed).is_multiple_of(one_in).then_some(point);
    points.into_iter().enumerate().filter_map(chosen).collect()
}

/// Carries out a plan.
///
/// # Errors
/// If an operation cannot be recorded, or the machine lacks something.
pub fn run(plan: &Plan) -> Result<Report> {
    let indexed = plan.options.contains("index=on") || plan.options.contains("nfs_export=on");
    let is_chosen =
        |operation: &&Operation| operation.name.contains(&plan.only) && (indexed || !operation.indexed);
    let chosen: Vec<&Operation> = ALL.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        bail!("no operation's name holds {:?}", plan.only);
    }
    let cases = in_parallel(plan, &chosen, |place, operation| {
        place.record(operation).with_context(|| operation.name)
    })?;
    let cases: Vec<Case> = cases.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let points: Vec<Point<'_>> =
        cases.iter().enumerate().flat_map(|(number, case)| points(plan, number, case)).collect();
    let results = in_parallel(plan, &points, |place, point| place.attempt(point))?;
    let mut report = Report { operations: cases.len(), ..Report::default() };
    for (point, result) in points.iter().zip(results) {
        match (result, point.injection) {
            (Ok(false), _) => report.missed += 1,
            (Ok(true), Injection::Kill(_)) => report.kills += 1,
            (Ok(true), _) => report.failures += 1,
            (Err(error), _) => report.wrong.push(format!("{point}: {error:#}")),
        }
    }
    Ok(report)
}

/// Does `work` for each item, a few at a time, each thread with a place of its own. Results are in the order of items.
fn in_parallel<I: Sync, T: Send>(
    plan: &Plan,
    items: &[I],
    work: impl Fn(&Place, &I) -> T + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let worker = || -> Result<()> {
            let place = Place::new(plan)?;
            while let Some((at, item)) = {
                let at = next.fetch_add(1, Ordering::SeqCst);
                items.get(at).map(|item| (at, item))
            } {
                let result = work(&place, item);
                results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, result));
            }
            Ok(())
        };
        let threads: Vec<_> = (0..plan.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked")))
        })
    })?;
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
