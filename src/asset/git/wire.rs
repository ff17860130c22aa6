//! What is said to a server of git and what it says: packets (`gitprotocol-common`), and of the second
//! version of the protocol (`gitprotocol-v2`) the commands `ls-refs` and `fetch`.

use super::pack::ObjectId;

/// Bytes of the longest packet, its length included.
const LONGEST: usize = 65_520;

/// A packet without content that ends a message, and one that ends a section of it.
const FLUSH: &[u8] = b"0000";
const DELIMITER: &[u8] = b"0001";

/// A server that can be spoken to.
#[derive(Debug)]
pub(super) struct Offer;

/// A name for a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) commit: ObjectId,
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packet<'a> {
    Data(&'a [u8]),
    Flush,
    Delimiter,
}

/// Takes the pack out of the answer to a `fetch`, however it is cut into pieces.
#[derive(Debug, Default)]
pub(in crate::asset) struct Demultiplexer {
    /// The beginning of a packet that has not come whole.
    held: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Sections that say what else there is.
    #[default]
    Before,
    /// The pack, with what people are told in between.
    Pack,
    Over,
}

/// One line as a packet.
fn packet(line: &str) -> Vec<u8> {
    format!("{:04x}{line}\n", line.len() + 5).into_bytes()
}

/// Asks which commits the references with these beginnings name; `None` for names that cannot be asked for.
pub(super) fn list_references(prefixes: &[String]) -> Option<Vec<u8>> {
    let mut request = packet("command=ls-refs");
    request.extend(DELIMITER);
    request.extend(packet("peel"));
    for prefix in prefixes {
        if prefix.len() > 4096 || prefix.chars().any(char::is_control) {
            return None;
        }
        request.extend(packet(&format!("ref-prefix {prefix}")));
    }
    request.extend(FLUSH);
    Some(request)
}

/// Asks for all of one commit, and for nothing before it.
pub(super) fn fetch(commit: &ObjectId) -> Vec<u8> {
    let mut request = packet("command=fetch");
    request.extend(DELIMITER);
    for line in ["no-progress", "ofs-delta", "deepen 1", &format!("want {commit}"), "done"] {
        request.extend(packet(line));
    }
    request.extend(FLUSH);
    request
}

