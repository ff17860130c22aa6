//! [`Log`]: records of one sort in the order of their sequences, in blocks of an [`Index`].
//!
//! What is under which key, behind the letter of the log:
//! - `b`, first sequence: a block. The last one is written anew with each commit until it is full.
//! - `c`, first sequence: a *chapter*, the blocks it covers; `x`, first sequence, bucket: the marks of
//!   these blocks that fall into the bucket. So a look-up reads one small value for each chapter, and
//!   the index sees a few records where there are thousands of operations.
//! - `m`: the counts.
//!
//! A log changes in two steps: [`stage`](Log::stage) says what a commit is to write, and
//! [`settle`](Log::settle) takes note once it is written. Until then readers see everything in memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use farmhand_proto::control::Miss;
use prost::Message;

use super::block::{self, Header};
use super::record::Record;
use crate::execution::OperationId;
use crate::index::{Batch, Index, IndexError};

/// A block is full with this many records, or bytes unpacked.
const BLOCK: usize = 64;
const BLOCK_BYTES: usize = 32 << 10;

/// Blocks of a chapter.
const CHAPTER: usize = 128;

/// Buckets of a chapter.
const BUCKETS: u8 = 64;

/// Bytes of a mark in a bucket: the mark, and which block of the chapter.
const ENTRY: usize = 4 + 2;

/// Blocks dropped in one commit.
const MOST_DROPPED: usize = 64;

/// Blocks kept in memory while there is no index to write to.
const MOST_WAITING: usize = 32;

/// How much a log keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// At least this many records, as far as the next allows.
    pub(super) records: u64,
    /// At most about this many bytes of blocks.
    pub(super) bytes: u64,
}

/// The records of one sort.
pub(super) struct Log {
    letter: u8,
    limits: Limits,
    /// Blocks that are not wholly on the disk; the last one still fills, if it is not full.
    blocks: VecDeque<Building>,
    /// The marks of blocks that are in no chapter yet.
    recent: Vec<Marked>,
    /// First sequences of the chapters.
    chapters: Vec<u64>,
    on_disk: Totals,
    last: u64,
}

struct Building {
    first: u64,
    records: Vec<Arc<Record>>,
    raw: usize,
    /// What of it is on the disk: records and bytes.
    stored: Totals,
    is_dirty: bool,
}

/// A block and its marks.
#[derive(Clone, Debug)]
struct Marked {
    first: u64,
    marks: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// What a log will be once a commit is done.
pub(super) struct Staged {
    stored: Vec<(u64, Totals)>,
    recent: Vec<Marked>,
    chapters: Vec<u64>,
    on_disk: Totals,
}

/// Where to look for records with a mark.
pub(super) struct Search {
    letter: u8,
    mark: u32,
    /// Those in memory that may have it, the newest first.
    pub(super) memory: Vec<Arc<Record>>,
    /// Blocks on the disk that may hold such, the newest first.
    recent: Vec<u64>,
    /// The newest first.
    chapters: Vec<u64>,
}

/// A walk through a log, from the newest record back.
pub(super) struct Cursor {
    letter: u8,
    before: u64,
    /// Blocks on the disk that were not read begin below this.
    bound: u64,
    /// In the order of sequences.
    buffer: Vec<Arc<Record>>,
}

// === keys ===

fn key(letter: u8, what: u8, first: u64) -> Vec<u8> {
    let mut key = vec![letter, what];
    key.extend_from_slice(&first.to_be_bytes());
    key
}

fn bucket_key(letter: u8, first: u64, bucket: u8) -> Vec<u8> {
    let mut key = key(letter, b'x', first);
    key.push(bucket);
    key
}

fn blocks_below(letter: u8, bound: u64) -> Range<Vec<u8>> {
    key(letter, b'b', 0)..key(letter, b'b', bound)
}

fn first_of(key: &[u8]) -> Option<u64> {
    key.get(2..10)?.try_into().ok().map(u64::from_be_bytes)
}

fn bucket_of(mark: u32) -> u8 {
    // The leading bits are as good as any: marks come out of hashes.
    (mark >> 24) as u8 % BUCKETS
}

fn slice(range: &Range<Vec<u8>>) -> Range<&[u8]> {
    &range.start..&range.end
}

// === impl Log ===

impl Log {
    /// The log of `letter` with nothing in it.
    pub(super) fn new(letter: u8, limits: Limits) -> Self {
        Self {
            letter,
            limits,
            blocks: VecDeque::new(),
            recent: Vec::new(),
            chapters: Vec::new(),
            on_disk: Totals::default(),
            last: 0,
        }
    }

