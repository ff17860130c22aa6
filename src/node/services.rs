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
    pub(super) instances: Instances,
    pub(super) cas: Arc<dyn ContentAddressableStorage>,
    pub(super) results: Arc<dyn ActionCache>,
    pub(super) scheduler: Scheduler,
    pub(super) activity: Arc<Activity>,
    pub(super) history: History,
    pub(super) chunks: Chunks,
    pub(super) chunk_size: ChunkSize,
    pub(super) max_blob_size: u64,
    pub(super) handshake: Duration,
    pub(super) byte_stream: ByteStreamService,
    pub(super) logs: LogStreams,
    pub(super) tasks: Tasks,
}

// === impl Apis ===

impl Apis {
    /// ByteStream, which all of them share: an upload may go on over another connection.
    pub(super) fn byte_stream(
        config: &Config,
        cas: &Arc<dyn ContentAddressableStorage>,
        instances: &Instances,
        activity: &Arc<Activity>,
        logs: &LogStreams,
        tasks: &Tasks,
    ) -> ByteStreamService {
        let settings = super::settings::byte_stream(config);
        ByteStreamService::new(Arc::clone(cas), instances.clone(), settings, Arc::clone(activity), tasks)
            .with_logs(logs.clone())
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
