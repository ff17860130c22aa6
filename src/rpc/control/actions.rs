//! One action by its digest, and the operations in flight and in the history.

use std::collections::HashSet;
use std::sync::Arc;

use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{
    GetActionRequest, GetActionResponse, ListActionsRequest, ListActionsResponse, Operation, WaitReason,
};
use farmhand_proto::reapi;
use prost::Message;
use tonic::{Request, Response, Status};

use super::ControlService;
use super::page::{LivePlace, PageToken};
use super::query::Query;
use crate::action_cache::ActionKey;
use crate::cas::CasError;
use crate::digest::Digest;
use crate::history::{Filter, Page, Record};
use crate::instance::InstanceName;

/// Bytes of the largest Action or Command that is shown: three of them fit a message.
const MAX_SHOWN_BYTES: u64 = 8 << 20;

/// Operations listed when the caller sets no limit.
const DEFAULT_LIST: usize = 100;

/// Operations in one answer: these fit a message.
const MAX_LIST: usize = 1000;

/// Earlier operations of an action that are told, and those among which they are looked for.
const MAX_EARLIER: usize = 20;
const EARLIER_SEARCHED: usize = 4 * MAX_EARLIER;

/// The operations of an action.
struct Runs {
    /// Instance and action; the instance is that of the operation, where one was named.
    key: ActionKey,
    /// The one that was asked for.
    operation: Option<Operation>,
    /// The same, if it is over.
    last: Option<Arc<Record>>,
    /// Those before it, the newest first.
    earlier: Vec<Operation>,
}

impl ControlService {
    pub(super) async fn get_action(
        &self,
        request: Request<GetActionRequest>,
    ) -> Result<Response<GetActionResponse>, Status> {
        let request = request.into_inner();
        let instance = InstanceName::parse(&request.instance_name)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let live = self.source.operations().await;
        self.history.settle().await;
        let query = Query::parse(&request.digest)?;
        let digest = self.resolve(&query, &live).await?;
        let runs = self.runs(&query, ActionKey { instance, action: digest }, live).await?;
        let (action, command) = self.definition(&digest).await?;
        let cached = self.cached_result(runs.key.clone()).await?;
        let (waiting, ahead) = self.waiting(runs.operation.as_ref()).await;
        if action.is_empty() && cached.is_none() && runs.operation.is_none() {
            return Err(Status::not_found(format!("action {digest} is neither stored nor in the history")));
        }
        let mut response = GetActionResponse {
            digest: digest.to_string(),
            instance_name: runs.key.instance.to_string(),
            action,
            command,
            in_action_cache: cached.is_some(),
            result: shown_result(runs.last.as_deref(), cached.clone()),
            operation: runs.operation,
            earlier: runs.earlier,
            waiting,
            ahead,
            ..Default::default()
        };
        self.add_remains(&runs.key, cached.as_deref(), &mut response).await?;
        Ok(Response::new(response))
    }

    /// Why an operation waits, if it does, and how many will be started before it.
    async fn waiting(&self, operation: Option<&Operation>) -> (Vec<WaitReason>, Option<u64>) {
        let Some(queued) = operation.filter(|operation| operation.stage() == Stage::Queued) else {
            return (Vec::new(), None);
        };
        // It may have begun meanwhile.
        let Some(waiting) = self.scheduler.explain(&queued.name).await else {
            return (Vec::new(), None);
        };
        let reasons = waiting.obstacles.into_iter().map(|(machine, obstacle)| WaitReason {
            machine: machine.to_string(),
            text: obstacle.to_string(),
        });
        (reasons.collect(), Some(waiting.ahead as u64))
    }

    /// The operations of the action `key`: the one that `query` names or else the last, and those before.
    async fn runs(&self, query: &Query, mut key: ActionKey, live: Vec<Operation>) -> Result<Runs, Status> {
        let name = if let Query::Operation(id) = query { Some(id.to_string()) } else { None };
        let digest = key.action.to_string();
        let is_meant = |operation: &Operation| match &name {
            Some(name) => operation.name == *name,
            None => operation.action_digest == digest && operation.instance_name == key.instance.as_str(),
        };
        let running = live.into_iter().find(is_meant).map(|operation| self.with_miss(operation));
        let mut before = u64::MAX;
        let mut last = None;
        if let Query::Operation(id) = query
            && running.is_none()
        {
            last = self.history.named(*id).await?;
            before = last.as_ref().map_or(before, |record| record.sequence());
        }
        let named = running.as_ref().or(last.as_ref().map(|record| &record.operation));
        if let Some(Ok(instance)) = named.map(|operation| InstanceName::parse(&operation.instance_name)) {
            key.instance = instance;
        }
        let found = self.history.of_action(key.action, before, EARLIER_SEARCHED).await?;
        let instance = key.instance.as_str();
        let mut found = found.into_iter().filter(|record| record.operation.instance_name == instance);
        if running.is_none() && last.is_none() {
            last = found.next();
        }
        let earlier = found.take(MAX_EARLIER).map(|record| record.operation.clone()).collect();
        let operation = running.or_else(|| last.as_ref().map(|record| record.operation.clone()));
        Ok(Runs { key, operation, last, earlier })
    }

