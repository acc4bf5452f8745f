//! How often a cache had what was asked for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts hits and misses. Counting takes part in no ordering: sums may lag behind each other for a moment.
#[derive(Debug, Default)]
pub struct Tally {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What has been counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How often it was there.
    pub hits: u64,
    /// How often it had to be made.
    pub misses: u64,
}

impl Tally {
    /// Nothing counted yet.
    pub const fn new() -> Tally {
        Tally { hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// It was there.
    pub fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// It had to be made.
    pub fn miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts.
    pub fn counted(&self) -> Counted {
        Counted { hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }
}
