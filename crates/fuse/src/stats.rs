//! How many requests there were and how long they took.
//!
//! Times are those of the server: from a request that has been read to its answer that has been written. The way through
//! the kernel and the waking of threads come on top.

use crate::wire::op::Op;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// More than the highest number of an operation.
const OPS: usize = 64;
/// Each power of two is split into so many parts, so a time is known to an eighth of itself.
const PARTS: u32 = 4;
/// Times below 2^8 ns count as that.
const LEAST_BITS: u32 = 8;
/// Times from 2^38 ns (4.6 minutes) on count as the last part below it.
const MOST_BITS: u32 = 38;
const BUCKETS: usize = ((MOST_BITS - LEAST_BITS) * PARTS) as usize;

/// Counts of all operations of one connection. Counting takes part in no ordering.
pub struct Stats(Box<[Counts]>);

struct Counts {
    failed: AtomicU64,
    nanos: AtomicU64,
    longest: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// What was counted of one operation. Times are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpStats {
    /// The operation (`Read`).
    pub operation: String,
    /// How many requests.
    pub count: u64,
    /// How many of them were answered with an error. A name that is not there is none.
    pub failed: u64,
    /// The sum of all times.
    pub total: u64,
    /// What half of the requests took at most, to an eighth.
    pub p50: u64,
    /// What 90 % took at most, to an eighth.
    pub p90: u64,
    /// What 99 % took at most, to an eighth.
    pub p99: u64,
    /// The longest time.
    pub longest: u64,
}

impl Default for Stats {
    fn default() -> Self {
        let counts = || Counts {
            failed: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        Stats((0..OPS).map(|_| counts()).collect())
    }
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

impl Stats {
    /// Counts a request.
    pub(crate) fn note(&self, opcode: u32, failed: bool, took: Duration) {
        let Some(counts) = self.0.get(opcode as usize) else { return };
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = counts.buckets.get(bucket(nanos)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        counts.nanos.fetch_add(nanos, Ordering::Relaxed);
        if counts.longest.load(Ordering::Relaxed) < nanos {
            counts.longest.fetch_max(nanos, Ordering::Relaxed);
        }
        if failed {
            counts.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The operations that there were, those first that took most time in all.
    pub fn list(&self) -> Vec<OpStats> {
        let mut list: Vec<OpStats> =
            (0..).zip(&self.0).filter_map(|(opcode, counts)| counts.summary(opcode)).collect();
        list.sort_by_key(|stats| std::cmp::Reverse(stats.total));
        list
    }
}

impl Counts {
    fn summary(&self, opcode: u32) -> Option<OpStats> {
        let buckets: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let count: u64 = buckets.iter().sum();
        if count == 0 {
            return None;
        }
        let longest = self.longest.load(Ordering::Relaxed);
        let at_most = |percent: u64| {
            let wanted = (count * percent).div_ceil(100);
            let mut seen = 0;
            let reached = buckets.iter().position(|bucket| {
                seen += bucket;
                seen >= wanted
            });
            reached.map_or(longest, upper_bound).min(longest)
        };
        Some(OpStats {
            operation: Op::from_number(opcode).map_or_else(|| opcode.to_string(), |op| format!("{op:?}")),
            count,
            failed: self.failed.load(Ordering::Relaxed),
            total: self.nanos.load(Ordering::Relaxed),
            p50: at_most(50),
            p90: at_most(90),
            p99: at_most(99),
            longest,
        })
    }
}

/// Which bucket a time belongs to.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.clamp(1 << LEAST_BITS, (1 << MOST_BITS) - 1);
    let power = nanos.ilog2();
    // The two bits below the highest one.
    let part = (nanos >> (power - PARTS.ilog2())) as u32 % PARTS;
    ((power - LEAST_BITS) * PARTS + part) as usize
}

/// The highest time of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let (power, part) = (bucket as u32 / PARTS + LEAST_BITS, u64::from(bucket as u32 % PARTS));
    (1 << power) + (part + 1) * ((1 << power) / u64::from(PARTS)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_its_bucket() {
        assert_eq!((bucket(0), bucket(256), bucket(319), bucket(320)), (0, 0, 0, 1));
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for number in 0..BUCKETS {
            let bound = upper_bound(number);
            assert_eq!((bucket(bound), bucket(bound + 1)), (number, (number + 1).min(BUCKETS - 1)));
        }
    }

    #[test]
    fn percentiles_are_those_of_the_times() {
        let stats = Stats::default();
        assert!(stats.list().is_empty());
        for micros in 1..=1000 {
            stats.note(Op::Read as u32, micros % 100 == 0, Duration::from_micros(micros));
        }
        stats.note(Op::Open as u32, false, Duration::from_secs(9));
        // No such operation: it is not counted.
        stats.note(1000, false, Duration::from_secs(9));
        let list = stats.list();
        assert_eq!(list.len(), 2, "{list:?}");
        let (open, read) = (&list[0], &list[1]);
        assert_eq!(
            (&*open.operation, open.count, open.p50, open.longest),
            ("Open", 1, 9_000_000_000, 9_000_000_000)
        );
        assert_eq!((&*read.operation, read.count, read.failed), ("Read", 1000, 10));
        assert_eq!((read.total, read.longest), (500_500_000, 1_000_000));
        for (bound, exact) in [(read.p50, 500_000), (read.p90, 900_000), (read.p99, 990_000)] {
            assert!((exact..=exact + exact / 4).contains(&bound), "{bound} for {exact}");
        }
    }
}
