//! STUB of miss.

use farmhand_proto::control::{ExplainMissRequest, Miss};
use tonic::{Request, Response, Status};

use super::ControlService;

impl ControlService {
    pub(super) async fn explain_miss(
        &self,
        _request: Request<ExplainMissRequest>,
    ) -> Result<Response<Miss>, Status> {
        Err(Status::unimplemented("explain_miss"))
    }
}
