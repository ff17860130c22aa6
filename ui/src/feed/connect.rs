//! Connecting to the control socket of a node.

use std::path::Path;
use std::time::Duration;

use farmhand_proto::client::{Client, client};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

/// Time a connection may take.
const LIMIT: Duration = Duration::from_secs(2);

/// A client of the node at `socket`.
///
/// # Errors
/// In words, why there is none.
pub(crate) async fn connect(socket: &Path) -> Result<Client, String> {
    // The connector knows where to go; the address is a form only.
    let endpoint = Endpoint::from_static("http://control.invalid").connect_timeout(LIMIT);
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let connecting = endpoint.connect_with_connector(connector);
    let channel = match tokio::time::timeout(LIMIT, connecting).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => return Err(reason(socket, &error)),
        Err(_) => return Err("the node does not answer".to_owned()),
    };
    Ok(client(channel))
}

/// The innermost reason, as that is what a person can do something about.
fn reason(socket: &Path, error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::NotFound) => {
            format!("no node is running (there is no {})", socket.display())
        }
        Some(std::io::ErrorKind::ConnectionRefused) => "no node is running".to_owned(),
        Some(std::io::ErrorKind::PermissionDenied) => "the node belongs to somebody else".to_owned(),
        _ => cause.to_string(),
    }
}
