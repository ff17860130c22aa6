//! What to evict and which packs to compact: deciding only, no clock, no disk.
//!
//! What others have enough copies of goes before what counts as one of the copies, and that before what is
//! perhaps the only one; among equals the longest unused goes first.

use crate::cas::entry::Standing;

/// Buckets of ages.
const BUCKETS: usize = 1024;

/// Share of dead bytes, in percent, from which a pack is worth compacting.
pub(super) const WORTHWHILE: u64 = 25;

/// The sizes of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watermarks {
    /// The budget itself.
    pub(super) budget: u64,
    /// Writers wait beyond this: the budget less the room compaction works in.
    pub(super) limit: u64,
    /// Eviction starts here.
    pub(super) high: u64,
    /// And ends here.
    pub(super) low: u64,
    /// Bytes of one pack.
    pub(super) pack: u64,
    /// Bytes of the file that is given up when the disk is full.
    pub(super) reserve: u64,
}

/// Standings in the order in which their entries go.
const ORDER: [Standing; 3] = [Standing::Spare, Standing::Counted, Standing::Sole];

/// Bytes that may be evicted, by standing and last use.
pub(super) struct Candidates {
    from: u32,
    to: u32,
    width: u32,
    /// By the number of the standing.
    bytes: [Vec<u64>; ORDER.len()],
}

/// The decision: everything goes whose standing goes before `standing`, of that standing everything last
/// used before `below`, and of what was last used between there and `edge` as much as makes `edge_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    standing: Standing,
    below: u32,
    edge: u32,
    pub(super) edge_bytes: u64,
}

/// What a cut says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes.
    Goes,
    /// It goes if there is something left to free.
    Edge,
    /// It stays.
    Stays,
}

/// Bytes of a pack file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackState {
    pub(super) id: u32,
    pub(super) bytes: u64,
    pub(super) dead: u64,
}

// === impl Watermarks ===

impl Watermarks {
    /// For a budget in bytes and a low-water mark in percent of it. A pack is at most a 64th of the
    /// budget, so that compaction needs little room and few files are open, but takes several of the
    /// largest small blobs.
    pub(super) fn new(budget: u64, low_percent: u8, threshold: u64) -> Self {
        let pack = (budget / 64).clamp((threshold * 4).max(64 << 10), 1 << 30);
        let limit = budget.saturating_sub(pack);
        let high = limit - limit / 20;
        let low = (u128::from(budget) * u128::from(low_percent.min(100)) / 100) as u64;
        Self { budget, limit, high, low: low.min(high), pack, reserve: (budget / 64).min(64 << 20) }
    }
}

// === impl Candidates ===

impl Candidates {
    /// None, for last uses from `from` to `to`.
    pub(super) fn new(from: u32, to: u32) -> Self {
        let width = (to.saturating_sub(from) / BUCKETS as u32) + 1;
        Self { from, to, width, bytes: std::array::from_fn(|_| vec![0; BUCKETS]) }
    }

    pub(super) fn add(&mut self, standing: Standing, last_use: u32, bytes: u64) {
        let bucket = (last_use.saturating_sub(self.from) / self.width) as usize;
        self.bytes[standing as usize][bucket.min(BUCKETS - 1)] += bytes;
    }

    /// What to evict to free `need` bytes; all of it if it is not enough.
    pub(super) fn cut(&self, need: u64) -> Cut {
        let mut sum = 0;
        for standing in ORDER {
            for (bucket, bytes) in self.bytes[standing as usize].iter().enumerate() {
                if sum + bytes >= need {
                    let below = self.from.saturating_add(bucket as u32 * self.width);
                    let edge = below.saturating_add(self.width);
                    return Cut { standing, below, edge, edge_bytes: need - sum };
                }
                sum += bytes;
            }
        }
        let end = self.to.saturating_add(1);
        Cut { standing: Standing::Sole, below: end, edge: end, edge_bytes: 0 }
    }
}

// === impl Cut ===

impl Cut {
    /// What becomes of an entry that may go.
    pub(super) fn verdict(&self, standing: Standing, last_use: u32) -> Verdict {
        match standing.cmp(&self.standing) {
            std::cmp::Ordering::Greater => Verdict::Goes,
            std::cmp::Ordering::Less => Verdict::Stays,
            std::cmp::Ordering::Equal if last_use < self.below => Verdict::Goes,
            std::cmp::Ordering::Equal if last_use < self.edge => Verdict::Edge,
            std::cmp::Ordering::Equal => Verdict::Stays,
        }
    }
}

// === packs ===

/// Whether `pack` has at least `percent` dead bytes.
pub(super) fn is_worthwhile(pack: &PackState, percent: u64) -> bool {
    pack.dead > 0 && pack.dead * 100 >= pack.bytes * percent
}

/// Bytes that compacting the worthwhile packs would free.
pub(super) fn reclaimable(packs: &[PackState], percent: u64) -> u64 {
    packs.iter().filter(|pack| is_worthwhile(pack, percent)).map(|pack| pack.dead).sum()
}

