//! STUB of settings.

use farmhand_proto::control::{GetSettingsRequest, GetSettingsResponse};
use tonic::{Request, Response, Status};

use super::ControlService;

impl ControlService {
    pub(super) async fn get_settings(
        &self,
        _request: Request<GetSettingsRequest>,
    ) -> Result<Response<GetSettingsResponse>, Status> {
        Err(Status::unimplemented("get_settings"))
    }
}
