//! Text from outside, made fit for a terminal: what would steer it is shown in place of obeyed.
//!
//! Control characters become the signs for them (`␛`), what is no UTF-8 and marks that turn the
//! direction of writing become `�`. Lines and tabs stay.

/// For a text in pieces, which may part characters.
#[derive(Debug, Default)]
pub(super) struct Harmless {
    /// Bytes whose meaning depends on what follows.
    pending: Vec<u8>,
}

// === impl Harmless ===

impl Harmless {
    /// The next piece.
    pub(super) fn take(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.pending);
        bytes.extend_from_slice(piece);
        let whole = bytes.len() - unfinished(&bytes);
        self.pending = bytes.split_off(whole);
        shown(&bytes)
    }

    /// What is left at the end.
    pub(super) fn finish(self) -> String {
        shown(&self.pending)
    }
}

/// A whole text.
pub(super) fn harmless(text: &str) -> String {
    shown(text.as_bytes())
}

/// Bytes at the end that may begin a character, or the end of a line.
fn unfinished(bytes: &[u8]) -> usize {
    if bytes.last() == Some(&b'\r') {
        return 1;
    }
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let is_open = |from: &usize| {
        let rest = &tail[*from..];
        rest[0] >= 0xc0 && std::str::from_utf8(rest).is_err_and(|error| error.error_len().is_none())
    };
    (0..tail.len()).find(is_open).map_or(0, |from| tail.len() - from)
}

fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(character) = characters.next() {
            if character != '\r' || characters.peek() != Some(&'\n') {
                text.push(sign_of(character));
            }
        }
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text
}

fn sign_of(character: char) -> char {
    match character {
        '\n' | '\t' => character,
        // The block of signs begins with that of NUL.
        '\0'..' ' => char::from_u32(0x2400 + u32::from(character)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\x7f' => '␡',
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn signs_stand_for_what_would_be_obeyed() {
        assert_eq!(harmless("\x1b[31mred\x07\0 é…\ta\r\nb\rc\x7f\n"), "␛[31mred␇␀ é…\ta\nb␍c␡\n");
        assert_eq!(harmless("\u{9b}2J\u{202e}x\u{2067}"), "�2J�x�");
        assert_eq!(shown(b"a\xff\xfeb"), "a��b");
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(
            text in prop_oneof![
                any::<Vec<u8>>(),
                "[a\r\n\x1bé…🙂]{0,30}".prop_map(String::into_bytes),
            ],
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut pieces = Harmless::default();
            let mut joined: String = cuts.windows(2).map(|cut| pieces.take(&text[cut[0]..cut[1]])).collect();
            joined.push_str(&pieces.finish());
            prop_assert_eq!(&joined, &shown(&text));
            prop_assert!(joined.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
        }
    }
}
