//! Platform properties as a client meets them: matched, honoured, or refused by name.

use tonic::Code;

use crate::running::{eventually, is_running};
use crate::support::{ActionBuilder, Client, Node};

/// What becomes of an action with these properties: the code, and the words.
async fn fate(client: &Client, properties: &[(&str, &str)]) -> (Code, String) {
    let action = ActionBuilder::sh("true").salt(&format!("{properties:?}"));
    let action = properties.iter().fold(action, |action, (name, value)| action.property(name, value));
    match action.try_run(client).await {
        Err(status) => (status.code(), status.message().to_owned()),
        Ok(outcome) => {
            let status = outcome.response.status.clone().unwrap_or_default();
            (Code::from(status.code), status.message)
        }
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_by_name_with_the_reason() {
    let node = Node::start();
    let client = node.client().await;
    let unpinned = ("container-image", "docker://gcc:13");
    let properties = [
        ("dockerPrivileged", "true"),
        ("dockerRuntime", "runsc"),
        ("dockerSiblingContainers", "True"),
        ("dockerAddCapabilities", "SYS_PTRACE"),
        ("workload-isolation-type", "firecracker"),
        ("include-secrets", "true"),
        ("chrootRootDigest", "abc/12"),
        ("label:action_large", "1"),
        ("resources:gpu", "1"),
        ("gceMachineType", "n1-standard-8"),
        ("cpu_count", "100000"),
        ("memory_kb", "1000000000000"),
        ("requires-darwin", ""),
        ("nothing-we-know", "x"),
        unpinned,
    ];
    for (name, value) in properties {
        let (code, message) = fate(&client, &[(name, value)]).await;
        assert_eq!(code, Code::FailedPrecondition, "{name}={value}: {message}");
        let shown = match name {
            "cpu_count" => "resources:cpu",
            "memory_kb" => "resources:memory",
            "requires-darwin" => "OSFamily",
            name => name,
        };
        assert!(message.contains(shown), "{name}: {message}");
    }
    for (name, value) in [
        ("unixUID", "nobody"),
        ("network", "perhaps"),
        ("container-image", "docker://--privileged"),
        ("cpu_count", "many"),
        ("persistentWorkerProtocol", "smoke-signals"),
        ("remoteApisSocketPath", "../outside"),
    ] {
        let (code, message) = fate(&client, &[(name, value)]).await;
        assert_eq!(code, Code::InvalidArgument, "{name}={value}: {message}");
        assert!(message.contains(name), "{message}");
    }
}

#[tokio::test]
async fn what_clients_send_by_habit_does_no_harm() {
    let node = Node::start();
    let client = node.client().await;
    for (name, value) in [
        ("cache-silo", "x"),
        ("dockerReuse", "False"),
        ("dockerRuntime", "runc"),
        ("dockerPrivileged", "false"),
        ("container-image", "none"),
        ("recycle-runner", "true"),
        ("EstimatedComputeUnits", "0.5"),
        ("workload-isolation-type", "sandbox"),
        ("Pool", "default"),
        ("no-sandbox", ""),
        ("remoteApisSocketPath", ""),
    ] {
        let (code, message) = fate(&client, &[(name, value)]).await;
        assert_eq!(code, Code::Ok, "{name}={value}: {message}");
    }
}

#[tokio::test]
async fn names_of_different_clients_have_one_effect() {
    let node = Node::start();
    let client = node.client().await;
    let interfaces = "tail -n +3 /proc/net/dev | wc -l";
    let own = std::fs::read_to_string("/proc/net/dev").unwrap().lines().count() - 2;
    for (name, value, expected) in [
        ("network", "on", own),
        ("dockerNetwork", "standard", own),
        ("requires-network", "", own),
        ("block-network", "", 1),
        ("network", "off", 1),
    ] {
        let outcome = ActionBuilder::sh(interfaces).property(name, value).run(&client).await;
        assert_eq!(outcome.stdout(&client).await, format!("{expected}\n"), "{name}={value}");
    }
    for (name, value) in [("dockerRunAsRoot", "true"), ("requires-fakeroot", ""), ("dockerUser", "0:0")] {
        let outcome = ActionBuilder::sh("id -u; id -g").property(name, value).run(&client).await;
        assert_eq!(outcome.stdout(&client).await, "0\n0\n", "{name}={value}");
    }
}

#[tokio::test]
async fn labels_of_a_machine_meet_what_is_asked_for() {
    let labels = "[labels]\n\"label:action_large\" = \"1\"\ngpu = \"2\"\ngceMachineType = \"n1\"\n";
    let node = Node::builder().config("pools = [\"default\", \"big\"]").config(labels).start();
    let client = node.client().await;
    for (name, value) in [
        ("label:action_large", "1"),
        ("resources:gpu", "2"),
        ("gceMachineType", "n1"),
        ("Pool", "big"),
        ("choose-queue", "big"),
    ] {
        let (code, message) = fate(&client, &[(name, value)]).await;
        assert_eq!(code, Code::Ok, "{name}={value}: {message}");
    }
    for (name, value) in [("label:action_large", "2"), ("resources:gpu", "3"), ("Pool", "small")] {
        let (code, message) = fate(&client, &[(name, value)]).await;
        assert_eq!(code, Code::FailedPrecondition, "{name}={value}: {message}");
    }
}

/// Two actions that each want all of a machine are never there together, and neither is anything else.
#[tokio::test]
async fn who_asks_for_all_cores_has_them_alone() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let node = Node::builder().arguments(&["--slots", &cores.to_string()]).start();
    let client = node.client().await;
    let script = "date +%s%N; sleep 0.3; date +%s%N";
    let action = |number: usize| {
        let action = ActionBuilder::sh(script).do_not_cache().salt(&number.to_string());
        if number.is_multiple_of(2) { action.property("resources:cpu", &cores.to_string()) } else { action }
    };
    let mut running = Vec::new();
    for number in 0..6 {
        let action = action(number);
        let digest = action.upload(&client).await;
        running.push((number, digest, action.start(&client, &digest).await.unwrap()));
    }
    let mut spans = Vec::new();
    for (number, digest, stream) in running {
        let outcome = crate::support::action::finish(stream, digest).await.unwrap();
        outcome.success();
        let times = outcome.stdout(&client).await;
        let times: Vec<u128> = times.lines().map(|line| line.parse().unwrap()).collect();
        spans.push((number % 2 == 0, times[0], times[1]));
    }
    for (index, (_, from, to)) in spans.iter().enumerate().filter(|(_, span)| span.0) {
        let others = spans.iter().enumerate().filter(|(other, _)| *other != index);
        for (_, (_, other_from, other_to)) in others {
            assert!(other_to <= from || other_from >= to, "{spans:?}");
        }
    }
}

#[tokio::test]
async fn who_asks_for_memory_waits_for_it() {
    let node = Node::builder().config("action-memory = \"2GiB\"").arguments(&["--slots", "2"]).start();
    let client = node.client().await;
    let script = "date +%s%N; sleep 0.3; date +%s%N";
    let mut running = Vec::new();
    for number in 0..3 {
        let salt = number.to_string();
        let action =
            ActionBuilder::sh(script).do_not_cache().salt(&salt).property("resources:memory", "1500");
        let digest = action.upload(&client).await;
        running.push((digest, action.start(&client, &digest).await.unwrap()));
    }
    let mut spans: Vec<(u128, u128)> = Vec::new();
    for (digest, stream) in running {
        let outcome = crate::support::action::finish(stream, digest).await.unwrap();
        outcome.success();
        let times = outcome.stdout(&client).await;
        let mut times = times.lines().map(|line| line.parse().unwrap());
        spans.push((times.next().unwrap(), times.next().unwrap()));
    }
    spans.sort_unstable();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:?}");
}

