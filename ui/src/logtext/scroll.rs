//! Which rows of a text are seen: scrolling, following, wrapping.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use super::LogText;

/// One row of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Number of the line it shows.
    pub(crate) number: usize,
    /// Which bytes of it.
    pub(crate) bytes: Range<usize>,
    /// Whether it goes on from the row above.
    pub(crate) continues: bool,
}

/// The place in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scroll {
    /// Stays at the end when more comes.
    pub(crate) follow: bool,
    /// Long lines take several rows.
    pub(crate) wrap: bool,
    /// Columns to the left of the screen; of long lines that are not wrapped.
    pub(crate) left: usize,
    top: Top,
}

/// The row at the top: number of a line, and rows of it above the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Top {
    number: usize,
    skip: usize,
}

/// Columns and rows of the place a text is shown in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Columns.
    pub(crate) width: usize,
    /// Rows.
    pub(crate) height: usize,
}

// === impl Scroll ===

impl Scroll {
    /// At the beginning, or at the end and following.
    pub(crate) fn new(follow: bool, wrap: bool) -> Self {
        Self { follow, wrap, left: 0, top: Top::default() }
    }

    /// The rows that are seen.
    pub(crate) fn rows(&self, text: &LogText, size: Size) -> Vec<Row> {
        let Top { number, skip } = self.present_top(text, size);
        let mut rows = Vec::with_capacity(size.height);
        for number in number..text.end_number() {
            rows.extend(self.rows_of(text, number, size.width));
            if rows.len() >= size.height + skip {
                break;
            }
        }
        rows.drain(..skip.min(rows.len()));
        rows.truncate(size.height);
        rows
    }

    /// `rows` down; at the end it follows.
    pub(crate) fn down(&mut self, rows: usize, text: &LogText, size: Size) {
        let mut top = self.present_top(text, size);
        let last = self.last_top(text, size);
        for _ in 0..rows.min(text.end_number() * 2 + size.height) {
            if top >= last {
                break;
            }
            top = if top.skip + 1 < self.rows_of(text, top.number, size.width).len() {
                Top { skip: top.skip + 1, ..top }
            } else {
                Top { number: top.number + 1, skip: 0 }
            };
        }
        self.top = top.min(last);
        self.follow = top >= last;
    }

    /// `rows` up.
    pub(crate) fn up(&mut self, rows: usize, text: &LogText, size: Size) {
        let mut top = self.present_top(text, size);
        for _ in 0..rows {
            if top.skip > 0 {
                top.skip -= 1;
            } else if top.number > text.first() {
                let number = top.number - 1;
                top = Top { number, skip: self.rows_of(text, number, size.width).len().saturating_sub(1) };
            } else {
                break;
            }
        }
        self.follow = false;
        self.top = top;
    }

    /// To the beginning.
    pub(crate) fn home(&mut self, text: &LogText) {
        self.follow = false;
        self.left = 0;
        self.top = Top { number: text.first(), skip: 0 };
    }

    /// To the end, to stay there.
    pub(crate) fn end(&mut self) {
        self.follow = true;
    }

    /// Stays at the end from now on, or stays where it is.
    pub(crate) fn toggle_follow(&mut self, text: &LogText, size: Size) {
        self.top = self.present_top(text, size);
        self.follow = !self.follow;
    }

    /// Shows the line of that number, a few rows below the top.
    pub(crate) fn show(&mut self, number: usize, text: &LogText, size: Size) {
        self.follow = false;
        self.top = Top { number, skip: 0 };
        if size.height > 4 {
            self.up(size.height / 4, text, size);
        }
    }

    /// The number of the line at the top.
    pub(crate) fn top_line(&self, text: &LogText, size: Size) -> usize {
        self.present_top(text, size).number
    }

    /// The top that is shown: that of the last page where it follows or the text is short.
    fn present_top(&self, text: &LogText, size: Size) -> Top {
        let last = self.last_top(text, size);
        if self.follow {
            return last;
        }
        let top = self.top.max(Top { number: text.first(), skip: 0 }).min(last);
        let rows = self.rows_of(text, top.number, size.width).len();
        Top { skip: top.skip.min(rows.saturating_sub(1)), ..top }
    }

    /// The top of the last page.
    fn last_top(&self, text: &LogText, size: Size) -> Top {
        let mut rows = 0;
        for number in (text.first()..text.end_number()).rev() {
            rows += self.rows_of(text, number, size.width).len();
            if rows >= size.height {
                return Top { number, skip: rows - size.height };
            }
        }
        Top { number: text.first(), skip: 0 }
    }

