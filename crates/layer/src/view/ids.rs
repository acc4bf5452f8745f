//! Owners that are shown otherwise than they are stored (`uidmapping`, `gidmapping`, `squash_to_uid`, `squash_to_gid`).

/// A run of ids that are shown as others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first id as it is stored.
    pub stored: u32,
    /// What that one is shown as.
    pub shown: u32,
    /// How many ids there are.
    pub count: u32,
}

/// How the ids of one kind, users or groups, are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ids {
    /// As they are.
    #[default]
    Same,
    /// Through a table; the first range that holds an id counts.
    Mapped {
        /// The table.
        ranges: Vec<Range>,
        /// What ids that are in no range are shown as (`/proc/sys/kernel/overflowuid`).
        overflow: u32,
    },
    /// All as this one.
    All(u32),
}

impl Ids {
    /// What a stored id is shown as.
    pub fn shown(&self, stored: u32) -> u32 {
        match self {
            Ids::Same => stored,
            Ids::All(id) => *id,
            Ids::Mapped { ranges, overflow } => {
                let found =
                    ranges.iter().find_map(|range| shift(stored, range.stored, range.shown, range.count));
                found.unwrap_or(*overflow)
            }
        }
    }

    /// The id to store so that it is shown as this one; `None` if there is none.
    pub fn stored(&self, shown: u32) -> Option<u32> {
        match self {
            Ids::Same => Some(shown),
            Ids::All(id) => Some(*id),
            Ids::Mapped { ranges, .. } => {
                ranges.iter().find_map(|range| shift(shown, range.shown, range.stored, range.count))
            }
        }
    }
}

/// `id` moved as far as `from` is from `to`, if it is one of the `count` ids from `from` on.
fn shift(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    let offset = id.checked_sub(from).filter(|offset| *offset < count)?;
    to.checked_add(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of fuse-overlayfs(1), "DYNAMIC UID AND GID MAPPING".
    #[test]
    fn ids_are_shown_as_the_table_says() {
        let ranges = vec![
            Range { stored: 0, shown: 1000, count: 1 },
            Range { stored: 1, shown: 110_000, count: 65536 },
        ];
        let ids = Ids::Mapped { ranges, overflow: 65534 };
        for (stored, shown) in [(0, 1000), (1, 110_000), (65536, 175_535)] {
            assert_eq!((ids.shown(stored), ids.stored(shown)), (shown, Some(stored)));
        }
        assert_eq!((ids.shown(65537), ids.stored(5), ids.stored(175_536)), (65534, None, None));
    }

    #[test]
    fn a_range_at_the_end_of_all_ids_does_not_wrap() {
        let ids = Ids::Mapped {
            ranges: vec![Range { stored: 10, shown: u32::MAX - 1, count: 5 }],
            overflow: 65534,
        };
        assert_eq!((ids.shown(11), ids.shown(12)), (u32::MAX, 65534));
    }

    #[test]
    fn squashed_ids_are_all_one() {
        let ids = Ids::All(7);
        assert_eq!((ids.shown(0), ids.shown(9), ids.stored(3)), (7, 7, Some(7)));
    }
}
