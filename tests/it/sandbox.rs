//! The process side of execution, through the library: real spawner processes, real namespaces.
//!
//! Where the kernel forbids the sandbox, its tests say so and pass. As root, all of them run
//! a second time as an ordinary user.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod bench;
mod isolation;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use farmhand::worker::sandbox::Mode;
use farmhand::worker::{Outcome, RunError, Runner};
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::bench::{Bench, kill, marked, parent, unique_nap, until};

/// Defines each test for both modes.
macro_rules! in_both_modes {
    ($($name:ident)*) => {
        mod sandboxed {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(bench) = super::Bench::new(super::Mode::Sandbox, 1).await {
                    super::$name(&bench).await;
                    bench.pool.stop().await;
                }
            })*
        }
        mod plain {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let bench = super::Bench::new(super::Mode::Plain, 1).await.unwrap();
                super::$name(&bench).await;
                bench.pool.stop().await;
            })*
        }
    };
}

in_both_modes! {
    exit_codes_pass_through
    death_by_signal_is_told
    output_is_captured_apart
    stdin_is_empty_and_there_is_no_terminal
    the_environment_is_exactly_the_commands
    a_program_without_a_slash_is_searched_in_path
    what_cannot_be_executed_is_the_fault_of_the_command
    the_working_directory_is_below_the_input_root
    long_arguments_arrive
    what_is_left_behind_is_killed
    time_over_kills_whatever_ignores_signals
    cancelling_kills_everything
    a_lost_spawner_is_told_and_replaced
    a_spawner_that_dies_idle_is_replaced
    seats_come_and_go
    dropping_a_run_leaves_nothing
    limits_hold
    use_is_counted
    guests_stand_back
    guests_stand_still_when_told
    a_guest_that_stands_still_dies_at_once
    actions_run_side_by_side
}

async fn exit_codes_pass_through(bench: &Bench) {
    for code in [0, 1, 7, 255] {
        let done = bench.run(bench.shell(&format!("exit {code}"))).await;
        assert_eq!(done.outcome(), Outcome::Exited(code));
    }
}

async fn death_by_signal_is_told(bench: &Bench) {
    for signal in [9, 15, 6] {
        let done = bench.run(bench.shell(&format!("kill -{signal} $$; sleep 60"))).await;
        assert_eq!(done.outcome(), Outcome::Signaled(signal));
    }
    // Neither ignored nor blocked signals are inherited.
    let dispositions = bench.run(bench.shell("grep -E 'Sig(Blk|Ign)' /proc/self/status")).await.stdout;
    assert_eq!(dispositions.matches("0000000000000000").count(), 2, "{dispositions}");
}

async fn output_is_captured_apart(bench: &Bench) {
    let done = bench.run(bench.shell("printf 'a\\0b'; printf c >&2; printf d")).await;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("a\0bd", "c"));
}

async fn stdin_is_empty_and_there_is_no_terminal(bench: &Bench) {
    let script = "cat; ls -l /proc/self/fd | wc -l; (: </dev/tty) 2>/dev/null && echo terminal; \
                  test $(ps -o sid= -p $$) = $$ && echo leads; umask";
    let done = bench.run(bench.shell(script)).await;
    // A total, three streams and the directory that is being listed.
    assert_eq!(done.stdout, "5\nleads\n0022\n");
}

async fn the_environment_is_exactly_the_commands(bench: &Bench) {
    let action = bench.action(["/usr/bin/env"]).set(|command| {
        command.environment = vec![("B".into(), "2".into()), ("A".into(), "x=y z".into())];
    });
    assert_eq!(bench.run(action).await.stdout, "B=2\nA=x=y z\n");
}

async fn a_program_without_a_slash_is_searched_in_path(bench: &Bench) {
    let with_path = |path: &str| {
        let path = path.to_owned();
        bench
            .action(["tool"])
            .input("first/tool", "not executable", 0o644)
            .input("second/tool", "#!/bin/sh\necho second", 0o755)
            .set(|command| command.environment = vec![("PATH".into(), path.into())])
    };
    assert_eq!(bench.run(with_path("/nowhere:first:second")).await.stdout, "second\n");
    assert_eq!(bench.run(with_path("first")).await.program_error(), Some(libc::EACCES));
    // Without PATH, the usual places.
    let action = bench.action(["true"]).set(|command| command.environment.clear());
    assert_eq!(bench.run(action).await.outcome(), Outcome::Exited(0));
}

