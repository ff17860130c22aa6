//! Packs of git (`gitformat-pack`): objects, whole or as what differs from another.
//!
//! Read once, from front to end. Blobs go to the shelf as they come, and come back from there when another one is
//! told by its difference; commits and trees are few and stay in memory. No size is believed: what an object
//! unpacks to is bounded before it does. Blocking.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use flate2::bufread::ZlibDecoder;
use sha1_checked::{Digest as _, Sha1};

use super::super::archive::{Source, Stop};
use super::super::error::{FetchError, OriginError};
use super::super::tree::{TreeBuilder, TreeError};
use super::PackShelf;
use crate::digest::Digest;
use crate::path::{Component, RootPath};

/// Objects in a pack at most.
const MOST: u32 = 2_000_000;

/// Bytes of commits and trees together.
const MEMORY: u64 = 256 << 20;

/// Bytes of an object that others differ from, or that differs from another. Git tells larger ones whole.
const LARGEST_DELTA: u64 = 512 << 20;

/// Bytes of the target of a link.
const LONGEST_TARGET: u64 = 4096;

/// The name of an object: SHA-1 of what it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectId([u8; 20]);

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Commit,
    Tree,
    Blob,
    Tag,
}

/// How an object stands in a pack.
#[derive(Clone, Copy, Debug)]
enum Form {
    Whole(Kind),
    /// What differs from the object that stands so many bytes before.
    Before(u64),
    /// What differs from an object.
    From(ObjectId),
}

/// An object that was read.
#[derive(Clone, Debug)]
struct Object {
    kind: Kind,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Memory(Bytes),
    Shelf(Digest),
}

/// The objects of a pack.
#[derive(Debug, Default)]
pub(super) struct Pack {
    objects: HashMap<ObjectId, Object>,
}

/// A pack that is being read.
struct Reading<'a> {
    pack: Pack,
    /// Names by where the objects stand.
    places: HashMap<u64, ObjectId>,
    shelf: &'a dyn PackShelf,
    limit: u64,
    left: u64,
    memory: u64,
}

/// Bytes with the number of those that were read.
struct Counted<R> {
    inner: R,
    position: u64,
}

/// Content with its name as an object, as it comes.
struct Naming<R> {
    inner: R,
    sha1: Sha1,
    length: u64,
}

fn damaged() -> FetchError {
    unusable("the pack is damaged")
}

fn unusable(reason: impl ToString) -> FetchError {
    OriginError::Unusable(reason.to_string()).into()
}

// === impl ObjectId ===

impl ObjectId {
    /// Parses 40 hex digits.
    pub(super) fn parse(hex: &[u8]) -> Option<Self> {
        let mut id = [0; 20];
        let is_plain = hex.len() == 40 && hex.iter().all(u8::is_ascii_hexdigit);
        const_hex::decode_to_slice(hex, &mut id).ok().filter(|()| is_plain)?;
        Some(Self(id))
    }

    /// The name that `sha1` makes; `None` if it was made to look like that of something else.
    fn of(sha1: Sha1) -> Option<Self> {
        let result = sha1.try_finalize();
        (!result.has_collision()).then(|| Self((*result.hash()).into()))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&const_hex::encode(self.0))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Kind ===

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }

    /// The beginning of what is hashed.
    fn hasher(self, size: u64) -> Sha1 {
        let mut sha1 = Sha1::new();
        sha1.update(format!("{} {size}\0", self.name()));
        sha1
    }
}

// === impl Pack ===

impl Pack {
    /// Reads all of a pack; its objects have `limit` bytes at most.
    pub(super) fn read(
        source: &mut dyn Source,
        shelf: &dyn PackShelf,
        limit: u64,
        stop: &Stop,
    ) -> Result<Self, FetchError> {
        let mut input = Counted { inner: BufReader::with_capacity(64 * 1024, source), position: 0 };
        let mut head = [0; 12];
        input.read_exact(&mut head).map_err(|_| damaged())?;
        let (magic, counts) = head.split_at(8);
        if magic != b"PACK\0\0\0\x02" {
            return Err(unusable("this is no pack of version 2"));
        }
        let count = counts.first_chunk().copied().map(u32::from_be_bytes).unwrap_or_default();
        if count > MOST {
            return Err(unusable(format!("it has more than {MOST} objects")));
        }
        let mut reading = Reading {
            pack: Self::default(),
            places: HashMap::new(),
            shelf,
            limit,
            left: limit,
            memory: MEMORY,
        };
        for _ in 0..count {
            if stop.is_stopped() {
                return Err(unusable("nobody waits for it any more"));
            }
            reading.object(&mut input)?;
        }
        Ok(reading.pack)
    }

