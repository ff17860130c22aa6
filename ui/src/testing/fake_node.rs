//! A control API that says what a test wants, over a real socket.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farmhand_proto::control::control_server::{Control, ControlServer};
use farmhand_proto::control::*;
use futures_util::{Stream, StreamExt, stream};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What it does when it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Tells the made-up farm, then keeps the stream open and silent.
    Tells,
    /// Tells it and ends the stream.
    HangsUp,
    /// Accepts and says nothing.
    Silent,
    /// Refuses.
    Refuses,
}

/// A node that is none. It ends when dropped.
pub(crate) struct FakeNode {
    /// What it was asked by those who watch it.
    pub(crate) watched: Arc<Mutex<Vec<WatchRequest>>>,
    _task: JoinSet<()>,
}

struct Service {
    manner: Manner,
    watched: Arc<Mutex<Vec<WatchRequest>>>,
}

// === impl FakeNode ===

impl FakeNode {
    /// Serves at `socket`.
    pub(crate) fn start(socket: &Path, manner: Manner) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let watched = Arc::default();
        let service = ControlServer::new(Service { manner, watched: Arc::clone(&watched) });
        let mut task = JoinSet::new();
        task.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        Self { watched, _task: task }
    }
}

fn none<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not here"))
}

#[tonic::async_trait]
impl Control for Service {
    type WatchStream = Answers<WatchResponse>;
    type ReadBlobStream = Answers<ReadBlobResponse>;
    type ReadOutputStream = Answers<ReadOutputResponse>;
    type RerunActionStream = Answers<RerunActionResponse>;
    type WatchLogStream = Answers<WatchLogResponse>;
    type InviteStream = Answers<InviteResponse>;
    type JoinStream = Answers<JoinResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.watched.lock().unwrap().push(request.into_inner());
        let told = stream::iter([Ok(super::farm())]);
        Ok(Response::new(match self.manner {
            Manner::Tells => Box::pin(told.chain(stream::pending())),
            Manner::HangsUp => Box::pin(told),
            Manner::Silent => Box::pin(stream::pending()),
            Manner::Refuses => return Err(Status::failed_precondition("too old \u{1b}[2J")),
        }))
    }

    async fn get_action(
        &self,
        request: Request<GetActionRequest>,
    ) -> Result<Response<GetActionResponse>, Status> {
        match request.into_inner().digest.as_str() {
            "never" => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                none()
            }
            "" => Err(Status::not_found("there is none\nof that name")),
            digest => {
                Ok(Response::new(GetActionResponse { digest: digest.to_owned(), ..Default::default() }))
            }
        }
    }

    async fn read_output(
        &self,
        _: Request<ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let piece = |offset: u64, data: &[u8]| {
            Ok(ReadOutputResponse { offset, data: data.to_vec(), ended: offset > 0 })
        };
        Ok(Response::new(Box::pin(stream::iter([piece(0, b"one "), piece(4, b"two")]))))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        none()
    }

    async fn list_actions(
        &self,
        _: Request<ListActionsRequest>,
    ) -> Result<Response<ListActionsResponse>, Status> {
        none()
    }

    async fn list_directory(
        &self,
        _: Request<ListDirectoryRequest>,
    ) -> Result<Response<ListDirectoryResponse>, Status> {
        none()
    }

    async fn read_blob(&self, _: Request<ReadBlobRequest>) -> Result<Response<Self::ReadBlobStream>, Status> {
        none()
    }

    async fn explain_miss(&self, _: Request<ExplainMissRequest>) -> Result<Response<Miss>, Status> {
        none()
    }

    async fn kill_action(
        &self,
        _: Request<KillActionRequest>,
    ) -> Result<Response<KillActionResponse>, Status> {
        none()
    }

    async fn rerun_action(
        &self,
        _: Request<RerunActionRequest>,
    ) -> Result<Response<Self::RerunActionStream>, Status> {
        none()
    }

    async fn pin_action(&self, _: Request<PinActionRequest>) -> Result<Response<PinActionResponse>, Status> {
        none()
    }

    async fn set_machine(
        &self,
        _: Request<SetMachineRequest>,
    ) -> Result<Response<SetMachineResponse>, Status> {
        none()
    }

    async fn get_settings(
        &self,
        _: Request<GetSettingsRequest>,
    ) -> Result<Response<GetSettingsResponse>, Status> {
        none()
    }

    async fn watch_log(&self, _: Request<WatchLogRequest>) -> Result<Response<Self::WatchLogStream>, Status> {
        none()
    }

    async fn get_farm(&self, _: Request<GetFarmRequest>) -> Result<Response<GetFarmResponse>, Status> {
        none()
    }

    async fn invite(&self, _: Request<InviteRequest>) -> Result<Response<Self::InviteStream>, Status> {
        none()
    }

    async fn answer_newcomer(
        &self,
        _: Request<AnswerNewcomerRequest>,
    ) -> Result<Response<AnswerNewcomerResponse>, Status> {
        none()
    }

    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<Self::JoinStream>, Status> {
        none()
    }

    async fn show_key(&self, _: Request<ShowKeyRequest>) -> Result<Response<ShowKeyResponse>, Status> {
        none()
    }

    async fn rotate_key(&self, _: Request<RotateKeyRequest>) -> Result<Response<RotateKeyResponse>, Status> {
        none()
    }
}
