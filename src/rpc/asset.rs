//! Remote Asset: `build.bazel.remote.asset.v1.Fetch` and `Push`.
//!
//! Requests become values here, and answers messages; what is behind them is the business of
//! [`Assets`]. Content that is not to be had at its origin is told in `status` of an answer that
//! is OK, with the URI it is about; what this node is at fault for fails the call.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farmhand_proto::asset::fetch_server::{Fetch, FetchServer};
use farmhand_proto::asset::push_server::{Push, PushServer};
use farmhand_proto::{asset, protobuf, reapi, rpc, time};
use tonic::{Request, Response, Status, async_trait};

use super::errors::wire;
use super::{Instances, MAX_RECEIVED_MESSAGE};
use crate::asset::qualifiers::Qualifiers;
use crate::asset::uri::AssetUri;
use crate::asset::{Answer, AssetError, Assets, Kind, MOST_URIS, Pushed, Wanted};
use crate::digest::{Digest, DigestError, DigestFunction};

/// The service of either name. Clones are the same.
#[derive(Clone)]
pub struct AssetService {
    assets: Assets,
    instances: Instances,
}

/// What both kinds of fetch have in common.
struct Parts {
    instance_name: String,
    timeout: Option<protobuf::Duration>,
    oldest: Option<protobuf::Timestamp>,
    uris: Vec<String>,
    qualifiers: Vec<asset::Qualifier>,
    digest_function: i32,
}

/// What both kinds of push have in common.
struct PushParts {
    instance_name: String,
    uris: Vec<String>,
    qualifiers: Vec<asset::Qualifier>,
    expire_at: Option<protobuf::Timestamp>,
    content: Option<reapi::Digest>,
    blobs: Vec<reapi::Digest>,
    directories: Vec<reapi::Digest>,
    digest_function: i32,
}

/// What both kinds of answers have in common.
struct Told {
    status: rpc::Status,
    uri: String,
    expires_at: Option<protobuf::Timestamp>,
    digest: Option<reapi::Digest>,
    function: i32,
}

// === impl AssetService ===

impl AssetService {
    /// Serves `assets`.
    pub fn new(assets: Assets, instances: Instances) -> Self {
        Self { assets, instances }
    }

    /// The services for [`Routes`](tonic::service::Routes).
    pub fn into_servers(self) -> (FetchServer<Self>, PushServer<Self>) {
        let push = PushServer::new(self.clone()).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
        (FetchServer::new(self).max_decoding_message_size(MAX_RECEIVED_MESSAGE), push)
    }

    async fn fetch(&self, kind: Kind, parts: Parts) -> Result<Told, Status> {
        let instance = self.instances.find(&parts.instance_name)?;
        let function = instance.function(parts.digest_function)?;
        let uris = uris(&parts.uris)?;
        let wanted = Wanted {
            instance: instance.name,
            function,
            kind,
            qualifiers: qualifiers(parts.qualifiers, uris.len())?,
            uris,
            oldest: parts.oldest.as_ref().map(oldest),
            timeout: parts.timeout.as_ref().map(timeout).transpose()?,
        };
        let answer =
            self.assets.fetch(wanted).await.map_err(|error: Arc<_>| super::errors::status(&*error))?;
        Ok(Told::new(answer, function))
    }

    async fn push(&self, kind: Kind, parts: PushParts) -> Result<(), Status> {
        let instance = self.instances.find(&parts.instance_name)?;
        let function = instance.function(parts.digest_function)?;
        let uris = uris(&parts.uris)?;
        let pushed = Pushed {
            instance: instance.name,
            kind,
            qualifiers: qualifiers(parts.qualifiers, uris.len())?,
            uris,
            content: Digest::from_field(function, parts.content.as_ref())?,
            until: parts.expire_at.as_ref().map(until).transpose()?,
            blobs: digests(function, &parts.blobs)?,
            directories: digests(function, &parts.directories)?,
        };
        Ok(self.assets.push(pushed).await?)
    }
}

#[async_trait]
impl Fetch for AssetService {
    async fn fetch_blob(
        &self,
        request: Request<asset::FetchBlobRequest>,
    ) -> Result<Response<asset::FetchBlobResponse>, Status> {
        let request = request.into_inner();
        let parts = Parts {
            instance_name: request.instance_name,
            timeout: request.timeout,
            oldest: request.oldest_content_accepted,
            uris: request.uris,
            qualifiers: request.qualifiers,
            digest_function: request.digest_function,
        };
        let told = self.fetch(Kind::Blob, parts).await?;
        Ok(Response::new(asset::FetchBlobResponse {
            status: Some(told.status),
            uri: told.uri,
            qualifiers: Vec::new(),
            expires_at: told.expires_at,
            blob_digest: told.digest,
            digest_function: told.function,
        }))
    }