    /// The tree of `commit`.
    pub(super) fn tree(&self, commit: &ObjectId, shelf: &dyn PackShelf) -> Result<TreeBuilder, FetchError> {
        let root = self.root(commit)?;
        let mut tree = TreeBuilder::default();
        let mut waiting = vec![(RootPath::root(), root)];
        while let Some((path, id)) = waiting.pop() {
            let mut rest = &self.memory(&id, Kind::Tree)?[..];
            while !rest.is_empty() {
                let (mode, name, id, after) = entry(rest).ok_or_else(damaged)?;
                rest = after;
                let path = path.child(name);
                match mode {
                    0o040_000 => {
                        tree.add_directory(&path)?;
                        waiting.push((path, id));
                    }
                    // A submodule.
                    0o160_000 => tree.add_directory(&path)?,
                    0o120_000 => {
                        let target = self.blob(&id)?;
                        if target.size() > LONGEST_TARGET {
                            return Err(TreeError::Link(path.to_string()).into());
                        }
                        tree.add_link(&path, &shelf.take(&target)?)?;
                    }
                    _ if mode & 0o170_000 == 0o100_000 => {
                        tree.add_file(&path, self.blob(&id)?, mode & 0o111 != 0)?;
                    }
                    _ => return Err(damaged()),
                }
            }
        }
        Ok(tree)
    }

    /// The names of all commits.
    #[cfg(any(test, fuzzing))]
    pub(super) fn commits(&self) -> Vec<ObjectId> {
        let commits = self.objects.iter().filter(|(_, object)| object.kind == Kind::Commit);
        commits.map(|(id, _)| *id).collect()
    }

    /// The root directory of a commit, or of the one that a tag is for.
    fn root(&self, commit: &ObjectId) -> Result<ObjectId, FetchError> {
        let line = |content: &[u8], word: &[u8]| ObjectId::parse(content.strip_prefix(word)?.get(..40)?);
        let mut commit = *commit;
        if self.objects.get(&commit).is_some_and(|object| object.kind == Kind::Tag) {
            commit = line(self.memory(&commit, Kind::Tag)?, b"object ").ok_or_else(damaged)?;
        }
        line(self.memory(&commit, Kind::Commit)?, b"tree ").ok_or_else(damaged)
    }

    fn memory(&self, id: &ObjectId, kind: Kind) -> Result<&Bytes, FetchError> {
        match self.objects.get(id) {
            Some(Object { kind: found, content: Content::Memory(data) }) if *found == kind => Ok(data),
            _ => Err(unusable(format!("the {} {id} is not in the pack", kind.name()))),
        }
    }

    fn blob(&self, id: &ObjectId) -> Result<Digest, FetchError> {
        match self.objects.get(id) {
            Some(Object { content: Content::Shelf(digest), .. }) => Ok(*digest),
            _ => Err(unusable(format!("the blob {id} is not in the pack"))),
        }
    }
}

/// The first entry of a tree: mode, name, object, and what follows it.
fn entry(data: &[u8]) -> Option<(u32, Component, ObjectId, &[u8])> {
    let space = data.iter().take(8).position(|byte| *byte == b' ')?;
    let (mode, rest) = (std::str::from_utf8(&data[..space]).ok()?, &data[space + 1..]);
    let mode = u32::from_str_radix(mode, 8).ok()?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let name = Component::parse(std::str::from_utf8(&rest[..end]).ok()?).ok()?;
    let (id, rest) = rest[end + 1..].split_first_chunk::<20>()?;
    // No repository has one; whoever gets it on his disk would have a repository of the server's making.
    (!name.as_str().eq_ignore_ascii_case(".git")).then_some((mode, name, ObjectId(*id), rest))
}

// === impl Reading ===

