//! The process side of execution, through the library: real spawner processes, real namespaces.
//!
//! Where the kernel forbids the sandbox, its tests say so and pass. As root, all of them run
//! a second time as an ordinary user.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use farmhand::worker::sandbox::{Mode, SpawnerConfig, SpawnerPool, probe};
use farmhand::worker::{
    Exit, InputRoot, Limits, Network, Outcome, Overlay, PreparedCommand, RunError, Runner,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Where sandboxed actions of these tests have their input root.
const AT: &str = "/build";

/// Time after which a test gives up on something that should happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pool and a place for the files of actions.
struct Bench {
    pool: SpawnerPool,
    mode: Mode,
    files: TempDir,
}

/// One action under construction.
struct Action {
    command: PreparedCommand,
    directory: PathBuf,
}

/// What came of an action.
struct Done {
    result: Result<Exit, RunError>,
    stdout: String,
    stderr: String,
    /// Where its writes are.
    upper: PathBuf,
}

// === impl Bench ===

impl Bench {
    async fn new(mode: Mode, slots: usize) -> Option<Self> {
        let files = TempDir::new().unwrap();
        let executable = PathBuf::from(env!("CARGO_BIN_EXE_farmhand"));
        if mode == Mode::Sandbox {
            let support = probe(&executable, files.path()).await.unwrap();
            if !support.is_complete() {
                eprintln!("skipped: no sandbox here: {support:?}");
                return None;
            }
        }
        let config = SpawnerConfig { executable, slots, mode, shown: Vec::new() };
        Some(Self { pool: SpawnerPool::start(config).await.unwrap(), mode, files })
    }

    async fn sandbox() -> Option<Self> {
        Self::new(Mode::Sandbox, 1).await
    }

    /// An action with an empty input root.
    fn action<S: Into<OsString>>(&self, arguments: impl IntoIterator<Item = S>) -> Action {
        let directory = tempfile::Builder::new().tempdir_in(self.files.path()).unwrap().keep();
        for name in ["lower", "upper", "work", "plain"] {
            fs::create_dir(directory.join(name)).unwrap();
        }
        let root = match self.mode {
            Mode::Sandbox => InputRoot::Mounted { at: AT.into(), overlay: overlay(&directory) },
            Mode::Plain => InputRoot::Plain { directory: directory.join("plain") },
        };
        let command = PreparedCommand {
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            root,
            working_directory: PathBuf::new(),
            stdout: File::create(directory.join("stdout")).unwrap(),
            stderr: File::create(directory.join("stderr")).unwrap(),
            limits: Limits::default(),
            network: Network::Loopback,
            ids: (1000, 1000),
        };
        Action { command, directory }
    }

    fn shell(&self, script: &str) -> Action {
        self.action(["sh", "-c", script])
    }

    async fn run(&self, action: Action) -> Done {
        self.run_until(action, CancellationToken::new()).await
    }

    async fn run_until(&self, action: Action, cancel: CancellationToken) -> Done {
        let Action { command, directory } = action;
        let result = tokio::time::timeout(4 * PATIENCE, self.pool.run(command, cancel)).await.unwrap();
        let read = |name| String::from_utf8_lossy(&fs::read(directory.join(name)).unwrap()).into_owned();
        let upper = if self.mode == Mode::Sandbox { "upper" } else { "plain" };
        Done { result, stdout: read("stdout"), stderr: read("stderr"), upper: directory.join(upper) }
    }

    /// Runs a shell script that has to succeed, and returns what it printed.
    async fn output_of(&self, script: &str) -> String {
        let done = self.run(self.shell(script)).await;
        assert_eq!(done.outcome(), Outcome::Exited(0), "{}{}", done.stdout, done.stderr);
        done.stdout
    }
}

fn overlay(directory: &Path) -> Overlay {
    Overlay {
        lower: vec![directory.join("lower")],
        upper: directory.join("upper"),
        work: directory.join("work"),
        read_only: Vec::new(),
    }
}

// === impl Action ===

impl Action {
    fn set(mut self, change: impl FnOnce(&mut PreparedCommand)) -> Self {
        change(&mut self.command);
        self
    }

    /// Writes an input file.
    fn input(self, path: &str, content: &str, mode: u32) -> Self {
        let root = match self.command.root {
            InputRoot::Plain { .. } => "plain",
            _ => "lower",
        };
        let path = self.directory.join(root).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn overlay(&mut self) -> &mut Overlay {
        match &mut self.command.root {
            InputRoot::Mounted { overlay, .. } | InputRoot::Filesystem { overlay } => overlay,
            InputRoot::Plain { .. } => panic!("a plain action has no overlay"),
        }
    }
}

// === impl Done ===

impl Done {
    fn exit(&self) -> &Exit {
        self.result.as_ref().unwrap_or_else(|error| panic!("{error}: {}", self.stderr))
    }

    fn outcome(&self) -> Outcome {
        self.exit().outcome
    }

    fn program_error(&self) -> Option<i32> {
        match &self.result {
            Err(RunError::Program { source, .. }) => source.raw_os_error(),
            other => panic!("{other:?}"),
        }
    }
}

// === processes of the host ===

/// Ids of the host's processes that have `marker` among their arguments.
fn marked(marker: &str) -> Vec<u32> {
    let has = |pid: u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes())
    };
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(|pid| has(*pid)).collect()
}

fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A number of seconds to sleep that no other process sleeps, so that it can be found.
fn unique_nap() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{:03}", 100_000 + std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

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
    dropping_a_run_leaves_nothing
    limits_hold
    use_is_counted
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
    assert!(matches!(result, Err(RunError::Setup { .. })), "{result:?}");
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
    assert!(marked(&nap).is_empty());
}

async fn time_over_kills_whatever_ignores_signals(bench: &Bench) {
    let nap = unique_nap();
    let script = format!("{}; sleep {nap}", escapes(&nap));
    let action =
        bench.shell(&script).set(|command| command.limits.timeout = Some(Duration::from_millis(1500)));
    let done = bench.run(action).await;
    assert_eq!((done.outcome(), done.stdout.as_str()), (Outcome::TimedOut, "started\n"));
    assert!(done.exit().wall >= Duration::from_millis(1500));
    assert!(marked(&nap).is_empty());
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
    assert!(marked(&nap).is_empty());
    // Cancelled before it began.
    let done = bench.run_until(bench.shell("echo ran"), cancel).await;
    assert_eq!((done.outcome(), done.stdout.as_str()), (Outcome::Cancelled, ""));
    exit_codes_pass_through(bench).await;
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
            let main = marked(&nap).into_iter().min_by_key(|pid| (*pid != main_of(&nap), *pid)).unwrap();
            let mut victim = main;
            for _ in 0..generations {
                victim = parent(victim);
            }
            kill(victim);
        });
        assert!(matches!(done.result, Err(RunError::SpawnerLost)), "{:?}", done.result);
        if generations == 1 {
            assert!(marked(&nap).is_empty(), "told when nothing is left");
        } else if bench.mode == Mode::Sandbox {
            until("everything is gone", || marked(&nap).is_empty()).await;
        } else {
            marked(&nap).into_iter().for_each(kill);
        }
        exit_codes_pass_through(bench).await;
    }
}

/// The process that sleeps for `nap` and whose parent does so not at once: the action's main process
/// is a child of the spawner.
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

// === what only a sandbox does ===