async fn what_cannot_be_executed_is_the_fault_of_the_command(bench: &Bench) {
    for (program, errno) in [
        ("nosuch", libc::ENOENT),
        ("./nosuch", libc::ENOENT),
        ("/usr", libc::EACCES),
        ("./data", libc::EACCES),
        ("./script", libc::ENOENT),
        ("./text", libc::ENOEXEC),
    ] {
        let action = bench
            .action([program])
            .input("data", "x", 0o644)
            .input("script", "#!/no/such/interpreter\n", 0o755)
            .input("text", "no program", 0o755);
        assert_eq!(bench.run(action).await.program_error(), Some(errno), "{program}");
    }
    assert_eq!(bench.run(bench.action(["a\0b"])).await.program_error(), Some(libc::EINVAL));
    assert_eq!(bench.run(bench.action(Vec::<String>::new())).await.program_error(), Some(libc::ENOENT));
    exit_codes_pass_through(bench).await;
}

async fn the_working_directory_is_below_the_input_root(bench: &Bench) {
    let action = bench
        .action(["./tool"])
        .input("a/b/tool", "#!/bin/sh\npwd; cat ../../c", 0o755)
        .input("c", "text", 0o644)
        .set(|command| command.working_directory = "a/b".into());
    let done = bench.run(action).await;
    assert!(done.stdout.ends_with("a/b\ntext"), "{} {}", done.stdout, done.stderr);
    let action = bench.shell("pwd").set(|command| command.working_directory = "none".into());
    let result = bench.run(action).await.result;
    assert!(matches!(result, Err(RunError::WorkingDirectory { .. })), "{result:?}");
}

async fn long_arguments_arrive(bench: &Bench) {
    let mut arguments = vec!["sh".to_owned(), "-c".into(), "printf '%s' \"$@\" | wc -c".into(), "sh".into()];
    arguments.extend((0..10_000).map(|_| "x".repeat(100)));
    arguments.push(String::new());
    assert_eq!(bench.run(bench.action(arguments)).await.stdout, "1000000\n");
    let too_long = ["true".to_owned(), "x".repeat(3 << 20)];
    assert_eq!(bench.run(bench.action(too_long)).await.program_error(), Some(libc::E2BIG));
}

/// A script that starts processes that try to get away, all sleeping for `nap`.
fn escapes(nap: &str) -> String {
    format!(
        "trap '' TERM HUP INT
         sleep {nap} &
         nohup sleep {nap} >/dev/null 2>&1 &
         setsid sleep {nap} &
         setsid sh -c 'sleep {nap} & sleep {nap} & wait' &
         (setsid sh -c '(trap \"\" TERM HUP; sleep {nap}) &' &)
         while [ $(ps ax | grep -c '[s]leep {nap}$') -lt 6 ]; do sleep 0.01; done
         echo started"
    )
}

async fn what_is_left_behind_is_killed(bench: &Bench) {
    let nap = unique_nap();
    let done = bench.run(bench.shell(&escapes(&nap))).await;
    assert_eq!((done.outcome(), done.stdout.as_str()), (Outcome::Exited(0), "started\n"), "{}", done.stderr);
    assert_eq!(marked(&nap), [0_u32; 0]);
}

async fn time_over_kills_whatever_ignores_signals(bench: &Bench) {
    let nap = unique_nap();
    let script = format!("{}; sleep {nap}", escapes(&nap));
    let action =
        bench.shell(&script).set(|command| command.limits.timeout = Some(Duration::from_millis(1500)));
    let done = bench.run(action).await;
    assert_eq!((done.outcome(), done.stdout.as_str()), (Outcome::TimedOut, "started\n"));
    assert!(done.exit().wall >= Duration::from_millis(1500));
    assert_eq!(marked(&nap), [0_u32; 0]);
    exit_codes_pass_through(bench).await;
}

async fn cancelling_kills_everything(bench: &Bench) {
    let nap = unique_nap();
    let cancel = CancellationToken::new();
    let run = bench.run_until(bench.shell(&format!("{}; sleep {nap}", escapes(&nap))), cancel.clone());
    let (done, ()) = tokio::join!(run, async {
        until("the action runs", || marked(&nap).len() >= 7).await;
        cancel.cancel();
    });
    assert_eq!(done.outcome(), Outcome::Cancelled);
    assert_eq!(marked(&nap), [0_u32; 0]);
    // Cancelled before it began.
    let done = bench.run_until(bench.shell("echo ran"), cancel).await;
    assert_eq!((done.outcome(), done.stdout.as_str()), (Outcome::Cancelled, ""));
    exit_codes_pass_through(bench).await;
}

/// A command of another machine, and what makes it stand still.
fn guest(bench: &Bench, script: &str) -> (bench::Action, watch::Sender<bool>) {
    let (still, told) = watch::channel(false);
    (bench.shell(script).set(|command| command.guest = Some(told)), still)
}

