//! Actions that take whatever they can get: contained, explained, and gone afterwards.

use std::path::Path;
use std::time::Duration;

use farmhand::worker::sandbox::ActionGroup;
use tonic::Code;

use crate::running::{eventually, is_running};
use crate::support::{ActionBuilder, Client, Node};

/// Bytes as a setting.
fn mib(count: u64) -> String {
    format!("{count}MiB")
}

/// An ordinary action runs as if nothing were.
async fn others_run(client: &Client, salt: &str) {
    let outcome = ActionBuilder::sh("echo fine > out").outputs(&["out"]).salt(salt).run(client).await;
    outcome.success();
}

fn free_bytes(directory: &Path) -> u64 {
    let disk = rustix::fs::statvfs(directory).unwrap();
    disk.f_bavail * disk.f_frsize
}

/// Bytes of memory of a process.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn a_fork_bomb_has_the_processes_of_one_action() {
    let node = Node::builder().arguments(&["--slots", "2", "--action-processes", "200"]).start();
    let client = node.client().await;
    // Each process starts two more, for as long as it can. The shell that began it starts one
    // and becomes a sleep: one that cannot start a process would end, and with it the action.
    let bomb = "f() { f & f & sleep 31337133; }; f 2> /dev/null & exec sleep 31337133";
    let bomb = ActionBuilder::sh(bomb).timeout_ms(3_000).do_not_cache();
    let (bombed, ()) = tokio::join!(bomb.run(&client), async {
        for round in 0..10 {
            others_run(&client, &format!("beside the bomb {round}")).await;
        }
    });
    assert_eq!(bombed.code(), Code::DeadlineExceeded as i32, "{:?}", bombed.response);
    eventually("nothing of the bomb is left", || !is_running("31337133")).await;
    others_run(&client, "after the bomb").await;
}

/// A thousand processes in one seat are worth as much to the kernel as one in another.
#[tokio::test]
async fn each_of_two_actions_at_once_has_a_seat_of_its_own() {
    if !ActionGroup::make(1 << 30, 1).is_ok_and(|group| group.has_seats()) {
        eprintln!("skipped: the processors cannot be shared out here");
        return;
    }
    let node = Node::builder().arguments(&["--slots", "2"]).start();
    let client = node.client().await;
    let tell = |salt| {
        let script = "cat /proc/self/cgroup > out; sleep 1";
        ActionBuilder::sh(script).outputs(&["out"]).salt(salt).do_not_cache()
    };
    let (one, other) = (tell("one"), tell("other"));
    let (one, other) = tokio::join!(one.run(&client), other.run(&client));
    let mut seats = Vec::new();
    for outcome in [one, other] {
        outcome.success();
        let groups = String::from_utf8(outcome.output(&client, "out").await).unwrap();
        let own = format!("/farmhand-{}/", node.pid());
        let seat = groups.lines().find_map(|line| Some(line.split_once(&own)?.1.to_owned()));
        seats.push(seat.unwrap_or_else(|| panic!("no seat in {groups}")));
    }
    assert_ne!(seats[0], seats[1]);
}

#[tokio::test]
async fn a_memory_hog_is_what_the_kernel_ends() {
    if let Err(error) = ActionGroup::make(1 << 30, 1) {
        eprintln!("skipped: {error}");
        return;
    }
    let node = Node::builder().arguments(&["--slots", "2", "--action-memory", "192MiB"]).start();
    let client = node.client().await;
    // tail keeps the last line, and this one never ends.
    let hog = ActionBuilder::sh("tail -n 1 /dev/zero").timeout_ms(60_000).do_not_cache();
    let beside = ActionBuilder::sh("sleep 1; echo fine").do_not_cache();
    let (hogged, beside) = tokio::join!(hog.run(&client), beside.run(&client));
    assert_ne!(hogged.result().exit_code, 0);
    assert_eq!(hogged.code(), Code::Ok as i32, "{:?}", hogged.response);
    assert!(hogged.response.message.contains("action-memory"), "{:?}", hogged.response);
    beside.success();
    // What lies in memory as files counts too, and is as little a danger.
    let filler = "head -c 400M /dev/zero > /tmp/a; tail -n 1 /dev/zero";
    let filled = ActionBuilder::sh(filler).timeout_ms(60_000).do_not_cache().run(&client).await;
    assert_ne!(filled.result().exit_code, 0);
    others_run(&client, "after the hog").await;
}

