//! The pool over a queue instead of a device.
#![allow(clippy::unwrap_used)]

use super::*;
use std::io::Read;
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
    run_in(&Pool::new(limit, Polling::IfItPays(None), Arc::default()), feed)
}

fn run_in(pool: &Pool, feed: impl FnOnce(&Sender<Option<(u64, bool)>>, &Fake<'_>) + Send) -> (usize, usize) {
    let (sender, receiver) = channel();
    let fake = Fake {
        pool,
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

#[test]
fn waiting_in_all_ways_loses_no_request() {
    let (answered, _) = run(4, |sender, fake| {
        for way in [Way::Look, Way::Two, Way::Awake, Way::One, Way::Look] {
            fake.pool.follow(way);
            (0..200).for_each(|_| sender.send(Some((0, false))).unwrap());
            std::thread::sleep(Duration::from_millis(5));
            fake.pool.rest();
        }
    });
    assert_eq!(answered, 1000);
}

#[test]
fn processors_are_kept_awake_while_requests_come_and_not_after() {
    let (mut read, device) = std::io::pipe().unwrap();
    let waiting = Arc::new(Waiting::default());
    let polling = Polling::IfItPays(Some(Awake::told_to(device.into())));
    let (hold, rest) = (0_i32.to_ne_bytes(), (-1_i32).to_ne_bytes());
    let requests = usize::try_from(ROUND_TURNS).unwrap() * 20;
    let (answered, _) = run_in(&Pool::new(4, polling, Arc::clone(&waiting)), |sender, _| {
        for _ in 0..2 {
            (0..requests).for_each(|_| sender.send(Some((0, false))).unwrap());
            let mut told = [[0; 4]; 2];
            read.read_exact(told.as_flattened_mut()).unwrap();
            assert_eq!(told, [hold, rest]);
        }
    });
    assert_eq!((answered, waiting.name()), (2 * requests, "processors awake"));
}
