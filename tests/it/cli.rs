//! The command line as scripts and people meet it: the ready line, exit codes, one-line errors with
//! a remedy, help with examples, and the commands that talk to a running node.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::support::node::BINARY;
use super::support::{ActionBuilder, Node};

/// Runs the binary away from the settings of whoever runs the tests.
pub(crate) fn farmhand(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FARMHAND_")) {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_RUNTIME_DIR", home)
        .output()
        .unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The command failed as a person should see it: code 1, one error line, one hint line, no more.
#[track_caller]
pub(crate) fn assert_refused(output: &Output, error: &str, hint: &str) {
    let log = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert_eq!(stdout(output), "");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].starts_with("error: ") && lines[0].contains(error), "{log}");
    assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{log}");
}

pub(crate) fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

// === without a node ===

#[test]
fn every_command_has_help_with_an_example() {
    let home = tempfile::tempdir().unwrap();
    let overview = stdout(&farmhand(home.path(), &["--help"]));
    let commands = [
        "serve",
        "status",
        "top",
        "demo",
        "machines",
        "pause",
        "drain",
        "resume",
        "slots",
        "invite",
        "join",
        "key",
        "actions",
        "action",
        "logs",
        "settings",
        "client",
        "doctor",
        "bench",
        "completions",
        "man",
    ];
    for command in commands {
        assert!(overview.contains(&format!("\n  {command} ")), "{command} is not in {overview}");
        let help = farmhand(home.path(), &[command, "--help"]);
        assert!(help.status.success());
        assert!(stdout(&help).contains("\n  farmhand "), "{command}: {}", stdout(&help));
        assert_eq!(stderr(&help), "");
    }
}

