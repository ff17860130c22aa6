//! STG: the input root an action finds.

use std::process::Command;

use farmhand_proto::{protobuf, reapi};
use prost::Message;

use crate::support::{ActionBuilder, Node, random_bytes};

#[tokio::test]
async fn files_have_their_bytes_and_the_executable_bit() {
    let node = Node::start();
    let client = node.client().await;
    let large = random_bytes(1, 3_000_000);
    let action = ActionBuilder::sh("sha256sum small large run; stat -c '%A %n' small large run; ./run")
        .file("small", "tiny")
        .file("large", &large)
        .executable("run", "#!/bin/sh\necho I ran\n");
    let outcome = action.run(&client).await;
    outcome.success();
    let stdout = outcome.stdout(&client).await;
    for data in [&b"tiny"[..], &large] {
        assert!(stdout.contains(&client.digest(data).hash_hex()), "{stdout}");
    }
    assert!(stdout.contains("-r--r--r-- small") && stdout.contains("-r-xr-xr-x run"), "{stdout}");
    assert!(stdout.contains("I ran"));
}

#[tokio::test]
async fn symlinks_are_made_unchanged() {
    let node = Node::start();
    let client = node.client().await;
    let links = [
        ("dangling", "no/where"),
        ("d/up", "../f"),
        ("to-dir", "d"),
        ("to-file", "f"),
        ("absolute", "/usr/bin/env"),
    ];
    let mut action = ActionBuilder::sh(
        "for l in dangling d/up to-dir to-file absolute; do readlink $l; done; cat d/up to-dir/x",
    );
    for (path, target) in links {
        action = action.symlink(path, target);
    }
    let outcome = action.file("f", "F\n").file("d/x", "X\n").run(&client).await;
    outcome.success();
    assert_eq!(outcome.stdout(&client).await, "no/where\n../f\nd\nf\n/usr/bin/env\nF\nX\n");
}

/// Staged one after the other, such roots share what they have in common. Each has to be seen as if it
/// were alone.
#[tokio::test]
async fn roots_that_are_much_alike_are_kept_apart() {
    let node = Node::start();
    let client = node.client().await;
    let script = "find . -printf '%y %m %Ts %p %l\\n' | sort; find . -type f | sort | xargs cat";
    let common = || {
        let action = ActionBuilder::sh(script);
        (0..200).fold(action, |action, n| action.file(&format!("common/{}/{n}", n % 10), format!("{n}\n")))
    };
    let roots = [
        common().file("a", "1\n").file("d/e/f", "2\n").symlink("l", "a"),
        common().executable("a", "1\n").file("d/e/g", "3\n").symlink("l", "d"),
        common().file("a/b/c", "4\n").file("d/e", "5\n").directory("l"),
        common().file("a", "6\n").directory("d/e").file("common/3/3", "other\n"),
        common().file("d/e/f", "2\n").symlink("common/4/x", "4"),
        ActionBuilder::sh(script).file("a", "1\n"),
    ];
    let mut together = Vec::new();
    for action in roots.clone() {
        let outcome = action.run(&client).await;
        outcome.success();
        together.push(outcome.stdout(&client).await);
    }
    for (action, seen) in roots.into_iter().zip(together) {
        let node = Node::start();
        let client = node.client().await;
        let outcome = action.run(&client).await;
        outcome.success();
        assert_eq!(outcome.stdout(&client).await, seen);
    }
}

#[tokio::test]
async fn empty_directories_and_depth() {
    let node = Node::start();
    let client = node.client().await;
    let deep = vec!["d"; 100].join("/");
    let action = ActionBuilder::sh("find . -type d | wc -l; find . -type f").directory("empty/inner");
    let outcome = action.file(&format!("{deep}/leaf"), "x").run(&client).await;
    outcome.success();
    assert_eq!(outcome.stdout(&client).await, format!("103\n./{deep}/leaf\n"));
}

#[tokio::test]
async fn a_hundred_thousand_files() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"shared content").await;
    let mut root = reapi::Directory::default();
    for directory in 0..100 {
        let files = (0..1000).map(|i| reapi::FileNode {
            name: format!("f{i:04}-{directory}"),
            digest: Some(digest.to_wire()),
            ..Default::default()
        });
        let directory_message = reapi::Directory { files: files.collect(), ..Default::default() };
        let child = client.put(&directory_message.encode_to_vec()).await;
        root.directories
            .push(reapi::DirectoryNode { name: format!("d{directory}"), digest: Some(child.to_wire()) });
    }
    let root = client.put(&root.encode_to_vec()).await;
    let outcome = ActionBuilder::sh("find . -type f | wc -l").input_root(root).run(&client).await;
    assert_eq!(outcome.stdout(&client).await, "100000\n");
}

