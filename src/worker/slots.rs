//! [`Slots`]: how many may work at once, changed while they do.
//!
//! A semaphore that can shrink below what is taken: slots that are too many are taken away as they
//! are given back. Nobody who has one loses it. Who takes several gets them as they come free, one after the
//! other among those who want several, so that neither they nor anybody else wait for ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedSemaphorePermit, Semaphore};

/// Slots, free and taken.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    size: Mutex<Size>,
    /// Held by who gathers several.
    gathering: AsyncMutex<()>,
    resized: Notify,
}

/// A slot that is taken; free again when dropped, unless there are too many.
#[derive(Debug)]
pub(super) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    slots: Arc<Slots>,
}

/// Slots there are: `wanted`, and those among the taken ones that are to go.
#[derive(Debug)]
struct Size {
    wanted: usize,
    surplus: usize,
    is_closing: bool,
}

// === impl Slots ===

impl Slots {
    /// So many free slots.
    pub(super) fn new(wanted: usize) -> Arc<Self> {
        let size = Mutex::new(Size { wanted, surplus: 0, is_closing: false });
        let free = Arc::new(Semaphore::new(wanted));
        Arc::new(Self { free, size, gathering: AsyncMutex::default(), resized: Notify::new() })
    }

    /// Slots there are, or will be once those that are too many were given back.
    pub(super) fn wanted(&self) -> usize {
        self.size().wanted
    }

    /// Takes a slot, waiting until one is free; `None` once they are closed.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Slot> {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(Slot { permit: Some(permit), slots: Arc::clone(self) })
    }

    /// Takes as many slots as `count` says of how many there are, which may change meanwhile, waiting until they
    /// are free; `None` once they are closed. What was gathered is free again when this is dropped.
    pub(super) async fn take_several(self: &Arc<Self>, count: impl Fn(usize) -> usize) -> Option<Vec<Slot>> {
        if count(self.wanted()) <= 1 {
            return Some(vec![self.take().await?]);
        }
        let _turn = self.gathering.lock().await;
        let mut taken = Vec::new();
        loop {
            let mut resized = std::pin::pin!(self.resized.notified());
            resized.as_mut().enable();
            let wanted = count(self.wanted()).max(1);
            if taken.len() >= wanted {
                taken.truncate(wanted);
                return Some(taken);
            }
            tokio::select! {
                biased;
                slot = self.take() => taken.push(slot?),
                () = resized => {}
            }
        }
    }

    /// Makes it `wanted` slots. Those that are taken stay with who has them.
    pub(super) fn resize(&self, wanted: usize) {
        let mut size = self.size();
        if size.is_closing {
            return;
        }
        if wanted > size.wanted {
            let more = wanted - size.wanted;
            let kept = more.min(size.surplus);
            size.surplus -= kept;
            self.free.add_permits(more - kept);
        } else {
            let less = size.wanted - wanted;
            size.surplus += less - self.free.forget_permits(less);
        }
        size.wanted = wanted;
        drop(size);
        self.resized.notify_waiters();
    }

    /// Waits until all slots are free; nobody gets one any more.
    pub(super) async fn close(&self) {
        let all = {
            let mut size = self.size();
            size.is_closing = true;
            size.wanted += std::mem::take(&mut size.surplus);
            u32::try_from(size.wanted).unwrap_or(u32::MAX)
        };
        // An error means that somebody else is closing them.
        let held = self.free.acquire_many(all).await;
        self.free.close();
        drop(held);
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        let mut size = self.slots.size();
        if size.surplus > 0 {
            size.surplus -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn take_now(slots: &Arc<Slots>) -> Option<Slot> {
        slots.take().now_or_never().flatten()
    }

    proptest! {
        /// Whatever is taken, given back and resized: there is a free slot just when fewer are taken than
        /// are wanted.
        #[test]
        fn as_many_as_wanted_and_no_more(steps in proptest::collection::vec(0..8_u8, 0..60)) {
            let slots = Slots::new(2);
            let mut taken = Vec::new();
            let mut wanted = 2;
            for step in steps {
                match step {
                    0..3 => {
                        let slot = take_now(&slots);
                        prop_assert_eq!(slot.is_some(), taken.len() < wanted);
                        taken.extend(slot);
                    }
                    3..5 => drop(taken.pop()),
                    number => {
                        wanted = usize::from(number - 5) * 2 + 1;
                        slots.resize(wanted);
                    }
                }
                prop_assert_eq!(slots.wanted(), wanted);
                prop_assert_eq!(slots.free.available_permits(), wanted.saturating_sub(taken.len()));
            }
        }
    }

    #[test]
    fn who_takes_several_waits_for_all_of_them_and_starves_nobody() {
        let slots = Slots::new(3);
        let single = take_now(&slots).unwrap();
        let mut wide = Box::pin(slots.take_several(|of| of));
        let mut second = Box::pin(slots.take_several(|_| 2));
        assert!(wide.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        let mut late = Box::pin(slots.take());
        assert!(late.as_mut().now_or_never().is_none(), "those that are gathered are nobody else's");
        drop(single);
        let all = wide.as_mut().now_or_never().flatten().unwrap();
        assert_eq!(all.len(), 3);
        drop((all, wide));
        assert!(late.as_mut().now_or_never().flatten().is_some());
        assert_eq!(second.as_mut().now_or_never().flatten().unwrap().len(), 2);
    }

    #[test]
    fn who_gathers_makes_do_with_fewer_if_there_are_fewer() {
        let slots = Slots::new(4);
        let taken = [take_now(&slots).unwrap(), take_now(&slots).unwrap()];
        let mut wide = Box::pin(slots.take_several(|of| of.min(4)));
        assert!(wide.as_mut().now_or_never().is_none());
        slots.resize(2);
        assert_eq!(wide.as_mut().now_or_never().flatten().unwrap().len(), 2);
        drop(wide);
        drop(taken);
        assert_eq!(slots.free.available_permits(), 2);
    }

    #[tokio::test]
    async fn closing_waits_for_all_that_are_taken_also_those_that_are_too_many() {
        let slots = Slots::new(2);
        let taken = [take_now(&slots).unwrap(), take_now(&slots).unwrap()];
        slots.resize(1);
        let mut closing = Box::pin(slots.close());
        assert!(closing.as_mut().now_or_never().is_none());
        slots.resize(0);
        for slot in taken {
            assert!(closing.as_mut().now_or_never().is_none());
            drop(slot);
        }
        closing.await;
        assert!(take_now(&slots).is_none());
    }
}
