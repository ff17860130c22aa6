//! HTTP: the cache over plain HTTP/1.1, beside gRPC on the same port.

use std::process::{Command, Stdio};

use bytes::Bytes;
use farmhand::tasks::Tasks;
use farmhand_proto::reapi::{ActionResult, OutputFile};
use prost::Message;
use tokio::net::UnixStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::http::Http;
use crate::support::{ActionBuilder, Node, random_bytes};

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn sha256(data: &[u8]) -> String {
    farmhand::digest::Digest::of(farmhand::digest::DigestFunction::Sha256, data).hash_hex()
}

/// A result that names `stdout`.
fn result_of(stdout: &[u8]) -> ActionResult {
    let digest = farmhand::digest::Digest::of(farmhand::digest::DigestFunction::Sha256, stdout);
    ActionResult { stdout_digest: Some(digest.to_wire()), ..ActionResult::default() }
}

#[tokio::test]
async fn the_matrix_of_methods_and_paths() {
    let node = Node::start();
    let mut http = Http::connect(node.address).await;
    let (data, absent) = (random_bytes(1, 5000), sha256(b"absent"));
    let hash = sha256(&data);
    for prefix in ["", "/main", "/a/b/c", "/%C3%BC"] {
        assert_eq!(http.get(&format!("{prefix}/cas/{absent}"), &[]).await.status, 404);
        assert_eq!(http.get(&format!("{prefix}/ac/{absent}"), &[]).await.status, 404);
        assert_eq!(http.head_of(&format!("{prefix}/ac/{absent}")).await.status, 404);
        assert_eq!(http.put(&format!("{prefix}/cas/{hash}"), &data, &[]).await.status, 200);
        let answer = http.get(&format!("{prefix}/cas/{hash}"), &[]).await;
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("5000")));
        assert!(answer.body == data);
        let answer = http.head_of(&format!("{prefix}/cas/{hash}")).await;
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("5000")));
    }
    for method in ["DELETE", "POST", "PATCH", "OPTIONS"] {
        for kind in ["cas", "ac"] {
            http.head(method, &format!("/{kind}/{hash}"), &[("Content-Length", "0")]).await;
            let answer = http.answer(true).await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, PUT")), "{method}");
        }
    }
    for path in
        ["/cas/xyz", "/cas", "/ac/", "//cas/{hash}", "/cas/{hash}/1", "/a//ac/{hash}", "/blobs/cas/{hash}"]
    {
        let path = path.replace("{hash}", &hash);
        let answer = http.get(&path, &[]).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.text().ends_with('\n') && answer.text().lines().count() == 1, "{}", answer.text());
    }
    assert_eq!(http.get("/", &[]).await.status, 404);
    let upper = format!("/cas/{}", hash.to_uppercase());
    assert_eq!(http.get(&upper, &[]).await.status, 400);
}

#[tokio::test]
async fn what_is_put_is_what_its_name_says_or_not_there() {
    let node = Node::start();
    let mut http = Http::connect(node.address).await;
    for len in [1, 100_000, 3_000_000] {
        let hash = sha256(&random_bytes(2, len));
        let answer = http.put(&format!("/cas/{hash}"), &random_bytes(3, len), &[]).await;
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains(&hash), "{}", answer.text());
        assert_eq!(http.get(&format!("/cas/{hash}"), &[]).await.status, 404);
    }
    let status = http.get("/status", &[]).await;
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["NumFiles"], 0);
}

#[tokio::test]
async fn lengths_are_required_and_told_and_bodies_are_asked_for() {
    let node = Node::start();
    let mut http = Http::connect(node.address).await;
    let data = random_bytes(4, 300_000);
    let path = format!("/cas/{}", sha256(&data));
    http.head("PUT", &path, &[("Transfer-Encoding", "chunked")]).await;
    http.send(b"3\r\nabc\r\n0\r\n\r\n").await;
    assert_eq!(http.answer(true).await.status, 411);
    let length = data.len().to_string();
    let asks = [("Content-Length", length.as_str()), ("Expect", "100-continue")];
    http.head("PUT", &path, &asks).await;
    assert_eq!(http.answer(true).await.status, 100);
    http.send(&data).await;
    assert_eq!(http.answer(true).await.status, 200);
    let answer = http.get(&path, &[]).await;
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
    assert!(answer.body == data);
    // It is there, so nothing has to be sent.
    http.head("PUT", &path, &asks).await;
    assert_eq!(http.answer(true).await.status, 200);
}

