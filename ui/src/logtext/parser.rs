//! Bytes of a terminal taken apart, one at a time: text, the few controls that are understood, and
//! the rest, of which sequences are dropped and lone bytes written out.

use crate::sanitize;

/// Bytes of a sequence after which it is taken for none: those of a colour, and those of a title or
/// a picture.
const LONGEST_SEQUENCE: usize = 64;
const LONGEST_STRING: usize = 4096;

/// What a few bytes came to.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// A letter that may be shown.
    Text(char),
    /// What stands for bytes that may not be.
    Raw(String),
    /// To the next tab stop.
    Tab,
    /// To the beginning of the line.
    Return,
    /// One column back.
    Back,
    /// Erases from the cursor on.
    EraseToEnd,
    /// Erases up to the cursor.
    EraseFromStart,
    /// The parameters of a change of colours.
    Ink(String),
    /// The line is over.
    Break,
}

/// Where in the bytes it stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Parser {
    state: State,
    /// A letter of several bytes that has begun.
    letter: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and one of the bytes that take one more.
    EscapeMore,
    /// After ESC `[`.
    Sequence(String),
    /// In a title, a link, a picture: until BEL or ESC `\`.
    String(usize),
    /// After ESC in such.
    StringEscape(usize),
}

/// Whether `c` may act on a terminal, or mislead who reads.
pub(super) fn is_hostile(c: char) -> bool {
    sanitize::is_hostile(c)
}

// === impl Parser ===

impl Parser {
    /// Takes the next byte.
    pub(super) fn push(&mut self, byte: u8, give: &mut impl FnMut(Piece)) {
        match std::mem::take(&mut self.state) {
            State::Text => self.text(byte, give),
            State::Escape => self.escape(byte, give),
            State::EscapeMore => {}
            State::Sequence(parameters) => self.sequence(parameters, byte, give),
            State::String(length) => match byte {
                0x07 => {}
                0x1b => self.state = State::StringEscape(length),
                b'\n' => self.text(byte, give),
                _ if length < LONGEST_STRING => self.state = State::String(length + 1),
                _ => {}
            },
            State::StringEscape(length) => match byte {
                b'\\' => {}
                _ if length < LONGEST_STRING => self.state = State::String(length + 1),
                _ => {}
            },
        }
    }

    /// Says that nothing follows.
    pub(super) fn end(&mut self, give: &mut impl FnMut(Piece)) {
        self.give_up_letter(give);
        self.state = State::Text;
    }

    fn text(&mut self, byte: u8, give: &mut impl FnMut(Piece)) {
        let begun = !self.letter.is_empty();
        if begun && (0x80..0xc0).contains(&byte) {
            return self.continue_letter(byte, give);
        }
        self.give_up_letter(give);
        match byte {
            b' '..=b'~' => give(Piece::Text(char::from(byte))),
            0xc2..0xf5 => self.letter.push(byte),
            b'\n' => give(Piece::Break),
            b'\r' => give(Piece::Return),
            b'\t' => give(Piece::Tab),
            0x08 => give(Piece::Back),
            0x1b => self.state = State::Escape,
            0x00..0x20 => give(Piece::Raw(format!("^{}", char::from(byte + b'@')))),
            0x7f => give(Piece::Raw("^?".to_owned())),
            _ => give(Piece::Raw(format!("\\x{byte:02x}"))),
        }
    }

    fn continue_letter(&mut self, byte: u8, give: &mut impl FnMut(Piece)) {
        self.letter.push(byte);
        match std::str::from_utf8(&self.letter) {
            Ok(letter) => {
                for c in letter.chars() {
                    give(if is_hostile(c) {
                        Piece::Raw(format!("<{:x}>", u32::from(c)))
                    } else {
                        Piece::Text(c)
                    });
                }
                self.letter.clear();
            }
            // Not all of it is there.
            Err(error) if error.error_len().is_none() => {}
            Err(_) => self.give_up_letter(give),
        }
    }

    fn give_up_letter(&mut self, give: &mut impl FnMut(Piece)) {
        for byte in self.letter.drain(..) {
            give(Piece::Raw(format!("\\x{byte:02x}")));
        }
    }

    fn escape(&mut self, byte: u8, give: &mut impl FnMut(Piece)) {
        match byte {
            b'[' => self.state = State::Sequence(String::new()),
            b']' | b'P' | b'X' | b'^' | b'_' => self.state = State::String(0),
            b' '..=b'/' => self.state = State::EscapeMore,
            0x1b => self.state = State::Escape,
            b'0'..=b'~' => {}
            _ => {
                give(Piece::Raw("^[".to_owned()));
                self.text(byte, give);
            }
        }
    }

    fn sequence(&mut self, mut parameters: String, byte: u8, give: &mut impl FnMut(Piece)) {
        match (byte, parameters.as_str()) {
            (b'm', _) => give(Piece::Ink(parameters)),
            (b'K', "" | "0") => give(Piece::EraseToEnd),
            (b'K', "1") => give(Piece::EraseFromStart),
            (b'K', "2") => {
                give(Piece::EraseFromStart);
                give(Piece::EraseToEnd);
            }
            (b'@'..=b'~', _) => {}
            (b' '..=b'?', _) if parameters.len() < LONGEST_SEQUENCE => {
                parameters.push(char::from(byte));
                self.state = State::Sequence(parameters);
            }
            _ => self.text(byte, give),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(bytes: &[u8]) -> Vec<Piece> {
        let mut parser = Parser::default();
        let mut pieces = Vec::new();
        bytes.iter().for_each(|&byte| parser.push(byte, &mut |piece| pieces.push(piece)));
        parser.end(&mut |piece| pieces.push(piece));
        pieces
    }

    fn shown(bytes: &[u8]) -> String {
        let shown = |piece| match piece {
            Piece::Text(c) => c.to_string(),
            Piece::Raw(text) => format!("[{text}]"),
            other => format!("[{other:?}]"),
        };
        pieces(bytes).into_iter().map(shown).collect()
    }

    #[test]
    fn letters_of_several_bytes() {
        assert_eq!(shown("aé€😀".as_bytes()), "aé€😀");
        assert_eq!(shown(b"\xe2\x82a\xf0\x9f\x98"), "[\\xe2][\\x82]a[\\xf0][\\x9f][\\x98]");
        assert_eq!(shown(b"\xed\xa0\x80"), "[\\xed][\\xa0][\\x80]");
        assert_eq!(shown(b"\x80\xc0\xff"), "[\\x80][\\xc0][\\xff]");
    }

    #[test]
    fn sequences_are_dropped_whole() {
        assert_eq!(shown(b"\x1b(Ba\x1b7b\x1b[?25lc\x1b[38;5;1md"), "abc[Ink(\"38;5;1\")]d");
        assert_eq!(shown(b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x07"), "link");
        assert_eq!(shown(b"\x1b[2Kx\x1b[0K"), "[EraseFromStart][EraseToEnd]x[EraseToEnd]");
        assert_eq!(shown(b"\x1b\x1b[1A\x1b\x01"), "[^[][^A]");
        assert_eq!(shown(b"\x1b[1\n2"), "[Break]2");
    }

    #[test]
    fn endless_sequences_end() {
        let mut endless = b"\x1b[".to_vec();
        endless.extend([b'1'; 200]);
        assert!(shown(&endless).ends_with("111"));
        let mut title = b"\x1b]0;".to_vec();
        title.extend([b'x'; LONGEST_STRING + 10]);
        assert!(shown(&title).ends_with("xxx"));
    }
}
