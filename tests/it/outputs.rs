//! OUT: what comes back from an action.

use std::collections::HashMap;

use farmhand::digest::Digest;
use farmhand_proto::reapi;
use farmhand_proto::reapi::command::OutputDirectoryFormat;
use prost::Message;
use tonic::Code;

use crate::support::{ActionBuilder, Client, Node, random_bytes};

async fn tree(client: &Client, directory: &reapi::OutputDirectory) -> reapi::Tree {
    let digest = Digest::from_field(client.function, directory.tree_digest.as_ref()).unwrap();
    reapi::Tree::decode(client.read(&digest).await.unwrap().as_slice()).unwrap()
}

/// All paths in a Tree, every child found by its digest.
fn paths(client: &Client, tree: &reapi::Tree) -> Vec<String> {
    let children: HashMap<_, _> =
        tree.children.iter().map(|child| (client.digest(&child.encode_to_vec()), child)).collect();
    let mut found = Vec::new();
    let mut open = vec![(String::new(), tree.root.as_ref().unwrap())];
    while let Some((prefix, directory)) = open.pop() {
        found.extend(directory.files.iter().map(|file| format!("{prefix}{}", file.name)));
        found.extend(
            directory.symlinks.iter().map(|link| format!("{prefix}{} -> {}", link.name, link.target)),
        );
        for child in &directory.directories {
            let digest = Digest::from_field(client.function, child.digest.as_ref()).unwrap();
            let message =
                children.get(&digest).unwrap_or_else(|| panic!("{} is not in the Tree", child.name));
            found.push(format!("{prefix}{}/", child.name));
            open.push((format!("{prefix}{}/", child.name), message));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn output_paths_take_the_kind_that_is_found() {
    let node = Node::start();
    let client = node.client().await;
    let script = "echo f > file; mkdir dir; echo g > dir/g; ln -s file link; ln -s dir dirlink; ln -s nowhere dangling";
    let action = ActionBuilder::sh(script).outputs(&["file", "dir", "link", "dirlink", "dangling", "absent"]);
    let outcome = action.run(&client).await;
    let result = outcome.success();
    assert_eq!(result.output_files.len(), 1);
    assert_eq!(outcome.output(&client, "file").await, b"f\n");
    assert_eq!(result.output_directories.len(), 1);
    assert_eq!(paths(&client, &tree(&client, &result.output_directories[0]).await), ["g"]);
    let links = |list: &[reapi::OutputSymlink]| {
        let mut links: Vec<_> = list.iter().map(|l| format!("{}>{}", l.path, l.target)).collect();
        links.sort();
        links
    };
    assert_eq!(links(&result.output_symlinks), ["dangling>nowhere", "dirlink>dir", "link>file"]);
    let old = [&result.output_file_symlinks[..], &result.output_directory_symlinks].concat();
    assert_eq!(links(&old), links(&result.output_symlinks), "old and new lists agree");
    assert_eq!(links(&result.output_directory_symlinks), ["dirlink>dir"]);
}

#[tokio::test]
async fn paths_are_relative_to_the_working_directory_and_exactly_as_asked() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("echo 1 > o; mkdir -p x; echo 2 > x/p; echo 3 > ../up");
    let outcome = action.working_directory("d/e").outputs(&["o", "x/./p", "../up"]).run(&client).await;
    outcome.success();
    for (path, content) in [("o", b"1\n"), ("x/./p", b"2\n"), ("../up", b"3\n")] {
        assert_eq!(outcome.output(&client, path).await, content);
    }
}

/// Actions begin with their writes in memory. One that writes a lot runs again, with nothing of the
/// first try left, and the next of its kind too.
#[tokio::test]
async fn more_than_memory_is_for_is_written_to_the_disk() {
    let node = Node::start();
    let client = node.client().await;
    let script =
        "echo once; test ! -e left || exit 3; echo x > left; head -c 80000000 /dev/zero > out; cat left";
    for run in 0..2 {
        let action = ActionBuilder::sh(&format!("{script} #{run}")).outputs(&["out"]);
        let outcome = action.run(&client).await;
        let digest = outcome.success().output_files[0].digest.clone().unwrap();
        assert_eq!(digest.size_bytes, 80_000_000);
        assert_eq!(outcome.stdout(&client).await, "once\nx\n");
    }
}

/// More outputs than a message can name are a clear answer, with the logs.
#[tokio::test]
async fn a_result_larger_than_a_message_is_refused() {
    let node = Node::start();
    let client = node.client().await;
    let names: Vec<String> = (0..2500).map(|i| format!("{i:0>200}")).collect();
    let link = "l".repeat(2000);
    let script = format!("echo made; for i in $(seq 0 2499); do ln -s {link} $(printf %0200d $i); done");
    let mut action = ActionBuilder::sh(&script);
    action.command.output_paths = names;
    let outcome = action.run(&client).await;
    assert_eq!(outcome.code(), Code::FailedPrecondition as i32);
    let message = &outcome.response.status.as_ref().unwrap().message;
    assert!(message.contains("bytes"), "{message}");
    assert_eq!(outcome.stdout(&client).await, "made\n");
    assert_eq!(outcome.result().output_symlinks, []);
}

#[tokio::test]
async fn absent_outputs_are_left_out() {
    let node = Node::start();
    let client = node.client().await;
    let mut action = ActionBuilder::sh("true");
    action.command.output_files = vec!["nothing".into()];
    action.command.output_directories = vec!["nowhere".into()];
    let outcome = action.run(&client).await;
    let result = outcome.success();
    assert!(result.output_files.is_empty() && result.output_directories.is_empty());
}

#[tokio::test]
async fn parents_exist_and_the_outputs_do_not() {
    let node = Node::start();
    let client = node.client().await;
    let script = "echo x > a/b/c && mkdir p/dir && echo y > p/dir/f && test ! -e q/r";
    ActionBuilder::sh(script).outputs(&["a/b/c", "p/dir", "q/r"]).run(&client).await.success();
    let mut old = ActionBuilder::sh("echo x > a/b/c && mkdir p/dir");
    old.command.output_files = vec!["a/b/c".into()];
    old.command.output_directories = vec!["p/dir".into()];
    old.run(&client).await.success();
}

#[tokio::test]
async fn the_empty_path_is_the_whole_working_directory() {
    let node = Node::start();
    let client = node.client().await;
    let mut action = ActionBuilder::sh("echo x > new").working_directory("w").file("w/in", "i");
    action.command.output_directories = vec![String::new()];
    let outcome = action.run(&client).await;
    let directory = &outcome.success().output_directories[0];
    assert_eq!(directory.path, "");
    assert_eq!(paths(&client, &tree(&client, directory).await), ["in", "new"]);
}

#[tokio::test]
async fn the_old_fields_insist_on_their_kind() {
    let node = Node::start();
    let client = node.client().await;
    let cases = [
        ("mkdir o", true),
        ("echo > o", false),
        ("mkdir d; ln -s d o", true),
        ("echo > f; ln -s f o", false),
    ];
    for (script, as_file) in cases {
        let mut action = ActionBuilder::sh(script);
        let list =
            if as_file { &mut action.command.output_files } else { &mut action.command.output_directories };
        list.push("o".into());
        let outcome = action.run(&client).await;
        assert_eq!(outcome.code(), Code::FailedPrecondition as i32, "{script}: {:?}", outcome.response);
    }
}

#[tokio::test]
async fn old_fields_report_links_of_the_right_kind() {
    let node = Node::start();
    let client = node.client().await;
    let mut action = ActionBuilder::sh("echo > f; ln -s f lf; mkdir d; ln -s d ld");
    action.command.output_files = vec!["lf".into()];
    action.command.output_directories = vec!["ld".into()];
    let outcome = action.run(&client).await;
    let result = outcome.success();
    assert_eq!(result.output_file_symlinks[0].target, "f");
    assert_eq!(result.output_directory_symlinks[0].target, "d");
}

#[tokio::test]
async fn the_executable_bit() {
    let node = Node::start();
    let client = node.client().await;
    let outcome = ActionBuilder::sh("echo > x; echo > p; chmod +x x").outputs(&["x", "p"]).run(&client).await;
    let bits: Vec<_> =
        outcome.success().output_files.iter().map(|f| (f.path.as_str(), f.is_executable)).collect();
    assert_eq!(bits, [("x", true), ("p", false)]);
}

#[tokio::test]
async fn trees_are_whole_sorted_and_the_same_for_the_same_content() {
    let node = Node::start();
    let client = node.client().await;
    let one = "mkdir -p o/a/b/c o/a/d o/e; echo 1 > o/a/b/c/f; echo 2 > o/z; echo 3 > o/b; ln -s nowhere o/l; \
               mkdir o/same1 o/same2; echo s > o/same1/s; echo s > o/same2/s";
    let two = "mkdir -p o/same2 o/same1 o/e; echo s > o/same2/s; echo s > o/same1/s; ln -s nowhere o/l; echo 3 > o/b; \
               echo 2 > o/z; mkdir -p o/a/d o/a/b/c; echo 1 > o/a/b/c/f";
    let first = ActionBuilder::sh(one).outputs(&["o"]).run(&client).await;
    let second = ActionBuilder::sh(two).outputs(&["o"]).run(&client).await;
    let directory = &first.success().output_directories[0];
    assert_eq!(directory.tree_digest, second.success().output_directories[0].tree_digest);
    let whole = tree(&client, directory).await;
    let expected = [
        "a/",
        "a/b/",
        "a/b/c/",
        "a/b/c/f",
        "a/d/",
        "b",
        "e/",
        "l -> nowhere",
        "same1/",
        "same1/s",
        "same2/",
        "same2/s",
        "z",
    ];
    assert_eq!(paths(&client, &whole), expected);
    let names: Vec<_> = whole.root.as_ref().unwrap().files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["b", "z"]);
    let digests: Vec<_> = whole.children.iter().map(|child| client.digest(&child.encode_to_vec())).collect();
    let distinct: std::collections::HashSet<_> = digests.iter().collect();
    assert_eq!(digests.len(), distinct.len(), "each distinct child once");
    if directory.is_topologically_sorted {
        for (i, child) in whole.children.iter().enumerate() {
            for below in &child.directories {
                let below = Digest::from_field(client.function, below.digest.as_ref()).unwrap();
                let at = digests.iter().position(|digest| *digest == below).unwrap();
                assert!(at > i, "parents stand before their children");
            }
        }
    }
}

#[tokio::test]
async fn an_empty_directory_is_a_tree_of_two_bytes() {
    let node = Node::start();
    let client = node.client().await;
    let outcome = ActionBuilder::sh("mkdir out").outputs(&["out"]).run(&client).await;
    let directory = &outcome.success().output_directories[0];
    let digest = Digest::from_field(client.function, directory.tree_digest.as_ref()).unwrap();
    assert_eq!(client.read(&digest).await.unwrap(), [0x0a, 0x00]);
}

#[tokio::test]
async fn directory_formats() {
    let node = Node::start();
    let client = node.client().await;
    for format in [
        OutputDirectoryFormat::TreeOnly as i32,
        OutputDirectoryFormat::DirectoryOnly as i32,
        OutputDirectoryFormat::TreeAndDirectory as i32,
        77,
    ] {
        let mut action =
            ActionBuilder::sh("mkdir -p o/d; echo x > o/d/f").outputs(&["o"]).salt(&format.to_string());
        action.command.output_directory_format = format;
        let outcome = action.run(&client).await;
        let directory = &outcome.success().output_directories[0];
        let wants_root = (1..=2).contains(&format);
        if wants_root {
            assert!(directory.root_directory_digest.is_some(), "{format}");
        }
        if format != OutputDirectoryFormat::DirectoryOnly as i32 {
            assert!(directory.tree_digest.is_some(), "{format}");
        }
        let Some(root) = &directory.root_directory_digest else { continue };
        let root = Digest::from_wire(client.function, root).unwrap();
        if directory.tree_digest.is_some() {
            let whole = tree(&client, directory).await;
            assert_eq!(client.digest(&whole.root.unwrap().encode_to_vec()), root);
        }
        let request = reapi::GetTreeRequest { root_digest: Some(root.to_wire()), ..Default::default() };
        let mut stream = client.cas().get_tree(request).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().directories.len(), 2);
    }
}

