//! What a [`ControlService`](super::ControlService) needs in tests of single calls.

use std::sync::Arc;

use super::{ControlParts, ControlSource, FarmParts};
use crate::activity::Activity;
use crate::cas::memory::MemoryCas;
use crate::execution::testing::Farm;
use crate::execution::{Sequence, Settings};
use crate::history::{Explainer, History};
use crate::peer::trust::join::{JoinSettings, Joining, Unannounced};
use crate::peer::trust::rotation::Alone;
use crate::peer::trust::{self, FarmKey};
use crate::rpc::Instances;
use crate::tasks::Tasks;

/// A farm of its own without workers, with its stores, and `source`.
pub(super) fn parts(source: impl ControlSource) -> ControlParts {
    of_farm(source, &Farm::new(Settings::default()))
}

/// The same over the blobs of `cas`.
pub(super) fn over(source: impl ControlSource, cas: &Arc<MemoryCas>) -> ControlParts {
    ControlParts { cas: cas.clone(), ..parts(source) }
}

/// The stores and the scheduler of `farm`, and `source`.
pub(super) fn of_farm(source: impl ControlSource, farm: &Farm) -> ControlParts {
    let (history, cas) = (History::forgetful(), Arc::new(farm.cas.clone()));
    let results = Arc::new(farm.action_cache.clone());
    ControlParts {
        source: Arc::new(source),
        activity: Arc::new(Activity::new(1, "test", Sequence::default())),
        explainer: Explainer::new(history.clone(), cas.clone(), Arc::new(|_| None)),
        history,
        cas,
        results: results.clone(),
        pins: results,
        scheduler: farm.scheduler.clone(),
        instances: Instances::default(),
        config: Arc::default(),
        log: Arc::default(),
        farm: farm_of_one(),
    }
}

/// A machine alone in a farm.
fn farm_of_one() -> FarmParts {
    let (trust, tasks) = (trust::testing::trust(&FarmKey::generate()), Tasks::default());
    let bind = std::net::Ipv4Addr::LOCALHOST.into();
    let settings = JoinSettings { name: "test".to_owned(), program: "0".to_owned(), bind, peer_port: 0 };
    let joining = Joining::new(trust.clone(), settings, Arc::new(Unannounced), Arc::new(drop), tasks.clone());
    FarmParts { trust, joining, fellows: Arc::new(Alone), tasks }
}
