use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use ::tar::{Builder, EntryType, Header};
use proptest::prelude::*;

use super::*;
use crate::digest::DigestFunction;
use crate::merkle::Directory;

/// A file `f` of an `x` and a line feed, by `tar` and `xz`.
const XZ: &str = "fd377a585a000004e6d6b446020021011c00000010cf58cce027ff005b5d00330033501868898301dce26e21054a7037c98c\
     71d2f00c5bf9bf75c530e13b9ca25ad9fc4851d991260a9c57d5c9b129fdc1a4f9e52c2a22f6d69492b383fee4dd55207583\
     f776777245c0f052c7ad541a3de1bd3cf1b1870754000000b193621b0180476d0001778050000000945699afb1c467fb0200\
     00000004595a";

/// Files in memory.
#[derive(Default)]
struct Memory(RefCell<BTreeMap<Digest, Vec<u8>>>);

impl Shelf for Memory {
    fn shelve(&self, content: &mut dyn Read, limit: u64) -> Result<Digest, FetchError> {
        let mut data = Vec::new();
        content.take(limit + 1).read_to_end(&mut data).map_err(unusable)?;
        if data.len() as u64 > limit {
            return Err(OriginError::TooLarge(limit).into());
        }
        let digest = Digest::of(DigestFunction::Sha256, &data);
        self.0.borrow_mut().insert(digest, data);
        Ok(digest)
    }
}

/// What is in an archive: `path` and content, `path*` where it may run, `path@` and the target of a link.
fn listing(data: &[u8]) -> Result<Vec<(String, String)>, OriginError> {
    listing_within(data, 1 << 20)
}

fn listing_within(data: &[u8], limit: u64) -> Result<Vec<(String, String)>, OriginError> {
    let memory = Memory::default();
    let origin = |error| match error {
        FetchError::Origin(error) => error,
        FetchError::Own(error) => panic!("{error}"),
    };
    let tree = unpack(&mut Cursor::new(data), &memory, limit, &Stop::default()).map_err(origin)?;
    let mut directories = BTreeMap::new();
    let store = |data: &[u8]| {
        let digest = Digest::of(DigestFunction::Sha256, data);
        directories.insert(digest, Directory::parse(data, DigestFunction::Sha256).unwrap());
        Ok::<_, FetchError>(digest)
    };
    let root = tree.finish(&RootPath::root(), store).map_err(origin)?;
    let (mut all, mut waiting) = (Vec::new(), vec![(String::new(), root)]);
    while let Some((prefix, digest)) = waiting.pop() {
        let directory = &directories[&digest];
        for file in &directory.files {
            let mark = if file.is_executable { "*" } else { "" };
            let content = String::from_utf8_lossy(&memory.0.borrow()[&file.digest]).into_owned();
            all.push((format!("{prefix}{}{mark}", file.name), content));
        }
        all.extend(
            directory.symlinks.iter().map(|link| (format!("{prefix}{}@", link.name), link.target.clone())),
        );
        waiting.extend(
            directory.directories.iter().map(|child| (format!("{prefix}{}/", child.name), child.digest)),
        );
        if directory.entries() == 0 {
            all.push((prefix, String::new()));
        }
    }
    all.sort();
    Ok(all)
}

/// An entry of a tar, whatever its name.
fn entry(kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    [header.as_bytes(), content, &padding].concat()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(EntryType::Regular, name, "", 0o644, content)
}

fn link(name: &str, target: &str) -> Vec<u8> {
    entry(EntryType::Symlink, name, target, 0o777, b"")
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [&entries.concat()[..], &[0; 1024]].concat()
}

fn good() -> Vec<u8> {
    archive(&[
        entry(EntryType::Directory, "p/", "", 0o755, b""),
        file("p/a", b"alpha"),
        entry(EntryType::Regular, "p/bin/run", "", 0o755, b"#!"),
        link("p/l", "bin/run"),
        entry(EntryType::Link, "p/h", "p/a", 0o644, b""),
        entry(EntryType::Directory, "./p/empty/", "", 0o755, b""),
    ])
}

