//! Random numbers that a seed decides.

use std::cell::Cell;

/// A stream of numbers, the same for the same seed.
#[derive(Debug)]
pub(super) struct Dice {
    seed: u64,
    thrown: Cell<u64>,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, thrown: Cell::new(0) }
    }

    /// A number from `least` up to, but not including, `end`, which must be larger.
    pub(super) fn between(&self, least: usize, end: usize) -> usize {
        self.thrown.set(self.thrown.get() + 1);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&self.thrown.get().to_le_bytes());
        let mut number = [0; 8];
        hasher.finalize_xof().fill(&mut number);
        least + (u64::from_le_bytes(number) % (end - least) as u64) as usize
    }

    /// One of `items`; `None` of none.
    pub(super) fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.between(0, items.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides() {
        let throws = |seed| {
            let dice = Dice::new(seed);
            (0..100).map(|_| dice.between(5, 9)).collect::<Vec<_>>()
        };
        assert_eq!(throws(1), throws(1));
        assert_ne!(throws(1), throws(2));
        assert!(throws(3).iter().all(|number| (5..9).contains(number)));
        assert_eq!(Dice::new(1).pick::<u8>(&[]), None);
    }
}