/// A podman that keeps a diary and runs commands in the directory that it is told to mount.
const PODMAN: &str = r#"#!/bin/sh
state="$FAKE_PODMAN/state"
mkdir -p "$state"
echo "$*" >> "$state/diary"
verb=$1
shift
case "$verb" in
image) test -e "$state/pulled" ;;
pull)
    case "$*" in *absent*) echo "manifest unknown" >&2; exit 125 ;; esac
    touch "$state/pulled" ;;
run)
    test -e "$FAKE_PODMAN/broken" && { echo "no space for containers" >&2; exit 125; }
    name=$2
    while [ $# -gt 0 ]; do
        case "$1" in
        --volume) root=${2%%:*}; shift ;;
        --env) export "$2"; shift ;;
        --name | --label | --network | --workdir | --ulimit | --user) shift ;;
        -*) ;;
        *) break ;;
        esac
        shift
    done
    shift
    cd "$root"
    setsid "$@" &
    echo $! > "$state/$name.pid"
    wait $!
    code=$?
    echo $code > "$state/$name.code"
    exit $code ;;
kill) kill -9 "-$(cat "$state/$1.pid")" ;;
inspect) name=$3; echo "exited $(cat "$state/$name.code")" ;;
rm)
    pid=$(cat "$state/$2.pid" 2>/dev/null) && kill -9 "-$pid" 2>/dev/null
    rm -f "$state/$2".* ;;
