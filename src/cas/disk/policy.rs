//! What to evict and which packs to compact: deciding only, no clock, no disk.

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

/// Bytes that may be evicted, by last use.
pub(super) struct Histogram {
    from: u32,
    width: u32,
    bytes: Vec<u64>,
}

/// The decision: everything last used before `below` goes, and of what was last used between there and
/// `edge` as much as makes `edge_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) below: u32,
    pub(super) edge: u32,
    pub(super) edge_bytes: u64,
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

// === impl Histogram ===

impl Histogram {
    /// Empty, for last uses from `from` to `to`.
    pub(super) fn new(from: u32, to: u32) -> Self {
        let width = (to.saturating_sub(from) / BUCKETS as u32) + 1;
        Self { from, width, bytes: vec![0; BUCKETS] }
    }

    pub(super) fn add(&mut self, last_use: u32, bytes: u64) {
        let bucket = (last_use.saturating_sub(self.from) / self.width) as usize;
        self.bytes[bucket.min(BUCKETS - 1)] += bytes;
    }

    /// What to evict to free `need` bytes, the longest unused first; all of it if it is not enough.
    pub(super) fn cut(&self, need: u64) -> Cut {
        let mut sum = 0;
        for (bucket, bytes) in self.bytes.iter().enumerate() {
            if sum + bytes >= need {
                let below = self.from.saturating_add(bucket as u32 * self.width);
                return Cut { below, edge: below.saturating_add(self.width), edge_bytes: need - sum };
            }
            sum += bytes;
        }
        Cut { below: u32::MAX, edge: u32::MAX, edge_bytes: 0 }
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

    proptest! {
        #[test]
        fn a_cut_frees_enough_and_no_more_than_an_edge(
            uses in proptest::collection::vec((1000u32..2_000_000, 1u64..5000), 1..300),
            need in 0u64..400_000,
        ) {
            let from = uses.iter().map(|(time, _)| *time).min().unwrap_or(0);
            let to = uses.iter().map(|(time, _)| *time).max().unwrap_or(0);
            let mut histogram = Histogram::new(from, to);
            uses.iter().for_each(|(time, bytes)| histogram.add(*time, *bytes));
            let total: u64 = uses.iter().map(|(_, bytes)| bytes).sum();
            let cut = histogram.cut(need);
            let below: u64 = uses.iter().filter(|(time, _)| *time < cut.below).map(|(_, bytes)| bytes).sum();
            let edge: u64 = uses.iter()
                .filter(|(time, _)| (cut.below..cut.edge).contains(time))
                .map(|(_, bytes)| bytes)
                .sum();
            if need > total {
                prop_assert_eq!(below, total);
            } else {
                prop_assert_eq!(below + cut.edge_bytes, need);
                prop_assert!(cut.edge_bytes <= edge);
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
