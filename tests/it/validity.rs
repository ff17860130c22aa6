//! VAL: what an Action, a Command and a Directory must be, and what is let through.

use farmhand::digest::Digest;
use farmhand_proto::reapi;
use prost::Message;
use tonic::{Code, Status};

use crate::errors::missing_subjects;
use crate::support::{ActionBuilder, Client, Node, Outcome};

/// How an action was refused: by the call, or by the response of its operation.
async fn refusal(action: &ActionBuilder, client: &Client) -> (Code, String) {
    match action.try_run(client).await {
        Err(status) => (status.code(), status.message().to_owned()),
        Ok(outcome) => {
            let status = outcome.response.status.clone().unwrap_or_default();
            (Code::from(status.code), status.message)
        }
    }
}

async fn assert_invalid(action: &ActionBuilder, client: &Client, what: &str) {
    let (code, message) = refusal(action, client).await;
    assert_eq!(code, Code::InvalidArgument, "{what}: {message}");
}

async fn execute(client: &Client, action: &Digest) -> Result<Outcome, Status> {
    let stream = ActionBuilder::default().start(client, action).await?;
    crate::support::action::finish(stream, *action).await
}

fn missing_of(outcome: Result<Outcome, Status>) -> Vec<String> {
    match outcome {
        Ok(outcome) => missing_subjects(&outcome.response.status.clone().unwrap()),
        Err(status) => {
            use tonic_prost::prost::Message as _;
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            missing_subjects(&farmhand_proto::rpc::Status::decode(status.details()).unwrap())
        }
    }
}

#[tokio::test]
async fn each_absent_part_is_named() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("cat a d/b").file("a", "content a").file("d/b", "content b");
    let (digest, blobs) = action.blobs(&client);
    for absent in 0..blobs.len() {
        // A salt of its own for every round, as blobs of earlier rounds stay.
        let tag = format!("round {absent} ");
        let action = ActionBuilder::sh(&format!("{tag}; cat a d/b"))
            .file("a", format!("{tag}a"))
            .file("d/b", format!("{tag}b"))
            .salt(&tag);
        let (digest, blobs) = action.blobs(&client);
        for (i, blob) in blobs.iter().enumerate() {
            if i != absent {
                client.put(blob).await;
            }
        }
        let gone = client.digest(&blobs[absent]);
        let missing = missing_of(execute(&client, &digest).await);
        assert_eq!(missing, [gone.missing_subject()], "part {absent}");
    }
    assert_eq!(missing_of(execute(&client, &digest).await), [digest.missing_subject()]);
}

#[tokio::test]
async fn bytes_that_do_not_parse_are_invalid_and_named() {
    let node = Node::start();
    let client = node.client().await;
    let rubbish = client.put(b"\xff\xff\xff\xff rubbish").await;
    let status = match execute(&client, &rubbish).await {
        Err(status) => status,
        Ok(outcome) => panic!("{:?}", outcome.response),
    };
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("Action"), "{status}");

    let command = reapi::Command { arguments: vec!["true".into()], ..Default::default() };
    let command = client.put(&command.encode_to_vec()).await;
    for (command, root, role) in [(rubbish, client.digest(b""), "Command"), (command, rubbish, "Directory")] {
        let action = reapi::Action {
            command_digest: Some(command.to_wire()),
            input_root_digest: Some(root.to_wire()),
            ..Default::default()
        };
        let action = client.put(&action.encode_to_vec()).await;
        let (code, message) = match execute(&client, &action).await {
            Err(status) => (status.code(), status.message().to_owned()),
            Ok(outcome) => {
                let status = outcome.response.status.unwrap();
                (Code::from(status.code), status.message)
            }
        };
        assert_eq!(code, Code::InvalidArgument, "{message}");
        assert!(message.contains(role) && message.contains(&rubbish.hash_hex()), "{message}");
    }
}

#[tokio::test]
async fn arguments_must_name_a_program_and_hold_no_nul() {
    let node = Node::start();
    let client = node.client().await;
    for arguments in [&[][..], &[""], &["/bin/true", "a\0b"]] {
        assert_invalid(&ActionBuilder::new(arguments), &client, &format!("{arguments:?}")).await;
    }
}

fn directory_with(names: &[&str], kind: usize, digest: &Digest) -> reapi::Directory {
    let mut directory = reapi::Directory::default();
    for (i, name) in names.iter().enumerate() {
        match (kind + i) % 3 {
            0 => directory.files.push(reapi::FileNode {
                name: (*name).into(),
                digest: Some(digest.to_wire()),
                ..Default::default()
            }),
            1 => directory
                .directories
                .push(reapi::DirectoryNode { name: (*name).into(), digest: Some(digest.to_wire()) }),
            _ => directory.symlinks.push(reapi::SymlinkNode {
                name: (*name).into(),
                target: "x".into(),
                node_properties: None,
            }),
        }
    }
    directory
}

#[tokio::test]
async fn directory_entries_are_single_distinct_names() {
    let node = Node::start();
    let client = node.client().await;
    let empty = client.digest(b"");
    for kind in 0..3 {
        for names in [
            &[""][..],
            &["."],
            &[".."],
            &["a/b"],
            &["/etc/passwd"],
            &["../../etc/x"],
            &["a\0b"],
            &["same", "same"],
        ] {
            let root = client.put(&directory_with(names, kind, &empty).encode_to_vec()).await;
            let action = ActionBuilder::sh("true").input_root(root);
            assert_invalid(&action, &client, &format!("{names:?} as kind {kind}")).await;
        }
    }
    assert!(!std::path::Path::new("/etc/x").exists());
}

