//! `GetFarm`, `ShowKey` and `RotateKey`: which farm this machine is in, and its key.

use farmhand_proto::control::{
    FarmMember, GetFarmResponse, RotateKeyRequest, RotateKeyResponse, ShowKeyRequest, ShowKeyResponse,
};
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use super::{ControlService, FarmParts};
use crate::peer::trust::rotation::{self, Fellow, RotateError};

impl ControlService {
    pub(super) fn get_farm(&self) -> GetFarmResponse {
        let trust = &self.farm.trust;
        GetFarmResponse {
            name: trust.farm(),
            tag: trust.tag().to_string(),
            machine_id: const_hex::encode(trust.me().bytes()),
            members: self.farm.fellows.list().into_iter().map(member).collect(),
            is_shared: trust.is_shared(),
            key_file: trust.key_file().map(|path| path.display().to_string()).unwrap_or_default(),
        }
    }

    pub(super) fn show_key(
        &self,
        request: &Request<ShowKeyRequest>,
    ) -> Result<Response<ShowKeyResponse>, Status> {
        check_owner(request)?;
        tracing::info!("the key of the farm was shown to a person");
        let key = self.farm.trust.key();
        Ok(Response::new(ShowKeyResponse { words: key.words().to_string(), farm: key.farm() }))
    }

    pub(super) async fn rotate_key(
        &self,
        request: Request<RotateKeyRequest>,
    ) -> Result<Response<RotateKeyResponse>, Status> {
        check_owner(&request)?;
        let without = request.into_inner().without;
        let FarmParts { trust, fellows, tasks, .. } = self.farm.clone();
        let owned = tasks.clone();
        // It goes on without whoever asked for it: others may have the new key already.
        let rotating = tasks
            .spawn("rotation", async move { rotation::rotate(&trust, &*fellows, &without, &owned).await });
        let rotation = rotating.await.map_err(|panic| RotateError::Panicked(panic.to_string()))??;
        let members = |fellows: Vec<Fellow>| fellows.into_iter().map(member).collect();
        Ok(Response::new(RotateKeyResponse {
            farm: rotation.tag.farm(),
            tag: rotation.tag.to_string(),
            have: members(rotation.have),
            missed: members(rotation.missed),
            without: members(rotation.without),
        }))
    }
}

fn member(fellow: Fellow) -> FarmMember {
    FarmMember { machine_id: const_hex::encode(fellow.id.bytes()), name: fellow.name }
}

/// The mode of the socket keeps others out already; where a secret is at stake the kernel is asked too
/// who is at the other end.
fn check_owner<T>(request: &Request<T>) -> Result<(), Status> {
    let info = request.extensions().get::<UdsConnectInfo>();
    let user = info.and_then(|info| info.peer_cred).map(|peer| peer.uid());
    let own = rustix::process::geteuid().as_raw();
    if user.is_some_and(|user| user == own || user == 0) {
        return Ok(());
    }
    Err(Status::permission_denied("only the user of the node is told its secrets, over its control socket"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use farmhand_proto::control::{GetStatusResponse, Operation};
    use tokio::net::UnixStream;
    use tokio::sync::Notify;
    use tonic::Code;
    use tonic::transport::server::Connected;

    use super::super::{ControlSource, testing};
    use super::*;
    use crate::peer::MachineId;
    use crate::peer::trust::FarmKey;
    use crate::peer::trust::rotation::Fellows;

    struct Nothing;

    #[async_trait]
    impl ControlSource for Nothing {
        async fn status(&self) -> GetStatusResponse {
            GetStatusResponse::default()
        }

        async fn operations(&self) -> Vec<Operation> {
            Vec::new()
        }
    }

    #[tokio::test]
    async fn a_farm_is_described_without_its_key() {
        let parts = testing::parts(Nothing);
        let trust = parts.farm.trust.clone();
        let farm = ControlService::new(parts).get_farm();
        assert_eq!((farm.name.as_str(), farm.tag), (trust.farm().as_str(), trust.tag().to_string()));
        assert_eq!(farm.machine_id, const_hex::encode(trust.me().bytes()));
        assert!(farm.members.is_empty() && !farm.is_shared && farm.key_file.is_empty());
    }

    /// These calls came by no socket.
    #[tokio::test]
    async fn whom_the_kernel_does_not_vouch_for_is_told_no_secret() {
        let parts = testing::parts(Nothing);
        let trust = parts.farm.trust.clone();
        let (service, key) = (ControlService::new(parts), trust.key());
        let refused = service.show_key(&Request::new(ShowKeyRequest {}));
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        let refused = service.rotate_key(Request::new(RotateKeyRequest::default())).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(trust.key(), key);
    }

    /// One other machine, which has a key at once and takes its time to say so.
    #[derive(Default)]
    struct Slow {
        given: Mutex<Option<FarmKey>>,
        has_it: Notify,
        says_so: Notify,
    }

    #[async_trait]
    impl Fellows for Slow {
        fn list(&self) -> Vec<Fellow> {
            vec![Fellow { id: MachineId::new([1; 32]), name: "attic".to_owned() }]
        }

        async fn hand_on(&self, key: &FarmKey, to: &[MachineId]) -> Vec<MachineId> {
            *self.given.lock().unwrap() = Some(key.clone());
            self.has_it.notify_one();
            self.says_so.notified().await;
            to.to_vec()
        }
    }

    #[tokio::test]
    async fn who_asks_for_a_new_key_may_go_away() {
        let fellows = Arc::new(Slow::default());
        let mut parts = testing::parts(Nothing);
        parts.farm.fellows = fellows.clone();
        let (trust, tasks) = (parts.farm.trust.clone(), parts.farm.tasks.clone());
        let service = ControlService::new(parts);
        let (near, _far) = UnixStream::pair().unwrap();
        let mut request = Request::new(RotateKeyRequest::default());
        request.extensions_mut().insert(near.connect_info());
        tokio::select! {
            answer = service.rotate_key(request) => panic!("it does not wait: {answer:?}"),
            () = fellows.has_it.notified() => {}
        }
        fellows.says_so.notify_one();
        tasks.idle().await;
        assert_eq!(*fellows.given.lock().unwrap(), Some(trust.key()));
        assert!(trust.is_shared());
    }
}
