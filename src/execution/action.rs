//! [`PreparedAction`]: an action that may run, parsed and checked where it came in.
//!
//! Two steps, because a cached result needs only the first: [`Action::load`] reads the Action
//! message, [`Action::prepare`] its Command and platform. Absent blobs are no malformed action: they
//! come back as data ([`Loaded::Missing`]), all of them at once, so that the client can upload them
//! in one go. The input tree is not walked when nothing is known to be absent: that is the
//! worker's business when it stages the inputs. Only its top is looked at, to see whether it
//! is a whole file system.

use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::reapi::Command;
use farmhand_proto::{protobuf, reapi};
use prost::Message;

use super::{Settings, missing, own_root};
use crate::action_cache::ActionKey;
use crate::cas::{CasError, ContentAddressableStorage};
use crate::config::UnknownProperties;
use crate::digest::{Digest, DigestError};
use crate::instance::InstanceName;
use crate::path::PathError;
use crate::platform::{InputRootPlace, PlatformError, Requirements};

mod command;

/// Bytes an Action message may have. Its fields are small but for `salt`.
const ACTION_LIMIT: u64 = 4 * 1024 * 1024;

/// Bytes a Command message may have: long argument lists are normal.
const COMMAND_LIMIT: u64 = 64 * 1024 * 1024;

/// An Action message, read and checked; its Command is not looked at yet.
#[derive(Clone, Debug)]
pub struct Action {
    key: ActionKey,
    command: Digest,
    input_root: Digest,
    timeout: Duration,
    wire: reapi::Action,
}

/// How platform properties are read, for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlatformRules {
    /// Whether the input root is the root of the file system, even if no property says so.
    pub root_as_slash: bool,
    /// What becomes of properties that mean nothing here.
    pub unknown: UnknownProperties,
    /// Whether it may have a socket of the Remote Execution API no more: it comes by one that leads no further.
    pub is_last: bool,
}

/// An action ready to be queued.
#[derive(Clone, Debug)]
pub struct PreparedAction {
    /// Instance and digest.
    pub key: ActionKey,
    /// The Command, checked; its working directory is in normal form.
    pub command: Arc<reapi::Command>,
    /// Digest of the Command as it was sent.
    pub command_digest: Digest,
    /// Digest of the root Directory.
    pub input_root: Digest,
    /// What it asks of a machine.
    pub requirements: Arc<Requirements>,
    /// Wall time the command may run.
    pub timeout: Duration,
    /// Whether its result must neither be stored nor shared.
    pub do_not_cache: bool,
}

/// What came of reading blobs that a client should have uploaded.
#[derive(Debug)]
pub enum Loaded<T> {
    /// All were there.
    Ready(T),
    /// These are absent.
    Missing(Vec<Digest>),
}

