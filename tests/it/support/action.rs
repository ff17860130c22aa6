//! Building, uploading and running actions.

use std::collections::{BTreeMap, BTreeSet};

use farmhand::digest::Digest;
use farmhand_proto::any;
use farmhand_proto::longrunning::operation::Result as OperationResult;
use farmhand_proto::reapi::{self, ExecuteOperationMetadata, ExecuteResponse};
use farmhand_proto::{longrunning, protobuf};
use prost::Message;
use tonic::Status;

use super::Client;

/// Content of files by path, and whether they are executable.
type Files = BTreeMap<String, (Vec<u8>, bool)>;

/// An action under construction. Inputs are given by path.
#[derive(Clone, Default)]
pub(crate) struct ActionBuilder {
    /// The Command; tests set its fields directly.
    pub(crate) command: reapi::Command,
    /// The Action; digests are filled in by [`upload`](Self::upload).
    pub(crate) action: reapi::Action,
    /// The request; digests and instance are filled in.
    pub(crate) request: reapi::ExecuteRequest,
    files: Files,
    /// Files that are marked as parts of a tool.
    tools: BTreeSet<String>,
    symlinks: BTreeMap<String, String>,
    directories: Vec<String>,
    input_root: Option<Digest>,
}

/// All that came of an Execute call.
pub(crate) struct Outcome {
    /// Every message of the stream, in order.
    pub(crate) updates: Vec<longrunning::Operation>,
    /// The response in the last one.
    pub(crate) response: ExecuteResponse,
    /// Digest of the Action that ran.
    pub(crate) action_digest: Digest,
}

