//! [`Digest`]: the name of a blob, parsed once where it comes in.
//!
//! A wire `build.bazel.remote.execution.v2.Digest` is a string and a signed number; ours is a
//! value that cannot be malformed. Code past the RPC edge never sees the wire form. The digest
//! function is part of the value, so blobs of equal hash text under two functions stay apart.

use std::fmt;

use farmhand_proto::reapi;
use farmhand_proto::reapi::digest_function::Value as WireFunction;
use sha2::Digest as _;

/// Bytes in a hash of every function served.
pub const HASH_LEN: usize = 32;

/// Bytes of [`Digest::to_key`].
pub const KEY_LEN: usize = HASH_LEN + 8 + 1;

/// A digest function this node computes (`build.bazel.remote.execution.v2.DigestFunction`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum DigestFunction {
    /// SHA-256, FIPS 180-4: what every client speaks, and what an unset field means.
    #[default]
    Sha256,
    /// BLAKE3 with its default output of 32 bytes.
    Blake3,
}

/// Function, hash and size of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    hash: [u8; HASH_LEN],
    size: u64,
    function: DigestFunction,
}

/// What names a blob where no size is told: function and hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobHash {
    function: DigestFunction,
    hash: [u8; HASH_LEN],
}

/// Why a wire digest is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The message field is absent.
    #[error("digest is not set")]
    Unset,
    /// Not lower-case hex of the length the function has.
    #[error("{hash:?} is not {} lower-case hex digits of {function}", HASH_LEN * 2)]
    Hash {
        /// The text received, shortened.
        hash: String,
        /// The function it was read as.
        function: DigestFunction,
    },
    /// Below zero.
    #[error("size_bytes is {0}, which is negative")]
    NegativeSize(i64),
    /// A function that is not served here.
    #[error("digest function {0} is not supported; this node has SHA256 and BLAKE3")]
    UnsupportedFunction(String),
}

/// Computes a [`Digest`] over bytes as they pass.
#[derive(Clone, Debug)]
pub struct Hasher {
    state: HasherState,
    size: u64,
}

#[derive(Clone, Debug)]
enum HasherState {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

// === impl DigestFunction ===

impl DigestFunction {
    /// Every function, in the order in which capabilities list them.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Blake3];

    /// Reads the `digest_function` field of a request; unset means `default` (the instance's).
    ///
    /// # Errors
    /// [`DigestError::UnsupportedFunction`] for a function that is not served.
    pub fn from_wire(value: i32, default: Self) -> Result<Self, DigestError> {
        match WireFunction::try_from(value) {
            Ok(WireFunction::Unknown) => Ok(default),
            Ok(WireFunction::Sha256) => Ok(Self::Sha256),
            Ok(WireFunction::Blake3) => Ok(Self::Blake3),
            Ok(other) => Err(DigestError::UnsupportedFunction(other.as_str_name().to_owned())),
            Err(_) => Err(DigestError::UnsupportedFunction(value.to_string())),
        }
    }

    /// Reads a function segment of a resource name (`sha256`, `blake3`); `None` if it is no
    /// function at all.
    ///
    /// # Errors
    /// [`DigestError::UnsupportedFunction`] for one that exists and is not served.
    pub fn from_segment(segment: &str) -> Option<Result<Self, DigestError>> {
        match segment {
            "sha256" => Some(Ok(Self::Sha256)),
            "blake3" => Some(Ok(Self::Blake3)),
            "sha1" | "md5" | "vso" | "sha384" | "sha512" | "murmur3" | "sha256tree" | "gitsha1" => {
                Some(Err(DigestError::UnsupportedFunction(segment.to_uppercase())))
            }
            _ => None,
        }
    }

    /// The wire value.
    pub fn to_wire(self) -> i32 {
        match self {
            Self::Sha256 => WireFunction::Sha256 as i32,
            Self::Blake3 => WireFunction::Blake3 as i32,
        }
    }

    /// The byte that stands for this function in stored records. Never renumber.
    pub fn tag(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Blake3 => 9,
        }
    }

    /// The function whose [`tag`](Self::tag) this is.
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.tag() == tag)
    }

    /// The name in resource names and texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }
}

impl fmt::Display for DigestFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for DigestFunction {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::from_segment(&text.to_lowercase())
            .unwrap_or_else(|| Err(DigestError::UnsupportedFunction(text.to_owned())))
    }
}

// === impl Digest ===

impl Digest {
    /// Puts a digest together from parts that are known to be right.
    pub fn from_parts(function: DigestFunction, hash: [u8; HASH_LEN], size: u64) -> Self {
        Self { hash, size, function }
    }

    /// Digest of `data`.
    pub fn of(function: DigestFunction, data: &[u8]) -> Self {
        let hash = match function {
            DigestFunction::Sha256 => sha2::Sha256::digest(data).into(),
            DigestFunction::Blake3 => blake3::hash(data).into(),
        };
        Self { hash, size: data.len() as u64, function }
    }

    /// Digest of no bytes: always present in every CAS.
    pub fn empty(function: DigestFunction) -> Self {
        Self::of(function, &[])
    }

