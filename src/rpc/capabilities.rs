//! `Capabilities`: what this node can do, put together from what each subsystem says of itself.
//!
//! A [`CapabilitiesProvider`] knows one part and fills it in; nobody declares what another part does.
//! [`CacheCapabilitiesProvider`] is the part of the services in this module.

use std::sync::Arc;

use async_trait::async_trait;
use farmhand_proto::reapi::capabilities_server::{Capabilities, CapabilitiesServer};
use farmhand_proto::reapi::symlink_absolute_path_strategy;
use farmhand_proto::{reapi, semver};
use tonic::{Request, Response, Status};

use super::{Instance, Instances, MAX_BATCH};
use crate::cas::chunking::ChunkingOffer;
use crate::cas::compression::Compressor;
use crate::config::ChunkSize;
use crate::digest::DigestFunction;
use crate::execution;

/// The oldest API version served.
const LOW: (i32, i32) = (2, 0);

/// The newest version all of which is served.
const HIGH: (i32, i32) = (2, 13);

/// Fills in one part of the capabilities.
pub trait CapabilitiesProvider: Send + Sync + 'static {
    /// Adds what this part can do in `instance`.
    fn contribute(&self, instance: &Instance, capabilities: &mut reapi::ServerCapabilities);
}

/// What the CAS and the action cache can do (`CacheCapabilities`).
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheCapabilitiesProvider {
    /// Bytes of the largest blob taken; 0 for no limit.
    pub max_blob_size: u64,
    /// Mean size of the chunks that blobs are split into.
    pub chunk_size: ChunkSize,
}

/// The service.
#[derive(Clone)]
pub struct CapabilitiesService {
    instances: Instances,
    providers: Arc<[Box<dyn CapabilitiesProvider>]>,
}

// === impl CacheCapabilitiesProvider ===

impl CapabilitiesProvider for CacheCapabilitiesProvider {
    fn contribute(&self, instance: &Instance, capabilities: &mut reapi::ServerCapabilities) {
        let compressors: Vec<i32> = Compressor::ADVERTISED.iter().map(|value| *value as i32).collect();
        let mut cache = reapi::CacheCapabilities {
            digest_functions: digest_functions(instance),
            action_cache_update_capabilities: Some(reapi::ActionCacheUpdateCapabilities {
                update_enabled: instance.settings.action_cache_updates,
            }),
            max_batch_total_size_bytes: MAX_BATCH as i64,
            cache_priority_capabilities: Some(execution::priorities()),
            symlink_absolute_path_strategy: symlink_absolute_path_strategy::Value::Allowed as i32,
            supported_compressors: compressors.clone(),
            supported_batch_update_compressors: compressors,
            max_cas_blob_size_bytes: i64::try_from(self.max_blob_size).unwrap_or(i64::MAX),
            ..Default::default()
        };
        ChunkingOffer::new(self.chunk_size).advertise(&mut cache);
        capabilities.cache_capabilities = Some(cache);
    }
}

/// All digest functions, that of the instance first: clients that take the first get the default.
pub fn digest_functions(instance: &Instance) -> Vec<i32> {
    let default = instance.settings.digest_function;
    let others = DigestFunction::ALL.into_iter().filter(|function| *function != default);
    std::iter::once(default).chain(others).map(DigestFunction::to_wire).collect()
}

// === impl CapabilitiesService ===

impl CapabilitiesService {
    /// Answers with what `providers` contribute, in their order.
    pub fn new(instances: Instances, providers: Vec<Box<dyn CapabilitiesProvider>>) -> Self {
        Self { instances, providers: providers.into() }
    }

    /// The service for [`Routes`](tonic::service::Routes).
    pub fn into_server(self) -> CapabilitiesServer<Self> {
        CapabilitiesServer::new(self)
    }
}

#[async_trait]
impl Capabilities for CapabilitiesService {
    async fn get_capabilities(
        &self,
        request: Request<reapi::GetCapabilitiesRequest>,
    ) -> Result<Response<reapi::ServerCapabilities>, Status> {
        let instance = self.instances.find(&request.get_ref().instance_name)?;
        let mut capabilities = reapi::ServerCapabilities {
            low_api_version: Some(version(LOW)),
            high_api_version: Some(version(HIGH)),
            ..Default::default()
        };
        for provider in self.providers.iter() {
            provider.contribute(&instance, &mut capabilities);
        }
        Ok(Response::new(capabilities))
    }
}

fn version((major, minor): (i32, i32)) -> semver::SemVer {
    semver::SemVer { major, minor, patch: 0, prerelease: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::InstanceSettings;
    use crate::rpc::testing::TestServer;

    async fn capabilities(server: &TestServer, instance: &str) -> Result<reapi::ServerCapabilities, Status> {
        let request = reapi::GetCapabilitiesRequest { instance_name: instance.into() };
        server.capabilities().get_capabilities(request).await.map(Response::into_inner)
    }

    #[tokio::test]
    async fn every_instance_gets_an_honest_answer() {
        let server = TestServer::start().await;
        for instance in ["", "main", "a/b/c"] {
            let all = capabilities(&server, instance).await.unwrap();
            let minor = |version: Option<semver::SemVer>| version.map(|v| (v.major, v.minor, v.prerelease));
            assert_eq!(minor(all.low_api_version), Some((2, 0, String::new())));
            assert_eq!(minor(all.high_api_version), Some((2, 13, String::new())));
            assert!(all.deprecated_api_version.is_none());
            assert!(all.execution_capabilities.is_none(), "nobody contributes execution here");
            let cache = all.cache_capabilities.unwrap();
            assert_eq!(cache.digest_functions, [1, 9]);
            assert_eq!(cache.supported_compressors.first(), Some(&1));
            assert_eq!(cache.supported_batch_update_compressors, cache.supported_compressors);
            assert!(cache.max_batch_total_size_bytes > 3_000_000);
            assert!(cache.max_batch_total_size_bytes < 4 * 1024 * 1024);
            assert!(cache.action_cache_update_capabilities.unwrap().update_enabled);
            assert_ne!(cache.symlink_absolute_path_strategy, 0);
            assert!(cache.split_blob_support && cache.splice_blob_support);
            assert!(cache.fast_cdc_2020_params.is_some() && cache.rep_max_cdc_params.is_some());
        }
    }

    #[tokio::test]
    async fn settings_of_an_instance_show() {
        let settings = InstanceSettings {
            digest_function: DigestFunction::Blake3,
            action_cache_updates: false,
            ..Default::default()
        };
        let server = TestServer::with_instance("b3", settings).await;
        let cache = capabilities(&server, "b3").await.unwrap().cache_capabilities.unwrap();
        assert_eq!(cache.digest_functions, [9, 1]);
        assert!(!cache.action_cache_update_capabilities.unwrap().update_enabled);
        let error = capabilities(&server, "other").await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::NotFound);
        assert!(error.message().contains("other"));
    }
}
