//! What a daemon has counted since it serves, for `acetate mounts --stats`.

use acetate_fuse::OpStats;
use acetate_layer::dir::DirCache;
use acetate_layer::{Counted, UpperLayer};
use acetate_overlay::Overlay;
use serde::{Deserialize, Serialize};

/// All that was counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Statistics {
    /// Those first that took most time in all.
    pub(crate) operations: Vec<Operation>,
    pub(crate) caches: Caches,
    /// Files and directories that the kernel knows.
    pub(crate) nodes: usize,
    pub(crate) open_files: usize,
    /// How requests are waited for while many come.
    pub(crate) waiting: String,
}

/// One operation. Times are in nanoseconds, those of the server alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Operation {
    /// The FUSE operation (`Read`).
    pub(crate) operation: String,
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) total_ns: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) longest_ns: u64,
}

/// What the engine keeps. What the kernel knows by itself is not asked for, and not counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Caches {
    /// Names that were looked up and had been found before.
    pub(crate) names: Cache,
    /// Merged listings of directories.
    pub(crate) listings: Cache,
    /// Open descriptors of the layers' directories.
    pub(crate) directories: Cache,
}

/// How often something was there when it was needed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cache {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Statistics {
    pub(super) fn of<L: UpperLayer>(
        overlay: &Overlay<L>,
        operations: Vec<OpStats>,
        waiting: &str,
    ) -> Statistics {
        let counts = overlay.counts();
        Statistics {
            operations: operations.into_iter().map(Operation::from).collect(),
            caches: Caches {
                names: counts.names.into(),
                listings: counts.listings.into(),
                directories: DirCache::common().uses().into(),
            },
            nodes: counts.nodes,
            open_files: counts.handles,
            waiting: waiting.to_owned(),
        }
    }

    /// The operations, as a table with a header.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let header = ["operation", "count", "errors", "p50", "p90", "p99", "longest", "total"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        rows.extend(self.operations.iter().map(Operation::row));
        rows
    }
}

impl Operation {
    fn row(&self) -> Vec<String> {
        vec![
            self.operation.clone(),
            self.count.to_string(),
            self.errors.to_string(),
            time(self.p50_ns),
            time(self.p90_ns),
            time(self.p99_ns),
            time(self.longest_ns),
            time(self.total_ns),
        ]
    }
}

impl Cache {
    /// The share of hits, with both counts.
    pub(crate) fn text(&self) -> String {
        let all = self.hits + self.misses;
        if all == 0 {
            return "not used yet".into();
        }
        format!("{:.1} % of {all}", 100.0 * self.hits as f64 / all as f64)
    }
}

impl From<Counted> for Cache {
    fn from(counted: Counted) -> Cache {
        Cache { hits: counted.hits, misses: counted.misses }
    }
}

impl From<OpStats> for Operation {
    fn from(stats: OpStats) -> Operation {
        Operation {
            operation: stats.operation,
            count: stats.count,
            errors: stats.failed,
            total_ns: stats.total,
            p50_ns: stats.p50,
            p90_ns: stats.p90,
            p99_ns: stats.p99,
            longest_ns: stats.longest,
        }
    }
}

/// A time with two or three digits that count.
fn time(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000_000 => (nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_can_be_read() {
        assert_eq!(
            [900, 9_940, 45_000, 2_500_000, 12_000_000_000].map(time),
            ["0.9 us", "9.9 us", "45 us", "2.5 ms", "12 s"]
        );
        assert_eq!(Cache { hits: 0, misses: 0 }.text(), "not used yet");
        assert_eq!(Cache { hits: 999, misses: 1 }.text(), "99.9 % of 1000");
    }
}