/// What is wrong with a request, an action, or a command. All of these are lasting faults of the
/// client.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// A malformed digest.
    #[error("{role}: {source}")]
    Digest {
        /// Which field.
        role: &'static str,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A platform property that makes no sense.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A blob that is not the message it should be.
    #[error("{role} {digest} does not decode: {reason}")]
    Decode {
        /// `Action`, `Command` or `Directory`.
        role: &'static str,
        /// The blob.
        digest: Digest,
        /// The decoder's words.
        reason: String,
    },
    /// A message beyond any sensible size.
    #[error("{role} {digest} is larger than {limit} bytes")]
    TooLarge {
        /// `Action` or `Command`.
        role: &'static str,
        /// The blob.
        digest: Digest,
        /// The limit in bytes.
        limit: u64,
    },
    /// `Action.timeout` is negative or above the maximum.
    #[error("timeout of {seconds} s is not between 0 and {max} s")]
    Timeout {
        /// As sent.
        seconds: i64,
        /// The longest taken.
        max: u64,
    },
    /// `Command.arguments` cannot be executed.
    #[error("arguments: {0}")]
    Arguments(&'static str),
    /// A variable that no environment can hold.
    #[error("environment variable {0:?}: names must not be empty or contain \"=\" or NUL, values no NUL")]
    Environment(String),
    /// `Command.working_directory` leaves the input root.
    #[error("working_directory: {0}")]
    WorkingDirectory(PathError),
    /// An output outside the input root.
    #[error("output path: {0}")]
    OutputPath(PathError),
    /// The same path twice in the old output fields.
    #[error("output path {0:?} is given twice")]
    DuplicateOutput(String),
    /// A name that is in no capabilities.
    #[error("output_node_properties: {0:?} is not supported")]
    NodeProperty(String),
}

// === impl Action ===

impl Action {
    /// Reads and checks the Action `digest`.
    ///
    /// # Errors
    /// The outer error is the store's, the inner one the client's.
    pub async fn load(
        cas: &dyn ContentAddressableStorage,
        instance: &InstanceName,
        digest: Digest,
        settings: &Settings,
    ) -> Result<Result<Loaded<Self>, ActionError>, CasError> {
        let Some(data) = read(cas, "Action", digest, ACTION_LIMIT).await? else {
            return Ok(Ok(Loaded::Missing(vec![digest])));
        };
        let key = ActionKey { instance: instance.clone(), action: digest };
        Ok(data
            .and_then(|data| decode("Action", digest, &data))
            .and_then(|wire| Self::from_wire(key, wire, settings))
            .map(Loaded::Ready))
    }

    fn from_wire(key: ActionKey, wire: reapi::Action, settings: &Settings) -> Result<Self, ActionError> {
        let function = key.action.function();
        let field = |role, digest: &Option<reapi::Digest>| {
            Digest::from_field(function, digest.as_ref())
                .map_err(|source| ActionError::Digest { role, source })
        };
        Ok(Self {
            command: field("Action.command_digest", &wire.command_digest)?,
            input_root: field("Action.input_root_digest", &wire.input_root_digest)?,
            timeout: timeout(wire.timeout.as_ref(), settings)?,
            key,
            wire,
        })
    }

    /// What its result is stored under.
    pub fn key(&self) -> &ActionKey {
        &self.key
    }

    /// Whether its result must neither be read from the action cache nor stored there.
    pub fn do_not_cache(&self) -> bool {
        self.wire.do_not_cache
    }

    /// Reads and checks its Command. One query tells whether Command and root Directory are there,
    /// and extends their life; only if one is absent is the whole tree walked, to name
    /// everything a client has to upload.
    ///
    /// # Errors
    /// As [`Action::load`].
    pub async fn prepare(
        self,
        cas: &dyn ContentAddressableStorage,
        rules: PlatformRules,
    ) -> Result<Result<Loaded<PreparedAction>, ActionError>, CasError> {
        let absent = cas.find_missing(&[self.command, self.input_root]).await?;
        if !absent.is_empty() {
            return self.missing(cas, absent).await;
        }
        let Some(data) = read(cas, "Command", self.command, COMMAND_LIMIT).await? else {
            let absent = vec![self.command];
            return self.missing(cas, absent).await;
        };
        let digest = self.command;
        let checked = data
            .and_then(|data| decode("Command", digest, &data))
            .and_then(|command| self.check(command, rules));
        let mut action = match checked {
            Ok(action) => action,
            Err(error) => return Ok(Err(error)),
        };
        action.detect_root(cas).await?;
        Ok(Ok(Loaded::Ready(action)))
    }

    async fn missing<T>(
        &self,
        cas: &dyn ContentAddressableStorage,
        mut absent: Vec<Digest>,
    ) -> Result<Result<Loaded<T>, ActionError>, CasError> {
        if absent.contains(&self.input_root) {
            return Ok(Ok(Loaded::Missing(absent)));
        }
        Ok(missing::missing_inputs(cas, self.input_root).await?.map(|inputs| {
            absent.extend(inputs);
            Loaded::Missing(absent)
        }))
    }

    fn check(self, mut command: reapi::Command, rules: PlatformRules) -> Result<PreparedAction, ActionError> {
        command.working_directory = command::check(&command)?.to_string();
        Ok(PreparedAction {
            requirements: Arc::new(requirements(&self.wire, &command, rules)?),
            do_not_cache: self.wire.do_not_cache,
            key: self.key,
            command: Arc::new(command),
            command_digest: self.command,
            input_root: self.input_root,
            timeout: self.timeout,
        })
    }
}

// === impl PreparedAction ===

impl PreparedAction {
    /// The output it names first, as the client wrote it.
    #[expect(deprecated, reason = "clients before API version 2.1 fill only these fields")]
    pub fn first_output(&self) -> Option<&str> {
        let Command { output_paths, output_files, output_directories, .. } = &*self.command;
        [output_paths, output_files, output_directories].into_iter().flatten().next().map(String::as_str)
    }

    /// Where nothing says what the input root is: the root of the file system if it looks like one.
    async fn detect_root(&mut self, cas: &dyn ContentAddressableStorage) -> Result<(), CasError> {
        if !self.requirements.says_input_root() && own_root::has_shell(cas, self.input_root).await? {
            Arc::make_mut(&mut self.requirements).input_root = InputRootPlace::Filesystem;
        }
        Ok(())
    }
}

/// `Action.timeout`; unset and zero stand for the default.
fn timeout(wire: Option<&protobuf::Duration>, settings: &Settings) -> Result<Duration, ActionError> {
    let Some(wire) = wire.filter(|d| (d.seconds, d.nanos) != (0, 0)) else {
        return Ok(settings.default_timeout);
    };
    let error = ActionError::Timeout { seconds: wire.seconds, max: settings.max_timeout.as_secs() };
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(wire.seconds), u32::try_from(wire.nanos)) else {
        return Err(error);
    };
    if nanos > 999_999_999 || Duration::new(seconds, nanos) > settings.max_timeout {
        return Err(error);
    }
    Ok(Duration::new(seconds, nanos))
}

/// What the platform properties ask for.
fn requirements(
    action: &reapi::Action,
    command: &reapi::Command,
    rules: PlatformRules,
) -> Result<Requirements, PlatformError> {
    #[expect(deprecated, reason = "clients older than API version 2.2 fill only the field of the Command")]
    let of_command = command.platform.as_ref();
    let mut requirements = Requirements::parse(action.platform.as_ref(), of_command)?;
    requirements.unknown_policy = rules.unknown;
    if rules.is_last {
        requirements.refuse_socket();
    }
    if rules.root_as_slash && requirements.container.is_none() {
        requirements.input_root = InputRootPlace::Filesystem;
    }
    Ok(requirements)
}

/// The bytes of a message that should be small; `None` if it is absent.
async fn read(
    cas: &dyn ContentAddressableStorage,
    role: &'static str,
    digest: Digest,
    limit: u64,
) -> Result<Option<Result<bytes::Bytes, ActionError>>, CasError> {
    if digest.size() > limit {
        return Ok(Some(Err(ActionError::TooLarge { role, digest, limit })));
    }
    match cas.get(&digest).await {
        Ok(data) => Ok(Some(Ok(data))),
        Err(CasError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn decode<M: Message + Default>(role: &'static str, digest: Digest, data: &[u8]) -> Result<M, ActionError> {
    M::decode(data).map_err(|error| ActionError::Decode { role, digest, reason: error.to_string() })
}
