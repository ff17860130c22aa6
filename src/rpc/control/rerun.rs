//! RerunAction: an action that is run again, and what its runs have in common.
//!
//! The stream tells each stage of each run, then the verdict. Dropping it ends the runs.

use std::sync::Arc;

use farmhand_proto::control::{
    Operation, OutputDifference, RerunActionRequest, RerunActionResponse, RerunVerdict,
};
use futures_util::stream;
use tonic::{Request, Response, Status};

use super::query::Query;
use super::{ControlService, ControlSource, Replies};
use crate::cas::ContentAddressableStorage;
use crate::digest::{Digest, DigestFunction};
use crate::execution::ExecuteError;
use crate::execution::operations::Outcome;
use crate::execution::rerun::{Comparison, Difference, Rerun, RerunRequest, Step};

/// Times an action is run again at most.
const MAX_TIMES: u32 = 100;

/// Runs that somebody watches.
struct Watched {
    rerun: Rerun,
    source: Arc<dyn ControlSource>,
    cas: Arc<dyn ContentAddressableStorage>,
    function: DigestFunction,
    comparison: Comparison,
    verdict: RerunVerdict,
    is_over: bool,
}

// === impl ControlService ===

impl ControlService {
    pub(super) async fn rerun_action(
        &self,
        request: Request<RerunActionRequest>,
    ) -> Result<Response<Replies<RerunActionResponse>>, Status> {
        let RerunActionRequest { digest, instance_name, times, machine } = request.into_inner();
        if times > MAX_TIMES {
            return Err(Status::invalid_argument(format!("{times} times is more than {MAX_TIMES}")));
        }
        let (action, instance_name) = self.named(&digest, instance_name).await?;
        let instance = self.instances.find(&instance_name)?;
        if !instance.settings.execution {
            return Err(ExecuteError::SwitchedOff(instance.name).into());
        }
        let request = RerunRequest {
            instance: instance.name,
            action,
            platform: instance.settings.platform,
            times: times.max(1),
            machine: Some(machine).filter(|machine| !machine.is_empty()),
        };
        let watched = Watched {
            rerun: self.scheduler.rerun(request).await?,
            source: Arc::clone(&self.source),
            cas: Arc::clone(&self.cas),
            function: action.function(),
            comparison: Comparison::default(),
            verdict: RerunVerdict::default(),
            is_over: false,
        };
        Ok(Response::new(Box::pin(stream::unfold(watched, Watched::next))))
    }

    /// The action a person means, and its instance: that of the operation, where one was named.
    async fn named(&self, text: &str, instance: String) -> Result<(Digest, String), Status> {
        let query = Query::parse(text)?;
        let live = self.source.operations().await;
        self.history.settle().await;
        let digest = self.resolve(&query, &live).await?;
        let Query::Operation(id) = query else { return Ok((digest, instance)) };
        let name = id.to_string();
        let running = live.into_iter().find(|operation| operation.name == name);
        let instance = match running {
            Some(operation) => operation.instance_name,
            None => {
                let record = self.history.named(id).await?;
                record.map_or(instance, |record| record.operation.instance_name.clone())
            }
        };
        Ok((digest, instance))
    }
}

// === impl Watched ===

impl Watched {
    async fn next(mut self) -> Option<(Result<RerunActionResponse, Status>, Self)> {
        if self.is_over {
            return None;
        }
        let message = match self.rerun.next().await {
            Some(Ok(step)) => Ok(self.step(step).await),
            Some(Err(error)) => {
                self.is_over = true;
                Err(error.into())
            }
            None => {
                self.is_over = true;
                Ok(self.end().await)
            }
        };
        Some((message, self))
    }

    async fn step(&mut self, step: Step) -> RerunActionResponse {
        if let Some(response) = &step.state.response {
            self.comparison.add(self.function, response);
            match Outcome::of(response) {
                Outcome::Succeeded => self.verdict.succeeded += 1,
                Outcome::Failed(_) | Outcome::Error(_) => self.verdict.failed += 1,
            }
        }
        let name = step.operation.id.to_string();
        let told = self.source.operation(&name).await;
        let operation = told.unwrap_or_else(|| Operation { name, ..Default::default() });
        let operation = Some(Operation { result: None, ..operation });
        RerunActionResponse { run: step.run, operation, verdict: None }
    }

    async fn end(&mut self) -> RerunActionResponse {
        let mut comparison = std::mem::take(&mut self.comparison);
        if let Some(cached) = self.rerun.cached().await {
            comparison.add_result(self.function, &cached);
            self.verdict.compared_with_cache = true;
        }
        let differences = comparison.finish(&*self.cas).await;
        let wire = |Difference { path, values }| OutputDifference { path, values };
        self.verdict.differences = differences.into_iter().map(wire).collect();
        let verdict = Some(std::mem::take(&mut self.verdict));
        RerunActionResponse { verdict, ..Default::default() }
    }
}
