//! A server with the cache services over stores in memory, and clients for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use farmhand_proto::bytestream::byte_stream_client::ByteStreamClient;
use farmhand_proto::reapi::action_cache_client::ActionCacheClient;
use farmhand_proto::reapi::capabilities_client::CapabilitiesClient;
use farmhand_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

use super::action_cache::ActionCacheService;
use super::byte_stream::{ByteStreamService, ByteStreamSettings};
use super::capabilities::{CacheCapabilitiesProvider, CapabilitiesService};
use super::cas::CasService;
use super::{InstanceSettings, Instances, InstancesConfig, server};
use crate::action_cache::complete::CompleteActionCache;
use crate::action_cache::memory::MemoryActionCache;
use crate::activity::Activity;
use crate::cas::chunks::Chunks;
use crate::cas::memory::MemoryCas;
use crate::config::ChunkSize;
use crate::digest::Digest;
use crate::execution::Sequence;
use crate::history::History;
use crate::instance::InstanceName;
use crate::tasks::Tasks;

/// Bytes a test client takes in one message: more than the default, so that tests can measure.
const CLIENT_MESSAGE: usize = 64 * 1024 * 1024;

/// A running server.
pub(super) struct TestServer {
    /// Its blobs.
    pub(super) cas: MemoryCas,
    /// What it tells of its calls.
    pub(super) activity: Arc<Activity>,
    generation: Arc<AtomicU64>,
    tasks: Tasks,
    address: SocketAddr,
    channel: Channel,
    serving: JoinHandle<()>,
}

impl TestServer {
    /// Serves any instance.
    pub(super) async fn start() -> Self {
        Self::with(InstancesConfig::default(), ByteStreamSettings::default()).await
    }

    /// Serves instance `name` only.
    pub(super) async fn with_instance(name: &str, settings: InstanceSettings) -> Self {
        let named = HashMap::from([(InstanceName::parse(name).unwrap(), settings)]);
        let config = InstancesConfig { named, restricted: true, ..Default::default() };
        Self::with(config, ByteStreamSettings::default()).await
    }

    pub(super) async fn with(config: InstancesConfig, settings: ByteStreamSettings) -> Self {
        let cas = MemoryCas::default();
        let tasks = Tasks::default();
        let instances = Instances::new(config);
        let shared: Arc<MemoryCas> = Arc::new(cas.clone());
        let generation = Arc::new(AtomicU64::new(0));
        let read_generation = Arc::clone(&generation);
        let results = CompleteActionCache::new(
            MemoryActionCache::default(),
            shared.clone(),
            Arc::new(move || read_generation.load(Ordering::Relaxed)),
            Duration::from_secs(60),
        );
        let activity = Arc::new(Activity::new(1, "test", Sequence::default()));
        let provider = Box::new(CacheCapabilitiesProvider::default());
        let routes = Routes::new(CapabilitiesService::new(instances.clone(), vec![provider]).into_server())
            .add_service(CasService::new(
                shared.clone(),
                Chunks::new(ChunkSize::default(), shared.clone(), shared.clone(), shared.clone()),
                instances.clone(),
                Arc::clone(&activity),
            ))
            .add_service(ByteStreamService::new(
                shared.clone(),
                instances.clone(),
                settings,
                Arc::clone(&activity),
                &tasks,
            ))
            .add_service(
                ActionCacheService::new(
                    Arc::new(results),
                    shared,
                    instances,
                    Arc::clone(&activity),
                    History::forgetful(),
                )
                .into_server(),
            );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tasks.spawn(
            "serve",
            server::serve(vec![listener.into()], routes, server::Limits::default(), tasks.token().clone()),
        );
        let channel = Endpoint::try_from(format!("http://{address}"))
            .unwrap()
            .connect_timeout(Duration::from_secs(20))
            .connect()
            .await
            .unwrap();
        Self { cas, activity, generation, tasks, address, channel, serving }
    }

    /// Forgets a blob, as eviction would.
    pub(super) fn lose(&self, digest: &Digest) {
        self.cas.remove(digest);
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(super) fn capabilities(&self) -> CapabilitiesClient<Channel> {
        CapabilitiesClient::new(self.channel())
    }

    pub(super) fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel()).max_decoding_message_size(CLIENT_MESSAGE)
    }

    pub(super) fn byte_stream(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel())
    }

    pub(super) fn action_cache(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.channel()).max_decoding_message_size(CLIENT_MESSAGE)
    }

    pub(super) async fn stop(self) {
        self.tasks.stop().await;
        self.serving.await.unwrap();
    }
}

/// Bytes that do not compress well and differ by seed.
pub(super) fn blob(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_862_933_555_777_941_757) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}
