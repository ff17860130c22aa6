//! [`Record`]: one finished operation as the history keeps it, and how long its texts may be.
//!
//! The stored form is a protobuf message around `control.Operation`: what a later version adds is
//! passed over by an earlier one. Bytes from the disk are never trusted: what does not decode is no
//! record.

use std::time::SystemTime;

use farmhand_proto::control::{self, Miss};
use farmhand_proto::reapi;
use farmhand_proto::time::system_time;
use prost::Message;

use super::describe;
use crate::action_cache::ActionKey;
use crate::digest::Digest;
use crate::execution::operations::Operation;
use crate::execution::{About, Kind, OperationId};
use crate::instance::InstanceName;
use crate::miss::{Earlier, Ended, Parts};

/// Bytes kept of an encoded result; of a larger one, what it says of outputs is left out.
const MAX_RESULT: usize = 2048;

/// Bytes kept of the message of an operation.
const MAX_MESSAGE: usize = 1024;

/// A finished operation.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Record {
    /// All that the control API tells of it, but for its result.
    #[prost(message, required, tag = "1")]
    pub operation: control::Operation,
    /// What it ran; unset for an answer from the cache.
    #[prost(message, optional, tag = "2")]
    pub definition: Option<Definition>,
    /// An encoded `ActionResult`.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub result: Option<Vec<u8>>,
    /// Whether `result` lacks what it said of outputs.
    #[prost(bool, tag = "4")]
    pub result_is_short: bool,
    /// Why the action cache had no result; unset where it was not asked, or nobody found out.
    #[prost(message, optional, tag = "5")]
    pub miss: Option<Miss>,
    /// Whether the action cache had the result when it was over.
    #[prost(bool, tag = "6")]
    pub kept: bool,
}

/// What a list tells of a [`Record`]: the same bytes, of which the rest is passed over.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(super) struct Listed {
    #[prost(message, required, tag = "1")]
    pub(super) operation: control::Operation,
}

/// What the bytes of a record are read as.
pub(super) trait Kept: Message + Default {
    /// Its place in the history.
    fn sequence(&self) -> u64;
}

impl Kept for Record {
    fn sequence(&self) -> u64 {
        self.operation.sequence
    }
}

impl Kept for Listed {
    fn sequence(&self) -> u64 {
        self.operation.sequence
    }
}

/// What an operation ran, as far as a later miss asks.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Definition {
    /// [`Digest::to_key`] of the Command.
    #[prost(bytes = "vec", tag = "1")]
    pub command: Vec<u8>,
    /// [`Digest::to_key`] of the root Directory.
    #[prost(bytes = "vec", tag = "2")]
    pub input_root: Vec<u8>,
    /// Its first argument.
    #[prost(string, tag = "3")]
    pub program: String,
    /// Where it ran.
    #[prost(string, tag = "4")]
    pub working_directory: String,
    /// `Action.do_not_cache`.
    #[prost(bool, tag = "5")]
    pub do_not_cache: bool,
    /// `ExecuteRequest.skip_cache_lookup`.
    #[prost(bool, tag = "6")]
    pub skip_cache_lookup: bool,
}

// === impl Record ===

impl Record {
    /// The record of an operation that is over.
    pub fn of(operation: &Operation) -> Option<Self> {
        let state = operation.state();
        let response = state.response.as_deref()?;
        let mut told = describe::finished(operation, &state.timeline, response);
        cut(&mut told.message, MAX_MESSAGE);
        // What a person had run again says nothing of what a build will find.
        let about = operation.about.as_deref().filter(|_| operation.kind == Kind::Execute);
        let definition = about.map(Definition::of);
        let succeeded = told.status_code == 0 && told.exit_code == 0;
        let is_refused = definition.as_ref().is_some_and(|definition| definition.do_not_cache)
            || told.message.contains(crate::execution::response::NOT_CACHED);
        let (result, result_is_short) = match &response.result {
            Some(result) => {
                let (result, is_short) = kept_result(result, response.cached_result);
                (Some(result), is_short)
            }
            None => (None, false),
        };
        let kept = succeeded && !is_refused;
        Some(Self { operation: told, definition, result, result_is_short, miss: None, kept })
    }