/// The packs to compact to free `need` bytes, those with the largest dead share first: they free the
/// most for the least copying. Wholly dead ones cost nothing and are always among them.
pub(super) fn choose_packs(mut packs: Vec<PackState>, need: u64, percent: u64) -> Vec<u32> {
    packs.retain(|pack| is_worthwhile(pack, percent));
    packs.sort_by_key(|pack| (std::cmp::Reverse(pack.dead * 1000 / pack.bytes.max(1)), pack.id));
    let mut freed = 0;
    let chosen = packs.into_iter().take_while(|pack| {
        let wanted = freed < need || pack.dead >= pack.bytes;
        freed += pack.dead;
        wanted
    });
    chosen.map(|pack| pack.id).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn watermarks_are_in_order() {
        for budget in [0, 1 << 20, 16 << 20, 1 << 30, 1 << 40] {
            for percent in [0, 50, 90, 100, 255] {
                let marks = Watermarks::new(budget, percent, 32 << 10);
                assert!(marks.low <= marks.high && marks.high <= marks.limit && marks.limit <= budget);
            }
        }
    }

    #[test]
    fn all_goes_where_that_is_not_enough_and_nothing_that_is_younger() {
        let mut candidates = Candidates::new(10, 20);
        candidates.add(Standing::Counted, 20, 5);
        let cut = candidates.cut(100);
        for standing in ORDER {
            assert_eq!(cut.verdict(standing, 20), Verdict::Goes);
        }
        assert_eq!(cut.verdict(Standing::Sole, 21), Verdict::Stays);
    }

    proptest! {
        #[test]
        fn a_cut_frees_enough_and_no_more_than_an_edge(
            uses in proptest::collection::vec((0u8..3, 1000u32..2_000_000, 1u64..5000), 1..300),
            need in 0u64..700_000,
        ) {
            let uses: Vec<(Standing, u32, u64)> =
                uses.into_iter().map(|(standing, time, bytes)| (Standing::from_number(standing), time, bytes)).collect();
            let from = uses.iter().map(|(_, time, _)| *time).min().unwrap_or(0);
            let to = uses.iter().map(|(_, time, _)| *time).max().unwrap_or(0);
            let mut candidates = Candidates::new(from, to);
            uses.iter().for_each(|(standing, time, bytes)| candidates.add(*standing, *time, *bytes));
            let cut = candidates.cut(need);
            let sum = |wanted: Verdict| -> u64 {
                let those = uses.iter().filter(|(standing, time, _)| cut.verdict(*standing, *time) == wanted);
                those.map(|(.., bytes)| bytes).sum()
            };
            let total: u64 = uses.iter().map(|(.., bytes)| bytes).sum();
            if need > total {
                prop_assert_eq!(sum(Verdict::Goes), total);
            } else {
                prop_assert_eq!(sum(Verdict::Goes) + cut.edge_bytes, need);
                prop_assert!(cut.edge_bytes <= sum(Verdict::Edge));
            }
        }

        #[test]
        fn nothing_goes_before_what_has_more_copies_or_was_unused_for_longer(
            uses in proptest::collection::vec((0u8..3, 1000u32..3000), 1..200),
            need in 0u64..300,
        ) {
            let uses: Vec<(Standing, u32)> =
                uses.into_iter().map(|(standing, time)| (Standing::from_number(standing), time)).collect();
            let mut candidates = Candidates::new(1000, 3000);
            uses.iter().for_each(|(standing, time)| candidates.add(*standing, *time, 1));
            let cut = candidates.cut(need);
            let rank = |verdict| match verdict { Verdict::Goes => 0, Verdict::Edge => 1, Verdict::Stays => 2 };
            for (standing, time) in &uses {
                for (other, other_time) in &uses {
                    if other > standing || (other == standing && other_time <= time) {
                        prop_assert!(
                            rank(cut.verdict(*other, *other_time)) <= rank(cut.verdict(*standing, *time))
                        );
                    }
                }
            }
        }

        #[test]
        fn chosen_packs_free_enough_with_the_deadest_first(
            sizes in proptest::collection::vec((1u64..10_000, 0u64..=100), 0..40),
            need in 0u64..100_000,
        ) {
            let packs: Vec<PackState> = sizes.iter().enumerate()
                .map(|(id, (bytes, share))| PackState { id: id as u32, bytes: *bytes, dead: bytes * share / 100 })
                .collect();
            let chosen = choose_packs(packs.clone(), need, WORTHWHILE);
            let freed: u64 = chosen.iter().map(|id| packs[*id as usize].dead).sum();
            prop_assert!(freed >= need.min(reclaimable(&packs, WORTHWHILE)));
            for pack in &packs {
                if pack.dead == pack.bytes {
                    prop_assert!(chosen.contains(&pack.id));
                }
                if chosen.contains(&pack.id) {
                    prop_assert!(is_worthwhile(pack, WORTHWHILE));
                }
            }
        }
    }
}
