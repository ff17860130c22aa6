//! [`FarmKey`]: the secret that makes a machine a member, and what is derived from it.

use std::fmt;
use std::str::FromStr;

use bip39::{Error as Bip39Error, Language, Mnemonic};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, Zeroizing};

use super::words;

/// Bytes of a key.
pub(super) const LEN: usize = 16;

/// Words a key is written as.
pub(super) const WORDS: usize = 12;

/// What each derived secret is for. A new version of one gets a new label.
const SALT: &[u8] = b"farmhand farm key 1";
const AUTHORITY: &[u8] = b"authority";
const TAG: &[u8] = b"tag";

/// The secret of a farm: 128 random bits. Whoever has them is a member.
///
/// Wiped from memory when dropped, and never shown by `Debug`.
#[derive(Clone)]
pub struct FarmKey(Zeroizing<[u8; LEN]>);

/// What machines of one farm recognise each other by before they have met: derived from the key, says
/// nothing of it, and may be known by all.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FarmTag([u8; 8]);

/// Why a text is no farm key. It never quotes the text, which may be a key but for one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing but space and comments.
    #[error("there is no key in it")]
    Empty,
    /// Too few or too many words.
    #[error("a farm key has {WORDS} words, and these are {0}")]
    Count(usize),
    /// A word that is not in the list.
    #[error("word {0} is none that farm keys are made of")]
    Unknown(usize),
    /// Each word is one, but they do not belong together.
    #[error("these words are no farm key: one of them is wrong, or two are swapped")]
    Checksum,
}

/// Why a text is no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a farm's tag has 16 hexadecimal digits")]
pub struct TagError;

// === impl FarmKey ===

impl FarmKey {
    /// A new one.
    ///
    /// # Panics
    /// When the system has no random numbers.
    pub fn generate() -> Self {
        Self(random())
    }

    /// The key in a message; `None` if it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// Its bytes, for a message that nobody else can read.
    pub fn bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// As a person writes it down.
    pub fn words(&self) -> Zeroizing<String> {
        let mut mnemonic = Mnemonic::from_entropy_in(Language::English, &*self.0)
            .expect("invariant: 16 bytes are twelve words");
        let mut text = Zeroizing::new(String::with_capacity(WORDS * 9));
        for word in mnemonic.words() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        mnemonic.zeroize();
        text
    }

    /// As it stands in a file, with a word on what it is.
    pub fn file(&self) -> Zeroizing<String> {
        let words = self.words();
        Zeroizing::new(format!(
            "# The key of the farm \"{}\". Who can read it is a member: keep it to yourself.\n{}\n",
            self.farm(),
            words.as_str()
        ))
    }

    /// What the farm is recognised by.
    pub fn tag(&self) -> FarmTag {
        FarmTag(*self.derive(TAG))
    }

    /// The name of the farm, for people: two words out of its tag.
    pub fn farm(&self) -> String {
        self.tag().farm()
    }

    /// The seed of the key that signs for the farm: every member has the same.
    pub(super) fn authority(&self) -> Zeroizing<[u8; 32]> {
        self.derive(AUTHORITY)
    }

    fn derive<const N: usize>(&self, label: &[u8]) -> Zeroizing<[u8; N]> {
        expand(SALT, &*self.0, label)
    }
}

/// Not in constant time: nobody who could measure it may choose either side.
impl PartialEq for FarmKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for FarmKey {}

impl fmt::Debug for FarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FarmKey(of {})", self.tag())
    }
}

/// Words in any case with anything usual between them, and lines that begin with `#` for people.
impl FromStr for FarmKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let is_comment = |line: &&str| line.trim_start().starts_with('#');
        let mut written = Zeroizing::new(String::with_capacity(text.len()));
        for line in text.lines().filter(|line| !is_comment(line)) {
            written.push_str(line);
            written.push(' ');
        }
        let normal = words::normal(&written);
        match normal.split_whitespace().count() {
            0 => return Err(KeyError::Empty),
            WORDS => {}
            count => return Err(KeyError::Count(count)),
        }
        let mut mnemonic =
            Mnemonic::parse_in_normalized(Language::English, &normal).map_err(|error| match error {
                Bip39Error::UnknownWord(index) => KeyError::Unknown(index + 1),
                _ => KeyError::Checksum,
            })?;
        let (mut entropy, _) = mnemonic.to_entropy_array();
        let key = Self::read(&entropy[..LEN]).expect("invariant: twelve words are 16 bytes");
        entropy.zeroize();
        mnemonic.zeroize();
        Ok(key)
    }
}

// === impl FarmTag ===

impl FarmTag {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// The name of the farm, for people. Two farms may have the same.
    pub fn farm(&self) -> String {
        words::of(&self.0, 2)
    }
}

impl fmt::Display for FarmTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&const_hex::encode(self.0))
    }
}

impl fmt::Debug for FarmTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for FarmTag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let mut tag = [0; 8];
        // The decoder takes `0x` in front as well.
        if text.len() != 16 {
            return Err(TagError);
        }
        const_hex::decode_to_slice(text, &mut tag).map_err(|_| TagError)?;
        Ok(Self(tag))
    }
}

/// Bytes nobody can guess.
///
/// # Panics
/// When the system has none.
pub(super) fn random<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(&mut *bytes).expect("invariant: the system has random numbers");
    bytes
}

