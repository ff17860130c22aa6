//! `farmhand.v1.Control`: what the command line and the dashboard ask of a node.
//!
//! One file below `control/` for each group of calls; this one lists them. What the node is and did
//! comes from a [`ControlSource`], which the composition root implements; blobs and results come
//! from the stores. Who may ask is decided by the file mode of the socket alone.

use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use farmhand_proto::client::MAX_MESSAGE_BYTES;
use farmhand_proto::control::control_server::{Control, ControlServer};
use farmhand_proto::control::{
    AnswerNewcomerRequest, AnswerNewcomerResponse, ExplainMissRequest, GetActionRequest, GetActionResponse,
    GetFarmRequest, GetFarmResponse, GetSettingsRequest, GetSettingsResponse, GetStatusRequest,
    GetStatusResponse, InviteRequest, InviteResponse, JoinRequest, JoinResponse, KillActionRequest,
    KillActionResponse, ListActionsRequest, ListActionsResponse, ListDirectoryRequest, ListDirectoryResponse,
    Miss, Operation, PinActionRequest, PinActionResponse, ReadBlobRequest, ReadBlobResponse,
    ReadOutputRequest, ReadOutputResponse, RerunActionRequest, RerunActionResponse, RotateKeyRequest,
    RotateKeyResponse, SetMachineRequest, SetMachineResponse, ShowKeyRequest, ShowKeyResponse,
    WatchLogRequest, WatchLogResponse, WatchRequest, WatchResponse,
};
use tokio::net::UnixListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use super::Instances;
use crate::action_cache::{ActionCache, Pinning};
use crate::activity::Activity;
use crate::cas::ContentAddressableStorage;
use crate::config::Config;
use crate::execution::Scheduler;
use crate::history::{Explainer, History};
use crate::peer::Trust;
use crate::peer::trust::join::Joining;
use crate::peer::trust::rotation::Fellows;
use crate::tasks::Tasks;
use crate::telemetry::Recent;

pub use socket::{SocketFile, bind_private};

mod actions;
mod farm;
mod join;
mod log;
mod miss;
mod output;
mod page;
mod pin;
mod protocol;
mod query;
mod remains;
mod rerun;
mod settings;
mod socket;
mod steer;
#[cfg(test)]
mod testing;
mod tree;
mod watch;

/// What a call that streams returns.
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Time that calls under way get to end when the node does.
const GRACE: Duration = Duration::from_secs(3);

/// What a node tells of itself.
#[async_trait]
pub trait ControlSource: Send + Sync + 'static {
    /// The state of the node now, measured for this answer; but for its entrance, which is known here.
    async fn status(&self) -> GetStatusResponse;

    /// The same from memory, which takes no time: what has to be measured is some seconds old, or not
    /// there.
    async fn glance(&self) -> GetStatusResponse {
        self.status().await
    }

    /// Runs at most so many actions of other machines at once from now on, until the node ends. A number
    /// larger than that of its slots means all of them. By default there are none to lend.
    fn lend(&self, slots: usize) {
        tracing::debug!(slots, "nothing is lent here");
    }

    /// The operations in flight.
    async fn operations(&self) -> Vec<Operation>;

    /// The one called `name`, with its result where it has one; also one that was over not long ago.
    async fn operation(&self, name: &str) -> Option<Operation> {
        self.operations().await.into_iter().find(|operation| operation.name == name)
    }
}

/// What the service speaks of.
pub struct ControlParts {
    /// The node.
    pub source: Arc<dyn ControlSource>,
    /// What its actions do.
    pub activity: Arc<Activity>,
    /// What became of those that are over.
    pub history: History,
    /// Who knows why they missed.
    pub explainer: Explainer,
    /// Its blobs.
    pub cas: Arc<dyn ContentAddressableStorage>,
    /// Its results.
    pub results: Arc<dyn ActionCache>,
    /// Results that are kept from eviction.
    pub pins: Arc<dyn Pinning>,
    /// What runs its actions.
    pub scheduler: Scheduler,
    /// Its instances.
    pub instances: Instances,
    /// Its settings.
    pub config: Arc<Config>,
    /// The last lines of its log.
    pub log: Arc<Recent>,
    /// Who belongs to its farm.
    pub farm: FarmParts,
}

/// What the service knows of the farm, and may do to it.
#[derive(Clone)]
pub struct FarmParts {
    /// This machine in it.
    pub trust: Trust,
    /// Inviting and joining.
    pub joining: Joining,
    /// The others.
    pub fellows: Arc<dyn Fellows>,
    /// Where work for the disk is done.
    pub tasks: Tasks,
}

/// The service.
pub struct ControlService {
    source: Arc<dyn ControlSource>,
    activity: Arc<Activity>,
    cas: Arc<dyn ContentAddressableStorage>,
    results: Arc<dyn ActionCache>,
    history: History,
    explainer: Explainer,
    pins: Arc<dyn Pinning>,
    scheduler: Scheduler,
    instances: Instances,
    config: Arc<Config>,
    log: Arc<Recent>,
    farm: FarmParts,
    /// Fires when streams are to end.
    stopping: CancellationToken,
}

