//! [`Recent`]: a map that remembers what was used lately, in bounded memory.
//!
//! It has two halves. When the younger one is full it becomes the older one, and what was in that and not
//! used since is forgotten. So an entry outlives at least half a map of others, and using one costs a
//! look-up, not the upkeep of an order.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// Entries that weigh so much as their number are the usual case.
fn one<V>(_: &V) -> usize {
    1
}

/// A map that forgets what was not used for long.
#[derive(Debug)]
pub struct Recent<K, V> {
    younger: HashMap<K, V>,
    older: HashMap<K, V>,
    /// The weight of the younger half, and the most it may have.
    weight: usize,
    most: usize,
    weigh: fn(&V) -> usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// Remembers `entries` at most.
    pub fn new(entries: usize) -> Self {
        Self::weighed(entries, one)
    }

    /// Remembers entries that weigh `total` at most, by what `weigh` says of each. What alone weighs more than
    /// an eighth of that is not taken: it would drive out too much.
    pub fn weighed(total: usize, weigh: fn(&V) -> usize) -> Self {
        Self { younger: HashMap::new(), older: HashMap::new(), weight: 0, most: (total / 2).max(1), weigh }
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.younger.is_empty() && self.older.is_empty()
    }

    /// What is remembered under `key`, which counts as used.
    pub fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if !self.younger.contains_key(key) {
            let (key, value) = self.older.remove_entry(key)?;
            self.insert(key, value);
        }
        self.younger.get(key)
    }

    /// The same without counting as used.
    pub fn peek<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.younger.get(key).or_else(|| self.older.get(key))
    }

    /// Remembers `value` under `key`, in place of what was there.
    pub fn insert(&mut self, key: K, value: V) {
        let weight = (self.weigh)(&value);
        if weight > self.most.div_ceil(4) {
            self.remove(&key);
            return;
        }
        self.make_room(weight);
        self.weight += weight;
        if let Some(before) = self.younger.insert(key, value) {
            self.weight -= (self.weigh)(&before);
        }
    }

    /// Forgets what is remembered under `key`.
    pub fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.older.remove(key);
        if let Some(before) = self.younger.remove(key) {
            self.weight -= (self.weigh)(&before);
        }
    }

    fn make_room(&mut self, weight: usize) {
        if self.weight + weight > self.most {
            self.older = mem::take(&mut self.younger);
            self.weight = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_used_stays() {
        let mut recent = Recent::new(20);
        recent.insert(0, "used");
        for other in 1..1000 {
            recent.insert(other, "other");
            assert_eq!(recent.get(&0), Some(&"used"));
        }
        assert_eq!(recent.get(&1), None);
    }

    #[test]
    fn a_glance_is_no_use() {
        let mut recent = Recent::new(20);
        recent.insert(0, ());
        for other in 1..=20 {
            assert!(recent.peek(&0).is_some() || other > 10);
            recent.insert(other, ());
        }
        assert_eq!(recent.peek(&0), None);
    }

    #[test]
    fn what_is_too_large_drives_nothing_out() {
        let mut recent = Recent::weighed(80, |text: &String| text.len());
        recent.insert(1, "0123456789".to_owned());
        recent.insert(2, "0123456789+".to_owned());
        assert!(recent.peek(&1).is_some() && recent.peek(&2).is_none());
        recent.insert(1, "0123456789+".to_owned());
        assert_eq!(recent.peek(&1), None, "what was there is no longer true");
    }

    proptest! {
        /// It never weighs more than it may, and what it says is what was said last.
        #[test]
        fn it_is_bounded_and_true(steps in proptest::collection::vec((0..12_u8, 0..9_usize, 0..4_u8), 0..200)) {
            let mut recent = Recent::weighed(40, |value: &(u8, usize)| value.1);
            let mut said = HashMap::new();
            for (key, weight, what) in steps {
                match what {
                    0 => {
                        recent.remove(&key);
                        said.remove(&key);
                    }
                    1 => drop(recent.get(&key)),
                    _ => {
                        recent.insert(key, (key, weight));
                        said.insert(key, weight);
                    }
                }
                let weight = |half: &HashMap<u8, (u8, usize)>| half.values().map(|value| value.1).sum::<usize>();
                prop_assert_eq!(weight(&recent.younger), recent.weight);
                prop_assert!(recent.weight <= 20 && weight(&recent.older) <= 20);
                for key in 0..12 {
                    let found = recent.peek(&key);
                    prop_assert!(found.is_none_or(|value| *value == (key, said[&key])));
                }
            }
        }
    }
}
