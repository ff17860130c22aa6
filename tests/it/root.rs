//! ROOT: the input root as the whole file system of an action, to the letter of what BuildStream needs.
//!
//! The root is made of a static busybox, where this machine has one (`apt-get install busybox-static`); those
//! tests say so and pass elsewhere.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use farmhand::digest::Digest;
use farmhand::tasks::Tasks;
use farmhand_proto::reapi::command::OutputDirectoryFormat;
use farmhand_proto::{protobuf, reapi};
use prost::Message;
use tonic::Code;

use crate::links::{Keys, desk_of};
use crate::support::{ActionBuilder, Client, Node, Outcome};

/// Programs that the root has.
const APPLETS: [&str; 14] = [
    "sh", "cat", "chmod", "echo", "env", "id", "ln", "ls", "mkdir", "pwd", "readlink", "rm", "stat", "touch",
];

/// Takes one connection on a port of this machine and leads it to a Unix socket, until either side is done.
const RELAY: &str = r#"
#include <arpa/inet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int door = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in port = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2])),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(door, (void *)&port, sizeof port) || listen(door, 1)) return 3;
    int ends[2] = {accept(door, 0, 0), socket(AF_UNIX, SOCK_STREAM, 0)};
    struct sockaddr_un inner = {.sun_family = AF_UNIX};
    strncpy(inner.sun_path, argv[1], sizeof inner.sun_path - 1);
    if (connect(ends[1], (void *)&inner, sizeof inner)) return 4;
    struct pollfd polled[2] = {{ends[0], POLLIN}, {ends[1], POLLIN}};
    for (;;) {
        if (poll(polled, 2, -1) < 0) return 5;
        for (int i = 0; i < 2; i++) {
            static char bytes[65536];
            if (!polled[i].revents) continue;
            ssize_t got = read(ends[i], bytes, sizeof bytes);
            if (got <= 0) return 0;
            for (ssize_t sent = 0; sent < got;) {
                ssize_t more = write(ends[1 - i], bytes + sent, got - sent);
                if (more <= 0) return 0;
                sent += more;
            }
        }
    }
}
"#;

/// A busybox that needs no libraries.
fn busybox() -> Option<Vec<u8>> {
    let found = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"].iter().find_map(|path| {
        let program = std::fs::read(path).ok()?;
        let is_dynamic =
            program.windows(11).any(|window| window == b"/ld-linux-x" || window == b"/ld-linux-a");
        (!is_dynamic).then_some(program)
    });
    if found.is_none() {
        eprintln!("skipped: there is no static busybox here (apt-get install busybox-static)");
    }
    found
}

/// Whether node and kernel can do this at all.
async fn is_sandboxed(client: &Client) -> bool {
    let probe = ActionBuilder::sh("true").property("network", "off").do_not_cache();
    let fits = probe.try_run(client).await.is_ok_and(|outcome| outcome.code() == 0);
    if !fits {
        eprintln!("skipped: the kernel allows no sandbox here (farmhand doctor)");
    }
    fits
}

/// An action as BuildStream sends them: a script for the `sh` of the root, which is found by `PATH`.
fn script(busybox: &[u8], script: &str) -> ActionBuilder {
    let action = ActionBuilder::new(&["sh", "-c", "-e", script]);
    let action = action.executable("bin/busybox", busybox);
    APPLETS.iter().fold(action, |action, name| action.symlink(&format!("bin/{name}"), "busybox"))
}

/// Marks a Directory as read-only or writable, with all that is below.
fn marked(read_only: bool, mut directory: reapi::Directory) -> reapi::Directory {
    let value = if read_only { "true" } else { "false" };
    let property = reapi::NodeProperty { name: "SubtreeReadOnly".into(), value: value.into() };
    directory.node_properties =
        Some(reapi::NodeProperties { properties: vec![property], ..Default::default() });
    directory
}

async fn child(client: &Client, name: &str, directory: &reapi::Directory) -> reapi::DirectoryNode {
    let digest = client.put(&directory.encode_to_vec()).await;
    reapi::DirectoryNode { name: name.into(), digest: Some(digest.to_wire()) }
}

/// The Directory of `/bin`, uploaded.
async fn bin(client: &Client, busybox: &[u8]) -> reapi::Directory {
    let digest = client.put(busybox).await;
    let program = reapi::FileNode {
        name: "busybox".into(),
        digest: Some(digest.to_wire()),
        is_executable: true,
        ..Default::default()
    };
    let link = |name: &&str| reapi::SymlinkNode {
        name: (*name).into(),
        target: "/bin/busybox".into(),
        ..Default::default()
    };
    reapi::Directory {
        files: vec![program],
        symlinks: APPLETS.iter().map(link).collect(),
        ..Default::default()
    }
}