/// Please and Justbuild use an output directory as input without uploading anything.
#[tokio::test]
async fn an_output_directory_serves_as_input_root() {
    let node = Node::start();
    let client = node.client().await;
    let outcome = ActionBuilder::sh("mkdir -p o/d; echo x > o/d/f").outputs(&["o"]).run(&client).await;
    let whole = tree(&client, &outcome.success().output_directories[0]).await;
    let root = client.digest(&whole.root.unwrap().encode_to_vec());
    let next = ActionBuilder::sh("cat d/f").input_root(root).run(&client).await;
    assert_eq!(next.stdout(&client).await, "x\n");
}

#[tokio::test]
async fn requested_node_properties_are_filled() {
    let node = Node::start();
    let client = node.client().await;
    let mut action = ActionBuilder::sh(
        "echo > f; chmod 640 f; touch -d @1000000000 f; mkdir d; echo > d/g; chmod 600 d/g",
    );
    action.command.output_node_properties = vec!["mtime".into(), "unix_mode".into()];
    let outcome = action.outputs(&["f", "d"]).run(&client).await;
    let properties = outcome.success().output_files[0].node_properties.clone().unwrap();
    assert_eq!(properties.mtime.unwrap().seconds, 1_000_000_000);
    assert_eq!(properties.unix_mode.unwrap().value & 0o777, 0o640);
    let whole = tree(&client, &outcome.result().output_directories[0]).await;
    let inner = whole.root.unwrap().files[0].node_properties.clone().unwrap();
    assert_eq!(inner.unix_mode.unwrap().value & 0o777, 0o600);
}

