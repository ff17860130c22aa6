//! Remote Asset (AST): what is pushed and what is downloaded, from good servers and bad ones.

use std::time::{Duration, SystemTime};

use base64::Engine;
use farmhand::digest::{Digest, DigestFunction};
use farmhand::tasks::Tasks;
use farmhand_proto::any;
use farmhand_proto::asset::fetch_client::FetchClient;
use farmhand_proto::asset::push_client::PushClient;
use farmhand_proto::asset::{self, Qualifier};
use farmhand_proto::{raw, reapi, rpc, time};
use prost::Message;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::origin::{Origin, Reply};
use crate::support::{Client, Node, random_bytes};

mod archives;
mod git;
mod hostile;

/// Servers of tests are on loopback.
pub(crate) const ALLOWED: &str = "asset-networks = [\"127.0.0.0/8\"]";

/// A node that downloads from loopback.
fn node() -> Node {
    Node::builder().config(ALLOWED).start()
}

fn qualifier(name: &str, value: &str) -> Qualifier {
    Qualifier { name: name.into(), value: value.into() }
}

/// `checksum.sri` of some bytes.
fn sri<H: sha2::Digest>(name: &str, data: &[u8]) -> String {
    format!("{name}-{}", base64::engine::general_purpose::STANDARD.encode(H::digest(data)))
}

/// A fetch of one URI.
fn blob(uri: &str) -> asset::FetchBlobRequest {
    asset::FetchBlobRequest { uris: vec![uri.into()], ..Default::default() }
}

fn directory(uri: &str, qualifiers: Vec<Qualifier>) -> asset::FetchDirectoryRequest {
    asset::FetchDirectoryRequest { uris: vec![uri.into()], qualifiers, ..Default::default() }
}

fn push(uri: &str, digest: &Digest) -> asset::PushBlobRequest {
    let blob_digest = Some(digest.to_wire());
    asset::PushBlobRequest { uris: vec![uri.into()], blob_digest, ..Default::default() }
}

/// The calls of Remote Asset, of one client.
trait Assets {
    fn fetcher(&self) -> FetchClient<Channel>;
    fn pusher(&self) -> PushClient<Channel>;

    async fn fetch(&self, request: asset::FetchBlobRequest) -> Result<asset::FetchBlobResponse, Status> {
        Ok(self.fetcher().fetch_blob(request).await?.into_inner())
    }

    async fn fetch_tree(
        &self,
        request: asset::FetchDirectoryRequest,
    ) -> Result<asset::FetchDirectoryResponse, Status> {
        Ok(self.fetcher().fetch_directory(request).await?.into_inner())
    }

    async fn push(&self, request: asset::PushBlobRequest) -> Result<(), Status> {
        self.pusher().push_blob(request).await.map(drop)
    }

    /// The code inside the answer to a fetch, and its text.
    async fn code(&self, request: asset::FetchBlobRequest) -> (Code, String) {
        let answer = self.fetch(request).await.unwrap();
        assert_eq!(answer.blob_digest.is_some(), status(&answer.status).0 == Code::Ok, "{answer:?}");
        status(&answer.status)
    }

    async fn code_of_tree(&self, request: asset::FetchDirectoryRequest) -> (Code, String) {
        status(&self.fetch_tree(request).await.unwrap().status)
    }
}

impl Assets for Client {
    fn fetcher(&self) -> FetchClient<Channel> {
        FetchClient::new(self.channel.clone())
    }

    fn pusher(&self) -> PushClient<Channel> {
        PushClient::new(self.channel.clone())
    }
}

fn status(status: &Option<rpc::Status>) -> (Code, String) {
    let status = status.clone().unwrap_or_default();
    (Code::from(status.code), status.message)
}

fn digest_of(wire: &Option<reapi::Digest>, function: DigestFunction) -> Digest {
    Digest::from_field(function, wire.as_ref()).unwrap()
}

