//! [`Portions`]: how much of the machine each action that runs here has.
//!
//! An action has a slot. One that asks for more, by a platform property, has as many slots as cores, and so
//! much of the memory that all of them may have; it waits until that is free. One that says nothing of memory
//! takes what there is, as everybody did before anybody asked. Asking for more than there is of slots is asking
//! for all; a machine with too few cores or too little memory is not asked at all
//! ([`Requirements::mismatches`]). Elsewhere it counts as one run: who shares out the slots of machines knows
//! nothing of this.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::platform::Requirements;
use crate::worker::slots::{Slot, Slots};

/// Memory is counted in these.
const MIB: u64 = 1 << 20;

/// What there is for actions.
#[derive(Debug)]
pub(super) struct Portions {
    slots: Arc<Slots>,
    memory: Arc<Semaphore>,
    mebibytes: u32,
}

/// What an action has, until this is dropped.
#[derive(Debug)]
pub(super) struct Portion {
    _memory: Option<OwnedSemaphorePermit>,
    _slots: Vec<Slot>,
}

// === impl Portions ===

impl Portions {
    /// So many slots, and bytes of memory.
    pub(super) fn new(slots: usize, memory: u64) -> Self {
        let mebibytes = u32::try_from(memory / MIB).unwrap_or(u32::MAX).max(1);
        let permits = (mebibytes as usize).min(Semaphore::MAX_PERMITS);
        Self { slots: Slots::new(slots), memory: Arc::new(Semaphore::new(permits)), mebibytes }
    }

    /// Slots there are.
    pub(super) fn slots(&self) -> usize {
        self.slots.wanted()
    }

    /// Makes it so many slots.
    pub(super) fn resize(&self, slots: usize) {
        self.slots.resize(slots);
    }

    /// Takes what `asked` asks for, waiting until it is free; `None` once the slots are closed. Memory comes
    /// first for everybody, so that nobody who has slots waits for memory, nor in circles.
    pub(super) async fn take(&self, asked: &Requirements) -> Option<Portion> {
        let memory = match asked.memory {
            None => None,
            Some(bytes) => {
                let wanted = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX).min(self.mebibytes);
                Some(Arc::clone(&self.memory).acquire_many_owned(wanted).await.ok()?)
            }
        };
        let slots = self.slots.take_several(|of| asked.slots(of)).await?;
        Some(Portion { _memory: memory, _slots: slots })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn asked(cores: u64, memory: Option<u64>) -> Requirements {
        Requirements { millicores: Some(cores * 1000), memory, ..Default::default() }
    }

    #[test]
    fn memory_is_given_as_far_as_it_reaches() {
        let portions = Portions::new(4, 1000 * MIB);
        let take = |asked: Requirements| portions.take(&asked).now_or_never().flatten();
        let most = take(asked(1, Some(800 * MIB))).unwrap();
        assert!(take(asked(1, Some(201 * MIB))).is_none());
        let rest = take(asked(1, Some(200 * MIB))).unwrap();
        let silent = take(asked(1, None)).unwrap();
        drop((most, rest));
        assert!(take(asked(1, Some(u64::MAX))).is_some(), "more than there is, is all");
        drop(silent);
    }

    #[test]
    fn slots_are_given_together() {
        let portions = Portions::new(4, MIB);
        let take = |asked: Requirements| portions.take(&asked).now_or_never().flatten();
        let three = take(asked(3, None)).unwrap();
        assert!(take(asked(2, None)).is_none());
        let one = take(asked(1, None)).unwrap();
        drop(three);
        assert!(take(asked(9, None)).is_none());
        drop(one);
        assert!(take(asked(9, None)).is_some());
    }
}
