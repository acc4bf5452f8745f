//! How the threads wait for requests while none queue, which is found out by trying.
//!
//! Where processors are virtual, to wake one that has halted takes 20 microseconds and more, and a request takes two of
//! that: the server's wake-up and its program's. No interface tells which machine this is; the clock does.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// How many turns make a round.
pub(crate) const ROUND_TURNS: u64 = 32;
/// How many rounds make a try. The first one does not count: the threads may still be where another way has put them.
const TRY_ROUNDS: usize = 4;
/// How often each way is tried, by turns; the median counts. Odd.
const TRIES: usize = 3;
/// How many rounds follow in the best way before all are tried again.
const KEPT_ROUNDS: usize = 960;
/// So many rounds in a row that take half as long again as those that decided begin a new trial, too: the scheduler may have
/// moved the threads, or other requests come.
const SLOW_ROUNDS: usize = 8;
/// A round that takes longer than this was not filled with requests, and tells nothing.
const LONGEST_ROUND: Duration = Duration::from_millis(10);

/// A way to wait for requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// One thread sleeps until a request comes. Best where it and its program take turns on one processor.
    One,
    /// Two do. Each wakes the other in vain; but where the scheduler would keep one thread and its program on different
    /// processors for ever, of two threads one has slept long enough to be woken on the processor of the program.
    Two,
    /// One thread looks for requests for a moment before it sleeps, which saves its own wake-up.
    Look,
    /// One thread sleeps, and no processor halts meanwhile ([`Awake`](crate::Awake)), which saves both.
    Awake,
}

impl Way {
    /// How many threads wait at least.
    pub(crate) fn readers(self) -> usize {
        if self == Way::Two { 2 } else { 1 }
    }
}

/// What was decided last, for whoever wants to know.
#[derive(Debug, Default)]
pub struct Waiting(AtomicU8);

