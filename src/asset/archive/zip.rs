//! Zip, as far as sources are packed that way: stored or deflated, without encryption, 4 GiB and 65,535 entries
//! at most.
//!
//! Read here and not by a library: the directory at the end of a zip says how many entries it has, and what is
//! at hand makes room for as many before it looks (APPNOTE.TXT, 4.3.7 to 4.3.16, is the format).

use std::io::{self, Read, Seek, SeekFrom};

use flate2::read::DeflateDecoder;

use super::super::error::FetchError;
use super::super::tree::TreeBuilder;
use super::{Unpacked, read_full, unusable};

/// Bytes of the record at the end, without its comment.
const END: usize = 22;

/// Bytes of the end with the longest comment.
const LONGEST_END: u64 = END as u64 + u16::MAX as u64;

/// Bytes of the directory at most.
const LARGEST_DIRECTORY: u32 = 64 << 20;

/// Bytes of an entry of the directory, and of the header of a file, without names.
const ENTRY: usize = 46;
const HEADER: usize = 30;

/// Bytes of the target of a link.
const LONGEST_TARGET: u64 = 4096;

/// Kinds of files in Unix modes.
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// The end of a zip.
struct End {
    entries: u16,
    size: u32,
    /// Where the directory begins.
    directory: u64,
    /// Bytes in front of the zip: a program that unpacks it.
    before: u64,
}

/// An entry of the directory.
struct Listed {
    name: Vec<u8>,
    mode: Option<u32>,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u32,
    size: u32,
    offset: u32,
}

/// Fields of a record, one after the other.
struct Fields<'a>(&'a [u8]);

/// Content that ends only if it is what the directory says.
struct Checked<R> {
    inner: R,
    crc: crc32fast::Hasher,
    length: u64,
    expected: (u32, u64),
}

/// Unpacks `source`.
pub(super) fn unpack<S: Read + Seek>(source: &mut S, unpacked: &mut Unpacked<'_>) -> Result<(), FetchError> {
    let end = End::find(source)?;
    source.seek(SeekFrom::Start(end.directory)).map_err(unusable)?;
    let mut directory = vec![0; end.size as usize];
    source.read_exact(&mut directory).map_err(unusable)?;
    let mut fields = Fields(&directory);
    for _ in 0..end.entries {
        let listed =
            Listed::parse(&mut fields).ok_or_else(|| unusable("the directory of the zip is damaged"))?;
        listed.add(source, end.before, unpacked)?;
    }
    Ok(())
}

// === impl End ===

impl End {
    fn find<S: Read + Seek>(source: &mut S) -> Result<Self, FetchError> {
        let length = source.seek(SeekFrom::End(0)).map_err(unusable)?;
        let from = length.saturating_sub(LONGEST_END);
        source.seek(SeekFrom::Start(from)).map_err(unusable)?;
        let mut tail = vec![0; usize::try_from(length - from).unwrap_or(0)];
        read_full(source, &mut tail).map_err(unusable)?;
        let candidates = (0..=tail.len().saturating_sub(END)).rev();
        let mut found = candidates.filter(|at| tail[*at..].starts_with(b"PK\x05\x06"));
        let at = found
            .find(|at| Self::comment(&tail[*at..]).map(|comment| END + comment) == Some(tail.len() - at));
        let at = at.ok_or_else(|| unusable("it is cut off: the zip has no end"))?;
        Self::parse(&tail[at..], from + at as u64).ok_or_else(|| unusable("the end of the zip is damaged"))?
    }

    /// Bytes of the comment.
    fn comment(end: &[u8]) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(*end.get(20..)?.first_chunk()?)))
    }

    /// Reads the record that stands at `position`.
    fn parse(record: &[u8], position: u64) -> Option<Result<Self, FetchError>> {
        let mut fields = Fields(record.get(4..)?);
        let (disk, first) = (fields.short()?, fields.short()?);
        let (here, entries) = (fields.short()?, fields.short()?);
        let (size, offset) = (fields.long()?, fields.long()?);
        if entries == u16::MAX
            || size == u32::MAX
            || offset == u32::MAX
            || (disk, first) != (0, 0)
            || here != entries
        {
            return Some(Err(unusable("a zip of more than 4 GiB, 65,535 entries or one file is not taken")));
        }
        if size > LARGEST_DIRECTORY {
            return Some(Err(unusable("the directory of the zip is too large")));
        }
        let directory = position.checked_sub(u64::from(size))?;
        let before = directory.checked_sub(u64::from(offset))?;
        Some(Ok(Self { entries, size, directory, before }))
    }
}

