//! Fakes for tests of everything above the queue: a worker that follows a script, and a farm of one.
//!
//! What the worker does is told by the first argument of the command: `true`, `false`, `wait` (until
//! released or cancelled), `quick` (all steps at once), `lose` (the worker is lost), `busy` (it
//! has no slot), `panic`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use farmhand_proto::{reapi, rpc};
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::inline::InlineHints;
use super::operations::Outcome;
use super::response;
use super::{Kind, Observer, Request, Scheduler, Sequence, Settings};
use crate::action_cache::memory::MemoryActionCache;
use crate::cas::memory::MemoryCas;
use crate::digest::{Digest, DigestFunction};
use crate::execution::action::PlatformRules;
use crate::instance::InstanceName;
use crate::platform::Requirements;
use crate::tasks::Tasks;
use crate::worker::{Lease, NoResponse, Progress, SlotsError, Worker, WorkerLost};

/// Property that only workers of that name have.
pub(crate) const NEEDS: &str = "needs";

/// Slots a scripted worker can have.
pub(crate) const MOST_SLOTS: usize = 100;

/// A worker that follows a script.
pub(crate) struct ScriptedWorker {
    name: String,
    slots: AtomicUsize,
    cas: MemoryCas,
    gate: Semaphore,
    /// Leases taken, in order.
    pub(crate) leases: Mutex<Vec<Lease>>,
    /// Leases that were cancelled.
    pub(crate) cancelled: AtomicUsize,
}

impl ScriptedWorker {
    pub(crate) fn new(name: &str, slots: usize, cas: &MemoryCas) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            slots: AtomicUsize::new(slots),
            cas: cas.clone(),
            gate: Semaphore::new(0),
            leases: Mutex::default(),
            cancelled: AtomicUsize::new(0),
        })
    }

    /// Lets one waiting action end.
    pub(crate) fn release(&self) {
        self.gate.add_permits(1);
    }

    /// Leases taken so far.
    pub(crate) fn runs(&self) -> usize {
        self.leases.lock().unwrap().len()
    }

    fn result(&self, lease: &Lease, exit_code: i32) -> reapi::ExecuteResponse {
        let stdout = self.cas.insert(lease.function(), format!("output {exit_code}"));
        let result = reapi::ActionResult {
            exit_code,
            stdout_digest: Some(stdout.to_wire()),
            execution_metadata: Some(reapi::ExecutedActionMetadata {
                worker: self.name.clone(),
                ..Default::default()
            }),
            ..Default::default()
        };
        reapi::ExecuteResponse { result: Some(result), ..Default::default() }
    }
}

#[async_trait]
impl Worker for ScriptedWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn slots(&self) -> usize {
        self.slots.load(Ordering::SeqCst)
    }

    async fn set_slots(&self, slots: usize) -> Result<(), SlotsError> {
        if slots > MOST_SLOTS {
            return Err(SlotsError::Range { wanted: slots, most: MOST_SLOTS });
        }
        self.slots.store(slots, Ordering::SeqCst);
        Ok(())
    }

    fn mismatches(&self, requirements: &Requirements) -> Vec<String> {
        match requirements.properties.get(NEEDS) {
            Some(names) if !names.contains(&self.name) => vec![format!("{NEEDS}={}", names.join(","))],
            _ => Vec::new(),
        }
    }

    async fn execute(
        &self,
        lease: Lease,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        self.leases.lock().unwrap().push(lease.clone());
        progress.send(Progress::Staging).unwrap();
        match lease.command.arguments[0].as_str() {
            "lose" => Err(WorkerLost { worker: self.name.clone(), reason: "unplugged".into() }.into()),
            "busy" => Err(NoResponse::Busy),
            "panic" => panic!("scripted"),
            "wait" => {
                let running = Progress::Running { stdout: "out".into(), stderr: "err".into() };
                progress.send(running).unwrap();
                tokio::select! {
                    permit = self.gate.acquire() => {
                        permit.unwrap().forget();
                        Ok(self.result(&lease, 0))
                    }
                    () = cancel.cancelled() => {
                        self.cancelled.fetch_add(1, Ordering::SeqCst);
                        Ok(response::cancelled("cancelled"))
                    }
                }
            }
            "quick" => {
                progress.send(Progress::Running { stdout: "out".into(), stderr: "err".into() }).unwrap();
                progress.send(Progress::Collecting).unwrap();
                Ok(self.result(&lease, 0))
            }
            "false" => Ok(self.result(&lease, 1)),
            "timeout" => {
                let status = rpc::Status {
                    code: tonic::Code::DeadlineExceeded as i32,
                    message: "execution timeout exceeded".into(),
                    ..Default::default()
                };
                Ok(reapi::ExecuteResponse { status: Some(status), ..self.result(&lease, 0) })
            }
            _ => Ok(self.result(&lease, 0)),
        }
    }
}

