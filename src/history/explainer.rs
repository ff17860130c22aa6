//! [`Explainer`]: finds out why operations missed, in a task of its own, right after they did.
//!
//! What an earlier action consisted of is most likely still stored then. It takes a small share of one
//! core at most, and under load leaves out what it cannot follow; whoever asks later gets the answer
//! worked out on demand, from the same memory as of then.

use std::sync::Arc;
use std::time::SystemTime;

use farmhand_proto::control::{self, Miss};
use farmhand_proto::reapi;
use farmhand_proto::time::system_time;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::record::{Kin, Record, micros};
use super::{History, HistoryError};
use crate::action_cache::ActionKey;
use crate::action_cache::fate::Fate;
use crate::cas::ContentAddressableStorage;
use crate::execution::about::first_output;
use crate::execution::operations::Operation;
use crate::miss::{self, Known, Parts, Subject};
use crate::tasks::Tasks;

/// After each explanation it rests so many times as long as that took.
const REST: u32 = 4;

/// Runs of the same action that are looked at.
const SAME: usize = 8;

/// Runs among which those of other actions are looked for.
const KIN: usize = 16;

/// Tells what became of a result that was stored once.
pub type TellFate = Arc<dyn Fn(&ActionKey) -> Option<Fate> + Send + Sync>;

/// Explains misses. Clones are the same.
#[derive(Clone)]
pub struct Explainer {
    history: History,
    cas: Arc<dyn ContentAddressableStorage>,
    fate: TellFate,
}

// === impl Explainer ===

impl Explainer {
    /// Explains by what `history` remembers and `cas` holds.
    pub fn new(history: History, cas: Arc<dyn ContentAddressableStorage>, fate: TellFate) -> Self {
        Self { history, cas, fate }
    }

    /// Explains every operation that `history` is told of, as far as it can follow, until `tasks` end,
    /// and tells `announce` its name and the explanation.
    pub fn start(&self, tasks: &Tasks, announce: impl Fn(&str, &Miss) + Send + Sync + 'static) {
        let Some(misses) = self.history.take_misses() else { return };
        let (explainer, stop) = (self.clone(), tasks.token().clone());
        tasks.spawn("explain misses", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = explainer.follow(misses, announce) => {}
            }
        });
    }

    async fn follow(&self, mut misses: mpsc::Receiver<Arc<Operation>>, announce: impl Fn(&str, &Miss)) {
        while let Some(operation) = misses.recv().await {
            let begin = Instant::now();
            match self.live(&operation).await {
                Ok(Some(miss)) => {
                    announce(&operation.id.to_string(), &miss);
                    self.history.explained(operation.id, miss, operation.is_done());
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a miss is not explained"),
            }
            drop(operation);
            tokio::time::sleep(begin.elapsed() * REST).await;
        }
    }

    /// Why an operation that has just come in missed.
    async fn live(&self, operation: &Operation) -> Result<Option<Miss>, HistoryError> {
        let Some(about) = operation.about.as_deref() else { return Ok(None) };
        let invocation = &operation.invocation;
        let told = control::Operation {
            instance_name: operation.instance.to_string(),
            first_output: about.first_output.clone(),
            target: invocation.target_id.clone(),
            mnemonic: invocation.action_mnemonic.clone(),
            ..Default::default()
        };
        let kin = Kin::new(&told, &about.program, &about.working_directory).mark();
        let subject = Subject {
            key: ActionKey { instance: operation.instance.clone(), action: operation.action },
            at: operation.state().timeline.queued_at.unwrap_or_else(SystemTime::now),
            name: name(&told),
            do_not_cache: about.do_not_cache,
            skip_cache_lookup: about.skip_cache_lookup,
            parts: Some(Parts { command: about.command, input_root: about.input_root }),
        };
        self.explain(subject, Some(kin), u64::MAX).await.map(Some)
    }

    /// Why the operation of `record` missed.
    ///
    /// # Errors
    /// [`HistoryError`], when the memory cannot be read.
    pub async fn finished(&self, record: &Record) -> Result<Miss, HistoryError> {
        if let Some(miss) = &record.miss {
            return Ok(miss.clone());
        }
        let (Some(key), Some(definition)) = (record.key(), &record.definition) else {
            return Ok(miss::hit());
        };
        let queued = record.operation.queued.as_ref().and_then(system_time);
        let subject = Subject {
            key,
            at: queued.unwrap_or_else(|| record.finished()),
            name: name(&record.operation),
            do_not_cache: definition.do_not_cache,
            skip_cache_lookup: definition.skip_cache_lookup,
            parts: record.parts(),
        };
        self.explain(subject, record.kin().map(|kin| kin.mark()), record.sequence()).await
    }

    /// Why an action misses that is not over, or that nobody ran: `told` is what is known of its
    /// operation, the rest comes from its definition.
    ///
    /// # Errors
    /// [`HistoryError`], when the memory cannot be read.
    pub async fn defined(
        &self,
        key: ActionKey,
        told: &control::Operation,
        action: &reapi::Action,
        command: &reapi::Command,
    ) -> Result<Miss, HistoryError> {
        let told = control::Operation {
            instance_name: key.instance.to_string(),
            first_output: first_output(command).to_owned(),
            ..told.clone()
        };
        let program = command.arguments.first().map_or("", String::as_str);
        let kin = Kin::new(&told, program, &command.working_directory).mark();
        let subject = Subject {
            key,
            at: told.queued.as_ref().and_then(system_time).unwrap_or_else(SystemTime::now),
            name: name(&told),
            do_not_cache: action.do_not_cache,
            skip_cache_lookup: false,
            parts: None,
        };
        self.explain(subject, Some(kin), u64::MAX).await
    }

    /// What ended after the action came in is not earlier: it may be the very operation that is explained.
    async fn explain(&self, subject: Subject, kin: Option<u32>, before: u64) -> Result<Miss, HistoryError> {
        let before = before.min(micros(subject.at));
        let known = self.known(&subject.key, kin, before).await?;
        let fate = (self.fate)(&subject.key);
        Ok(miss::explain(&*self.cas, &subject, &known, fate).await)
    }

    /// What is remembered from before the number `before`.
    async fn known(&self, key: &ActionKey, kin: Option<u32>, before: u64) -> Result<Known, HistoryError> {
        // What ended just before counts.
        self.history.settle().await;
        let same = self.history.of_action(key.action, before, SAME).await?;
        let kin = match kin {
            Some(mark) if same.is_empty() => self.history.of_kin(mark, before, KIN).await?,
            _ => Vec::new(),
        };
        let mut others: Vec<miss::Earlier> = Vec::new();
        for earlier in kin.iter().filter_map(|record| record.as_earlier()) {
            let is_new = others.iter().all(|other| other.key.action != earlier.key.action);
            if is_new && earlier.key.instance == key.instance && others.len() < miss::CANDIDATES {
                others.push(earlier);
            }
        }
        Ok(Known { same: same.iter().filter_map(|record| record.as_earlier()).collect(), kin: others })
    }
}

/// What an operation builds, in words.
fn name(operation: &control::Operation) -> String {
    let control::Operation { target, mnemonic, first_output, .. } = operation;
    match (target.as_str(), mnemonic.as_str()) {
        ("", "") => first_output.clone(),
        ("", mnemonic) => mnemonic.to_owned(),
        (target, "") => target.to_owned(),
        (target, mnemonic) => format!("{target} ({mnemonic})"),
    }
}
