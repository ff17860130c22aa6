//! RepMaxCDC: cuts where the rolling hash is largest, again and again until all chunks are small enough.
//!
//! From the start of a chunk, the places where it may end are those from `least` to `least + horizon` bytes
//! behind it, `least` short of the end of the blob. Of these the one with the largest hash is taken, the first if
//! there are several. If that makes the chunk twice as large as the least or larger, the search is repeated among
//! the places that leave a whole chunk in front of the one found.
//!
//! A search over the same bytes for each chunk is not needed. A place that is better than all before it is a
//! *record*. Every repetition ends at the last record `least` or more in front of the one before, so records are
//! all that has to be remembered; and a record that is not beaten within `least` bytes is a cut, whatever comes.
//! Each byte is hashed once then.

use super::GEAR_WINDOW;

/// The parameters, and the table of the hash.
#[derive(Clone, Copy)]
pub(super) struct RepMax<'a> {
    /// Bytes of the smallest chunk; at least [`GEAR_WINDOW`].
    pub(super) least: usize,
    /// Bytes looked ahead.
    pub(super) horizon: usize,
    pub(super) gear: &'a [u64; 256],
}

impl RepMax<'_> {
    /// Adds the lengths of the first chunks of `data` to `cuts`. It has `2 * least + horizon` bytes at least, or
    /// all up to the end of the blob.
    pub(super) fn cut(&self, data: &[u8], cuts: &mut Vec<usize>) {
        let least = self.least;
        if data.len() < 2 * least {
            cuts.push(data.len());
            return;
        }
        let end = (data.len() - least).min(least + self.horizon);
        // With more bytes behind, later chunks look further than this one.
        let ends_with_blob = data.len() - least < least + self.horizon;
        let (records, is_decided) = self.records(data, end);
        let first = cuts.len();
        let mut cut = records.last().copied().unwrap_or(least);
        cuts.push(cut);
        for record in records.into_iter().rev() {
            if cut - record >= least {
                cut = record;
                cuts.push(cut);
            }
        }
        if !is_decided && !ends_with_blob {
            // Only the first is certain.
            cuts.drain(first..cuts.len() - 1);
        }
        cuts[first..].reverse();
        let mut start = 0;
        for cut in &mut cuts[first..] {
            (*cut, start) = (*cut - start, *cut);
        }
    }

    /// The places up to `end` that are better than all before, and whether the last of them is a cut for sure.
    fn records(&self, data: &[u8], end: usize) -> (Vec<usize>, bool) {
        let (mut hash, mut place) = (0, self.least);
        for byte in &data[place - GEAR_WINDOW..place] {
            hash = self.roll(hash, *byte);
        }
        let (mut records, mut best) = (vec![place], hash);
        loop {
            let unbeaten = records[records.len() - 1] + self.least - 1;
            let until = end.min(unbeaten);
            if place == until {
                return (records, until == unbeaten);
            }
            for byte in &data[place..until] {
                place += 1;
                hash = self.roll(hash, *byte);
                if hash > best {
                    best = hash;
                    records.push(place);
                }
            }
        }
    }

    fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[usize::from(byte)])
    }
}
