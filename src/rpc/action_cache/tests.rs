use farmhand_proto::reapi::{GetActionResultRequest, OutputFile, UpdateActionResultRequest};
use tonic::Code;

use super::*;
use crate::rpc::InstanceSettings;
use crate::rpc::testing::{TestServer, blob};

const SHA256: DigestFunction = DigestFunction::Sha256;

fn action(salt: &str) -> Option<reapi::Digest> {
    Some(Digest::of(SHA256, salt.as_bytes()).to_wire())
}

async fn update(
    server: &TestServer,
    instance: &str,
    salt: &str,
    result: reapi::ActionResult,
) -> Result<reapi::ActionResult, Status> {
    let request = UpdateActionResultRequest {
        instance_name: instance.into(),
        action_digest: action(salt),
        action_result: Some(result),
        ..Default::default()
    };
    Ok(server.action_cache().update_action_result(request).await?.into_inner())
}

fn get_request(instance: &str, salt: &str) -> GetActionResultRequest {
    GetActionResultRequest {
        instance_name: instance.into(),
        action_digest: action(salt),
        ..Default::default()
    }
}

async fn get(server: &TestServer, request: GetActionResultRequest) -> Result<reapi::ActionResult, Status> {
    Ok(server.action_cache().get_action_result(request).await?.into_inner())
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

fn file(path: &str, digest: Option<reapi::Digest>) -> OutputFile {
    OutputFile { path: path.into(), digest, ..Default::default() }
}

fn result(server: &TestServer) -> reapi::ActionResult {
    let insert = |data: Vec<u8>| Some(server.cas.insert(SHA256, data).to_wire());
    reapi::ActionResult {
        output_files: vec![file("small", insert(blob(1, 1000))), file("large", insert(blob(2, 2_000_000)))],
        stdout_digest: insert(b"out".to_vec()),
        stderr_digest: insert(b"err".to_vec()),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_result_is_kept_for_its_action_and_instance_only() {
    let server = TestServer::start().await;
    assert_eq!(code(get(&server, get_request("a", "1")).await), Code::NotFound);
    let stored = result(&server);
    assert_eq!(update(&server, "a", "1", stored.clone()).await.unwrap(), stored);
    assert_eq!(get(&server, get_request("a", "1")).await.unwrap(), stored);
    assert_eq!(code(get(&server, get_request("b", "1")).await), Code::NotFound);
    assert_eq!(code(get(&server, get_request("a", "2")).await), Code::NotFound);
    let other_function = GetActionResultRequest { digest_function: 9, ..get_request("a", "1") };
    assert_eq!(code(get(&server, other_function).await), Code::NotFound);
    let no_digest = GetActionResultRequest { action_digest: None, ..get_request("a", "1") };
    assert_eq!(code(get(&server, no_digest).await), Code::InvalidArgument);
}

#[tokio::test]
async fn bytes_are_inlined_only_when_asked_and_small() {
    let server = TestServer::start().await;
    update(&server, "", "1", result(&server)).await.unwrap();
    let all = GetActionResultRequest {
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: ["small", "large", "./small", "unknown"].map(String::from).to_vec(),
        ..get_request("", "1")
    };
    let inlined = get(&server, all).await.unwrap();
    assert_eq!((&inlined.stdout_raw[..], &inlined.stderr_raw[..]), (&b"out"[..], &b"err"[..]));
    assert_eq!(inlined.output_files[0].contents, blob(1, 1000));
    assert!(inlined.output_files[1].contents.is_empty(), "too large for a hint");
    assert!(inlined.output_files.iter().all(|file| file.digest.is_some()));
    assert!(inlined.stdout_digest.is_some());
    let inexact =
        GetActionResultRequest { inline_output_files: vec!["./small".into()], ..get_request("", "1") };
    assert!(get(&server, inexact).await.unwrap().output_files[0].contents.is_empty());
}

#[tokio::test]
async fn bytes_in_an_update_go_to_the_cas() {
    let server = TestServer::start().await;
    let sent = reapi::ActionResult {
        stdout_raw: b"raw".to_vec(),
        output_files: vec![OutputFile { contents: b"contents".to_vec(), ..file("f", None) }],
        ..Default::default()
    };
    update(&server, "", "1", sent).await.unwrap();
    let plain = get(&server, get_request("", "1")).await.unwrap();
    assert!(plain.stdout_raw.is_empty() && plain.output_files[0].contents.is_empty());
    assert_eq!(plain.stdout_digest, Some(Digest::of(SHA256, b"raw").to_wire()));
    assert_eq!(plain.output_files[0].digest, Some(Digest::of(SHA256, b"contents").to_wire()));
    let hinted = GetActionResultRequest { inline_stdout: true, ..get_request("", "1") };
    assert_eq!(get(&server, hinted).await.unwrap().stdout_raw, b"raw");
    let lie = reapi::ActionResult {
        stdout_raw: b"raw".to_vec(),
        stdout_digest: action("other"),
        ..Default::default()
    };
    assert_eq!(code(update(&server, "", "2", lie).await), Code::InvalidArgument);
}

#[tokio::test]
async fn incomplete_and_malformed_updates_are_refused() {
    let server = TestServer::start().await;
    let with = |file| reapi::ActionResult { output_files: vec![file], ..Default::default() };
    let present = Some(server.cas.insert(SHA256, "x").to_wire());
    let bad = Some(reapi::Digest { hash: "zz".into(), size_bytes: 1 });
    for (file, expected) in [
        (file("f", action("absent")), Code::FailedPrecondition),
        (file("f", bad), Code::InvalidArgument),
        (file("/etc/x", present.clone()), Code::InvalidArgument),
    ] {
        assert_eq!(code(update(&server, "", "1", with(file.clone())).await), expected, "{file:?}");
    }
    assert!(update(&server, "", "1", with(file("f", present))).await.is_ok(), "no Action is needed");
    let nothing = UpdateActionResultRequest { action_digest: action("1"), ..Default::default() };
    let refused = server.action_cache().update_action_result(nothing).await;
    assert_eq!(code(refused), Code::InvalidArgument);
}

#[tokio::test]
async fn a_result_whose_outputs_are_gone_is_not_found() {
    let server = TestServer::start().await;
    let lost = server.cas.insert(SHA256, "lost");
    let stored =
        reapi::ActionResult { output_files: vec![file("f", Some(lost.to_wire()))], ..Default::default() };
    let update_it = update(&server, "", "1", stored);
    update_it.await.unwrap();
    server.lose(&lost);
    assert_eq!(code(get(&server, get_request("", "1")).await), Code::NotFound);
}

#[tokio::test]
async fn updates_can_be_off() {
    let settings = InstanceSettings { action_cache_updates: false, ..Default::default() };
    let server = TestServer::with_instance("ro", settings).await;
    let status = update(&server, "ro", "1", result(&server)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("ro"), "{status}");
}

#[tokio::test]
async fn failed_actions_are_not_served() {
    let server = TestServer::start().await;
    let failed = reapi::ActionResult { exit_code: 1, ..Default::default() };
    assert_eq!(update(&server, "", "1", failed.clone()).await.unwrap(), failed);
    assert_eq!(code(get(&server, get_request("", "1")).await), Code::NotFound);
}

#[tokio::test]
async fn a_result_too_large_to_send_is_refused() {
    let server = TestServer::start().await;
    let digest = Some(server.cas.insert(SHA256, "x").to_wire());
    let files = (0..30_000).map(|i| file(&format!("{i:0200}"), digest.clone())).collect();
    let huge = reapi::ActionResult { output_files: files, ..Default::default() };
    assert_eq!(code(update(&server, "", "1", huge).await), Code::InvalidArgument);
}

/// Every look-up counts, found or not; a result that a client tells is an upload.
#[tokio::test]
async fn what_is_asked_and_told_is_made_known() {
    let server = TestServer::start().await;
    assert_eq!(code(get(&server, get_request("", "a")).await), Code::NotFound);
    update(&server, "", "a", reapi::ActionResult::default()).await.unwrap();
    get(&server, get_request("", "a")).await.unwrap();
    let failed = reapi::ActionResult { exit_code: 1, ..Default::default() };
    update(&server, "", "b", failed).await.unwrap();
    let execution = server.activity.execution();
    assert_eq!((execution.lookups, execution.hits), (2, 1));
    let builds = server.activity.follow(None, 0).unwrap().read().builds;
    assert_eq!((builds.len(), builds[0].uploads), (1, 1), "what failed is not kept");
}
