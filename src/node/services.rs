//! The services of REAPI, as the clients of this machine get them, and as what runs in actions does.
//!
//! An action that asks for a socket ([`NestedApis`]) gets the same services over it, but for the list of
//! operations, which are those of others. Its own actions run for the same person. If it runs for another
//! machine, it may read results and write none, as that machine may.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::whole::Whole;
use super::work::Work;
use crate::action_cache::ActionCache;
use crate::activity::Activity;
use crate::cas::ContentAddressableStorage;
use crate::cas::chunks::Chunks;
use crate::config::{ChunkSize, Config};
use crate::execution::Scheduler;
use crate::history::History;
use crate::rpc::action_cache::ActionCacheService;
use crate::rpc::byte_stream::ByteStreamService;
use crate::rpc::capabilities::{CacheCapabilitiesProvider, CapabilitiesService};
use crate::rpc::cas::CasService;
use crate::rpc::execution::{ExecutionCapabilitiesProvider, ExecutionService, Outer};
use crate::rpc::log_stream::{LogStreamService, LogStreams};
use crate::rpc::operations::OperationsService;
use crate::rpc::server::Limits;
use crate::rpc::{Instances, server};
use crate::tasks::Tasks;
use crate::worker::{Lease, NestedApis};

/// Connections that an action may have at once: a compiler driver for each of its processes.
const CONNECTIONS: usize = 256;

/// Bytes of messages that have come in part, and of answers not taken, for one action.
const MESSAGES: u64 = 64 << 20;

/// What the services are made of.
#[derive(Clone)]
pub(super) struct Apis {
    instances: Instances,
    cas: Arc<dyn ContentAddressableStorage>,
    results: Arc<dyn ActionCache>,
    scheduler: Scheduler,
    activity: Arc<Activity>,
    history: History,
    chunks: Chunks,
    chunk_size: ChunkSize,
    max_blob_size: u64,
    handshake: Duration,
    byte_stream: ByteStreamService,
    logs: LogStreams,
    tasks: Tasks,
}

// === impl Apis ===

impl Apis {
    /// Those over the stores of `whole`, for the clients of `instances`.
    pub(super) fn new(
        config: &Config,
        whole: &Whole,
        work: &Work,
        instances: &Instances,
        tasks: &Tasks,
    ) -> Self {
        let (cas, instances, activity) =
            (Arc::clone(&whole.cas), instances.clone(), Arc::clone(&work.activity));
        let scheduler = &work.scheduler;
        let logs = LogStreams::new(config.data_dir.clone(), scheduler.clone(), Arc::clone(&cas));
        let settings = super::settings::byte_stream(config);
        // All of them share it: an upload may go on over another connection.
        let byte_stream = ByteStreamService::new(
            Arc::clone(&cas),
            instances.clone(),
            settings,
            Arc::clone(&activity),
            tasks,
        );
        Self {
            byte_stream: byte_stream.with_logs(logs.clone()),
            logs,
            instances,
            cas,
            results: whole.results.clone(),
            scheduler: scheduler.clone(),
            activity,
            history: work.history.clone(),
            chunks: whole.chunks(config.chunk_size),
            chunk_size: config.chunk_size,
            max_blob_size: config.max_blob_size,
            handshake: config.handshake_timeout,
            tasks: tasks.clone(),
        }
    }

    /// All of them, for clients.
    pub(super) fn routes(&self) -> Routes {
        let execution = ExecutionService::new(self.scheduler.clone(), self.instances.clone());
        let operations = OperationsService::new(self.scheduler.clone());
        self.with(&self.instances, execution).add_service(operations.into_server())
    }

    /// Results, for those who may use these instances.
    pub(super) fn action_cache(&self, instances: &Instances) -> ActionCacheService {
        ActionCacheService::new(
            Arc::clone(&self.results),
            Arc::clone(&self.cas),
            instances.clone(),
            Arc::clone(&self.activity),
            self.history.clone(),
        )
    }

    fn with(&self, instances: &Instances, execution: ExecutionService) -> Routes {
        let (cas, activity) = (Arc::clone(&self.cas), Arc::clone(&self.activity));
        let capabilities = CapabilitiesService::new(
            instances.clone(),
            vec![
                Box::new(CacheCapabilitiesProvider {
                    max_blob_size: self.max_blob_size,
                    chunk_size: self.chunk_size,
                }),
                Box::new(ExecutionCapabilitiesProvider),
            ],
        );
        let logs = LogStreamService::new(self.logs.clone(), instances.clone());
        Routes::new(capabilities.into_server())
            .add_service(CasService::new(cas, self.chunks.clone(), instances.clone(), activity))
            .add_service(self.byte_stream.clone())
            .add_service(logs.into_server())
            .add_service(self.action_cache(instances).into_server())
            .add_service(execution.into_server())
    }
}

impl NestedApis for Apis {
    fn serve(
        &self,
        listener: UnixListener,
        lease: &Lease,
        asked: CancellationToken,
        over: CancellationToken,
    ) {
        let instances = if lease.is_guest { self.instances.for_guests() } else { self.instances.clone() };
        let outer = Outer { person: lease.person.clone(), asked };
        let execution = ExecutionService::new(self.scheduler.clone(), instances.clone()).within(outer);
        let routes = self.with(&instances, execution);
        let limits = Limits {
            connections: CONNECTIONS,
            per_address: CONNECTIONS,
            handshake: self.handshake,
            message_memory: MESSAGES,
        };
        self.tasks.spawn("nested apis", server::serve(vec![listener.into()], routes, limits, over));
    }
}
