//! The pool over a queue instead of a device.
#![allow(clippy::unwrap_used)]

use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// Requests are durations in milliseconds for which an answer takes; an announced one lets another thread read.
struct Fake<'a> {
    pool: &'a Pool,
    requests: Mutex<Receiver<Option<(u64, bool)>>>,
    answered: AtomicUsize,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
}

impl Work for Fake<'_> {
    type Own = (u64, bool);

    fn own(&self) -> (u64, bool) {
        (0, false)
    }

    fn read(&self, own: &mut (u64, bool)) -> Turn {
        match self.requests.lock().recv() {
            Ok(Some(request)) => {
                *own = request;
                Turn::Request
            }
            _ => Turn::End,
        }
    }

    fn answer(&self, own: &mut (u64, bool)) {
        if own.1 {
            self.pool.let_another_read();
        }
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_busy.fetch_max(busy, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(own.0));
        self.busy.fetch_sub(1, Ordering::SeqCst);
        self.answered.fetch_add(1, Ordering::SeqCst);
    }

    fn has_pending(&self) -> bool {
        false
    }
}

fn run(limit: usize, feed: impl FnOnce(&Sender<Option<(u64, bool)>>, &Fake<'_>) + Send) -> (usize, usize) {
    let pool = Pool::new(limit);
    let (sender, receiver) = channel();
    let fake = Fake {
        pool: &pool,
        requests: Mutex::new(receiver),
        answered: AtomicUsize::new(0),
        busy: AtomicUsize::new(0),
        most_busy: AtomicUsize::new(0),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            feed(&sender, &fake);
            sender.send(None).unwrap();
            // A thread that waits in vain for a request sees the end, too.
            drop(sender);
        });
        pool.run(&fake).unwrap();
    });
    (fake.answered.into_inner(), fake.most_busy.into_inner())
}

#[test]
fn quick_requests_are_answered_by_one_thread() {
    let (answered, most) = run(8, |sender, _| (0..500).for_each(|_| sender.send(Some((0, false))).unwrap()));
    assert_eq!(answered, 500);
    assert!(most <= 2, "{most} threads at once");
}

#[test]
fn requests_go_on_behind_long_ones_up_to_the_limit() {
    let (answered, most) = run(4, |sender, _| (0..12).for_each(|_| sender.send(Some((30, true))).unwrap()));
    assert_eq!((answered, most), (12, 4));
}

#[test]
fn a_request_that_takes_long_unannounced_does_not_stop_the_others() {
    let (answered, _) = run(4, |sender, fake| {
        sender.send(Some((2000, false))).unwrap();
        sender.send(Some((0, false))).unwrap();
        let limit = Instant::now() + Duration::from_millis(1500);
        while fake.answered.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < limit, "the quick request waits for the long one");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(answered, 2);
}

/// How many readers each of the rounds is for, if one takes `one` and `two` milliseconds.
fn tried(trial: &mut Trial, now: &mut Instant, rounds: usize, one: u64, two: u64) -> Vec<usize> {
    let mut readers = Vec::new();
    for _ in 0..rounds {
        let took = if trial.readers() == 2 { two } else { one };
        *now += Duration::from_millis(took);
        readers.push(trial.end_round(*now));
    }
    readers
}

#[test]
fn the_faster_number_of_readers_stays() {
    let (mut trial, mut now) = (Trial::default(), Instant::now());
    // The first round ends without having begun.
    let first = tried(&mut trial, &mut now, 1 + 2 * TRIED_ROUNDS, 20, 10);
    assert_eq!(first, [1, 2, 1, 2, 1, 2, 2]);
    let kept = tried(&mut trial, &mut now, KEPT_ROUNDS, 20, 10);
    assert_eq!(kept[..KEPT_ROUNDS - 1], [2; KEPT_ROUNDS - 1]);
    // And again, now that one is faster.
    assert_eq!(kept[KEPT_ROUNDS - 1], 1);
    let again = tried(&mut trial, &mut now, 2 * TRIED_ROUNDS, 10, 20);
    assert_eq!(again, [2, 1, 2, 1, 2, 1]);
    assert_eq!(tried(&mut trial, &mut now, 5, 10, 20), [1; 5]);
}

#[test]
fn a_pause_begins_the_trial_anew() {
    let (mut trial, mut now) = (Trial::default(), Instant::now());
    tried(&mut trial, &mut now, 4, 10, 20);
    now += Duration::from_secs(5);
    assert_eq!(trial.end_round(now), 1);
    assert_eq!(tried(&mut trial, &mut now, 2 * TRIED_ROUNDS, 20, 10), [2, 1, 2, 1, 2, 2]);
}