impl Waiting {
    const NAMES: [&'static str; 5] =
        ["undecided", "one thread", "two threads", "busy poll", "processors awake"];

    fn set(&self, way: Way) {
        self.0.store(way as u8 + 1, Ordering::Relaxed);
    }

    /// How requests are waited for while many come: `one thread` or `two threads` that sleep, one that looks for some
    /// before it sleeps (`busy poll`), or one that sleeps while no processor does (`processors awake`); `undecided` at first.
    pub fn name(&self) -> &'static str {
        Self::NAMES.get(usize::from(self.0.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }
}

/// Tries the ways and keeps to the best one.
#[derive(Debug)]
pub(crate) struct Trial {
    /// What can be tried, those first that cost less besides time.
    ways: Vec<Way>,
    /// When the round began; `None` if none has.
    since: Option<Instant>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// How long each round has taken.
    Trying(Vec<Duration>),
    /// One way, for some time.
    Kept(Kept),
}

#[derive(Debug)]
struct Kept {
    way: Way,
    /// How long a round took when it was chosen.
    usual: Duration,
    /// For so many rounds more.
    left: usize,
    /// So many rounds in a row have been slow.
    slow: usize,
}

impl Kept {
    /// Learns from a round; returns whether to go on.
    fn go_on(&mut self, took: Duration) -> bool {
        self.left -= 1;
        self.slow = if took > self.usual + self.usual / 2 { self.slow + 1 } else { 0 };
        self.left > 0 && self.slow < SLOW_ROUNDS
    }
}

impl Trial {
    pub(crate) fn new(ways: Vec<Way>) -> Trial {
        Trial { ways, since: None, state: State::Trying(Vec::new()) }
    }

    /// Learns from a round that was spent in the way returned last, and begins the next one; returns in which way. If that
    /// ends a trial, `waiting` learns how.
    pub(crate) fn end_round(&mut self, now: Instant, waiting: &Waiting) -> Way {
        let took = self.since.replace(now).map(|since| now.saturating_duration_since(since));
        let filled = took.filter(|took| *took <= LONGEST_ROUND);
        if let [way] = self.ways[..] {
            // There is nothing to try. With few requests each way will do.
            waiting.set(way);
            return if took == filled { way } else { Way::One };
        }
        match (&mut self.state, filled) {
            // Nothing can be compared with a pause.
            (State::Trying(rounds), None) => rounds.clear(),
            (State::Trying(rounds), Some(took)) => {
                rounds.push(took);
                if rounds.len() >= self.ways.len() * TRY_ROUNDS * TRIES {
                    let (way, usual) = best(&self.ways, rounds);
                    waiting.set(way);
                    self.state = State::Kept(Kept { way, usual, left: KEPT_ROUNDS, slow: 0 });
                }
            }
            // So few requests that each way will do.
            (State::Kept(_), None) if took.is_some() => return Way::One,
            (State::Kept(_), None) => {}
            (State::Kept(kept), Some(took)) => {
                if !kept.go_on(took) {
                    self.state = State::Trying(Vec::new());
                }
            }
        }
        match &self.state {
            State::Trying(rounds) => way_of(rounds.len() / TRY_ROUNDS, &self.ways),
            State::Kept(kept) => kept.way,
        }
    }

    /// There are no requests for now; returns how to wait.
    pub(crate) fn pause(&mut self) -> Way {
        self.since = None;
        Way::One
    }
}

/// Which way the nth try is for.
fn way_of(nth: usize, ways: &[Way]) -> Way {
    ways.iter().cycle().nth(nth).copied().unwrap_or(Way::One)
}

/// The way that took least, and how long a round in it took. One that costs more has to be faster by an eighth than all
/// before it.
fn best(ways: &[Way], rounds: &[Duration]) -> (Way, Duration) {
    let counted = |rounds: &[Duration]| rounds.iter().skip(1).sum::<Duration>() / (TRY_ROUNDS as u32 - 1);
    let tries: Vec<Duration> = rounds.chunks(TRY_ROUNDS).map(counted).collect();
    let median = |nth: usize| {
        let mut took: Vec<_> = tries.iter().skip(nth).step_by(ways.len()).copied().collect();
        took.sort_unstable();
        took.get(took.len() / 2).copied().unwrap_or_default()
    };
    let mut chosen = (Way::One, Duration::MAX);
    for (nth, way) in ways.iter().enumerate() {
        let took = median(nth);
        if took < chosen.1 - chosen.1 / 8 {
            chosen = (*way, took);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAL: usize = 4 * TRY_ROUNDS * TRIES;
    const WAYS: [Way; 4] = [Way::One, Way::Two, Way::Look, Way::Awake];

    /// The ways that follow so many rounds, if a round in each of [`WAYS`] takes so many milliseconds.
    fn rounds(trial: &mut Trial, now: &mut Instant, count: usize, before: Way, took: [u64; 4]) -> Vec<Way> {
        let mut ways = vec![before];
        for nth in 0..count {
            *now += Duration::from_millis(took[ways[nth] as usize]);
            ways.push(trial.end_round(*now, &Waiting::default()));
        }
        ways.split_off(1)
    }

    fn begun() -> (Trial, Instant) {
        let (mut trial, now) = (Trial::new(WAYS.to_vec()), Instant::now());
        assert_eq!(trial.end_round(now, &Waiting::default()), Way::One);
        (trial, now)
    }

    #[test]
    fn all_ways_are_tried_and_the_fastest_is_kept_for_a_while() {
        let (mut trial, mut now) = begun();
        let tried = rounds(&mut trial, &mut now, TRIAL, Way::One, [8, 6, 4, 2]);
        let starts: Vec<Way> = tried.iter().skip(TRY_ROUNDS - 1).step_by(TRY_ROUNDS).copied().collect();
        assert_eq!(starts[..4], [Way::Two, Way::Look, Way::Awake, Way::One]);
        assert_eq!(tried.last(), Some(&Way::Awake));
        let kept = rounds(&mut trial, &mut now, KEPT_ROUNDS, Way::Awake, [8, 6, 4, 2]);
        assert!(kept[..KEPT_ROUNDS - 1].iter().all(|way| *way == Way::Awake));
        assert_eq!(kept.last(), Some(&Way::One), "a new trial");
        // Now it does not pay any more.
        let tried = rounds(&mut trial, &mut now, TRIAL, Way::One, [8, 8, 8, 8]);
        assert_eq!(tried.last(), Some(&Way::One));
    }

    #[test]
    fn what_is_kept_is_tried_anew_once_it_has_become_slow() {
        let (mut trial, mut now) = begun();
        let tried = rounds(&mut trial, &mut now, TRIAL, Way::One, [2, 2, 1, 2]);
        assert_eq!(tried.last(), Some(&Way::Look));
        let slow = rounds(&mut trial, &mut now, SLOW_ROUNDS, Way::Look, [1, 1, 2, 1]);
        assert!(slow[..SLOW_ROUNDS - 1].iter().all(|way| *way == Way::Look));
        assert_eq!(slow.last(), Some(&Way::One), "a new trial");
    }

    #[test]
    fn what_costs_more_has_to_be_clearly_faster() {
        let (mut trial, mut now) = begun();
        let tried = rounds(&mut trial, &mut now, TRIAL, Way::One, [8, 8, 8, 6]);
        assert_eq!(tried.last(), Some(&Way::Awake));
        let (mut trial, mut now) = begun();
        let tried = rounds(&mut trial, &mut now, TRIAL, Way::One, [8, 7, 7, 7]);
        assert_eq!(tried.last(), Some(&Way::One));
    }

    #[test]
    fn a_pause_begins_a_trial_anew_and_keeps_what_was_decided() {
        let (mut trial, mut now) = begun();
        rounds(&mut trial, &mut now, 7, Way::One, [2, 4, 4, 4]);
        now += Duration::from_secs(5);
        assert_eq!(trial.end_round(now, &Waiting::default()), Way::One);
        rounds(&mut trial, &mut now, TRIAL, Way::One, [8, 4, 8, 8]);
        assert_eq!(trial.pause(), Way::One);
        now += Duration::from_secs(5);
        assert_eq!(trial.end_round(now, &Waiting::default()), Way::Two, "requests come again");
        now += Duration::from_secs(5);
        assert_eq!(trial.end_round(now, &Waiting::default()), Way::One, "but few");
        now += Duration::from_millis(4);
        assert_eq!(trial.end_round(now, &Waiting::default()), Way::Two);
    }

    #[test]
    fn what_is_the_only_way_is_not_tried() {
        let (mut trial, waiting, mut now) =
            (Trial::new(vec![Way::Awake]), Waiting::default(), Instant::now());
        let mut after = |millis| {
            now += Duration::from_millis(millis);
            trial.end_round(now, &waiting)
        };
        assert_eq!([0, 5, 5000, 5].map(&mut after), [Way::Awake, Way::Awake, Way::One, Way::Awake]);
        assert_eq!(waiting.name(), "processors awake");
        assert!(matches!(&trial.state, State::Trying(rounds) if rounds.is_empty()));
    }

    #[test]
    fn what_was_decided_can_be_told() {
        let waiting = Waiting::default();
        assert_eq!(waiting.name(), "undecided");
        for (way, name) in
            WAYS.into_iter().zip(["one thread", "two threads", "busy poll", "processors awake"])
        {
            waiting.set(way);
            assert_eq!(waiting.name(), name);
        }
    }
}
