//! [`Integrity`]: what content is to hash to, as the qualifier `checksum.sri` says it, and the hashing.
//!
//! The form is that of Subresource Integrity (W3C): `sha256-BASE64 sha512-BASE64`, parted by blanks. It has
//! nothing to do with the digest function of the store. Content fits when one of the checksums that are
//! known here is its own; those of other algorithms are passed over.

use std::fmt;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::Digest as _;

/// Checksums in one list at most.
const MOST: usize = 16;

/// Base64 that may lack its padding, as some tools write it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The algorithms of Subresource Integrity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A checksum of content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checksum {
    algorithm: Algorithm,
    hash: Vec<u8>,
}

/// Checksums of which content is to have one; not empty, sorted, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integrity(Vec<Checksum>);

/// Why a text is no [`Integrity`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntegrityError {
    /// An entry of an algorithm that is known, with something that is not its hash.
    #[error("{0:?} is not a checksum: write sha256-, sha384- or sha512- and the hash in base64")]
    Malformed(String),
    /// Nothing in it can be checked.
    #[error("none of the checksums in {0:?} is of sha256, sha384 or sha512")]
    Unknown(String),
    /// More than anybody needs.
    #[error("{0} checksums are more than {MOST}")]
    TooMany(usize),
}

/// Hashes content on its way, by each algorithm that an [`Integrity`] names.
#[derive(Clone, Default)]
pub struct Checker(Vec<Sum>);

#[derive(Clone)]
enum Sum {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

// === impl Algorithm ===

impl Algorithm {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of a hash.
    fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

// === impl Checksum ===

impl Checksum {
    /// `None` for an algorithm that is not known here.
    fn parse(text: &str) -> Result<Option<Self>, IntegrityError> {
        let malformed = || IntegrityError::Malformed(text.chars().take(150).collect());
        let (name, rest) = text.split_once('-').ok_or_else(malformed)?;
        let Some(algorithm) = Algorithm::ALL.into_iter().find(|known| known.name() == name) else {
            return Ok(None);
        };
        // What follows a question mark is for options, of which none are defined.
        let encoded = rest.split('?').next().unwrap_or_default();
        let hash = BASE64.decode(encoded).map_err(|_| malformed())?;
        if hash.len() != algorithm.length() {
            return Err(malformed());
        }
        Ok(Some(Self { algorithm, hash }))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.algorithm.name(), BASE64.encode(&self.hash))
    }
}

// === impl Integrity ===

impl Integrity {
    /// Parses the value of `checksum.sri`.
    ///
    /// # Errors
    /// [`IntegrityError`], also where nothing in it could be checked.
    pub fn parse(text: &str) -> Result<Self, IntegrityError> {
        let count = text.split_ascii_whitespace().count();
        if count > MOST {
            return Err(IntegrityError::TooMany(count));
        }
        let parsed: Result<Vec<_>, _> = text.split_ascii_whitespace().map(Checksum::parse).collect();
        let mut known: Vec<Checksum> = parsed?.into_iter().flatten().collect();
        known.sort();
        known.dedup();
        if known.is_empty() {
            return Err(IntegrityError::Unknown(text.chars().take(150).collect()));
        }
        Ok(Self(known))
    }

    /// The checksums.
    pub fn checksums(&self) -> &[Checksum] {
        &self.0
    }

    /// Those of them that content has whose checksums are `actual`.
    pub fn fitting(&self, actual: &[Checksum]) -> Vec<Checksum> {
        self.0.iter().filter(|checksum| actual.contains(checksum)).cloned().collect()
    }
}

/// Reads as what [`Integrity::parse`] takes.
impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, checksum) in self.0.iter().enumerate() {
            write!(f, "{}{checksum}", if at == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

// === impl Checker ===

impl Checker {
    /// For the algorithms of `integrity`; for none if there is none.
    pub fn new(integrity: Option<&Integrity>) -> Self {
        let wanted = |algorithm: &Algorithm| {
            integrity.is_some_and(|list| list.0.iter().any(|sum| sum.algorithm == *algorithm))
        };
        Self(Algorithm::ALL.into_iter().filter(wanted).map(Sum::new).collect())
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        for sum in &mut self.0 {
            match sum {
                Sum::Sha256(state) => state.update(data),
                Sum::Sha384(state) => state.update(data),
                Sum::Sha512(state) => state.update(data),
            }
        }
    }

    /// The checksums of all bytes taken in.
    pub fn finish(self) -> Vec<Checksum> {
        self.0.into_iter().map(Sum::finish).collect()
    }
}

impl Sum {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    fn finish(self) -> Checksum {
        let (algorithm, hash) = match self {
            Self::Sha256(state) => (Algorithm::Sha256, state.finalize().to_vec()),
            Self::Sha384(state) => (Algorithm::Sha384, state.finalize().to_vec()),
            Self::Sha512(state) => (Algorithm::Sha512, state.finalize().to_vec()),
        };
        Checksum { algorithm, hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the bytes `abc` (FIPS 180-4, appendix).
    const ABC: [&str; 3] = [
        "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
        "sha384-ywB1P0WjXou1oD1pmsZQBycsMqsO3tFjGotgWkP/W+2AhgcroefMI1i67KE0yCWn",
        "sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==",
    ];

    fn actual(list: &Integrity, data: &[u8]) -> Vec<Checksum> {
        let mut checker = Checker::new(Some(list));
        data.chunks(2).for_each(|piece| checker.update(piece));
        checker.finish()
    }

    #[test]
    fn every_algorithm_is_checked_and_one_that_fits_is_enough() {
        for sum in ABC {
            let list = Integrity::parse(sum).unwrap();
            assert_eq!(list.fitting(&actual(&list, b"abc")).len(), 1, "{sum}");
            assert!(list.fitting(&actual(&list, b"abd")).is_empty(), "{sum}");
        }
        let all = Integrity::parse(&format!(" {}\t{}  md5-xx sha1-yy ", ABC[2], ABC[0])).unwrap();
        assert_eq!(all.to_string(), format!("{} {}", ABC[0], ABC[2]));
        let wrong = format!("sha256-{} {}", BASE64.encode([7; 32]), ABC[1]);
        let one_good = Integrity::parse(&wrong).unwrap();
        assert_eq!(one_good.fitting(&actual(&one_good, b"abc")).len(), 1);
    }

    #[test]
    fn padding_and_options_may_be_as_they_are() {
        let plain = Integrity::parse(ABC[0]).unwrap();
        assert_eq!(Integrity::parse(ABC[0].trim_end_matches('=')).as_ref(), Ok(&plain));
        assert_eq!(Integrity::parse(&format!("{}?ct=x", ABC[0])).as_ref(), Ok(&plain));
        assert_eq!(Integrity::parse(&format!("{0} {0}", ABC[0])).as_ref(), Ok(&plain));
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        for text in ["", "  ", "md5-1B2M2Y8AsgTpgAmY7PhCfg==", "sha1-x"] {
            assert!(matches!(Integrity::parse(text), Err(IntegrityError::Unknown(_))), "{text:?}");
        }
        for text in [
            "sha256",
            "sha256-",
            "sha256-!!",
            "sha256-YWJj",
            "sha512-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
        ] {
            assert!(matches!(Integrity::parse(text), Err(IntegrityError::Malformed(_))), "{text:?}");
        }
        let many = [ABC[0]; MOST + 1].join(" ");
        assert_eq!(Integrity::parse(&many), Err(IntegrityError::TooMany(MOST + 1)));
    }
}
