//! Why an action missed.

use farmhand_proto::control::{ExplainMissRequest, Miss, Operation};
use farmhand_proto::reapi;
use prost::Message;
use tonic::{Request, Response, Status};

use super::ControlService;
use super::query::Query;
use crate::action_cache::ActionKey;
use crate::digest::Digest;
use crate::history::Record;
use crate::instance::InstanceName;
use crate::miss;

/// Operations among which the last run is looked for.
const LOOKED_AT: usize = 100;

impl ControlService {
    pub(super) async fn explain_miss(
        &self,
        request: Request<ExplainMissRequest>,
    ) -> Result<Response<Miss>, Status> {
        let request = request.into_inner();
        let instance = InstanceName::parse(&request.instance_name)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.history.settle().await;
        let query = Query::parse(&request.digest)?;
        if let Query::Operation(id) = &query
            && let Some(record) = self.history.named(*id).await?
        {
            return Ok(Response::new(self.explainer.finished(&record).await?));
        }
        let live = self.source.operations().await;
        let digest = self.resolve(&query, &live).await?;
        let key = ActionKey { instance, action: digest };
        Ok(Response::new(self.explain(key, live).await?))
    }

    /// The miss of an operation that is not over, else of the last run, else of the definition.
    async fn explain(&self, key: ActionKey, live: Vec<Operation>) -> Result<Miss, Status> {
        let running = live.into_iter().find(|operation| is_of(operation, &key));
        if let Some(miss) = running.as_ref().and_then(|operation| self.history.explanation(&operation.name)) {
            return Ok(miss);
        }
        if running.is_none() {
            let known = self.history.of_action(key.action, u64::MAX, LOOKED_AT).await?;
            let mut known = known.iter().filter(|record| is_of(&record.operation, &key));
            let is_run = |record: &&std::sync::Arc<Record>| record.definition.is_some();
            if let Some(record) = known.clone().find(is_run).or_else(|| known.next()) {
                return Ok(self.explainer.finished(record).await?);
            }
        }
        let Some((action, command)) = self.decoded(&key.action).await? else {
            let digest = key.action;
            return Err(Status::not_found(format!("action {digest} is neither stored nor in the history")));
        };
        let is_cached = running.is_none() && self.cached_result(key.clone()).await?.is_some();
        if is_cached {
            return Ok(miss::hit());
        }
        Ok(self.explainer.defined(key, &running.unwrap_or_default(), &action, &command).await?)
    }

    /// The definition of an action, where all of it is stored.
    async fn decoded(&self, digest: &Digest) -> Result<Option<(reapi::Action, reapi::Command)>, Status> {
        let (action, command) = self.definition(digest).await?;
        if action.is_empty() || command.is_empty() {
            return Ok(None);
        }
        let action = reapi::Action::decode(action.as_slice());
        let command = reapi::Command::decode(command.as_slice());
        Ok(action.ok().zip(command.ok()))
    }
}

fn is_of(operation: &Operation, key: &ActionKey) -> bool {
    operation.action_digest == key.action.to_string() && operation.instance_name == key.instance.as_str()
}