#[tokio::test]
async fn everything_is_readable_when_the_result_is_seen() {
    let node = Node::start();
    let client = node.client().await;
    let reader = node.client().await;
    for i in 0..10 {
        let script = format!(
            "mkdir o; head -c 200000 /dev/urandom > o/big; echo {i} > o/small; echo out; echo err >&2"
        );
        let outcome = ActionBuilder::sh(&script).outputs(&["o"]).run(&client).await;
        let result = outcome.success();
        let whole = tree(&reader, &result.output_directories[0]).await;
        for file in whole.root.unwrap().files {
            let digest = Digest::from_field(client.function, file.digest.as_ref()).unwrap();
            assert_eq!(reader.read(&digest).await.unwrap().len() as u64, digest.size());
        }
        assert_eq!(outcome.stdout(&reader).await, "out\n");
        assert_eq!(outcome.stderr(&reader).await, "err\n");
    }
}

#[tokio::test]
async fn outputs_of_failed_commands_are_collected() {
    let node = Node::start();
    let client = node.client().await;
    let outcome =
        ActionBuilder::sh("echo log > test.log; echo said; exit 7").outputs(&["test.log"]).run(&client).await;
    assert_eq!((outcome.code(), outcome.result().exit_code), (0, 7));
    assert_eq!(outcome.output(&client, "test.log").await, b"log\n");
    assert_eq!(outcome.stdout(&client).await, "said\n");
}