async fn guests_stand_back(bench: &Bench) {
    // Niceness, and the class of I/O where there is the tool to tell it.
    let script = "sh -c 'cut -d\" \" -f19 /proc/self/stat; ! command -v ionice >/dev/null || ionice'";
    let usual = bench.run(bench.shell(script)).await.stdout;
    let (action, _still) = guest(bench, script);
    let stdout = bench.run(action).await.stdout;
    let mut lines = stdout.lines();
    assert_eq!(lines.next(), Some("10"));
    assert!(lines.next().is_none_or(|class| class == "idle"), "{stdout}");
    // The next one of the machine's own is as those before.
    assert_eq!(bench.run(bench.shell(script)).await.stdout, usual);
    assert!(!usual.starts_with("10\n") && !usual.contains("idle"), "{usual}");
}

/// Whether all processes with this mark are stopped.
fn is_stopped(mark: &str) -> bool {
    let state = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let marked = marked(mark);
    !marked.is_empty() && marked.iter().all(|pid| state(pid).contains(") T "))
}

async fn guests_stand_still_when_told(bench: &Bench) {
    let nap = unique_nap();
    // More than the time limit goes by while it stands still.
    let script = format!(
        "trap 'echo went; exit' USR1; sleep {nap} & setsid sleep {nap} & while :; do sleep 0.01; done"
    );
    let (action, still) = guest(bench, &script);
    let action = action.set(|command| command.limits.timeout = Some(Duration::from_secs(4)));
    let (done, ()) = tokio::join!(bench.run(action), async {
        until("the action runs", || marked(&nap).len() >= 2).await;
        still.send(true).unwrap();
        until("it stands still", || is_stopped(&nap)).await;
        tokio::time::sleep(Duration::from_millis(4200)).await;
        let shell = marked(&script)[0].to_string();
        assert!(Command::new("kill").args(["-USR1", &shell]).status().unwrap().success());
        assert!(is_stopped(&nap));
        still.send(false).unwrap();
    });
    assert_eq!((done.outcome(), done.stdout.as_str()), (Outcome::Exited(0), "went\n"));
    assert!(done.exit().wall < Duration::from_secs(4));
    assert_eq!(marked(&nap), [0_u32; 0]);
    exit_codes_pass_through(bench).await;
}

async fn a_guest_that_stands_still_dies_at_once(bench: &Bench) {
    let nap = unique_nap();
    // A shell starts what it waits for by vfork(2), and until the child executes something the kernel has
    // the parent wait rather than be stopped. Commands in the background are started by fork(2).
    let script = format!("trap '' TERM; sleep {nap} & sleep {nap} & wait");
    let (action, still) = guest(bench, &script);
    still.send(true).unwrap();
    let cancel = CancellationToken::new();
    let (done, ()) = tokio::join!(bench.run_until(action, cancel.clone()), async {
        until("it stands still from the beginning", || is_stopped(&script)).await;
        cancel.cancel();
    });
    assert_eq!(done.outcome(), Outcome::Cancelled);
    assert_eq!([marked(&script), marked(&nap)].concat(), [0_u32; 0]);
}

async fn a_lost_spawner_is_told_and_replaced(bench: &Bench) {
    // Once the spawner itself is killed, once its guardian.
    for generations in [1, 2] {
        let nap = unique_nap();
        let script =
            format!("setsid sleep {nap} & setsid sh -c 'setsid sleep {nap} & wait' & exec sleep {nap}");
        let run = bench.run(bench.shell(&script));
        let (done, ()) = tokio::join!(run, async {
            until("the action runs", || marked(&nap).len() == 3).await;
            let mut victim = main_of(&nap);
            for _ in 0..generations {
                victim = parent(victim);
            }
            kill(victim);
        });
        assert!(matches!(done.result, Err(RunError::SpawnerLost)), "{:?}", done.result);
        if generations == 1 {
            assert_eq!(marked(&nap), [0_u32; 0], "told when nothing is left");
        } else if bench.mode == Mode::Sandbox {
            until("everything is gone", || marked(&nap).is_empty()).await;
        } else {
            marked(&nap).into_iter().for_each(kill);
        }
        exit_codes_pass_through(bench).await;
    }
}

/// The main process of the action that sleeps for `nap`: the spawner is its parent.
fn main_of(nap: &str) -> u32 {
    let is_spawner =
        |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"farmhand-spawner");
    marked(nap).into_iter().find(|pid| is_spawner(parent(*pid))).unwrap()
}

