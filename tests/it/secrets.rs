//! The key of a farm and the codes of invitations stay where they belong: in files of their owner, on the
//! screens of those who asked, and nowhere else.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use farmhand::peer::trust::FarmKey;

use crate::farm_key::{key_of, stderr, stdout};
use crate::joining::{Invitation, let_in};
use crate::links::{is_linked, until};
use crate::support::Node;
use crate::support::node::BINARY;

/// All ways in which somebody may have written these bytes by accident.
fn writings(bytes: &[u8]) -> Vec<String> {
    let numbers: Vec<_> = bytes.iter().map(ToString::to_string).collect();
    let hex =
        |separator: &str| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(separator);
    let escaped: String = bytes.iter().flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
    // The middle, so that it is found in a longer sequence too.
    let middle = numbers[1..bytes.len() - 1].join(", ");
    vec![hex(""), hex("").to_uppercase(), hex(":"), hex(" "), middle, escaped]
}

/// A key in every form, and parts of it that are as good as the whole.
fn forms(key: &FarmKey) -> Vec<String> {
    let mut forms = writings(key.bytes());
    let words: Vec<_> = key.words().split(' ').map(str::to_owned).collect();
    for separator in [" ", "-", ", ", "\", \""] {
        forms.extend(words.windows(4).map(|some| some.join(separator)));
    }
    forms
}

#[track_caller]
fn assert_without(secrets: &[String], place: &str, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    for (number, secret) in secrets.iter().enumerate() {
        assert!(!text.contains(secret.as_str()), "form {number} of a secret is in {place}");
    }
}

/// What other users of the machine, or people who are sent it, may read of a process.
fn public_of(pid: u32) -> Vec<u8> {
    ["cmdline", "comm", "status"].map(|file| fs::read(format!("/proc/{pid}/{file}")).unwrap()).concat()
}

fn files_below(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_below(&path, found),
            false => found.push(path),
        }
    }
}

#[tokio::test]
async fn keys_and_codes_are_in_no_log_and_no_status() {
    let start = |name| Node::builder().config("log-filter = \"trace\"").arguments(&["--name", name]).start();
    let (attic, cellar) = (start("attic"), start("cellar"));
    let mut secrets: Vec<_> = [&attic, &cellar].iter().flat_map(|node| forms(&key_of(node))).collect();
    for node in [&attic, &cellar] {
        let machine = fs::read(node.data_dir().join("farm/machine.key")).unwrap();
        // The private half of a key pair, as RFC 8410 has it, begins after 16 bytes.
        secrets.extend(writings(&machine[16..48]));
    }
    let invitation = Invitation::of(&attic, &[]);
    secrets.push(invitation.code.clone());
    assert_without(&secrets, "the command line of invite", &public_of(invitation.pid()));
    drop(invitation);
    let_in(&attic, &cellar, &[]);
    until(&attic, "cellar", is_linked).await;
    assert_eq!(key_of(&attic), key_of(&cellar));
    let rotated = attic.cli(&["key", "rotate"]);
    assert!(stdout(&rotated).contains("have it: cellar"), "{} {}", stdout(&rotated), stderr(&rotated));
    until(&attic, "cellar", is_linked).await;
    secrets.extend(forms(&key_of(&attic)));
    assert_without(&secrets, "what rotate prints", &rotated.stdout);
    for node in [&attic, &cellar] {
        assert!(node.log().contains("TRACE"), "it tells all it can");
        assert_without(&secrets, "the log", node.log().as_bytes());
        assert_without(&secrets, "the process", &public_of(node.pid()));
        for command in ["status", "machines", "settings", "logs", "doctor"] {
            for arguments in [&[command][..], &[command, "--json"]] {
                let told = node.cli(arguments);
                assert_without(&secrets, command, &told.stdout);
                assert_without(&secrets, command, &told.stderr);
            }
        }
    }
    assert_at_rest(&[&attic, &cellar], &secrets);
}

/// The only files with a secret are two, and they are their owner's.
#[track_caller]
fn assert_at_rest(nodes: &[&Node], secrets: &[String]) {
    for node in nodes {
        let farm = node.data_dir().join("farm");
        assert_eq!(fs::metadata(&farm).unwrap().mode() & 0o777, 0o700);
        let mut files = Vec::new();
        files_below(&node.data_dir(), &mut files);
        for path in files {
            if [farm.join("farm.key"), farm.join("machine.key")].contains(&path) {
                assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
            } else {
                // Files that are written to are longer than what is in them.
                let content = fs::read(&path).unwrap_or_default();
                let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                assert_without(secrets, &path.display().to_string(), &content[..end]);
            }
        }
    }
}

/// A word that is wrong is not repeated: it may be the eleven others that are right.
#[test]
fn what_is_no_key_is_not_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let words = FarmKey::generate().words().to_string();
    let path = directory.path().join("farm.key");
    fs::write(&path, format!("{words} {words}")).unwrap();
    let (code, log) = {
        let path = path.to_str().unwrap();
        Node::builder().arguments(&["--farm-key-file", path]).refused(directory.path())
    };
    assert_eq!(code, Some(1), "{log}");
    assert_without(&forms(&words.parse().unwrap()), "the log", log.as_bytes());
    let code = Command::new(BINARY).args(["join", "482-zoo-zoo-zoo"]).output().unwrap();
    assert!(!code.status.success() && !stderr(&code).contains("482-zoo"), "{}", stderr(&code));
}
