//! The control API of a node, and what a watcher of it holds.

use std::collections::BTreeMap;

use farmhand_proto::control::control_client::ControlClient;
use farmhand_proto::control::{
    Build, Execution, Machine, Mnemonic, Operation, Sample, Storage, WatchPosition, WatchRequest,
    WatchResponse,
};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::Node;

/// A client of the control API of `node`.
pub(crate) async fn control(node: &Node) -> ControlClient<Channel> {
    let socket = node.runtime_dir().join("control.sock");
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    ControlClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(usize::MAX)
}

/// What a watcher knows, out of the messages it applied.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) position: Option<WatchPosition>,
    pub(crate) operations: BTreeMap<String, Operation>,
    pub(crate) builds: BTreeMap<String, Build>,
    pub(crate) mnemonics: BTreeMap<String, Mnemonic>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) execution: Execution,
    pub(crate) storage: Option<Storage>,
    /// Snapshots that were begun, and messages that were applied.
    pub(crate) snapshots: usize,
    pub(crate) messages: usize,
    pub(crate) is_complete: bool,
}

impl View {
    /// Applies one message.
    pub(crate) fn apply(&mut self, message: WatchResponse) {
        if message.snapshot {
            let (snapshots, messages) = (self.snapshots + 1, self.messages);
            *self = Self { snapshots, messages, ..Self::default() };
        }
        self.messages += 1;
        self.is_complete |= message.complete;
        self.position = message.position;
        let operations = message.operations.into_iter().map(|value| (value.name.clone(), value));
        self.operations.extend(operations);
        self.builds.extend(message.builds.into_iter().map(|value| (value.invocation.clone(), value)));
        self.mnemonics.extend(message.mnemonics.into_iter().map(|value| (value.name.clone(), value)));
        self.samples.extend(message.samples);
        if !message.machines.is_empty() {
            self.machines = message.machines;
        }
        self.execution = message.execution.unwrap_or(self.execution);
        self.storage = message.storage.or(self.storage);
    }

    /// Applies messages until the view is as wanted.
    pub(crate) async fn until(
        &mut self,
        stream: &mut Streaming<WatchResponse>,
        is_as_wanted: impl Fn(&Self) -> bool,
    ) {
        while !is_as_wanted(self) {
            let message = stream.message().await.unwrap().expect("the stream goes on");
            self.apply(message);
        }
    }

    /// A complete snapshot, and the stream that goes on after it.
    pub(crate) async fn open(
        control: &mut ControlClient<Channel>,
        request: WatchRequest,
    ) -> (Self, Streaming<WatchResponse>) {
        let mut stream = control.watch(request).await.unwrap().into_inner();
        let mut view = Self::default();
        view.until(&mut stream, |view| view.is_complete).await;
        (view, stream)
    }

    /// The only operation of that target.
    #[track_caller]
    pub(crate) fn operation(&self, target: &str) -> &Operation {
        let all: Vec<_> = self.operations.values().filter(|operation| operation.target == target).collect();
        assert_eq!(all.len(), 1, "operations of {target}: {all:#?}");
        all[0]
    }
}
