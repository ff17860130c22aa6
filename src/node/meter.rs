//! [`Meter`]: what takes time to measure, measured while somebody looks.
//!
//! The load of the machine comes from a dozen files of the kernel, and the numbers of the store from a
//! look at each of its entries. An idle node shall do neither. So both are measured on a thread that may
//! wait, as long as somebody asked within the last seconds, and who asks gets the latest.
//!
//! [`seconds`] is the opposite: a few numbers that cost nothing, noted every second.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::activity::{Activity, Gauges};
use crate::cas::disk::{DiskCas, DiskStats};
use crate::platform::{Load, Readings};
use crate::tasks::Tasks;

/// Time between two measurements.
const PERIOD: Duration = Duration::from_secs(2);

/// The same for the first of a series: a load is the difference of two readings.
const FIRST: Duration = Duration::from_millis(100);

/// Measuring goes on for so long after somebody asked.
const ATTENTION: Duration = Duration::from_secs(5);

/// Who wants a load waits for the first one so long.
const PATIENCE: Duration = Duration::from_millis(500);

/// The store is looked through for at most one part of so many of the time.
const SPARING: u32 = 100;

/// Measures. Clones share what was measured.
#[derive(Clone)]
pub(super) struct Meter {
    shared: Arc<Shared>,
}

/// What was measured last.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// When, and what.
    pub(super) load: Option<(SystemTime, Load)>,
    /// Numbers of the store.
    pub(super) stats: Option<DiskStats>,
}

struct Shared {
    store: DiskCas,
    /// A directory on the disk of the store.
    directory: PathBuf,
    latest: watch::Sender<Measured>,
    asked: Mutex<Instant>,
    /// Told when somebody asks while nothing is measured.
    wake: Notify,
}

// === impl Meter ===

impl Meter {
    /// Measures for `store`, which is in `directory`, by a task of `tasks`.
    pub(super) fn start(store: DiskCas, directory: PathBuf, tasks: &Tasks) -> Self {
        let (latest, asked) = (watch::Sender::default(), Mutex::new(Instant::now()));
        let shared = Arc::new(Shared { store, directory, latest, asked, wake: Notify::new() });
        let (measuring, stop) = (Arc::clone(&shared), tasks.token().clone());
        tasks.spawn("meter", async move {
            let measure = async {
                loop {
                    measuring.wake.notified().await;
                    measuring.while_asked().await;
                }
            };
            stop.run_until_cancelled(measure).await;
        });
        Self { shared }
    }

    /// What was measured last, some seconds ago at most; without what nobody asked for lately.
    pub(super) fn glance(&self) -> Measured {
        *self.shared.asked() = Instant::now();
        let latest = self.shared.latest.borrow().clone();
        if latest.load.is_none() {
            self.shared.wake.notify_one();
        }
        latest
    }

    /// The numbers of the store as they are now, and a load of the last seconds.
    pub(super) async fn measure(&self) -> Measured {
        let mut latest = self.shared.latest.subscribe();
        self.glance();
        self.shared.measure_store().await;
        let measured = timeout(PATIENCE, latest.wait_for(|measured| measured.load.is_some())).await;
        // Without a load in time, the rest is what there is.
        drop(measured);
        latest.borrow().clone()
    }
}

// === impl Shared ===

impl Shared {
    fn asked(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn while_asked(&self) {
        let Some(mut before) = self.read().await else { return };
        let (mut pause, mut store_at) = (FIRST, Instant::now() + PERIOD);
        while self.asked().elapsed() < ATTENTION {
            sleep(pause).await;
            pause = PERIOD;
            let Some(after) = self.read().await else { break };
            let load = Load::between(&before, &after);
            self.latest.send_modify(|latest| latest.load = Some((SystemTime::now(), load)));
            before = after;
            if store_at <= Instant::now() {
                let took = self.measure_store().await;
                store_at = Instant::now() + PERIOD.max(took * SPARING);
            }
        }
        self.latest.send_modify(|latest| latest.load = None);
    }

    /// `None` if the reading panicked, which was logged.
    async fn read(&self) -> Option<Readings> {
        let directory = self.directory.clone();
        tokio::task::spawn_blocking(move || Readings::take(&directory)).await.ok()
    }

    /// Gives the time it took.
    async fn measure_store(&self) -> Duration {
        let (store, start) = (self.store.clone(), Instant::now());
        // A panic there was logged; what was measured before stays.
        if let Ok(stats) = tokio::task::spawn_blocking(move || store.stats()).await {
            self.latest.send_modify(|latest| latest.stats = Some(stats));
        }
        start.elapsed()
    }
}

/// Notes every second what the node has, until `stop` fires.
pub(super) async fn seconds(activity: Arc<Activity>, store: DiskCas, slots: u64, stop: CancellationToken) {
    let second = Duration::from_secs(1);
    let mut ticks = interval_at(Instant::now() + second, second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let usage = store.usage();
        activity.second(Gauges { slots, used_bytes: usage.used_bytes, evicted: usage.evicted });
    }
}
