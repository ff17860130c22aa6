//! Causes out of what is remembered, and whole explanations out of a CAS in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use farmhand_proto::control::difference;
use farmhand_proto::{protobuf, reapi};
use futures_util::FutureExt;
use proptest::prelude::*;

use super::inputs::tests::{Node, Tree};
use super::*;
use crate::cas::memory::MemoryCas;
use crate::digest::DigestFunction::Sha256;
use crate::instance::InstanceName;

fn at(minutes: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + minutes * 60)
}

fn key(instance: &str, action: Digest) -> ActionKey {
    ActionKey { instance: InstanceName::parse(instance).unwrap(), action }
}

fn subject(action: Digest) -> Subject {
    Subject {
        key: key("", action),
        at: at(100),
        name: "//a:b (CppCompile)".into(),
        do_not_cache: false,
        skip_cache_lookup: false,
        parts: None,
    }
}

fn earlier(instance: &str, action: Digest, ended: Ended) -> Earlier {
    Earlier { key: key(instance, action), finished: at(40), ended, parts: None, outputs: Vec::new() }
}

fn digest(text: &str) -> Digest {
    Digest::of(Sha256, text.as_bytes())
}

/// A store, and actions in it.
#[derive(Default)]
struct Fixture(MemoryCas);

impl Fixture {
    fn action(&self, command: &reapi::Command, action: reapi::Action, files: &[(&str, u8)]) -> Digest {
        let files = files.iter().map(|(name, content)| ((*name).to_owned(), Node::File(*content, false)));
        let root = Tree(BTreeMap::from([("src".to_owned(), Node::Directory(Tree(files.collect())))]));
        let root = root.store(&self.0);
        let command = self.0.insert(Sha256, command.encode_to_vec());
        let action = reapi::Action {
            command_digest: Some(command.to_wire()),
            input_root_digest: Some(root.to_wire()),
            ..action
        };
        self.0.insert(Sha256, action.encode_to_vec())
    }

    fn explain(&self, subject: &Subject, known: &Known, fate: Option<Fate>) -> Miss {
        explain(&self.0, subject, known, fate).now_or_never().expect("memory is there at once")
    }

    fn changed(&self, new: Digest, kin: &[Digest]) -> Miss {
        let kin = kin.iter().map(|old| earlier("", *old, Ended::Kept)).collect();
        self.explain(&subject(new), &Known { kin, ..Known::default() }, None)
    }
}

fn command(arguments: &str) -> reapi::Command {
    let arguments = arguments.split(' ').map(str::to_owned).collect();
    reapi::Command { arguments, output_paths: vec!["out".into()], ..Default::default() }
}

fn plain() -> reapi::Action {
    reapi::Action::default()
}

#[test]
fn one_input_that_changed_is_named() {
    let fixture = Fixture::default();
    let old = fixture.action(&command("cc -c"), plain(), &[("foo.c", 1), ("foo.h", 1)]);
    let new = fixture.action(&command("cc -c"), plain(), &[("foo.c", 1), ("foo.h", 2)]);
    let miss = fixture.changed(new, &[old]);
    assert_eq!(miss.kind(), miss::Kind::Changed);
    assert!(miss.summary.starts_with("src/foo.h changed ("), "{}", miss.summary);
    assert_eq!(miss.earlier_digest, old.to_string());
    assert_eq!((miss.total_differences, miss.differences.len()), (1, 1));
    let digest = |content| Digest::of(Sha256, &[content]).to_string();
    let difference = &miss.differences[0];
    assert_eq!((&difference.old, &difference.new), (&digest(1), &digest(2)));
}

#[test]
fn the_nearest_of_several_is_taken() {
    let fixture = Fixture::default();
    let far = fixture.action(&command("cc -O0 -g -c"), plain(), &[("foo.c", 7)]);
    let near = fixture.action(&command("cc -O2 -c"), plain(), &[("foo.c", 1)]);
    let new = fixture.action(&command("cc -O3 -c"), plain(), &[("foo.c", 1)]);
    let miss = fixture.changed(new, &[far, near]);
    assert_eq!(miss.summary, "the argument -O2 became -O3");
    assert_eq!(miss.earlier_digest, near.to_string());
}

