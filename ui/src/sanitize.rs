//! Text from outside, made harmless before it is kept or drawn.
//!
//! Whatever a client, a build or another machine can name is hostile: it may hold escape sequences
//! that command the terminal, marks that turn the order of letters round, letters that cannot be
//! seen, and megabytes. [`line()`] lets none of it through. [`cut`] and its kin shorten text to cells
//! of the screen without tearing a wide or composed letter apart.

use std::borrow::Cow;
use std::sync::Arc;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Characters kept of one text: more than any screen shows.
pub(crate) const LONGEST: usize = 1024;

/// What stands in for a character that must not be shown.
const REPLACEMENT: char = '\u{fffd}';

/// Combining marks that may follow one another; more of them climb over other lines.
const MARKS: usize = 3;

/// `text` as one harmless line of at most [`LONGEST`] characters: line breaks and tabs become
/// spaces, what else must not be shown becomes U+FFFD.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(harmless(text))
}

/// `text` through [`line()`], to be shared.
pub(crate) fn shared(text: &str) -> Arc<str> {
    Arc::from(&*line(text))
}

/// Makes `text` harmless where it stands.
pub(crate) fn in_place(text: &mut String) {
    if let Cow::Owned(clean) = line(text) {
        *text = clean;
    }
}

/// Cells `text` takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The beginning of `text` that fits into `cells`; `ellipsis` (one cell) stands in for the rest.
pub(crate) fn cut<'a>(text: &'a str, cells: usize, ellipsis: &str) -> Cow<'a, str> {
    if fits(text, cells) {
        return Cow::Borrowed(text);
    }
    if cells == 0 {
        return Cow::Borrowed("");
    }
    let mut short = start(text, cells - 1).to_owned();
    short.push_str(ellipsis);
    Cow::Owned(short)
}

/// The end of `text` that fits into `cells`, as is best for paths.
pub(crate) fn cut_start<'a>(text: &'a str, cells: usize, ellipsis: &str) -> Cow<'a, str> {
    if fits(text, cells) {
        return Cow::Borrowed(text);
    }
    if cells == 0 {
        return Cow::Borrowed("");
    }
    Cow::Owned(format!("{ellipsis}{}", end(text, cells - 1)))
}

/// Beginning and end of `text`, as is best for targets: `//very/lo…:name`.
pub(crate) fn cut_middle<'a>(text: &'a str, cells: usize, ellipsis: &str) -> Cow<'a, str> {
    if fits(text, cells) {
        return Cow::Borrowed(text);
    }
    if cells < 8 {
        return cut(text, cells, ellipsis);
    }
    let tail = end(text, cells * 2 / 3);
    let head = start(text, cells - 1 - width(tail));
    Cow::Owned(format!("{head}{ellipsis}{tail}"))
}

/// Whether a character must not reach the screen as it is.
pub(crate) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, Arabic and Mongolian marks, fillers.
            '\u{ad}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
            // Zero-width spaces and joiners, marks and overrides of direction, line separators.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            // Variation selectors: they change the width terminals give to the letter before.
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
            // Tags, and what is for private use.
            | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}')
}

fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(LONGEST));
    let mut marks = 0;
    for c in text.chars().take(LONGEST) {
        let c = match c {
            '\t' | '\n' | '\r' => ' ',
            c if is_hostile(c) => REPLACEMENT,
            c => c,
        };
        marks = if c.width() == Some(0) { marks + 1 } else { 0 };
        if marks <= MARKS && !(marks > 0 && clean.is_empty()) {
            clean.push(c);
        }
    }
    clean
}

fn fits(text: &str, cells: usize) -> bool {
    // A byte is never more than one cell.
    text.len() <= cells || width(text) <= cells
}

fn start(text: &str, cells: usize) -> &str {
    let mut taken = 0;
    for (at, letter) in text.grapheme_indices(true) {
        taken += width(letter);
        if taken > cells {
            return &text[..at];
        }
    }
    text
}

fn end(text: &str, cells: usize) -> &str {
    let mut taken = 0;
    let mut from = text.len();
    for (at, letter) in text.grapheme_indices(true).rev() {
        taken += width(letter);
        if taken > cells {
            break;
        }
        from = at;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terminals_are_not_commanded() {
        assert_eq!(line("//a:b"), "//a:b");
        assert_eq!(line("\u{1b}[2J\u{1b}]0;owned\u{7}"), "\u{fffd}[2J\u{fffd}]0;owned\u{fffd}");
        assert_eq!(line("\u{9b}31m"), "\u{fffd}31m");
        assert_eq!(line("a\tb\nc"), "a b c");
        assert_eq!(line("safe\u{202e}cod.exe"), "safe\u{fffd}cod.exe");
        assert_eq!(line("a\u{200b}b\u{feff}"), "a\u{fffd}b\u{fffd}");
        assert_eq!(line("Größe 木").as_ref(), "Größe 木");
    }

    #[test]
    fn marks_do_not_climb() {
        let zalgo = format!("a{}b", "\u{301}".repeat(40));
        assert_eq!(line(&zalgo), format!("a{}b", "\u{301}".repeat(MARKS)));
        assert_eq!(line("\u{301}a"), "a");
    }

    #[test]
    fn cuts_keep_letters_whole() {
        assert_eq!(cut("abcdef", 4, "…"), "abc…");
        assert_eq!(cut("木木木", 4, "…"), "木…");
        assert_eq!(cut("木", 1, "…"), "…");
        assert_eq!(cut("ab", 0, "…"), "");
        assert_eq!(cut_start("/usr/lib/x.so", 6, "…"), "…/x.so");
        assert_eq!(cut_middle("//very/long/package:name", 12, "…"), "//v…age:name");
    }

    proptest! {
        #[test]
        fn nothing_hostile_is_left(text in "\\PC*|[\\x00-\\x1f\u{80}-\u{9f}\u{200b}-\u{206f}a木\u{301}]*") {
            let clean = line(&text);
            prop_assert!(!clean.chars().any(is_hostile));
            prop_assert_eq!(line(&clean), clean.clone());
        }

        #[test]
        fn cuts_fit(text in "[a木é\u{301}🎉 ]{0,40}", cells in 0..50_usize) {
            let text = line(&text);
            for short in [cut(&text, cells, "…"), cut_start(&text, cells, "…"), cut_middle(&text, cells, "…")] {
                prop_assert!(width(&short) <= cells, "{:?}", short);
            }
        }
    }
}
