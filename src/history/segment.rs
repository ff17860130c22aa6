//! Segments: the files a log is made of. This file owns their layout.
//!
//! A segment begins with a mark of its format, behind which stand *frames*: a head with length and
//! checksum, then a block. Frames are appended to the last segment until it is *sealed*: then it is
//! written anew with full blocks, and with a table of them and the marks of all records at its end. So
//! a sealed segment costs a start one short read, and a look-up a few.
//!
//! Damage costs the frames it hit and no others: in a sealed segment the table tells where the next one
//! is, in any other it is searched for. Nothing is synced but a segment that is sealed: what a power
//! cut may take is the end of the last one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::block::{self, Header};
use super::record::{Kept, Record};

/// What a segment begins with; the last byte is the version of all that follows.
const FORMAT: [u8; 8] = *b"farmhis\x01";

/// What a frame begins with.
const FRAME: [u8; 4] = *b"\xfeFRM";

/// Bytes of the head of a frame: mark, length, checksum.
const HEAD: usize = 4 + 4 + 4;

/// Bytes of a frame in the table, and of a mark.
const ENTRY: usize = 8 + 8 + 8 + 8 + 8 + 4 + 4;
const MARK: usize = 4 + 4;

/// What a sealed segment ends with: where the table is, frames, marks, checksum of the table, format.
const TRAILER: usize = 8 + 4 + 4 + 4 + 8;

/// Bytes of the largest frame. Blocks are closed long before that.
const MAX_FRAME: usize = 8 << 20;

/// Bytes of the largest segment that is read whole.
const MAX_SEGMENT: u64 = 64 << 20;

/// A block in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// First and last sequence in it.
    pub(super) first: u64,
    pub(super) last: u64,
    /// When the first and the last of its operations ended, in microseconds since 1970.
    pub(super) earliest: u64,
    pub(super) latest: u64,
    /// Where its block is.
    offset: u64,
    length: u32,
    /// Records in it.
    pub(super) count: u32,
}

/// What records of a segment are looked up by.
#[derive(Clone, Debug)]
enum Marks {
    /// Mark and number of the frame, in any order.
    Memory(Vec<(u32, u32)>),
    /// So many of them, in the order of marks, from here on.
    Disk { at: u64, count: u32 },
}

/// A file of a log. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: Arc<File>,
    frames: Vec<Frame>,
    marks: Marks,
    /// Where the next frame goes, if it is not sealed; else its size.
    end: u64,
    is_sealed: bool,
}

/// Whether a newer program wrote the file at `path`.
pub(super) fn is_newer(path: &Path) -> io::Result<bool> {
    let mut format = [0; FORMAT.len()];
    let is_read = File::open(path)?.read_at(&mut format, 0)? == FORMAT.len();
    let [name @ .., version] = format;
    Ok(is_read && FORMAT.starts_with(&name) && version > FORMAT[name.len()])
}

/// The frames found in the bytes of a segment.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) frames: Vec<Frame>,
    marks: Vec<(u32, u32)>,
    /// Behind the last frame.
    pub(super) end: u64,
    /// Whether something else stood between them.
    pub(super) is_damaged: bool,
}

/// A segment that was opened, and whether a part of it is damaged.
pub(super) struct Opened {
    pub(super) segment: Segment,
    pub(super) is_damaged: bool,
}

// === the layout ===

/// A frame with the block of `records`.
fn frame(block: &[u8]) -> Vec<u8> {
    let length = u32::try_from(block.len()).expect("invariant: blocks are small");
    let mut data = Vec::with_capacity(HEAD + block.len());
    data.extend_from_slice(&FRAME);
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(&crc32fast::hash(block).to_le_bytes());
    data.extend_from_slice(block);
    data
}

/// The block of the frame that `data` begins with.
fn block_at(data: &[u8]) -> Option<&[u8]> {
    let (head, rest) = data.split_first_chunk::<HEAD>()?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = usize::try_from(word(4)).ok().filter(|length| *length <= MAX_FRAME)?;
    let block = rest.get(..length).filter(|_| head.starts_with(&FRAME))?;
    (crc32fast::hash(block) == word(8)).then_some(block)
}

/// Finds every whole frame in the bytes of a segment; `None` if it is of another format.
pub(super) fn scan(data: &[u8]) -> Option<Scanned> {
    let mut scanned = Scanned { end: FORMAT.len() as u64, ..Scanned::default() };
    if !data.starts_with(&FORMAT) {
        return None;
    }
    let mut at = FORMAT.len();
    while at < data.len() {
        let found = block_at(&data[at..]).and_then(|block| Some((block, block::header(block)?)));
        let Some((block, header)) = found else {
            scanned.is_damaged = true;
            let next = data[at + 1..].windows(FRAME.len()).position(|bytes| bytes == FRAME);
            at = next.map_or(data.len(), |next| at + 1 + next);
            continue;
        };
        scanned.push(block, header, (at + HEAD) as u64);
        at += HEAD + block.len();
        scanned.end = at as u64;
    }
    Some(scanned)
}

