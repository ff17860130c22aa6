//! STUB of steer.

use farmhand_proto::control::{KillActionRequest, KillActionResponse, SetMachineRequest, SetMachineResponse};
use tonic::{Request, Response, Status};

use super::ControlService;

impl ControlService {
    pub(super) async fn kill_action(
        &self,
        _request: Request<KillActionRequest>,
    ) -> Result<Response<KillActionResponse>, Status> {
        Err(Status::unimplemented("kill_action"))
    }
    pub(super) async fn set_machine(
        &self,
        _request: Request<SetMachineRequest>,
    ) -> Result<Response<SetMachineResponse>, Status> {
        Err(Status::unimplemented("set_machine"))
    }
}
