//! STUB of watch.

use farmhand_proto::control::{WatchRequest, WatchResponse};
use tonic::{Request, Response, Status};

use super::{ControlService, Replies};

impl ControlService {
    pub(super) async fn watch(
        &self,
        _request: Request<WatchRequest>,
    ) -> Result<Response<Replies<WatchResponse>>, Status> {
        Err(Status::unimplemented("watch"))
    }
}