const GOOD: [(&str, &str); 5] =
    [("p/a", "alpha"), ("p/bin/run*", "#!"), ("p/empty/", ""), ("p/h", "alpha"), ("p/l@", "bin/run")];

/// A zip of entries with mode, whether they are deflated, and content.
fn zipped(entries: &[(&str, u32, bool, &[u8])]) -> Vec<u8> {
    let (mut all, mut directory) = (Vec::new(), Vec::new());
    for (name, mode, deflated, content) in entries {
        let packed = if *deflated {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        } else {
            content.to_vec()
        };
        let method: u16 = if *deflated { 8 } else { 0 };
        let mut sizes = Vec::new();
        sizes.extend(crc32fast::hash(content).to_le_bytes());
        sizes.extend((packed.len() as u32).to_le_bytes());
        sizes.extend((content.len() as u32).to_le_bytes());
        sizes.extend((name.len() as u16).to_le_bytes());
        sizes.extend([0; 2]);
        let offset = all.len() as u32;
        let common = [&[20, 0, 0, 0][..], &method.to_le_bytes(), &[0; 4], &sizes].concat();
        all.extend([b"PK\x03\x04", &common[..], name.as_bytes(), &packed].concat());
        let after = [&[0; 6][..], &(mode << 16).to_le_bytes(), &offset.to_le_bytes()].concat();
        directory.extend([b"PK\x01\x02\x14\x03", &common[..], &after, name.as_bytes()].concat());
    }
    let (offset, count) = ((all.len() as u32).to_le_bytes(), (entries.len() as u16).to_le_bytes());
    let size = (directory.len() as u32).to_le_bytes();
    all.extend(directory);
    all.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &offset, &[0, 0]].concat());
    all
}

#[test]
fn every_kind_of_archive_is_unpacked() {
    let tar = good();
    let gz = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    };
    let bz2 = {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    };
    let zst = zstd::encode_all(&tar[..], 3).unwrap();
    let zip = zipped(&[
        ("p/", 0o040_755, false, b""),
        ("p/a", 0o100_644, true, b"alpha"),
        ("p/bin/run", 0o100_755, false, b"#!"),
        ("p/l", 0o120_777, false, b"bin/run"),
        ("p/h", 0, true, b"alpha"),
        ("p/empty/", 0, false, b""),
    ]);
    let expected = GOOD.map(|(name, content)| (name.to_owned(), content.to_owned()));
    for data in [&tar, &gz, &bz2, &zst, &zip] {
        assert_eq!(listing(data).unwrap(), expected);
    }
    let xz = const_hex::decode(XZ).unwrap();
    assert_eq!(listing(&xz).unwrap(), [("f".to_owned(), "x\n".to_owned())]);
}

#[test]
fn long_names_are_taken_and_endless_ones_are_not() {
    let long = format!("{}/f", "d".repeat(200));
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let gnu = builder.into_inner().unwrap();
    assert_eq!(listing(&gnu).unwrap(), [(long.clone(), "x".to_owned())]);
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let length = (rest.len()..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
        format!("{length}{rest}").into_bytes()
    };
    let pax = |data: &[u8]| entry(EntryType::XHeader, "x", "", 0o644, data);
    let posix = archive(&[pax(&record("path", &long)), file("short", b"x")]);
    assert_eq!(listing(&posix).unwrap(), [(long, "x".to_owned())]);
    for bad in
        [record("size", "99"), record("GNU.sparse.major", "1"), b"nonsense".to_vec(), vec![b'1'; 2 << 20]]
    {
        let data = archive(&[pax(&bad), file("short", b"x")]);
        assert!(listing_within(&data, 8 << 20).is_err(), "{:?}", &bad[..8]);
    }
}