ps) ls "$state" | sed -n 's/\.pid$//p' ;;
esac
"#;

/// A node that finds the podman above; its diary is in the directory.
fn node_with_podman(settings: &str) -> (Node, tempfile::TempDir) {
    use std::os::unix::fs::PermissionsExt;
    let tools = tempfile::tempdir().unwrap();
    let podman = tools.path().join("podman");
    std::fs::write(&podman, PODMAN).unwrap();
    std::fs::set_permissions(&podman, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", tools.path().display());
    let node = Node::builder()
        .config(settings)
        .environment("PATH", &path)
        .environment("FAKE_PODMAN", tools.path().to_str().unwrap())
        .start();
    (node, tools)
}

fn diary(tools: &tempfile::TempDir) -> Vec<String> {
    let diary = std::fs::read_to_string(tools.path().join("state/diary"));
    diary.unwrap_or_default().lines().map(str::to_owned).collect()
}

/// An image that is named so that it cannot change.
fn image(name: &str) -> String {
    format!("docker://{name}@sha256:{}", "5".repeat(64))
}

#[tokio::test]
async fn a_container_is_made_run_and_taken_away() {
    let (node, tools) = node_with_podman("");
    let client = node.client().await;
    let action =
        ActionBuilder::new(&["/bin/sh", "-c", "cat in; echo warned >&2; echo $MINE > sub/out; exit 3"])
            .file("in", "input\n")
            .env("MINE", "set")
            .outputs(&["sub/out"])
            .property("container-image", &image("gcc"));
    let outcome = action.run(&client).await;
    assert_eq!((outcome.code(), outcome.result().exit_code), (0, 3), "{:?}", outcome.response);
    assert_eq!(outcome.stdout(&client).await, "input\n");
    assert_eq!(outcome.stderr(&client).await, "warned\n");
    assert_eq!(outcome.output(&client, "sub/out").await, b"set\n");
    let calls = diary(&tools);
    let verbs: Vec<_> = calls.iter().map(|call| call.split(' ').next().unwrap()).collect();
    assert_eq!(verbs, ["image", "pull", "run", "inspect", "rm"], "{calls:?}");
    let run = &calls[2];
    for flag in [
        "--network none",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--pull=never",
        ":/build ",
        "--workdir /build",
        "--env MINE=set",
        &format!("gcc@sha256:{}", "5".repeat(64)),
    ] {
        assert!(run.contains(flag), "{flag} is not in {run}");
    }
    assert!(!run.contains("TMPDIR"), "{run}");
    // The image is there now, and the network can be had.
    let host =
        ActionBuilder::new(&["true"]).property("network", "on").property("container-image", &image("gcc"));
    host.run(&client).await.success();
    let calls = diary(&tools);
    assert_eq!(calls.iter().filter(|call| call.starts_with("pull")).count(), 1);
    assert!(calls.iter().any(|call| call.contains("--network host")), "{calls:?}");
}

#[tokio::test]
async fn a_container_is_killed_when_its_time_is_over_or_nobody_wants_it() {
    let (node, tools) = node_with_podman("");
    let client = node.client().await;
    let nap = "86420.5";
    let action = ActionBuilder::new(&["/bin/sh", "-c", &format!("echo begun; sleep {nap}; true")])
        .property("container-image", &image("gcc"));
    let outcome = action.clone().timeout_ms(700).run(&client).await;
    assert_eq!(outcome.code(), Code::DeadlineExceeded as i32);
    assert_eq!(outcome.stdout(&client).await, "begun\n");
    eventually("nothing is left", || !is_running(nap)).await;
    let digest = action.upload(&client).await;
    let mut stream = action.start(&client, &digest).await.unwrap();
    let name = stream.message().await.unwrap().unwrap().name;
    eventually("it runs", || is_running(nap)).await;
    let cancel = farmhand_proto::longrunning::CancelOperationRequest { name };
    client.operations().cancel_operation(cancel).await.unwrap();
    let outcome = crate::support::action::finish(stream, digest).await.unwrap();
    assert_eq!(outcome.code(), Code::Cancelled as i32);
    eventually("nothing is left", || !is_running(nap)).await;
    eventually("both are taken away", || {
        diary(&tools).iter().filter(|call| call.starts_with("rm")).count() == 2
    })
    .await;
}

#[tokio::test]
async fn what_a_killed_node_left_is_removed_by_the_next() {
    let (mut node, tools) = node_with_podman("");
    let client = node.client().await;
    let nap = "75319.5";
    let action = ActionBuilder::new(&["/bin/sleep", nap]).property("container-image", &image("gcc"));
    let digest = action.upload(&client).await;
    let stream = action.start(&client, &digest).await.unwrap();
    eventually("it runs", || is_running(nap)).await;
    drop(stream);
    node.kill();
    node.restart();
    eventually("it was removed", || diary(&tools).iter().any(|call| call.starts_with("rm --force"))).await;
    eventually("nothing is left", || !is_running(nap)).await;
}

#[tokio::test]
async fn an_image_that_cannot_be_had_and_a_tool_that_fails_are_told() {
    let (node, tools) = node_with_podman("");
    let client = node.client().await;
    let absent = image("absent");
    let (code, message) = fate(&client, &[("container-image", &absent)]).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("manifest unknown") && message.contains("absent"), "{message}");
    std::fs::write(tools.path().join("broken"), "").unwrap();
    let (code, message) = fate(&client, &[("container-image", &image("gcc"))]).await;
    assert_ne!(code, Code::Ok);
    assert!(message.contains("no space for containers"), "{message}");
}

