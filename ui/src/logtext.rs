//! What an action wrote, as lines that can be shown.
//!
//! The bytes are hostile: they may command the terminal, be no text at all, or never end. This is a
//! small terminal of its own that understands line breaks, carriage returns (progress bars),
//! backspaces, tabs, erasing to the end of the line and colours; every other sequence is dropped,
//! and every byte that is no text is written out (`^G`, `\xff`), so that it can be seen but not
//! act. Memory is bounded: the oldest lines go, and how many went is told.

use std::collections::VecDeque;

use unicode_width::UnicodeWidthChar;

mod ink;
mod parser;
mod scroll;

pub(crate) use ink::Ink;
pub(crate) use scroll::{Row, Scroll, Size, first_cells};

use parser::{Parser, Piece};

/// Most lines kept.
const MOST_LINES: usize = 50_000;

/// Most bytes of text kept.
const MOST_BYTES: usize = 8 << 20;

/// Characters after which a line is broken.
const LONGEST_LINE: usize = 4096;

/// Combining marks on one letter.
const MARKS: usize = 3;

/// Columns from one tab stop to the next.
const TAB: usize = 8;

/// One line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line {
    text: Box<str>,
    /// From which byte on which ink holds; the first from 0, absent where all is plain.
    inks: Box<[(usize, Ink)]>,
}

/// Lines that grow at their end.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogText {
    lines: VecDeque<Line>,
    /// The line that is still written.
    last: Line,
    dropped: usize,
    bytes: usize,
    parser: Parser,
    cells: Vec<(char, Ink)>,
    column: usize,
    ink: Ink,
}

// === impl Line ===

impl Line {
    /// What it says.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Its pieces of one ink each.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (&str, Ink)> {
        let plain: &[(usize, Ink)] = &[(0, Ink::PLAIN)];
        let inks = if self.inks.is_empty() { plain } else { &self.inks };
        inks.iter().enumerate().map(move |(i, &(from, ink))| {
            let to = inks.get(i + 1).map_or(self.text.len(), |&(to, _)| to);
            (&self.text[from..to], ink)
        })
    }

    fn of(cells: &[(char, Ink)]) -> Self {
        let mut text = String::with_capacity(cells.len());
        let mut inks: Vec<(usize, Ink)> = Vec::new();
        for &(c, ink) in cells {
            if inks.last().map_or(Ink::PLAIN, |&(_, last)| last) != ink {
                if inks.is_empty() && !text.is_empty() {
                    inks.push((0, Ink::PLAIN));
                }
                inks.push((text.len(), ink));
            }
            text.push(c);
        }
        Self { text: text.into(), inks: inks.into() }
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.inks.len() * size_of::<(usize, Ink)>()
    }
}

// === impl LogText ===

