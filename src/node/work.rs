//! [`Work`]: the work of this machine's clients, and what is told of it.

use std::sync::Arc;
use std::time::SystemTime;

use super::whole::Whole;
use super::{boot, meter, settings};
use crate::activity::Activity;
use crate::cas::disk::DiskCas;
use crate::config::Config;
use crate::execution::{Scheduler, Sequence};
use crate::history::{Explainer, History};
use crate::tasks::Tasks;

/// Who plans it, and who watches.
pub(super) struct Work {
    pub(super) scheduler: Scheduler,
    /// What goes on.
    pub(super) activity: Arc<Activity>,
    /// What is over.
    pub(super) history: History,
    /// Why actions were not in the cache.
    pub(super) explainer: Explainer,
}

// === impl Work ===

impl Work {
    /// Takes actions from now on; what becomes of them goes to `history`.
    pub(super) fn start(config: &Config, whole: &Whole, history: History, tasks: &Tasks) -> Self {
        let sequence = Sequence::after(history.last_sequence());
        let activity = start_activity(config, &whole.store, sequence.clone(), tasks);
        let explainer = start_explainer(&history, whole, &activity, tasks);
        let scheduler = Scheduler::start(
            Arc::clone(&whole.cas),
            whole.results.clone(),
            settings::execution(config),
            sequence,
            Arc::new((Arc::clone(&activity), history.clone())),
            tasks,
        );
        Self { scheduler, activity, history, explainer }
    }
}

/// Who explains misses, and tells those who watch.
fn start_explainer(history: &History, whole: &Whole, activity: &Arc<Activity>, tasks: &Tasks) -> Explainer {
    let fates = whole.fates.clone();
    let explainer =
        Explainer::new(history.clone(), Arc::clone(&whole.cas), Arc::new(move |key| fates.of(key)));
    let activity = Arc::clone(activity);
    explainer.start(tasks, move |operation, miss| {
        activity.annotate(operation, |remarks| remarks.miss = miss.kind());
    });
    explainer
}

/// What people may see of this run of the node; its seconds are counted from here on.
fn start_activity(config: &Config, store: &DiskCas, sequence: Sequence, tasks: &Tasks) -> Arc<Activity> {
    let epoch = boot::count(&config.data_dir, SystemTime::now());
    let activity = Activity::new(epoch, &config.name, sequence).of_person(&config.farm.person);
    let activity = Arc::new(activity);
    let (counted, slots) = (Arc::clone(&activity), config.slots as u64);
    tasks.spawn("seconds", meter::seconds(counted, store.clone(), slots, tasks.token().clone()));
    activity
}