    pub(super) async fn list_actions(
        &self,
        request: Request<ListActionsRequest>,
    ) -> Result<Response<ListActionsResponse>, Status> {
        let request = request.into_inner();
        let limit = match request.limit {
            0 => DEFAULT_LIST,
            limit => usize::try_from(limit).unwrap_or(MAX_LIST).min(MAX_LIST),
        };
        let filter = Filter::new(request.filter);
        let live = self.source.operations().await;
        self.history.settle().await;
        let from = match request.page_token.as_str() {
            "" => PageToken { before: self.history.end(), live: Some(LivePlace::NEWEST) },
            text => PageToken::decode(text)?,
        };
        let (mut operations, next_live) = live_page(live, from.live, &filter, limit);
        if let Some(place) = next_live {
            let next = PageToken { live: Some(place), ..from };
            operations = operations.into_iter().map(|operation| self.with_miss(operation)).collect();
            self.mark_pinned(&mut operations);
            return Ok(Response::new(ListActionsResponse { operations, next_page_token: next.encode() }));
        }
        let live: HashSet<String> = operations.iter().map(|operation| operation.name.clone()).collect();
        operations = operations.into_iter().map(|operation| self.with_miss(operation)).collect();
        let page = self.finished(filter, from.before, limit - operations.len()).await?;
        operations.extend(page.operations.into_iter().filter(|operation| !live.contains(&operation.name)));
        self.mark_pinned(&mut operations);
        let next = page.next.map(|before| PageToken { before, live: None }.encode());
        Ok(Response::new(ListActionsResponse { operations, next_page_token: next.unwrap_or_default() }))
    }

    /// Finished operations; those of one action are found without a search through all.
    async fn finished(&self, filter: Filter, before: u64, limit: usize) -> Result<Page, Status> {
        if limit == 0 {
            return Ok(Page { operations: Vec::new(), next: Some(before) });
        }
        let Ok(action) = filter.action_digest().parse::<Digest>() else {
            return Ok(self.history.page(filter, before, limit).await?);
        };
        let records = self.history.of_action(action, before, limit).await?;
        let last = records.last().map(|record| record.sequence());
        let next = last.filter(|_| records.len() == limit);
        let wanted = records.iter().filter(|record| filter.matches(&record.operation));
        Ok(Page { operations: wanted.map(|record| record.operation.clone()).collect(), next })
    }

    /// The same with why it missed, where that is known.
    fn with_miss(&self, operation: Operation) -> Operation {
        let miss = self.history.explanation(&operation.name).map_or(operation.miss, |miss| miss.kind);
        Operation { miss, ..operation }
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
    pub(super) async fn definition(&self, digest: &Digest) -> Result<(Vec<u8>, Vec<u8>), Status> {
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

    pub(super) async fn cached_result(&self, key: ActionKey) -> Result<Option<Vec<u8>>, Status> {
        let result = self.results.get(&key).await;
        let result = result.map_err(|error| Status::internal(error.to_string()))?;
        Ok(result.map(|result| result.encode_to_vec()))
    }
}

/// The result of the last operation, where all of it was kept, else that of the cache.
fn shown_result(last: Option<&Record>, cached: Option<Vec<u8>>) -> Option<Vec<u8>> {
    match last {
        Some(Record { result: Some(result), result_is_short: false, .. }) => Some(result.clone()),
        Some(record) if !record.kept => record.result.clone(),
        last => cached.or_else(|| last.and_then(|record| record.result.clone())),
    }
}

/// Those of `live` behind `after` that `filter` wants, the newest first, and the place of the last if
/// there are more than `limit`.
fn live_page(
    live: Vec<Operation>,
    after: Option<LivePlace>,
    filter: &Filter,
    limit: usize,
) -> (Vec<Operation>, Option<LivePlace>) {
    let Some(after) = after else { return (Vec::new(), None) };
    let placed = live.into_iter().map(|operation| (LivePlace::of(&operation), operation));
    let mut placed: Vec<(LivePlace, Operation)> =
        placed.filter(|(place, operation)| *place < after && filter.matches(operation)).collect();
    placed.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(*place));
    let is_more = placed.len() > limit;
    placed.truncate(limit);
    let last = placed.last().map(|(place, _)| *place).filter(|_| is_more);
    (placed.into_iter().map(|(_, operation)| operation).collect(), last)
}

#[cfg(test)]
mod tests;