impl Reading<'_> {
    /// Reads the next object.
    fn object<R: BufRead>(&mut self, input: &mut Counted<R>) -> Result<(), FetchError> {
        let place = input.position;
        let (form, size) = head(input, place).map_err(|_| damaged())?.ok_or_else(damaged)?;
        let (id, object) = match form {
            Form::Whole(Kind::Blob) => {
                self.spend(size)?;
                self.shelve(ZlibDecoder::new(input).take(size + 1), size)?
            }
            Form::Whole(kind) => {
                self.remember(size)?;
                let content = content(ZlibDecoder::new(input), size)?;
                self.keep(kind, content)?
            }
            Form::Before(_) | Form::From(_) => {
                if size > LARGEST_DELTA.min(self.left) {
                    return Err(OriginError::TooLarge(self.limit).into());
                }
                let delta = content(ZlibDecoder::new(input), size)?;
                let base = match form {
                    Form::From(id) => self.pack.objects.get(&id),
                    Form::Before(place) => self.places.get(&place).and_then(|id| self.pack.objects.get(id)),
                    Form::Whole(_) => None,
                };
                // We have asked for what stands before what differs from it.
                self.differing(base.cloned().ok_or_else(damaged)?, &delta)?
            }
        };
        self.places.insert(place, id);
        self.pack.objects.insert(id, object);
        Ok(())
    }

    /// An object that differs from `base` by `delta`.
    fn differing(&mut self, base: Object, delta: &[u8]) -> Result<(ObjectId, Object), FetchError> {
        let before = match base.content {
            Content::Memory(data) => data,
            Content::Shelf(digest) if digest.size() > LARGEST_DELTA => return Err(damaged()),
            Content::Shelf(digest) => self.shelf.take(&digest)?,
        };
        let size = sizes(delta).map(|(_, size, _)| size).ok_or_else(damaged)?;
        if base.kind == Kind::Blob {
            self.spend(size)?
        } else {
            self.remember(size)?
        }
        if size > LARGEST_DELTA {
            return Err(OriginError::TooLarge(LARGEST_DELTA).into());
        }
        let after = apply(&before, delta).ok_or_else(damaged)?;
        match base.kind {
            Kind::Blob => self.shelve(&after[..], size),
            kind => self.keep(kind, after),
        }
    }

    /// Stores a blob.
    fn shelve(&self, content: impl Read, size: u64) -> Result<(ObjectId, Object), FetchError> {
        let mut naming = Naming { inner: content, sha1: Kind::Blob.hasher(size), length: 0 };
        let digest = self.shelf.shelve(&mut naming, size)?;
        if naming.length != size {
            return Err(damaged());
        }
        let id = ObjectId::of(naming.sha1).ok_or_else(tampered)?;
        Ok((id, Object { kind: Kind::Blob, content: Content::Shelf(digest) }))
    }

    fn keep(&self, kind: Kind, content: Vec<u8>) -> Result<(ObjectId, Object), FetchError> {
        let mut sha1 = kind.hasher(content.len() as u64);
        sha1.update(&content);
        let id = ObjectId::of(sha1).ok_or_else(tampered)?;
        Ok((id, Object { kind, content: Content::Memory(content.into()) }))
    }

    /// Counts bytes of an object.
    fn spend(&mut self, size: u64) -> Result<(), FetchError> {
        self.left = self.left.checked_sub(size).ok_or(OriginError::TooLarge(self.limit))?;
        Ok(())
    }

    /// Counts bytes of an object that stays in memory.
    fn remember(&mut self, size: u64) -> Result<(), FetchError> {
        self.memory = self.memory.checked_sub(size).ok_or(OriginError::TooLarge(MEMORY))?;
        self.spend(size)
    }
}

fn tampered() -> FetchError {
    unusable("an object was made to look like another one")
}

/// All of what is to have `size` bytes, which were found bearable.
fn content(unpacked: impl Read, size: u64) -> Result<Vec<u8>, FetchError> {
    let mut data = Vec::new();
    unpacked.take(size + 1).read_to_end(&mut data).map_err(|_| damaged())?;
    if data.len() as u64 == size { Ok(data) } else { Err(damaged()) }
}

/// What stands before the compressed bytes of an object at `place`: form and unpacked size.
fn head(input: &mut impl Read, place: u64) -> io::Result<Option<(Form, u64)>> {
    let mut byte = read_byte(input)?;
    let kind = (byte >> 4) & 7;
    let (mut size, mut shift) = (u64::from(byte & 15), 4);
    while byte & 0x80 != 0 {
        byte = read_byte(input)?;
        if shift > 53 {
            return Ok(None);
        }
        size |= u64::from(byte & 0x7f) << shift;
        shift += 7;
    }
    let form = match kind {
        1 => Form::Whole(Kind::Commit),
        2 => Form::Whole(Kind::Tree),
        3 => Form::Whole(Kind::Blob),
        4 => Form::Whole(Kind::Tag),
        6 => match distance(input)?.and_then(|distance| place.checked_sub(distance)) {
            Some(base) => Form::Before(base),
            None => return Ok(None),
        },
        7 => {
            let mut id = [0; 20];
            input.read_exact(&mut id)?;
            Form::From(ObjectId(id))
        }
        _ => return Ok(None),
    };
    Ok(Some((form, size)))
}