#[test]
fn what_is_not_safe_is_refused() {
    for entries in [
        vec![file("../x", b"")],
        vec![file("/etc/passwd", b"")],
        vec![link("l", "/etc/passwd")],
        vec![link("l", "../x")],
        vec![link("d", "."), file("d/x", b"")],
        vec![entry(EntryType::Link, "h", "/etc/passwd", 0o644, b"")],
        vec![entry(EntryType::Link, "h", "../x", 0o644, b"")],
        vec![entry(EntryType::Char, "null", "", 0o666, b"")],
        vec![entry(EntryType::Block, "disk", "", 0o666, b"")],
        vec![entry(EntryType::Fifo, "pipe", "", 0o666, b"")],
        vec![entry(EntryType::GNUSparse, "sparse", "", 0o666, b"")],
    ] {
        assert!(matches!(listing(&archive(&entries)), Err(OriginError::Unusable(_))));
    }
    for (name, mode, content) in [
        ("../x", 0o100_644, ""),
        ("/x", 0o100_644, ""),
        ("l", 0o120_777, "/etc/passwd"),
        ("l", 0o120_777, "../x"),
        ("device", 0o020_666, ""),
    ] {
        let data = zipped(&[(name, mode, false, content.as_bytes())]);
        assert!(matches!(listing(&data), Err(OriginError::Unusable(_))), "{name}");
    }
}

#[test]
fn bombs_do_not_go_off() {
    let zeros = vec![0; 3 << 20];
    let tar = archive(&[file("zeros", &zeros)]);
    let zst = zstd::encode_all(&tar[..], 3).unwrap();
    let zip = zipped(&[("zeros", 0o100_644, true, &zeros)]);
    let twice =
        zipped(&[("a", 0o100_644, true, &zeros[1 << 20..]), ("b", 0o100_644, true, &zeros[1 << 20..])]);
    for data in [&tar, &zst, &zip, &twice] {
        assert!(matches!(listing_within(data, 2_500_000), Err(OriginError::TooLarge(2_500_000))));
        assert!(listing_within(data, 5 << 20).is_ok());
    }
    // A directory that claims to have more than there is.
    let mut lying = zipped(&[("a", 0o100_644, false, b"x")]);
    let end = lying.len() - 22;
    lying[end + 8..end + 12].fill(0xfe);
    assert!(matches!(listing(&lying), Err(OriginError::Unusable(_))));
    let mut wrong = zipped(&[("a", 0o100_644, false, b"content")]);
    wrong[32] ^= 1;
    assert!(matches!(listing(&wrong), Err(OriginError::Unusable(_))), "the checksum is looked at");
}

#[test]
fn the_checksum_at_the_end_is_looked_at() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&good()).unwrap();
    let mut wrong = encoder.finish().unwrap();
    let end = wrong.len() - 8;
    wrong[end] ^= 1;
    assert!(matches!(listing(&wrong), Err(OriginError::Unusable(_))));
}

#[test]
fn who_is_stopped_ends() {
    let guard = StopGuard::default();
    let stop = guard.stop();
    drop(guard);
    let stopped = unpack(&mut Cursor::new(good()), &Memory::default(), 1 << 20, &stop);
    assert!(stopped.is_err());
}

#[test]
fn what_is_no_archive_is_said_to_be_none() {
    for data in [
        &b""[..],
        b"<html>not here</html>",
        &[0x1f, 0x8b, 0, 0],
        &[b'x'; 600],
        b"PK\x03\x04junk",
        b"BZh9junk",
    ] {
        assert!(matches!(listing(data), Err(OriginError::Unusable(_))), "{data:?}");
    }
}

proptest! {
    #[test]
    fn damage_never_panics_nor_gets_past_the_limit(at in 0_usize..4000, byte: u8, which in 0_usize..3) {
        let tar = good();
        let data = [tar.clone(), zstd::encode_all(&tar[..], 1).unwrap(), zipped(&[("a", 0o100_755, true, b"content")])];
        let mut data = data[which].clone();
        let at = at % data.len();
        data[at] = byte;
        if let Ok(listed) = listing_within(&data, 100_000) {
            prop_assert!(listed.iter().map(|(_, content)| content.len()).sum::<usize>() <= 300_000);
        }
    }
}
