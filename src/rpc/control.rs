//! `farmhand.v1.Control`: what the command line and the dashboard ask of a node.
//!
//! Owns the lookup of an action by what a person typed, and the private Unix socket. What the node
//! is and did comes from a [`ControlSource`], which the composition root implements; blobs and
//! results come from the stores. Who may ask is decided by the file mode of the socket alone.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use farmhand_proto::control::control_server::{Control, ControlServer};
use farmhand_proto::control::{
    GetActionRequest, GetActionResponse, GetStatusRequest, GetStatusResponse, ListActionsRequest,
    ListActionsResponse, Operation,
};
use farmhand_proto::reapi;
use prost::Message;
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::action_cache::{ActionCache, ActionKey};
use crate::cas::{CasError, ContentAddressableStorage};
use crate::digest::{Digest, DigestFunction, HASH_LEN};
use crate::instance::InstanceName;

/// Version of the control API, told in every status.
pub const PROTOCOL_VERSION: u32 = 1;

/// Bytes of the largest message on this API, both ways.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// Bytes of the largest Action or Command that is shown: three of them fit a message.
const MAX_SHOWN_BYTES: u64 = 8 << 20;

/// Operations listed when the caller sets no limit.
const DEFAULT_LIST: usize = 100;

/// What a node tells of itself. Answers come from memory and take no time.
#[async_trait]
pub trait ControlSource: Send + Sync + 'static {
    /// The state of the node now.
    async fn status(&self) -> GetStatusResponse;

    /// The operations in flight and those still in the history, the newest first, with their
    /// results where they have one.
    async fn operations(&self) -> Vec<Operation>;
}

/// The service.
pub struct ControlService {
    source: Arc<dyn ControlSource>,
    cas: Arc<dyn ContentAddressableStorage>,
    results: Arc<dyn ActionCache>,
}

/// What a person typed to name an action.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Query {
    /// The digest in full.
    Digest(Digest),
    /// A hash whose size must be looked up.
    Hash(String),
}

// === impl Query ===

impl Query {
    /// Reads `hash/size`, `blake3/hash/size` (`sha256/…` too), or a bare hash.
    fn parse(text: &str) -> Result<Self, Status> {
        let bad = || {
            Status::invalid_argument(format!(
                "{text:?} is no digest: use HASH/SIZE, blake3/HASH/SIZE or HASH"
            ))
        };
        let (function, rest) = match text.split_once('/') {
            Some((first, rest)) => match DigestFunction::from_segment(first) {
                Some(function) => {
                    (function.map_err(|error| Status::invalid_argument(error.to_string()))?, rest)
                }
                None => (DigestFunction::default(), text),
            },
            None => (DigestFunction::default(), text),
        };
        let Some((hash, size)) = rest.split_once('/') else {
            let is_hash = text.len() == HASH_LEN * 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            return if is_hash { Ok(Self::Hash(text.to_ascii_lowercase())) } else { Err(bad()) };
        };
        let size = size.parse().map_err(|_| bad())?;
        Digest::parse(function, hash, size)
            .map(Self::Digest)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    /// The digest in full, where only the hash was typed: the one in `operations` that has it.
    fn resolve(self, operations: &[Operation]) -> Result<Digest, Status> {
        let hash = match self {
            Self::Digest(digest) => return Ok(digest),
            Self::Hash(hash) => hash,
        };
        let mut found: Vec<Digest> = operations
            .iter()
            .filter_map(|operation| match Self::parse(&operation.action_digest) {
                Ok(Self::Digest(digest)) if digest.hash_hex() == hash => Some(digest),
                _ => None,
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(Status::not_found(format!(
                "no action with hash {hash} in the history; an older one needs its size: HASH/SIZE"
            ))),
            several => Err(Status::failed_precondition(format!(
                "hash {hash} fits {} actions; add the size, as in {}",
                several.len(),
                several[0]
            ))),
        }
    }
}

// === impl ControlService ===

impl ControlService {
    /// A service over what the node tells and holds.
    pub fn new(
        source: Arc<dyn ControlSource>,
        cas: Arc<dyn ContentAddressableStorage>,
        results: Arc<dyn ActionCache>,
    ) -> Self {
        Self { source, cas, results }
    }

    /// Serves on `listener` until `stop` fires and the calls under way are answered; the socket is
    /// removed then.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve(
        self,
        listener: UnixListener,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let service = ControlServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
        let outcome = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
            .await;
        if let Some(path) = path {
            // Nobody listens there any more; a leftover would only cost the next client a connect.
            let _ = fs::remove_file(path);
        }
        outcome
    }

    /// The bytes of `digest`; empty when they are not stored.
    async fn load(&self, digest: &Digest) -> Result<Vec<u8>, Status> {
        if digest.size() > MAX_SHOWN_BYTES {
            return Err(Status::out_of_range(format!("{digest} is larger than {MAX_SHOWN_BYTES} bytes")));
        }
        match self.cas.get(digest).await {
            Ok(data) => Ok(data.to_vec()),
            Err(CasError::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    /// The Action and its Command, as far as they are stored.
    async fn definition(&self, digest: &Digest) -> Result<(Vec<u8>, Vec<u8>), Status> {
        let bytes = self.load(digest).await?;
        if bytes.is_empty() {
            return Ok((bytes, Vec::new()));
        }
        let not_an_action =
            |reason: String| Status::invalid_argument(format!("{digest} is no Action: {reason}"));
        let action =
            reapi::Action::decode(bytes.as_slice()).map_err(|error| not_an_action(error.to_string()))?;
        let command = Digest::from_field(digest.function(), action.command_digest.as_ref())
            .map_err(|error| not_an_action(format!("command_digest: {error}")))?;
        let command = self.load(&command).await?;
        Ok((bytes, command))
    }

    async fn cached_result(&self, instance: InstanceName, action: Digest) -> Result<Option<Vec<u8>>, Status> {
        let result = self.results.get(&ActionKey { instance, action }).await;
        let result = result.map_err(|error| Status::internal(error.to_string()))?;
        Ok(result.map(|result| result.encode_to_vec()))
    }
}

#[async_trait]
impl Control for ControlService {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.source.status().await))
    }

    async fn get_action(
        &self,
        request: Request<GetActionRequest>,
    ) -> Result<Response<GetActionResponse>, Status> {
        let request = request.into_inner();
        let instance = InstanceName::parse(&request.instance_name)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let operations = self.source.operations().await;
        let digest = Query::parse(&request.digest)?.resolve(&operations)?;
        let operation = last_of(operations, &digest, instance.as_str());
        let (action, command) = self.definition(&digest).await?;
        let cached = self.cached_result(instance, digest).await?;
        if action.is_empty() && cached.is_none() && operation.is_none() {
            return Err(Status::not_found(format!("action {digest} is neither stored nor in the history")));
        }
        Ok(Response::new(GetActionResponse {
            digest: digest.to_string(),
            instance_name: request.instance_name,
            action,
            command,
            in_action_cache: cached.is_some(),
            result: operation.as_ref().and_then(|operation| operation.result.clone()).or(cached),
            operation,
        }))
    }

    async fn list_actions(
        &self,
        request: Request<ListActionsRequest>,
    ) -> Result<Response<ListActionsResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => DEFAULT_LIST,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let mut operations = self.source.operations().await;
        operations.truncate(limit);
        for operation in &mut operations {
            operation.result = None;
        }
        Ok(Response::new(ListActionsResponse { operations }))
    }
}

