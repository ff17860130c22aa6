//! [`Code`]: what a person carries from one screen to the other.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::peer::trust::{key, words};

/// Bytes of the longest code: no word of the list has more than eight letters.
const ROOM: usize = 3 + 2 * (1 + 8);

/// A code to join by: three digits and two words, 31.9 bits. Good for one invitation.
///
/// It is a secret while its invitation is open: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(Zeroizing<String>);

/// Why a text is no code. It does not quote the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Not three digits and two words.
    #[error("a code has three digits and two words, as in 482-amber-falcon")]
    Shape,
    /// A word that no code has.
    #[error("word {0} is none that codes are made of: look at it again")]
    Word(usize),
}

// === impl Code ===

impl Code {
    /// A new one.
    pub(super) fn generate() -> Self {
        let bytes = key::random::<8>();
        let (number, words) = bytes.split_at(4);
        let number = number.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)) % 1000;
        let number = Zeroizing::new(format!("{number:03}"));
        let words = Zeroizing::new(words::of(words, 2));
        Self::of(std::iter::once(number.as_str()).chain(words.split(' ')))
    }

    /// Of these parts. The text has its room from the beginning: one that grows leaves what it was behind.
    fn of<'a>(parts: impl Iterator<Item = &'a str>) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(ROOM));
        for part in parts {
            if !text.is_empty() {
                text.push('-');
            }
            text.push_str(part);
        }
        Self(text)
    }

    /// As it is shown to a person.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

/// In any case, with anything usual between its parts.
impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let normal = words::normal(text);
        let parts: Vec<_> = normal.split(' ').collect();
        let [number, first, second] = parts[..] else { return Err(CodeError::Shape) };
        if number.len() != 3 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(CodeError::Shape);
        }
        for (at, word) in [first, second].into_iter().enumerate() {
            if !words::is_word(word) {
                return Err(CodeError::Word(at + 1));
            }
        }
        Ok(Self::of(parts.into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code: Code = "048-zoo-abandon".parse().unwrap();
        for text in ["048 zoo abandon", " 048-Zoo-ABANDON\n", "048_zoo.abandon"] {
            assert_eq!(text.parse(), Ok(code.clone()), "{text:?}");
        }
        for text in
            ["", "048", "048-zoo", "48-zoo-abandon", "0048-zoo-abandon", "zoo-048-abandon", "04x-zoo-zoo"]
        {
            assert_eq!(text.parse::<Code>(), Err(CodeError::Shape), "{text:?}");
        }
        assert_eq!("048-zo-abandon".parse::<Code>(), Err(CodeError::Word(1)));
        assert_eq!("048-zoo-abandonn".parse::<Code>(), Err(CodeError::Word(2)));
        assert_eq!(format!("{code:?}"), "Code");
    }

    #[test]
    fn a_new_code_is_one_and_differs() {
        let codes: std::collections::HashSet<_> =
            (0..100).map(|_| Code::generate().text().to_owned()).collect();
        assert!(codes.len() > 95);
        for text in codes {
            assert_eq!(text.parse::<Code>().unwrap().text(), text);
            assert!(text.len() <= ROOM);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            if let Ok(code) = text.parse::<Code>() {
                prop_assert_eq!(code.text().parse::<Code>().unwrap(), code);
            }
        }
    }
}