impl ActionBuilder {
    /// An action that runs these arguments.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let command = reapi::Command {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        Self { command, ..Self::default() }.env("PATH", "/usr/bin:/bin")
    }

    /// An action that runs a shell script.
    pub(crate) fn sh(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        let variable = reapi::command::EnvironmentVariable { name: name.into(), value: value.into() };
        self.command.environment_variables.push(variable);
        self
    }

    pub(crate) fn file(mut self, path: &str, data: impl AsRef<[u8]>) -> Self {
        self.files.insert(path.into(), (data.as_ref().to_vec(), false));
        self
    }

    pub(crate) fn executable(mut self, path: &str, data: impl AsRef<[u8]>) -> Self {
        self.files.insert(path.into(), (data.as_ref().to_vec(), true));
        self
    }

    /// An executable that is marked as a part of the tool, as Bazel does it.
    pub(crate) fn tool(mut self, path: &str, data: impl AsRef<[u8]>) -> Self {
        self.tools.insert(path.into());
        self.executable(path, data)
    }

    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Self {
        self.symlinks.insert(path.into(), target.into());
        self
    }

    pub(crate) fn directory(mut self, path: &str) -> Self {
        self.directories.push(path.into());
        self
    }

    /// Uses a Directory that is in the CAS already.
    pub(crate) fn input_root(mut self, digest: Digest) -> Self {
        self.input_root = Some(digest);
        self
    }

    pub(crate) fn working_directory(mut self, path: &str) -> Self {
        self.command.working_directory = path.into();
        self
    }

    /// Names outputs the new way.
    pub(crate) fn outputs(mut self, paths: &[&str]) -> Self {
        self.command.output_paths = paths.iter().map(ToString::to_string).collect();
        self
    }

    pub(crate) fn timeout_ms(mut self, ms: i64) -> Self {
        let nanos = i32::try_from(ms % 1000 * 1_000_000).unwrap();
        self.action.timeout = Some(protobuf::Duration { seconds: ms / 1000, nanos });
        self
    }

    pub(crate) fn do_not_cache(mut self) -> Self {
        self.action.do_not_cache = true;
        self
    }

    pub(crate) fn skip_cache_lookup(mut self) -> Self {
        self.request.skip_cache_lookup = true;
        self
    }

    /// Makes the action differ from every other one.
    pub(crate) fn salt(mut self, salt: &str) -> Self {
        self.action.salt = salt.as_bytes().to_vec();
        self
    }

    /// Adds a platform property to the Action.
    pub(crate) fn property(mut self, name: &str, value: &str) -> Self {
        let property = reapi::platform::Property { name: name.into(), value: value.into() };
        self.action.platform.get_or_insert_default().properties.push(property);
        self
    }

    /// The blobs of this action: input files, Directories, Command and Action, in that order.
    pub(crate) fn blobs(&self, client: &Client) -> (Digest, Vec<Vec<u8>>) {
        let mut blobs: Vec<Vec<u8>> = self.files.values().map(|(data, _)| data.clone()).collect();
        let input_root = self.input_root.unwrap_or_else(|| {
            let inputs = (&self.files, &self.tools);
            let (root, directories) = tree(client, inputs, &self.symlinks, &self.directories);
            blobs.extend(directories);
            root
        });
        let command = self.command.encode_to_vec();
        let action = reapi::Action {
            command_digest: Some(client.digest(&command).to_wire()),
            input_root_digest: Some(input_root.to_wire()),
            ..self.action.clone()
        };
        let action = action.encode_to_vec();
        let digest = client.digest(&action);
        blobs.extend([command, action]);
        (digest, blobs)
    }

    /// Uploads everything; the digest of the Action.
    pub(crate) async fn upload(&self, client: &Client) -> Digest {
        let (digest, blobs) = self.blobs(client);
        for blob in blobs {
            client.put(&blob).await;
        }
        digest
    }

    /// The Execute request for an uploaded action.
    pub(crate) fn execute_request(&self, client: &Client, action: &Digest) -> reapi::ExecuteRequest {
        reapi::ExecuteRequest {
            instance_name: client.instance.clone(),
            action_digest: Some(action.to_wire()),
            digest_function: client.wire_function(),
            ..self.request.clone()
        }
    }

    /// Calls Execute for an action that is (or deliberately is not) uploaded; the open stream.
    pub(crate) async fn start(
        &self,
        client: &Client,
        action: &Digest,
    ) -> Result<tonic::Streaming<longrunning::Operation>, Status> {
        let request = self.execute_request(client, action);
        Ok(client.execution().execute(request).await?.into_inner())
    }

    /// Uploads, executes, and waits for the end.
    pub(crate) async fn try_run(&self, client: &Client) -> Result<Outcome, Status> {
        let action = self.upload(client).await;
        let stream = self.start(client, &action).await?;
        finish(stream, action).await
    }

    /// As [`try_run`](Self::try_run), for calls that must be accepted.
    pub(crate) async fn run(&self, client: &Client) -> Outcome {
        self.try_run(client).await.expect("Execute is accepted")
    }
}

impl Outcome {
    /// The result, which must be there.
    pub(crate) fn result(&self) -> &reapi::ActionResult {
        self.response.result.as_ref().unwrap_or_else(|| panic!("no result: {:?}", self.response))
    }

    /// Code of the response's status.
    pub(crate) fn code(&self) -> i32 {
        self.response.status.as_ref().map_or(0, |status| status.code)
    }

    /// The result of an action that must have ended with exit code 0.
    pub(crate) fn success(&self) -> &reapi::ActionResult {
        assert_eq!(self.code(), 0, "{:?}", self.response);
        assert_eq!(self.result().exit_code, 0, "{:?}", self.response);
        self.result()
    }

    /// What the command wrote to stdout.
    pub(crate) async fn stdout(&self, client: &Client) -> String {
        text(client, self.result().stdout_digest.as_ref()).await
    }

    /// What the command wrote to stderr.
    pub(crate) async fn stderr(&self, client: &Client) -> String {
        text(client, self.result().stderr_digest.as_ref()).await
    }

    /// Content of the output file with exactly this path.
    pub(crate) async fn output(&self, client: &Client, path: &str) -> Vec<u8> {
        let files = &self.result().output_files;
        let file =
            files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path} in {files:?}"));
        let digest = Digest::from_field(client.function, file.digest.as_ref()).unwrap();
        client.read(&digest).await.unwrap()
    }

    /// The metadata of each update.
    pub(crate) fn metadata(&self) -> Vec<ExecuteOperationMetadata> {
        self.updates.iter().map(metadata).collect()
    }
}