    /// The log in `index`: reads its counts, its last block, and the fronts of those in no chapter yet.
    ///
    /// # Errors
    /// [`IndexError`]; a log that makes no sense counts as damaged.
    pub(super) fn open(letter: u8, limits: Limits, index: &Index) -> Result<Self, IndexError> {
        let mut log = Self::new(letter, limits);
        if index.opened().records == 0 {
            return Ok(log);
        }
        let damaged = |what: &str| index.damaged(format!("the history makes no sense: {what}"));
        let totals = index.get(&key(letter, b'm', 0))?.ok_or_else(|| damaged("it has no counts"))?;
        log.on_disk = Totals::decode(&totals).ok_or_else(|| damaged("its counts"))?;
        log.chapters = chapters(letter, index)?;
        let covered = match log.chapters.last() {
            Some(chapter) => {
                let blocks = chapter_blocks(letter, *chapter, index)?;
                blocks.last().copied().ok_or_else(|| damaged("a chapter"))?.saturating_add(1)
            }
            None => 0,
        };
        let mut is_sound = true;
        let keys = key(letter, b'b', covered)..key(letter, b'b', u64::MAX);
        index.visit(slice(&keys), |key, value| {
            let (first, header) = (first_of(key), block::header(value));
            let (Some(first), Some(header)) = (first, header) else {
                is_sound = false;
                return ControlFlow::Break(());
            };
            log.last = header.last;
            log.recent.push(Marked { first, marks: header.marks });
            if log.recent.len() <= CHAPTER { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if !is_sound || log.recent.len() > CHAPTER {
            return Err(damaged("its blocks"));
        }
        log.load_last(index)?.ok_or_else(|| damaged("its last block"))?;
        Ok(log)
    }

    /// Goes on with the last block, where it is not full. `None` if it is spoiled.
    fn load_last(&mut self, index: &Index) -> Result<Option<()>, IndexError> {
        let mut found = None;
        index.visit_back(slice(&blocks_below(self.letter, u64::MAX)), |key, value| {
            found = Some((first_of(key), value.len() as u64, block::decode(value)));
            ControlFlow::Break(())
        })?;
        let Some((first, bytes, records)) = found else { return Ok(Some(())) };
        let (Some(first), Some(records)) = (first, records) else { return Ok(None) };
        self.last = records.last().map_or(self.last, Record::sequence);
        let stored = Totals { records: records.len() as u64, bytes };
        let mut building = Building { first, records: Vec::new(), raw: 0, stored, is_dirty: false };
        records.into_iter().for_each(|record| building.push(record));
        building.is_dirty = false;
        if !building.is_full() {
            self.recent.retain(|marked| marked.first != first);
            self.blocks.push_back(building);
        }
        Ok(Some(()))
    }

    /// The last sequence in it.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Records and bytes on the disk.
    #[cfg(test)]
    pub(super) fn on_disk(&self) -> Totals {
        self.on_disk
    }

    /// Whether a commit has something to write.
    pub(super) fn is_dirty(&self) -> bool {
        self.blocks.iter().any(|block| block.is_dirty)
    }

    /// Records that no commit has written.
    pub(super) fn unwritten(&self) -> usize {
        let unwritten = |block: &Building| block.records.len().saturating_sub(block.stored.records as usize);
        self.blocks.iter().map(unwritten).sum()
    }

    /// Takes in a record, whose sequence must be larger than all before. Returns how many records had to
    /// go because none could be written for long.
    pub(super) fn push(&mut self, record: Record) -> usize {
        self.last = record.sequence();
        if self.blocks.back().is_none_or(Building::is_full) {
            let first = record.sequence();
            let (records, stored) = (Vec::new(), Totals::default());
            self.blocks.push_back(Building { first, records, raw: 0, stored, is_dirty: true });
        }
        if let Some(open) = self.blocks.back_mut() {
            open.push(record);
        }
        if self.blocks.len() <= MOST_WAITING {
            return 0;
        }
        let dropped = self.blocks.pop_front();
        dropped.map_or(0, |block| block.records.len().saturating_sub(block.stored.records as usize))
    }

    /// Adds to a record that is still in memory; `false` if it is not.
    pub(super) fn explain(&mut self, id: &OperationId, miss: Miss) -> bool {
        let name = id.to_string();
        for block in self.blocks.iter_mut().rev() {
            for record in block.records.iter_mut().rev().filter(|record| record.operation.name == name) {
                Arc::make_mut(record).miss = Some(miss);
                block.is_dirty = true;
                return true;
            }
        }
        false
    }

    /// Says what a commit is to write.
    ///
    /// # Errors
    /// Those of the index, which is read where records are to be dropped.
    pub(super) fn stage(&self, batch: &mut Batch, index: &Index) -> Result<Staged, IndexError> {
        let mut staged = Staged {
            stored: Vec::new(),
            recent: self.recent.clone(),
            chapters: self.chapters.clone(),
            on_disk: self.on_disk,
        };
        for block in self.blocks.iter().filter(|block| block.is_dirty) {
            let value = block::encode(&block.records);
            let now = Totals { records: block.records.len() as u64, bytes: value.len() as u64 };
            staged.on_disk.records += now.records - block.stored.records;
            staged.on_disk.bytes = (staged.on_disk.bytes + now.bytes).saturating_sub(block.stored.bytes);
            staged.stored.push((block.first, now));
            if block.is_full() {
                let marks = block::header(&value).map(|header| header.marks).unwrap_or_default();
                staged.recent.push(Marked { first: block.first, marks });
            }
            batch.put(key(self.letter, b'b', block.first), &value);
        }
        while staged.recent.len() >= CHAPTER {
            let rest = staged.recent.split_off(CHAPTER);
            put_chapter(
                batch,
                self.letter,
                &std::mem::replace(&mut staged.recent, rest),
                &mut staged.chapters,
            );
        }
        self.drop_oldest(batch, index, &mut staged)?;
        batch.put(key(self.letter, b'm', 0), &staged.on_disk.encode());
        Ok(staged)
    }

    fn drop_oldest(&self, batch: &mut Batch, index: &Index, staged: &mut Staged) -> Result<(), IndexError> {
        let Limits { records, bytes } = self.limits;
        let in_memory = self.blocks.front().map_or(u64::MAX, |block| block.first);
        let (mut dropped, mut oldest) = (Vec::new(), None);
        let left = &mut staged.on_disk;
        if left.records <= records && left.bytes <= bytes {
            return Ok(());
        }
        index.visit(slice(&blocks_below(self.letter, in_memory)), |key, value| {
            let count = block::header(value).map_or(0, |header| header.count as u64);
            let may_go = left.records.saturating_sub(count) >= records || left.bytes > bytes;
            if !may_go || dropped.len() == MOST_DROPPED {
                oldest = first_of(key);
                return ControlFlow::Break(());
            }
            left.records = left.records.saturating_sub(count);
            left.bytes = left.bytes.saturating_sub(value.len() as u64);
            dropped.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        let oldest = oldest.unwrap_or(in_memory);
        staged.recent.retain(|marked| marked.first >= oldest);
        dropped.into_iter().for_each(|key| batch.remove(key));
        while let Some(chapter) = staged.chapters.first().copied().filter(|first| *first < oldest) {
            let blocks = chapter_blocks(self.letter, chapter, index)?;
            if blocks.last().is_none_or(|last| *last >= oldest) {
                break;
            }
            staged.chapters.remove(0);
            batch.remove(key(self.letter, b'c', chapter));
            (0..BUCKETS).for_each(|bucket| batch.remove(bucket_key(self.letter, chapter, bucket)));
        }
        Ok(())
    }

    /// Takes note that what was staged is written.
    pub(super) fn settle(&mut self, staged: Staged) {
        for (first, stored) in staged.stored {
            if let Some(block) = self.blocks.iter_mut().find(|block| block.first == first) {
                (block.stored, block.is_dirty) = (stored, false);
            }
        }
        self.blocks.retain(|block| block.is_dirty || !block.is_full());
        self.recent = staged.recent;
        self.chapters = staged.chapters;
        self.on_disk = staged.on_disk;
    }

    /// Takes over what `earlier` had in memory and is not in this log.
    pub(super) fn adopt(&mut self, earlier: &Self) {
        let records = earlier.blocks.iter().flat_map(|block| &block.records);
        let missing: Vec<Record> =
            records.filter(|record| record.sequence() > self.last).map(|record| (**record).clone()).collect();
        missing.into_iter().for_each(|record| {
            self.push(record);
        });
    }

    /// Forgets what was on the disk: that is lost. What is in memory is to be written again.
    pub(super) fn lose_disk(&mut self) {
        self.recent.clear();
        self.chapters.clear();
        self.on_disk = Totals::default();
        for block in &mut self.blocks {
            (block.stored, block.is_dirty) = (Totals::default(), true);
        }
    }
}

// === impl Building ===

impl Building {
    fn push(&mut self, record: Record) {
        self.raw += record.encoded_len();
        self.records.push(Arc::new(record));
        self.is_dirty = true;
    }

    fn is_full(&self) -> bool {
        self.records.len() >= BLOCK || self.raw >= BLOCK_BYTES
    }
}

// === impl Totals ===

impl Totals {
    fn encode(self) -> Vec<u8> {
        [self.records.to_le_bytes(), self.bytes.to_le_bytes()].concat()
    }

    fn decode(data: &[u8]) -> Option<Self> {
        let (records, bytes) = data.split_first_chunk::<8>()?;
        let bytes = u64::from_le_bytes(bytes.try_into().ok()?);
        Some(Self { records: u64::from_le_bytes(*records), bytes })
    }
}

// === chapters ===

fn put_chapter(batch: &mut Batch, letter: u8, blocks: &[Marked], chapters: &mut Vec<u64>) {
    let Some(first) = blocks.first().map(|block| block.first) else { return };
    let mut buckets: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for (number, block) in blocks.iter().enumerate() {
        for mark in &block.marks {
            let bucket = buckets.entry(bucket_of(*mark)).or_default();
            bucket.extend_from_slice(&mark.to_le_bytes());
            bucket.extend_from_slice(&(number as u16).to_le_bytes());
        }
    }
    for (bucket, entries) in buckets {
        batch.put(bucket_key(letter, first, bucket), &entries);
    }
    let firsts: Vec<u8> = blocks.iter().flat_map(|block| block.first.to_le_bytes()).collect();
    batch.put(key(letter, b'c', first), &firsts);
    chapters.push(first);
}

fn chapters(letter: u8, index: &Index) -> Result<Vec<u64>, IndexError> {
    let mut chapters = Vec::new();
    let keys = key(letter, b'c', 0)..key(letter, b'c', u64::MAX);
    index.visit(slice(&keys), |key, _| {
        chapters.extend(first_of(key));
        ControlFlow::Continue(())
    })?;
    Ok(chapters)
}

/// First sequences of the blocks of a chapter; none if it is gone.
fn chapter_blocks(letter: u8, chapter: u64, index: &Index) -> Result<Vec<u64>, IndexError> {
    let value = index.get(&key(letter, b'c', chapter))?.unwrap_or_default();
    let firsts = value.chunks_exact(8).filter_map(|first| first.try_into().ok());
    Ok(firsts.map(u64::from_le_bytes).collect())
}

/// Which blocks of a chapter have a mark, the newest first.
fn marked_in(letter: u8, chapter: u64, mark: u32, index: &Index) -> Result<Vec<u64>, IndexError> {
    let Some(bucket) = index.get(&bucket_key(letter, chapter, bucket_of(mark)))? else {
        return Ok(Vec::new());
    };
    let wanted = mark.to_le_bytes();
    let numbers = bucket.chunks_exact(ENTRY).filter(|entry| entry.starts_with(&wanted));
    let mut numbers: Vec<usize> =
        numbers.map(|entry| usize::from(u16::from_le_bytes([entry[4], entry[5]]))).collect();
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.dedup();
    let blocks = chapter_blocks(letter, chapter, index)?;
    Ok(numbers.into_iter().filter_map(|number| blocks.get(number).copied()).collect())
}

/// The records of a block, in the order of sequences; none if it is gone.
fn read_block(letter: u8, first: u64, index: &Index) -> Result<Vec<Record>, IndexError> {
    let Some(value) = index.get(&key(letter, b'b', first))? else { return Ok(Vec::new()) };
    block::decode(&value).ok_or_else(|| index.damaged("a block of the history is spoiled"))
}

/// Whether a record of the index can be what its key says.
pub(super) fn is_sound(key: &[u8], value: &[u8]) -> bool {
    match key.get(1) {
        Some(b'b') => block::decode(value).is_some(),
        Some(b'm') => Totals::decode(value).is_some(),
        _ => true,
    }
}

// === reading ===

impl Log {
    /// Looks for records with `mark`, below `before`.
    pub(super) fn search(&self, mark: u32, before: u64) -> Search {
        let records = self.blocks.iter().rev().flat_map(|block| block.records.iter().rev());
        let memory = records.filter(|record| record.sequence() < before).cloned().collect();
        let recent =
            self.recent.iter().rev().filter(|block| block.first < before && block.marks.contains(&mark));
        Search {
            letter: self.letter,
            mark,
            memory,
            recent: recent.map(|block| block.first).collect(),
            chapters: self.chapters.iter().rev().copied().filter(|first| *first < before).collect(),
        }
    }

    /// Begins a walk at the last record below `before`.
    pub(super) fn cursor(&self, before: u64) -> Cursor {
        let records = self.blocks.iter().flat_map(|block| &block.records);
        let buffer = records.filter(|record| record.sequence() < before).cloned().collect();
        let bound = self.blocks.front().map_or(before, |block| block.first.min(before));
        Cursor { letter: self.letter, before, bound, buffer }
    }
}

impl Search {
    /// Visits what may have the mark on the disk, the newest record first, until `visit` breaks.
    pub(super) fn on_disk(
        &self,
        index: &Index,
        mut visit: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let mut visit_block = |first: u64| {
            let records = read_block(self.letter, first, index)?;
            Ok::<_, IndexError>(records.into_iter().rev().try_for_each(&mut visit).is_break())
        };
        for first in &self.recent {
            if visit_block(*first)? {
                return Ok(());
            }
        }
        for chapter in &self.chapters {
            for first in marked_in(self.letter, *chapter, self.mark, index)? {
                if visit_block(first)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Cursor {
    /// The record before the last one given; of blocks on the disk only those that `wanted` says.
    pub(super) fn next(
        &mut self,
        index: Option<&Index>,
        wanted: &dyn Fn(&Header) -> bool,
    ) -> Result<Option<Arc<Record>>, IndexError> {
        while self.buffer.is_empty() {
            let Some(index) = index else { return Ok(None) };
            let mut found = None;
            index.visit_back(slice(&blocks_below(self.letter, self.bound)), |key, value| {
                let is_wanted = block::header(value).is_none_or(|header| wanted(&header));
                found = Some((first_of(key), is_wanted.then(|| block::decode(value))));
                ControlFlow::Break(())
            })?;
            let Some((first, records)) = found else { return Ok(None) };
            self.bound = first.unwrap_or(0);
            let Some(records) = records else { continue };
            let records = records.ok_or_else(|| index.damaged("a block of the history is spoiled"))?;
            let below = records.into_iter().filter(|record| record.sequence() < self.before);
            self.buffer = below.map(Arc::new).collect();
        }
        Ok(self.buffer.pop())
    }
}

#[cfg(test)]
mod tests;
