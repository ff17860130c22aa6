use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use farmhand_proto::reapi::command::EnvironmentVariable;
use farmhand_proto::reapi::platform::Property;
use farmhand_proto::{any, raw};
use prost::Message;

use super::*;
use crate::cas::memory::MemoryCas;
use crate::digest::DigestFunction;
use crate::instance::InstanceName;
use crate::worker::sandbox::Memory;
use crate::worker::{InputRoot, Network, PreparedCommand, RunError, Usage};

const SHA256: DigestFunction = DigestFunction::Sha256;

type Behaviour = Box<dyn Fn(PreparedCommand) -> Result<Exit, RunError> + Send + Sync>;

/// A runner that does what the test says.
struct FakeRunner {
    sandboxed: bool,
    behaviour: Arc<Behaviour>,
    memory: Option<Arc<Memory>>,
}

struct FakeSeat {
    behaviour: Arc<Behaviour>,
    memory: Option<Arc<Memory>>,
}

#[async_trait]
impl Runner for FakeRunner {
    async fn seat(&self) -> Result<Box<dyn Seat>, RunError> {
        Ok(Box::new(FakeSeat { behaviour: Arc::clone(&self.behaviour), memory: self.memory.clone() }))
    }

    fn is_sandboxed(&self) -> bool {
        self.sandboxed
    }

    async fn resize(&self, _seats: usize) -> Result<(), RunError> {
        Ok(())
    }
}

#[async_trait]
impl Seat for FakeSeat {
    fn memory(&self) -> Option<&Arc<Memory>> {
        self.memory.as_ref()
    }

    async fn run(&mut self, command: PreparedCommand, cancel: CancellationToken) -> Result<Exit, RunError> {
        let exit = tokio::task::block_in_place(|| (self.behaviour)(command))?;
        if exit.outcome == Outcome::Cancelled {
            cancel.cancelled().await;
        }
        Ok(exit)
    }
}

fn exit(outcome: Outcome) -> Exit {
    let usage = Usage { user: Duration::from_millis(1500), system: Duration::ZERO, max_rss: 4096 };
    Exit { outcome, wall: Duration::from_millis(2500), usage, memory_exceeded: None }
}

