//! The client of the control API, and what both of its ends agree on besides the messages.

use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::control::control_client::ControlClient;

/// Version of the control API, told in every status.
pub const PROTOCOL_VERSION: u32 = 2;

/// The metadata of a call that names the least version its caller can do with.
pub const PROTOCOL_METADATA: &str = "farmhand-protocol";

/// Bytes of the largest message on this API, both ways.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// A client that says which version it was made for, so that an older node can say that it is too old.
pub type Client = ControlClient<InterceptedService<Channel, Announce>>;

/// Adds [`PROTOCOL_METADATA`] to each call.
#[derive(Clone, Copy, Debug)]
pub struct Announce;

impl Interceptor for Announce {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(PROTOCOL_METADATA, MetadataValue::from(PROTOCOL_VERSION));
        Ok(request)
    }
}

/// A client over `channel`, which is one to a control socket.
pub fn client(channel: Channel) -> Client {
    ControlClient::with_interceptor(channel, Announce).max_decoding_message_size(MAX_MESSAGE_BYTES)
}