#[test]
fn the_flags_of_the_contract_are_there() {
    let home = tempfile::tempdir().unwrap();
    let help = stdout(&farmhand(home.path(), &["serve", "--help"]));
    for flag in [
        "--name",
        "--listen",
        "--peer-listen",
        "--data-dir",
        "--runtime-dir",
        "--slots",
        "--disk-budget",
        "--no-discovery",
        "--peer",
        "--farm-key-file",
        "--config",
    ] {
        assert!(help.contains(flag), "{flag} is not in {help}");
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [
        &["nonsense"][..],
        &["serve", "--nonsense"],
        &["serve", "--slots", "many"],
        &["serve", "--disk-budget", "20XB"],
        &["client", "make"],
        &["action"],
        &["top", "--once", "--json"],
        &["top", "--view", "nonsense"],
        &["demo", "nonsense"],
    ] {
        let output = farmhand(home.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).starts_with("error: "), "{}", stderr(&output));
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let home = tempfile::tempdir().unwrap();
    let version = stdout(&farmhand(home.path(), &["--version"]));
    assert_eq!(version, format!("farmhand {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn without_a_node_the_remedy_is_named() {
    let home = tempfile::tempdir().unwrap();
    let digest = format!("{}/1", "ab".repeat(32));
    for arguments in [&["status"][..], &["status", "--json"], &["actions"], &["action", &digest, "show"]] {
        assert_refused(&farmhand(home.path(), arguments), "no node is running", "farmhand serve");
    }
}

#[test]
fn a_bad_setting_is_told_with_its_place() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("farmhand.toml");
    std::fs::write(&config, "# settings\nslots = 2\nlease = \"soon\"\n").unwrap();
    let serve = |arguments: &[&str]| {
        let common = ["serve", "--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()];
        farmhand(home.path(), &[&common, arguments].concat())
    };
    assert_refused(&serve(&[]), "farmhand.toml:3: lease: \"soon\" is not a duration", "serve --help");
    std::fs::write(&config, "").unwrap();
    assert_refused(&serve(&["--slots", "0"]), "slots: 0 is too small", "1 is the least");
    assert_refused(&serve(&["--log-filter", "a=loud"]), "log-filter: \"a=loud\"", "info");
    assert_refused(&serve(&["--config", "/nowhere/f.toml"]), "cannot read /nowhere/f.toml", "--config");
}

/// What `farmhand client` knows.
const CLIENTS: [&str; 13] = [
    "bazel",
    "buck2",
    "buildstream",
    "pants",
    "recc",
    "justbuild",
    "ccache",
    "please",
    "reclient",
    "siso",
    "goma",
    "bgd",
    "buildbox-casd",
];

#[test]
fn the_settings_of_every_client_name_the_address() {
    let home = tempfile::tempdir().unwrap();
    for tool in CLIENTS {
        let output = farmhand(home.path(), &["client", tool, "--listen", "127.0.0.1:7"]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stdout(&output).contains("127.0.0.1:7"), "{}", stdout(&output));
        let told = json(&farmhand(home.path(), &["client", tool, "--listen", "127.0.0.1:7", "--json"]));
        assert_eq!(told["settings"], stdout(&output));
        assert_eq!((&told["tool"], &told["address"]), (&tool.into(), &"127.0.0.1:7".into()));
    }
}

#[test]
fn a_client_that_knows_no_unix_socket_is_not_given_one() {
    let home = tempfile::tempdir().unwrap();
    let output = farmhand(home.path(), &["client", "bazel", "--socket"]);
    let socket = home.path().join("farmhand/reapi.sock");
    assert!(stdout(&output).contains(&format!("--remote_proxy=unix:{}\n", socket.display())));
    let refused = farmhand(home.path(), &["client", "recc", "--socket"]);
    assert_refused(&refused, "recc cannot use the Unix socket", "127.0.0.1:8980");
}

#[test]
fn the_settings_of_a_client_name_the_address_of_the_configuration_file() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("farmhand.toml");
    std::fs::write(&config, "listen = \"0.0.0.0:7\"\n").unwrap();
    let output = farmhand(home.path(), &["client", "bazel", "--config", config.to_str().unwrap()]);
    assert!(stdout(&output).contains("--remote_executor=grpc://127.0.0.1:7\n"), "{}", stdout(&output));
}

#[test]
fn completions_and_pages_are_printed() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&farmhand(home.path(), &["completions", shell])).contains("disk-budget"));
    }
    assert!(stdout(&farmhand(home.path(), &["man"])).starts_with(".ie"));
    assert!(stdout(&farmhand(home.path(), &["man", "serve"])).contains("disk\\-budget"));
    let page = stdout(&farmhand(home.path(), &["man", "action"]));
    assert!(page.contains("farmhand\\-action\\-fetch(1)") && !page.contains("\\-help(1)"), "{page}");
    assert!(stdout(&farmhand(home.path(), &["man", "action", "fetch"])).contains("outputs"));
    assert_refused(&farmhand(home.path(), &["man", "nonsense"]), "no command", "--help");
}