/// HKDF-SHA256: `N` bytes for `label` out of `secret`.
pub(super) fn expand<const N: usize>(salt: &[u8], secret: &[u8], label: &[u8]) -> Zeroizing<[u8; N]> {
    struct Length(usize);

    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }

    let mut bytes = Zeroizing::new([0; N]);
    let key = Salt::new(HKDF_SHA256, salt).extract(secret);
    let filled = key.expand(&[label], Length(N)).and_then(|okm| okm.fill(&mut *bytes));
    filled.expect("invariant: N is the length that was asked for, and small");
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> FarmKey {
        FarmKey::read(&[byte; LEN]).unwrap()
    }

    /// Written down so that no later version takes a farm apart.
    #[test]
    fn what_is_derived_from_a_key_stays() {
        let key = key(7);
        assert_eq!(
            key.words().as_str(),
            "alpha deal scrub asthma idea logic bright thought alpha deal scrub autumn"
        );
        assert_eq!(key.tag().to_string(), "df6b7b410fe7829a");
        assert_eq!(key.farm(), "term forward");
        assert_eq!(
            const_hex::encode(*key.authority()),
            "b9bd1a79f9210ab18881d2b4b4d660fc5f70f17948c7bc428fd02301ffd7e241"
        );
    }

    #[test]
    fn keys_are_never_shown() {
        let key = FarmKey::generate();
        let shown = format!("{key:?}");
        assert!(!shown.contains(&const_hex::encode(key.bytes())), "{shown}");
        assert!(key.words().split(' ').all(|word| !shown.contains(&format!(" {word} "))), "{shown}");
        assert_ne!(key, FarmKey::generate());
    }

    #[test]
    fn a_file_is_read_as_people_leave_it() {
        let key = key(9);
        let words = key.words().to_string();
        for text in [
            key.file().to_string(),
            words.to_uppercase(),
            words.replace(' ', "-"),
            words.replace(' ', "\n"),
            format!("\n  # mine\n{words}\r\n\n# end"),
        ] {
            assert_eq!(text.parse(), Ok(key.clone()), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said_without_a_word_of_it() {
        let words = key(9).words().to_string();
        let parse = |text: &str| text.parse::<FarmKey>();
        assert_eq!(parse(""), Err(KeyError::Empty));
        assert_eq!(parse(&format!("# {words}")), Err(KeyError::Empty));
        assert_eq!(parse(&format!("{words} zoo")), Err(KeyError::Count(13)));
        // A longer mnemonic with a good checksum is no key either.
        let longer = Mnemonic::from_entropy_in(Language::English, &[0; 32]).unwrap().to_string();
        assert_eq!(parse(&longer), Err(KeyError::Count(24)));
        let (first, _) = words.rsplit_once(' ').unwrap();
        assert_eq!(parse(first), Err(KeyError::Count(11)));
        assert_eq!(parse(&format!("{first} farmhand")), Err(KeyError::Unknown(12)));
        assert_eq!(parse(&format!("{first} abandon")), Err(KeyError::Checksum));
    }

    #[test]
    fn tags_are_written_as_they_are_read() {
        let tag = key(3).tag();
        assert_eq!(tag.to_string().parse(), Ok(tag));
        for text in ["", "0x00112233445566", "0011223344556677 ", "001122334455667g", "00112233445566778"] {
            assert_eq!(text.parse::<FarmTag>(), Err(TagError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn words_stand_for_the_key(bytes: [u8; LEN]) {
            let key = FarmKey::read(&bytes).unwrap();
            prop_assert_eq!(key.words().parse(), Ok(key.clone()));
            prop_assert_eq!(key.file().parse(), Ok(key));
        }

        /// Four bits of the words are a checksum: fifteen of sixteen wrong words are found out, and what
        /// is not found out is another key, never this one.
        #[test]
        fn a_wrong_word_never_gives_the_key(bytes: [u8; LEN], at in 0..WORDS, wrong in 0..2048_usize) {
            let key = FarmKey::read(&bytes).unwrap();
            let words = key.words();
            let mut words: Vec<_> = words.split(' ').collect();
            let wrong = Language::English.word_list()[wrong];
            prop_assume!(words[at] != wrong);
            words[at] = wrong;
            match words.join(" ").parse::<FarmKey>() {
                Ok(other) => prop_assert!(other != key && other.tag() != key.tag()),
                Err(error) => prop_assert_eq!(error, KeyError::Checksum),
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = text.parse::<FarmKey>();
            let _ = text.parse::<FarmTag>();
        }
    }

    /// All 12 * 2047 texts that differ from a key by one word.
    #[test]
    fn fifteen_of_sixteen_wrong_words_are_refused() {
        let key = key(0x5a);
        let words = key.words();
        let words: Vec<_> = words.split(' ').collect();
        let mut accepted = 0;
        for at in 0..WORDS {
            for &word in Language::English.word_list().iter().filter(|word| **word != words[at]) {
                let mut changed = words.clone();
                changed[at] = word;
                accepted += usize::from(changed.join(" ").parse::<FarmKey>().is_ok());
            }
        }
        let all = WORDS * 2047;
        assert!((all / 18..all / 14).contains(&accepted), "{accepted} of {all}");
    }
}
