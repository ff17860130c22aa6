//! [`Ranges`]: which entries of the store are to be looked at again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::model::Limits;
use crate::cas::entry::RANGES;
use crate::replication::roster::Roster;

/// Farms that are remembered until a range is walked; after more of them, everything in it is asked for.
const MOST_FARMS: usize = 4;

/// The ranges of the store here.
#[derive(Debug)]
pub(super) struct Ranges {
    all: Vec<Range>,
    /// Those that are to be walked.
    dirty: BTreeSet<u8>,
    /// Those that are to be walked later, because nobody took what is in them.
    later: BTreeSet<(Instant, u8)>,
    /// Those that are being walked.
    walking: usize,
    /// Where to go on looking for one to walk.
    cursor: u8,
    /// Entries that nobody took, and those that wait for machines that are away.
    pub refused: u64,
    pub parked: u64,
    /// The next range that is to be compared, and when.
    comparison: Option<(Instant, u8)>,
}

/// One of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Range {
    /// The farm as it was when all in it was looked at, and as it was since then, with its numbers: what is
    /// marked as complete was so in one of these. None if everything has to be asked for.
    pub farms: Vec<(u64, Arc<Roster>)>,
    /// Whether something in it may be marked as complete.
    is_marked: bool,
    /// Whether everything in it is to be asked for.
    is_compared: bool,
    /// Whether copies of something in it are on others than the first machines, because these refused.
    is_displaced: bool,
    is_walking: bool,
    /// Of the walk that goes on.
    is_comparing: bool,
    refused: u32,
    parked: u32,
    backoff: Option<Duration>,
    later: Option<Instant>,
}

// === impl Range ===

impl Range {
    /// A farm is over in which entries may have been marked.
    fn pass(&mut self, farm: Option<&(u64, Arc<Roster>)>) {
        let is_known = |farm: &&(u64, _)| self.farms.last().is_none_or(|last| last.0 == farm.0);
        let Some(farm) = farm.filter(|farm| !is_known(farm)) else { return };
        if self.farms.len() < MOST_FARMS {
            self.farms.push(farm.clone());
        } else {
            self.farms.clear();
        }
    }
}

// === impl Ranges ===

impl Ranges {
    pub(super) fn new() -> Self {
        Self {
            all: vec![Range::default(); RANGES],
            dirty: BTreeSet::new(),
            later: BTreeSet::new(),
            walking: 0,
            cursor: 0,
            refused: 0,
            parked: 0,
            comparison: None,
        }
    }

    pub(super) fn get(&self, range: u8) -> &Range {
        &self.all[usize::from(range)]
    }

    /// Share of those that need nothing but time.
    pub(super) fn share(&self) -> f32 {
        let clean = (0..=u8::MAX).filter(|range| !self.dirty.contains(range) && !self.get(*range).is_walking);
        clean.count() as f32 / RANGES as f32
    }

    /// Whether nothing is to be looked at again, now or later.
    pub(super) fn is_settled(&self) -> bool {
        self.dirty.is_empty() && self.later.is_empty() && self.walking == 0 && self.parked == 0
    }

    /// Whether something in this range is to be looked at again.
    #[cfg(test)]
    pub(super) fn is_open(&self, range: u8) -> bool {
        let Range { is_walking, parked, later, .. } = self.get(range);
        self.dirty.contains(&range) || *is_walking || *parked > 0 || later.is_some()
    }

    // --- what makes them dirty ---

    /// The farm is another one than `last`. Alone, a machine looks only at what it thought others had.
    pub(super) fn renumber(&mut self, last: Option<(u64, Arc<Roster>)>, is_alone: bool) {
        for range in 0..=u8::MAX {
            self.all[usize::from(range)].pass(last.as_ref());
            self.all[usize::from(range)].is_marked |= !is_alone;
            if !self.get(range).is_marked {
                self.dirty.remove(&range);
                self.tidy(range);
            } else {
                self.dirty.insert(range);
            }
            // Placement does not tell where those copies are.
            let it = &mut self.all[usize::from(range)];
            it.is_compared |= std::mem::take(&mut it.is_displaced);
        }
    }

    /// An entry of this range has copies on others than the first machines.
    pub(super) fn displace(&mut self, range: u8) {
        self.all[usize::from(range)].is_displaced = true;
    }

