//! `Watch`: the state of the farm, then what changes in it.
//!
//! A stream makes each message when the client is ready for it and not before, out of what the
//! [`Activity`](crate::activity::Activity) has then. So a client that stands still holds nothing but its
//! place, and one that is slow skips what was between. Nothing is polled: the stream sleeps until
//! something changes, which is at least once a second.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farmhand_proto::control::{GetStatusResponse, WatchPosition, WatchRequest, WatchResponse};
use farmhand_proto::time::{std_duration, timestamp};
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::join::entrance_to_wire;
use super::remains::mark_pinned;
use super::{ControlService, ControlSource, Replies};
use crate::action_cache::Pinning;
use crate::activity::{Follower, Position};
use crate::peer::trust::join::Entrance;

/// Time between two messages where the caller leaves it to us.
const INTERVAL: Duration = Duration::from_millis(100);

/// The shortest and the longest that a caller may want.
const INTERVALS: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(60)];

/// One watcher.
struct Watcher {
    source: Arc<dyn ControlSource>,
    pins: Arc<dyn Pinning>,
    entrance: watch::Receiver<Entrance>,
    epoch: u64,
    follower: Follower,
    interval: Duration,
    /// When the last message was made, and what it told of the node.
    last: Option<(Instant, GetStatusResponse)>,
    stopping: CancellationToken,
}

impl ControlService {
    pub(super) async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Replies<WatchResponse>>, Status> {
        let WatchRequest { resume, finished, interval } = request.into_inner();
        let resume = resume.map(|at| Position { epoch: at.boot_epoch, change: at.sequence });
        let follower = self.activity.follow(resume, finished as usize)?;
        let wanted = interval.as_ref().and_then(std_duration).unwrap_or(INTERVAL);
        let watcher = Watcher {
            source: Arc::clone(&self.source),
            pins: Arc::clone(&self.pins),
            entrance: self.farm.joining.entrance(),
            epoch: self.activity.epoch(),
            follower,
            interval: wanted.clamp(INTERVALS[0], INTERVALS[1]),
            last: None,
            stopping: self.stopping.clone(),
        };
        let messages = stream::unfold(Some(watcher), |watcher| async { Watcher::step(watcher?).await });
        Ok(Response::new(Box::pin(messages)))
    }
}

// === impl Watcher ===

impl Watcher {
    async fn step(mut self) -> Option<(Result<WatchResponse, Status>, Option<Self>)> {
        let stopping = self.stopping.clone();
        match stopping.run_until_cancelled(self.message()).await {
            Some(message) => Some((Ok(message), Some(self))),
            None => Some((Err(Status::unavailable("this machine is shutting down")), None)),
        }
    }

    /// The next message, when it is time for it.
    async fn message(&mut self) -> WatchResponse {
        let status = match &self.last {
            None => self.source.status().await,
            Some((at, _)) => {
                if !self.follower.is_in_snapshot() {
                    tokio::select! {
                        () = self.follower.changed() => {}
                        Ok(()) = self.entrance.changed() => {}
                    }
                    sleep_until(*at + self.interval).await;
                }
                self.source.glance().await
            }
        };
        let entrance = entrance_to_wire(&self.entrance.borrow_and_update());
        let status = GetStatusResponse { entrance: Some(entrance), ..status };
        let made_at = Instant::now();
        let update = self.follower.read();
        let mut message = WatchResponse {
            snapshot: update.is_snapshot,
            position: Some(WatchPosition { boot_epoch: self.epoch, sequence: update.change }),
            now: Some(timestamp(SystemTime::now())),
            operations: update.operations,
            builds: update.builds,
            mnemonics: update.mnemonics,
            samples: update.samples,
            complete: update.is_complete,
            ..Default::default()
        };
        mark_pinned(&*self.pins, &mut message.operations);
        let told = self.last.take().map(|(_, told)| told).filter(|_| !update.is_snapshot);
        self.last = Some((made_at, tell(&mut message, told, status)));
        message
    }
}

/// Puts what is new in `status` into `message`; `told` is what the caller was told before. Gives what it
/// knows now.
fn tell(
    message: &mut WatchResponse,
    told: Option<GetStatusResponse>,
    status: GetStatusResponse,
) -> GetStatusResponse {
    let is_first = told.is_none();
    let mut told = told.unwrap_or_default();
    if is_first || is_another(&told, &status) {
        message.node.clone_from(&status.node);
    }
    if is_first || told.machines != status.machines {
        message.machines.clone_from(&status.machines);
    }
    if told.execution != status.execution {
        message.execution = status.execution;
    }
    if status.storage.is_some() && told.storage != status.storage {
        (message.storage, told.storage) = (status.storage, status.storage);
    }
    if told.entrance != status.entrance {
        message.entrance.clone_from(&status.entrance);
    }
    if is_first || told.warnings != status.warnings {
        message.warnings.clone_from(&status.warnings);
        message.has_warnings = true;
    }
    GetStatusResponse { storage: told.storage, ..status }
}

/// Whether the node is not what it was, but for its age.
fn is_another(told: &GetStatusResponse, status: &GetStatusResponse) -> bool {
    let ageless = |status: &GetStatusResponse| {
        let mut node = status.node.clone().unwrap_or_default();
        node.uptime = None;
        node
    };
    ageless(told) != ageless(status)
}

#[cfg(test)]
mod tests;