    /// Parses the text form of a hash, which need not be UTF-8, together with a size.
    ///
    /// # Errors
    /// [`DigestError::Hash`] or [`DigestError::NegativeSize`].
    pub fn parse<T>(function: DigestFunction, hash: &T, size_bytes: i64) -> Result<Self, DigestError>
    where
        T: AsRef<[u8]> + ?Sized,
    {
        let BlobHash { hash, .. } = BlobHash::parse(function, hash)?;
        let size = u64::try_from(size_bytes).map_err(|_| DigestError::NegativeSize(size_bytes))?;
        Ok(Self { hash, size, function })
    }

    /// Parses a wire digest.
    ///
    /// # Errors
    /// As [`Digest::parse`].
    pub fn from_wire(function: DigestFunction, digest: &reapi::Digest) -> Result<Self, DigestError> {
        Self::parse(function, &digest.hash, digest.size_bytes)
    }

    /// Parses a message field that must be set.
    ///
    /// # Errors
    /// As [`Digest::parse`], and [`DigestError::Unset`].
    pub fn from_field(function: DigestFunction, digest: Option<&reapi::Digest>) -> Result<Self, DigestError> {
        Self::from_wire(function, digest.ok_or(DigestError::Unset)?)
    }

    /// The wire form.
    pub fn to_wire(&self) -> reapi::Digest {
        reapi::Digest { hash: self.hash_hex(), size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX) }
    }

    /// Lower-case hex of the hash.
    pub fn hash_hex(&self) -> String {
        const_hex::encode(self.hash)
    }

    /// The bytes of the hash.
    pub fn hash(&self) -> &[u8; HASH_LEN] {
        &self.hash
    }

    /// Size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The function that made the hash.
    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// True for the digest of no bytes, which needs no storage. A zero size under another hash is
    /// a different (impossible) blob, not the empty one.
    pub fn is_empty_blob(&self) -> bool {
        self.size == 0 && *self == Self::empty(self.function)
    }

    /// Fixed-size key for stored records: function tag, hash, size (big endian).
    pub fn to_key(&self) -> [u8; KEY_LEN] {
        let mut key = [0; KEY_LEN];
        key[0] = self.function.tag();
        key[1..=HASH_LEN].copy_from_slice(&self.hash);
        key[1 + HASH_LEN..].copy_from_slice(&self.size.to_be_bytes());
        key
    }

    /// The digest whose [`to_key`](Self::to_key) this is; `None` if it is not one.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let key: &[u8; KEY_LEN] = key.try_into().ok()?;
        let function = DigestFunction::from_tag(key[0])?;
        let hash = key[1..=HASH_LEN].try_into().ok()?;
        let size = u64::from_be_bytes(key[1 + HASH_LEN..].try_into().ok()?);
        Some(Self { hash, size, function })
    }

    /// The subject of a `MISSING` violation: `blobs/{hash}/{size}`, with the function's segment
    /// only where the hash length does not tell it.
    pub fn missing_subject(&self) -> String {
        match self.function {
            DigestFunction::Sha256 => format!("blobs/{}/{}", self.hash_hex(), self.size),
            DigestFunction::Blake3 => format!("blobs/blake3/{}/{}", self.hash_hex(), self.size),
        }
    }
}

// === impl BlobHash ===

impl BlobHash {
    /// Parses the text form of a hash, which need not be UTF-8.
    ///
    /// # Errors
    /// [`DigestError::Hash`].
    pub fn parse<T>(function: DigestFunction, hash: &T) -> Result<Self, DigestError>
    where
        T: AsRef<[u8]> + ?Sized,
    {
        let hash = hash.as_ref();
        let bad = || {
            let hash = String::from_utf8_lossy(hash).chars().take(80).collect();
            DigestError::Hash { hash, function }
        };
        let mut bytes = [0; HASH_LEN];
        // Of all hex digits, only A to F lack this bit. Folding over all of them is quicker than
        // stopping at the first.
        let is_lower_case = hash.iter().fold(0xff, |all, byte| all & byte) & 0x20 != 0;
        if hash.len() != HASH_LEN * 2 || !is_lower_case {
            return Err(bad());
        }
        const_hex::decode_to_slice(hash, &mut bytes).map_err(|_| bad())?;
        Ok(Self { function, hash: bytes })
    }

    /// The digest of that hash, for a blob of `size` bytes.
    pub fn sized(&self, size: u64) -> Digest {
        Digest::from_parts(self.function, self.hash, size)
    }

    /// The first bytes of [`Digest::to_key`]: function tag, hash.
    pub fn to_bytes(&self) -> [u8; 1 + HASH_LEN] {
        let mut bytes = [0; 1 + HASH_LEN];
        bytes[0] = self.function.tag();
        bytes[1..].copy_from_slice(&self.hash);
        bytes
    }

    /// The one whose [`to_bytes`](Self::to_bytes) these are; `None` if they are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 1 + HASH_LEN] = bytes.try_into().ok()?;
        let hash = bytes[1..].try_into().ok()?;
        Some(Self { function: DigestFunction::from_tag(bytes[0])?, hash })
    }

    /// The digest of the empty blob, if this is its hash.
    pub fn of_nothing(&self) -> Option<Digest> {
        Some(self.sized(0)).filter(Digest::is_empty_blob)
    }
}