/// How far before an object the one stands that it differs from.
fn distance(input: &mut impl Read) -> io::Result<Option<u64>> {
    let mut byte = read_byte(input)?;
    let mut distance = u64::from(byte & 0x7f);
    while byte & 0x80 != 0 {
        byte = read_byte(input)?;
        if distance >= 1 << 50 {
            return Ok(None);
        }
        distance = ((distance + 1) << 7) | u64::from(byte & 0x7f);
    }
    Ok(Some(distance))
}

fn read_byte(input: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    input.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// The sizes before and after that `delta` tells, and what follows them.
fn sizes(delta: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (before, rest) = number(delta)?;
    let (after, rest) = number(rest)?;
    Some((before, after, rest))
}

fn number(data: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, byte) in data.iter().enumerate().take(8) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, &data[at + 1..]));
        }
    }
    None
}

/// What `delta` makes of `base`; `None` where it is damaged. The size it tells was found bearable.
fn apply(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let (before, after, mut rest) = sizes(delta)?;
    let after = usize::try_from(after).ok()?;
    if before != base.len() as u64 {
        return None;
    }
    let mut made = Vec::new();
    while let Some((code, mut arguments)) = rest.split_first() {
        let piece = if code & 0x80 != 0 {
            let mut argument = |bits: std::ops::Range<u8>| -> Option<usize> {
                let mut value = 0;
                for (at, bit) in bits.enumerate() {
                    if code & (1 << bit) != 0 {
                        let (byte, others) = arguments.split_first()?;
                        value |= usize::from(*byte) << (8 * at);
                        arguments = others;
                    }
                }
                Some(value)
            };
            let (from, length) = (argument(0..4)?, argument(4..7)?);
            let length = if length == 0 { 0x10000 } else { length };
            rest = arguments;
            base.get(from..from.checked_add(length)?)?
        } else {
            let (literal, others) = arguments.split_at_checked(usize::from(*code)).filter(|_| *code != 0)?;
            rest = others;
            literal
        };
        if made.len() + piece.len() > after {
            return None;
        }
        made.extend_from_slice(piece);
    }
    (made.len() == after).then_some(made)
}

// === impl Counted ===

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.position += length as u64;
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.position += length as u64;
        self.inner.consume(length);
    }
}

// === impl Naming ===

impl<R: Read> Read for Naming<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.sha1.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_objects_are_those_of_git() {
        let id = |kind: Kind, content: &[u8]| {
            let mut sha1 = kind.hasher(content.len() as u64);
            sha1.update(content);
            ObjectId::of(sha1).unwrap().to_string()
        };
        assert_eq!(id(Kind::Blob, b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(id(Kind::Tree, b""), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
        for text in ["", "xyz", &"g".repeat(40), &"a".repeat(39), &format!("0x{}", "a".repeat(38))] {
            assert_eq!(ObjectId::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn entries_that_would_be_harmful_are_damage() {
        let tree = |name: &str| [b"100644 ", name.as_bytes(), b"\0", &[7; 20], b"rest"].concat();
        let (mode, name, id, rest) = entry(&tree("a")).map(|(m, n, i, r)| (m, n, i, r.to_vec())).unwrap();
        assert_eq!((mode, name.as_str(), id, &rest[..]), (0o100_644, "a", ObjectId([7; 20]), &b"rest"[..]));
        for name in ["", ".", "..", "a/b", ".git", ".GIT"] {
            assert!(entry(&tree(name)).is_none(), "{name:?}");
        }
    }

    #[test]
    fn differences_are_applied_and_lies_are_not() {
        // "hello world" out of "world!": a literal, a copy.
        let delta = [&[6, 11, 6][..], b"hello ", &[0b1001_0000, 5]].concat();
        assert_eq!(apply(b"world!", &delta).unwrap(), b"hello world");
        for (at, byte) in [(0, 5), (1, 10), (1, 12), (2, 0), (2, 9), (10, 7), (9, 0b1001_0001)] {
            let mut wrong = delta.clone();
            wrong[at] = byte;
            assert_eq!(apply(b"world!", &wrong), None, "{at}: {byte}");
        }
    }

    proptest! {
        #[test]
        fn any_difference_is_bearable(base in proptest::collection::vec(any::<u8>(), 0..60), delta in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(made) = apply(&base, &delta) {
                prop_assert_eq!(Some(made.len() as u64), sizes(&delta).map(|(_, after, _)| after));
            }
        }
    }
}
