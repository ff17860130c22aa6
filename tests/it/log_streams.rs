//! LOG: log streams: those that clients make, and those of what actions write.

use std::time::Duration;

use farmhand::tasks::Tasks;
use farmhand_proto::bytestream::{QueryWriteStatusRequest, WriteRequest};
use farmhand_proto::logstream::log_stream_service_client::LogStreamServiceClient;
use farmhand_proto::logstream::{CreateLogStreamRequest, LogStream};
use farmhand_proto::longrunning::Operation;
use farmhand_proto::reapi::ExecuteOperationMetadata;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::links::{Keys, desk_of};
use crate::support::action::{metadata, response};
use crate::support::{ActionBuilder, Client, Node, Outcome, random_bytes};

async fn created(client: &Client, parent: &str) -> Result<LogStream, Status> {
    let request = CreateLogStreamRequest { parent: parent.into() };
    Ok(LogStreamServiceClient::new(client.channel.clone()).create_log_stream(request).await?.into_inner())
}

async fn write(
    client: &Client,
    name: &str,
    offset: usize,
    data: &[u8],
    is_last: bool,
) -> Result<i64, Status> {
    let message = WriteRequest {
        resource_name: name.into(),
        write_offset: offset as i64,
        finish_write: is_last,
        data: data.to_vec(),
    };
    client.write_messages(vec![message]).await
}

async fn read(client: &Client, name: &str) -> Result<Vec<u8>, Status> {
    client.read_named(name.to_owned(), 0, 0).await
}

/// Reads beside the test.
fn begin(client: &Client, name: &str, offset: i64) -> JoinHandle<Result<Vec<u8>, Status>> {
    let (client, name) = (client.clone(), name.to_owned());
    Tasks::default().spawn("reader", async move { client.read_named(name, offset, 0).await })
}