fn digest_of(client: &Client, wire: Option<&reapi::Digest>) -> Digest {
    Digest::from_field(client.function, wire).unwrap()
}

#[tokio::test]
async fn links_of_all_kinds_lead_where_they_would_in_a_root_of_its_own() {
    let node = Node::start();
    let client = node.client().await;
    let Some(busybox) = busybox() else { return };
    if !is_sandboxed(&client).await {
        return;
    }
    let look = "cat /etc/absolute; cat /deep/escaping; readlink /etc/absolute; cd /d; cat ../etc/absolute; \
                test ! -e /etc/passwd; test ! -e /usr; echo made > /d/new; cat /real/new";
    let action = script(&busybox, look)
        .file("data/file", "seen\n")
        .symlink("etc/absolute", "/data/file")
        .symlink("deep/escaping", "../../../../../data/file")
        .symlink("d", "/real")
        .directory("real")
        .outputs(&["real/new", "d/new"]);
    let outcome = action.run(&client).await;
    outcome.success();
    let expected = "seen\nseen\n/data/file\nseen\nmade\n";
    assert_eq!(outcome.stdout(&client).await, expected, "{}", outcome.stderr(&client).await);
    assert_eq!(outcome.output(&client, "d/new").await, b"made\n");
}

/// As an element with a read-only root is built: all of it but where it builds and installs.
#[tokio::test]
async fn read_only_subtrees_hold_up_to_the_root_and_stay_bit_exact() {
    let node = Node::start();
    let client = node.client().await;
    let Some(busybox) = busybox() else { return };
    if !is_sandboxed(&client).await {
        return;
    }
    let inner = marked(true, reapi::Directory::default());
    let build =
        reapi::Directory { directories: vec![child(&client, "fixed", &inner).await], ..Default::default() };
    let root = reapi::Directory {
        directories: vec![
            child(&client, "bin", &bin(&client, &busybox).await).await,
            child(&client, "build", &marked(false, build)).await,
            child(&client, "install", &marked(false, reapi::Directory::default())).await,
            child(&client, "lib", &reapi::Directory::default()).await,
        ],
        ..Default::default()
    };
    let root = marked(true, root);
    let root_digest = client.put(&root.encode_to_vec()).await;
    let tries = "for place in / /lib /bin /build/fixed /build /install /tmp; do \
                 if touch $place/new 2>/dev/null; then echo $place yes; else echo $place no; fi; done; \
                 mkdir -p /install/usr; echo x > /install/usr/x; rm -f /build/new /install/new";
    let mut action = ActionBuilder::new(&["sh", "-c", "-e", tries])
        .input_root(root_digest)
        .working_directory("build")
        .outputs(&[".", "../install"]);
    action.command.output_directory_format = OutputDirectoryFormat::DirectoryOnly as i32;
    let outcome = action.run(&client).await;
    outcome.success();
    let expected = "/ no\n/lib no\n/bin no\n/build/fixed no\n/build yes\n/install yes\n/tmp yes\n";
    assert_eq!(outcome.stdout(&client).await, expected, "{}", outcome.stderr(&client).await);
    let result = outcome.result();
    assert!(result.output_files.is_empty(), "BuildStream takes any file for an error: {result:?}");
    let directories = &result.output_directories;
    let paths: Vec<_> = directories.iter().map(|directory| directory.path.as_str()).collect();
    assert_eq!(paths, [".", "../install"]);
    let installed = digest_of(&client, directories[1].root_directory_digest.as_ref());
    let installed = reapi::Directory::decode(client.read(&installed).await.unwrap().as_slice()).unwrap();
    assert_eq!(installed.directories[0].name, "usr");
    // What was sent is what is stored.
    assert_eq!(client.read(&root_digest).await.unwrap(), root.encode_to_vec());
}

