//! `PinAction`: keeps a result from eviction, or lets go of it.

use farmhand_proto::control::{PinActionRequest, PinActionResponse};
use tonic::{Request, Response, Status};

use super::ControlService;
use super::query::Query;
use crate::action_cache::ActionKey;
use crate::digest::Digest;
use crate::instance::InstanceName;

impl ControlService {
    pub(super) async fn pin_action(
        &self,
        request: Request<PinActionRequest>,
    ) -> Result<Response<PinActionResponse>, Status> {
        let request = request.into_inner();
        let instance = InstanceName::parse(&request.instance_name)?;
        let key = ActionKey { instance, action: self.action_named(&request.digest).await? };
        let pins = &self.pins;
        if request.unpin {
            pins.unpin(&key).await?;
            self.activity.touch(&key);
            return Ok(Response::new(PinActionResponse { pinned: false, bytes: 0 }));
        }
        let bytes = pins.pin(&key).await?;
        self.activity.touch(&key);
        Ok(Response::new(PinActionResponse { pinned: true, bytes }))
    }

    /// The action that a person named by a digest, a hash, or the name of an operation.
    async fn action_named(&self, text: &str) -> Result<Digest, Status> {
        if let Some(operation) = self.scheduler.get(text) {
            return Ok(operation.action);
        }
        let live = self.source.operations().await;
        self.history.settle().await;
        self.resolve(&Query::parse(text)?, &live).await
    }
}