#[tokio::test]
async fn an_action_cannot_change_the_inputs_of_another() {
    let node = Node::start();
    let client = node.client().await;
    let large = random_bytes(2, 200_000);
    let spoil =
        "for f in small large; do chmod u+w $f; echo spoilt >> $f; done; rm -f other; echo new > added; true";
    let with_inputs = |script: &str| {
        ActionBuilder::sh(script).file("small", "small").file("large", &large).file("other", "o")
    };
    let spoilt = with_inputs(&format!("{spoil}; cat small")).do_not_cache().run(&client).await;
    assert!(spoilt.stdout(&client).await.contains("spoilt"), "its own copy may be changed");
    let outcome = with_inputs("cat small; sha256sum large; ls").do_not_cache().run(&client).await;
    let stdout = outcome.stdout(&client).await;
    let expected = format!("small{}  large\nlarge\nother\nsmall\n", client.digest(&large).hash_hex());
    assert_eq!(stdout, expected);
    assert_eq!(client.read(&client.digest(&large)).await.unwrap(), large);
    assert_eq!(client.read(&client.digest(b"small")).await.unwrap(), b"small");
}

#[tokio::test]
async fn one_blob_executable_and_plain_at_once() {
    let node = Node::start();
    let client = node.client().await;
    for filler in [0, 100_000] {
        let script = format!("#!/bin/sh\necho ran\nexit 0\n{}", "#".repeat(filler));
        let both = ActionBuilder::sh("./x; test ! -x p && stat -c %a x p")
            .executable("x", &script)
            .file("p", &script);
        let outcome = both.run(&client).await;
        outcome.success();
        assert_eq!(outcome.stdout(&client).await, "ran\n555\n444\n");
        let plain = ActionBuilder::sh("stat -c %a only").file("only", &script).run(&client).await;
        assert_eq!(plain.stdout(&client).await, "444\n");
        let executable = ActionBuilder::sh("stat -c %a only").executable("only", &script).run(&client).await;
        assert_eq!(executable.stdout(&client).await, "555\n");
    }
}

#[tokio::test]
async fn directories_are_writable_and_files_are_not() {
    let node = Node::start();
    let client = node.client().await;
    let script = "touch beside d/beside && mkdir d/new && ! { echo x > d/in; } 2>/dev/null";
    ActionBuilder::sh(script).file("d/in", "i").run(&client).await.success();
}

#[tokio::test]
async fn every_run_starts_fresh() {
    let node = Node::start();
    let client = node.client().await;
    let litter = "echo > left; echo > /tmp/left; echo > ${TMPDIR:-/tmp}/left2; echo > ${HOME:-/tmp}/left3; \
                  echo > /dev/shm/left; true";
    ActionBuilder::sh(litter).file("in", "x").do_not_cache().run(&client).await.success();
    let look = "ls -A . /tmp ${TMPDIR:-/tmp} ${HOME:-/tmp} /dev/shm | grep left; true";
    let outcome = ActionBuilder::sh(look).file("in", "x").do_not_cache().run(&client).await;
    outcome.success();
    assert_eq!(outcome.stdout(&client).await, "");
}

#[tokio::test]
async fn times_and_owners_are_stable_and_odd_names_survive() {
    let node = Node::start();
    let client = node.client().await;
    let long = "n".repeat(255);
    let names = ["with space", "ümläut", "new\nline", "-dash", "quote'\"", &long];
    let mut action = ActionBuilder::sh("stat -c '%Y %u:%g' -- *; ls -1 | wc -l").env("LC_ALL", "C");
    for name in names {
        action = action.file(name, name);
    }
    let outcome = action.run(&client).await;
    outcome.success();
    let stdout = outcome.stdout(&client).await;
    let mut lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.pop(), Some("7"), "six names, one with a newline");
    lines.dedup();
    assert_eq!(lines.len(), 1, "one time and one owner: {lines:?}");
    let again = action.salt("again").run(&client).await;
    assert_eq!(again.stdout(&client).await, stdout);
}