async fn a_spawner_that_dies_idle_is_replaced(bench: &Bench) {
    let nap = unique_nap();
    let cancel = CancellationToken::new();
    let mut spawner = 0;
    let run = bench.run_until(bench.action(["sleep", &nap]), cancel.clone());
    tokio::join!(run, async {
        until("the action runs", || !marked(&nap).is_empty()).await;
        spawner = parent(marked(&nap)[0]);
        cancel.cancel();
    });
    kill(spawner);
    until("the spawner is gone", || !Path::new(&format!("/proc/{spawner}")).exists()).await;
    exit_codes_pass_through(bench).await;
}

async fn seats_come_and_go(bench: &Bench) {
    let first = bench.pool.seat().await.unwrap();
    assert!(bench.pool.seat().now_or_never().is_none(), "there is one only");
    bench.pool.resize(3).await.unwrap();
    let more = [bench.pool.seat().await.unwrap(), bench.pool.seat().await.unwrap()];
    assert!(bench.pool.seat().now_or_never().is_none(), "there are three only");
    bench.pool.resize(1).await.unwrap();
    drop(more);
    assert!(bench.pool.seat().now_or_never().is_none(), "the only one is taken");
    drop(first);
    exit_codes_pass_through(bench).await;
}

async fn dropping_a_run_leaves_nothing(bench: &Bench) {
    let nap = unique_nap();
    let script = format!("{}; sleep {nap}", escapes(&nap));
    {
        let run = bench.run(bench.shell(&script));
        tokio::select! {
            done = run => panic!("ended: {:?}", done.result),
            () = until("the action runs", || marked(&nap).len() >= 7) => {}
        }
    }
    until("everything is gone", || marked(&nap).is_empty()).await;
    exit_codes_pass_through(bench).await;
}

async fn limits_hold(bench: &Bench) {
    let action = bench.shell("ulimit -n; ulimit -c; head -c 200000 /dev/zero >big; echo $?").set(|command| {
        command.limits.open_files = Some(77);
        command.limits.file_size = Some(100_000);
    });
    let done = bench.run(action).await;
    // 153 = 128 + SIGXFSZ.
    assert_eq!(done.stdout, "77\n0\n153\n");
    assert_eq!(fs::metadata(done.upper.join("big")).unwrap().len(), 100_000);
}

async fn use_is_counted(bench: &Bench) {
    let done = bench.run(bench.shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")).await;
    let exit = done.exit();
    assert!(exit.usage.user > Duration::from_millis(1), "{exit:?}");
    assert!(exit.usage.max_rss > 100_000, "{exit:?}");
    assert!(exit.wall >= exit.usage.user / 2, "{exit:?}");
}

async fn actions_run_side_by_side(bench: &Bench) {
    let Some(wide) = Bench::new(bench.mode, 3).await else { return };
    let all = (0..20).map(|number| {
        let wide = &wide;
        async move { wide.output_of(&format!("echo {number} >out; sleep 0.01; cat out")).await }
    });
    let printed = futures_util::future::join_all(all).await;
    assert_eq!(printed, (0..20).map(|number| format!("{number}\n")).collect::<Vec<_>>());
    wide.pool.stop().await;
    let refused = wide.run(wide.shell("true")).await.result;
    assert!(matches!(refused, Err(RunError::Setup { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_leaves_nothing() {
    // The daemon's part is played by a copy of this test program, see the next test. What it
    // leaves in the file system goes with this directory.
    let files = tempfile::tempdir().unwrap();
    let marker = unique_nap();
    for mode in ["sandbox", "plain"] {
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .args(["sandbox::plays_the_daemon", "--exact", "--nocapture"])
            .env("PLAY_DAEMON", mode)
            .env("PLAY_MARKER", &marker)
            .env("TMPDIR", files.path())
            .spawn()
            .unwrap();
        until("the action runs, or there is no sandbox", || {
            marked(&marker).len() >= 6 || daemon.try_wait().unwrap().is_some()
        })
        .await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        until("everything is gone", || marked(&marker).is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plays_the_daemon() {
    let (Ok(mode), Ok(marker)) = (std::env::var("PLAY_DAEMON"), std::env::var("PLAY_MARKER")) else { return };
    let mode = if mode == "plain" { Mode::Plain } else { Mode::Sandbox };
    let Some(bench) = Bench::new(mode, 1).await else { return };
    bench.run(bench.shell(&format!("{}; sleep {marker}", escapes(&marker)))).await;
}

#[test]
fn all_of_this_works_for_an_ordinary_user() {
    const NOBODY: &str = "65534";
    let tests = std::env::current_exe().unwrap();
    let command = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(&tests);
        command
    };
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    if !command().arg("--list").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: an ordinary user cannot run {}", tests.display());
        return;
    }
    let output = command()
        .args(["sandbox::", "--skip", "ordinary_user", "--test-threads", "2"])
        .current_dir("/")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
