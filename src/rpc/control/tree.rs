//! STUB of tree.

use farmhand_proto::control::{
    ListDirectoryRequest, ListDirectoryResponse, ReadBlobRequest, ReadBlobResponse,
};
use tonic::{Request, Response, Status};

use super::{ControlService, Replies};

impl ControlService {
    pub(super) async fn list_directory(
        &self,
        _request: Request<ListDirectoryRequest>,
    ) -> Result<Response<ListDirectoryResponse>, Status> {
        Err(Status::unimplemented("list_directory"))
    }
    pub(super) async fn read_blob(
        &self,
        _request: Request<ReadBlobRequest>,
    ) -> Result<Response<Replies<ReadBlobResponse>>, Status> {
        Err(Status::unimplemented("read_blob"))
    }
}
