//! `google.longrunning.Operations`: the operations of the Execution service, by name.
//!
//! Every answer shows an operation exactly as its stream would. Names are what Execute gave out; a
//! prefix before the last two segments is ignored.

use std::time::Duration;

use async_trait::async_trait;
use farmhand_proto::longrunning;
use farmhand_proto::longrunning::operations_server::{Operations, OperationsServer};
use prost::Message;
use tonic::{Request, Response, Status};

use super::execution::{to_wire, unknown_operation};
use crate::execution::{Operation, OperationId, Scheduler};

/// Operations in one page, unless the client wants fewer.
const PAGE: usize = 1000;

/// Encoded bytes after which a page ends: messages must stay below 4 MiB, and one operation more
/// has to fit.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Operations looked at in one step.
const STRIDE: usize = 256;

/// The service. Clones share their scheduler.
#[derive(Clone)]
pub struct OperationsService {
    scheduler: Scheduler,
}

/// Which operations a list has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Filter {
    instance: Option<String>,
    done: Option<bool>,
}

// === impl Filter ===

impl Filter {
    /// Reads `name` (`operations`, or `{instance}/operations`, or empty) and `filter` (`done=true`,
    /// `done=false`, or empty).
    fn parse(name: &str, filter: &str) -> Result<Self, Status> {
        let instance = match name.strip_suffix("operations") {
            Some(prefix) if prefix.is_empty() || prefix.ends_with('/') => prefix.trim_end_matches('/'),
            _ => name,
        };
        let done = match filter.replace(' ', "").as_str() {
            "" => None,
            "done=true" => Some(true),
            "done=false" => Some(false),
            _ => return Err(Status::invalid_argument("filter is neither done=true nor done=false")),
        };
        Ok(Self { instance: (!instance.is_empty()).then(|| instance.to_owned()), done })
    }

    fn matches(&self, operation: &Operation) -> bool {
        self.instance.as_deref().is_none_or(|name| name == operation.instance.as_str())
            && self.done.is_none_or(|done| done == operation.is_done())
    }
}

// === impl OperationsService ===

impl OperationsService {
    /// Serves the operations of `scheduler`.
    pub fn new(scheduler: Scheduler) -> Self {
        Self { scheduler }
    }

    /// The service for [`Routes`](tonic::service::Routes).
    pub fn into_server(self) -> OperationsServer<Self> {
        OperationsServer::new(self)
    }
}

#[async_trait]
impl Operations for OperationsService {
    async fn list_operations(
        &self,
        request: Request<longrunning::ListOperationsRequest>,
    ) -> Result<Response<longrunning::ListOperationsResponse>, Status> {
        let scheduler = &self.scheduler;
        let request = request.into_inner();
        let filter = Filter::parse(&request.name, &request.filter)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(
                OperationId::parse(token)
                    .ok_or_else(|| Status::invalid_argument("page_token is not one of ours"))?,
            ),
        };
        let limit = match usize::try_from(request.page_size) {
            Ok(0) => PAGE,
            Ok(size) => size.min(PAGE),
            Err(_) => return Err(Status::invalid_argument("page_size is negative")),
        };
        Ok(Response::new(list(scheduler, &filter, after, limit).await))
    }

    async fn get_operation(
        &self,
        request: Request<longrunning::GetOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        let scheduler = &self.scheduler;
        let name = request.into_inner().name;
        let operation = scheduler.get(&name).ok_or_else(|| unknown_operation(&name))?;
        Ok(Response::new(to_wire(scheduler.cas(), &operation, &operation.state()).await))
    }

    async fn delete_operation(
        &self,
        request: Request<longrunning::DeleteOperationRequest>,
    ) -> Result<Response<farmhand_proto::protobuf::Empty>, Status> {
        let scheduler = &self.scheduler;
        let name = request.into_inner().name;
        let operation = scheduler.get(&name).ok_or_else(|| unknown_operation(&name))?;
        if !operation.is_done() {
            return Err(Status::failed_precondition("the operation is not over yet; cancel it first"));
        }
        scheduler.forget(&operation);
        Ok(Response::new(farmhand_proto::protobuf::Empty {}))
    }

    async fn cancel_operation(
        &self,
        request: Request<longrunning::CancelOperationRequest>,
    ) -> Result<Response<farmhand_proto::protobuf::Empty>, Status> {
        let scheduler = &self.scheduler;
        let name = request.into_inner().name;
        if !scheduler.cancel(&name) {
            return Err(unknown_operation(&name));
        }
        Ok(Response::new(farmhand_proto::protobuf::Empty {}))
    }

    async fn wait_operation(
        &self,
        request: Request<longrunning::WaitOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        let scheduler = &self.scheduler;
        let longrunning::WaitOperationRequest { name, timeout } = request.into_inner();
        let mut watch = scheduler.attach(&name).ok_or_else(|| unknown_operation(&name))?;
        let timeout = timeout.map_or(Duration::MAX, |timeout| {
            let nanos = u32::try_from(timeout.nanos).unwrap_or(0).min(999_999_999);
            Duration::new(u64::try_from(timeout.seconds).unwrap_or(0), nanos)
        });
        tokio::select! {
            _ = tokio::time::timeout(timeout, watch.done()) => {}
            () = scheduler.stopping().cancelled() => {
                return Err(Status::unavailable("this machine is shutting down"));
            }
        }
        let state = watch.state();
        Ok(Response::new(to_wire(scheduler.cas(), watch.operation(), &state).await))
    }
}

/// One page: it ends at `limit` operations or [`PAGE_BYTES`], whatever comes first.
async fn list(
    scheduler: &Scheduler,
    filter: &Filter,
    mut after: Option<OperationId>,
    limit: usize,
) -> longrunning::ListOperationsResponse {
    let mut page = longrunning::ListOperationsResponse::default();
    let mut bytes = 0;
    loop {
        let operations = scheduler.list(after, STRIDE);
        if operations.is_empty() {
            return page;
        }
        for operation in operations {
            after = Some(operation.id);
            if !filter.matches(&operation) {
                continue;
            }
            let message = to_wire(scheduler.cas(), &operation, &operation.state()).await;
            bytes += message.encoded_len();
            page.operations.push(message);
            if page.operations.len() == limit || bytes >= PAGE_BYTES {
                page.next_page_token = operation.id.uuid().to_string();
                return page;
            }
        }
    }
}

#[cfg(test)]
mod tests;