#[tokio::test]
async fn ids_modes_and_times_are_those_that_were_asked_for() {
    let node = Node::start();
    let client = node.client().await;
    let Some(busybox) = busybox() else { return };
    if !is_sandboxed(&client).await {
        return;
    }
    let properties = |mode: u32| reapi::NodeProperties {
        mtime: Some(protobuf::Timestamp { seconds: 1_320_937_200, nanos: 0 }),
        unix_mode: Some(protobuf::UInt32Value { value: mode }),
        ..Default::default()
    };
    let file = reapi::FileNode {
        name: "f".into(),
        digest: Some(client.put(b"f").await.to_wire()),
        node_properties: Some(properties(0o640)),
        ..Default::default()
    };
    let source = reapi::Directory {
        files: vec![file],
        node_properties: Some(properties(0o750)),
        ..Default::default()
    };
    let root = reapi::Directory {
        directories: vec![
            child(&client, "bin", &bin(&client, &busybox).await).await,
            child(&client, "src", &source).await,
        ],
        ..Default::default()
    };
    let root = client.put(&root.encode_to_vec()).await;
    let look = "id -u; id -g; stat -c '%a %Y' /src /src/f; touch -d @1000000000 /out; chmod 600 /out";
    let mut action = ActionBuilder::new(&["sh", "-c", "-e", look]).input_root(root).outputs(&["out"]);
    action.command.output_node_properties = vec!["mtime".into(), "unix_mode".into()];
    for (name, value) in [("unixUID", "1234"), ("unixGID", "5"), ("OSFamily", "linux")] {
        action = action.property(name, value);
    }
    let outcome = action.run(&client).await;
    outcome.success();
    let expected = "1234\n5\n750 1320937200\n640 1320937200\n";
    assert_eq!(outcome.stdout(&client).await, expected, "{}", outcome.stderr(&client).await);
    let made = outcome.result().output_files[0].node_properties.clone().unwrap();
    assert_eq!(made.mtime.unwrap().seconds, 1_000_000_000);
    assert_eq!(made.unix_mode.unwrap().value & 0o777, 0o600);
    // Root, where nobody says who.
    let usual = script(&busybox, "id -u; id -g").run(&client).await;
    assert_eq!(usual.stdout(&client).await, "0\n0\n");
}

/// Its own root, also where the machine that runs it never spoke with the client.
#[tokio::test]
async fn another_machine_of_the_farm_gives_it_the_same_root() {
    let Some(busybox) = busybox() else { return };
    let keys = Keys::new();
    let host = keys.node("host", &["--slots", "2"]).start();
    let desk = desk_of(&host, &keys).await;
    let client = desk.client().await;
    if !is_sandboxed(&client).await {
        return;
    }
    let action = script(&busybox, "test ! -e /usr; id -u; pwd; echo made > /install/out")
        .directory("install")
        .working_directory("buildstream/project/element")
        .property("unixUID", "7")
        .outputs(&["../../../install"]);
    let outcome = action.run(&client).await;
    outcome.success();
    assert_eq!(outcome.result().execution_metadata.as_ref().unwrap().worker, "host");
    let stdout = outcome.stdout(&client).await;
    assert_eq!(stdout, "7\n/buildstream/project/element\n", "{}", outcome.stderr(&client).await);
    assert_eq!(outcome.result().output_directories[0].path, "../../../install");
}

/// An instance that says so needs no shell in the root, and no word of the client.
#[tokio::test]
async fn an_instance_may_say_that_roots_are_file_systems() {
    let node = Node::builder().config("[instances.roots]\ninput-root = \"/\"\n[instances.plain]").start();
    let client = node.client_of("roots").await;
    if !is_sandboxed(&node.client_of("plain").await).await {
        return;
    }
    let look = static_program(
        r#"#include <unistd.h>
           int main(void) { return access("/only", F_OK) || access("/usr", F_OK) == 0; }"#,
    );
    let action = ActionBuilder::new(&["/look"]).executable("look", &look).file("only", "");
    action.run(&client).await.success();
    let plain = node.client_of("plain").await;
    let beside = ActionBuilder::sh("test -e /usr && test ! -e /only").file("only", "");
    beside.run(&plain).await.success();
}

/// Compiles a C program that needs no libraries where it runs.
fn static_program(source: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let (code, program) = (directory.path().join("program.c"), directory.path().join("program"));
    std::fs::write(&code, source).unwrap();
    let compiled = Command::new("cc").arg("-static").arg("-o").arg(&program).arg(&code).status().unwrap();
    assert!(compiled.success());
    std::fs::read(program).unwrap()
}

/// A port that nobody has right now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An action that leads a port of this machine to its socket.
fn relay(program: &[u8], socket: &str, port: u16) -> ActionBuilder {
    ActionBuilder::new(&["/relay", &format!("/{socket}"), &port.to_string()])
        .executable("relay", program)
        .property("input-root", "/")
        .property("network", "on")
        .property("remoteApisSocketPath", socket)
}