#[tokio::test]
async fn unsorted_messages_run_as_they_are() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"data").await;
    let file = |name: &str| reapi::FileNode {
        name: name.into(),
        digest: Some(digest.to_wire()),
        ..Default::default()
    };
    let directory = reapi::Directory { files: vec![file("z"), file("a"), file("m")], ..Default::default() };
    let root = client.put(&directory.encode_to_vec()).await;
    let action = ActionBuilder::sh("ls; echo $B$A > y; echo > b").env("Z", "1").env("B", "b").env("A", "a");
    let outcome = action.input_root(root).outputs(&["y", "b"]).run(&client).await;
    assert_eq!(outcome.output(&client, "y").await, b"ba\n");
    assert_eq!(outcome.stdout(&client).await, "a\nm\nz\n");
}

#[tokio::test]
async fn output_paths_stay_inside_the_input_root() {
    let node = Node::start();
    let client = node.client().await;
    for bad in ["/a", "a/", "../../../x", "a\0b", "/"] {
        let action = ActionBuilder::sh("true").working_directory("d").outputs(&[bad]);
        assert_invalid(&action, &client, bad).await;
        let mut old = ActionBuilder::sh("true").working_directory("d");
        old.command.output_files = vec![bad.into()];
        assert_invalid(&old, &client, bad).await;
    }
    let action = ActionBuilder::sh("echo up > ../x").working_directory("d").outputs(&["../x"]);
    assert_eq!(action.run(&client).await.output(&client, "../x").await, b"up\n");
}

#[tokio::test]
async fn the_old_fields_are_ignored_beside_output_paths() {
    let node = Node::start();
    let client = node.client().await;
    let mut action = ActionBuilder::sh("echo > f; mkdir d; echo > d/g").outputs(&["f", "d"]);
    action.command.output_files = vec!["f".into(), "f".into(), "d".into(), "other".into()];
    action.command.output_directories = vec!["d".into(), "f".into()];
    let outcome = action.run(&client).await;
    let result = outcome.success();
    assert_eq!((result.output_files.len(), result.output_directories.len()), (1, 1));
}

#[tokio::test]
async fn an_output_directory_inside_another() {
    let node = Node::start();
    let client = node.client().await;
    let mut action = ActionBuilder::sh("mkdir -p a/b; echo > a/b/f");
    action.command.output_directories = vec!["a".into(), "a/b".into()];
    assert_eq!(action.run(&client).await.success().output_directories.len(), 2);
}

#[tokio::test]
async fn timeouts_beyond_the_maximum_or_negative_are_invalid() {
    let node = Node::builder().config("max-timeout = \"1h\"").start();
    let client = node.client().await;
    assert_invalid(&ActionBuilder::sh("true").timeout_ms(3_601_000), &client, "above the maximum").await;
    let mut negative = ActionBuilder::sh("true");
    negative.action.timeout = Some(farmhand_proto::protobuf::Duration { seconds: -1, nanos: 0 });
    assert_invalid(&negative, &client, "negative").await;
    ActionBuilder::sh("true").timeout_ms(3_600_000).run(&client).await.success();
    ActionBuilder::sh("true").timeout_ms(0).run(&client).await.success();
}

#[tokio::test]
async fn working_directories() {
    let node = Node::start();
    let client = node.client().await;
    for bad in ["/tmp", "../x", "a\0b"] {
        assert_invalid(&ActionBuilder::sh("pwd").working_directory(bad), &client, bad).await;
    }
    for (given, shown) in [("", ""), (".", ""), ("no/such/dir", "/no/such/dir"), ("a/./b", "/a/b")] {
        let outcome = ActionBuilder::sh("pwd; touch here").working_directory(given).run(&client).await;
        outcome.success();
        let pwd = outcome.stdout(&client).await;
        assert!(pwd.trim_end().ends_with(shown), "{given:?}: {pwd}");
    }
    // A file, and a symlink to nowhere: final answers, since no machine can do better.
    let inputs = || ActionBuilder::sh("pwd").file("file", "").symlink("link", "/no/such/directory");
    for given in ["file", "file/below", "link"] {
        let outcome = inputs().working_directory(given).run(&client).await;
        assert_eq!(outcome.code(), Code::InvalidArgument as i32, "{given:?}: {:?}", outcome.response);
    }
}

#[tokio::test]
async fn node_property_names() {
    let node = Node::start();
    let client = node.client().await;
    let mut unknown = ActionBuilder::sh("true");
    unknown.command.output_node_properties = vec!["frobnicate".into()];
    let (code, message) = refusal(&unknown, &client).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("frobnicate"), "{message}");

    let digest = client.put(b"x").await;
    let properties = reapi::NodeProperties {
        properties: vec![reapi::NodeProperty { name: "unheard-of".into(), value: "1".into() }],
        ..Default::default()
    };
    let file = reapi::FileNode {
        name: "f".into(),
        digest: Some(digest.to_wire()),
        node_properties: Some(properties),
        ..Default::default()
    };
    let directory = reapi::Directory { files: vec![file], ..Default::default() };
    let root = client.put(&directory.encode_to_vec()).await;
    ActionBuilder::sh("test -f f").input_root(root).run(&client).await.success();
}

#[tokio::test]
async fn environment_names() {
    let node = Node::start();
    let client = node.client().await;
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
        assert_invalid(&ActionBuilder::sh("true").env(name, value), &client, &format!("{name:?}={value:?}"))
            .await;
    }
    let outcome = ActionBuilder::sh("echo \"$A\"").env("A", "with = and\nnewline").run(&client).await;
    assert_eq!(outcome.stdout(&client).await, "with = and\nnewline\n");
}