#[tokio::test]
async fn log_digests_are_always_set_and_nothing_is_inlined_unasked() {
    let node = Node::start();
    let client = node.client().await;
    let quiet = ActionBuilder::sh("true").run(&client).await;
    let empty = client.digest(b"").to_wire();
    assert_eq!(quiet.success().stdout_digest.as_ref(), Some(&empty));
    assert_eq!(quiet.result().stderr_digest.as_ref(), Some(&empty));
    let loud = ActionBuilder::sh("echo hello").run(&client).await;
    assert!(loud.success().stdout_raw.is_empty());
}

#[tokio::test]
async fn special_files_and_unreadable_modes() {
    let node = Node::start();
    let client = node.client().await;
    let hidden = "mkdir -p o/closed; echo x > o/closed/f; echo y > o/f; chmod 000 o/f; chmod 000 o/closed";
    let outcome = ActionBuilder::sh(hidden).outputs(&["o"]).run(&client).await;
    let whole = tree(&client, &outcome.success().output_directories[0]).await;
    assert_eq!(paths(&client, &whole), ["closed/", "closed/f", "f"]);

    let fifo = ActionBuilder::sh("mkdir o; mkfifo o/p; echo x > o/f").outputs(&["o"]).run(&client).await;
    match fifo.code() {
        0 => assert_eq!(paths(&client, &tree(&client, &fifo.result().output_directories[0]).await), ["f"]),
        _ => assert!(fifo.response.status.as_ref().unwrap().message.contains('p'), "{:?}", fifo.response),
    }
}

#[tokio::test]
async fn inputs_named_as_outputs_come_back_changed_or_not() {
    let node = Node::start();
    let client = node.client().await;
    let large = random_bytes(9, 150_000);
    let script = "rm d/gone; echo new > d/new; chmod u+w d/changed; echo more >> d/changed";
    let action = ActionBuilder::sh(script)
        .file("d/kept", &large)
        .file("d/gone", "g")
        .file("d/changed", "c\n")
        .outputs(&["d", "d/kept"]);
    let outcome = action.run(&client).await;
    let whole = tree(&client, &outcome.success().output_directories[0]).await;
    assert_eq!(paths(&client, &whole), ["changed", "kept", "new"]);
    assert_eq!(outcome.output(&client, "d/kept").await, large);
    let changed = whole.root.unwrap().files[0].digest.clone();
    let changed = Digest::from_field(client.function, changed.as_ref()).unwrap();
    assert_eq!(client.read(&changed).await.unwrap(), b"c\nmore\n");
}
