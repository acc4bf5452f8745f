//! Whether the kernel asks before it opens a file.
//!
//! Where nothing can change, opening means nothing, and the kernel can do it by itself: once an open is answered with
//! `ENOSYS` it sends no more of them, nor the closes, and keeps the pages of all files. That is for good, and no file can be
//! lent any more. So it is done where files cannot be lent, or once more time has gone into opening small files than
//! lending large ones can have saved; never while a file is lent, since the kernel refuses to map it for those who open
//! it without being told of the loan (fs/fuse/file.c, `fuse_file_mmap`).

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// So many opens may be for nothing: a directory of libraries is opened, a source tree is searched.
const MOST_FOR_NOTHING: i64 = 512;
/// A request to open takes as long as reading this many bytes from the mount's pages takes more than from a lent file
/// (10 microseconds, 0.1 milliseconds a MiB; docs/adr/0002-opens-and-passthrough.md).
const WORTH_AN_OPEN: u64 = 96 << 10;
/// In place of the number of loans: there will be none.
const NO_MORE: usize = usize::MAX;

/// How a mount decides it.
#[derive(Debug, Default)]
pub(crate) struct Opens {
    /// Opening a file means nothing.
    dispensable: bool,
    /// Opens of files that were not lent, less those that lending others was worth.
    for_nothing: AtomicI64,
    /// Files that are lent, or [`NO_MORE`].
    loans: AtomicUsize,
}

impl Opens {
    /// `dispensable`: opening a file means nothing.
    pub(crate) fn new(dispensable: bool) -> Opens {
        Opens { dispensable, ..Opens::default() }
    }

    /// Whether the kernel is to open files by itself from now on; `lends`: they may be lent. From then on they are not.
    pub(crate) fn end(&self, lends: bool) -> bool {
        if !self.dispensable {
            return false;
        }
        if self.loans.load(Ordering::SeqCst) == NO_MORE {
            return true;
        }
        let worth_it = !lends || self.for_nothing.load(Ordering::Relaxed) > MOST_FOR_NOTHING;
        worth_it && self.loans.compare_exchange(0, NO_MORE, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Whether a file may be lent, which counts as lent from then on.
    pub(crate) fn begin_loan(&self) -> bool {
        let more = |loans: usize| (loans != NO_MORE).then(|| loans + 1);
        self.loans.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Ends what [`begin_loan`](Self::begin_loan) has begun.
    pub(crate) fn end_loan(&self) {
        self.loans.fetch_sub(1, Ordering::SeqCst);
    }

    /// Counts an open of a file that was not lent.
    pub(crate) fn count_plain(&self) {
        self.for_nothing.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an open of a lent file of this size.
    pub(crate) fn count_lent(&self, bytes: u64) {
        let worth = i64::try_from(bytes / WORTH_AN_OPEN).unwrap_or(i64::MAX);
        let less = |count: i64| Some(count.saturating_sub(worth));
        // It always has a new value.
        let _always = self.for_nothing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether opens are counted.
    pub(crate) fn counts(&self) -> bool {
        self.dispensable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_plain(count: i64) -> Opens {
        let opens = Opens::new(true);
        (0..count).for_each(|_| opens.count_plain());
        opens
    }

    #[test]
    fn small_files_end_opens_and_loans() {
        assert!(!with_plain(MOST_FOR_NOTHING).end(true));
        let opens = with_plain(MOST_FOR_NOTHING + 1);
        assert!(opens.end(true) && opens.end(true));
        assert!(!opens.begin_loan());
    }

    #[test]
    fn without_loans_opens_are_never_needed() {
        assert!(Opens::new(true).end(false));
        assert!(!Opens::new(false).end(false));
    }

    #[test]
    fn large_files_make_up_for_small_ones() {
        let opens = with_plain(MOST_FOR_NOTHING + 10);
        opens.count_lent(10 * WORTH_AN_OPEN);
        assert!(!opens.end(true));
        opens.count_plain();
        assert!(opens.end(true));
        let opens = with_plain(1);
        opens.count_lent(u64::MAX);
        opens.count_lent(u64::MAX);
        assert!(!opens.end(true));
    }

    #[test]
    fn opens_go_on_while_a_file_is_lent() {
        let opens = with_plain(MOST_FOR_NOTHING + 1);
        assert!(opens.begin_loan() && opens.begin_loan());
        opens.end_loan();
        assert!(!opens.end(true) && !opens.end(false));
        opens.end_loan();
        assert!(opens.end(true));
    }
}