    /// An entry of this range is to be looked at.
    pub(super) fn look_again(&mut self, range: u8) {
        self.dirty.insert(range);
    }

    /// Nobody takes an entry of this range now.
    pub(super) fn refuse(&mut self, now: Instant, range: u8, [first, most]: [Duration; 2]) {
        self.refused += 1;
        let it = &mut self.all[usize::from(range)];
        it.refused += 1;
        if it.later.is_none() {
            let backoff = it.backoff.map_or(first, |last| (last * 2).min(most));
            it.backoff = Some(backoff);
            it.later = Some(now + backoff);
            self.later.insert((now + backoff, range));
        }
    }

    /// An entry of this range waits for machines that are away.
    pub(super) fn park(&mut self, range: u8) {
        self.all[usize::from(range)].parked += 1;
        self.parked += 1;
    }

    /// A machine is back.
    pub(super) fn unpark(&mut self) {
        let parked = (0..=u8::MAX).filter(|range| self.all[usize::from(*range)].parked > 0);
        self.dirty.extend(parked);
    }

    /// Makes those dirty whose time has come.
    pub(super) fn tick(&mut self, now: Instant, compare: Duration) {
        while let Some((at, range)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, range));
            self.all[usize::from(range)].later = None;
            self.dirty.insert(range);
        }
        let step = compare / RANGES as u32;
        for _ in 0..RANGES {
            let Some((at, range)) = self.comparison.filter(|(at, _)| *at <= now) else { return };
            self.comparison = Some((at + step, range.wrapping_add(1)));
            self.all[usize::from(range)].is_compared = true;
            self.dirty.insert(range);
        }
        // It was asleep for longer than all of them take.
        if let Some((at, _)) = &mut self.comparison {
            *at = (*at).max(now + step);
        }
    }

    /// Whether there is anybody to compare with.
    pub(super) fn compare_from(&mut self, now: Instant, compare: Duration, is_alone: bool) {
        self.comparison = match self.comparison {
            _ if is_alone => None,
            Some(comparison) => Some(comparison),
            None => Some((now + compare / RANGES as u32, 0)),
        };
    }

    /// When time makes one dirty.
    pub(super) fn due(&self) -> Option<Instant> {
        let comparison = self.comparison.map(|(at, _)| at);
        self.later.first().map(|(at, _)| *at).into_iter().chain(comparison).min()
    }

    // --- walks ---

    /// Whether another one is to be walked.
    pub(super) fn is_any_due(&self, limits: &Limits) -> bool {
        self.walking < limits.walks && !self.dirty.is_empty()
    }

    /// A range to walk, if another one may be walked.
    pub(super) fn begin(&mut self, limits: &Limits) -> Option<u8> {
        if self.walking >= limits.walks {
            return None;
        }
        let ahead = self.dirty.range(self.cursor..).chain(self.dirty.range(..self.cursor));
        let range = ahead.copied().find(|range| !self.get(*range).is_walking)?;
        self.cursor = range.wrapping_add(1);
        self.dirty.remove(&range);
        self.tidy(range);
        self.walking += 1;
        let it = &mut self.all[usize::from(range)];
        it.is_walking = true;
        it.is_comparing = std::mem::take(&mut it.is_compared);
        Some(range)
    }

    /// What was put off is looked at with the rest.
    fn tidy(&mut self, range: u8) {
        let it = &mut self.all[usize::from(range)];
        if it.refused == 0 {
            it.backoff = None;
        }
        self.refused -= u64::from(std::mem::take(&mut it.refused));
        self.parked -= u64::from(std::mem::take(&mut it.parked));
        if let Some(at) = it.later.take() {
            self.later.remove(&(at, range));
        }
    }

    /// Whether this walk goes on, and it is to ask for everything.
    pub(super) fn end(&mut self, range: u8) -> Option<bool> {
        let it = &mut self.all[usize::from(range)];
        if !std::mem::take(&mut it.is_walking) {
            return None;
        }
        self.walking -= 1;
        Some(it.is_comparing)
    }

    /// All in it was looked at with this farm; `None` if there is nobody else.
    pub(super) fn settle(&mut self, range: u8, farm: Option<(u64, Arc<Roster>)>) {
        let it = &mut self.all[usize::from(range)];
        it.is_marked = farm.is_some();
        it.farms = farm.into_iter().collect();
    }
}