// === impl ControlService ===

impl ControlService {
    /// A service over these.
    pub fn new(parts: ControlParts) -> Self {
        let ControlParts { source, activity, history, explainer, cas, results, .. } = parts;
        let ControlParts { pins, scheduler, instances, config, log, farm, .. } = parts;
        Self {
            source,
            activity,
            history,
            explainer,
            cas,
            results,
            pins,
            scheduler,
            instances,
            config,
            log,
            farm,
            stopping: CancellationToken::new(),
        }
    }

    /// Serves on `listener` until `stop` fires and the calls under way are answered, but for those of
    /// callers who do not listen; the socket is removed then.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve(
        mut self,
        listener: UnixListener,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        self.stopping = stop.clone();
        let service = ControlServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let service = InterceptedService::new(service, protocol::check);
        let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
        let too_long = {
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                tokio::time::sleep(GRACE).await;
            }
        };
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned());
        let outcome = tokio::select! {
            outcome = served => outcome,
            // A client that stands still does not keep the node from ending.
            () = too_long => Ok(()),
        };
        if let Some(path) = path {
            // Nobody listens there any more; a leftover would only cost the next client a connect.
            let _ = fs::remove_file(path);
        }
        outcome
    }
}

#[async_trait]
impl Control for ControlService {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let entrance = join::entrance_to_wire(&self.farm.joining.entrance().borrow());
        Ok(Response::new(GetStatusResponse { entrance: Some(entrance), ..self.source.status().await }))
    }

    async fn get_action(
        &self,
        request: Request<GetActionRequest>,
    ) -> Result<Response<GetActionResponse>, Status> {
        self.get_action(request).await
    }

    async fn list_actions(
        &self,
        request: Request<ListActionsRequest>,
    ) -> Result<Response<ListActionsResponse>, Status> {
        self.list_actions(request).await
    }

    type WatchStream = Replies<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.watch(request).await
    }

    async fn list_directory(
        &self,
        request: Request<ListDirectoryRequest>,
    ) -> Result<Response<ListDirectoryResponse>, Status> {
        self.list_directory(request).await
    }

    type ReadBlobStream = Replies<ReadBlobResponse>;

    async fn read_blob(
        &self,
        request: Request<ReadBlobRequest>,
    ) -> Result<Response<Self::ReadBlobStream>, Status> {
        self.read_blob(request).await
    }

    type ReadOutputStream = Replies<ReadOutputResponse>;

    async fn read_output(
        &self,
        request: Request<ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        self.read_output(request).await
    }

    async fn explain_miss(&self, request: Request<ExplainMissRequest>) -> Result<Response<Miss>, Status> {
        self.explain_miss(request).await
    }

    async fn kill_action(
        &self,
        request: Request<KillActionRequest>,
    ) -> Result<Response<KillActionResponse>, Status> {
        self.kill_action(request).await
    }

    type RerunActionStream = Replies<RerunActionResponse>;

    async fn rerun_action(
        &self,
        request: Request<RerunActionRequest>,
    ) -> Result<Response<Self::RerunActionStream>, Status> {
        self.rerun_action(request).await
    }

    async fn pin_action(
        &self,
        request: Request<PinActionRequest>,
    ) -> Result<Response<PinActionResponse>, Status> {
        self.pin_action(request).await
    }

    async fn set_machine(
        &self,
        request: Request<SetMachineRequest>,
    ) -> Result<Response<SetMachineResponse>, Status> {
        self.set_machine(request).await
    }

    async fn get_settings(
        &self,
        request: Request<GetSettingsRequest>,
    ) -> Result<Response<GetSettingsResponse>, Status> {
        self.get_settings(request).await
    }

    type WatchLogStream = Replies<WatchLogResponse>;

    async fn watch_log(
        &self,
        request: Request<WatchLogRequest>,
    ) -> Result<Response<Self::WatchLogStream>, Status> {
        self.watch_log(request).await
    }

    async fn get_farm(&self, _: Request<GetFarmRequest>) -> Result<Response<GetFarmResponse>, Status> {
        Ok(Response::new(self.get_farm()))
    }

    type InviteStream = Replies<InviteResponse>;

    async fn invite(&self, request: Request<InviteRequest>) -> Result<Response<Self::InviteStream>, Status> {
        self.invite(request).await
    }

    async fn answer_newcomer(
        &self,
        request: Request<AnswerNewcomerRequest>,
    ) -> Result<Response<AnswerNewcomerResponse>, Status> {
        self.answer_newcomer(&request)
    }

    type JoinStream = Replies<JoinResponse>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Self::JoinStream>, Status> {
        self.join(request)
    }

    async fn show_key(&self, request: Request<ShowKeyRequest>) -> Result<Response<ShowKeyResponse>, Status> {
        self.show_key(&request)
    }

    async fn rotate_key(
        &self,
        request: Request<RotateKeyRequest>,
    ) -> Result<Response<RotateKeyResponse>, Status> {
        self.rotate_key(request).await
    }
}
