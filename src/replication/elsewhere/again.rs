//! [`Tries`]: whether what nobody had is worth looking for once more.
//!
//! Who asks all machines there is a link to while a link is lost, and made again at once, would hear from none of
//! them what the farm has. So one who found nothing looks again whenever the machines changed meanwhile, and waits
//! for that while one is expected back ([`Roster::returning`]), or may be found lost at any moment because it has
//! just failed. Where nobody was lost lately and nobody fails, nothing is waited for.
//!
//! [`Roster::returning`]: crate::replication::roster::Roster::returning

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Elsewhere;
use crate::replication::roster::Roster;

/// How long it may take until a machine that fails is seen to be lost.
const NOTICE: Duration = Duration::from_millis(500);

/// Nothing is looked for again so long after the first time, however often machines come and go.
const LONGEST: Duration = Duration::from_secs(10);

/// Tries to find something, the first of which begins now.
pub(super) struct Tries {
    machines: watch::Receiver<Arc<Roster>>,
    /// Calls that had failed when this one began.
    failures: u64,
    end: Instant,
}

impl Elsewhere {
    /// Whoever looks for something at all machines takes this first.
    pub(super) fn tries(&self) -> Tries {
        let machines = self.0.others.follow();
        Tries { machines, failures: self.failures(), end: Instant::now() + LONGEST }
    }

    fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }
}

// === impl Tries ===

impl Tries {
    /// Whether to look once more, at once: waits for machines to ask if they are likely to come.
    pub(super) async fn again(&mut self, elsewhere: &Elsewhere) -> bool {
        let has_failed = elsewhere.failures() != self.failures;
        let noticed = has_failed.then(|| Instant::now() + NOTICE);
        while Instant::now() < self.end {
            let has_changed = self.machines.has_changed().unwrap_or_default();
            let roster = Arc::clone(&self.machines.borrow_and_update());
            if has_changed && roster.others().next().is_some() {
                self.failures = elsewhere.failures();
                return true;
            }
            let Some(until) = roster.returning().max(noticed) else { return false };
            match timeout_at(until.min(self.end), self.machines.changed()).await {
                Ok(Ok(())) => self.machines.mark_changed(),
                Ok(Err(_)) | Err(_) => return false,
            }
        }
        false
    }
}