/// The metadata of an operation, which must be of the right type.
pub(crate) fn metadata(operation: &longrunning::Operation) -> ExecuteOperationMetadata {
    let packed = operation.metadata.as_ref().expect("metadata is set");
    any::unpack(packed).expect("metadata is an ExecuteOperationMetadata")
}

/// The response of an operation that is done.
pub(crate) fn response(operation: &longrunning::Operation) -> ExecuteResponse {
    assert!(operation.done, "{operation:?}");
    match &operation.result {
        Some(OperationResult::Response(packed)) => {
            assert_eq!(
                packed.type_url,
                "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse"
            );
            any::unpack(packed).expect("decodes")
        }
        other => panic!("a done operation has a response, not {other:?}"),
    }
}

/// Reads a stream of operations to its end.
pub(crate) async fn finish(
    mut stream: tonic::Streaming<longrunning::Operation>,
    action_digest: Digest,
) -> Result<Outcome, Status> {
    let mut updates = Vec::new();
    while let Some(operation) = stream.message().await? {
        updates.push(operation);
    }
    let response = response(updates.last().expect("a stream has at least one message"));
    Ok(Outcome { updates, response, action_digest })
}

async fn text(client: &Client, digest: Option<&reapi::Digest>) -> String {
    let digest = Digest::from_field(client.function, digest).expect("the digest is always set");
    String::from_utf8(client.read(&digest).await.unwrap()).unwrap()
}

#[derive(Default)]
struct Node {
    files: Vec<reapi::FileNode>,
    symlinks: Vec<reapi::SymlinkNode>,
    directories: BTreeMap<String, Node>,
}

impl Node {
    fn parent_of<'a, 'p>(&'a mut self, path: &'p str) -> (&'a mut Node, &'p str) {
        match path.split_once('/') {
            None => (self, path),
            Some((first, rest)) => self.directories.entry(first.to_owned()).or_default().parent_of(rest),
        }
    }

    fn encode(self, client: &Client, blobs: &mut Vec<Vec<u8>>) -> Digest {
        let directories = self.directories.into_iter().map(|(name, node)| reapi::DirectoryNode {
            name,
            digest: Some(node.encode(client, blobs).to_wire()),
        });
        let directory = reapi::Directory {
            directories: directories.collect(),
            files: self.files,
            symlinks: self.symlinks,
            node_properties: None,
        };
        let bytes = directory.encode_to_vec();
        let digest = client.digest(&bytes);
        blobs.push(bytes);
        digest
    }
}

/// The Directory messages of a tree given by paths, children first, and the digest of its root.
pub(crate) fn tree(
    client: &Client,
    (files, tools): (&Files, &BTreeSet<String>),
    symlinks: &BTreeMap<String, String>,
    directories: &[String],
) -> (Digest, Vec<Vec<u8>>) {
    let mut root = Node::default();
    for (path, (data, is_executable)) in files {
        let (parent, name) = root.parent_of(path);
        parent.files.push(reapi::FileNode {
            name: name.into(),
            digest: Some(client.digest(data).to_wire()),
            is_executable: *is_executable,
            node_properties: tools.contains(path).then(|| reapi::NodeProperties {
                properties: vec![reapi::NodeProperty {
                    name: "bazel_tool_input".into(),
                    value: String::new(),
                }],
                ..Default::default()
            }),
        });
    }
    for (path, target) in symlinks {
        let (parent, name) = root.parent_of(path);
        parent.symlinks.push(reapi::SymlinkNode {
            name: name.into(),
            target: target.clone(),
            node_properties: None,
        });
    }
    for path in directories {
        let (parent, name) = root.parent_of(path);
        parent.directories.entry(name.to_owned()).or_default();
    }
    let mut blobs = Vec::new();
    let digest = root.encode(client, &mut blobs);
    (digest, blobs)
}
