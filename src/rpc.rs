//! What clients speak to: gRPC, one file for each service, and the cache over plain HTTP (`http`).
//! `errors` is the only mapping of errors to statuses.
//!
//! Each service is a value that takes what it serves (`Arc<dyn ContentAddressableStorage>` and the
//! like) and knows no other service. `server` binds a set of them to listeners. What all of them
//! share: [`Instances`] (which names are served), `errors` (what a failure looks like on the wire)
//! and `metadata` (who is asking).
//!
//! Requests become values of the domain here, or errors; nothing below this module sees a
//! `reapi::Digest` from outside.

pub mod action_cache;
pub mod asset;
pub mod byte_stream;
pub mod capabilities;
pub mod cas;
mod codec;
pub mod control;
pub mod copies;
pub mod errors;
pub mod execution;
pub mod health;
pub mod http;
mod instances;
pub mod log_stream;
pub mod metadata;
pub mod operations;
mod output;
pub mod peer;
pub mod reflection;
pub mod resource_name;
pub mod server;
mod service;
#[cfg(test)]
mod testing;

pub use capabilities::CapabilitiesProvider;
pub use instances::{Instance, InstanceError, InstanceSettings, Instances, InstancesConfig};

/// Bytes of the largest message taken from a client: well above any batch, so that an oversized batch
/// gets an answer that says so instead of a transport error that is tried again.
pub const MAX_RECEIVED_MESSAGE: usize = 33 * 1024 * 1024;

/// Bytes of the largest message sent: gRPC clients refuse more than 4 MiB unless told otherwise.
pub const MAX_SENT_MESSAGE: usize = 4 * 1024 * 1024 - 1024;

/// Bytes of blobs in one batch call (`CacheCapabilities.max_batch_total_size_bytes`). The distance
/// to [`MAX_SENT_MESSAGE`] is room for the digests and statuses of 4,000 blobs.
pub const MAX_BATCH: u64 = 3_800_000;