#[test]
fn everything_an_action_says_is_compared() {
    use difference::Kind;
    let property = |value: &str| reapi::Platform {
        properties: vec![reapi::platform::Property { name: "os".into(), value: value.into() }],
    };
    let variable =
        |value: &str| reapi::command::EnvironmentVariable { name: "V".into(), value: value.into() };
    let old = reapi::Action { platform: Some(property("linux")), salt: vec![0, 1], ..plain() };
    let new = reapi::Action {
        platform: Some(property("macos")),
        salt: b"text".to_vec(),
        timeout: Some(protobuf::Duration { seconds: 60, nanos: 0 }),
        ..plain()
    };
    let old_command = reapi::Command { environment_variables: vec![variable("1")], ..command("cc a") };
    let new_command = reapi::Command {
        environment_variables: vec![variable("2")],
        working_directory: "src".into(),
        output_paths: vec!["other".into()],
        output_node_properties: vec!["mtime".into()],
        ..command("cc b")
    };
    let fixture = Fixture::default();
    let old = fixture.action(&old_command, old, &[("x", 1)]);
    let new = fixture.action(&new_command, new, &[("y", 1)]);
    let miss = fixture.changed(new, &[old]);
    let told: Vec<(Kind, &str, &str, &str)> =
        miss.differences.iter().map(|d| (d.kind(), &*d.name, &*d.old, &*d.new)).collect();
    let content = Digest::of(Sha256, &[1]).to_string();
    assert_eq!(
        told,
        [
            (Kind::Salt, "", "0001", "text"),
            (Kind::Platform, "os", "linux", "macos"),
            (Kind::Argument, "1", "a", "b"),
            (Kind::WorkingDirectory, "", "", "src"),
            (Kind::Timeout, "", "none", "1m"),
            (Kind::Other, "output node properties", "", "mtime"),
            (Kind::Variable, "V", "1", "2"),
            (Kind::Output, "other", "", "path"),
            (Kind::Output, "out", "path", ""),
            (Kind::Input, "src/x", &*content, ""),
            (Kind::Input, "src/y", "", &*content),
        ]
    );
    assert_eq!(miss.summary, "the salt changed: 0001 became text, and 10 more differences");
}

#[test]
fn another_encoding_of_the_same_is_told() {
    let fixture = Fixture::default();
    let old = fixture.action(&command("cc"), plain(), &[("a", 1)]);
    // A field that nobody knows, as a newer client may send it.
    let mut bytes = fixture.0.get(&old).now_or_never().unwrap().unwrap().to_vec();
    bytes.extend([0xf8, 0x7f, 1]);
    let new = fixture.0.insert(Sha256, bytes);
    assert_eq!(fixture.changed(new, &[old]).summary, "the client encoded the same action in another way");
}

#[test]
fn what_is_not_stored_any_more_is_told_as_far_as_it_goes() {
    let fixture = Fixture::default();
    let old = fixture.action(&command("cc a"), plain(), &[("a", 1)]);
    let new = fixture.action(&command("cc b"), plain(), &[("a", 2)]);
    let tree = Tree(BTreeMap::from([("a".to_owned(), Node::File(1, false))]));
    let root = Tree(BTreeMap::from([("src".to_owned(), Node::Directory(tree))])).store(&fixture.0);
    fixture.0.remove(&root);
    let partly = fixture.changed(new, &[old]);
    assert_eq!(partly.kind(), miss::Kind::Changed);
    assert_eq!(partly.summary, "the argument a became b, and at least 1 more difference");

    fixture.0.remove(&old);
    let parts =
        |command: &str, root: &str| Some(Parts { command: digest(command), input_root: digest(root) });
    let subject = Subject { parts: parts("c", "new"), ..subject(new) };
    let kin = vec![Earlier { parts: parts("c", "old"), ..earlier("", old, Ended::Kept) }];
    let forgotten = fixture.explain(&subject, &Known { kin, ..Known::default() }, None);
    assert_eq!(forgotten.kind(), miss::Kind::Forgotten);
    assert!(forgotten.summary.starts_with("its inputs changed since the run 60 min before"), "{forgotten:?}");
}

