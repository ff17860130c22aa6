//! RUN: the command and what surrounds it.

use std::time::Duration;

use farmhand::digest::Digest;
use tonic::Code;

use crate::support::{ActionBuilder, Node};

/// Whether a process with this in its command line is alive on this machine.
pub(crate) fn is_running(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter(|entry| entry.file_name().to_string_lossy() != std::process::id().to_string())
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|cmdline| String::from_utf8_lossy(&cmdline).contains(marker))
}

/// Waits until `condition` holds, for at most ten seconds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 10 s: {what}");
}

#[tokio::test]
async fn programs_are_found_by_path_or_by_name() {
    let node = Node::start();
    let client = node.client().await;
    let tool = "#!/bin/sh\necho tool $0\n";
    let relative = ActionBuilder::new(&["./tool"]).working_directory("bin").executable("bin/tool", tool);
    assert_eq!(relative.run(&client).await.stdout(&client).await, "tool ./tool\n");
    let from_root = ActionBuilder::new(&["bin/tool"]).executable("bin/tool", tool);
    assert_eq!(from_root.run(&client).await.stdout(&client).await, "tool bin/tool\n");
    ActionBuilder::new(&["/bin/true"]).run(&client).await.success();
    ActionBuilder::new(&["true"]).run(&client).await.success();
    let mut own_path = ActionBuilder::new(&["only-here"]).executable("tools/only-here", tool);
    own_path.command.environment_variables[0].value = "tools:/bin".into();
    own_path.run(&client).await.success();
}

#[tokio::test]
async fn arguments_are_passed_as_given() {
    let node = Node::start();
    let client = node.client().await;
    let odd = ["", "two words", "$HOME", "*", "\"'", "new\nline", "ü"];
    let mut arguments = vec!["/bin/sh", "-c", "for a; do printf '<%s>' \"$a\"; done", "sh"];
    arguments.extend(odd);
    let outcome = ActionBuilder::new(&arguments).run(&client).await;
    let expected: String = odd.iter().map(|a| format!("<{a}>")).collect();
    assert_eq!(outcome.stdout(&client).await, expected);

    let many: Vec<String> = (0..20_000).map(|i| format!("argument-number-{i:033}")).collect();
    let mut arguments = vec!["/bin/sh", "-c", "echo $#", "sh"];
    arguments.extend(many.iter().map(String::as_str));
    let outcome = ActionBuilder::new(&arguments).run(&client).await;
    assert_eq!(outcome.stdout(&client).await, "20000\n");
}

#[tokio::test]
async fn the_environment_is_the_commands_own() {
    let node = Node::builder().environment("SECRET", "1").start();
    let client = node.client().await;
    let outcome = ActionBuilder::new(&["/usr/bin/env"]).env("MINE", "yes").run(&client).await;
    let stdout = outcome.stdout(&client).await;
    assert!(stdout.contains("MINE=yes\n"), "{stdout}");
    assert!(!stdout.contains("SECRET"), "{stdout}");
    for line in stdout.lines() {
        let name = line.split('=').next().unwrap();
        assert!(["PATH", "MINE", "HOME", "TMPDIR", "PWD"].contains(&name), "undocumented {line}");
    }
}

#[tokio::test]
async fn properties_of_action_and_command() {
    let node = Node::start();
    let client = node.client().await;
    let property = |name: &str, value: &str| farmhand_proto::reapi::platform::Property {
        name: name.into(),
        value: value.into(),
    };
    let mut only_command = ActionBuilder::sh("true");
    only_command.command.platform =
        Some(farmhand_proto::reapi::Platform { properties: vec![property("OSFamily", "plan9")] });
    let refused = code_of(&only_command, &client).await;
    assert!(matches!(refused.0, Code::FailedPrecondition | Code::InvalidArgument), "{refused:?}");
    let mut both = only_command.clone();
    both = both.property("OSFamily", "linux");
    both.run(&client).await.success();
}

async fn code_of(action: &ActionBuilder, client: &crate::support::Client) -> (Code, String) {
    match action.try_run(client).await {
        Err(status) => (status.code(), status.message().to_owned()),
        Ok(outcome) => {
            let status = outcome.response.status.clone().unwrap_or_default();
            (Code::from(status.code), status.message)
        }
    }
}