/// A scheduler with everything around it.
pub(crate) struct Farm {
    pub(crate) cas: MemoryCas,
    pub(crate) action_cache: MemoryActionCache,
    pub(crate) tasks: Tasks,
    pub(crate) scheduler: Scheduler,
}

impl Farm {
    pub(crate) fn new(settings: Settings) -> Self {
        Self::observed(settings, Arc::new(()))
    }

    /// One of which `observer` is told.
    pub(crate) fn observed(settings: Settings, observer: Arc<dyn Observer>) -> Self {
        let (cas, action_cache, tasks) =
            (MemoryCas::default(), MemoryActionCache::default(), Tasks::default());
        let (blobs, results) = (Arc::new(cas.clone()), Arc::new(action_cache.clone()));
        let scheduler = Scheduler::start(blobs, results, settings, Sequence::default(), observer, &tasks);
        Self { cas, action_cache, tasks, scheduler }
    }

    /// How its finished operations ended, the latest first.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        let finished = self.scheduler.ended();
        finished.iter().map(|operation| Outcome::of(&operation.state().response.unwrap())).collect()
    }

    /// A farm with one worker.
    pub(crate) fn with_worker(slots: usize) -> (Self, Arc<ScriptedWorker>) {
        let farm = Self::new(Settings::default());
        let worker = farm.add_worker("worker", slots);
        (farm, worker)
    }

    pub(crate) fn add_worker(&self, name: &str, slots: usize) -> Arc<ScriptedWorker> {
        let worker = ScriptedWorker::new(name, slots, &self.cas);
        self.scheduler.add_worker(worker.clone());
        worker
    }

    /// Uploads an action that runs `arguments` on no inputs.
    pub(crate) fn action(&self, arguments: &[&str]) -> Digest {
        self.action_with(arguments, |_, _| {})
    }

    /// Uploads an action after `change` had its way with it.
    pub(crate) fn action_with(
        &self,
        arguments: &[&str],
        change: impl FnOnce(&mut reapi::Action, &mut reapi::Command),
    ) -> Digest {
        let function = DigestFunction::Sha256;
        let mut command = reapi::Command {
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            ..Default::default()
        };
        let mut action = reapi::Action {
            input_root_digest: Some(Digest::empty(function).to_wire()),
            ..Default::default()
        };
        change(&mut action, &mut command);
        let command = self.cas.insert(function, command.encode_to_vec());
        action.command_digest.get_or_insert(command.to_wire());
        self.cas.insert(function, action.encode_to_vec())
    }
}

/// A plain request for an action.
pub(crate) fn request(action: Digest) -> Request {
    Request {
        kind: Kind::Execute,
        instance: InstanceName::default(),
        action,
        skip_cache_lookup: false,
        priority: 0,
        hints: InlineHints::default(),
        invocation: Arc::default(),
        person: None,
        platform: PlatformRules::default(),
    }
}

/// A property as clients send it.
pub(crate) fn platform(name: &str, value: &str) -> Option<reapi::Platform> {
    let property = reapi::platform::Property { name: name.into(), value: value.into() };
    Some(reapi::Platform { properties: vec![property] })
}