    /// The record of a result that a client took from the action cache, or put there.
    pub fn passed(operation: control::Operation, result: &reapi::ActionResult) -> Self {
        let (result, result_is_short) = kept_result(result, operation.cached);
        Self { operation, definition: None, result: Some(result), result_is_short, miss: None, kept: true }
    }

    /// Its place in the history.
    pub fn sequence(&self) -> u64 {
        self.operation.sequence
    }

    /// Whether the action cache answered.
    pub fn is_hit(&self) -> bool {
        self.operation.cached
    }

    /// Digest of its action.
    pub fn action(&self) -> Option<Digest> {
        self.operation.action_digest.parse().ok()
    }

    /// Instance and action.
    pub fn key(&self) -> Option<ActionKey> {
        let instance = InstanceName::parse(&self.operation.instance_name).ok()?;
        Some(ActionKey { instance, action: self.action()? })
    }

    /// Its name.
    pub fn id(&self) -> Option<OperationId> {
        OperationId::parse(&self.operation.name)
    }

    /// When it was over, in microseconds since 1970.
    pub fn finished_micros(&self) -> u64 {
        micros(self.finished())
    }

    /// What the next operation that makes the same is recognised by.
    pub fn kin(&self) -> Option<Kin<'_>> {
        let definition = self.definition.as_ref()?;
        let Definition { program, working_directory, .. } = definition;
        Some(Kin::new(&self.operation, program, working_directory))
    }

    /// The result in the form of the API.
    pub fn result_message(&self) -> Option<reapi::ActionResult> {
        self.result.as_deref().and_then(|result| reapi::ActionResult::decode(result).ok())
    }

    /// What a later miss is told of it.
    pub fn as_earlier(&self) -> Option<Earlier> {
        let key = self.key()?;
        let operation = &self.operation;
        let ended = match (operation.status_code, operation.exit_code) {
            (0, 0) if self.kept => Ended::Kept,
            (0, 0) => Ended::NotKept,
            (0, code) => Ended::Failed(code),
            (code, _) => Ended::Error(code, operation.message.clone()),
        };
        let outputs = self.result_message().unwrap_or_default().output_files.into_iter();
        let function = key.action.function();
        let outputs = outputs
            .filter_map(|file| Some((file.path, Digest::from_field(function, file.digest.as_ref()).ok()?)));
        let outputs = outputs.collect();
        Some(Earlier { key, finished: self.finished(), ended, parts: self.parts(), outputs })
    }

    /// What its action consisted of.
    pub fn parts(&self) -> Option<Parts> {
        let definition = self.definition.as_ref()?;
        let command = Digest::from_key(&definition.command)?;
        Some(Parts { command, input_root: Digest::from_key(&definition.input_root)? })
    }

    /// When it was over.
    pub fn finished(&self) -> SystemTime {
        self.operation.finished.as_ref().and_then(system_time).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Whether a worker has yet to tell what came of it: somebody else ended it.
    pub(super) fn is_awaited(&self) -> bool {
        !self.operation.machine.is_empty() && self.result.is_none()
    }

    /// The same with what its worker told after it was over.
    #[must_use]
    pub(super) fn amended(self, late: Self) -> Self {
        let sequence = self.operation.sequence;
        let mut amended = late.explained(self.miss);
        amended.operation.sequence = sequence;
        amended
    }

    /// The same with why it missed.
    #[must_use]
    pub fn explained(mut self, miss: Option<Miss>) -> Self {
        self.operation.miss = miss.as_ref().map_or(0, |miss| miss.kind);
        self.miss = miss;
        self
    }
}

// === impl Definition ===