impl Scanned {
    fn push(&mut self, block: &[u8], header: Header, offset: u64) {
        let number = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        self.marks.extend(header.marks.iter().map(|mark| (*mark, number)));
        self.frames.push(Frame {
            first: header.first,
            last: header.last,
            earliest: header.earliest,
            latest: header.latest,
            offset,
            length: block.len() as u32,
            count: header.count as u32,
        });
    }
}

impl Frame {
    fn encode(&self) -> Vec<u8> {
        let words = [self.first, self.last, self.earliest, self.latest, self.offset];
        let mut entry: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        entry.extend_from_slice(&self.length.to_le_bytes());
        entry.extend_from_slice(&self.count.to_le_bytes());
        entry
    }

    fn decode(entry: &[u8]) -> Option<Self> {
        let entry: &[u8; ENTRY] = entry.try_into().ok()?;
        let word = |at: usize| entry[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let half = |at: usize| entry[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        Some(Self {
            first: word(0),
            last: word(8),
            earliest: word(16),
            latest: word(24),
            offset: word(32),
            length: half(40),
            count: half(44),
        })
    }
}

/// A sealed segment with these blocks: its bytes.
fn sealed(blocks: &[Vec<Arc<Record>>]) -> Vec<u8> {
    let mut data = FORMAT.to_vec();
    let mut scanned = Scanned::default();
    for records in blocks {
        let block = block::encode(records);
        let offset = (data.len() + HEAD) as u64;
        data.extend_from_slice(&frame(&block));
        if let Some(header) = block::header(&block) {
            scanned.push(&block, header, offset);
        }
    }
    let at = data.len() as u64;
    let table: Vec<u8> = scanned.frames.iter().flat_map(Frame::encode).collect();
    data.extend_from_slice(&table);
    scanned.marks.sort_unstable();
    for (mark, number) in &scanned.marks {
        data.extend_from_slice(&mark.to_le_bytes());
        data.extend_from_slice(&number.to_le_bytes());
    }
    data.extend_from_slice(&at.to_le_bytes());
    data.extend_from_slice(&(scanned.frames.len() as u32).to_le_bytes());
    data.extend_from_slice(&(scanned.marks.len() as u32).to_le_bytes());
    data.extend_from_slice(&crc32fast::hash(&table).to_le_bytes());
    data.extend_from_slice(&FORMAT);
    data
}

/// The end of a sealed segment of `size` bytes: where its table is, frames, marks, checksum.
fn trailer(data: &[u8; TRAILER], size: u64) -> Option<(u64, u32, u32, u32)> {
    let at = u64::from_le_bytes(data[..8].try_into().ok()?);
    let half = |at: usize| data[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
    let (frames, marks, sum) = (half(8), half(12), half(16));
    let length = u64::from(frames) * ENTRY as u64 + u64::from(marks) * MARK as u64 + TRAILER as u64;
    (data.ends_with(&FORMAT) && at.checked_add(length) == Some(size)).then_some((at, frames, marks, sum))
}

// === impl Segment ===

impl Segment {
    /// Begins a segment at `path`.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        file.write_all_at(&FORMAT, 0)?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            frames: Vec::new(),
            marks: Marks::Memory(Vec::new()),
            end: FORMAT.len() as u64,
            is_sealed: false,
        })
    }