    /// The rows of one line; at least one.
    fn rows_of(&self, text: &LogText, number: usize, width: usize) -> Vec<Row> {
        let line = text.line(number).map_or("", |line| line.text());
        let row = |bytes: Range<usize>| Row { number, continues: bytes.start > 0 && self.wrap, bytes };
        if !self.wrap {
            let start = first_cells(line, self.left);
            let end = start + first_cells(&line[start..], width);
            return vec![row(start..end)];
        }
        let mut rows = Vec::new();
        let mut start = 0;
        while start < line.len() {
            let taken = first_cells(&line[start..], width);
            // A letter wider than the screen has to go somewhere.
            let taken = if taken > 0 { taken } else { first_letter(&line[start..]) };
            rows.push(row(start..start + taken));
            start += taken;
        }
        if rows.is_empty() {
            rows.push(row(0..0));
        }
        rows
    }
}

/// Bytes of `text` that fit into `cells`.
pub(crate) fn first_cells(text: &str, cells: usize) -> usize {
    if text.len() <= cells {
        return text.len();
    }
    let mut taken = 0;
    for (at, letter) in text.grapheme_indices(true) {
        taken += letter.width();
        if taken > cells {
            return at;
        }
    }
    text.len()
}

fn first_letter(text: &str) -> usize {
    text.graphemes(true).next().map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: Size = Size { width: 4, height: 3 };

    fn text(lines: &str) -> LogText {
        let mut text = LogText::default();
        text.push(lines.as_bytes());
        text
    }

    fn seen(scroll: &Scroll, text: &LogText) -> Vec<String> {
        let shown = |row: Row| text.line(row.number).unwrap().text()[row.bytes].to_owned();
        scroll.rows(text, SIZE).into_iter().map(shown).collect()
    }

    #[test]
    fn following_stays_at_the_end() {
        let mut text = text("1\n2\n3\n4\n");
        let scroll = Scroll::new(true, true);
        assert_eq!(seen(&scroll, &text), ["2", "3", "4"]);
        text.push(b"5\n");
        assert_eq!(seen(&scroll, &text), ["3", "4", "5"]);
        assert!(seen(&scroll, &LogText::default()).is_empty());
    }

    #[test]
    fn moving_up_stops_following_and_the_end_follows_again() {
        let text = text("1\n2\n3\n4\n5\n");
        let mut scroll = Scroll::new(true, true);
        scroll.up(1, &text, SIZE);
        assert!(!scroll.follow);
        assert_eq!(seen(&scroll, &text), ["2", "3", "4"]);
        scroll.up(99, &text, SIZE);
        assert_eq!(seen(&scroll, &text), ["1", "2", "3"]);
        scroll.down(1, &text, SIZE);
        assert_eq!((seen(&scroll, &text)[0].as_str(), scroll.follow), ("2", false));
        scroll.down(99, &text, SIZE);
        assert_eq!((seen(&scroll, &text)[0].as_str(), scroll.follow), ("3", true));
        scroll.home(&text);
        assert_eq!(seen(&scroll, &text), ["1", "2", "3"]);
        scroll.end();
        assert_eq!(seen(&scroll, &text), ["3", "4", "5"]);
    }

    #[test]
    fn long_lines_wrap_or_are_cut() {
        let text = text("abcdefghij\nx\n");
        let mut scroll = Scroll::new(false, true);
        assert_eq!(seen(&scroll, &text), ["abcd", "efgh", "ij"]);
        scroll.down(1, &text, SIZE);
        assert_eq!(seen(&scroll, &text), ["efgh", "ij", "x"]);
        scroll.wrap = false;
        scroll.left = 2;
        assert_eq!(seen(&scroll, &text), ["cdef", ""]);
        assert!(Scroll::new(false, true).rows(&text, SIZE)[1].continues);
    }

    #[test]
    fn a_line_that_was_found_is_shown() {
        let text = text("1\n2\n3\n4\n5\n6\n7\n");
        let mut scroll = Scroll::new(true, true);
        scroll.show(2, &text, SIZE);
        assert_eq!((seen(&scroll, &text)[0].as_str(), scroll.top_line(&text, SIZE)), ("3", 2));
    }

    proptest! {
        #[test]
        fn any_moves_keep_the_screen_full(
            lines in "([a-z界]{0,9}\n){0,12}",
            wrap: bool,
            moves in prop::collection::vec((0_u8..5, 0_usize..9), 0..12),
            width in 0_usize..9,
            height in 0_usize..6,
        ) {
            let text = text(&lines);
            let size = Size { width, height };
            let mut scroll = Scroll::new(false, wrap);
            for (what, by) in moves {
                match what {
                    0 => scroll.up(by, &text, size),
                    1 => scroll.down(by, &text, size),
                    2 => scroll.home(&text),
                    3 => scroll.end(),
                    _ => scroll.show(by, &text, size),
                }
                let rows = scroll.rows(&text, size);
                prop_assert!(rows.len() <= height);
                prop_assert!(rows.len() == height || rows.first().is_none_or(|row| row.number == 0));
            }
        }
    }
}
