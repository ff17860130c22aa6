//! What may lie over a view: one thing at a time, and it has the keys.

use std::sync::Arc;

use farmhand_proto::control::{Newcomer, machine};

use super::action::Subject;
use crate::keymap::Place;
use crate::options::FetchRequest;

/// What lies over the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Modal {
    /// The keys that work here.
    Help,
    /// The `:` line.
    Palette(Input),
    /// The `/` line of the list that is shown; what was there before, to go back to.
    Filter(Input, String),
    /// A question.
    Confirm(Confirm),
    /// A question that is answered by some words or a number.
    Ask(Ask),
    /// A list to choose from.
    Pick(Pick),
    /// A text to read.
    Text(Text),
    /// The invitation that was opened from here.
    Invitation,
    /// A machine that asks to come in.
    Newcomer(Newcomer),
    /// The farm that is joined from here.
    Joining,
}

/// A line of input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Input {
    text: String,
    /// Byte the cursor stands at.
    cursor: usize,
    /// Which of the earlier lines is shown; counts from the latest.
    pub(crate) earlier: Option<usize>,
}

/// A question that is answered by yes or no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confirm {
    /// In a word or two.
    pub(crate) title: String,
    /// In a sentence or two.
    pub(crate) text: String,
    /// What yes does.
    pub(crate) deed: Deed,
}

/// A question that is answered by some words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// In a word or two.
    pub(crate) title: String,
    /// In a sentence.
    pub(crate) text: String,
    /// The answer so far.
    pub(crate) input: Input,
    /// What it does; the answer is put into it.
    pub(crate) deed: Deed,
}

/// A list to choose from; the selection is that of [`ListId::Modal`](super::ListId::Modal).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    /// In a word or two.
    pub(crate) title: String,
    /// What there is, with what each does.
    pub(crate) choices: Vec<(String, Deed)>,
}

/// A text to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    /// In a word or two.
    pub(crate) title: String,
    /// Harmless lines.
    pub(crate) lines: Vec<String>,
}

/// What a person decided to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Leave.
    Quit,
    /// End an operation.
    Kill(Arc<str>),
    /// Run an action again.
    Rerun {
        /// Its digest.
        digest: Arc<str>,
        /// Its instance.
        instance: Arc<str>,
        /// How often; an answer replaces it.
        times: u32,
        /// Where; empty for anywhere.
        machine: Arc<str>,
    },
    /// Pin a result, or let go of it.
    Pin {
        /// Its digest.
        digest: Arc<str>,
        /// Its instance.
        instance: Arc<str>,
        /// Let go of it.
        unpin: bool,
    },
    /// Fetch the inputs of an action.
    Fetch(FetchRequest),
    /// Change a machine.
    Machine {
        /// Its name.
        name: Arc<str>,
        /// What it shall do.
        state: Option<machine::State>,
        /// How many actions it shall run; an answer replaces it.
        slots: Option<u32>,
    },
    /// Let a newcomer in, or turn it away.
    Answer {
        /// Its number.
        number: u64,
        /// Whether it is let in.
        accept: bool,
    },
    /// Go on to join another farm: ask for its code unless it was typed.
    AskCode {
        /// Although this machine is in one with others.
        leave: bool,
        /// What was typed already.
        typed: Option<String>,
    },
    /// Join another farm.
    Join {
        /// Its code, and an address if need be; an answer replaces it.
        typed: String,
        /// Although this machine is in one with others.
        leave: bool,
    },
    /// Show one build only, or all.
    Build(Option<Arc<str>>),
    /// Put text into the clipboard.
    Copy(String),
    /// Put the command of an action into the clipboard, as a line for a shell.
    CopyCommand(Subject),
}

// === impl Modal ===