impl Definition {
    fn of(about: &About) -> Self {
        Self {
            command: about.command.to_key().to_vec(),
            input_root: about.input_root.to_key().to_vec(),
            program: about.program.clone(),
            working_directory: about.working_directory.clone(),
            do_not_cache: about.do_not_cache,
            skip_cache_lookup: about.skip_cache_lookup,
        }
    }
}

/// What makes two actions runs of the same thing: what their client says of them, or, where it says
/// nothing, what they make and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kin<'a>([&'a str; 5]);

impl<'a> Kin<'a> {
    /// That of an operation which runs `program` in `working_directory`.
    pub fn new(operation: &'a control::Operation, program: &'a str, working_directory: &'a str) -> Self {
        let control::Operation { instance_name, target, mnemonic, first_output, .. } = operation;
        if target.is_empty() && mnemonic.is_empty() {
            return Self([instance_name, first_output, program, working_directory, "without metadata"]);
        }
        Self([instance_name, first_output, target, mnemonic, ""])
    }

    /// A short form of it; equal for a few that differ.
    pub fn mark(&self) -> u32 {
        let mut hasher = blake3::Hasher::new();
        for part in self.0 {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        leading(hasher.finalize().as_bytes())
    }
}

/// Short forms of what a record is looked up by. Others may have the same.
pub(super) fn marks(record: &Record) -> impl Iterator<Item = u32> {
    let action = record.action().map(|action| action_mark(action.hash()));
    let id = record.id().map(|id| id_mark(&id));
    action.into_iter().chain(id).chain(record.kin().map(|kin| kin.mark()))
}

/// That of an action, by its hash.
pub(super) fn action_mark(hash: &[u8; 32]) -> u32 {
    leading(hash)
}

/// That of an operation.
pub(super) fn id_mark(id: &OperationId) -> u32 {
    leading(id.uuid().as_bytes())
}

fn leading(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |mark, byte| mark << 8 | u32::from(*byte))
}

/// The result without bytes of outputs, and without outputs where those are many. What the cache
/// answered with is in the cache.
fn kept_result(result: &reapi::ActionResult, cached: bool) -> (Vec<u8>, bool) {
    let slim = reapi::ActionResult {
        exit_code: result.exit_code,
        stdout_digest: result.stdout_digest.clone(),
        stderr_digest: result.stderr_digest.clone(),
        ..Default::default()
    };
    if cached {
        return (slim.encode_to_vec(), true);
    }
    let estimate = result.output_files.len() + result.output_directories.len();
    if estimate <= MAX_RESULT / 64 {
        let mut whole = result.clone();
        (whole.stdout_raw, whole.stderr_raw) = (Vec::new(), Vec::new());
        whole.output_files.iter_mut().for_each(|file| file.contents = Vec::new());
        if whole.encoded_len() <= MAX_RESULT {
            return (whole.encode_to_vec(), false);
        }
    }
    let slim = reapi::ActionResult { execution_metadata: result.execution_metadata.clone(), ..slim };
    let bytes = slim.encode_to_vec();
    if bytes.len() > MAX_RESULT {
        let slim = reapi::ActionResult { execution_metadata: None, ..slim };
        return (slim.encode_to_vec(), true);
    }
    (bytes, true)
}

/// Cuts `text` to `most` bytes or a little less.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
    }
}