#[tokio::test]
async fn a_miss_is_404_with_a_line_of_text() {
    let node = Node::start();
    let mut http = Http::connect(node.address).await;
    for path in [format!("/cas/{}", sha256(b"x")), format!("/i/ac/{}", sha256(b"x"))] {
        let answer = http.get(&path, &[]).await;
        assert_eq!(answer.status, 404);
        assert!(answer.text().contains(&sha256(b"x")) && answer.text().lines().count() == 1);
        assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    }
}

#[tokio::test]
async fn zstd_goes_out_where_it_is_accepted() {
    let node = Node::start();
    let mut http = Http::connect(node.address).await;
    let data = "compress me, please; ".repeat(100_000).into_bytes();
    let path = format!("/cas/{}", sha256(&data));
    assert_eq!(http.put(&path, &data, &[]).await.status, 200);
    for accepted in ["zstd", "gzip, zstd;q=0.3"] {
        let answer = http.get(&path, &[("Accept-Encoding", accepted)]).await;
        assert_eq!(answer.header("content-encoding"), Some("zstd"));
        assert_eq!(answer.header("content-length"), None);
        assert!(answer.body.len() < data.len() / 100);
        assert!(zstd::decode_all(&answer.body[..]).unwrap() == data);
    }
    for refused in ["gzip, br", "*", "zstd;q=0"] {
        let answer = http.get(&path, &[("Accept-Encoding", refused)]).await;
        assert_eq!(answer.header("content-encoding"), None);
        assert!(answer.body == data, "{refused}");
    }
}