#[tokio::test]
async fn requests_without_uris_are_invalid_on_all_four() {
    let node = Node::start();
    let client = node.client().await;
    let codes = [
        client.fetch(asset::FetchBlobRequest::default()).await.unwrap_err(),
        client.fetch_tree(asset::FetchDirectoryRequest::default()).await.unwrap_err(),
        client.push(asset::PushBlobRequest::default()).await.unwrap_err(),
        client.pusher().push_directory(asset::PushDirectoryRequest::default()).await.unwrap_err(),
    ];
    for status in codes {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("uris"), "{status}");
    }
    let too_many = asset::FetchBlobRequest { uris: vec!["urn:a".into(); 101], ..Default::default() };
    assert_eq!(client.fetch(too_many).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(client.fetch(blob("urn:\n")).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn any_uri_may_answer_and_the_answer_names_it() {
    let node = node();
    let client = node.client().await;
    let origin = Origin::start(&[("/good", Reply::Content(b"content".into()))]).await;
    let dead = "http://127.0.0.1:1/x".to_owned();
    let uris = vec![dead, origin.url("/none"), origin.url("/good")];
    let answer =
        client.fetch(asset::FetchBlobRequest { uris: uris.clone(), ..Default::default() }).await.unwrap();
    assert_eq!(status(&answer.status).0, Code::Ok);
    assert_eq!(answer.uri, uris[2]);
    let known = asset::FetchBlobRequest { uris: vec![uris[2].clone()], ..Default::default() };
    assert_eq!(client.fetch(known).await.unwrap().blob_digest, answer.blob_digest);
    assert_eq!(origin.hits("/good"), 1, "what is known is not downloaded again");
}

#[tokio::test]
async fn what_is_answered_can_be_read_at_once_by_either_function() {
    let node = node();
    // Some in memory on the way, and some in a file; packed and not.
    for (at, length) in [0, 7, 40_000, 3_000_000].into_iter().enumerate() {
        let data = random_bytes(at as u64, length);
        let origin = Origin::start(&[("/x", Reply::Content(data.clone()))]).await;
        for function in DigestFunction::ALL {
            let client = node.client().await.with_function(function);
            let request = asset::FetchBlobRequest {
                qualifiers: vec![qualifier("checksum.sri", &sri::<sha2::Sha512>("sha512", &data))],
                digest_function: client.wire_function(),
                ..blob(&origin.url("/x"))
            };
            let answer = client.fetch(request).await.unwrap();
            assert_eq!(status(&answer.status).0, Code::Ok, "{answer:?}");
            assert_eq!(answer.digest_function, function.to_wire());
            let digest = digest_of(&answer.blob_digest, function);
            assert_eq!(digest, client.digest(&data));
            assert!(client.read(&digest).await.unwrap() == data);
        }
    }
}

#[tokio::test]
async fn one_checksum_that_fits_is_enough_and_is_remembered() {
    let node = node();
    let client = node.client().await;
    let origin = Origin::start(&[("/x", Reply::Content(b"content".into()))]).await;
    let (good, bad) = (sri::<sha2::Sha384>("sha384", b"content"), sri::<sha2::Sha256>("sha256", b"other"));
    let with = |value: &str| asset::FetchBlobRequest {
        qualifiers: vec![qualifier("checksum.sri", value)],
        ..blob(&origin.url("/x"))
    };
    let (code, text) = client.code(with(&bad)).await;
    assert_eq!(code, Code::Aborted);
    assert!(text.contains(&sri::<sha2::Sha256>("sha256", b"content")), "{text}");
    assert_eq!(client.code(with(&format!("{bad} {good} md5-x"))).await.0, Code::Ok);
    let hits = origin.hits("/x");
    assert_eq!(client.code(with(&good)).await.0, Code::Ok);
    assert_eq!(origin.hits("/x"), hits);
    for wrong in ["sha256-tooshort", "", "md5-1B2M2Y8AsgTpgAmY7PhCfg=="] {
        let status = client.fetch(with(wrong)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{wrong}: {status}");
    }
}

#[tokio::test]
async fn doubled_qualifiers_are_invalid_and_order_does_not_matter() {
    let node = node();
    let client = node.client().await;
    let origin = Origin::start(&[("/x", Reply::Content(b"content".into()))]).await;
    let with = |qualifiers| asset::FetchBlobRequest { qualifiers, ..blob(&origin.url("/x")) };
    let doubled = vec![qualifier("resource_type", "a"), qualifier("resource_type", "a")];
    assert_eq!(client.fetch(with(doubled)).await.unwrap_err().code(), Code::InvalidArgument);
    let mut both = vec![qualifier("resource_type", "text/plain"), qualifier("bazel.canonical_id", "1")];
    assert_eq!(client.code(with(both.clone())).await.0, Code::Ok);
    both.reverse();
    assert_eq!(client.code(with(both.clone())).await.0, Code::Ok);
    assert_eq!(origin.hits("/x"), 1);
    both[0].value = "2".into();
    assert_eq!(client.code(with(both)).await.0, Code::Ok);
    assert_eq!(origin.hits("/x"), 2, "a canonical id tells contents apart");
}

#[tokio::test]
async fn qualifiers_that_mean_nothing_are_keys_or_refused_by_name() {
    let node = node();
    let client = node.client().await;
    let origin = Origin::start(&[("/x", Reply::Content(b"content".into()))]).await;
    let frob = vec![qualifier("frob", "1")];
    let with = |uri: &str| asset::FetchBlobRequest { qualifiers: frob.clone(), ..blob(uri) };
    let refused = client.fetch(with(&origin.url("/x"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = rpc::Status::decode(refused.details()).unwrap().details;
    let bad: raw::BadRequest = any::unpack(&details[0]).unwrap();
    assert_eq!(bad.field_violations[0].field, "qualifiers.name");
    assert_eq!(bad.field_violations[0].description, "\"frob\" not supported");
    assert_eq!(origin.hits("/x"), 0);

    let digest = client.put(b"pushed").await;
    let pushed = asset::PushBlobRequest { qualifiers: frob.clone(), ..push(&origin.url("/x"), &digest) };
    client.push(pushed).await.unwrap();
    let answer = client.fetch(with(&origin.url("/x"))).await.unwrap();
    assert_eq!(digest_of(&answer.blob_digest, DigestFunction::Sha256), digest);
    assert_eq!(client.code(with("urn:x")).await.0, Code::NotFound);
}

#[tokio::test]
async fn headers_reach_their_origin_and_nobody_else() {
    let node = Node::builder().config(ALLOWED).config("log-filter = \"trace\"").start();
    let client = node.client().await;
    const SECRET: &str = "Bearer hunter2hunter2";
    let other = Origin::start(&[("/final", Reply::Content(b"elsewhere".into()))]).await;
    let origin = Origin::start(&[
        ("/x", Reply::For("authorization", SECRET, b"content".into())),
        ("/moved", Reply::Redirect("/x".into())),
        ("/away", Reply::Redirect(other.url("/final"))),
    ])
    .await;
    let with = |path: &str, name: &str| asset::FetchBlobRequest {
        qualifiers: vec![qualifier(name, SECRET)],
        ..blob(&origin.url(path))
    };
    assert_eq!(client.code(blob(&origin.url("/x"))).await.0, Code::PermissionDenied);
    for (path, name) in [
        ("/x", "http_header:Authorization"),
        ("/moved", "http_header_url:0:Authorization"),
        ("/away", "http_header:Authorization"),
    ] {
        assert_eq!(client.code(with(path, name)).await.0, Code::Ok, "{path}");
    }
    let away = other.heard();
    assert!(away.iter().all(|heard| !heard.headers.contains_key("authorization")), "{away:?}");
    assert_eq!(client.code(blob(&origin.url("/x"))).await.0, Code::Ok, "headers are no part of the key");
    let none = asset::FetchBlobRequest {
        qualifiers: vec![qualifier("http_header_url:1:X", "y")],
        ..blob(&origin.url("/x"))
    };
    assert_eq!(client.fetch(none).await.unwrap_err().code(), Code::InvalidArgument);

    let signed = origin.url("/x?signature=hunter2hunter2").replace("http://", "http://user:hunter2hunter2@");
    let (_, text) = client.code(blob(&signed)).await;
    assert!(!text.contains("hunter2") && text.contains("/x"), "{text}");
    let basic = origin.heard().into_iter().find_map(|heard| {
        heard.headers.get("authorization").filter(|value| value.starts_with("Basic ")).cloned()
    });
    assert!(basic.is_some(), "a user in the address is told to its server");
    assert!(!node.log().contains("hunter2"), "secrets are in the log");
}

#[tokio::test]
async fn content_that_is_too_old_is_downloaded_again() {
    let node = node();
    let client = node.client().await;
    let origin = Origin::start(&[("/x", Reply::Content(b"content".into()))]).await;
    let since = |oldest: SystemTime| asset::FetchBlobRequest {
        oldest_content_accepted: Some(time::timestamp(oldest)),
        ..blob(&origin.url("/x"))
    };
    let before = SystemTime::now();
    for hits in 1..=2 {
        let in_an_hour = SystemTime::now() + Duration::from_secs(3600);
        assert_eq!(client.code(since(in_an_hour)).await.0, Code::Ok);
        assert_eq!(origin.hits("/x"), hits);
    }
    assert_eq!(client.code(since(before)).await.0, Code::Ok);
    assert_eq!(client.code(blob(&origin.url("/x"))).await.0, Code::Ok);
    assert_eq!(origin.hits("/x"), 2, "what came after the time is new enough");
    assert_eq!(client.code(since(SystemTime::now())).await.0, Code::Ok);
    assert_eq!(origin.hits("/x"), 3);
}

#[tokio::test]
async fn a_download_is_made_once_and_goes_on_when_nobody_waits() {
    let node = node();
    let client = node.client().await;
    let when = std::sync::Arc::new(tokio::sync::Notify::new());
    let origin = Origin::start(&[("/x", Reply::Later(when.clone(), b"content".into()))]).await;
    let request = || blob(&origin.url("/x"));
    let short =
        asset::FetchBlobRequest { timeout: Some(time::duration(Duration::from_millis(300))), ..request() };
    let (code, text) = client.code(short).await;
    assert_eq!(code, Code::DeadlineExceeded, "{text}");
    let mut impatient = tonic::Request::new(request());
    impatient.set_timeout(Duration::from_millis(300));
    client.fetcher().fetch_blob(impatient).await.unwrap_err();

    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let (client, request) = (client.clone(), request());
            Tasks::default().spawn("fetch", async move { client.code(request).await.0 })
        })
        .collect();
    while origin.hits("/x") == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    when.notify_waiters();
    for waits in waiting {
        assert_eq!(waits.await.unwrap(), Code::Ok);
    }
    assert_eq!(client.code(request()).await.0, Code::Ok);
    assert_eq!(origin.hits("/x"), 1, "all of them waited for one download");
}

#[tokio::test]
async fn what_is_pushed_is_found_by_every_name_until_it_expires() {
    let mut node = Node::start();
    let client = node.client().await;
    let (one, two) = (client.put(b"one").await, client.put(b"two").await);
    let uris = ["urn:fdc:buildstream.build:2020:artifact:p/e/k", "http://example.invalid/x", "a name"];
    let named =
        |digest: &Digest| asset::PushBlobRequest { uris: uris.map(Into::into).into(), ..push("", digest) };
    client.push(named(&one)).await.unwrap();
    for uri in uris {
        let answer = client.fetch(blob(uri)).await.unwrap();
        assert_eq!((answer.uri.as_str(), digest_of(&answer.blob_digest, DigestFunction::Sha256)), (uri, one));
    }
    client.push(named(&two)).await.unwrap();
    let answer = client.fetch(blob(uris[0])).await.unwrap();
    assert_eq!(digest_of(&answer.blob_digest, DigestFunction::Sha256), two, "a later push replaces it");

    // With a checksum it is what has it that is meant.
    let sum = |data: &[u8]| vec![qualifier("checksum.sri", &sri::<sha2::Sha256>("sha256", data))];
    let with_sum = |data: &[u8]| asset::FetchBlobRequest { qualifiers: sum(data), ..blob(uris[0]) };
    assert_eq!(client.code(with_sum(b"two")).await.0, Code::Ok);
    assert_eq!(client.code(with_sum(b"one")).await.0, Code::NotFound);
    let lie = asset::PushBlobRequest { qualifiers: sum(b"three"), ..push(uris[0], &two) };
    assert_eq!(client.push(lie).await.unwrap_err().code(), Code::InvalidArgument);

    let expire_at = SystemTime::now() + Duration::from_secs(3600);
    let for_an_hour =
        asset::PushBlobRequest { expire_at: Some(time::timestamp(expire_at)), ..push("urn:h", &one) };
    client.push(for_an_hour).await.unwrap();
    let answer = client.fetch(blob("urn:h")).await.unwrap();
    assert_eq!(answer.expires_at, Some(time::timestamp(expire_at)));
    let soon = SystemTime::now() + Duration::from_millis(1500);
    client
        .push(asset::PushBlobRequest { expire_at: Some(time::timestamp(soon)), ..push("urn:s", &one) })
        .await
        .unwrap();
    while SystemTime::now() < soon {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(client.code(blob("urn:s")).await.0, Code::NotFound);

    node.kill();
    node.restart();
    let again = node.client().await;
    let answer = again.fetch(blob(uris[0])).await.unwrap();
    assert_eq!(digest_of(&answer.blob_digest, DigestFunction::Sha256), two, "names survive a kill");
    let other = again.with_instance("other");
    let elsewhere = asset::FetchBlobRequest { instance_name: "other".into(), ..blob(uris[0]) };
    assert_eq!(other.code(elsewhere).await.0, Code::NotFound, "names do not leak between instances");
}

#[tokio::test]
async fn content_that_is_not_stored_cannot_be_named() {
    let node = Node::start();
    let client = node.client().await;
    let (stored, absent) = (client.put(b"stored").await, client.digest(b"absent"));
    let referring = |digest: &Digest| asset::PushBlobRequest {
        references_blobs: vec![digest.to_wire()],
        ..push("urn:x", &stored)
    };
    let below = reapi::Directory {
        files: vec![reapi::FileNode {
            name: "f".into(),
            digest: Some(absent.to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let holed = client.put(&below.encode_to_vec()).await;
    let referring_below =
        asset::PushBlobRequest { references_directories: vec![holed.to_wire()], ..push("urn:x", &stored) };
    for request in [push("urn:x", &absent), referring(&absent), referring_below] {
        let status = client.push(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }
    let holed = asset::PushDirectoryRequest {
        uris: vec!["urn:x".into()],
        root_directory_digest: Some(holed.to_wire()),
        ..Default::default()
    };
    assert_eq!(client.pusher().push_directory(holed).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(client.code(blob("urn:x")).await.0, Code::NotFound);
    client.push(referring(&stored)).await.unwrap();
    assert_eq!(client.code(blob("urn:x")).await.0, Code::Ok);
    // Blobs and directories of one name are two things.
    assert_eq!(client.code_of_tree(directory("urn:x", Vec::new())).await.0, Code::NotFound);
}

#[tokio::test]
async fn names_are_found_only_while_all_they_refer_to_is_there() {
    let node = Node::builder().config("lease = \"0s\"\ndisk-budget = \"24MiB\"").start();
    let client = node.client().await;
    let mut names = Vec::new();
    // Twice as much as there is room for: the first ones go, some of them in part.
    for at in 0..24 {
        let large = client.put(&random_bytes(at, 2_000_000)).await;
        let small = client.put(&random_bytes(1000 + at, 100)).await;
        let root = reapi::Directory {
            files: vec![reapi::FileNode {
                name: "f".into(),
                digest: Some(large.to_wire()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let root = client.put(&root.encode_to_vec()).await;
        let request = asset::PushBlobRequest {
            references_directories: vec![root.to_wire()],
            ..push(&format!("urn:{at}"), &small)
        };
        client.push(request).await.unwrap();
        names.push((format!("urn:{at}"), [large, small, root]));
    }
    let mut found = 0;
    for (name, all) in &names {
        match client.code(blob(name)).await.0 {
            Code::Ok => {
                found += 1;
                assert_eq!(client.find_missing(all).await.unwrap(), [], "{name}");
            }
            code => assert_eq!(code, Code::NotFound),
        }
    }
    assert!((1..24).contains(&found), "{found} of 24 are left");
}

#[tokio::test]
async fn pushing_can_be_switched_off() {
    let node = Node::builder().config("asset-push = false").start();
    let client = node.client().await;
    let digest = client.put(b"x").await;
    let refused = client.push(push("urn:x", &digest)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("asset-push"), "{refused}");
    // BuildStream asks in this way whether there is such a service at all.
    let probe = client.push(asset::PushBlobRequest::default()).await.unwrap_err();
    assert_eq!(probe.code(), Code::InvalidArgument);
    assert_eq!(client.code(blob("urn:x")).await.0, Code::NotFound);
    let unknown = asset::FetchBlobRequest { qualifiers: vec![qualifier("frob", "1")], ..blob("urn:x") };
    assert_eq!(client.fetch(unknown).await.unwrap_err().code(), Code::InvalidArgument);
}
