//! [`Incomplete`]: results that were there and could not be shown, and what they lacked.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::action_cache::ActionKey;
use crate::digest::Digest;

/// Results remembered at most.
const LIMIT: usize = 1024;

/// The latest results that were found to lack a blob.
#[derive(Default)]
pub struct Incomplete(Mutex<Table>);

#[derive(Default)]
struct Table {
    lacking: HashMap<ActionKey, Digest>,
    /// The oldest first.
    order: VecDeque<ActionKey>,
}

impl Incomplete {
    /// Notes that the result under `key` lacks `digest`.
    pub(super) fn note(&self, key: &ActionKey, digest: Digest) {
        let mut table = self.table();
        if table.lacking.insert(key.clone(), digest).is_some() {
            return;
        }
        table.order.push_back(key.clone());
        if table.order.len() > LIMIT
            && let Some(oldest) = table.order.pop_front()
        {
            table.lacking.remove(&oldest);
        }
    }

    /// A blob that the result under `key` lacked when it was last found incomplete.
    pub fn lacking(&self, key: &ActionKey) -> Option<Digest> {
        self.table().lacking.get(key).copied()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestFunction;
    use crate::instance::InstanceName;

    #[test]
    fn the_latest_are_remembered() {
        let digest = |n: usize| Digest::of(DigestFunction::Sha256, &n.to_le_bytes());
        let key = |n| ActionKey { instance: InstanceName::default(), action: digest(n) };
        let incomplete = Incomplete::default();
        (0..=LIMIT).for_each(|n| incomplete.note(&key(n), digest(n)));
        incomplete.note(&key(LIMIT), digest(7));
        assert_eq!(incomplete.lacking(&key(0)), None);
        assert_eq!(incomplete.lacking(&key(1)), Some(digest(1)));
        assert_eq!(incomplete.lacking(&key(LIMIT)), Some(digest(7)));
        assert_eq!(incomplete.table().order.len(), LIMIT);
    }
}