impl<'a> Packet<'a> {
    /// The first packet, and what follows it; `None` if it has not come whole.
    fn first(data: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, String> {
        let Some((length, rest)) = data.split_first_chunk::<4>() else { return Ok(None) };
        let length =
            std::str::from_utf8(length).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let length = length.and_then(|text| usize::from_str_radix(text, 16).ok());
        match length {
            Some(0) => Ok(Some((Self::Flush, rest))),
            Some(1 | 2) => Ok(Some((Self::Delimiter, rest))),
            Some(length @ 4..=LONGEST) => {
                let whole = rest.split_at_checked(length - 4);
                Ok(whole.map(|(content, rest)| (Self::Data(content), rest)))
            }
            _ => Err("the server does not speak the protocol of git".to_owned()),
        }
    }

    /// The lines of a whole answer, without their ends.
    fn lines(mut data: &'a [u8]) -> Result<Vec<&'a str>, String> {
        let mut lines = Vec::new();
        while let Some((packet, rest)) = Self::first(data)? {
            if let Self::Data(line) = packet {
                let line = std::str::from_utf8(line).map_err(|_| "a line is not UTF-8".to_owned())?;
                lines.push(checked(line.trim_end_matches('\n'))?);
            }
            data = rest;
        }
        if data.is_empty() { Ok(lines) } else { Err("the answer is cut off".to_owned()) }
    }
}

/// A line that is no complaint.
fn checked(line: &str) -> Result<&str, String> {
    match line.strip_prefix("ERR ") {
        Some(complaint) => Err(complaint.chars().filter(|c| !c.is_control()).take(200).collect()),
        None => Ok(line),
    }
}

// === impl Offer ===

impl Offer {
    /// Reads what a server says of itself.
    pub(super) fn parse(data: &[u8]) -> Result<Self, String> {
        let lines = Packet::lines(data)?;
        if !lines.contains(&"version 2") {
            return Err("the server does not know version 2 of the protocol of git".to_owned());
        }
        if lines.iter().any(|line| line.starts_with("object-format=") && *line != "object-format=sha1") {
            return Err("repositories with names of SHA-256 are not taken".to_owned());
        }
        Ok(Self)
    }
}

// === impl Reference ===

impl Reference {
    /// Reads the answer to [`list_references`]. A tag stands for the commit behind it.
    pub(super) fn parse_all(data: &[u8]) -> Result<Vec<Self>, String> {
        let parse = |line: &str| {
            let mut words = line.split(' ');
            let id = ObjectId::parse(words.next()?.as_bytes())?;
            let name = words.next()?.to_owned();
            let peeled = words.find_map(|word| ObjectId::parse(word.strip_prefix("peeled:")?.as_bytes()));
            Some(Self { name, commit: peeled.unwrap_or(id) })
        };
        // A reference that has no commit yet is said to be unborn.
        Ok(Packet::lines(data)?.into_iter().filter_map(parse).collect())
    }
}

// === impl Demultiplexer ===

impl Demultiplexer {
    /// Takes the next bytes and hands what is of the pack to `write`.
    pub(in crate::asset) fn feed<E: From<String>>(
        &mut self,
        data: &[u8],
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.held.extend_from_slice(data);
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        while let Some((packet, after)) = Packet::first(rest)? {
            self.take(packet, &mut write)?;
            rest = after;
        }
        self.held = rest.to_vec();
        Ok(())
    }

    fn take<E: From<String>>(
        &mut self,
        packet: Packet<'_>,
        write: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match (self.state, packet) {
            (State::Before, Packet::Data(b"packfile\n" | b"packfile")) => self.state = State::Pack,
            (State::Before, Packet::Data(line)) => {
                checked(&String::from_utf8_lossy(line))?;
            }
            (State::Before, Packet::Flush) => return Err("the server has no pack for us".to_owned().into()),
            (State::Pack, Packet::Data([1, content @ ..])) => write(content)?,
            (State::Pack, Packet::Data([3, complaint @ ..])) => {
                let complaint = String::from_utf8_lossy(complaint);
                checked(&format!("ERR {complaint}"))?;
            }
            (State::Pack, Packet::Flush) => self.state = State::Over,
            (State::Pack | State::Before | State::Over, _) => {}
        }
        Ok(())
    }

    /// Whether the pack has come whole.
    pub(in crate::asset) fn is_over(&self) -> bool {
        self.state == State::Over
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789012345678901234567890123456789";

    fn id(text: &str) -> ObjectId {
        ObjectId::parse(text.as_bytes()).unwrap()
    }

    fn lines(lines: &[&str]) -> Vec<u8> {
        lines.iter().flat_map(|line| if line.is_empty() { FLUSH.to_vec() } else { packet(line) }).collect()
    }

    #[test]
    fn servers_say_what_they_can() {
        let old = lines(&["# service=git-upload-pack", "", "version 2", "ls-refs", "fetch=shallow", ""]);
        assert!(Offer::parse(&old).is_ok());
        for wrong in [
            lines(&["version 1", ""]),
            lines(&["version 2", "object-format=sha256", ""]),
            lines(&["ERR access denied", ""]),
            b"<html>".to_vec(),
            b"0010version".to_vec(),
        ] {
            assert!(Offer::parse(&wrong).is_err());
        }
    }

    #[test]
    fn tags_stand_for_the_commits_behind_them() {
        let tag = "f".repeat(40);
        let answer = lines(&[
            &format!("{ID} refs/heads/main"),
            &format!("{tag} refs/tags/v1 peeled:{ID}"),
            "unborn HEAD symref-target:refs/heads/main",
            "",
        ]);
        let found = Reference::parse_all(&answer).unwrap();
        let names: Vec<_> =
            found.iter().map(|reference| (reference.name.as_str(), reference.commit)).collect();
        assert_eq!(names, [("refs/heads/main", id(ID)), ("refs/tags/v1", id(ID))]);
        assert_eq!(list_references(&["a\nwant x".to_owned()]), None);
    }

    #[test]
    fn complaints_are_passed_on() {
        let mut demultiplexer = Demultiplexer::default();
        let refused: Result<(), String> = demultiplexer.feed(&lines(&["ERR not our ref"]), |_| Ok(()));
        assert_eq!(refused, Err("not our ref".to_owned()));
        let mut late = Demultiplexer::default();
        let answer = [lines(&["packfile"]), packet("\u{3}no\u{1b} more")].concat();
        let refused: Result<(), String> = late.feed(&answer, |_| Ok(()));
        assert_eq!(refused, Err("no more".to_owned()));
    }

    proptest! {
        #[test]
        fn a_pack_comes_out_however_it_is_cut(pieces in proptest::collection::vec("[a-z]{0,40}", 0..9), cut in 1_usize..50) {
            let mut answer = lines(&["shallow-info", "shallow 1"]);
            answer.extend([DELIMITER, &lines(&["packfile"])].concat());
            for piece in &pieces {
                answer.extend([format!("{:04x}\u{1}{piece}", piece.len() + 5), format!("{:04x}\u{2}told", 9)].concat().as_bytes());
            }
            answer.extend(FLUSH);
            let (mut demultiplexer, mut pack) = (Demultiplexer::default(), Vec::new());
            for part in answer.chunks(cut) {
                prop_assert!(!demultiplexer.is_over());
                let fed: Result<(), String> = demultiplexer.feed(part, |data| {
                    pack.extend_from_slice(data);
                    Ok(())
                });
                prop_assert_eq!(fed, Ok(()));
            }
            prop_assert!(demultiplexer.is_over());
            prop_assert_eq!(pack, pieces.concat().into_bytes());
        }

        #[test]
        fn anything_may_come(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Offer::parse(&data);
            let _ = Reference::parse_all(&data);
            let _: Result<(), String> = Demultiplexer::default().feed(&data, |_| Ok(()));
        }
    }
}
