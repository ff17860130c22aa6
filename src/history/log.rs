//! [`Log`]: records of one sort in the order of their sequences, in the segments of one directory.
//!
//! New records wait in memory until the thread writes them, about once a second; readers see them there.
//! Reading takes a look at the list of segments and then needs no lock: segments that are sealed or
//! dropped meanwhile stay readable for who has them.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;

use super::record::{Kept, Listed, Record};
use super::segment::{self, Frame, Opened, Segment};
use crate::execution::OperationId;

/// Records of a full block, and bytes unpacked beyond which one is begun.
const BLOCK: usize = 64;
const BLOCK_BYTES: usize = 256 << 10;

/// A segment is sealed with this many records, or bytes.
const SEGMENT: u64 = 4096;
const SEGMENT_BYTES: u64 = 4 << 20;

/// Bytes kept in memory while nothing can be written.
const MOST_WAITING: usize = 4 << 20;

/// Ending of the name of a segment that still grows, and of a sealed one.
const OPEN: &str = "open";
const SEALED: &str = "log";

/// How much a log keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// At least this many records, as far as the next allows.
    pub(super) records: u64,
    /// At most about this many bytes.
    pub(super) bytes: u64,
}

/// The records of one sort.
pub(super) struct Log {
    limits: Limits,
    /// The oldest first; only the last one is not sealed.
    segments: Vec<Arc<Segment>>,
    /// Those that are not written, in the order of sequences.
    waiting: Vec<Arc<Record>>,
    waiting_bytes: usize,
    last: u64,
}

/// What is on the disk.
pub(super) struct Found {
    pub(super) segments: Vec<Segment>,
    /// Whether a part of them is damaged.
    pub(super) is_damaged: bool,
}

/// Records to be written, and where.
pub(super) struct Job {
    records: Vec<Arc<Record>>,
    segment: Option<Arc<Segment>>,
}

/// Records that were written.
pub(super) struct Done {
    records: usize,
    segment: Segment,
}

/// Where to look for records with a mark.
pub(super) struct Search {
    mark: u32,
    /// Those in memory, the newest first; they may have any mark.
    pub(super) memory: Vec<Arc<Record>>,
    segments: Vec<Arc<Segment>>,
}

/// A walk through a log, from the newest record back.
pub(super) struct Cursor {
    before: u64,
    segments: Vec<Arc<Segment>>,
    /// Frames of the last of these that were not read.
    frames: usize,
    /// In the order of sequences.
    buffer: Vec<Listed>,
}

// === the directory ===

/// Reads what is in `directory`, which is made if it is not there. A segment that the end of the node
/// cut off is sealed, but for the last one.
pub(super) fn open(directory: &Path) -> io::Result<Found> {
    std::fs::create_dir_all(directory)?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            paths.push(entry.path());
        }
    }
    paths.retain(|path| path.extension().is_some_and(|ending| ending == OPEN || ending == SEALED));
    // By their first sequences, and a sealed one before the one it was made of.
    paths.sort();
    let mut found = Found { segments: Vec::<Segment>::new(), is_damaged: false };
    for path in paths {
        let is_sealed_since =
            found.segments.last().is_some_and(|last| last.path().file_stem() == path.file_stem());
        if is_sealed_since {
            std::fs::remove_file(&path)?;
            continue;
        }
        match Segment::open(&path)? {
            Some(Opened { segment, .. }) if segment.frames().is_empty() => std::fs::remove_file(&path)?,
            Some(Opened { segment, is_damaged }) => {
                found.is_damaged |= is_damaged;
                found.segments.push(segment);
            }
            // Left for whoever knows it.
            None if segment::is_newer(&path)? => {}
            None => {
                found.is_damaged = true;
                std::fs::rename(&path, path.with_extension("damaged"))?;
            }
        }
    }
    let count = found.segments.len();
    for segment in found.segments.iter_mut().take(count.saturating_sub(1)).filter(|one| !one.is_sealed()) {
        *segment = seal(segment)?;
    }
    Ok(found)
}

/// Seals a segment in its directory.
pub(super) fn seal(segment: &Segment) -> io::Result<Segment> {
    let sealed = segment.seal(&segment.path().with_extension(SEALED), BLOCK)?;
    if sealed.path() != segment.path() {
        std::fs::remove_file(segment.path())?;
    }
    Ok(sealed)
}

// === impl Job ===

impl Job {
    /// Writes the records.
    pub(super) fn run(self, directory: &Path) -> io::Result<Option<Done>> {
        let Some(first) = self.records.first().map(|record| record.sequence()) else { return Ok(None) };
        let mut segment = match self.segment {
            Some(segment) => (*segment).clone(),
            None => Segment::create(&directory.join(format!("{first:020}.{OPEN}")))?,
        };
        for records in blocks(&self.records) {
            segment.append(records)?;
        }
        Ok(Some(Done { records: self.records.len(), segment }))
    }
}

/// The records in blocks, none of them too large.
fn blocks(mut records: &[Arc<Record>]) -> Vec<&[Arc<Record>]> {
    let mut blocks = Vec::new();
    while !records.is_empty() {
        let mut bytes = 0;
        let fits = |record: &&Arc<Record>| {
            bytes += record.encoded_len();
            bytes <= BLOCK_BYTES
        };
        let count = records.iter().take(BLOCK).take_while(fits).count().max(1);
        let (block, rest) = records.split_at(count);
        blocks.push(block);
        records = rest;
    }
    blocks
}

// === impl Log ===