#[test]
fn the_same_action_tells_more_than_any_other() {
    let (same, other) = (digest("same"), digest("other"));
    let kept = earlier("", same, Ended::Kept);
    let failed = earlier("", same, Ended::Failed(1));
    let elsewhere = earlier("x", same, Ended::Kept);
    let kin = vec![earlier("", other, Ended::Kept)];
    let known = |same: &[&Earlier]| Known { same: same.iter().copied().cloned().collect(), kin: kin.clone() };
    let plain = subject(same);
    assert_eq!(cause(&plain, &known(&[&failed, &kept])), Cause::Gone(&kept));
    assert_eq!(cause(&plain, &known(&[&elsewhere, &failed])), Cause::LeftNothing(&failed));
    assert_eq!(cause(&plain, &known(&[&elsewhere])), Cause::OtherInstance(&elsewhere));
    assert_eq!(cause(&plain, &known(&[&earlier("x", same, Ended::Failed(1))])), Cause::Kin);
    assert_eq!(cause(&plain, &Known::default()), Cause::First);
    let skipped = Subject { skip_cache_lookup: true, ..plain.clone() };
    assert_eq!(cause(&skipped, &known(&[&kept])), Cause::Skipped);
    assert_eq!(cause(&skipped, &known(&[])), Cause::Kin, "nobody passed over a result");
    let uncached = Subject { do_not_cache: true, ..plain };
    assert_eq!(cause(&uncached, &known(&[&kept])), Cause::DoNotCache);
}

#[test]
fn what_became_of_a_result_is_told_with_its_time() {
    let fixture = Fixture::default();
    let (action, output) = (digest("action"), digest("output"));
    let same =
        vec![Earlier { outputs: vec![("out/a.o".into(), output)], ..earlier("", action, Ended::Kept) }];
    let known = Known { same, ..Known::default() };
    let explain = |fate| fixture.explain(&subject(action), &known, fate);
    let fate = |lacking, at, damaged| Some(Fate { lacking, at, damaged });
    let miss = explain(fate(Some(output), Some(at(86)), false));
    assert_eq!(
        (miss.kind(), &*miss.summary),
        (miss::Kind::Evicted, "its output out/a.o was evicted 14 min before")
    );
    let miss = explain(fate(None, Some(at(86)), true));
    assert_eq!(miss.kind(), miss::Kind::Damaged);
    assert_eq!(miss.summary, "its result was damaged on the disk and dropped 14 min before");
    for unknown in [None, fate(None, Some(at(10)), true), fate(None, Some(at(101)), false)] {
        let miss = explain(unknown);
        assert_eq!(miss.summary, "its result was evicted in the 60 min since it was last seen");
    }
}

proptest! {
    /// Whatever the texts, an explanation stays small.
    #[test]
    fn an_explanation_is_bounded(texts in prop::collection::vec(".{0,400}", 1..60)) {
        let fixture = Fixture::default();
        let old = fixture.action(&command("cc"), plain(), &[]);
        let command = reapi::Command { arguments: texts.clone(), output_paths: texts, ..command("") };
        let new = fixture.action(&command, plain(), &[]);
        let miss = fixture.changed(new, &[old]);
        prop_assert!(miss.encoded_len() <= MAX_BYTES && miss.differences.len() <= MAX_DIFFERENCES);
        prop_assert!(miss.total_differences as usize >= miss.differences.len());
    }
}