#[tokio::test]
async fn without_a_tool_images_are_refused_with_the_remedy() {
    let (node, _tools) = node_with_podman("containers = \"off\"");
    let client = node.client().await;
    let gcc = image("gcc");
    let (code, message) = fate(&client, &[("container-image", &gcc)]).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("install podman"), "{message}");
    for (name, value) in [("input-root", "/"), ("unixUID", "5"), ("remoteApisSocketPath", "s")] {
        let (code, message) = fate(&client, &[("container-image", &gcc), (name, value)]).await;
        assert_eq!(code, Code::FailedPrecondition, "{name}: {message}");
    }
}

/// What the real podman says to an image made of a static busybox; `None`, with the reason, where it cannot.
fn real_image(home: &std::path::Path) -> Option<(String, Vec<(String, String)>)> {
    use std::process::Command;
    let skip = |why: &str| {
        eprintln!("skipped: {why}");
        None
    };
    let Some(busybox) =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| std::fs::exists(path).unwrap())
    else {
        return skip("there is no busybox here");
    };
    // Some machines let nobody raise limits, and have the old control groups, which runc gets along with.
    let mut settings = "[containers]\ndefault_ulimits = []\nlog_driver = \"k8s-file\"\n".to_owned();
    if let Some(runc) =
        ["/usr/sbin/runc", "/usr/bin/runc"].into_iter().find(|path| std::fs::exists(path).unwrap())
    {
        settings += &format!("[engine]\nruntime = \"runc\"\n[engine.runtimes]\nrunc = [\"{runc}\"]\n");
    }
    let config = home.join("containers.conf");
    std::fs::write(&config, settings).unwrap();
    let environment = vec![
        ("CONTAINERS_CONF".to_owned(), config.display().to_string()),
        ("XDG_DATA_HOME".to_owned(), home.join("share").display().to_string()),
    ];
    let podman = |arguments: &[&str]| {
        let envs = environment.iter().map(|(name, value)| (name, value));
        Command::new("podman")
            .args(arguments)
            .envs(envs)
            .output()
            .ok()
            .filter(|output| output.status.success())
    };
    let root = home.join("image");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "ls", "id", "sleep"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let tar = home.join("image.tar");
    let packed = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
    if !packed.is_ok_and(|status| status.success()) {
        return skip("tar does not pack");
    }
    let name = format!("localhost/farmhand-{}", std::process::id());
    if podman(&["import", tar.to_str().unwrap(), &name]).is_none() {
        return skip("podman imports no image here");
    }
    if podman(&["run", "--rm", "--network=none", &name, "/bin/sh", "-c", "true"]).is_none() {
        return skip("podman runs no container here");
    }
    let told = podman(&["image", "inspect", "--format", "{{.Digest}}", &name])?;
    let digest = String::from_utf8(told.stdout).unwrap();
    Some((format!("docker://{name}@{}", digest.trim()), environment))
}

