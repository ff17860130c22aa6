//! Placement: on which machines an entry belongs.
//!
//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in Schindelhauer and Schomaker
//! 2005): each machine draws a number for each entry, and the lowest `-ln(draw) / weight` have it. A
//! machine has its share by weight; when one comes or goes, only what it has, or had, moves. All in
//! integers, so that every machine comes to the same answer.

use crate::cas::entry::EntryKey;
pub use crate::config::MOST_COPIES;
use crate::peer::MachineId;

/// Bits behind the point of a logarithm.
const FRACTION: u32 = 32;

/// The machines among which entries are placed, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    sites: Vec<Site>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Site {
    id: MachineId,
    seed: u64,
    weight: u32,
}

/// Machines for one entry, the first choice first.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    sites: &'a [Site],
    chosen: [u16; MOST_COPIES],
    len: usize,
}

// === impl Placement ===

impl Placement {
    /// Among `machines`, with the share that each takes; one with none takes nothing.
    pub fn new(machines: impl IntoIterator<Item = (MachineId, u32)>) -> Self {
        let site = |(id, weight): (MachineId, u32)| Site { id, seed: seed(id), weight };
        let mut sites: Vec<Site> = machines.into_iter().filter(|(_, weight)| *weight > 0).map(site).collect();
        sites.sort_unstable_by_key(|site| site.id);
        sites.dedup_by_key(|site| site.id);
        sites.truncate(usize::from(u16::MAX));
        Self { sites }
    }

    /// Number of machines.
    pub fn len(&self) -> usize {
        self.sites.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// The first `wanted` machines for `key`, or as many as there are; [`MOST_COPIES`] at most.
    pub fn places(&self, key: &EntryKey, wanted: usize) -> Places<'_> {
        let wanted = wanted.min(MOST_COPIES).min(self.sites.len());
        let mut best = [(u64::MAX, 0_u16); MOST_COPIES];
        let (spread, mut len) = (key.spread(), 0);
        for (number, site) in (0_u16..).zip(&self.sites) {
            let ranked = (site.rank(spread), number);
            if len == wanted && best[..len].last().is_none_or(|last| ranked >= *last) {
                continue;
            }
            let at = best[..len].partition_point(|better| *better < ranked);
            len = (len + 1).min(wanted);
            best[at..len].rotate_right(1);
            best[at] = ranked;
        }
        Places { sites: &self.sites, chosen: best.map(|(_, number)| number), len }
    }
}

// === impl Site ===

impl Site {
    /// The lower, the better.
    fn rank(&self, spread: u64) -> u64 {
        let draw = mix(self.seed ^ spread);
        (minus_log2(draw) << 24) / u64::from(self.weight)
    }
}

// === impl Places ===

impl Places<'_> {
    /// The machines, the first choice first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MachineId> + '_ {
        self.chosen[..self.len].iter().map(|number| self.sites[usize::from(*number)].id)
    }

    /// Whether `id` is one of them.
    pub fn contains(&self, id: MachineId) -> bool {
        self.iter().any(|place| place == id)
    }
}

/// Eight bytes of an id, which is a hash.
fn seed(id: MachineId) -> u64 {
    let first = id.bytes().first_chunk().expect("invariant: an id has 32 bytes");
    mix(u64::from_le_bytes(*first))
}

/// Every bit of the outcome depends on every bit of `number` (the last steps of SplitMix64, Steele and
/// others 2014).
pub(super) fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// `-log2(draw / 2^64)`, with [`FRACTION`] bits behind the point; below 2^38 and never 0. Between powers of
/// two, log2(1 + x) is taken as x + 0.3437 x (1 - x), which is off by less than 0.01: shares stay true to
/// about a hundredth.
fn minus_log2(draw: u64) -> u64 {
    let draw = draw | 1;
    let zeros = u64::from(draw.leading_zeros());
    // What follows the first one, as a share of 2^32.
    let x = (draw << zeros << 1) >> 32;
    let bulge = (((x * ((1 << 32) - x)) >> 32) * 1_476_192_083) >> 32;
    let log = x + bulge;
    ((zeros + 1) << FRACTION) - log.min((1 << FRACTION) - 1)
}

#[cfg(test)]
mod tests;
