//! [`Sketch`]: which of many sets of blobs is most like another, told from a few numbers of each.

use crate::digest::Digest;

/// Numbers in a sketch.
const LENGTH: usize = 32;

/// The least of the hashes of a set. Of two sets that share a part of their blobs, the
/// sketches share about the same part (bottom-k min-hash).
#[derive(Clone, Debug)]
pub(super) struct Sketch(Vec<u64>);

impl Sketch {
    /// The sketch of a set without duplicates.
    pub(super) fn of<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> Self {
        let mut hashes: Vec<u64> = digests.into_iter().map(hash_of).collect();
        if hashes.len() > LENGTH {
            hashes.select_nth_unstable(LENGTH);
            hashes.truncate(LENGTH);
        }
        hashes.sort_unstable();
        Self(hashes)
    }

    /// About how much of the two sets is common to both: 0 to 1.
    pub(super) fn likeness(&self, other: &Self) -> f64 {
        let (mut ours, mut theirs) = (self.0.as_slice(), other.0.as_slice());
        let (mut common, mut seen) = (0, 0);
        while let ([a, ours_left @ ..], [b, theirs_left @ ..]) = (ours, theirs)
            && seen < LENGTH
        {
            seen += 1;
            common += usize::from(a == b);
            if a <= b {
                ours = ours_left;
            }
            if b <= a {
                theirs = theirs_left;
            }
        }
        if seen == 0 { 0.0 } else { common as f64 / seen as f64 }
    }
}

/// The begin of a hash is as good as all of it.
fn hash_of(digest: &Digest) -> u64 {
    digest.hash().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestFunction::Sha256;

    fn set(numbers: std::ops::Range<u32>) -> Sketch {
        let digests: Vec<_> = numbers.map(|n| Digest::of(Sha256, &n.to_le_bytes())).collect();
        Sketch::of(&digests)
    }

    #[test]
    fn likeness_is_about_the_common_part() {
        let whole = set(0..5000);
        assert!((whole.likeness(&whole) - 1.0).abs() < f64::EPSILON);
        assert!(whole.likeness(&set(5..5005)) > 0.9);
        let half = whole.likeness(&set(2500..5000));
        assert!((0.2..0.8).contains(&half), "{half}");
        assert!(whole.likeness(&set(5000..9000)) < 0.1);
        assert!(set(0..0).likeness(&whole) < 0.1);
    }
}