#[test]
fn the_doctor_names_what_it_checked() {
    let home = tempfile::tempdir().unwrap();
    let output = farmhand(home.path(), &["doctor", "--json", "--listen", "127.0.0.1:0"]);
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = checks.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    for name in
        ["namespaces", "overlay", "reflinks", "cgroups", "disk", "descriptors", "clock", "port", "data-dir"]
    {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let failed = checks.as_array().unwrap().iter().any(|check| check["state"] == "failed");
    assert_eq!(output.status.code(), Some(i32::from(failed)));
}

#[test]
fn the_doctor_knows_every_setting_of_the_node() {
    let home = tempfile::tempdir().unwrap();
    let output = farmhand(home.path(), &["doctor", "--slots", "0"]);
    assert_refused(&output, "slots: 0 is too small", "1 is the least");
    let help = stdout(&farmhand(home.path(), &["doctor", "--help"]));
    assert!(help.contains("--sandbox") && !help.contains("--slots"), "{help}");
}

#[test]
fn a_bench_that_is_not_there_is_told() {
    let home = tempfile::tempdir().unwrap();
    assert_refused(&farmhand(home.path(), &["bench", "nonsense"]), "no benchmark", "stream-read");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = tempfile::tempdir().unwrap();
    let line = format!("{BINARY} completions bash | head -c 1");
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &line]).env("HOME", home.path()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

// === with a node ===

#[test]
fn the_ready_line_is_the_contract() {
    let node = Node::start();
    let control = node.runtime_dir().join("control.sock");
    let (reapi, peers) = (node.address, node.peer_address);
    let expected = format!("ready: reapi={reapi} peers={peers} control={}\n", control.display());
    assert_eq!(node.ready_line, expected);
}

#[test]
fn sigterm_ends_it_cleanly() {
    let mut node = Node::start();
    let control = node.runtime_dir().join("control.sock");
    assert!(control.exists());
    assert!(node.stop().success(), "{}", node.log());
    assert!(!control.exists(), "the socket is removed");
}

#[test]
fn the_sockets_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::start();
    for socket in ["control.sock", "reapi.sock"] {
        let mode = std::fs::metadata(node.runtime_dir().join(socket)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{socket}");
    }
}

/// Arguments that start a node on these directories which meets no other.
fn serve<'a>(data: &'a str, runtime: &'a str) -> Vec<&'a str> {
    let alone = ["serve", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--no-discovery"];
    [&alone[..], &["--data-dir", data, "--runtime-dir", runtime]].concat()
}

#[test]
fn a_second_node_on_the_same_runtime_directory_is_refused() {
    let node = Node::start();
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let runtime = node.runtime_dir();
    let (data, runtime) = (data.to_str().unwrap(), runtime.to_str().unwrap());
    let output = farmhand(home.path(), &serve(data, runtime));
    assert_refused(&output, "control.sock", "--runtime-dir");
    assert!(node.cli(&["status"]).status.success(), "the first one goes on");
}

#[test]
fn a_start_that_fails_leaves_no_socket() {
    let node = Node::start();
    let home = tempfile::tempdir().unwrap();
    let (data, runtime) = (node.data_dir(), home.path().join("run"));
    let (data, runtime) = (data.to_str().unwrap(), runtime.to_str().unwrap());
    assert_refused(&farmhand(home.path(), &serve(data, runtime)), "is in use", "--data-dir");
    let status = farmhand(home.path(), &["status", "--runtime-dir", runtime]);
    assert_refused(&status, "no node is running", "farmhand serve");
}

#[test]
fn a_node_is_found_by_its_configuration_file() {
    let node = Node::start();
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("farmhand.toml");
    std::fs::write(&config, format!("runtime-dir = {:?}\n", node.runtime_dir())).unwrap();
    let status = farmhand(home.path(), &["status", "--config", config.to_str().unwrap()]);
    assert!(stdout(&status).starts_with("testnode is serving"), "{}", stderr(&status));
}

#[test]
fn status_tells_the_node_in_text_and_in_json() {
    let node = Node::builder().arguments(&["--slots", "3"]).start();
    let text = node.cli(&["status"]);
    assert!(stdout(&text).starts_with("testnode is serving"), "{}", stdout(&text));
    assert!(!stdout(&text).contains('\x1b'), "no colours without a terminal");

    let status = json(&node.cli(&["status", "--json"]));
    assert_eq!(status["schema"], 1);
    assert_eq!(status["node"]["name"], "testnode");
    assert_eq!(status["node"]["pid"], node.pid());
    assert_eq!(status["node"]["endpoints"]["reapi"], node.address.to_string());
    assert_eq!(status["machines"].as_array().map(Vec::len), Some(1));
    assert_eq!(status["machines"][0]["state"], "active");
    assert_eq!(status["machines"][0]["slots"], 3);
}

#[test]
fn the_settings_of_a_client_name_the_doors_of_the_node_that_runs() {
    let node = Node::start();
    let bazel = stdout(&node.cli(&["client", "bazel", "--socket", "--instance", "a/b"]));
    let socket = node.runtime_dir().join("reapi.sock");
    for line in [
        format!("--remote_executor=grpc://{}", node.address),
        format!("--remote_proxy=unix:{}", socket.display()),
        "--remote_instance_name=a/b".to_owned(),
    ] {
        assert!(bazel.contains(&format!("build:farmhand {line}\n")), "{line} is not in {bazel}");
    }
}

#[tokio::test]
async fn status_counts_what_ran_and_what_was_cached() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("echo counted");
    action.run(&client).await.success();
    action.run(&client).await.success();
    ActionBuilder::sh("exit 7").run(&client).await;
    let status = json(&node.cli(&["status", "--json"]));
    let execution = &status["execution"];
    assert_eq!((&execution["executed"], &execution["cached"]), (&2.into(), &1.into()), "{status}");
    assert_eq!((&execution["failed"], &execution["running"]), (&1.into(), &0.into()), "{status}");
    assert!(status["storage"]["used_bytes"].as_u64() > Some(0), "{status}");
    assert!(status["storage"]["budget_bytes"].as_u64() > Some(0), "{status}");
}

#[tokio::test]
async fn an_action_is_shown_by_digest_and_by_hash() {
    let node = Node::start();
    let client = node.client().await;
    let outcome = ActionBuilder::sh("echo shown > out").outputs(&["out"]).run(&client).await;
    outcome.success();
    let digest = outcome.action_digest;
    for name in [digest.to_string(), digest.hash_hex()] {
        let shown = node.cli(&["action", &name, "show"]);
        assert!(shown.status.success(), "{}", stderr(&shown));
        let text = stdout(&shown);
        assert!(text.contains(&digest.to_string()) && text.contains("echo shown > out"), "{text}");
        assert!(text.contains("exit code") && text.contains("ran on"), "{text}");
    }
    let listed = json(&node.cli(&["actions", "--json"]));
    assert_eq!(listed[0]["action"], digest.to_string());
    assert_eq!(listed[0]["stage"], "done");

    let unknown = node.cli(&["action", &format!("{}/1", "ab".repeat(32)), "show"]);
    assert_refused(&unknown, "neither stored nor in the history", "farmhand actions");
}

#[tokio::test]
async fn fetched_inputs_reproduce_the_action() {
    let node = Node::start();
    let client = node.client().await;
    let large = super::support::random_bytes(1, 3_000_000);
    let action = ActionBuilder::new(&["./tool", "a b"])
        .executable("src/tool", "#!/bin/sh\nprintf '%s:' \"$1\"; cat data/text\n")
        .file("src/data/text", "from a file")
        .file("large", &large)
        .symlink("src/link", "data/text")
        .working_directory("src");
    let outcome = action.run(&client).await;
    let original = outcome.stdout(&client).await;
    assert_eq!(original, "a b:from a file");

    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("repro");
    let digest = outcome.action_digest.to_string();
    let fetched = node.cli(&["action", &digest, "fetch", target.to_str().unwrap()]);
    assert!(fetched.status.success(), "{}", stderr(&fetched));
    assert_eq!(std::fs::read(target.join("large")).unwrap(), large);
    assert_eq!(std::fs::read_link(target.join("src/link")).unwrap(), Path::new("data/text"));
    let again = Command::new("sh").args(["-c", &stdout(&fetched)]).output().unwrap();
    assert_eq!(stdout(&again), original, "{}", stdout(&fetched));

    let full = node.cli(&["action", &digest, "fetch", target.to_str().unwrap()]);
    assert_refused(&full, "is not empty", "empty");
}

#[tokio::test]
async fn outputs_are_fetched_too() {
    let node = Node::start();
    let client = node.client().await;
    let script = "mkdir -p dir/sub && echo one > file && echo two > dir/sub/two && ln -s sub dir/link";
    let outcome = ActionBuilder::sh(script).outputs(&["file", "dir"]).run(&client).await;
    outcome.success();
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().to_str().unwrap();
    let fetched = node.cli(&["action", &outcome.action_digest.to_string(), "fetch", target, "--outputs"]);
    assert!(fetched.status.success(), "{}", stderr(&fetched));
    let read = |path: &str| std::fs::read_to_string(directory.path().join(path)).unwrap();
    assert_eq!([read("file"), read("dir/sub/two"), read("dir/link/two")], ["one\n", "two\n", "two\n"]);
}

#[test]
fn bench_measures_a_running_node() {
    let node = Node::start();
    let output = Command::new(BINARY)
        .args([
            "bench",
            "--json",
            "--time",
            "0.05",
            "--connect",
            &node.address.to_string(),
            "find-missing",
            "cache-hits",
        ])
        .output()
        .unwrap();
    let report = json(&output);
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<_> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["find-missing", "cache-hits"]);
    for figure in figures {
        let limit = &figure["limits"][0];
        assert!(figure["value"].as_f64() > Some(0.0) && limit["value"].as_f64() > Some(0.0), "{figure}");
    }
}