#[tokio::test]
async fn properties_are_met_or_refused_by_name() {
    let node = Node::start();
    let client = node.client().await;
    if cfg!(target_arch = "x86_64") {
        ActionBuilder::sh("true").property("ISA", "x86-64").run(&client).await.success();
    }
    for (name, value) in [("OSFamily", "plan9"), ("ISA", "mips"), ("Pool", "no such pool"), ("foo", "bar")] {
        let (code, message) = code_of(&ActionBuilder::sh("true").property(name, value), &client).await;
        assert!(
            matches!(code, Code::FailedPrecondition | Code::InvalidArgument),
            "{name}: {code:?} {message}"
        );
        assert!(message.contains(name), "{message}");
    }
    for (name, value) in
        [("cache-silo", "x"), ("network", "off"), ("OSFamily", "Linux"), ("persistentWorkerKey", "k")]
    {
        ActionBuilder::sh("true").property(name, value).run(&client).await.success();
    }
    let ids = ActionBuilder::sh("id -u; id -g").property("unixUID", "1234").property("unixGID", "99");
    assert_eq!(ids.run(&client).await.stdout(&client).await, "1234\n99\n");
}

#[tokio::test]
async fn unknown_properties_by_policy() {
    let ignoring = Node::builder().config("unknown-properties = \"ignore\"").start();
    let client = ignoring.client().await;
    ActionBuilder::sh("true").property("foo", "bar").run(&client).await.success();
    let matching = Node::builder().config("unknown-properties = \"match\"\n[labels]\nfoo = \"bar\"").start();
    let client = matching.client().await;
    ActionBuilder::sh("true").property("foo", "bar").run(&client).await.success();
    let (code, message) = code_of(&ActionBuilder::sh("true").property("foo", "baz"), &client).await;
    assert!(matches!(code, Code::FailedPrecondition | Code::InvalidArgument), "{message}");
    assert!(message.contains("foo"), "{message}");
}

#[tokio::test]
async fn the_network_is_a_lonely_loopback_unless_asked_for() {
    let node = Node::start();
    let client = node.client().await;
    let list = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort";
    let alone = ActionBuilder::sh(list).run(&client).await;
    assert_eq!(alone.stdout(&client).await, "lo\n");
    let up = ActionBuilder::sh("grep -c . /proc/net/if_inet6 || cat /proc/net/fib_trie | grep -c 127.0.0.1");
    up.run(&client).await.success();
    let host = ActionBuilder::sh(list).property("network", "on").run(&client).await;
    let own = std::fs::read_to_string("/proc/net/dev").unwrap().lines().count() - 2;
    assert_eq!(host.stdout(&client).await.lines().count(), own);
}

/// One slot, held for longer than the timeout of the action that waits for it.
#[tokio::test]
async fn the_timeout_counts_only_the_run() {
    let node = Node::builder().arguments(&["--slots", "1"]).start();
    let client = node.client().await;
    let holder = ActionBuilder::sh("sleep 2").do_not_cache();
    let digest = holder.upload(&client).await;
    let held = holder.start(&client, &digest).await.unwrap();
    let quick = ActionBuilder::sh("sleep 0.1").timeout_ms(1000).do_not_cache().run(&client).await;
    quick.success();
    crate::support::action::finish(held, digest).await.unwrap().success();
}

#[tokio::test]
async fn a_timeout_kills_the_whole_tree_and_frees_the_slot() {
    let node = Node::builder().arguments(&["--slots", "1"]).start();
    let client = node.client().await;
    let script =
        "trap '' TERM; setsid sleep 31415926 & nohup sleep 31415926 >/dev/null 2>&1 & sleep 31415926";
    let outcome = ActionBuilder::sh(script).timeout_ms(500).run(&client).await;
    assert_eq!(outcome.code(), Code::DeadlineExceeded as i32);
    eventually("nothing is left", || !is_running("31415926")).await;
    ActionBuilder::sh("true").run(&client).await.success();
}

#[tokio::test]
async fn exit_codes_and_signals() {
    let node = Node::start();
    let client = node.client().await;
    for code in [1, 7, 126, 127, 255] {
        let outcome = ActionBuilder::sh(&format!("exit {code}")).run(&client).await;
        assert_eq!((outcome.code(), outcome.result().exit_code), (0, code));
    }
    for (signal, number) in [("KILL", 9), ("TERM", 15), ("SEGV", 11), ("ABRT", 6)] {
        let outcome = ActionBuilder::sh(&format!("kill -{signal} $$; sleep 5")).run(&client).await;
        assert_eq!(outcome.result().exit_code, 128 + number, "{signal}: {:?}", outcome.response);
        assert!(outcome.response.message.contains(&number.to_string()), "{}", outcome.response.message);
    }
}

#[tokio::test]
async fn programs_that_cannot_run_are_the_actions_own_fault() {
    let node = Node::start();
    let client = node.client().await;
    for program in ["nosuch", "./nosuch", "/no/such", "plain", "broken"] {
        let action = ActionBuilder::new(&[program])
            .file("plain", "#!/bin/sh\n")
            .executable("broken", "#!/no/such/interpreter\n");
        let (code, message) = match action.try_run(&client).await {
            Err(status) => (status.code(), status.message().to_owned()),
            Ok(outcome) => match outcome.response.status.clone().unwrap_or_default() {
                status if status.code != 0 => (Code::from(status.code), status.message),
                _ => {
                    assert!([126, 127].contains(&outcome.result().exit_code), "{:?}", outcome.response);
                    continue;
                }
            },
        };
        assert_eq!(code, Code::InvalidArgument, "{program}: {message}");
        assert!(message.contains(program), "{message}");
    }
}

