//! A machine of the farm that is no node: it connects, or is connected to, and says what a test wants.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use farmhand::peer::trust::{SERVER_NAME, Trust};
use farmhand::rpc::server::{self, Limits, Listener};
use farmhand_proto::peer::link_message::Message;
use farmhand_proto::peer::peer_server::{Peer, PeerServer};
use farmhand_proto::peer::{
    Beat, ClaimRequest, ClaimResponse, Hello, JoinActionRequest, LinkMessage, RunRequest, RunResponse,
    TakeKeyRequest, TakeKeyResponse,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::Keys;

/// A key of its own, and that of a farm.
pub(crate) struct Machine {
    pub(crate) trust: Trust,
    _directory: TempDir,
}

impl Machine {
    pub(crate) fn new(keys: &Keys, key: usize) -> Self {
        Self::with(&keys.file(key))
    }

    /// With the key in this file.
    pub(crate) fn with(key_file: &Path) -> Self {
        let directory = TempDir::new().unwrap();
        let trust = Trust::open(&directory.path().join("farm"), Some(key_file)).unwrap();
        Self { trust, _directory: directory }
    }

    /// A channel to the peer port at `address`.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let config = self.trust.client_config();
        let connect = tower::service_fn(move |_| {
            let connector = TlsConnector::from(Arc::clone(&config));
            async move {
                let socket = TcpStream::connect(address).await?;
                let name = ServerName::try_from(SERVER_NAME).unwrap();
                connector.connect(name, socket).await.map(TokioIo::new)
            }
        });
        Endpoint::from_static("http://peer").connect_with_connector(connect).await
    }

    /// Takes links on `listener`, and answers each hello by `hello`; what came is kept.
    pub(crate) fn serve(&self, listener: TcpListener, hello: Hello) -> Arc<Mutex<Vec<LinkMessage>>> {
        let heard = Arc::default();
        let service = Answers { hello, heard: Arc::clone(&heard) };
        let routes = Routes::new(PeerServer::new(service));
        let listener = Listener::Members(listener, self.trust.clone());
        let never = CancellationToken::new();
        drop(tokio::task::spawn_local(server::serve(vec![listener], routes, Limits::default(), never)));
        heard
    }
}

/// A hello of a machine called `name`, with the protocol versions it speaks.
pub(crate) fn hello(name: &str, protocols: [u32; 2]) -> Hello {
    Hello {
        name: name.to_owned(),
        program: "9.9.9".to_owned(),
        least_protocol: protocols[0],
        most_protocol: protocols[1],
        boot_epoch: 5,
        ..Default::default()
    }
}

/// A message of a link.
pub(crate) fn say(message: Message) -> LinkMessage {
    LinkMessage { message: Some(message) }
}

struct Answers {
    hello: Hello,
    heard: Arc<Mutex<Vec<LinkMessage>>>,
}

type Replies<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[async_trait::async_trait]
impl Peer for Answers {
    type LinkStream = Replies<LinkMessage>;

    async fn link(
        &self,
        request: Request<Streaming<LinkMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let heard = Arc::clone(&self.heard);
        let first = tokio_stream::iter([Ok(say(Message::Hello(self.hello.clone())))]);
        let echo = request.into_inner().map(move |message| {
            heard.lock().unwrap().push(message?);
            Ok(say(Message::Beat(Beat::default())))
        });
        Ok(Response::new(Box::pin(first.chain(echo))))
    }

    type RunStream = Replies<RunResponse>;

    async fn run(&self, _: Request<Streaming<RunRequest>>) -> Result<Response<Self::RunStream>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn claim(&self, _: Request<ClaimRequest>) -> Result<Response<ClaimResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    type JoinStream = Replies<RunResponse>;

    async fn join(&self, _: Request<JoinActionRequest>) -> Result<Response<Self::JoinStream>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn take_key(&self, _: Request<TakeKeyRequest>) -> Result<Response<TakeKeyResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }
}