impl From<&Digest> for BlobHash {
    fn from(digest: &Digest) -> Self {
        Self { function: digest.function, hash: digest.hash }
    }
}

/// The hash, with the function in front unless it is SHA256.
impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.function != DigestFunction::Sha256 {
            write!(f, "{}/", self.function)?;
        }
        f.write_str(&const_hex::encode(self.hash))
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `{hash}/{size}`, with the function in front unless it is SHA256.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.function != DigestFunction::Sha256 {
            write!(f, "{}/", self.function)?;
        }
        write!(f, "{}/{}", self.hash_hex(), self.size)
    }
}

/// Reads what [`Display`](fmt::Display) writes; the name of SHA256 may stand in front too.
impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let named = text.split_once('/').and_then(|(first, rest)| {
            DigestFunction::from_segment(first).map(|function| Ok((function?, rest)))
        });
        let (function, rest) = named.unwrap_or(Ok((DigestFunction::Sha256, text)))?;
        let (hash, size) = rest.split_once('/').ok_or(DigestError::Unset)?;
        let bad = || DigestError::Hash { hash: text.chars().take(80).collect(), function };
        Self::parse(function, hash, size.parse().map_err(|_| bad())?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Hasher ===

impl Hasher {
    /// A hasher that has seen no bytes.
    pub fn new(function: DigestFunction) -> Self {
        let state = match function {
            DigestFunction::Sha256 => HasherState::Sha256(sha2::Sha256::new()),
            DigestFunction::Blake3 => HasherState::Blake3(Box::default()),
        };
        Self { state, size: 0 }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.size += data.len() as u64;
        match &mut self.state {
            HasherState::Sha256(state) => state.update(data),
            HasherState::Blake3(state) => {
                state.update(data);
            }
        }
    }

    /// Bytes taken in so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of all bytes taken in.
    pub fn finish(self) -> Digest {
        let (function, hash) = match self.state {
            HasherState::Sha256(state) => (DigestFunction::Sha256, state.finalize().into()),
            HasherState::Blake3(state) => (DigestFunction::Blake3, state.finalize().into()),
        };
        Digest { hash, size: self.size, function }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const EMPTY_BLAKE3: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn known_empty_digests() {
        assert_eq!(Digest::empty(DigestFunction::Sha256).hash_hex(), EMPTY_SHA256);
        assert_eq!(Digest::empty(DigestFunction::Blake3).hash_hex(), EMPTY_BLAKE3);
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        let upper = EMPTY_SHA256.to_uppercase();
        for hash in
            ["", "abc", &EMPTY_SHA256[..63], &upper, &"zz".repeat(32), &format!("0x{}", &EMPTY_SHA256[..62])]
        {
            assert!(
                matches!(Digest::parse(DigestFunction::Sha256, hash, 0), Err(DigestError::Hash { .. })),
                "{hash}"
            );
        }
        assert_eq!(
            Digest::parse(DigestFunction::Sha256, EMPTY_SHA256, -1),
            Err(DigestError::NegativeSize(-1))
        );
    }

    #[test]
    fn texts_that_are_no_digest_are_refused() {
        for text in ["", "abc", EMPTY_SHA256, &format!("{EMPTY_SHA256}/x"), &format!("md5/{EMPTY_SHA256}/0")]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        let named = format!("sha256/{EMPTY_SHA256}/0");
        assert_eq!(named.parse(), Ok(Digest::empty(DigestFunction::Sha256)));
    }

    #[test]
    fn zero_size_is_not_enough_to_be_empty() {
        let other = Digest::parse(DigestFunction::Sha256, &"ab".repeat(32), 0).unwrap();
        assert!(!other.is_empty_blob());
        let sized = Digest::parse(DigestFunction::Sha256, EMPTY_SHA256, 1).unwrap();
        assert!(!sized.is_empty_blob());
    }

    #[test]
    fn unset_function_is_the_default_and_others_are_refused_by_name() {
        assert_eq!(DigestFunction::from_wire(0, DigestFunction::Blake3), Ok(DigestFunction::Blake3));
        let error = DigestFunction::from_wire(WireFunction::Vso as i32, DigestFunction::Sha256).unwrap_err();
        assert!(error.to_string().contains("VSO"), "{error}");
        assert!(DigestFunction::from_wire(99, DigestFunction::Sha256).is_err());
    }

    proptest! {
        #[test]
        fn keys_and_hex_round_trip(data in proptest::collection::vec(any::<u8>(), 0..200), blake3: bool) {
            let function = if blake3 { DigestFunction::Blake3 } else { DigestFunction::Sha256 };
            let digest = Digest::of(function, &data);
            prop_assert_eq!(Digest::from_key(&digest.to_key()), Some(digest));
            prop_assert_eq!(Digest::from_wire(function, &digest.to_wire()), Ok(digest));
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
            let mut hasher = Hasher::new(function);
            for piece in data.chunks(7) {
                hasher.update(piece);
            }
            prop_assert_eq!(hasher.finish(), digest);
        }
    }
}