#[tokio::test]
async fn what_lies_in_memory_has_a_size() {
    let node = Node::builder().arguments(&["--action-tmp", "8MiB"]).start();
    let client = node.client().await;
    for directory in ["/tmp", "/dev/shm"] {
        let script =
            format!("head -c 4M /dev/zero > {directory}/a && ! head -c 8M /dev/zero > {directory}/b");
        let outcome = ActionBuilder::sh(&script).salt(directory).run(&client).await;
        if node.cli(&["status", "--json"]).stdout.windows(17).any(|text| text == b"without a sandbox") {
            eprintln!("skipped: without a sandbox /tmp is the host's");
            return;
        }
        outcome.success();
        assert!(outcome.stderr(&client).await.contains("No space left"));
    }
}

#[tokio::test]
async fn who_fills_the_disk_is_ended_before_it_is_full() {
    let place = tempfile::tempdir().unwrap();
    let reserve = mib((free_bytes(place.path()) >> 20).saturating_sub(192));
    let node = Node::builder().arguments(&["--slots", "2", "--disk-reserve", &reserve]).start();
    let client = node.client().await;
    let filler = "i=0; while :; do i=$((i + 1)); head -c 8M /dev/zero > filler.$i; sleep 0.01; done";
    let filler = ActionBuilder::sh(filler).timeout_ms(60_000).do_not_cache();
    let modest = ActionBuilder::sh("sleep 1; echo fine > out").outputs(&["out"]).do_not_cache();
    let (filled, modest) = tokio::join!(filler.run(&client), modest.run(&client));
    assert_eq!(filled.code(), Code::ResourceExhausted as i32, "{:?}", filled.response);
    let message = filled.response.status.unwrap().message;
    assert!(message.contains("disk-reserve"), "{message}");
    modest.success();
    let scratch = node.data_dir().join("scratch/runs");
    eventually("what it wrote is gone", || {
        let entries = std::fs::read_dir(&scratch).unwrap();
        entries.count() == 0
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_output_takes_no_memory() {
    let node = Node::start();
    let client = node.client().await;
    others_run(&client, "before").await;
    let before = resident(node.pid());
    let flood = ActionBuilder::sh("head -c 256M /dev/zero; head -c 64M /dev/zero >&2").do_not_cache();
    let outcome = flood.run(&client).await;
    outcome.success();
    assert_eq!(outcome.result().stdout_digest.as_ref().unwrap().size_bytes, 256 << 20);
    let grown = resident(node.pid()).saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes more");
}

#[tokio::test]
async fn signals_reach_nobody_else() {
    let node = Node::builder().arguments(&["--slots", "2"]).start();
    let client = node.client().await;
    let bystander = ActionBuilder::sh("sleep 1; echo fine").do_not_cache();
    let killer = "trap '' TERM; kill -9 1; kill -STOP 1; kill -TERM -1; echo alive";
    let killer = ActionBuilder::sh(killer).do_not_cache();
    let (bystander, killer) = tokio::join!(bystander.run(&client), killer.run(&client));
    bystander.success();
    assert_eq!(killer.stdout(&client).await, "alive\n");
    let suicide = ActionBuilder::sh("kill -9 -1; kill -9 $$").do_not_cache().run(&client).await;
    assert_eq!(suicide.result().exit_code, 128 + 9);
    others_run(&client, "after the signals").await;
}

#[tokio::test]
async fn the_node_and_its_store_are_out_of_reach() {
    let node = Node::start();
    let client = node.client().await;
    let port = node.address.port();
    let probe = format!(
        "for path in {data} {run} /root /home /etc/shadow; do [ -e $path ] && echo sees $path; done; \
         if bash -c ': < /dev/tcp/127.0.0.1/{port}' 2> /dev/null; then echo connects; fi; \
         ls /proc | grep -c '^1$'; [ -r /proc/1/environ ] && echo reads; exit 0",
        data = node.data_dir().display(),
        run = node.runtime_dir().display(),
    );
    let outcome = ActionBuilder::sh(&probe).do_not_cache().run(&client).await;
    outcome.success();
    assert_eq!(outcome.stdout(&client).await, "0\n");
}

#[tokio::test]
async fn daemons_end_with_their_action() {
    let node = Node::start();
    let client = node.client().await;
    let daemon =
        "for i in 1 2 3; do setsid sh -c 'trap \"\" HUP TERM; exec sleep 27182818' > /dev/null 2>&1 & done";
    ActionBuilder::sh(daemon).do_not_cache().run(&client).await.success();
    assert!(!is_running("27182818"), "a daemon outlived its action");
    tokio::time::timeout(Duration::from_secs(60), others_run(&client, "after the daemons")).await.unwrap();
}
