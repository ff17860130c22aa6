//! STUB of pin.

use farmhand_proto::control::{PinActionRequest, PinActionResponse};
use tonic::{Request, Response, Status};

use super::ControlService;

impl ControlService {
    pub(super) async fn pin_action(
        &self,
        _request: Request<PinActionRequest>,
    ) -> Result<Response<PinActionResponse>, Status> {
        Err(Status::unimplemented("pin_action"))
    }
}