/// Runs the command for real, in the plain directory.
fn shell() -> FakeRunner {
    let behaviour = |command: PreparedCommand| {
        let InputRoot::Plain { directory } = &command.root else { panic!("not sandboxed") };
        let status = Command::new(&command.arguments[0])
            .args(&command.arguments[1..])
            .env_clear()
            .envs(command.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(directory.join(&command.working_directory))
            .stdin(Stdio::null())
            .stdout(command.stdout)
            .stderr(command.stderr)
            .status();
        match status {
            Ok(status) => Ok(exit(Outcome::Exited(status.code().unwrap()))),
            Err(source) => Err(RunError::Program { program: "nosuch".into(), source }),
        }
    };
    FakeRunner { sandboxed: false, behaviour: Arc::new(Box::new(behaviour)), memory: None }
}

fn sandbox(
    behaviour: impl Fn(PreparedCommand) -> Result<Exit, RunError> + Send + Sync + 'static,
) -> FakeRunner {
    FakeRunner { sandboxed: true, behaviour: Arc::new(Box::new(behaviour)), memory: None }
}

fn ends(outcome: Outcome) -> FakeRunner {
    sandbox(move |mut command| {
        use std::io::Write;
        command.stdout.write_all(b"so far").unwrap();
        if let InputRoot::Mounted { overlay, .. } = &command.root {
            fs::write(overlay.upper.join("out"), "made").unwrap();
        }
        Ok(exit(outcome))
    })
}

struct Bench {
    cas: MemoryCas,
    worker: Arc<LocalWorker>,
    tasks: Tasks,
    scratch: tempfile::TempDir,
}

impl Bench {
    fn new(runner: FakeRunner) -> Self {
        let (cas, tasks) = (MemoryCas::default(), Tasks::default());
        let scratch = tempfile::tempdir().unwrap();
        for left in ["runs/0/left-over", "trash-0/x", "not-ours"] {
            fs::create_dir_all(scratch.path().join(left)).unwrap();
        }
        // Whoever waits for all tasks would wait for the one that looks after them.
        let persistent = Bounds { count: 0, memory: 0, idle: Duration::ZERO };
        let config = WorkerConfig { slots: 4, persistent, ..WorkerConfig::new("bench", scratch.path()) };
        let worker = LocalWorker::open(
            config,
            MachineFacts::detect(runner.sandboxed),
            Stores { cas: Arc::new(cas.clone()), here: Arc::new(cas.clone()), blobs: Arc::new(cas.clone()) },
            Arc::new(runner),
            &tasks,
        );
        Self { cas, worker: Arc::new(worker.unwrap()), tasks, scratch }
    }

    /// A root with the file `in` and the directory `d`.
    fn inputs(&self) -> Digest {
        let content = self.cas.insert(SHA256, "input");
        let file =
            reapi::FileNode { name: "in".into(), digest: Some(content.to_wire()), ..Default::default() };
        let empty = Digest::empty(SHA256).to_wire();
        let d = reapi::DirectoryNode { name: "d".into(), digest: Some(empty) };
        let root = reapi::Directory { files: vec![file], directories: vec![d], ..Default::default() };
        self.cas.insert(SHA256, root.encode_to_vec())
    }

    fn lease(&self, command: reapi::Command, properties: &[(&str, &str)]) -> Lease {
        let properties =
            properties.iter().map(|(n, v)| Property { name: (*n).into(), value: (*v).into() }).collect();
        let platform = Requirements::parse(Some(&reapi::Platform { properties }), None).unwrap();
        Lease {
            operation: "operations/1".into(),
            instance: InstanceName::default(),
            action_digest: Digest::of(SHA256, b"action"),
            command: Arc::new(command),
            input_root: self.inputs(),
            platform: Arc::new(platform),
            timeout: Duration::from_secs(60),
            queued_at: SystemTime::now(),
            person: Arc::default(),
            is_guest: false,
            invocation: Arc::default(),
        }
    }

    async fn execute(&self, command: reapi::Command) -> reapi::ExecuteResponse {
        self.execute_lease(self.lease(command, &[])).await.unwrap()
    }

    async fn execute_lease(&self, lease: Lease) -> Result<reapi::ExecuteResponse, NoResponse> {
        let (progress, _stages) = mpsc::unbounded_channel();
        self.worker.execute(lease, progress, CancellationToken::new()).await
    }

    fn text(&self, digest: &Option<reapi::Digest>) -> String {
        let digest = Digest::from_field(SHA256, digest.as_ref()).unwrap();
        String::from_utf8(self.cas.load(&digest).unwrap().to_vec()).unwrap()
    }
}

fn sh(script: &str, outputs: &[&str]) -> reapi::Command {
    reapi::Command {
        arguments: vec!["/bin/sh".into(), "-c".into(), script.into()],
        output_paths: outputs.iter().map(|path| (*path).into()).collect(),
        ..Default::default()
    }
}

fn code(response: &reapi::ExecuteResponse) -> i32 {
    response.status.as_ref().map_or(0, |status| status.code)
}

fn check_metadata(response: &reapi::ExecuteResponse) {
    let metadata = response.result.as_ref().unwrap().execution_metadata.as_ref().unwrap();
    assert_eq!(metadata.worker, "bench");
    assert!(metadata.virtual_execution_duration.is_some());
    assert!(metadata.queued_timestamp.is_some() && metadata.worker_completed_timestamp.is_some());
}

fn missing_subjects(response: &reapi::ExecuteResponse) -> Vec<String> {
    assert_eq!(code(response), 9);
    let details = &response.status.as_ref().unwrap().details;
    assert_eq!(details.len(), 1);
    let failure: raw::PreconditionFailure = any::unpack(&details[0]).unwrap();
    assert!(failure.violations.iter().all(|violation| violation.r#type == "MISSING"));
    failure.violations.into_iter().map(|violation| violation.subject).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_command_from_inputs_to_outputs() {
    let bench = Bench::new(shell());
    let mut command = sh("cat ../in > sub/out; echo said; echo warned >&2; exit 3", &["sub/out", "absent"]);
    command.working_directory = "d".into();
    let response = bench.execute(command).await;
    let result = response.result.as_ref().unwrap();
    assert_eq!((code(&response), result.exit_code, response.message.as_str()), (0, 3, ""));
    assert_eq!(result.output_files.len(), 1, "outputs of failed commands count too");
    assert_eq!(result.output_files[0].path, "sub/out");
    assert_eq!(bench.text(&result.output_files[0].digest), "input");
    assert_eq!(bench.text(&result.stdout_digest), "said\n");
    assert_eq!(bench.text(&result.stderr_digest), "warned\n");
    check_metadata(&response);
    let metadata = result.execution_metadata.as_ref().unwrap();
    assert_eq!(metadata.virtual_execution_duration.as_ref().unwrap().nanos, 500_000_000);
    let usage: ResourceUsage = any::unpack(&metadata.auxiliary_metadata[0]).unwrap();
    assert_eq!((usage.user_time.unwrap().seconds, usage.max_resident_bytes), (1, 4096));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_run_or_of_an_earlier_process() {
    let bench = Bench::new(shell());
    bench.execute(sh("mkdir -p a/b; chmod 000 a", &[])).await;
    bench.tasks.idle().await;
    assert_eq!(fs::read_dir(bench.scratch.path().join("runs")).unwrap().count(), 0);
    let mut names: Vec<_> =
        fs::read_dir(bench.scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["inputs", "not-ours", "runs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_the_commands_over_the_configured_one() {
    let bench = Bench::new(shell());
    let variable = |name: &str, value: &str| EnvironmentVariable { name: name.into(), value: value.into() };
    let mut command = sh("/usr/bin/env", &[]);
    command.environment_variables = vec![variable("Z", "1"), variable("A", ""), variable("PATH", "/mine")];
    let response = bench.execute(command).await;
    let stdout = bench.text(&response.result.unwrap().stdout_digest);
    let mut names: Vec<_> = stdout.lines().filter(|line| !line.starts_with("PWD=")).collect();
    names
        .retain(|line| !line.starts_with("TMPDIR=") && !line.starts_with('_') && !line.starts_with("SHLVL="));
    names.sort_unstable();
    assert_eq!(names, ["A=", "PATH=/mine", "Z=1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_equal_actions_at_once_do_not_clash() {
    let bench = Bench::new(shell());
    let command = sh("test ! -e mark && echo x > mark && cat in", &["mark"]);
    let runs = (0..20).map(|_| bench.execute(command.clone()));
    for response in futures_util::future::join_all(runs).await {
        let result = response.result.unwrap();
        assert_eq!((result.exit_code, bench.text(&result.stdout_digest).as_str()), (0, "input"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_may_change_within_reason() {
    let bench = Bench::new(shell());
    for slots in [9, 1] {
        bench.worker.set_slots(slots).await.unwrap();
        assert_eq!(bench.worker.slots(), slots);
    }
    for slots in [0, usize::MAX] {
        let error = bench.worker.set_slots(slots).await.unwrap_err();
        assert!(matches!(error, SlotsError::Range { wanted, .. } if wanted == slots), "{error}");
    }
    assert_eq!(bench.worker.slots(), 1, "as before");
    let response = bench.execute(sh("true", &[])).await;
    assert_eq!(response.result.unwrap().exit_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_are_told_in_order() {
    let bench = Bench::new(shell());
    let (progress, mut stages) = mpsc::unbounded_channel();
    let lease = bench.lease(sh("true", &[]), &[]);
    bench.worker.execute(lease, progress, CancellationToken::new()).await.unwrap();
    assert!(matches!(stages.recv().await, Some(Progress::Staging)));
    assert!(matches!(stages.recv().await, Some(Progress::Running { stdout, stderr }) if stdout != stderr));
    assert!(matches!(stages.recv().await, Some(Progress::Collecting)));
    assert!(stages.recv().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandboxed_command_gets_layers() {
    let (sender, mut commands) = mpsc::unbounded_channel();
    let bench = Bench::new(sandbox(move |command| {
        let InputRoot::Mounted { overlay, .. } = &command.root else { panic!() };
        assert_eq!(fs::read(overlay.lower[0].join("in")).unwrap(), b"input");
        assert_eq!(fs::read_dir(&overlay.work).unwrap().count(), 0);
        assert!(overlay.upper.join("x/y").is_dir());
        fs::write(overlay.upper.join("x/y/out"), "made").unwrap();
        sender.send(command).unwrap();
        Ok(exit(Outcome::Exited(0)))
    }));
    let response = bench.execute(sh("true", &["x/y/out", "in"])).await;
    let result = response.result.as_ref().unwrap();
    assert_eq!(bench.text(&result.output_files[0].digest), "made");
    assert_eq!(bench.text(&result.output_files[1].digest), "input");
    let command = commands.recv().await.unwrap();
    let InputRoot::Mounted { at, .. } = command.root else { panic!() };
    assert_eq!(at, Path::new("/build"));
    assert_eq!((command.ids, command.network), ((1000, 1000), Network::Loopback));
    assert_eq!(command.limits.timeout, Some(Duration::from_secs(60)));
    assert_eq!(command.environment, [("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_properties_have_effect() {
    let (sender, mut commands) = mpsc::unbounded_channel();
    let bench = Bench::new(sandbox(move |command| {
        sender.send(command).unwrap();
        Ok(exit(Outcome::Exited(0)))
    }));
    for properties in [
        &[("input-root", "/"), ("network", "on")][..],
        &[("InputRootAbsolutePath", "/b/c"), ("unixUID", "7"), ("unixGID", "8")],
        &[("input-root", "/"), ("unixUID", "7")],
    ] {
        bench.execute_lease(bench.lease(sh("true", &[]), properties)).await.unwrap();
    }
    let whole = commands.recv().await.unwrap();
    assert!(matches!(whole.root, InputRoot::Filesystem { .. }));
    assert_eq!((whole.ids, whole.network), ((0, 0), Network::Host));
    let placed = commands.recv().await.unwrap();
    assert!(matches!(placed.root, InputRoot::Mounted { at, .. } if at == Path::new("/b/c")));
    assert_eq!(placed.ids, (7, 8));
    assert_eq!(commands.recv().await.unwrap().ids, (7, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_128_plus_its_number_and_named() {
    let response = Bench::new(ends(Outcome::Signaled(9))).execute(sh("", &["out"])).await;
    let result = response.result.as_ref().unwrap();
    assert_eq!((code(&response), result.exit_code, result.output_files.len()), (0, 137, 1));
    assert!(response.message.contains("SIGKILL"), "{}", response.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_keeps_logs_and_outputs() {
    let bench = Bench::new(ends(Outcome::TimedOut));
    let response = bench.execute(sh("", &["out"])).await;
    let status = response.status.as_ref().unwrap();
    assert_eq!((status.code, status.message.as_str()), (4, "execution timeout exceeded"));
    let result = response.result.as_ref().unwrap();
    assert_eq!(bench.text(&result.stdout_digest), "so far");
    assert_eq!(result.output_files.len(), 1);
    check_metadata(&response);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_keeps_the_logs() {
    let bench = Bench::new(ends(Outcome::Cancelled));
    let (progress, mut stages) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let lease = bench.lease(sh("", &["out"]), &[]);
    let execution = bench.worker.execute(lease, progress, cancel.clone());
    let watcher = async {
        while !matches!(stages.recv().await, Some(Progress::Running { .. }) | None) {}
        cancel.cancel();
    };
    let (response, ()) = tokio::join!(execution, watcher);
    let response = response.unwrap();
    assert_eq!(code(&response), 1);
    let result = response.result.as_ref().unwrap();
    assert_eq!((bench.text(&result.stdout_digest).as_str(), result.output_files.len()), ("so far", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_cancelled_before_it_runs() {
    let bench = Bench::new(sandbox(|_| panic!("must not run")));
    let (progress, _stages) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let response = bench.worker.execute(bench.lease(sh("", &[]), &[]), progress, cancel).await.unwrap();
    assert_eq!(code(&response), 1);
    check_metadata(&response);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_the_actions_fault() {
    let bench = Bench::new(shell());
    let command = reapi::Command { arguments: vec!["nosuch".into()], ..Default::default() };
    let response = bench.execute(command).await;
    let status = response.status.as_ref().unwrap();
    assert_eq!(status.code, 3);
    assert!(status.message.contains("nosuch"), "{}", status.message);
    let result = response.result.as_ref().unwrap();
    assert_eq!((result.exit_code, bench.text(&result.stderr_digest).as_str()), (127, ""));
    check_metadata(&response);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_make_no_sense_are_refused() {
    let bench = Bench::new(sandbox(|_| panic!("must not run")));
    let escaping = reapi::Command { working_directory: "../x".into(), ..sh("", &[]) };
    for command in [reapi::Command::default(), escaping, sh("", &["/abs"])] {
        assert_eq!(code(&bench.execute(command).await), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_inputs_are_named_in_one_detail() {
    for runner in [shell(), sandbox(|_| panic!("must not run"))] {
        let bench = Bench::new(runner);
        let lease = bench.lease(sh("true", &[]), &[]);
        let gone = Digest::of(SHA256, b"input");
        bench.cas.remove(&gone);
        let response = bench.execute_lease(lease).await.unwrap();
        assert_eq!(missing_subjects(&response), [gone.missing_subject()]);
        check_metadata(&response);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_evicted_under_a_kept_tree_are_asked_for_when_they_come_out() {
    let bench = Bench::new(sandbox(|_| Ok(exit(Outcome::Exited(0)))));
    let lease = bench.lease(sh("true", &["in"]), &[]);
    assert_eq!(code(&bench.execute_lease(lease.clone()).await.unwrap()), 0);
    let gone = Digest::of(SHA256, b"input");
    bench.cas.remove(&gone);
    let response = bench.execute_lease(lease).await.unwrap();
    assert_eq!(missing_subjects(&response), [gone.missing_subject()]);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(deprecated)]
async fn an_output_of_the_wrong_kind_is_a_failed_precondition_with_logs() {
    let command = reapi::Command { output_directories: vec!["out".into()], ..sh("", &[]) };
    let bench = Bench::new(ends(Outcome::Exited(0)));
    let response = bench.execute(command.clone()).await;
    let status = response.status.as_ref().unwrap();
    assert!(status.code == 9 && status.details.is_empty() && status.message.contains("out"), "{status:?}");
    assert_eq!(bench.text(&response.result.unwrap().stdout_digest), "so far");
    let failed = Bench::new(ends(Outcome::Exited(2))).execute(command).await;
    assert_eq!((code(&failed), failed.result.unwrap().exit_code), (0, 2));
    assert!(failed.message.contains("out"), "{}", failed.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_that_is_none_is_invalid() {
    let bench = Bench::new(sandbox(|_| {
        Err(RunError::WorkingDirectory { source: io::ErrorKind::NotADirectory.into() })
    }));
    let response = bench.execute(sh("", &[])).await;
    let status = response.status.as_ref().unwrap();
    assert!(status.code == 3 && status.message.contains("working directory"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_run_loses_the_action() {
    let setup = || RunError::Setup { step: "mount".into(), source: io::Error::other("no") };
    let bench = Bench::new(sandbox(move |_| Err(setup())));
    let lost = bench.execute_lease(bench.lease(sh("", &[]), &[])).await.unwrap_err();
    let NoResponse::Lost(lost) = lost else { panic!("{lost}") };
    assert!(lost.worker == "bench" && lost.reason.contains("mount"), "{lost}");
    let bench = Bench::new(sandbox(|_| Err(RunError::SpawnerLost)));
    assert!(bench.execute_lease(bench.lease(sh("", &[]), &[])).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_logs_and_what_was_left_out() {
    let bench = Bench::new(shell());
    let script = "head -c 3000000 /dev/zero; mkfifo pipe";
    let response = bench.execute(sh(script, &["pipe"])).await;
    let result = response.result.as_ref().unwrap();
    assert_eq!(result.stdout_digest.as_ref().unwrap().size_bytes, 3_000_000);
    assert_eq!(bench.text(&result.stdout_digest).len(), 3_000_000);
    assert!(response.message.contains("pipe"), "{}", response.message);
}

/// Runs a guest, and does `then` once it runs.
async fn host(bench: &Bench, cancel: &CancellationToken, then: impl Fn()) -> Result<i32, NoResponse> {
    let guest = Lease { is_guest: true, ..bench.lease(sh("true", &[]), &[]) };
    let (progress, mut steps) = mpsc::unbounded_channel();
    let meanwhile = async {
        while let Some(step) = steps.recv().await {
            if matches!(step, Progress::Running { .. }) {
                then();
            }
        }
    };
    let (ended, ()) = tokio::join!(bench.worker.execute(guest, progress, cancel.clone()), meanwhile);
    ended.map(|response| code(&response))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_handed_back_was_never_here() {
    let bench = Bench::new(ends(Outcome::Cancelled));
    let cancel = CancellationToken::new();
    let hand_back = || bench.worker.limit_guests(0, RunningGuests::HandBack);
    assert!(matches!(host(&bench, &cancel, hand_back).await, Err(NoResponse::Busy)));
    assert!(
        matches!(host(&bench, &cancel, || {}).await, Err(NoResponse::Busy)),
        "nor is there room for another"
    );
    bench.worker.limit_guests(1, RunningGuests::HandBack);
    assert_eq!(host(&bench, &cancel, || cancel.cancel()).await.unwrap(), 1, "its owner ended it");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_guests_can_be_told_to_stand_still() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let bench = Bench::new(sandbox(move |command| {
        noted.lock().unwrap().push(command.guest.map(|still| *still.borrow()));
        Ok(exit(Outcome::Exited(0)))
    }));
    bench.worker.limit_guests(0, RunningGuests::Freeze);
    bench.execute(sh("true", &[])).await;
    assert_eq!(host(&bench, &CancellationToken::new(), || {}).await.unwrap(), 0);
    bench.worker.limit_guests(1, RunningGuests::Freeze);
    assert_eq!(host(&bench, &CancellationToken::new(), || {}).await.unwrap(), 0);
    assert_eq!(*seen.lock().unwrap(), [None, Some(true), Some(false)]);
}
