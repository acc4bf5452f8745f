//! The threads that read requests.
//!
//! One thread reads and answers; a second one that waits for requests too costs each of them a wake-up on another
//! processor, on most machines. So a thread that comes back while another reads parks as a spare. A spare takes over when
//! - the reader says that its request may take long ([`Pool::let_another_read`]),
//! - nobody reads and nothing has come back for [`TICK`] (a request takes long that nobody expected to),
//! - requests are found waiting again and again: then more threads may read at a time.
//!
//! Whether one thread or two should wait for the requests of a single program is found out by trying ([`Trial`]).
//!
//! Handing over means to wake a parked thread, or to have the monitor start one, up to a limit. At the limit requests
//! wait until a thread comes back. Every request leaves the count of readers before it is handled, and a thread parks
//! only while that count, looked at under the lock, is full: so either somebody reads, or whoever stopped reading last
//! found a spare to wake, or all threads are at work.

use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// How often the monitor looks whether somebody reads, while there are requests at all.
const TICK: Duration = Duration::from_millis(2);
/// After this many ticks without a request the monitor sleeps until the next one.
const QUIET_TICKS: u32 = 50;
/// How long a spare beyond the first one waits before it ends.
const SPARE_LIFE: Duration = Duration::from_secs(10);
/// So many samples in a row that find a request waiting let one more thread read.
const QUEUED_SAMPLES: u32 = 4;
/// So many samples in a row that find none take it back.
const CALM_SAMPLES: u32 = 16;

/// How many turns make a round of a trial.
const ROUND_TURNS: u64 = 256;
/// How many rounds are tried with each number of readers, by turns.
const TRIED_ROUNDS: usize = 3;
/// How many rounds follow the better one before both are tried again.
const KEPT_ROUNDS: usize = 120;
/// A round that takes longer than this was not filled with requests, and tells nothing.
const LONGEST_ROUND: Duration = Duration::from_millis(200);

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
    trial: Mutex<Trial>,
    /// Counts the turns that ended.
    turns: AtomicU64,
    monitor_sleeps: AtomicBool,
    ended: AtomicBool,
    /// Samples in a row that found requests waiting, or none.
    queued: AtomicU32,
    calm: AtomicU32,
    /// The most threads.
    limit: usize,
    /// The most threads that read at a time.
    read_limit: usize,
}

impl Pool {
    /// A pool of at most `limit` threads, and at least one.
    pub(crate) fn new(limit: usize) -> Pool {
        let limit = limit.max(1);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Pool {
            threads: Mutex::default(),
            spares: Condvar::new(),
            monitor: Condvar::new(),
            reading: AtomicUsize::new(0),
            may_read: AtomicUsize::new(1),
            wanted_readers: AtomicUsize::new(1),
            trial: Mutex::default(),
            turns: AtomicU64::new(0),
            monitor_sleeps: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            queued: AtomicU32::new(0),
            calm: AtomicU32::new(0),
            limit,
            read_limit: processors.min(limit),
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
            let turn = work.read(&mut own);
            self.leave_turn();
            match turn {
                Turn::Request => {
                    if sampler.is_due() {
                        self.sample(work.has_pending());
                    }
                    work.answer(&mut own);
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
        if turns.is_multiple_of(ROUND_TURNS) && self.read_limit > 1 {
            self.end_round();
        }
        if self.monitor_sleeps.load(Ordering::SeqCst) {
            // Under the lock, so that the monitor waits by now or has yet to look at the turns.
            let _threads = self.threads.lock();
            self.monitor.notify_one();
        }
    }

    /// Ends a round of the trial: the next one may be with another number of readers.
    fn end_round(&self) {
        let wanted = self.trial.lock().end_round(Instant::now());
        let before = self.wanted_readers.swap(wanted, Ordering::SeqCst);
        if wanted == before {
            return;
        }
        self.may_read.store(wanted, Ordering::SeqCst);
        if wanted > before {
            self.wake_one();
        }
    }

    /// Learns whether a request waited behind the one just read.
    fn sample(&self, pending: bool) {
        let (count, other, enough) = if pending {
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
        let change = if pending { may_read + 1 } else { may_read.saturating_sub(1) };
        let wanted = self.wanted_readers.load(Ordering::SeqCst);
        let change = change.clamp(wanted, self.read_limit.max(wanted));
        // Samples of several threads may meet here; any of their wishes will do.
        self.may_read.store(change, Ordering::SeqCst);
        if pending {
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

/// Finds out whether one thread or two should wait for requests while none queue.
///
/// One is the better choice where its program and it take turns on one processor: two would wake each other. But where
/// processors are virtual, the scheduler of some kernels keeps the two on different ones for ever once they are, and
/// each request and each answer has to wake a halted processor, 20 microseconds each time. Of two threads that take
/// turns, one has slept long enough to be woken on the processor of the program. No interface tells which machine this
/// is; the clock does.
#[derive(Debug, Default)]
struct Trial {
    /// When the round began; `None` if none has.
    since: Option<Instant>,
    /// Which round it is.
    round: usize,
    /// How long the tried rounds took, with one reader and with two.
    took: [Duration; 2],
    two_are_better: bool,
}

impl Trial {
    /// Learns from a round and begins the next one; returns how many readers that is for.
    fn end_round(&mut self, now: Instant) -> usize {
        let took = self.since.replace(now).map(|since| now.saturating_duration_since(since));
        let Some(took) = took.filter(|took| *took <= LONGEST_ROUND) else {
            // Nothing can be compared with a pause.
            self.round = 0;
            self.took = [Duration::ZERO; 2];
            return self.readers();
        };
        if self.round < 2 * TRIED_ROUNDS {
            self.took[self.round % 2] += took;
        }
        self.round += 1;
        if self.round == 2 * TRIED_ROUNDS {
            self.two_are_better = self.took[1] < self.took[0];
        }
        if self.round == 2 * TRIED_ROUNDS + KEPT_ROUNDS {
            self.round = 0;
            self.took = [Duration::ZERO; 2];
        }
        self.readers()
    }

    /// How many readers this round is for.
    fn readers(&self) -> usize {
        let two = if self.round < 2 * TRIED_ROUNDS { self.round % 2 == 1 } else { self.two_are_better };
        if two { 2 } else { 1 }
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