    async fn fetch_directory(
        &self,
        request: Request<asset::FetchDirectoryRequest>,
    ) -> Result<Response<asset::FetchDirectoryResponse>, Status> {
        let request = request.into_inner();
        let parts = Parts {
            instance_name: request.instance_name,
            timeout: request.timeout,
            oldest: request.oldest_content_accepted,
            uris: request.uris,
            qualifiers: request.qualifiers,
            digest_function: request.digest_function,
        };
        let told = self.fetch(Kind::Directory, parts).await?;
        Ok(Response::new(asset::FetchDirectoryResponse {
            status: Some(told.status),
            uri: told.uri,
            qualifiers: Vec::new(),
            expires_at: told.expires_at,
            root_directory_digest: told.digest,
            digest_function: told.function,
        }))
    }
}

#[async_trait]
impl Push for AssetService {
    async fn push_blob(
        &self,
        request: Request<asset::PushBlobRequest>,
    ) -> Result<Response<asset::PushBlobResponse>, Status> {
        let request = request.into_inner();
        let parts = PushParts {
            instance_name: request.instance_name,
            uris: request.uris,
            qualifiers: request.qualifiers,
            expire_at: request.expire_at,
            content: request.blob_digest,
            blobs: request.references_blobs,
            directories: request.references_directories,
            digest_function: request.digest_function,
        };
        self.push(Kind::Blob, parts).await?;
        Ok(Response::new(asset::PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        request: Request<asset::PushDirectoryRequest>,
    ) -> Result<Response<asset::PushDirectoryResponse>, Status> {
        let request = request.into_inner();
        let parts = PushParts {
            instance_name: request.instance_name,
            uris: request.uris,
            qualifiers: request.qualifiers,
            expire_at: request.expire_at,
            content: request.root_directory_digest,
            blobs: request.references_blobs,
            directories: request.references_directories,
            digest_function: request.digest_function,
        };
        self.push(Kind::Directory, parts).await?;
        Ok(Response::new(asset::PushDirectoryResponse {}))
    }
}

// === impl Told ===

impl Told {
    fn new(answer: Answer, function: DigestFunction) -> Self {
        let function = function.to_wire();
        match answer {
            Ok(found) => Self {
                status: rpc::Status::default(),
                uri: found.uri.as_str().to_owned(),
                expires_at: found.until.map(time::timestamp),
                digest: Some(found.content.to_wire()),
                function,
            },
            Err(missing) => Self {
                status: rpc::Status {
                    message: format!("{}: {}", missing.uri, missing.error),
                    ..wire(&missing.error)
                },
                uri: missing.uri.as_str().to_owned(),
                expires_at: None,
                digest: None,
                function,
            },
        }
    }
}

// === what requests say ===

fn uris(given: &[String]) -> Result<Vec<AssetUri>, AssetError> {
    match given.len() {
        0 => Err(AssetError::NoUri),
        1..=MOST_URIS => Ok(given.iter().map(|uri| AssetUri::parse(uri)).collect::<Result<_, _>>()?),
        more => Err(AssetError::TooManyUris(more)),
    }
}

fn qualifiers(given: Vec<asset::Qualifier>, uris: usize) -> Result<Qualifiers, AssetError> {
    let given = given.into_iter().map(|qualifier| (qualifier.name, qualifier.value));
    Ok(Qualifiers::parse(given, uris)?)
}

fn digests(function: DigestFunction, given: &[reapi::Digest]) -> Result<Vec<Digest>, DigestError> {
    given.iter().map(|digest| Digest::from_wire(function, digest)).collect()
}

/// A time beyond all that this system knows is after everything, one before 1970 before.
fn oldest(wire: &protobuf::Timestamp) -> SystemTime {
    let beyond = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 16);
    time::system_time(wire).unwrap_or(if wire.seconds < 0 { SystemTime::UNIX_EPOCH } else { beyond })
}

fn until(wire: &protobuf::Timestamp) -> Result<SystemTime, AssetError> {
    time::system_time(wire).ok_or(AssetError::Time("expire_at"))
}

fn timeout(wire: &protobuf::Duration) -> Result<Duration, AssetError> {
    time::std_duration(wire).ok_or(AssetError::Time("timeout"))
}
