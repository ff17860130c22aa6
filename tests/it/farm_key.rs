//! The key of a farm: made, set by a file, shown, changed; and what keeps a node from starting with it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use farmhand::peer::trust::FarmKey;
use farmhand_proto::control::machine::State;
use serde_json::Value;

use crate::joining::let_in;
use crate::links::{is_linked, machines, until};
use crate::support::Node;
use crate::support::node::BINARY;

fn key_new(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(["key", "new"]).args(arguments).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The key of the farm `node` is in.
#[track_caller]
pub(crate) fn key_of(node: &Node) -> FarmKey {
    let output = node.cli(&["key", "show", "-o", "-"]);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).parse().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// Starts a node with this key file, which must refuse to; what it says.
#[track_caller]
fn refused(key_file: &Path) -> String {
    let directory = tempfile::tempdir().unwrap();
    let builder = Node::builder().arguments(&["--farm-key-file", key_file.to_str().unwrap()]);
    let (code, log) = builder.refused(directory.path());
    assert_eq!(code, Some(1), "{log}");
    log
}

#[test]
fn a_new_key_is_printed_as_a_key_file_has_it() {
    let output = key_new(&[]);
    let key: FarmKey = stdout(&output).parse().unwrap();
    assert!(stdout(&output).contains(&format!("\"{}\"", key.farm())));
    assert_ne!(stdout(&key_new(&[])).parse(), Ok(key));
}

#[test]
fn a_key_file_is_written_once_and_for_its_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("farm.key");
    let arguments = ["-o", path.to_str().unwrap()];
    let made = key_new(&arguments);
    assert!(made.status.success(), "{}", stderr(&made));
    assert_eq!(mode(&path), 0o600);
    let text = fs::read_to_string(&path).unwrap();
    let key: FarmKey = text.parse().unwrap();
    assert!(stdout(&made).contains(&key.farm()));
    assert!(!stdout(&made).contains(key.words().as_str()), "the key is in the file alone");
    assert!(!key_new(&arguments).status.success());
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    // As it is, a node takes it.
    let node = Node::builder().arguments(&["--farm-key-file", path.to_str().unwrap()]).start();
    assert_eq!(key_of(&node), key);
    let rotated = node.cli(&["key", "rotate"]);
    assert!(!rotated.status.success());
    assert!(stderr(&rotated).contains("hint: make another with farmhand key new"), "{}", stderr(&rotated));
    assert_eq!(key_of(&node), key);
}

#[test]
fn a_key_file_that_others_may_read_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("farm.key");
    let key = FarmKey::generate();
    fs::write(&path, &*key.file()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let log = refused(&path);
    assert!(log.contains("others may read") && log.contains("(mode 644)"), "{log}");
    assert!(log.contains(&format!("hint: chmod 600 {}", path.display())), "{log}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let node = Node::builder().arguments(&["--farm-key-file", path.to_str().unwrap()]).start();
    assert_eq!(key_of(&node), key);
}

#[test]
fn a_bad_key_file_is_refused_without_a_word_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("farm.key");
    let log = refused(&path);
    assert!(log.contains("farm.key") && log.contains("hint: farmhand key new -o"), "{log}");
    assert!(!path.exists());
    let words = FarmKey::generate().words().to_string();
    let (most, last) = words.rsplit_once(' ').unwrap();
    for (text, expected) in [
        (String::new(), "there is no key in it"),
        (most.to_owned(), "a farm key has 12 words, and these are 11"),
        (format!("{most} {last}hand"), "word 12 is none"),
    ] {
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let log = refused(&path);
        assert!(log.contains(expected) && log.contains("hint: "), "{log}");
        assert!(!log.contains(most), "{log}");
    }
}

#[test]
fn a_machine_is_alone_in_a_farm_of_its_own_and_keeps_its_secrets() {
    let mut node = Node::start();
    let farm = node.data_dir().join("farm");
    assert_eq!(mode(&farm), 0o700);
    for name in ["farm.key", "machine.key"] {
        assert_eq!(mode(&farm.join(name)), 0o600, "{name}");
    }
    let key = key_of(&node);
    assert_ne!(key_of(&Node::start()), key);
    node.kill();
    node.restart();
    assert_eq!(key_of(&node), key);
    for word in key.words().split(' ').filter(|word| word.len() > 6) {
        assert!(!node.log().contains(&format!(" {word} ")) || key.farm().contains(word), "{word}");
    }
    assert!(node.log().contains(&key.tag().to_string()), "what may be known is told");
}

