//! [`Usage`]: what was used of late, fading.

use std::time::Duration;

use tokio::time::Instant;

/// Time after which what was used counts half.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// What is less than this, in thousandths of a slot used for a second, counts as nothing.
const NOTHING: u64 = 10;

/// Slots in use, and what was used before. The time of the last change is in the past of any later one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Slots used, times seconds, as of the last change.
    slot_seconds: f64,
    running: usize,
    changed_at: Option<Instant>,
}

impl Usage {
    /// From now on so many slots are used.
    pub(super) fn change(&mut self, now: Instant, running: usize) {
        self.slot_seconds = self.faded(now);
        self.running = running;
        self.changed_at = Some(now);
    }

    /// Slots in use.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// What was used, in thousandths of a slot used for a second: what is long past counts little.
    pub(super) fn of_late(&self, now: Instant) -> u64 {
        (self.faded(now) * 1000.0) as u64
    }

    /// Whether it is as if nothing had ever been used.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        self.running == 0 && self.of_late(now) < NOTHING
    }

    /// Slots in use approach their number times the mean life, what was used before fades.
    fn faded(&self, now: Instant) -> f64 {
        let Some(changed_at) = self.changed_at else { return 0.0 };
        let half_lives = now.saturating_duration_since(changed_at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        let rest = (-half_lives).exp2();
        let most = self.running as f64 * HALF_LIFE.as_secs_f64() / std::f64::consts::LN_2;
        self.slot_seconds * rest + most * (1.0 - rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_halves_every_half_life_and_is_forgotten_in_the_end() {
        let start = Instant::now();
        let mut usage = Usage::default();
        assert!(usage.is_forgotten(start));
        usage.change(start, 2);
        let after = start + Duration::from_secs(1);
        let used = usage.of_late(after);
        assert!((1900..2000).contains(&used), "{used}: two slots for a second, a little of it faded");
        usage.change(after, 0);
        let half = usage.of_late(after + HALF_LIFE);
        assert!(half.abs_diff(used / 2) <= 1, "{half} of {used}");
        assert!(!usage.is_forgotten(after + HALF_LIFE));
        assert!(usage.is_forgotten(after + HALF_LIFE * 20));
    }

    #[test]
    fn it_does_not_matter_how_often_it_is_counted() {
        let start = Instant::now();
        let (mut often, mut once) = (Usage::default(), Usage::default());
        once.change(start, 3);
        for second in 0..30 {
            often.change(start + Duration::from_secs(second), 3);
        }
        let end = start + Duration::from_secs(30);
        assert!(often.of_late(end).abs_diff(once.of_late(end)) <= 1);
    }
}