#[tokio::test]
async fn a_real_podman_runs_an_action_in_its_image() {
    let home = tempfile::tempdir().unwrap();
    let Some((image, environment)) = real_image(home.path()) else { return };
    let node = environment.iter().fold(Node::builder(), |node, (name, value)| node.environment(name, value));
    let node = node.start();
    let client = node.client().await;
    let script = "cat in; pwd; ls /; echo made > out; exit 7";
    let action = ActionBuilder::new(&["/bin/sh", "-c", script]);
    let action = action.file("in", "input\n").outputs(&["out"]).property("container-image", &image);
    let outcome = action.run(&client).await;
    assert_eq!((outcome.code(), outcome.result().exit_code), (0, 7), "{:?}", outcome.response);
    let stdout = outcome.stdout(&client).await;
    assert!(stdout.starts_with("input\n/build\n") && !stdout.contains("usr"), "{stdout}");
    assert_eq!(outcome.output(&client, "out").await, b"made\n");
    let nap = "64209.5";
    let long = ActionBuilder::new(&["/bin/sleep", nap]).timeout_ms(1500).property("container-image", &image);
    assert_eq!(long.run(&client).await.code(), Code::DeadlineExceeded as i32);
    eventually("nothing is left", || !is_running(nap)).await;
    let absent =
        ActionBuilder::new(&["/no/such/program"]).property("container-image", &image).run(&client).await;
    assert_eq!(absent.code(), Code::InvalidArgument as i32, "{:?}", absent.response);
    let named = image.split_once("://").unwrap().1;
    let remove =
        std::process::Command::new("podman").args(["rmi", "--force", named]).envs(environment).output();
    drop(remove);
}