#[test]
fn secrets_of_the_data_directory_that_others_may_read_are_refused_too() {
    let mut node = Node::start();
    node.stop();
    let path = node.data_dir().join("farm/machine.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let start = || {
        Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"])
            .args(["--no-discovery", "--data-dir"])
            .arg(node.data_dir())
            .arg("--runtime-dir")
            .arg(node.runtime_dir())
            .output()
            .unwrap()
    };
    let output = start();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("hint: chmod 600"), "{}", stderr(&output));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "damaged").unwrap();
    let output = start();
    assert!(stderr(&output).contains("to be a new machine"), "{}", stderr(&output));
    assert_eq!(fs::read(&path).unwrap(), b"damaged", "nothing is replaced silently");
}

#[test]
fn a_changed_key_is_the_key_from_then_on() {
    let mut node = Node::start();
    let old = key_of(&node);
    let output = node.cli(&["key", "rotate"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let new = key_of(&node);
    assert_ne!(new, old);
    assert!(stdout(&output).contains(&new.farm()) && stdout(&output).contains("must join again"));
    node.kill();
    node.restart();
    assert_eq!(key_of(&node), new);
    let unknown = node.cli(&["key", "rotate", "--without", "old-laptop"]);
    assert!(!unknown.status.success());
    assert!(stderr(&unknown).contains("old-laptop"), "{}", stderr(&unknown));
    assert_eq!(key_of(&node), new);
}

#[test]
fn the_key_is_shown_where_only_one_person_looks() {
    let node = Node::start();
    let refused = node.cli(&["key", "show"]);
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(stderr(&refused).contains("-o FILE"), "{}", stderr(&refused));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("farm.key");
    let written = node.cli(&["key", "show", "-o", path.to_str().unwrap()]);
    assert!(written.status.success(), "{}", stderr(&written));
    assert_eq!(mode(&path), 0o600);
    let key = key_of(&node);
    assert_eq!(fs::read_to_string(&path).unwrap().parse(), Ok(key.clone()));
    assert!(!stdout(&written).contains(key.words().as_str()));
    let again = node.cli(&["key", "show", "-o", path.to_str().unwrap()]);
    assert!(!again.status.success(), "it is not written over");
}

/// Names of machines under `key` of what `key rotate --json` printed.
fn names(rotated: &Value, key: &str) -> Vec<String> {
    let members = rotated[key].as_array().unwrap();
    members.iter().map(|member| member["name"].as_str().unwrap().to_owned()).collect()
}

/// A farm of three loses a laptop: the others stay linked, and it is a stranger until it is let in again.
#[tokio::test]
async fn a_lost_machine_is_thrown_out_and_the_others_stay() {
    let start = |name| Node::builder().arguments(&["--name", name]).start();
    let (attic, cellar, laptop) = (start("attic"), start("cellar"), start("laptop"));
    for newcomer in [&cellar, &laptop] {
        let_in(&attic, newcomer, &[]);
        until(&attic, if std::ptr::eq(newcomer, &cellar) { "cellar" } else { "laptop" }, is_linked).await;
    }
    let old = key_of(&laptop);
    let rotated = attic.cli(&["key", "rotate", "--without", "laptop", "--json"]);
    assert!(rotated.status.success(), "{}", stderr(&rotated));
    let told: Value = serde_json::from_str(&stdout(&rotated)).unwrap();
    assert_eq!(
        (names(&told, "have"), names(&told, "without")),
        (vec!["cellar".into()], vec!["laptop".into()])
    );
    assert!(names(&told, "missed").is_empty());
    let new = key_of(&attic);
    assert_ne!(new, old);
    assert_eq!(key_of(&cellar), new);
    assert_eq!(key_of(&laptop), old);
    until(&cellar, "attic", is_linked).await;
    until(&attic, "cellar", is_linked).await;
    let refused = until(&laptop, "attic", |machine| machine.state() == State::Refused).await;
    assert!(refused.reason.contains("another farm key") && !refused.links_back, "{}", refused.reason);
    let there = machines(&attic).await;
    assert!(there.iter().filter(|machine| machine.name == "laptop").all(|laptop| !is_linked(laptop)));
    let_in(&cellar, &laptop, &["--leave"]);
    assert_eq!(key_of(&laptop), new);
    for node in [&attic, &cellar] {
        until(node, "laptop", is_linked).await;
    }
}

/// A machine that was off when the key was changed is told so by name, and joins again.
#[tokio::test]
async fn who_was_away_must_join_again() {
    let start = |name| Node::builder().arguments(&["--name", name]).start();
    let (attic, mut cellar) = (start("attic"), start("cellar"));
    let_in(&attic, &cellar, &[]);
    until(&attic, "cellar", is_linked).await;
    cellar.stop();
    until(&attic, "cellar", |machine| machine.state() == State::Lost).await;
    let rotated = stdout(&attic.cli(&["key", "rotate"]));
    assert!(rotated.contains("must join again (farmhand invite): cellar"), "{rotated}");
    cellar.restart();
    assert_ne!(key_of(&cellar), key_of(&attic));
    let_in(&attic, &cellar, &["--leave"]);
    until(&attic, "cellar", is_linked).await;
}
