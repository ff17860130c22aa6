//! Servers that mean harm, and addresses that are not for this node to ask.

use super::*;

#[tokio::test]
async fn trouble_at_the_origin_is_told_inside_an_answer() {
    let node =
        Node::builder().config(ALLOWED).config("asset-max-size = \"1MiB\"\nasset-timeout = \"2s\"").start();
    let client = node.client().await;
    let origin = Origin::start(&[
        ("/403", Reply::Status(403)),
        ("/429", Reply::Status(429)),
        ("/500", Reply::Status(500)),
        ("/206", Reply::Status(206)),
        ("/304", Reply::Status(304)),
        ("/loop", Reply::Redirect("/loop".into())),
        ("/file", Reply::Redirect("file:///etc/passwd".into())),
        ("/short", Reply::Announced(100, b"too short".into())),
        ("/large", Reply::Announced(2 << 20, b"x".into())),
        ("/endless", Reply::Endless),
        ("/drip", Reply::Drip),
        ("/silent", Reply::Later(Default::default(), Vec::new())),
    ])
    .await;
    for (path, expected) in [
        ("/404", Code::NotFound),
        ("/403", Code::PermissionDenied),
        ("/429", Code::ResourceExhausted),
        ("/500", Code::Unavailable),
        ("/206", Code::Aborted),
        ("/304", Code::Aborted),
        ("/loop", Code::Aborted),
        ("/file", Code::Aborted),
        ("/short", Code::Unavailable),
        ("/large", Code::ResourceExhausted),
        ("/endless", Code::ResourceExhausted),
        ("/drip", Code::DeadlineExceeded),
        ("/silent", Code::DeadlineExceeded),
    ] {
        let url = origin.url(path);
        let answer = client.fetch(blob(&url)).await.unwrap();
        let (code, text) = status(&answer.status);
        assert_eq!((code, answer.uri, answer.blob_digest), (expected, url, None), "{path}: {text}");
        assert!(text.contains(path), "{text}");
    }
    assert_eq!(client.code(blob("http://127.0.0.1:1/")).await.0, Code::Unavailable);
    let left = std::fs::read_dir(node.data_dir().join("downloads")).unwrap().count();
    assert_eq!(left, 0, "nothing is left of what was given up");
}

#[tokio::test]
async fn only_what_the_owner_allows_is_asked() {
    let origin = Origin::start(&[("/x", Reply::Content(b"content".into()))]).await;
    let closed = Node::start();
    let client = closed.client().await;
    let by_name = origin.url("/x").replace("127.0.0.1", "localhost");
    for url in [
        origin.url("/x"),
        by_name.clone(),
        origin.url("/x").replace("127.0.0.1", "2130706433"),
        origin.url("/x").replace("127.0.0.1", "[::ffff:127.0.0.1]"),
        "http://169.254.169.254/latest/meta-data".into(),
        "http://10.0.0.1/".into(),
        "file:///etc/passwd".into(),
        "ftp://example.com/x".into(),
    ] {
        let (code, text) = client.code(blob(&url)).await;
        assert_eq!(code, Code::PermissionDenied, "{url}: {text}");
    }
    assert_eq!(client.code(blob("urn:x")).await.0, Code::NotFound);
    assert!(origin.heard().is_empty(), "{:?}", origin.heard());

    let settings = "asset-hosts = [\"!localhost\", \"127.*\"]\nasset-networks = [\"127.0.0.0/8\"]";
    let choosy = Node::builder().config(settings).start();
    let client = choosy.client().await;
    let redirecting = Origin::start(&[
        ("/link-local", Reply::Redirect("http://169.254.169.254/latest/meta-data".into())),
        ("/host", Reply::Redirect(by_name)),
        ("/good", Reply::Redirect(origin.url("/x"))),
    ])
    .await;
    for path in ["/link-local", "/host"] {
        let (code, text) = client.code(blob(&redirecting.url(path))).await;
        assert_eq!(code, Code::PermissionDenied, "{path}: {text}");
    }
    assert!(origin.heard().is_empty(), "{:?}", origin.heard());
    assert_eq!(client.code(blob(&redirecting.url("/good"))).await.0, Code::Ok);

    let secure = Node::builder().config(ALLOWED).config("asset-plain-http = false").start();
    let client = secure.client().await;
    let (code, text) = client.code(blob(&origin.url("/x"))).await;
    assert_eq!(code, Code::PermissionDenied);
    assert!(text.contains("asset-plain-http"), "{text}");

    let none = Node::builder().config("asset-hosts = []").start();
    assert_eq!(none.client().await.code(blob(&origin.url("/x"))).await.0, Code::NotFound);
}

#[tokio::test]
async fn a_proxy_is_asked_where_there_is_one() {
    let proxy = Origin::start(&[("/x", Reply::Content(b"content".into()))]).await;
    let node = Node::builder().config(&format!("asset-proxy = \"http://{}\"", proxy.address)).start();
    let client = node.client().await;
    assert_eq!(client.code(blob("http://example.com/x")).await.0, Code::Ok);
    assert_eq!(client.code(blob("http://127.0.0.1/x")).await.0, Code::PermissionDenied);
    assert_eq!(client.code(blob("https://example.com/x")).await.0, Code::Unavailable);
    let heard: Vec<_> = proxy.heard().into_iter().map(|heard| (heard.method, heard.path)).collect();
    let expected = [("GET", "http://example.com/x"), ("CONNECT", "example.com:443")];
    assert_eq!(heard, expected.map(|(method, path)| (method.to_owned(), path.to_owned())));
}