impl LogText {
    /// Adds the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let mut parser = std::mem::take(&mut self.parser);
        for &byte in bytes {
            parser.push(byte, &mut |piece| self.take(piece));
        }
        self.parser = parser;
        self.last = Line::of(&self.cells);
    }

    /// Says that nothing follows: what was begun is shown as far as it is.
    pub(crate) fn end(&mut self) {
        let mut parser = std::mem::take(&mut self.parser);
        parser.end(&mut |piece| self.take(piece));
        self.last = Line::of(&self.cells);
    }

    /// Number of the first line that is still there; so many went.
    pub(crate) fn first(&self) -> usize {
        self.dropped
    }

    /// One more than the number of the last line. An empty last line counts only when it is the
    /// only one.
    pub(crate) fn end_number(&self) -> usize {
        let open = usize::from(!self.last.text.is_empty());
        self.dropped + self.lines.len() + open
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.last.text.is_empty()
    }

    /// The line of that number.
    pub(crate) fn line(&self, number: usize) -> Option<&Line> {
        let at = number.checked_sub(self.dropped)?;
        match self.lines.get(at) {
            None if at == self.lines.len() && !self.last.text.is_empty() => Some(&self.last),
            line => line,
        }
    }

    /// All of it as plain text.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::with_capacity(self.bytes);
        for number in self.first()..self.end_number() {
            text.push_str(self.line(number).map_or("", Line::text));
            text.push('\n');
        }
        text
    }

    /// The next line from `from` on, or before it, that holds `needle` in any case; around the end.
    pub(crate) fn find(&self, needle: &str, from: usize, forward: bool) -> Option<usize> {
        let needle = needle.to_lowercase();
        let (first, count) = (self.first(), self.end_number() - self.first());
        if needle.is_empty() || count == 0 {
            return None;
        }
        let start = match from.saturating_sub(first) {
            beyond if beyond >= count => {
                if forward {
                    0
                } else {
                    count - 1
                }
            }
            at => at,
        };
        (0..count)
            .map(|step| if forward { start + step } else { start + count - step })
            .map(|at| first + at % count)
            .find(|&number| self.line(number).is_some_and(|line| line.text.to_lowercase().contains(&needle)))
    }

    fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Text(c) => self.put(c, self.ink),
            Piece::Raw(text) => text.chars().for_each(|c| self.put(c, Ink::RAW)),
            Piece::Tab => {
                for _ in self.column..(self.column / TAB + 1) * TAB {
                    self.put(' ', self.ink);
                }
            }
            Piece::Return => self.column = 0,
            Piece::Back => self.column = self.column.saturating_sub(1),
            Piece::EraseToEnd => self.cells.truncate(self.column),
            Piece::EraseFromStart => self.cells[..self.column].fill((' ', Ink::PLAIN)),
            Piece::Ink(numbers) => self.ink.apply(&numbers),
            Piece::Break => self.break_line(),
        }
    }

    /// Writes `c` over what stands at the cursor. A mark without a letter, and more marks than a
    /// letter has in any script, are left out.
    fn put(&mut self, c: char, ink: Ink) {
        if c.width() == Some(0) {
            let before = self.cells[..self.column].iter().rev().take(MARKS);
            let marks = before.take_while(|(c, _)| c.width() == Some(0)).count();
            if marks == MARKS.min(self.column) {
                return;
            }
        }
        if self.column >= LONGEST_LINE {
            self.break_line();
        }
        match self.cells.get_mut(self.column) {
            Some(cell) => *cell = (c, ink),
            None => self.cells.push((c, ink)),
        }
        self.column += 1;
    }

    fn break_line(&mut self) {
        let line = Line::of(&self.cells);
        self.cells.clear();
        self.column = 0;
        self.bytes += line.bytes();
        self.lines.push_back(line);
        while self.lines.len() > MOST_LINES || self.bytes > MOST_BYTES {
            let Some(gone) = self.lines.pop_front() else { break };
            self.bytes -= gone.bytes();
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatui::style::Color;

    use super::*;

    fn text(pieces: &[&[u8]]) -> LogText {
        let mut text = LogText::default();
        for piece in pieces {
            text.push(piece);
        }
        text
    }

    fn lines(bytes: &[u8]) -> Vec<String> {
        let text = text(&[bytes]);
        (text.first()..text.end_number()).map(|number| text.line(number).unwrap().text().to_owned()).collect()
    }

    #[test]
    fn lines_come_in_pieces() {
        let text = text(&[b"one\ntw", b"o\r\nthr", "\u{e9}e".as_bytes()]);
        assert_eq!(text.to_text(), "one\ntwo\nthr\u{e9}e\n");
        assert_eq!((text.first(), text.end_number()), (0, 3));
        assert!(!text.is_empty() && LogText::default().is_empty());
        assert_eq!(lines(b"a\n"), ["a"]);
    }

    #[test]
    fn progress_bars_write_over_themselves() {
        assert_eq!(lines(b"10%\r20%\r100%\n"), ["100%"]);
        assert_eq!(lines(b"12345\rab\n"), ["ab345"]);
        assert_eq!(lines(b"12345\rab\x1b[K\n"), ["ab"]);
        assert_eq!(lines(b"12345\x08\x08\x1b[1K\n"), ["   45"]);
        assert_eq!(lines(b"12345\x1b[2K\rx\n"), ["x    "]);
        assert_eq!(lines(b"a\tb\tc"), ["a       b       c"]);
    }

    #[test]
    fn nothing_acts_and_nothing_is_hidden() {
        assert_eq!(lines(b"a\x07b\x00"), ["a^Gb^@"]);
        assert_eq!(lines(b"a\xffb\xc3"), ["a\\xffb"]);
        assert_eq!(lines(b"\x1b[2J\x1b[1;1Hx\x1b]0;title\x07y\x1bPq\x1b\\z"), ["xyz"]);
        assert_eq!(lines("a\u{202e}b\u{9b}31mc".as_bytes()), ["a<202e>b<9b>31mc"]);
        assert_eq!(lines(b"\x1b]0;never ends\nnext"), ["", "next"]);
        assert_eq!(lines("\u{301}e\u{301}\u{301}\u{301}\u{301}".as_bytes()), ["e\u{301}\u{301}\u{301}"]);
    }

    #[test]
    fn a_letter_cut_at_the_end_is_told_when_nothing_follows() {
        let mut text = text(&[b"a\xe2\x82"]);
        assert_eq!(text.line(0).unwrap().text(), "a");
        text.end();
        assert_eq!(text.line(0).unwrap().text(), "a\\xe2\\x82");
    }

    #[test]
    fn colours_are_kept_as_styles() {
        let text = text(&[b"a\x1b[1;31merr\x1b[0mb\n\x1b[32m", b"c\x1b[m"]);
        let pieces: Vec<_> =
            text.line(0).unwrap().pieces().map(|(piece, ink)| (piece, ink.colour())).collect();
        assert_eq!(pieces, [("a", None), ("err", Some(Color::Red)), ("b", None)]);
        assert_eq!(text.line(1).unwrap().pieces().next().unwrap().1.colour(), Some(Color::Green));
        assert_eq!(text.line(0).unwrap().text(), "aerrb");
    }

    #[test]
    fn memory_is_bounded_and_the_loss_is_told() {
        let mut text = LogText::default();
        for number in 0..MOST_LINES + 10 {
            text.push(format!("{number}\n").as_bytes());
        }
        assert_eq!(text.first(), 10);
        assert_eq!(text.line(10).unwrap().text(), "10");
        assert_eq!(text.line(9), None);
        let long = LogText::default();
        let mut long = long;
        long.push(&vec![b'x'; LONGEST_LINE * 3 + 1]);
        assert_eq!(long.end_number(), 4);
    }

    #[test]
    fn searching_goes_round() {
        let text = text(&[b"Alpha\nbeta\nALPHA beta\n"]);
        assert_eq!(text.find("alpha", 0, true), Some(0));
        assert_eq!(text.find("alpha", 1, true), Some(2));
        assert_eq!(text.find("beta", 0, false), Some(2));
        assert_eq!((text.find("beta", 99, true), text.find("beta", 99, false)), (Some(1), Some(2)));
        assert_eq!((text.find("gamma", 0, true), text.find("", 0, true)), (None, None));
        assert_eq!(LogText::default().find("a", 0, true), None);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_harmless(bytes: Vec<u8>, cuts in prop::collection::vec(0_usize..64, 0..6)) {
            let mut whole = LogText::default();
            whole.push(&bytes);
            let mut pieces = LogText::default();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (piece, other) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = other;
            }
            pieces.push(rest);
            prop_assert_eq!(whole.to_text(), pieces.to_text());
            for number in whole.first()..whole.end_number() {
                let line = whole.line(number).unwrap();
                prop_assert!(!line.text().chars().any(parser::is_hostile));
                prop_assert_eq!(line.pieces().map(|(piece, _)| piece).collect::<String>(), line.text());
            }
        }
    }
}
