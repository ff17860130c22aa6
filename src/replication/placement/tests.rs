use proptest::prelude::*;

use super::*;
use crate::digest::{Digest, DigestFunction};

fn machine(number: u8) -> MachineId {
    let digest = Digest::of(DigestFunction::Sha256, &[number]);
    MachineId::read(&digest.to_key()[1..33]).unwrap()
}

fn key(number: u64) -> EntryKey {
    EntryKey::from(&Digest::of(DigestFunction::Sha256, &number.to_le_bytes()))
}

fn first(placement: &Placement, key: &EntryKey, wanted: usize) -> Vec<MachineId> {
    placement.places(key, wanted).iter().collect()
}

#[test]
fn each_machine_has_its_share() {
    let weights = [1, 1, 2, 4, 8];
    let placement = Placement::new((0..).map(machine).zip(weights));
    let mut counts = [0_u32; 5];
    let total = 80_000;
    for number in 0..total {
        let chosen = first(&placement, &key(number), 1)[0];
        counts[(0..5).position(|number| machine(number) == chosen).unwrap()] += 1;
    }
    for (count, weight) in counts.iter().zip(weights) {
        let share = f64::from(*count) / total as f64 / (f64::from(weight) / 16.0);
        assert!((0.93..1.07).contains(&share), "{weight}: {share}");
    }
}

#[test]
fn the_logarithm_is_one() {
    for draw in [1, 2, 3, 1 << 20, (1 << 40) + 12345, 1 << 63, 3 << 62, u64::MAX / 3, u64::MAX] {
        let exact = 64.0 - ((draw | 1) as f64).log2();
        let ours = minus_log2(draw) as f64 / 2_f64.powi(32);
        assert!((ours - exact).abs() < 0.01, "{draw}: {ours}, not {exact}");
        assert!(minus_log2(draw) > 0 && minus_log2(draw) <= 64 << 32);
    }
}

proptest! {
    #[test]
    fn who_comes_or_goes_moves_only_its_own(
        weights in prop::collection::vec(1_u32..1000, 1..12), wanted in 1..4_usize, keys in any::<u64>(),
    ) {
        let all: Vec<_> = (0..).map(machine).zip(weights).collect();
        let whole = Placement::new(all.clone());
        let (gone, _) = all[0];
        let less = Placement::new(all[1..].to_vec());
        for number in 0..50 {
            let key = key(keys.wrapping_add(number));
            let before = first(&whole, &key, wanted);
            let mut expected = first(&whole, &key, wanted + 1);
            expected.retain(|id| *id != gone);
            expected.truncate(wanted.min(less.len()));
            prop_assert_eq!(first(&less, &key, wanted), expected);
            prop_assert_eq!(before.len(), wanted.min(whole.len()));
            let mut distinct = before.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), before.len());
        }
    }

    #[test]
    fn the_order_of_machines_and_the_number_wanted_change_nothing(
        weights in prop::collection::vec(0_u32..9, 0..20), seed in any::<u64>(), wanted in 0..10_usize,
    ) {
        let all: Vec<_> = (0..).map(machine).zip(weights).collect();
        let key = key(seed);
        let there = Placement::new(all.clone());
        let back = Placement::new(all.into_iter().rev());
        prop_assert_eq!(&there, &back);
        let most = first(&there, &key, MOST_COPIES);
        let some = first(&there, &key, wanted);
        prop_assert_eq!(some.len(), wanted.min(MOST_COPIES).min(there.len()));
        prop_assert_eq!(&some[..], &most[..some.len()]);
    }
}
