//! A text that is read: outputs of actions, files, messages, the log. Scrolling, following,
//! wrapping and searching are the same in all of them.

use crate::keymap::Act;
use crate::logtext::{LogText, Scroll, Size};

/// Columns by which long lines move sideways.
const SIDEWAYS: usize = 16;

/// A text, and the place in it.
#[derive(Clone, Debug)]
pub(crate) struct Pager {
    text: LogText,
    scroll: Scroll,
    needle: String,
    /// The line that was found last.
    found: Option<usize>,
}

// === impl Pager ===

impl Pager {
    /// A text that is read from its beginning.
    pub(crate) fn new() -> Self {
        Self {
            text: LogText::default(),
            scroll: Scroll::new(false, true),
            needle: String::new(),
            found: None,
        }
    }

    /// A text that grows, seen at its end.
    pub(crate) fn following() -> Self {
        Self { scroll: Scroll::new(true, true), ..Self::new() }
    }

    /// What it holds.
    pub(crate) fn text(&self) -> &LogText {
        &self.text
    }

    /// The place in it.
    pub(crate) fn scroll(&self) -> &Scroll {
        &self.scroll
    }

    /// What is searched for; empty for nothing.
    pub(crate) fn needle(&self) -> &str {
        &self.needle
    }

    /// The line that was found last.
    pub(crate) fn found(&self) -> Option<usize> {
        self.found
    }

    /// Adds bytes at its end.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.text.push(bytes);
    }

    /// Nothing follows.
    pub(crate) fn end(&mut self) {
        self.text.end();
    }

    /// Holds another text; the place stays as near as it can.
    pub(crate) fn replace(&mut self, text: &str) {
        self.text = LogText::default();
        self.text.push(text.as_bytes());
        self.text.end();
        self.found = None;
    }

    /// Searches for the first line that holds `needle` from the top of the screen on; `false` when
    /// there is none.
    pub(crate) fn search(&mut self, needle: &str, size: Size) -> bool {
        // While it is typed, it is searched from where its beginning was found.
        let found = self.found.take().filter(|_| needle.starts_with(&self.needle));
        needle.clone_into(&mut self.needle);
        if needle.is_empty() {
            return true;
        }
        let from = found.unwrap_or_else(|| self.scroll.top_line(&self.text, size));
        self.go_to(self.text.find(needle, from, true), size)
    }

    /// Does what a person wants of a text; `None` when that is nothing for it, else whether it
    /// could be done.
    pub(crate) fn act(&mut self, act: Act, size: Size) -> Option<bool> {
        let page = size.height.saturating_sub(1).max(1);
        match act {
            Act::Up => self.scroll.up(1, &self.text, size),
            Act::Down => self.scroll.down(1, &self.text, size),
            Act::PageUp => self.scroll.up(page, &self.text, size),
            Act::PageDown => self.scroll.down(page, &self.text, size),
            Act::Top => self.scroll.home(&self.text),
            Act::Bottom => self.scroll.end(),
            Act::Left => self.scroll.left = self.scroll.left.saturating_sub(SIDEWAYS),
            Act::Right if !self.scroll.wrap => self.scroll.left += SIDEWAYS,
            Act::Right => {}
            Act::Follow => self.scroll.toggle_follow(&self.text, size),
            Act::Wrap => {
                self.scroll.wrap = !self.scroll.wrap;
                self.scroll.left = 0;
            }
            Act::NextMatch => return Some(self.next_match(true, size)),
            Act::PreviousMatch => return Some(self.next_match(false, size)),
            _ => return None,
        }
        Some(true)
    }

    /// Scrolls by rows, downwards where positive.
    pub(crate) fn wheel(&mut self, rows: isize, size: Size) {
        match rows {
            0.. => self.scroll.down(rows.unsigned_abs(), &self.text, size),
            _ => self.scroll.up(rows.unsigned_abs(), &self.text, size),
        }
    }

    fn next_match(&mut self, forward: bool, size: Size) -> bool {
        let from = match self.found {
            Some(line) if forward => line + 1,
            Some(line) => line.checked_sub(1).unwrap_or(usize::MAX),
            None => self.scroll.top_line(&self.text, size),
        };
        self.go_to(self.text.find(&self.needle, from, forward), size)
    }

    fn go_to(&mut self, line: Option<usize>, size: Size) -> bool {
        let Some(line) = line else { return false };
        self.found = Some(line);
        self.scroll.show(line, &self.text, size);
        true
    }
}

impl Default for Pager {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 20, height: 3 };

    fn pager() -> Pager {
        let mut pager = Pager::new();
        pager.replace("one\ntwo\nthree\nfour\nfive\ntwo again\n");
        pager
    }

    fn top(pager: &Pager) -> usize {
        pager.scroll().top_line(pager.text(), SIZE)
    }

    #[test]
    fn keys_move_and_others_are_left_to_others() {
        let mut pager = pager();
        assert_eq!((pager.act(Act::Down, SIZE), top(&pager)), (Some(true), 1));
        pager.act(Act::Bottom, SIZE);
        assert_eq!((top(&pager), pager.scroll().follow), (3, true));
        pager.act(Act::Follow, SIZE);
        assert_eq!((top(&pager), pager.scroll().follow), (3, false));
        pager.wheel(-3, SIZE);
        assert_eq!(top(&pager), 0);
        pager.act(Act::Wrap, SIZE);
        pager.act(Act::Right, SIZE);
        assert_eq!(pager.scroll().left, SIDEWAYS);
        assert_eq!(pager.act(Act::Kill, SIZE), None);
    }

    #[test]
    fn searching_goes_from_match_to_match() {
        let mut pager = pager();
        assert!(pager.search("TWO", SIZE));
        assert_eq!(pager.found(), Some(1));
        assert_eq!((pager.act(Act::NextMatch, SIZE), pager.found()), (Some(true), Some(5)));
        assert_eq!((pager.act(Act::NextMatch, SIZE), pager.found()), (Some(true), Some(1)));
        assert_eq!((pager.act(Act::PreviousMatch, SIZE), pager.found()), (Some(true), Some(5)));
        assert!(!pager.search("nothing", SIZE));
        assert!(pager.search("t", SIZE) && pager.search("tw", SIZE) && pager.search("two a", SIZE));
        assert_eq!(pager.found(), Some(5));
        assert!(pager.search("", SIZE) && pager.needle().is_empty());
    }
}