async fn query(client: &Client, name: &str) -> Result<(i64, bool), Status> {
    let request = QueryWriteStatusRequest { resource_name: name.into() };
    let status = client.byte_stream().query_write_status(request).await?.into_inner();
    Ok((status.committed_size, status.complete))
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

#[tokio::test]
async fn a_stream_has_a_name_to_read_and_one_to_write() {
    let node = Node::start();
    let client = node.client().await;
    for parent in ["", "main", "projects/123"] {
        let LogStream { name, write_resource_name } = created(&client, parent).await.unwrap();
        let prefix =
            if parent.is_empty() { "logstreams/".to_owned() } else { format!("{parent}/logstreams/") };
        let id = name.strip_prefix(&prefix).unwrap_or_else(|| panic!("{name}"));
        assert!(!id.is_empty() && !id.contains('/'));
        let token = write_resource_name.strip_prefix(&format!("{name}/")).unwrap();
        assert!(token.len() > 20 && !token.contains('/') && !token.contains(id));

        assert_eq!(write(&client, &write_resource_name, 0, b"one ", false).await.unwrap(), 4);
        assert_eq!(write(&client, &write_resource_name, 4, b"two", true).await.unwrap(), 7);
        assert_eq!(read(&client, &name).await.unwrap(), b"one two");
        assert_eq!(code(write(&client, &name, 7, b"x", false).await), Code::InvalidArgument);
        assert_eq!(code(query(&client, &name).await), Code::InvalidArgument);
        assert_eq!(code(read(&client, &write_resource_name).await), Code::InvalidArgument);
        assert_eq!(code(read(&client, &format!("{prefix}unknown")).await), Code::NotFound);
        let guessed = format!("{name}/guessed");
        assert_eq!(code(write(&client, &guessed, 7, b"x", false).await), Code::NotFound);
    }
    assert_eq!(code(created(&client, "a//b").await), Code::InvalidArgument);
}

#[tokio::test]
async fn three_readers_of_a_slow_writer() {
    let node = Node::start();
    let client = node.client().await;
    let LogStream { name, write_resource_name } = created(&client, "i").await.unwrap();
    let data = random_bytes(1, 500_000);
    let first = begin(&client, &name, 0);
    let mut readers = vec![first];
    for (number, piece) in data.chunks(100_000).enumerate() {
        if number == 2 {
            readers.extend([begin(&client, &name, 0), begin(&client, &name, 0)]);
        }
        write(&client, &write_resource_name, number * 100_000, piece, false).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(readers.iter().all(|reader| !reader.is_finished()), "the stream is open");
    }
    write(&client, &write_resource_name, data.len(), b"", true).await.unwrap();
    for reader in readers {
        assert!(reader.await.unwrap().unwrap() == data);
    }
}

#[tokio::test]
async fn offsets_and_limits() {
    let node = Node::start();
    let client = node.client().await;
    let LogStream { name, write_resource_name } = created(&client, "").await.unwrap();
    write(&client, &write_resource_name, 0, b"0123456789", false).await.unwrap();
    assert_eq!(client.read_named(name.clone(), 4, 3).await.unwrap(), b"456");
    let late = begin(&client, &name, 8);
    let beyond = begin(&client, &name, 12);
    assert_eq!(code(client.read_named(name.clone(), -1, 0).await), Code::OutOfRange);
    assert_eq!(code(client.read_named(name.clone(), 0, -1).await), Code::InvalidArgument);
    write(&client, &write_resource_name, 10, b"abcdef", true).await.unwrap();
    assert_eq!(late.await.unwrap().unwrap(), b"89abcdef");
    assert_eq!(beyond.await.unwrap().unwrap(), b"cdef", "it waits for bytes that are not there yet");
    assert!(client.read_named(name.clone(), 16, 0).await.unwrap().is_empty());
    assert_eq!(code(client.read_named(name, 17, 0).await), Code::OutOfRange);
}

#[tokio::test]
async fn writes_are_resumed_and_end() {
    let node = Node::start();
    let client = node.client().await;
    let LogStream { name, write_resource_name } = created(&client, "").await.unwrap();
    let data = random_bytes(2, 400_000);
    write(&client, &write_resource_name, 0, &data[..150_000], false).await.unwrap();
    assert_eq!(query(&client, &write_resource_name).await.unwrap(), (150_000, false));
    let gap = write(&client, &write_resource_name, 200_000, &data[200_000..], false).await;
    assert_eq!(code(gap), Code::InvalidArgument);
    let again = write(&client, &write_resource_name, 0, &data[..10], false).await;
    assert_eq!(code(again), Code::InvalidArgument, "what is committed stands");
    let rest: Vec<_> = data[150_000..].chunks(60_000).enumerate().collect();
    let messages = rest.iter().map(|(number, piece)| WriteRequest {
        resource_name: if *number == 0 { write_resource_name.clone() } else { String::new() },
        write_offset: (150_000 + number * 60_000) as i64,
        finish_write: number + 1 == rest.len(),
        data: piece.to_vec(),
    });
    assert_eq!(client.write_messages(messages.collect()).await.unwrap(), 400_000);
    assert_eq!(query(&client, &write_resource_name).await.unwrap(), (400_000, true));
    let late = write(&client, &write_resource_name, 400_000, b"x", false).await;
    assert_eq!(code(late), Code::FailedPrecondition);
    assert!(read(&client, &name).await.unwrap() == data);
}

/// An action that runs.
struct Running {
    operation: String,
    told: ExecuteOperationMetadata,
    updates: tonic::Streaming<Operation>,
}

impl Running {
    /// Starts an action, and waits until it is executing.
    async fn start(client: &Client, action: &ActionBuilder) -> Self {
        let digest = action.upload(client).await;
        let mut updates = action.start(client, &digest).await.unwrap();
        loop {
            let operation = updates.message().await.unwrap().unwrap();
            let told = metadata(&operation);
            if !told.stdout_stream_name.is_empty() {
                return Self { operation: operation.name, told, updates };
            }
            assert!(told.stage < 3, "it is executing without a stream: {told:?}");
        }
    }

    /// The last update.
    async fn end(mut self) -> Operation {
        let mut last = None;
        while let Some(operation) = self.updates.message().await.unwrap() {
            last = Some(operation);
        }
        last.unwrap()
    }
}

/// What the blob of stdout or stderr has.
async fn blob(client: &Client, digest: Option<&farmhand_proto::reapi::Digest>) -> Vec<u8> {
    let digest = farmhand::digest::Digest::from_field(client.function, digest).unwrap();
    client.read(&digest).await.unwrap()
}

#[tokio::test]
async fn an_action_is_read_while_it_prints() {
    let node = Node::start();
    let client = node.client_of("some/instance").await;
    let gate = node.data_dir().join("scratch");
    assert!(gate.exists());
    let script = "for i in 1 2 3 4 5 6 7 8; do echo line $i; echo oh $i >&2; sleep 0.2; done";
    let run = Running::start(&client, &ActionBuilder::sh(script)).await;
    let (stdout, stderr) = (run.told.stdout_stream_name.clone(), run.told.stderr_stream_name.clone());
    assert!(stdout.starts_with("some/instance/logstreams/"), "{stdout}");
    assert_ne!(stdout, stderr);
    // As the Go SDK asks, which puts the instance in front of whatever it was told.
    let prefixed = format!("some/instance/logstreams/{stdout}");
    let readers = [&stdout, &prefixed, &stderr].map(|name| begin(&client, name, 0));
    let late = begin(&client, &stdout, 7);
    let mut first = client.byte_stream();
    let request =
        farmhand_proto::bytestream::ReadRequest { resource_name: stdout.clone(), ..Default::default() };
    let mut pieces = first.read(request).await.unwrap().into_inner();
    assert!(pieces.message().await.unwrap().unwrap().data.starts_with(b"line 1\n"));
    assert!(readers.iter().all(|reader| !reader.is_finished()), "it goes on");
    let last = run.end().await;
    let result = response(&last).result.unwrap();
    assert_eq!(metadata(&last).stdout_stream_name, stdout, "the name stays");
    let expected = blob(&client, result.stdout_digest.as_ref()).await;
    assert_eq!(expected, "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\nline 7\nline 8\n".as_bytes());
    let [plain, prefixed, errors] = readers;
    assert_eq!(plain.await.unwrap().unwrap(), expected);
    assert_eq!(prefixed.await.unwrap().unwrap(), expected);
    assert_eq!(late.await.unwrap().unwrap(), expected[7..]);
    assert_eq!(errors.await.unwrap().unwrap(), blob(&client, result.stderr_digest.as_ref()).await);
    assert_eq!(read(&client, &stdout).await.unwrap(), expected, "also afterwards");
    assert_eq!(code(client.read_named(stdout.clone(), 1000, 0).await), Code::OutOfRange);
    assert_eq!(code(write(&client, &stdout, 0, b"x", false).await), Code::InvalidArgument);
    // What came out of the cache never ran, and has no streams.
    let cached = ActionBuilder::sh(script).run(&client).await;
    assert!(cached.response.cached_result);
    assert!(cached.metadata().iter().all(|told| told.stdout_stream_name.is_empty()));
}

#[tokio::test]
async fn an_action_on_another_machine_is_read_while_it_prints() {
    let keys = Keys::new();
    let host = keys.node("host", &["--slots", "2"]).start();
    let desk = desk_of(&host, &keys).await;
    let client = desk.client().await;
    let run = Running::start(&client, &ActionBuilder::sh("echo begun; sleep 1; echo ended")).await;
    let name = run.told.stdout_stream_name.clone();
    let reader = begin(&client, &name, 0);
    let request =
        farmhand_proto::bytestream::ReadRequest { resource_name: name.clone(), ..Default::default() };
    let mut pieces = client.byte_stream().read(request).await.unwrap().into_inner();
    assert_eq!(pieces.message().await.unwrap().unwrap().data, b"begun\n");
    let last = run.end().await;
    let result = response(&last).result.unwrap();
    assert_eq!(result.execution_metadata.unwrap().worker, "host");
    assert_eq!(reader.await.unwrap().unwrap(), b"begun\nended\n");
    assert_eq!(read(&client, &name).await.unwrap(), b"begun\nended\n");
}

#[tokio::test]
async fn streams_of_actions_end_however_these_end() {
    let node = Node::start();
    let client = node.client().await;
    // In time.
    let slow = ActionBuilder::sh("echo before; sleep 100").timeout_ms(700);
    let run = Running::start(&client, &slow).await;
    let reader = begin(&client, &run.told.stdout_stream_name, 0);
    let result = response(&run.end().await).result.unwrap();
    assert_eq!(blob(&client, result.stdout_digest.as_ref()).await, b"before\n");
    assert_eq!(reader.await.unwrap().unwrap(), b"before\n");
    // Cancelled.
    let run = Running::start(&client, &ActionBuilder::sh("echo before; sleep 101")).await;
    let name = run.told.stdout_stream_name.clone();
    let reader = begin(&client, &name, 0);
    let request = farmhand_proto::bytestream::ReadRequest { resource_name: name, ..Default::default() };
    let mut pieces = client.byte_stream().read(request).await.unwrap().into_inner();
    assert_eq!(pieces.message().await.unwrap().unwrap().data, b"before\n");
    let cancel = farmhand_proto::longrunning::CancelOperationRequest { name: run.operation.clone() };
    client.operations().cancel_operation(cancel).await.unwrap();
    run.end().await;
    assert_eq!(reader.await.unwrap().unwrap(), b"before\n");
    assert!(pieces.message().await.unwrap().is_none());
    // With an error of its own, and with very much output.
    let loud = ActionBuilder::sh("head -c 30000000 /dev/zero; exit 3");
    let run = Running::start(&client, &loud).await;
    let (name, reader) =
        (run.told.stdout_stream_name.clone(), begin(&client, &run.told.stdout_stream_name, 0));
    let result = response(&run.end().await).result.unwrap();
    assert_eq!((result.exit_code, result.stdout_digest.unwrap().size_bytes), (3, 30_000_000));
    assert!(reader.await.unwrap().unwrap() == vec![0; 30_000_000]);
    assert_eq!(client.read_named(name, 29_999_990, 4).await.unwrap(), [0; 4]);
}

#[tokio::test]
async fn a_lost_machine_ends_its_stream_and_the_next_run_has_another() {
    let keys = Keys::new();
    let mut host = keys.node("host", &["--slots", "2"]).start();
    let desk = desk_of(&host, &keys).await;
    let client = desk.client().await;
    let mut run = Running::start(&client, &ActionBuilder::sh("echo begun; sleep 2; echo ended")).await;
    let first = run.told.stdout_stream_name.clone();
    let reader = begin(&client, &first, 0);
    let request =
        farmhand_proto::bytestream::ReadRequest { resource_name: first.clone(), ..Default::default() };
    let mut pieces = client.byte_stream().read(request).await.unwrap().into_inner();
    assert_eq!(pieces.message().await.unwrap().unwrap().data, b"begun\n");
    host.kill();
    assert_eq!(reader.await.unwrap().unwrap(), b"begun\n");
    assert!(pieces.message().await.unwrap().is_none());
    assert!(desk.cli(&["resume"]).status.success());
    let second = loop {
        let told = metadata(&run.updates.message().await.unwrap().unwrap());
        if told.stdout_stream_name != first {
            break told.stdout_stream_name;
        }
    };
    assert_eq!(read(&client, &second).await.unwrap(), b"begun\nended\n");
    assert_eq!(code(read(&client, &first).await), Code::NotFound);
    let last = run.end().await;
    assert_eq!(metadata(&last).stdout_stream_name, second);
}

#[tokio::test]
async fn streams_of_actions_are_forgotten_with_their_operation() {
    let node = Node::builder().config("keep-finished = \"2s\"").start();
    let client = node.client().await;
    let outcome: Outcome = ActionBuilder::sh("echo x").run(&client).await;
    let name = outcome.metadata().last().unwrap().stdout_stream_name.clone();
    assert_eq!(read(&client, &name).await.unwrap(), b"x\n", "some time after the end");
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // Operations are forgotten when others end.
        ActionBuilder::sh("true").do_not_cache().run(&client).await;
        match read(&client, &name).await {
            Ok(bytes) => assert_eq!(bytes, b"x\n"),
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound);
                return;
            }
        }
    }
    panic!("it is still there");
}
