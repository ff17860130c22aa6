//! STUB of output.

use farmhand_proto::control::{ReadOutputRequest, ReadOutputResponse};
use tonic::{Request, Response, Status};

use super::{ControlService, Replies};

impl ControlService {
    pub(super) async fn read_output(
        &self,
        _request: Request<ReadOutputRequest>,
    ) -> Result<Response<Replies<ReadOutputResponse>>, Status> {
        Err(Status::unimplemented("read_output"))
    }
}
