//! The threads that read requests.
//!
//! One thread reads and answers; a second one that waits for requests too costs each of them a wake-up on another
//! processor, on most machines. So a thread that comes back while another reads parks as a spare. A spare takes over when
//! - the reader says that its request may take long ([`Pool::let_another_read`]),
//! - nobody reads and nothing has come back for [`TICK`] (a request takes long that nobody expected to),
//! - requests are found waiting behind slow ones again and again: then more threads may read at a time. Behind quick ones
//!   they wait for a processor, and another thread would take one from the programs.
//!
//! How the requests of a single program are best waited for is found out by trying ([`Trial`]).
//!
//! Handing over means to wake a parked thread, or to have the monitor start one, up to a limit. At the limit requests
//! wait until a thread comes back. Every request leaves the count of readers before it is handled, and a thread parks
//! only while that count, looked at under the lock, is full: so either somebody reads, or whoever stopped reading last
//! found a spare to wake, or all threads are at work.

use crate::awake::Awake;
use crate::waiting::{ROUND_TURNS, Trial, Waiting, Way};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// How often the monitor looks whether somebody reads, while there are requests at all.
const TICK: Duration = Duration::from_millis(2);
/// After this many ticks without a request the monitor sleeps until the next one.
const QUIET_TICKS: u32 = 50;
/// How long a spare beyond the first one waits before it ends.
const SPARE_LIFE: Duration = Duration::from_secs(10);
/// An answer that takes longer was held up by more than the work on it: a disk, most often.
const SLOW: Duration = Duration::from_micros(40);
/// So many samples in a row that find a request waiting behind a slow one let one more thread read.
const QUEUED_SAMPLES: u32 = 4;
/// So many samples in a row that do not take it back.
const CALM_SAMPLES: u32 = 16;

/// After this many ticks without a request it is waited for in the way that costs least.
const REST_TICKS: u32 = 5;
/// How long to look for a request before sleeping: longer than it takes to wake the program that sends the next one, and
/// not much longer than to be woken.
const LOOK: Duration = Duration::from_micros(30);

/// What a thread does with the requests.
pub(crate) trait Work: Sync {
    /// What each thread owns: its buffers.
    type Own;

    /// Makes what a new thread owns.
    fn own(&self) -> Self::Own;

    /// Waits for a request and reads it.
    fn read(&self, own: &mut Self::Own) -> Turn;

    /// Answers the request that was read last. May call [`Pool::let_another_read`].
    fn answer(&self, own: &mut Self::Own);

    /// Whether a further request waits already.
    fn has_pending(&self) -> bool;
}

/// How a turn of reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// With a request.
    Request,
    /// With nothing.
    Nothing,
    /// There will be no more requests.
    End,
}

/// Whether processors may be kept busy in waiting for requests.
#[derive(Debug)]
pub enum Polling {
    /// Never.
    Never,
    /// While many requests come, if that makes it faster; all processors, if the means are there.
    IfItPays(Option<Awake>),
}

/// Who is where. Lock order: this is a leaf, nothing else is locked or called while it is held.
#[derive(Debug, Default)]
struct Threads {
    /// All threads that read, work or are parked, and those being started.
    alive: usize,
    /// Threads that wait to be woken and have not been yet.
    parked: usize,
    /// Spares that were woken but do not run yet.
    woken: usize,
    /// A thread is to be started.
    wanted: bool,
}

/// Organises the threads that serve one connection.
#[derive(Debug)]
pub(crate) struct Pool {
    threads: Mutex<Threads>,
    spares: Condvar,
    monitor: Condvar,
    /// Threads that read, or are about to.
    reading: AtomicUsize,
    /// How many may: more than `wanted_readers` while requests queue.
    may_read: AtomicUsize,
    /// How many may at least.
    wanted_readers: AtomicUsize,
    /// Look for requests before sleeping.
    looks: AtomicBool,
    /// The way to wait changes under its lock only. Lock order: [`Threads`] comes later.
    trial: Mutex<Trial>,
    waiting: Arc<Waiting>,
    awake: Option<Awake>,
    /// Counts the turns that ended.
    turns: AtomicU64,
    monitor_sleeps: AtomicBool,
    ended: AtomicBool,
    /// Samples in a row that found requests waiting behind slow ones, or did not.
    queued: AtomicU32,
    calm: AtomicU32,
    /// The most threads.
    limit: usize,
    /// The most threads that read at a time.
    read_limit: usize,
}