#[tokio::test]
async fn node_properties_of_inputs_are_honoured() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"x").await;
    let properties = reapi::NodeProperties {
        mtime: Some(protobuf::Timestamp { seconds: 1_234_567_890, nanos: 0 }),
        unix_mode: Some(protobuf::UInt32Value { value: 0o750 }),
        ..Default::default()
    };
    let file = reapi::FileNode {
        name: "f".into(),
        digest: Some(digest.to_wire()),
        node_properties: Some(properties),
        ..Default::default()
    };
    let root = reapi::Directory { files: vec![file], ..Default::default() };
    let root = client.put(&root.encode_to_vec()).await;
    let outcome = ActionBuilder::sh("stat -c '%Y %a' f").input_root(root).run(&client).await;
    assert_eq!(outcome.stdout(&client).await, "1234567890 750\n");
}

/// What a command sees from inside a root of its own; needs nothing of the host.
const LOOK_AROUND: &str = r#"
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int main(void) {
    char text[4096];
    DIR *root = opendir("/");
    for (struct dirent *entry; root && (entry = readdir(root));) puts(entry->d_name);
    ssize_t length = readlink("/link", text, sizeof text - 1);
    if (length < 0) return 2;
    text[length] = 0;
    puts(text);
    puts(getcwd(text, sizeof text));
    mkdir("/install", 0755);
    FILE *out = fopen("/install/out", "w");
    if (!out || fputs("made\n", out) < 0 || fclose(out)) return 3;
    return access("/usr", F_OK) == 0 ? 4 : 0;
}
"#;

/// Compiles a C program that needs no libraries where it runs.
fn static_program(source: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let (code, program) = (directory.path().join("program.c"), directory.path().join("program"));
    std::fs::write(&code, source).unwrap();
    let compiled = Command::new("cc").arg("-static").arg("-o").arg(&program).arg(&code).status().unwrap();
    assert!(compiled.success());
    std::fs::read(program).unwrap()
}

#[tokio::test]
async fn the_input_root_can_be_the_whole_file_system() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::new(&["look"])
        .env("PATH", "/tools")
        .executable("tools/look", static_program(LOOK_AROUND))
        .symlink("link", "/absolute/target")
        .working_directory("a/b")
        .outputs(&["../../install"])
        .property("input-root", "/");
    let outcome = action.run(&client).await;
    outcome.success();
    let stdout = outcome.stdout(&client).await;
    for line in ["tools", "link", "/absolute/target", "/a/b"] {
        assert!(stdout.lines().any(|l| l == line), "{line} in {stdout}");
    }
    assert_eq!(outcome.result().output_directories[0].path, "../../install");
}

/// Nothing says so but the root itself, which brings a shell of its own.
#[tokio::test]
async fn a_root_with_a_shell_is_the_whole_file_system_unless_it_says_no() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::new(&["sh"])
        .env("PATH", "/bin")
        .executable("bin/sh", static_program(LOOK_AROUND))
        .symlink("link", "x")
        .outputs(&["install/out"]);
    assert_eq!(action.run(&client).await.output(&client, "install/out").await, b"made\n");
    let mut on_the_host = ActionBuilder::sh("test -e /usr").executable("bin/sh", "not used");
    on_the_host = on_the_host.property("input-root", "host");
    on_the_host.run(&client).await.success();
}

/// BuildStream says so by its name only.
#[tokio::test]
async fn buildstream_gets_its_root_without_asking() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::new(&["look"])
        .env("PATH", "/tools")
        .executable("tools/look", static_program(LOOK_AROUND))
        .symlink("link", "x")
        .outputs(&["install/out"]);
    let digest = action.upload(&client).await;
    let mut request = tonic::Request::new(action.execute_request(&client, &digest));
    let tool = reapi::ToolDetails { tool_name: "buildstream".into(), tool_version: "2.8.1".into() };
    let metadata = reapi::RequestMetadata { tool_details: Some(tool), ..Default::default() };
    crate::request_metadata::attach(&mut request, &metadata);
    let stream = client.execution().execute(request).await.unwrap().into_inner();
    let outcome = crate::support::action::finish(stream, digest).await.unwrap();
    assert_eq!(outcome.output(&client, "install/out").await, b"made\n");
}

#[tokio::test]
async fn the_place_of_the_input_root_is_fixed_and_can_be_chosen() {
    let node = Node::start();
    let client = node.client().await;
    let first = ActionBuilder::sh("pwd").salt("1").run(&client).await.stdout(&client).await;
    let second = ActionBuilder::sh("pwd").salt("2").run(&client).await.stdout(&client).await;
    assert_eq!(first, second);
    let chosen = ActionBuilder::sh("pwd").property("InputRootAbsolutePath", "/b/f/w").run(&client).await;
    assert_eq!(chosen.stdout(&client).await, "/b/f/w\n");
}