    /// Opens the segment at `path`; `None` if it is of another format.
    pub(super) fn open(path: &Path) -> io::Result<Option<Opened>> {
        let file = File::options().read(true).write(true).open(path)?;
        let size = file.metadata()?.len();
        if let Some(segment) = Self::open_sealed(path, &file, size)? {
            return Ok(Some(Opened { segment, is_damaged: false }));
        }
        if size > MAX_SEGMENT {
            return Ok(None);
        }
        let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_exact_at(&mut data, 0)?;
        let Some(scanned) = scan(&data) else { return Ok(None) };
        // What stands behind the last frame is none, and would stand behind those to come.
        file.set_len(scanned.end)?;
        let segment = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            frames: scanned.frames,
            marks: Marks::Memory(scanned.marks),
            end: scanned.end,
            is_sealed: false,
        };
        Ok(Some(Opened { segment, is_damaged: scanned.is_damaged }))
    }

    fn open_sealed(path: &Path, file: &File, size: u64) -> io::Result<Option<Self>> {
        let mut end = [0; TRAILER];
        let Some(at) = size.checked_sub(TRAILER as u64) else { return Ok(None) };
        file.read_exact_at(&mut end, at)?;
        let Some((at, frames, marks, sum)) = trailer(&end, size) else { return Ok(None) };
        let mut table = vec![0; frames as usize * ENTRY];
        file.read_exact_at(&mut table, at)?;
        if crc32fast::hash(&table) != sum {
            return Ok(None);
        }
        Ok(Some(Self {
            path: path.to_owned(),
            file: Arc::new(file.try_clone()?),
            frames: table.chunks_exact(ENTRY).filter_map(Frame::decode).collect(),
            marks: Marks::Disk { at: at + table.len() as u64, count: marks },
            end: size,
            is_sealed: true,
        }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn frames(&self) -> &[Frame] {
        &self.frames
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// Records in it.
    pub(super) fn records(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.count)).sum()
    }

    /// Bytes of the file, as far as they are used.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// The last sequence in it.
    pub(super) fn last(&self) -> u64 {
        self.frames.iter().map(|frame| frame.last).max().unwrap_or(0)
    }

    /// Appends a block. What failed half-way is written over the next time.
    pub(super) fn append(&mut self, records: &[Arc<Record>]) -> io::Result<()> {
        let block = block::encode(records);
        let data = frame(&block);
        self.file.write_all_at(&data, self.end)?;
        let mut scanned = Scanned { frames: std::mem::take(&mut self.frames), ..Scanned::default() };
        if let Some(header) = block::header(&block) {
            scanned.push(&block, header, self.end + HEAD as u64);
        }
        self.frames = scanned.frames;
        if let Marks::Memory(marks) = &mut self.marks {
            marks.append(&mut scanned.marks);
        }
        self.end += data.len() as u64;
        Ok(())
    }

    /// Writes it anew at `path`, sealed, in blocks of `each` records. What is damaged is left out.
    pub(super) fn seal(&self, path: &Path, each: usize) -> io::Result<Self> {
        let mut records = Vec::new();
        for number in 0..self.frames.len() {
            records.extend(self.read::<Record>(number)?.unwrap_or_default().into_iter().map(Arc::new));
        }
        let blocks: Vec<Vec<Arc<Record>>> = records.chunks(each).map(<[_]>::to_vec).collect();
        let data = sealed(&blocks);
        let unfinished = path.with_extension("tmp");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&unfinished)?;
        file.write_all_at(&data, 0)?;
        file.sync_data()?;
        std::fs::rename(&unfinished, path)?;
        Self::open_sealed(path, &file, data.len() as u64)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a sealed segment is not read back"))
    }

    /// The records of a frame, in the order of sequences; `None` if it is damaged.
    pub(super) fn read<T: Kept>(&self, number: usize) -> io::Result<Option<Vec<T>>> {
        let Some(frame) = self.frames.get(number) else { return Ok(None) };
        let length = frame.length as usize;
        let Some(at) = frame.offset.checked_sub(HEAD as u64).filter(|_| length <= MAX_FRAME) else {
            return Ok(None);
        };
        let mut data = vec![0; HEAD + length];
        match self.file.read_exact_at(&mut data, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(block_at(&data).and_then(block::decode))
    }

    /// The numbers of the frames that may hold a record with `mark`, the last first.
    pub(super) fn marked(&self, mark: u32) -> io::Result<Vec<usize>> {
        let mut numbers = match &self.marks {
            Marks::Memory(marks) => {
                marks.iter().filter(|(other, _)| *other == mark).map(|(_, number)| *number as usize).collect()
            }
            Marks::Disk { at, count } => self.marked_on_disk(mark, *at, *count)?,
        };
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers.dedup();
        Ok(numbers)
    }

    fn marked_on_disk(&self, mark: u32, at: u64, count: u32) -> io::Result<Vec<usize>> {
        let entry = |number: u32| {
            let mut data = [0; MARK];
            self.file.read_exact_at(&mut data, at + u64::from(number) * MARK as u64)?;
            let [a, b, c, d, rest @ ..] = data;
            Ok::<_, io::Error>((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(rest)))
        };
        let (mut from, mut to) = (0, count);
        while from < to {
            let middle = from + (to - from) / 2;
            if entry(middle)?.0 < mark { from = middle + 1 } else { to = middle }
        }
        let mut numbers = Vec::new();
        while from < count {
            let (found, number) = entry(from)?;
            if found != mark {
                break;
            }
            numbers.push(number as usize);
            from += 1;
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::marks;
    use super::super::record::tests::record;
    use super::*;

    fn records(from: u64, count: u64) -> Vec<Arc<Record>> {
        (from..from + count).map(|n| Arc::new(record(n, &format!("name{n}")))).collect()
    }

    /// A segment of frames with these numbers of records.
    fn segment(path: &Path, counts: &[u64]) -> Segment {
        let mut segment = Segment::create(path).unwrap();
        let mut next = 1;
        for count in counts {
            segment.append(&records(next, *count)).unwrap();
            next += count;
        }
        segment
    }

    fn sequences(segment: &Segment) -> Vec<u64> {
        let frames = (0..segment.frames().len()).filter_map(|number| segment.read::<Record>(number).unwrap());
        frames.flatten().map(|record| record.sequence()).collect()
    }

    #[test]
    fn a_segment_is_read_back_open_and_sealed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("open");
        let written = segment(&path, &[3, 1, 70, 26]);
        let opened = Segment::open(&path).unwrap().unwrap();
        assert!(!opened.is_damaged && !opened.segment.is_sealed());
        assert_eq!((opened.segment.frames(), opened.segment.bytes()), (written.frames(), written.bytes()));
        let all: Vec<u64> = (1..=100).collect();
        assert_eq!(sequences(&opened.segment), all);

        let sealed = opened.segment.seal(&directory.path().join("sealed"), 40).unwrap();
        let again = Segment::open(sealed.path()).unwrap().unwrap().segment;
        for segment in [&sealed, &again] {
            assert!(segment.is_sealed() && segment.frames().len() == 3);
            assert_eq!((sequences(segment), segment.last(), segment.records()), (all.clone(), 100, 100));
        }
        for segment in [&written, &again] {
            let mark = marks(&record(77, "name77")).next().unwrap();
            let frames = segment.marked(mark).unwrap();
            let is_in = |number: &usize| {
                segment.read::<Record>(*number).unwrap().unwrap().iter().any(|record| record.sequence() == 77)
            };
            assert!(frames.iter().any(is_in), "{frames:?}");
            assert!(segment.marked(mark ^ 1).unwrap().is_empty());
        }
    }

    #[test]
    fn another_format_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        for (name, data) in [("empty", &b""[..]), ("newer", b"farmhis\x02rest"), ("other", b"something else")]
        {
            let path = directory.path().join(name);
            std::fs::write(&path, data).unwrap();
            assert!(Segment::open(&path).unwrap().is_none(), "{name}");
            assert_eq!(is_newer(&path).unwrap(), name == "newer");
        }
    }

    #[test]
    fn a_write_that_broke_off_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("open");
        let whole = segment(&path, &[5, 5]).bytes();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(whole - 7).unwrap();
        let mut opened = Segment::open(&path).unwrap().unwrap();
        assert!(opened.is_damaged);
        assert_eq!(sequences(&opened.segment), (1..=5).collect::<Vec<u64>>());
        opened.segment.append(&records(50, 2)).unwrap();
        let again = Segment::open(&path).unwrap().unwrap();
        assert_eq!(sequences(&again.segment), [1, 2, 3, 4, 5, 50, 51]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever happens to the bytes, what is read was written, and frames that were not touched
        /// are read.
        #[test]
        fn damage_costs_what_it_hits(
            is_sealed: bool,
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 0..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("segment");
            let mut segment = segment(&path, &[4; 6]);
            if is_sealed {
                segment = segment.seal(&path, 4).unwrap();
            }
            let mut data = std::fs::read(&path).unwrap();
            let whole = data.clone();
            for (at, bit) in flips {
                let at = at.index(data.len());
                data[at] ^= 1 << bit;
            }
            if let Some(cut) = cut {
                data.truncate(cut.index(data.len()));
            }
            std::fs::write(&path, &data).unwrap();
            let Some(opened) = Segment::open(&path).unwrap() else {
                prop_assert!(!data.starts_with(&FORMAT));
                return Ok(());
            };
            let read = sequences(&opened.segment);
            prop_assert!(read.iter().all(|sequence| (1..=24).contains(sequence)), "{:?}", read);
            for frame in segment.frames() {
                let range = frame.offset as usize - HEAD..(frame.offset + u64::from(frame.length)) as usize;
                let untouched = data.get(range.clone()) == Some(&whole[range]);
                prop_assert!(!untouched || read.contains(&frame.first), "{} is hidden", frame.first);
            }
        }

        #[test]
        fn no_bytes_do_harm(data in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut data = data;
            let _ = scan(&data);
            data.splice(0..0, FORMAT);
            let scanned = scan(&data).unwrap();
            prop_assert!(scanned.end <= data.len() as u64);
        }
    }
}