impl Pool {
    /// A pool of at most `limit` threads, and at least one. `waiting` learns what was decided.
    pub(crate) fn new(limit: usize, polling: Polling, waiting: Arc<Waiting>) -> Pool {
        let limit = limit.max(1);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let read_limit = processors.min(limit);
        let (look, awake) = match polling {
            Polling::Never => (false, None),
            Polling::IfItPays(awake) => (processors > 1, awake),
        };
        let ways = match &awake {
            // Nothing is faster than to wake nobody.
            Some(_) => vec![Way::Awake],
            None => {
                let ways = [(true, Way::One), (read_limit > 1, Way::Two), (look, Way::Look)];
                ways.into_iter().filter_map(|(can, way)| can.then_some(way)).collect()
            }
        };
        Pool {
            threads: Mutex::default(),
            spares: Condvar::new(),
            monitor: Condvar::new(),
            reading: AtomicUsize::new(0),
            may_read: AtomicUsize::new(1),
            wanted_readers: AtomicUsize::new(1),
            looks: AtomicBool::new(false),
            trial: Mutex::new(Trial::new(ways)),
            waiting,
            awake,
            turns: AtomicU64::new(0),
            monitor_sleeps: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            queued: AtomicU32::new(0),
            calm: AtomicU32::new(0),
            limit,
            read_limit,
        }
    }

    /// Serves until a turn says [`Turn::End`], and all threads have finished what they were at.
    ///
    /// # Errors
    /// If not even one thread can be started.
    pub(crate) fn run<W: Work>(&self, work: &W) -> io::Result<()> {
        std::thread::scope(|scope| {
            self.start(scope, work)?;
            self.watch(scope, work);
            Ok(())
        })
    }

    /// Makes sure that another thread reads while the calling one is at a request that may take long.
    ///
    /// Costs one look at a counter if somebody reads already. Safe to call from anywhere, at any time.
    pub(crate) fn let_another_read(&self) {
        if self.reading.load(Ordering::SeqCst) == 0 {
            self.wake_one();
        }
    }

    /// Wakes a spare, or has a thread started.
    fn wake_one(&self) {
        let mut threads = self.threads.lock();
        if threads.woken > 0 || threads.wanted {
            return;
        }
        if threads.parked > 0 {
            threads.parked -= 1;
            threads.woken += 1;
            self.spares.notify_one();
        } else if threads.alive < self.limit {
            threads.wanted = true;
            self.monitor.notify_one();
        }
    }

