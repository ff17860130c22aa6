//! Words that stand for bits: keys to write down, names of farms, codes to read out, words to compare.
//!
//! The list is the English one of BIP 39: 2048 words, 11 bits each, no two of which begin with the same
//! four letters.

use bip39::Language;

/// Bits a word stands for.
const BITS: usize = 11;

/// The first `count` words that `bytes` stand for, from the highest bit on.
///
/// # Panics
/// When there are not enough bytes.
pub(super) fn of(bytes: &[u8], count: usize) -> String {
    assert!(count * BITS <= bytes.len() * 8, "invariant: there are bits for every word");
    let list = Language::English.word_list();
    let word = |nth: usize| {
        let bits = (nth * BITS..(nth + 1) * BITS).map(|bit| bytes[bit / 8] >> (7 - bit % 8) & 1);
        list[bits.fold(0, |number, bit| number << 1 | usize::from(bit))]
    };
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

/// Whether it is a word of the list, in lower case.
pub(super) fn is_word(text: &str) -> bool {
    Language::English.find_word(text).is_some()
}

/// What a person typed as words: in lower case, parted by one space, whatever stood between them.
pub(super) fn normal(text: &str) -> zeroize::Zeroizing<String> {
    let mut normal = zeroize::Zeroizing::new(String::with_capacity(text.len()));
    for part in text.split(is_between).filter(|part| !part.is_empty()) {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.extend(part.chars().map(|letter| letter.to_ascii_lowercase()));
    }
    normal
}

fn is_between(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '-' | '_' | ',' | '.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_eleven_bits_each_from_the_highest_on() {
        assert_eq!(of(&[0; 3], 2), "abandon abandon");
        assert_eq!(of(&[0xff; 3], 2), "zoo zoo");
        assert_eq!(of(&[0, 0b0010_0000, 0, 0], 2), "ability abandon");
        assert!(is_word("zoo") && !is_word("Zoo") && !is_word("482"));
    }

    #[test]
    fn what_stands_between_words_does_not_matter() {
        for text in ["zoo ability", " Zoo-ABILITY\n", "zoo, ability.", "zoo_-_ability"] {
            assert_eq!(normal(text).as_str(), "zoo ability", "{text:?}");
        }
        assert_eq!(normal(" - ").as_str(), "");
    }

    proptest! {
        #[test]
        fn what_is_normal_stays_so_and_any_text_may_be_given(text in ".{0,80}") {
            let once = normal(&text);
            prop_assert_eq!(normal(&once), once);
        }

        #[test]
        fn equal_words_are_equal_bits(a: [u8; 11], b: [u8; 11]) {
            prop_assert_eq!(of(&a, 8) == of(&b, 8), a == b);
        }
    }
}