#[tokio::test]
async fn zstd_comes_in_with_its_size() {
    let node = Node::start();
    let mut http = Http::connect(node.address).await;
    let data = [random_bytes(5, 700_000), vec![7; 700_000]].concat();
    let (path, packed) = (format!("/cas/{}", sha256(&data)), zstd::encode_all(&data[..], 1).unwrap());
    let coding = ("Content-Encoding", "zstd");
    assert_eq!(http.put(&path, &packed, &[coding]).await.status, 400);
    for (body, size) in [
        (&packed, data.len() - 1),
        (&packed, data.len() + 1),
        (&packed[..packed.len() - 3].to_vec(), data.len()),
        (&b"not zstd at all".to_vec(), data.len()),
    ] {
        let size = size.to_string();
        let answer = http.put(&path, body, &[coding, ("X-Digest-SizeBytes", &size)]).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(http.get(&path, &[]).await.status, 404);
    }
    let size = data.len().to_string();
    let answer = http.put(&path, &packed, &[coding, ("X-Digest-SizeBytes", &size)]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(http.get(&path, &[]).await.body == data);
    let answer = http.put(&path, &packed, &[("Content-Encoding", "gzip")]).await;
    assert_eq!(answer.status, 415);
}

#[tokio::test]
async fn results_are_checked_and_seen_only_while_they_are_complete() {
    let node = Node::builder()
        .config("lease = \"1s\"\nhttp-results = \"checked\"")
        .arguments(&["--disk-budget", "8MB"])
        .start();
    let mut http = Http::connect(node.address).await;
    let stdout = random_bytes(6, 100_000);
    let (path, result) = (format!("/ac/{}", sha256(b"action")), result_of(&stdout).encode_to_vec());
    assert_eq!(http.put(&path, b"garbage", &[]).await.status, 400);
    let malformed = ActionResult {
        output_files: vec![OutputFile { path: "/etc/x".into(), ..OutputFile::default() }],
        ..ActionResult::default()
    };
    assert_eq!(http.put(&path, &malformed.encode_to_vec(), &[]).await.status, 400);
    let answer = http.put(&path, &result, &[]).await;
    assert_eq!(answer.status, 409, "it names what is not there: {}", answer.text());
    assert_eq!(http.get(&path, &[]).await.status, 404);
    assert_eq!(http.put(&format!("/cas/{}", sha256(&stdout)), &stdout, &[]).await.status, 200);
    assert_eq!(http.put(&path, &result, &[]).await.status, 200);
    let answer = http.get(&path, &[]).await;
    assert_eq!((answer.status, answer.body), (200, result));
    assert_eq!(http.head_of(&path).await.status, 200);
    // Others push the output out of the store: nobody looks for it, and its lease is over soon.
    for seed in 0..80 {
        let data = random_bytes(1000 + seed, 200_000);
        http.put(&format!("/cas/{}", sha256(&data)), &data, &[]).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(http.get(&path, &[]).await.status, 404, "not complete any more");
    assert_eq!(http.head_of(&format!("/cas/{}", sha256(&stdout))).await.status, 404);
}

#[tokio::test]
async fn other_bytes_are_kept_as_they_are_unless_they_are_refused() {
    let mut node = Node::start();
    let (small, large) = (b"\xcc\xac not a result".to_vec(), random_bytes(7, 9 << 20));
    let bodies = [&small, &large, &vec![0xcc; 4 << 20]];
    for round in 0..2 {
        let mut http = Http::connect(node.address).await;
        for (number, body) in bodies.iter().enumerate() {
            let path = format!("/cc/ac/{}", sha256(&[number as u8]));
            if round == 0 {
                assert_eq!(http.put(&path, body, &[]).await.status, 200);
            }
            let answer = http.get(&path, &[]).await;
            assert_eq!(answer.header("content-length"), Some(body.len().to_string().as_str()));
            assert!(answer.body == **body);
            assert_eq!(
                http.head_of(&path).await.header("content-length"),
                Some(body.len().to_string().as_str())
            );
            let elsewhere = format!("/ac/{}", sha256(&[number as u8]));
            assert_eq!(http.get(&elsewhere, &[]).await.status, 404, "an instance of its own");
        }
        if round == 0 {
            node.kill();
            node.restart();
        }
    }
    let mut http = Http::connect(node.address).await;
    let path = format!("/cc/ac/{}", sha256(&[0]));
    assert_eq!(http.put(&path, b"another", &[]).await.status, 200);
    assert_eq!(http.get(&path, &[]).await.body, b"another", "the last one wins");
    let result = ActionResult { stderr_raw: b"oh".to_vec(), ..ActionResult::default() };
    assert_eq!(http.put(&path, &result.encode_to_vec(), &[]).await.status, 200);
    let found = ActionResult::decode(Bytes::from(http.get(&path, &[]).await.body)).unwrap();
    assert_eq!(found.stderr_digest.unwrap().size_bytes, 2, "a result takes their place");
}

#[tokio::test]
async fn results_as_json() {
    let node = Node::start();
    let mut http = Http::connect(node.address).await;
    let stdout = b"hello\n";
    http.put(&format!("/cas/{}", sha256(stdout)), stdout, &[]).await;
    let path = format!("/ac/{}", sha256(b"an action"));
    let json = format!(
        r#"{{"stdoutDigest": {{"hash": "{}", "sizeBytes": "6"}}, "executionMetadata": {{"worker": "w"}}}}"#,
        sha256(stdout)
    );
    let is_json = ("Content-Type", "application/json");
    assert_eq!(http.put(&path, b"{\"nonsense\": 1", &[is_json]).await.status, 400);
    let answer = http.put(&path, json.as_bytes(), &[is_json]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = http.get(&path, &[]).await;
    let result = ActionResult::decode(Bytes::from(answer.body)).unwrap();
    assert_eq!(result.stdout_digest, result_of(stdout).stdout_digest);
    let answer = http.get(&path, &[("Accept", "application/json")]).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(told["stdoutDigest"]["sizeBytes"], "6");
    assert_eq!(told["executionMetadata"]["worker"], "w");
}

#[tokio::test]
async fn grpc_and_http_have_the_same_store() {
    let node = Node::start();
    let client = node.client_of("main").await;
    let mut http = Http::connect(node.address).await;
    for len in [1, 40_000, 2_500_000] {
        let (ours, theirs) = (random_bytes(8, len), random_bytes(9, len));
        let digest = client.put(&theirs).await;
        assert!(http.get(&format!("/main/cas/{}", digest.hash_hex()), &[]).await.body == theirs);
        assert_eq!(http.put(&format!("/main/cas/{}", sha256(&ours)), &ours, &[]).await.status, 200);
        assert!(client.read(&client.digest(&ours)).await.unwrap() == ours);
    }
    // What was run is had over HTTP, in its instance only.
    let outcome = ActionBuilder::sh("echo out").run(&client).await;
    let hash = outcome.action_digest.hash_hex();
    let answer = http.get(&format!("/main/ac/{hash}"), &[]).await;
    let result = ActionResult::decode(Bytes::from(answer.body)).unwrap();
    assert_eq!(result.stdout_digest, outcome.result().stdout_digest);
    assert_eq!(http.get(&format!("/ac/{hash}"), &[]).await.status, 404);
    // What comes over HTTP for an action whose Action is stored, as build tools have it, is had by gRPC.
    let action = client.put(b"\x1a\x00 the bytes of an Action").await;
    let result = result_of(b"");
    let path = format!("/main/ac/{}", action.hash_hex());
    assert_eq!(http.put(&path, &result.encode_to_vec(), &[]).await.status, 200);
    assert_eq!(client.action_result(&action).await, Some(result.clone()));
    // Without it, there is nothing to tell its size; over HTTP it is had all the same, also once it comes.
    let late = random_bytes(10, 77);
    let path = format!("/main/ac/{}", sha256(&late));
    assert_eq!(http.put(&path, &result.encode_to_vec(), &[]).await.status, 200);
    client.put(&late).await;
    assert_eq!(http.get(&path, &[]).await.body, result.encode_to_vec());
}

#[tokio::test]
async fn the_empty_blob_is_there_and_what_does_not_fit_is_told() {
    let node = Node::builder()
        .config("max-blob-size = \"1MiB\"\ncopies-before-ack = 1")
        .arguments(&["--disk-budget", "8MB"])
        .start();
    let mut http = Http::connect(node.address).await;
    let path = format!("/cas/{EMPTY}");
    let answer = http.get(&path, &[]).await;
    assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, Some("0"), 0));
    assert_eq!(http.head_of(&path).await.status, 200);
    assert_eq!(http.put(&path, b"", &[]).await.status, 200);
    let large = random_bytes(11, (1 << 20) + 1);
    assert_eq!(http.put(&format!("/cas/{}", sha256(&large)), &large, &[]).await.status, 400);
    for seed in 0..40 {
        let data = random_bytes(100 + seed, 1_000_000);
        let answer = http.put(&format!("/cas/{}", sha256(&data)), &data, &[]).await;
        if answer.status != 200 {
            assert_eq!(answer.status, 507, "{}", answer.text());
            assert!(seed >= 4, "{seed} fit");
            assert_eq!(http.get(&path, &[]).await.status, 200, "the connection goes on");
            return;
        }
    }
    panic!("40 MB fit into 8");
}

#[tokio::test]
async fn a_connection_goes_on_after_errors_and_pipelined_requests_are_answered_in_order() {
    let node =
        Node::builder().config("[instances.closed]\naction-cache-updates = false\n[instances.\"\"]").start();
    let mut http = Http::connect(node.address).await;
    let big = random_bytes(12, 2_000_000);
    // Errors that are known before the body comes: it is read all the same.
    for (path, status) in [
        (format!("/closed/ac/{}", sha256(b"x")), 403),
        (format!("/unknown/cas/{}", sha256(&big)), 404),
        ("/cas/short".to_owned(), 400),
        (format!("/cas/{}", sha256(b"another")), 400),
        ("/nothing".to_owned(), 404),
    ] {
        let answer = http.put(&path, &big, &[]).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.header("connection"), None, "{path}");
    }
    let bodies: Vec<Vec<u8>> = (0..10).map(|seed| random_bytes(200 + seed, 70_000)).collect();
    let mut all = Vec::new();
    for body in &bodies {
        let head = format!(
            "PUT /cas/{} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            sha256(body),
            body.len()
        );
        all.extend([head.as_bytes(), body, b"GET /cas/bad HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
    }
    http.send(&all).await;
    for _ in &bodies {
        assert_eq!(http.answer(true).await.status, 200);
        assert_eq!(http.answer(true).await.status, 400);
    }
    // A client that waits to be asked and is refused is not believed to send nothing.
    let asks = [("Content-Length", "2000000"), ("Expect", "100-continue")];
    http.head("PUT", "/cas/short", &asks).await;
    let answer = http.answer(true).await;
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
    assert!(http.is_closed().await);
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_nothing() {
    let node = Node::start();
    let data = random_bytes(13, 1_000_000);
    let path = format!("/cas/{}", sha256(&data));
    let mut http = Http::connect(node.address).await;
    http.head("PUT", &path, &[("Content-Length", "1000000")]).await;
    http.send(&data[..500_000]).await;
    drop(http);
    let mut http = Http::connect(node.address).await;
    assert_eq!(http.get(&path, &[]).await.status, 404);
    assert_eq!(http.put(&path, &data, &[]).await.status, 200);
}

#[tokio::test]
async fn large_bodies_pass_in_bounded_memory() {
    let node = Node::start();
    let mut http = Http::connect(node.address).await;
    let data = vec![0x5a; 160 << 20];
    let path = format!("/cas/{}", sha256(&data));
    assert_eq!(
        http.put("/ac/0000000000000000000000000000000000000000000000000000000000000000", &data, &[])
            .await
            .status,
        200
    );
    let before = node.memory("VmHWM");
    assert_eq!(http.put(&path, &data, &[]).await.status, 200);
    assert!(http.get(&path, &[]).await.body == data);
    let peak = node.memory("VmHWM");
    assert!(peak < 120 << 20, "{} MiB before, {} after", before >> 20, peak >> 20);
}

#[tokio::test]
async fn status_metrics_and_health() {
    let node = Node::start();
    let mut http = Http::connect(node.address).await;
    let data = random_bytes(14, 10_000);
    http.put(&format!("/cas/{}", sha256(&data)), &data, &[]).await;
    let answer = http.get("/status", &[]).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    for field in ["CurrSize", "UncompressedSize", "ReservedSize", "MaxSize", "NumFiles", "ServerTime"] {
        assert!(status[field].is_u64(), "{field}: {status}");
    }
    assert!(
        status["CurrSize"].as_u64() > Some(10_000)
            && status["NumFiles"] == 1
            && status["GitCommit"].is_string()
    );
    let answer = http.get("/metrics", &[]).await;
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let value = |name: &str| {
        let line =
            answer.text().lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert_eq!(value("farmhand_store_blobs "), 1.0);
    assert_eq!(value("farmhand_client_bytes_total{direction=\"uploaded\"} "), 10_000.0);
    assert_eq!(value("farmhand_http_requests_total{method=\"PUT\",code=\"200\"} "), 1.0);
    assert_eq!(value("farmhand_machines{state=\"active\"} "), 1.0);
    assert_eq!(http.put("/status", b"", &[]).await.status, 405);
    let channel = node.client().await.channel;
    for service in ["", "build.bazel.remote.execution.v2.Execution"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest { service: "nothing".into() };
    let status = HealthClient::new(channel).check(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn the_unix_socket_and_http_2_serve_it_too() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"by gRPC").await;
    let socket = UnixStream::connect(node.runtime_dir().join("reapi.sock")).await.unwrap();
    drop(socket);
    let (socket, hash) = (node.runtime_dir().join("reapi.sock"), digest.hash_hex());
    let curl = |more: &[&str]| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--fail"])
            .args(more)
            .arg(format!("http://{}/cas/{hash}", node.address))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "{more:?}");
        output.stdout
    };
    assert_eq!(curl(&["--unix-socket", socket.to_str().unwrap()]), b"by gRPC");
    assert_eq!(curl(&["--http2-prior-knowledge"]), b"by gRPC");
    assert_eq!(curl(&["--http1.0"]), b"by gRPC");
}

#[tokio::test]
async fn curl_puts_and_gets() {
    let node = Node::start();
    let directory = tempfile::tempdir().unwrap();
    let (data, file) = (random_bytes(15, 3_000_000), directory.path().join("data"));
    std::fs::write(&file, &data).unwrap();
    let url = format!("http://{}/some/instance/cas/{}", node.address, sha256(&data));
    // A body of this size is announced, and sent when it is asked for.
    let run = |arguments: &[&str]| {
        Command::new("curl").args(["--silent", "--fail"]).args(arguments).output().unwrap()
    };
    assert!(run(&["-T", file.to_str().unwrap(), "-H", "Expect: 100-continue", &url]).status.success());
    assert!(run(&[&url]).stdout == data);
    assert_eq!(run(&["-T", "-", &format!("{url}0")]).status.code(), Some(22));
}

#[tokio::test]
async fn hyper_puts_and_gets() {
    let node = Node::start();
    let connector = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(connector);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let serving = Tasks::default().spawn("client", connection);
    let data = Bytes::from(random_bytes(16, 500_000));
    let uri = format!("/cas/{}", sha256(&data));
    for method in ["PUT", "GET"] {
        let body = if method == "PUT" { data.clone() } else { Bytes::new() };
        let request = http::Request::builder()
            .method(method)
            .uri(&uri)
            .header("host", "test")
            .body(http_body_util::Full::new(body))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        assert!(method == "PUT" || body == data);
    }
    drop(sender);
    serving.await.unwrap().unwrap();
}