impl Log {
    /// A log with nothing in it.
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, segments: Vec::new(), waiting: Vec::new(), waiting_bytes: 0, last: 0 }
    }

    /// Goes on with what is on the disk. Records that wait stay, if they are newer.
    pub(super) fn begin(&mut self, segments: Vec<Segment>) {
        self.segments = segments.into_iter().map(Arc::new).collect();
        let last = self.segments.iter().map(|segment| segment.last()).max().unwrap_or(0);
        self.waiting.retain(|record| record.sequence() > last);
        self.last = self.last.max(last);
    }

    /// The last sequence in it.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Records that are not written.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes in a record, whose sequence must be larger than all before. Returns how many records had to
    /// go because none could be written for long.
    pub(super) fn push(&mut self, record: Record) -> usize {
        self.last = record.sequence();
        self.waiting_bytes += record.encoded_len();
        self.waiting.push(Arc::new(record));
        if self.waiting_bytes <= MOST_WAITING {
            return 0;
        }
        let dropped = self.waiting.len().div_ceil(4);
        self.waiting.drain(..dropped);
        self.waiting_bytes = self.waiting.iter().map(|record| record.encoded_len()).sum();
        dropped
    }

    /// Adds to a record that still waits; `false` if it does not.
    pub(super) fn revise(&mut self, id: &OperationId, edit: impl FnOnce(Record) -> Record) -> bool {
        let name = id.to_string();
        let found = self.waiting.iter_mut().rev().find(|record| record.operation.name == name);
        let is_there = found.is_some();
        if let Some(record) = found {
            *record = Arc::new(edit((**record).clone()));
        }
        is_there
    }

    /// What is to be written.
    pub(super) fn job(&self) -> Job {
        let open = self.segments.last().filter(|segment| !segment.is_sealed());
        Job { records: self.waiting.clone(), segment: open.cloned() }
    }

    /// Takes note of what was written.
    pub(super) fn settle(&mut self, done: Done) {
        let Done { records, segment } = done;
        self.waiting.drain(..records.min(self.waiting.len()));
        self.waiting_bytes = self.waiting.iter().map(|record| record.encoded_len()).sum();
        self.replace_last(segment);
    }

    /// The last segment, if it is to be sealed.
    pub(super) fn full(&self) -> Option<Arc<Segment>> {
        let is_full = |segment: &Segment| segment.records() >= SEGMENT || segment.bytes() >= SEGMENT_BYTES;
        self.segments.last().filter(|segment| !segment.is_sealed() && is_full(segment)).cloned()
    }

    /// Puts `segment` in the place of the last one, if that is not sealed, else behind it.
    pub(super) fn replace_last(&mut self, segment: Segment) {
        if self.segments.last().is_some_and(|last| !last.is_sealed()) {
            self.segments.pop();
        }
        self.segments.push(Arc::new(segment));
    }

    /// Takes out what the limits do not allow: files to be removed.
    pub(super) fn drop_oldest(&mut self) -> Vec<PathBuf> {
        let (mut records, mut bytes) = (self.waiting.len() as u64, 0);
        let mut kept = 0;
        for segment in self.segments.iter().rev() {
            let is_enough = records >= self.limits.records;
            bytes += segment.bytes();
            if is_enough || (bytes > self.limits.bytes && kept > 0) {
                break;
            }
            records += segment.records();
            kept += 1;
        }
        let dropped = self.segments.len() - kept;
        self.segments.drain(..dropped).map(|segment| segment.path().to_owned()).collect()
    }
}

// === reading ===

impl Log {
    /// Looks for records with `mark`.
    pub(super) fn search(&self, mark: u32) -> Search {
        let memory = self.waiting.iter().rev().cloned().collect();
        Search { mark, memory, segments: self.segments.clone() }
    }

    /// Begins a walk at the last record below `before`.
    pub(super) fn cursor(&self, before: u64) -> Cursor {
        let waiting = self.waiting.iter().filter(|record| record.sequence() < before);
        let buffer = waiting.map(|record| Listed { operation: record.operation.clone() }).collect();
        let mut cursor = Cursor { before, segments: self.segments.clone(), frames: 0, buffer };
        cursor.enter();
        cursor
    }
}

impl Search {
    /// Visits what is in blocks that may have the mark, the newest record first, until `visit` breaks.
    /// Damaged blocks are passed over.
    pub(super) fn on_disk(
        &self,
        before: u64,
        mut visit: impl FnMut(Record) -> ControlFlow<()>,
    ) -> io::Result<()> {
        for segment in self.segments.iter().rev() {
            if segment.frames().first().is_none_or(|frame| frame.first >= before) {
                continue;
            }
            for number in segment.marked(self.mark)? {
                let records = segment.read::<Record>(number)?.unwrap_or_default();
                if records.into_iter().rev().try_for_each(&mut visit).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Cursor {
    /// The record before the last one given; of blocks on the disk only those that `wanted` says.
    /// Damaged blocks are passed over.
    pub(super) fn next(&mut self, wanted: &dyn Fn(&Frame) -> bool) -> io::Result<Option<Listed>> {
        while self.buffer.is_empty() {
            let Some(segment) = self.segments.last() else { return Ok(None) };
            let Some(number) = self.frames.checked_sub(1) else {
                self.segments.pop();
                self.enter();
                continue;
            };
            self.frames = number;
            let frame = &segment.frames()[number];
            if frame.first < self.before && wanted(frame) {
                self.buffer = segment.read(number)?.unwrap_or_default();
                self.buffer.retain(|record| record.sequence() < self.before);
            }
        }
        Ok(self.buffer.pop())
    }

    fn enter(&mut self) {
        self.frames = self.segments.last().map_or(0, |segment| segment.frames().len());
    }
}

#[cfg(test)]
mod tests;
