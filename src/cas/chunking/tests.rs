use proptest::prelude::*;

use super::*;

/// FastCDC as the paper has it, one byte after the other. Places are looked at in pairs there, so that the last
/// of an odd number is none.
fn plain_fast(average: usize, data: &[u8]) -> Vec<usize> {
    let bits = average.ilog2() as usize;
    let (strict, loose) = (fastcdc::v2020::MASKS[bits + 2], fastcdc::v2020::MASKS[bits - 2]);
    let (mut cuts, mut rest) = (Vec::new(), data);
    while !rest.is_empty() {
        let (least, most) = (average / 4, rest.len().min(average * 4));
        let mut hash = 0u64;
        let found = (least..most / 2 * 2).find(|place| {
            hash = (hash << 1).wrapping_add(GEAR[usize::from(rest[*place])]);
            hash & if *place < average { strict } else { loose } == 0
        });
        let cut = found.filter(|_| most > least).unwrap_or(most);
        cuts.push(cut);
        rest = &rest[cut..];
    }
    cuts
}

/// RepMaxCDC by its definition: all places are looked at for each chunk.
fn plain_rep_max(least: usize, horizon: usize, data: &[u8]) -> Vec<usize> {
    let hash_at = |data: &[u8], place: usize| {
        let window = &data[place - GEAR_WINDOW..place];
        window.iter().fold(0u64, |hash, byte| (hash << 1).wrapping_add(GEAR[usize::from(*byte)]))
    };
    let (mut cuts, mut rest) = (Vec::new(), data);
    while !rest.is_empty() {
        let mut cut = rest.len();
        if rest.len() >= 2 * least {
            let mut last = (least + horizon).min(rest.len() - least);
            loop {
                let places = (least..=last).map(|place| (hash_at(rest, place), place));
                let best = places.reduce(|best, next| if next.0 > best.0 { next } else { best });
                cut = best.unwrap().1;
                if cut < 2 * least {
                    break;
                }
                last = cut - least;
            }
        }
        cuts.push(cut);
        rest = &rest[cut..];
    }
    cuts
}

fn chunks(chunking: Chunking, data: &[u8], piece: usize) -> Vec<Bytes> {
    let mut chunker = Chunker::new(chunking);
    let mut chunks: Vec<Bytes> = data.chunks(piece).flat_map(|piece| chunker.push(piece)).collect();
    chunks.extend(chunker.finish());
    chunks
}

fn lengths(chunking: Chunking, data: &[u8], piece: usize) -> Vec<usize> {
    chunks(chunking, data, piece).iter().map(Bytes::len).collect()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

/// Noise with stretches that repeat, which rolling hashes are tried by.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let stretch = (any::<u64>(), 0usize..6000, 0u8..4);
    proptest::collection::vec(stretch, 0..6).prop_map(|stretches| {
        let stretch = |(seed, len, kind)| match kind {
            0 => vec![seed as u8; len],
            1 => noise(seed, len.min(7) + 1).into_iter().cycle().take(len).collect(),
            _ => noise(seed, len),
        };
        stretches.into_iter().flat_map(stretch).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fast_cdc_cuts_as_the_paper_does(data in data(), bits in 10u32..13, piece in 1usize..5000) {
        let average = 1 << bits;
        let cuts = lengths(Chunking::FastCdc2020 { average }, &data, piece);
        prop_assert_eq!(&cuts, &plain_fast(average, &data));
        let (last, others) = cuts.split_last().map_or((0, &[][..]), |(last, others)| (*last, others));
        prop_assert!(others.iter().all(|len| (average / 4..=average * 4).contains(len)));
        prop_assert!(last <= average * 4);
    }

    #[test]
    fn rep_max_cdc_cuts_as_it_is_defined(
        data in data(),
        least in 64usize..400,
        horizon in 0usize..3000,
        piece in 1usize..5000,
    ) {
        let cuts = lengths(Chunking::RepMaxCdc { least, horizon }, &data, piece);
        prop_assert_eq!(&cuts, &plain_rep_max(least, horizon, &data));
        let is_small = |len: &usize| *len < 2 * least;
        prop_assert!(cuts.iter().all(is_small));
        prop_assert!(data.len() < least || cuts.iter().all(|len| *len >= least));
    }

    #[test]
    fn chunks_put_together_are_the_blob(data in data(), piece in 1usize..5000) {
        for chunking in [
            Chunking::FastCdc2020 { average: 1024 },
            Chunking::RepMaxCdc { least: 512, horizon: 4096 },
        ] {
            let chunks = chunks(chunking, &data, piece);
            prop_assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
            prop_assert_eq!(chunks.concat(), data.clone());
        }
    }

    #[test]
    fn what_is_inserted_changes_the_chunks_around_it_only(
        seed: u64,
        at in 0usize..400_000,
        inserted in proptest::collection::vec(any::<u8>(), 1..300),
    ) {
        let before = noise(seed, 400_000);
        let after = [&before[..at], &inserted, &before[at..]].concat();
        for chunking in [
            Chunking::FastCdc2020 { average: 4096 },
            Chunking::RepMaxCdc { least: 2048, horizon: 16 * 1024 },
        ] {
            let known = chunks(chunking, &before, 70_000);
            let new = chunks(chunking, &after, 70_000);
            let bytes: usize = new.iter().filter(|chunk| !known.contains(chunk)).map(Bytes::len).sum();
            prop_assert!(bytes < 100_000, "{} bytes are new by {:?}", bytes, chunking);
        }
    }
}

#[test]
fn an_offer_is_what_clients_take() {
    for average in [64 << 10, 512 << 10, 1 << 20] {
        let offer = ChunkingOffer::new(ChunkSize::new(average).unwrap());
        let mut capabilities = reapi::CacheCapabilities::default();
        offer.advertise(&mut capabilities);
        assert!(capabilities.split_blob_support && capabilities.splice_blob_support);
        let fast = capabilities.fast_cdc_2020_params.unwrap();
        assert_eq!((fast.avg_chunk_size_bytes, fast.seed), (average, 0));
        let rep_max = capabilities.rep_max_cdc_params.unwrap();
        assert_eq!(rep_max.horizon_size_bytes, 8 * rep_max.min_chunk_size_bytes);
        let (least, horizon) = (rep_max.min_chunk_size_bytes as usize, rep_max.horizon_size_bytes as usize);
        assert_eq!(offer.choose(2), Chunking::RepMaxCdc { least, horizon });
        for other in [0, 1, 99, -1] {
            assert_eq!(offer.choose(other), Chunking::FastCdc2020 { average: average as usize });
        }
    }
}