/// The newest of `operations` that ran `digest` in `instance`.
fn last_of(operations: Vec<Operation>, digest: &Digest, instance: &str) -> Option<Operation> {
    let digest = digest.to_string();
    operations
        .into_iter()
        .find(|operation| operation.action_digest == digest && operation.instance_name == instance)
}

/// The file of a Unix socket. Dropping it removes the file, unless another process has put its own
/// in that place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Held open, so that its inode number is not given to another file.
    file: fs::File,
}

// === impl SocketFile ===

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: path.to_owned(), file: file.into() })
    }

    fn is_in_place(&self) -> io::Result<bool> {
        let (own, found) = (self.file.metadata()?, fs::symlink_metadata(&self.path)?);
        Ok((own.dev(), own.ino()) == (found.dev(), found.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place().is_ok_and(|is| is) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds a Unix socket of mode 0600 at `path`, in a directory that nobody else may write to. A
/// socket that a dead process left behind is replaced; one that somebody answers on is not.
///
/// # Errors
/// `AddrInUse` when a process listens there, `PermissionDenied` when others may write to the
/// directory, and what the system says.
pub fn bind_private(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if let Some(directory) = path.parent() {
        private_directory(directory)?;
    }
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile::at(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok((listener, file))
}

/// Makes `directory` with mode 0700, or checks that the one there is ours alone to write to.
fn private_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let metadata = fs::symlink_metadata(directory)?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || !is_ours || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the directory must belong to this user, and others must not write to it",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::action_cache::memory::MemoryActionCache;
    use crate::cas::memory::MemoryCas;

    struct FakeSource(Vec<Operation>);

    #[async_trait]
    impl ControlSource for FakeSource {
        async fn status(&self) -> GetStatusResponse {
            GetStatusResponse::default()
        }

        async fn operations(&self) -> Vec<Operation> {
            self.0.clone()
        }
    }

    struct Fixture {
        cas: Arc<MemoryCas>,
        results: Arc<MemoryActionCache>,
        action: Digest,
    }

    impl Fixture {
        async fn new() -> Self {
            let cas = Arc::new(MemoryCas::default());
            let command = reapi::Command { arguments: vec!["true".into()], ..Default::default() };
            let command = store(&cas, command.encode_to_vec()).await;
            let action = reapi::Action { command_digest: Some(command.to_wire()), ..Default::default() };
            let action = store(&cas, action.encode_to_vec()).await;
            Self { cas, results: Arc::default(), action }
        }

        async fn get(&self, digest: &str, operations: Vec<Operation>) -> Result<GetActionResponse, Status> {
            let service =
                ControlService::new(Arc::new(FakeSource(operations)), self.cas.clone(), self.results.clone());
            let request = GetActionRequest { digest: digest.into(), instance_name: String::new() };
            service.get_action(Request::new(request)).await.map(Response::into_inner)
        }
    }

    async fn store(cas: &MemoryCas, data: Vec<u8>) -> Digest {
        let digest = Digest::of(DigestFunction::Sha256, &data);
        cas.put(&digest, Bytes::from(data)).await.unwrap();
        digest
    }

    fn operation(digest: impl ToString, name: &str) -> Operation {
        Operation { action_digest: digest.to_string(), name: name.into(), ..Default::default() }
    }

    #[test]
    fn digests_as_people_type_them() {
        let hash = "ab".repeat(32);
        let digest = |function| Digest::parse(function, &hash, 7).unwrap();
        assert_eq!(
            Query::parse(&format!("{hash}/7")).unwrap(),
            Query::Digest(digest(DigestFunction::Sha256))
        );
        let blake3 = digest(DigestFunction::Blake3);
        assert_eq!(Query::parse(&blake3.to_string()).unwrap(), Query::Digest(blake3));
        assert_eq!(Query::parse(&hash.to_uppercase()).unwrap(), Query::Hash(hash.clone()));
        for text in
            ["", "abc", &format!("{hash}/x"), &format!("{hash}/-1"), &format!("md5/{hash}/1"), "a/b/c"]
        {
            assert_eq!(Query::parse(text).unwrap_err().code(), tonic::Code::InvalidArgument, "{text}");
        }
    }

    #[tokio::test]
    async fn an_action_comes_with_its_command_and_its_result() {
        let fixture = Fixture::new().await;
        let got = fixture.get(&fixture.action.to_string(), Vec::new()).await.unwrap();
        let command = reapi::Command::decode(got.command.as_slice()).unwrap();
        assert_eq!(command.arguments, ["true"]);
        assert_eq!((got.result, got.in_action_cache), (None, false));

        let key = ActionKey { instance: InstanceName::default(), action: fixture.action };
        let result = reapi::ActionResult { exit_code: 3, ..Default::default() };
        fixture.results.put(&key, result.clone()).await.unwrap();
        let got = fixture.get(&fixture.action.to_string(), Vec::new()).await.unwrap();
        assert_eq!((got.result, got.in_action_cache), (Some(result.encode_to_vec()), true));
    }

    #[tokio::test]
    async fn a_bare_hash_is_looked_up_in_the_history() {
        let fixture = Fixture::new().await;
        let hash = fixture.action.hash_hex();
        let missing = fixture.get(&hash, Vec::new()).await.unwrap_err();
        assert_eq!(missing.code(), tonic::Code::NotFound);

        let history = vec![operation(fixture.action, "newest"), operation(fixture.action, "older")];
        let got = fixture.get(&hash, history.clone()).await.unwrap();
        assert_eq!(got.digest, fixture.action.to_string());
        assert_eq!(got.operation.unwrap().name, "newest");

        let twin = Digest::from_parts(DigestFunction::Sha256, *fixture.action.hash(), 1);
        let both = history.into_iter().chain([operation(twin, "twin")]).collect();
        let ambiguous = fixture.get(&hash, both).await.unwrap_err();
        assert_eq!(ambiguous.code(), tonic::Code::FailedPrecondition);
    }

    #[tokio::test]
    async fn what_is_no_action_is_refused_and_what_is_unknown_is_not_found() {
        let fixture = Fixture::new().await;
        let text = store(&fixture.cas, b"hello".to_vec()).await;
        let error = fixture.get(&text.to_string(), Vec::new()).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        let unknown = Digest::of(DigestFunction::Sha256, b"unknown");
        let error = fixture.get(&unknown.to_string(), Vec::new()).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::NotFound);
        let gone = fixture.get(&unknown.to_string(), vec![operation(unknown, "gone")]).await.unwrap();
        assert!(gone.action.is_empty() && gone.operation.is_some());
    }

    #[tokio::test]
    async fn the_list_is_bounded_and_light() {
        let fixture = Fixture::new().await;
        let many = (0..300)
            .map(|i| Operation { result: Some(vec![1]), ..operation(fixture.action, &i.to_string()) });
        let service = ControlService::new(
            Arc::new(FakeSource(many.collect())),
            fixture.cas.clone(),
            fixture.results.clone(),
        );
        for (limit, expected) in [(0, DEFAULT_LIST), (7, 7), (1000, 300)] {
            let listed = service.list_actions(Request::new(ListActionsRequest { limit })).await.unwrap();
            let operations = listed.into_inner().operations;
            assert_eq!(operations.len(), expected);
            assert!(operations.iter().all(|operation| operation.result.is_none()));
        }
    }

    #[tokio::test]
    async fn the_socket_is_private_and_a_stale_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/control.sock");
        let first = bind_private(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(bind_private(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (listener, file) = first;
        drop(listener);
        let second = bind_private(&path).unwrap();
        drop(file);
        assert!(path.exists(), "the file is that of the second");
        drop(second);
        assert!(!path.exists());

        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(bind_private(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