// === impl Listed ===

impl Listed {
    fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        let record: &[u8; ENTRY] = fields.bytes(ENTRY)?.first_chunk()?;
        let mut head = Fields(record.strip_prefix(b"PK\x01\x02")?);
        let (made_by, _needs, flags, method) = (head.short()?, head.short()?, head.short()?, head.short()?);
        let _time = head.long()?;
        let (crc, packed, size) = (head.long()?, head.long()?, head.long()?);
        let (name, extra, comment) = (head.short()?, head.short()?, head.short()?);
        let (_disk, _kind) = (head.short()?, head.short()?);
        let (attributes, offset) = (head.long()?, head.long()?);
        let name = fields.bytes(usize::from(name))?.to_vec();
        fields.bytes(usize::from(extra) + usize::from(comment))?;
        let is_unix = made_by >> 8 == 3;
        let mode = is_unix.then_some(attributes >> 16);
        Some(Self { name, mode, flags, method, crc, packed, size, offset })
    }

    fn add<S: Read + Seek>(
        &self,
        source: &mut S,
        before: u64,
        unpacked: &mut Unpacked<'_>,
    ) -> Result<(), FetchError> {
        let path = TreeBuilder::place(&self.name)?;
        let mode = self.mode.unwrap_or_default();
        match mode & KIND {
            DIRECTORY => return Ok(unpacked.tree.add_directory(&path)?),
            _ if self.name.ends_with(b"/") => return Ok(unpacked.tree.add_directory(&path)?),
            0 | REGULAR | LINK => {}
            _ => return Err(unusable(format!("{path} is neither file, directory nor link"))),
        }
        if self.flags & 1 != 0 {
            return Err(unusable(format!("{path} is encrypted")));
        }
        let mut content = self.content(source, before)?;
        if mode & KIND == LINK {
            let mut target = Vec::new();
            content.take(LONGEST_TARGET + 1).read_to_end(&mut target).map_err(unusable)?;
            return Ok(unpacked.tree.add_link(&path, &target)?);
        }
        unpacked.file(&path, mode & 0o111 != 0, &mut content)
    }

    /// The bytes of the entry, unpacked and checked.
    fn content<'s, S: Read + Seek>(
        &self,
        source: &'s mut S,
        before: u64,
    ) -> Result<Box<dyn Read + 's>, FetchError> {
        let damaged = || unusable("an entry of the zip is damaged");
        source.seek(SeekFrom::Start(before + u64::from(self.offset))).map_err(unusable)?;
        let mut header = [0; HEADER];
        source.read_exact(&mut header).map_err(unusable)?;
        let mut lengths =
            Fields(header.strip_prefix(b"PK\x03\x04").ok_or_else(damaged)?.get(22..).unwrap_or_default());
        let (name, extra) = lengths.short().zip(lengths.short()).ok_or_else(damaged)?;
        let skipped = i64::from(name) + i64::from(extra);
        source.seek(SeekFrom::Current(skipped)).map_err(unusable)?;
        let packed = source.take(u64::from(self.packed));
        let plain: Box<dyn Read + 's> = match self.method {
            0 => Box::new(packed),
            8 => Box::new(DeflateDecoder::new(packed)),
            method => return Err(unusable(format!("the method {method} of a zip is not known"))),
        };
        let expected = (self.crc, u64::from(self.size));
        Ok(Box::new(Checked { inner: plain, crc: crc32fast::Hasher::new(), length: 0, expected }))
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn short(&mut self) -> Option<u16> {
        self.bytes(2)?.first_chunk().copied().map(u16::from_le_bytes)
    }

    fn long(&mut self) -> Option<u32> {
        self.bytes(4)?.first_chunk().copied().map(u32::from_le_bytes)
    }
}

// === impl Checked ===

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.crc.update(&buffer[..length]);
        self.length += length as u64;
        let is_over = length == 0 && !buffer.is_empty();
        if self.length > self.expected.1
            || (is_over && (self.crc.clone().finalize(), self.length) != self.expected)
        {
            return Err(io::Error::other("an entry of the zip is not what its directory says"));
        }
        Ok(length)
    }
}
