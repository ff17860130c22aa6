//! STUB of rerun.

use farmhand_proto::control::{RerunActionRequest, RerunActionResponse};
use tonic::{Request, Response, Status};

use super::{ControlService, Replies};

impl ControlService {
    pub(super) async fn rerun_action(
        &self,
        _request: Request<RerunActionRequest>,
    ) -> Result<Response<Replies<RerunActionResponse>>, Status> {
        Err(Status::unimplemented("rerun_action"))
    }
}
