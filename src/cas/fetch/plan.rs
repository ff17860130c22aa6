//! How blobs travel: which of them together, and which alone.

use crate::digest::Digest;

/// Bytes of a blob that still travels with others.
const SMALL: u64 = 512 << 10;

/// Bytes and blobs of one batch. Every server takes messages of 4 MiB.
const BATCH_BYTES: u64 = 3 << 20;
const BATCH_BLOBS: usize = 1000;

/// What to ask for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// In one message each.
    pub(super) batches: Vec<Vec<Digest>>,
    /// As a stream each.
    pub(super) streams: Vec<Digest>,
}

/// Every one of `wanted` once, in their order.
pub(super) fn plan(wanted: &[Digest]) -> Plan {
    let mut plan = Plan::default();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for &digest in wanted {
        if digest.size() > SMALL {
            plan.streams.push(digest);
            continue;
        }
        if batch.len() == BATCH_BLOBS || bytes + digest.size() > BATCH_BYTES {
            plan.batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += digest.size();
        batch.push(digest);
    }
    if !batch.is_empty() {
        plan.batches.push(batch);
    }
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::DigestFunction;

    proptest! {
        #[test]
        fn everything_travels_once_and_no_batch_is_too_large(
            sizes in prop::collection::vec(0..2 * SMALL, 0..3000),
        ) {
            let digest = |(number, size): (usize, &u64)| {
                let mut hash = [0; 32];
                hash[..8].copy_from_slice(&(number as u64).to_le_bytes());
                Digest::from_parts(DigestFunction::Sha256, hash, *size)
            };
            let wanted: Vec<Digest> = sizes.iter().enumerate().map(digest).collect();
            let plan = plan(&wanted);
            for batch in &plan.batches {
                prop_assert!((1..=BATCH_BLOBS).contains(&batch.len()));
                prop_assert!(batch.iter().map(Digest::size).sum::<u64>() <= BATCH_BYTES);
            }
            let mut all: Vec<Digest> = plan.batches.concat();
            prop_assert!(all.iter().all(|digest| digest.size() <= SMALL));
            all.extend(&plan.streams);
            all.sort_unstable();
            let mut expected = wanted;
            expected.sort_unstable();
            prop_assert_eq!(all, expected);
        }
    }
}