/// Microseconds since 1970: the least number of an operation that ended then.
pub(super) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use farmhand_proto::time::timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::digest::DigestFunction;
    use crate::execution::inline::InlineHints;
    use crate::execution::{Call, OperationState};

    /// A record of the action that `name` stands for.
    pub(in crate::history) fn record(sequence: u64, name: &str) -> Record {
        let action = Digest::of(DigestFunction::Sha256, name.as_bytes());
        let operation = control::Operation {
            name: OperationId::random().to_string(),
            action_digest: action.to_string(),
            stage: control::operation::Stage::Done.into(),
            finished: Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_micros(sequence))),
            target: format!("//pkg:{name}"),
            mnemonic: "CppCompile".into(),
            first_output: format!("out/{name}.o"),
            sequence,
            ..Default::default()
        };
        let definition = Definition {
            command: action.to_key().to_vec(),
            input_root: action.to_key().to_vec(),
            program: "cc".into(),
            ..Default::default()
        };
        Record { operation, definition: Some(definition), kept: true, ..Default::default() }
    }

    fn operation(result: reapi::ActionResult, cached_result: bool) -> Operation {
        let response = reapi::ExecuteResponse { result: Some(result), cached_result, ..Default::default() };
        let call = Call {
            kind: Kind::Execute,
            instance: InstanceName::default(),
            action: Digest::empty(DigestFunction::Sha256),
            invocation: Arc::default(),
            priority: 0,
            hints: InlineHints::default(),
        };
        Operation::new(call, None, OperationState::completed(SystemTime::UNIX_EPOCH, Arc::new(response)))
    }

    fn file(path: &str) -> reapi::OutputFile {
        let digest = Some(Digest::of(DigestFunction::Sha256, path.as_bytes()).to_wire());
        reapi::OutputFile { path: path.into(), digest, contents: vec![1; 5000], ..Default::default() }
    }

    #[test]
    fn a_result_is_kept_without_bytes_and_a_large_one_without_outputs() {
        let stdout = Some(Digest::of(DigestFunction::Sha256, b"out").to_wire());
        let result = reapi::ActionResult {
            exit_code: 3,
            output_files: vec![file("a")],
            stdout_raw: vec![1; 5000],
            stdout_digest: stdout.clone(),
            ..Default::default()
        };
        let record = Record::of(&operation(result.clone(), false)).unwrap();
        let kept = record.result_message().unwrap();
        assert_eq!((kept.output_files.len(), record.result_is_short), (1, false));
        assert!(kept.output_files[0].contents.is_empty() && kept.stdout_raw.is_empty());

        for count in [30, 500] {
            let output_files = (0..count).map(|n| file(&format!("{n}{}", "x".repeat(50)))).collect();
            let many = reapi::ActionResult { output_files, ..result.clone() };
            let record = Record::of(&operation(many, false)).unwrap();
            let kept = record.result_message().unwrap();
            assert!(record.result_is_short && kept.output_files.is_empty(), "{count}");
            assert_eq!((kept.exit_code, kept.stdout_digest), (3, stdout.clone()));
        }
    }

    #[test]
    fn a_hit_is_told_apart_and_counts_as_kept() {
        let record = Record::of(&operation(reapi::ActionResult::default(), true)).unwrap();
        assert!(record.is_hit() && record.kept && record.definition.is_none());
        assert_eq!(record.as_earlier().unwrap().ended, Ended::Kept);
        assert_eq!(marks(&record).count(), 2);
        let failed = reapi::ActionResult { exit_code: 2, ..Default::default() };
        let record = Record::of(&operation(failed, false)).unwrap();
        assert_eq!(record.as_earlier().unwrap().ended, Ended::Failed(2));
    }

    #[test]
    fn kin_are_told_by_metadata_or_else_by_what_is_run() {
        let kin = |target: &str, output: &str, program: &str| {
            let operation = control::Operation {
                target: target.into(),
                first_output: output.into(),
                ..Default::default()
            };
            Kin::new(&operation, program, "").mark()
        };
        assert_eq!(kin("//a", "o", "cc"), kin("//a", "o", "clang"));
        assert_ne!(kin("//a", "o", "cc"), kin("//a", "p", "cc"));
        assert_ne!(kin("", "o", "cc"), kin("", "o", "clang"));
        assert_eq!(kin("", "o", "cc"), kin("", "o", "cc"));
    }

    proptest! {
        #[test]
        fn what_decodes_is_used_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(record) = Record::decode(&*bytes) {
                let _ = (record.key(), record.as_earlier(), record.finished_micros());
                let _ = marks(&record).count();
            }
        }
    }
}