impl Modal {
    /// Where its keys are looked up.
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Help | Self::Text(_) => Place::Help,
            Self::Palette(_) | Self::Filter(..) | Self::Ask(_) => Place::Input,
            Self::Confirm(_) => Place::Confirm,
            Self::Pick(_) => Place::Pick,
            Self::Invitation => Place::Invitation,
            Self::Newcomer(_) => Place::Newcomer,
            Self::Joining => Place::Joining,
        }
    }

    /// Its line of input.
    pub(crate) fn input(&mut self) -> Option<&mut Input> {
        match self {
            Self::Palette(input) | Self::Filter(input, _) | Self::Ask(Ask { input, .. }) => Some(input),
            _ => None,
        }
    }
}

// === impl Input ===

/// Characters a line of input may have.
const LONGEST: usize = 512;

impl Input {
    /// A line that holds `text`, the cursor at its end.
    pub(crate) fn of(text: &str) -> Self {
        Self { text: text.to_owned(), cursor: text.len(), earlier: None }
    }

    /// What was typed.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What stands before the cursor, and from it on.
    pub(crate) fn halves(&self) -> (&str, &str) {
        self.text.split_at(self.cursor)
    }

    /// Types text; what is no printable character is left out.
    pub(crate) fn insert(&mut self, text: &str) {
        for c in crate::sanitize::line(text).chars().filter(|c| *c != '\u{fffd}') {
            if self.text.len() < LONGEST {
                self.text.insert(self.cursor, c);
                self.cursor += c.len_utf8();
            }
        }
    }

    /// Deletes the character before the cursor; `false` when there is nothing at all.
    pub(crate) fn backspace(&mut self) -> bool {
        if self.text.is_empty() {
            return false;
        }
        let before = self.before();
        self.text.drain(before..self.cursor);
        self.cursor = before;
        true
    }

    /// Deletes the character at the cursor.
    pub(crate) fn delete(&mut self) {
        let after = self.after();
        self.text.drain(self.cursor..after);
    }

    /// Deletes the word before the cursor.
    pub(crate) fn delete_word(&mut self) {
        let kept = self.text[..self.cursor].trim_end();
        let start = kept.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let start = self.text.char_indices().map(|(at, _)| at).find(|at| *at >= start).unwrap_or(0);
        self.text.drain(start..self.cursor);
        self.cursor = start;
    }

    /// Deletes everything before the cursor.
    pub(crate) fn delete_start(&mut self) {
        self.text.drain(..self.cursor);
        self.cursor = 0;
    }

    /// Moves the cursor.
    pub(crate) fn left(&mut self) {
        self.cursor = self.before();
    }

    /// Moves the cursor.
    pub(crate) fn right(&mut self) {
        self.cursor = self.after();
    }

    /// Moves the cursor to the beginning.
    pub(crate) fn home(&mut self) {
        self.cursor = 0;
    }

    /// Moves the cursor to the end.
    pub(crate) fn end(&mut self) {
        self.cursor = self.text.len();
    }

    fn before(&self) -> usize {
        self.text[..self.cursor].char_indices().next_back().map_or(0, |(at, _)| at)
    }

    fn after(&self) -> usize {
        self.text[self.cursor..].chars().next().map_or(self.cursor, |c| self.cursor + c.len_utf8())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_edited() {
        let mut input = Input::of("sort täg");
        input.backspace();
        input.left();
        input.insert("a\u{1b}b");
        assert_eq!(input.halves(), ("sort tab", "ä"));
        input.delete();
        input.delete_word();
        assert_eq!(input.text(), "sort ");
        input.delete_start();
        assert!(!input.backspace());
    }

    proptest! {
        #[test]
        fn no_order_of_keys_breaks_a_line(keys in prop::collection::vec((0..9_u8, any::<char>()), 0..60)) {
            let mut input = Input::default();
            for (key, c) in keys {
                match key {
                    0 | 1 => input.insert(&c.to_string()),
                    2 => drop(input.backspace()),
                    3 => input.delete(),
                    4 => input.delete_word(),
                    5 => input.left(),
                    6 => input.right(),
                    7 => input.home(),
                    _ => input.end(),
                }
                let (before, after) = input.halves();
                prop_assert_eq!(format!("{before}{after}"), input.text());
            }
        }
    }
}
