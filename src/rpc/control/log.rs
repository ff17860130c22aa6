//! STUB of log.

use farmhand_proto::control::{WatchLogRequest, WatchLogResponse};
use tonic::{Request, Response, Status};

use super::{ControlService, Replies};

impl ControlService {
    pub(super) async fn watch_log(
        &self,
        _request: Request<WatchLogRequest>,
    ) -> Result<Response<Replies<WatchLogResponse>>, Status> {
        Err(Status::unimplemented("watch_log"))
    }
}