#[tokio::test]
async fn streams_are_apart_byte_exact_and_stdin_is_empty() {
    let node = Node::start();
    let client = node.client().await;
    let script = "printf 'a\\000b\\377'; printf 'e\\000' >&2; cat; test -t 0 || test -t 1 || test -t 2 || printf no-tty";
    let outcome = ActionBuilder::sh(script).run(&client).await;
    let read = |digest: &Option<farmhand_proto::reapi::Digest>| {
        Digest::from_field(client.function, digest.as_ref()).unwrap()
    };
    let result = outcome.success();
    assert_eq!(client.read(&read(&result.stdout_digest)).await.unwrap(), b"a\0b\xffno-tty");
    assert_eq!(client.read(&read(&result.stderr_digest)).await.unwrap(), b"e\0");
}

#[tokio::test]
async fn a_hundred_megabytes_of_output() {
    let node = Node::start();
    let client = node.client().await;
    let outcome = ActionBuilder::sh("head -c 100000000 /dev/zero").run(&client).await;
    let digest = Digest::from_field(client.function, outcome.success().stdout_digest.as_ref()).unwrap();
    assert_eq!(digest.size(), 100_000_000);
    let tail = client.read_named(client.read_name(&digest), 99_999_990, 0).await.unwrap();
    assert_eq!(tail, [0; 10]);
}

#[tokio::test]
async fn the_result_is_final_when_the_main_process_ends() {
    let node = Node::start();
    let client = node.client().await;
    let script =
        "echo first > out; (sleep 0.4; echo late >> out; sleep 27182818) & setsid sleep 27182818 & exit 0";
    let outcome = ActionBuilder::sh(script).outputs(&["out"]).run(&client).await;
    assert_eq!(outcome.output(&client, "out").await, b"first\n");
    eventually("nothing is left", || !is_running("27182818")).await;
}

#[tokio::test]
async fn equal_actions_run_side_by_side_and_see_nobody_else() {
    let node = Node::builder().arguments(&["--slots", "4"]).start();
    let client = node.client().await;
    let script = "echo mine > f; sleep 0.1; cat f; ls /proc | grep -c '^[0-9]'; kill -9 -1 2>/dev/null; true";
    let mut runs = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        let script = script.to_owned();
        runs.spawn(async move {
            let outcome = ActionBuilder::sh(&script).do_not_cache().run(&client).await;
            outcome.stdout(&client).await
        });
    }
    while let Some(stdout) = runs.join_next().await {
        let stdout = stdout.unwrap();
        let mut lines = stdout.lines();
        assert_eq!(lines.next(), Some("mine"));
        let processes: u32 = lines.next().unwrap().parse().unwrap();
        assert!(processes < 8, "sees {processes} processes");
    }
}

#[tokio::test]
async fn the_host_is_out_of_reach() {
    let node = Node::start();
    let client = node.client().await;
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
    let script = format!(
        "! ls {home} 2>/dev/null && ! ls {data} 2>/dev/null && ! cat /etc/shadow 2>/dev/null \
         && ! touch /usr/bin/x 2>/dev/null && ! touch /etc/x 2>/dev/null && ! ls {run} 2>/dev/null",
        data = node.data_dir().display(),
        run = node.runtime_dir().display(),
    );
    ActionBuilder::sh(&script).run(&client).await.success();
}

#[tokio::test]
async fn persistent_worker_properties_run_the_command_plainly() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("echo plain")
        .property("persistentWorkerKey", "k")
        .property("persistentWorkerProtocol", "json");
    assert_eq!(action.run(&client).await.stdout(&client).await, "plain\n");
}

#[tokio::test]
async fn plain_mode_runs_actions_too_and_says_so() {
    let node = Node::builder().config("sandbox = \"off\"").start();
    assert!(node.log().to_lowercase().contains("sandbox"), "{}", node.log());
    let client = node.client().await;
    let script = "cat in; echo out > out; chmod u+w in; echo spoilt > in; setsid sleep 16180339 & exit 0";
    let outcome =
        ActionBuilder::sh(script).file("in", "input\n").outputs(&["out"]).do_not_cache().run(&client).await;
    assert_eq!(outcome.stdout(&client).await, "input\n");
    assert_eq!(outcome.output(&client, "out").await, b"out\n");
    eventually("nothing is left", || !is_running("16180339")).await;
    let again = ActionBuilder::sh("cat in").file("in", "input\n").do_not_cache().run(&client).await;
    assert_eq!(again.stdout(&client).await, "input\n");
}