/// A client of what the relay leads to, once it is there.
async fn through(port: u16) -> Client {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for _ in 0..500 {
        // Only one connection is taken: the one that counts.
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        if let Ok(channel) = endpoint.connect().await {
            return Client::over(channel, "");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the relay does not come up");
}

/// Starts an action that is a relay; a client behind it.
async fn nested(
    client: &Client,
    action: ActionBuilder,
    port: u16,
) -> (Client, tokio::task::JoinHandle<Outcome>) {
    let outer = client.clone();
    let run = Tasks::default().spawn("outer", async move { action.run(&outer).await });
    (through(port).await, run)
}

/// The one slot of the machine is that of the action which waits for the others.
#[tokio::test]
async fn what_runs_in_an_action_has_actions_of_its_own_run() {
    let node = Node::builder().arguments(&["--slots", "1"]).start();
    let client = node.client().await;
    if !is_sandboxed(&client).await {
        return;
    }
    let program = static_program(RELAY);
    for (round, socket) in ["run/casd.sock", "tmp/casd.sock"].into_iter().enumerate() {
        let port = free_port();
        let action = relay(&program, socket, port).outputs(&["."]).do_not_cache();
        let (inner, run) = nested(&client, action, port).await;
        let capabilities = inner.get_capabilities().await.unwrap();
        assert!(capabilities.execution_capabilities.unwrap().exec_enabled);
        for number in 0..3 {
            let action = ActionBuilder::sh("echo inner").salt(&format!("{round} {number}"));
            let outcome = action.run(&inner).await;
            outcome.success();
            assert_eq!(outcome.stdout(&inner).await, "inner\n");
        }
        let digest = inner.digest(b"an action");
        let result = reapi::ActionResult { exit_code: 0, stdout_raw: b"kept".to_vec(), ..Default::default() };
        inner.update_action_result(&digest, result).await.unwrap();
        assert!(client.action_result(&digest).await.is_some(), "both are the same machine");
        drop(inner);
        let outcome = run.await.unwrap();
        outcome.success();
        // Neither the socket nor its directory is an output.
        let directory = &outcome.result().output_directories[0];
        let tree = client.read(&digest_of(&client, directory.tree_digest.as_ref())).await.unwrap();
        let root = reapi::Tree::decode(tree.as_slice()).unwrap().root.unwrap();
        let files: Vec<_> = root.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!((files, root.directories), (vec!["relay"], vec![]), "{socket}");
    }
    // The slot is there again, and there is one of it.
    ActionBuilder::sh("true").do_not_cache().run(&client).await.success();
}

#[tokio::test]
async fn the_place_of_a_socket_may_be_an_input_and_must_not_be_taken() {
    let node = Node::start();
    let client = node.client().await;
    if !is_sandboxed(&client).await {
        return;
    }
    let program = static_program(RELAY);
    let port = free_port();
    // Behind a link, over a file that is there.
    let action = relay(&program, "var/run/s", port).symlink("var/run", "/run").file("run/s", "placeholder");
    let (inner, run) = nested(&client, action.do_not_cache(), port).await;
    inner.get_capabilities().await.unwrap();
    drop(inner);
    run.await.unwrap().success();
    for taken in [relay(&program, "d", port).directory("d"), relay(&program, "f/s", port).file("f", "")] {
        let outcome = taken.run(&client).await;
        assert_eq!(outcome.code(), Code::InvalidArgument as i32, "{:?}", outcome.response);
        let message = outcome.response.status.clone().unwrap().message;
        assert!(message.contains("remoteApisSocketPath"), "{message}");
    }
    // A socket beside the toolchain of the host is below the inputs.
    let beside = ActionBuilder::sh("test -S sub/s && test ! -e /sub/s && stat -c %a sub/s");
    let beside = beside.property("remoteApisSocketPath", "sub/s").run(&client).await;
    beside.success();
    assert_eq!(beside.stdout(&client).await, "600\n");
}

/// What runs for another machine may use this one, and not write results into it.
#[tokio::test]
async fn a_guest_may_not_write_results_through_its_socket() {
    let keys = Keys::new();
    let host = keys.node("host", &["--slots", "1"]).start();
    let desk = desk_of(&host, &keys).await;
    let client = desk.client().await;
    if !is_sandboxed(&client).await {
        return;
    }
    let port = free_port();
    let program = static_program(RELAY);
    let (inner, run) = nested(&client, relay(&program, "s", port).do_not_cache(), port).await;
    let outcome = ActionBuilder::sh("echo inner").run(&inner).await;
    outcome.success();
    assert_eq!(outcome.result().execution_metadata.as_ref().unwrap().worker, "host");
    let refused = inner.update_action_result(&inner.digest(b"x"), reapi::ActionResult::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let further = ActionBuilder::sh("true").property("remoteApisSocketPath", "s").try_run(&inner).await;
    let words = match further {
        Err(status) => status.message().to_owned(),
        Ok(outcome) => outcome.response.status.unwrap_or_default().message,
    };
    assert!(words.contains("remoteApisSocketPath"), "{words}");
    drop(inner);
    let outcome = run.await.unwrap();
    outcome.success();
    assert_eq!(outcome.result().execution_metadata.as_ref().unwrap().worker, "host");
}