#[tokio::test(flavor = "multi_thread")]
async fn only_the_toolchain_of_the_host_is_visible() {
    let Some(bench) = Bench::sandbox().await else { return };
    let listed =
        bench.output_of("ls -A / /etc /dev; cat /etc/passwd /etc/hosts /etc/hostname; hostname; id").await;
    for absent in ["root\n", "home", "shadow", "resolv.conf", "old_root", "mnt", "sys\n", "kvm"] {
        assert!(
            !listed.lines().any(|line| format!("{line}\n") == absent || line == absent),
            "{absent}: {listed}"
        );
    }
    for present in ["usr", "ld.so.cache", "farmhand", "urandom", "127.0.0.1\tlocalhost farmhand"] {
        assert!(listed.lines().any(|line| line == present), "{present}: {listed}");
    }
    assert!(listed.contains("uid=1000(farmhand) gid=1000(farmhand)"), "{listed}");
    let mounts = bench.output_of("cat /proc/self/mountinfo").await;
    assert!(!mounts.contains(&*bench.files.path().to_string_lossy()), "{mounts}");
    assert!(!mounts.contains(" / /tmp rw,relatime shared"), "{mounts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_host_can_be_changed() {
    let Some(bench) = Bench::sandbox().await else { return };
    for ids in [(0, 0), (1000, 1000)] {
        let script = "for path in /usr/x /x /etc/x /dev/x /bin/x /var/x /run/x; do
                          touch $path 2>/dev/null && echo wrote $path
                      done
                      for path in /dev/null /usr/bin /etc/passwd; do
                          chmod 0700 $path 2>/dev/null && echo changed $path
                      done
                      echo x 2>/dev/null >/proc/sysrq-trigger && echo sysrq
                      echo 1 2>/dev/null >/proc/sys/kernel/printk && echo sysctl
                      mount -o remount,rw / 2>/dev/null && echo remounted
                      umount /tmp 2>/dev/null && echo unmounted
                      ip link set lo down 2>/dev/null && echo network
                      hostname other 2>/dev/null && echo renamed
                      kill -9 1 2>/dev/null; kill -STOP 1 2>/dev/null
                      ls -d /proc/1 2>/dev/null
                      grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status";
        let done = bench.run(bench.shell(script).set(|command| command.ids = ids)).await;
        let lines: Vec<_> =
            done.stdout.lines().map(|line| line.split_once('\t').unwrap_or((line, ""))).collect();
        let none = "0000000000000000";
        let expected =
            [("CapInh:", none), ("CapPrm:", none), ("CapEff:", none), ("CapBnd:", none), ("CapAmb:", none)];
        assert_eq!(lines[..5.min(lines.len())], expected, "{}", done.stdout);
        assert_eq!(lines[5..], [("NoNewPrivs:", "1")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_to_the_upper_layer_alone() {
    let Some(bench) = Bench::sandbox().await else { return };
    let script =
        "echo new >fresh; echo more >>input; chmod 0600 locked; rm gone; mkdir dir; echo x >tree/new";
    let action = bench
        .shell(script)
        .input("input", "text\n", 0o644)
        .input("locked", "1", 0o444)
        .input("gone", "2", 0o444)
        .input("tree/old", "3", 0o444);
    let lower = action.directory.join("lower");
    let work = action.directory.join("work");
    let done = bench.run(action).await;
    assert_eq!(done.outcome(), Outcome::Exited(0), "{}", done.stderr);
    let text = |path: PathBuf| fs::read_to_string(path).unwrap();
    assert_eq!(text(done.upper.join("fresh")), "new\n");
    assert_eq!(text(done.upper.join("input")), "text\nmore\n");
    assert_eq!(text(done.upper.join("tree/new")), "x\n");
    assert!(!done.upper.join("tree/old").exists());
    assert_eq!(text(lower.join("input")), "text\n");
    assert_eq!(text(lower.join("gone")), "2");
    assert_eq!(fs::metadata(lower.join("locked")).unwrap().permissions().mode() & 0o777, 0o444);
    assert!(!lower.join("fresh").exists() && !lower.join("tree/new").exists());
    // What the action made belongs to the user of the daemon, who can remove it and the work directory.
    assert_eq!(fs::metadata(done.upper.join("fresh")).unwrap().uid(), fs::metadata(&lower).unwrap().uid());
    fs::remove_dir_all(&work).unwrap();
    fs::remove_dir_all(&done.upper).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_stacked_and_read_only_parts_stay() {
    let Some(bench) = Bench::sandbox().await else { return };
    let mut action = bench
        .shell("cat file only; echo x >fixed/new; echo x >>fixed/old; echo x >free || exit 3; rmdir fixed")
        .input("file", "upper layer\n", 0o644)
        .input("fixed/old", "", 0o644);
    let second = action.directory.join("second, with: odd \\ name");
    fs::create_dir(&second).unwrap();
    fs::write(second.join("file"), "hidden\n").unwrap();
    fs::write(second.join("only"), "lower layer\n").unwrap();
    action.overlay().lower.push(second);
    action.overlay().read_only.push("fixed".into());
    let done = bench.run(action).await;
    assert_eq!(done.stdout, "upper layer\nlower layer\n", "{}", done.stderr);
    assert_eq!(done.stderr.matches("Read-only file system").count(), 2, "{}", done.stderr);
    assert!(done.upper.join("free").exists() && !done.upper.join("fixed/new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn private_directories_are_empty_for_each_action() {
    let Some(bench) = Bench::sandbox().await else { return };
    let script = "ls -A /tmp /dev/shm /var/tmp; ls -d /[a-z]*; echo x >/tmp/x; echo x >/dev/shm/x; ipcmk -M 10 >/dev/null; \
                  ipcs -m | grep -c 0x; echo '#!/bin/sh' >/tmp/run; chmod +x /tmp/run; /tmp/run";
    let first = bench.output_of(script).await;
    assert_eq!(bench.output_of(script).await, first);
    // Another mount point: the old one is gone.
    let action = bench.shell("pwd; ls -d /build").set(|command| {
        let InputRoot::Mounted { at, .. } = &mut command.root else { panic!("mounted") };
        *at = "/tmp/deep/er".into();
    });
    let done = bench.run(action).await;
    assert_eq!(done.stdout, "/tmp/deep/er\n");
    assert_eq!(bench.output_of(script).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_loopback_or_the_hosts() {
    let Some(bench) = Bench::sandbox().await else { return };
    let interfaces = "sed 's/:.*//' /proc/net/dev | tail -n +3 | tr -d ' '";
    let own = "python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0)); \
               c = socket.create_connection(s.getsockname()); print(s.accept()[1][0])'";
    // A connection that lingers must not be seen by the next action.
    for _ in 0..3 {
        let seen = format!("{interfaces}; wc -l </proc/net/tcp; {own}");
        assert_eq!(bench.output_of(&seen).await, "lo\n1\n127.0.0.1\n");
    }
    let host = Command::new("sh").args(["-c", interfaces]).output().unwrap();
    let action = bench
        .shell(&format!("{interfaces}; test -e /etc/resolv.conf && echo resolver >&2"))
        .set(|command| command.network = Network::Host);
    let done = bench.run(action).await;
    assert_eq!(done.stdout.as_bytes(), host.stdout);
    assert_eq!(done.stderr.contains("resolver"), Path::new("/etc/resolv.conf").exists());
    assert_eq!(bench.run(bench.shell("ls /etc/resolv.conf")).await.outcome(), Outcome::Exited(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_as_asked() {
    let Some(bench) = Bench::sandbox().await else { return };
    for ids in [(0, 0), (1000, 1000), (1234, 4321)] {
        let action =
            bench.shell("id -u; id -g; stat -c %u:%g .; touch mine").set(|command| command.ids = ids);
        let expected = format!("{0}\n{1}\n{0}:{1}\n", ids.0, ids.1);
        assert_eq!(bench.run(action).await.stdout, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_ends_with_its_action() {
    let Some(bench) = Bench::sandbox().await else { return };
    // The kernel does not count processes of the host's root.
    let count = if fs::metadata(bench.files.path()).unwrap().uid() == 0 { 200 } else { 1_000_000 };
    let script = format!("i=0; while [ $i -lt {count} ]; do sleep 50 & i=$((i+1)); done");
    let action = bench.shell(&script).set(|command| {
        command.limits.processes = Some(100);
        command.limits.timeout = Some(Duration::from_secs(3));
    });
    let done = bench.run(action).await;
    assert!(matches!(done.outcome(), Outcome::Exited(_) | Outcome::TimedOut), "{:?}", done.result);
    exit_codes_pass_through(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_changes_its_spawner_changes_no_other() {
    let Some(bench) = Bench::sandbox().await else { return };
    let open_files = bench.output_of("ulimit -Hn").await;
    let done = bench.run(bench.shell("prlimit --pid 1 --nofile=64:64 && echo changed")).await;
    assert_eq!(done.stdout, "changed\n", "{}", done.stderr);
    assert_eq!(bench.output_of("ulimit -Hn").await, open_files);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_root_can_be_the_whole_file_system() {
    let Some(bench) = Bench::sandbox().await else { return };
    let Some(program) = static_program(bench.files.path()) else { return };
    for bare in [true, false] {
        let mut action = bench.action(["/bin/look"]);
        let lower = action.directory.join("lower");
        fs::create_dir(lower.join("bin")).unwrap();
        fs::copy(&program, lower.join("bin/look")).unwrap();
        if !bare {
            for name in ["proc", "dev"] {
                fs::create_dir(lower.join(name)).unwrap();
            }
            // An absolute link stays inside.
            fs::create_dir_all(lower.join("var/tmp")).unwrap();
            std::os::unix::fs::symlink("/var/tmp", lower.join("tmp")).unwrap();
        }
        let overlay = action.overlay().clone();
        action.command.root = InputRoot::Filesystem { overlay };
        action.command.ids = (0, 0);
        let done = bench.run(action).await;
        let root = if bare { "bin dev proc tmp" } else { "bin dev proc tmp var" };
        assert_eq!(
            done.stdout,
            format!("cwd / uid 0 null 1 proc 1 tmp 1 usr 0\n{root}\n"),
            "{}",
            done.stderr
        );
        let mut left: Vec<_> =
            fs::read_dir(&done.upper).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["out"], "mount points are no outputs");
    }
    exit_codes_pass_through(&bench).await;
}

/// A program without libraries that tells what it sees.
fn static_program(directory: &Path) -> Option<PathBuf> {
    let (source, program) = (directory.join("look.c"), directory.join("look"));
    let text = r#"
        #include <dirent.h>
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static int visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }
        int main(void) {
            char cwd[256];
            struct dirent **names;
            printf("cwd %s uid %d null %d proc %d tmp %d usr %d\n", getcwd(cwd, sizeof cwd), (int)getuid(),
                   open("/dev/null", O_RDWR) >= 0, access("/proc/self/status", R_OK) == 0,
                   open("/tmp/x", O_CREAT | O_WRONLY, 0600) >= 0, access("/usr", F_OK) == 0);
            int count = scandir("/", &names, visible, alphasort);
            for (int i = 0; i < count; i++) printf("%s%s", i ? " " : "", names[i]->d_name);
            printf("\n");
            return open("/out", O_CREAT | O_WRONLY, 0600) < 0;
        }"#;
    fs::write(&source, text).unwrap();
    let compiled = Command::new("cc").arg("-static").arg("-o").args([&program, &source]).status();
    if compiled.is_ok_and(|status| status.success()) {
        return Some(program);
    }
    eprintln!("skipped: no C compiler with a static library");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_leaves_nothing() {
    // The daemon's part is played by a copy of this test program, see the next test.
    let marker = unique_nap();
    for mode in ["sandbox", "plain"] {
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .args(["sandbox::plays_the_daemon", "--exact", "--nocapture"])
            .env("PLAY_DAEMON", mode)
            .env("PLAY_MARKER", &marker)
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