    /// Starts a thread, which counts as alive from then on.
    fn start<'scope, W: Work>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        work: &'scope W,
    ) -> io::Result<()> {
        self.threads.lock().alive += 1;
        let started = std::thread::Builder::new()
            .name("acetate-fuse".to_owned())
            .spawn_scoped(scope, move || self.serve(work));
        if started.is_err() {
            self.threads.lock().alive -= 1;
        }
        started.map(drop)
    }

    /// The monitor: starts threads, and finds out that nobody reads.
    fn watch<'scope, W: Work>(&'scope self, scope: &'scope Scope<'scope, '_>, work: &'scope W) {
        let mut seen = 0;
        let mut quiet = 0;
        let mut complained = false;
        while !self.ended.load(Ordering::SeqCst) {
            self.wait_tick(&mut quiet, seen);
            let wanted = std::mem::take(&mut self.threads.lock().wanted);
            if wanted && let Err(error) = self.start(scope, work) {
                // The threads there are go on; the next tick that finds nobody reading asks again.
                if !std::mem::replace(&mut complained, true) {
                    eprintln!("acetate: cannot start another thread: {error}");
                }
            }
            let turns = self.turns.load(Ordering::SeqCst);
            if turns != seen {
                quiet = 0;
            } else if self.reading.load(Ordering::SeqCst) == 0 {
                quiet = 0;
                self.wake_one();
            } else {
                quiet += 1;
                if quiet == REST_TICKS {
                    self.rest();
                }
            }
            seen = turns;
        }
    }

    /// Waits for the next tick, or for a request if there has been none for long; in both cases for a wish for a
    /// thread and for the end.
    fn wait_tick(&self, quiet: &mut u32, seen: u64) {
        let mut threads = self.threads.lock();
        if threads.wanted || self.ended.load(Ordering::SeqCst) {
            return;
        }
        if *quiet < QUIET_TICKS {
            self.monitor.wait_for(&mut threads, TICK);
            return;
        }
        *quiet = 0;
        self.monitor_sleeps.store(true, Ordering::SeqCst);
        // A turn that ends after this look finds that the monitor sleeps.
        if self.turns.load(Ordering::SeqCst) == seen {
            self.monitor.wait(&mut threads);
        }
        self.monitor_sleeps.store(false, Ordering::SeqCst);
    }

    /// The life of a thread.
    fn serve<W: Work>(&self, work: &W) {
        let mut own = work.own();
        let mut sampler = Sampler::default();
        while self.take_turn() {
            if self.looks.load(Ordering::Relaxed) {
                look(work);
            }
            let turn = work.read(&mut own);
            self.leave_turn();
            match turn {
                Turn::Request => {
                    let queued = sampler.is_due().then(|| (work.has_pending(), Instant::now()));
                    work.answer(&mut own);
                    if let Some((pending, begun)) = queued {
                        self.sample(pending && begun.elapsed() > SLOW);
                    }
                }
                Turn::Nothing => {}
                Turn::End => self.end(),
            }
        }
    }

    /// Becomes a reader if one more may read.
    fn try_read(&self) -> bool {
        let may_read = self.may_read.load(Ordering::SeqCst);
        let more = |reading| (reading < may_read).then_some(reading + 1);
        self.reading.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Becomes a reader, waiting as a spare until one is needed. False means that the thread is to end.
    fn take_turn(&self) -> bool {
        if self.ended.load(Ordering::SeqCst) {
            return false;
        }
        if self.try_read() {
            return true;
        }
        let mut threads = self.threads.lock();
        loop {
            if self.ended.load(Ordering::SeqCst) {
                return false;
            }
            // Whoever stops reading after this look takes the lock to wake a spare, and finds this one.
            if self.try_read() {
                return true;
            }
            threads.parked += 1;
            loop {
                let timed_out = self.spares.wait_for(&mut threads, SPARE_LIFE).timed_out();
                if threads.woken > 0 {
                    threads.woken -= 1;
                    break;
                }
                if self.ended.load(Ordering::SeqCst) || timed_out && threads.parked > 1 {
                    threads.parked -= 1;
                    threads.alive -= 1;
                    return false;
                }
            }
        }
    }

    /// Ends a turn, with or without a request.
    fn leave_turn(&self) {
        self.reading.fetch_sub(1, Ordering::SeqCst);
        let turns = self.turns.fetch_add(1, Ordering::SeqCst) + 1;
        if turns.is_multiple_of(ROUND_TURNS) {
            self.end_round();
        }
        if self.monitor_sleeps.load(Ordering::SeqCst) {
            // Under the lock, so that the monitor waits by now or has yet to look at the turns.
            let _threads = self.threads.lock();
            self.monitor.notify_one();
        }
    }

    /// Ends a round of the trial: the next one may be in another way.
    fn end_round(&self) {
        let mut trial = self.trial.lock();
        let way = trial.end_round(Instant::now(), &self.waiting);
        self.follow(way);
    }

    /// Waits in the way that costs least until requests come again.
    fn rest(&self) {
        let mut trial = self.trial.lock();
        let way = trial.pause();
        self.follow(way);
    }

    /// Waits in this way from now on. Under the lock of the trial.
    fn follow(&self, way: Way) {
        self.looks.store(way == Way::Look, Ordering::Relaxed);
        if let Some(awake) = &self.awake {
            // What is refused does not make waiting faster, which the next trial finds.
            let _slower_at_worst = awake.set(way == Way::Awake);
        }
        let wanted = way.readers();
        let before = self.wanted_readers.swap(wanted, Ordering::SeqCst);
        if wanted == before {
            return;
        }
        self.may_read.store(wanted, Ordering::SeqCst);
        if wanted > before {
            self.wake_one();
        }
    }

    /// Learns whether a request waited behind a slow one.
    fn sample(&self, held_up: bool) {
        let (count, other, enough) = if held_up {
            (&self.queued, &self.calm, QUEUED_SAMPLES)
        } else {
            (&self.calm, &self.queued, CALM_SAMPLES)
        };
        other.store(0, Ordering::Relaxed);
        if count.fetch_add(1, Ordering::Relaxed) + 1 < enough {
            return;
        }
        count.store(0, Ordering::Relaxed);
        let may_read = self.may_read.load(Ordering::SeqCst);
        let change = if held_up { may_read + 1 } else { may_read.saturating_sub(1) };
        let wanted = self.wanted_readers.load(Ordering::SeqCst);
        let change = change.clamp(wanted, self.read_limit.max(wanted));
        // Samples of several threads may meet here; any of their wishes will do.
        self.may_read.store(change, Ordering::SeqCst);
        if held_up {
            self.wake_one();
        }
    }

    /// Lets all threads come to their end.
    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        let _threads = self.threads.lock();
        self.spares.notify_all();
        self.monitor.notify_all();
    }
}

/// Looks for a request, for a moment.
fn look<W: Work>(work: &W) {
    let end = Instant::now() + LOOK;
    while !work.has_pending() && Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Chooses the requests after which the queue is looked at: one in eight, at irregular distances, since programs send
/// requests in patterns.
#[derive(Default)]
struct Sampler {
    state: u32,
    left: u32,
}

impl Sampler {
    fn is_due(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        // A linear congruential generator; its upper bits are good enough (Numerical Recipes).
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.left = self.state >> 28;
        true
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
