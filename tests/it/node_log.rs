//! The log and the settings of a running node, as a person asks for them.

use farmhand_proto::control::log_line::Level;
use farmhand_proto::control::{LogLine, WatchLogRequest};
use farmhand_proto::longrunning;
use serde_json::Value;

use super::support::{ActionBuilder, Node};

async fn lines(node: &Node, request: WatchLogRequest) -> Vec<LogLine> {
    let mut pages = node.control().await.watch_log(request).await.unwrap().into_inner();
    let mut lines = Vec::new();
    while let Some(page) = pages.message().await.unwrap() {
        lines.extend(page.lines);
    }
    lines
}

/// Has the node log a line at `info`.
async fn cancel_one(node: &Node) {
    let client = node.client().await;
    let action = ActionBuilder::sh("sleep 100");
    let digest = action.upload(&client).await;
    let mut stream = action.start(&client, &digest).await.unwrap();
    let mut operation = stream.message().await.unwrap().unwrap();
    while super::support::action::metadata(&operation).stage()
        != farmhand_proto::reapi::execution_stage::Value::Executing
    {
        operation = stream.message().await.unwrap().unwrap();
    }
    let cancel = longrunning::CancelOperationRequest { name: operation.name };
    client.operations().cancel_operation(cancel).await.unwrap();
    while stream.message().await.unwrap().is_some() {}
}

#[tokio::test]
async fn the_last_lines_come_first_and_then_what_follows() {
    // What the log itself leaves out is kept all the same.
    let node = Node::builder().config("lease = \"1h\"\nlog-filter = \"error\"").start();
    let all = lines(&node, WatchLogRequest::default()).await;
    let short = all.iter().find(|line| line.text.starts_with("the lease is short")).expect("it is warned of");
    assert_eq!((short.level(), short.module.as_str()), (Level::Warn, "farmhand::node"));
    assert!(short.text.contains("lease=1h") && short.sequence >= 1, "{short:?}");
    assert!(!node.log().contains("the lease is short"));

    let last = all.last().unwrap().sequence;
    let follow = WatchLogRequest { after: last, level: Level::Info.into(), follow: true };
    let mut pages = node.control().await.watch_log(follow).await.unwrap().into_inner();
    cancel_one(&node).await;
    let page = pages.message().await.unwrap().unwrap();
    assert!(page.lines[0].sequence > last && page.lines[0].text.starts_with("operation cancelled"));
    let warnings = WatchLogRequest { level: Level::Warn.into(), ..Default::default() };
    assert!(lines(&node, warnings).await.iter().all(|line| line.level() >= Level::Warn));
}

#[tokio::test]
async fn the_command_line_prints_the_log_for_people_and_programs() {
    let mut node = Node::builder().config("lease = \"1h\"").start();
    let text = node.cli(&["logs", "--level", "warn"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(" WARN farmhand::node: the lease is short"), "{text}");
    assert!(!text.contains('\x1b') && !text.contains(" INFO "), "{text}");
    let json = node.cli(&["logs", "--json"]);
    for line in String::from_utf8(json.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["time"].is_string() && line["sequence"].is_u64(), "{line}");
    }
    let follow = WatchLogRequest { follow: true, ..Default::default() };
    let mut pages = node.control().await.watch_log(follow).await.unwrap().into_inner();
    pages.message().await.unwrap().unwrap();
    assert!(node.stop().success(), "who follows does not hold up the end");
}

#[test]
fn the_settings_in_force_are_told() {
    let node = Node::builder()
        .config("lease = \"90m\"\n[labels]\nroom = \"attic\"")
        .arguments(&["--slots", "3"])
        .start();
    let output = node.cli(&["settings", "--json"]);
    let settings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let find = |name: &str| {
        let all = settings["settings"].as_array().unwrap();
        let found =
            all.iter().find(|setting| setting["name"] == name).unwrap_or_else(|| panic!("{settings}"));
        (found["value"].clone(), found["is_default"].as_bool().unwrap())
    };
    assert_eq!(find("lease"), ("\"1h 30m\"".into(), false));
    assert_eq!(find("slots"), ("3".into(), false));
    assert_eq!(find("labels.room"), ("[\"attic\"]".into(), false));
    assert_eq!(find("sync"), ("\"epoch\"".into(), true));
    assert!(settings["files"][0].as_str().unwrap().ends_with("farmhand.toml"), "{settings}");

    // What is printed for people is a configuration file.
    let text = String::from_utf8(node.cli(&["settings"]).stdout).unwrap();
    assert!(text.contains("\nlease = \"1h 30m\"\n") && text.contains("\n# sync = \"epoch\"\n"), "{text}");
}
