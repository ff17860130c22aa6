//! `farmhand actions`: what waits, runs and ran.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{ActionFilter, ListActionsRequest, Operation, action_filter};
use farmhand_proto::protobuf::Timestamp;
use farmhand_proto::time::{std_duration, system_time, timestamp};
use serde::Serialize;

use super::error::CliError;
use super::output::{Paint, count, duration, print, print_json, visible};
use super::target::TargetArgs;
use super::why::miss_word;

/// List the actions that wait, run, or ended, the newest first
///
/// Actions that are over are remembered on disk, also when the node ends; see `history` in its
/// configuration file for how many. Conditions that are given must all hold.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand actions --limit 20\n  farmhand actions --outcome failed --since 2h\n  farmhand actions --target //lib: --mnemonic CppCompile --outcome succeeded,cached\n  farmhand actions --since 2026-05-01T08:00:00Z --until 2026-05-01T09:00:00Z --json"
)]
pub(super) struct ActionsArgs {
    /// Of one run of a build tool: its invocation id
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    build: String,
    /// Of targets that contain this text
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    target: String,
    /// Of this kind, as the build tool calls it: CppCompile
    #[arg(long, value_name = "M", default_value = "", hide_default_value = true)]
    mnemonic: String,
    /// That ended so, or are so far; several are parted by commas
    #[arg(long, value_name = "OUTCOME", value_delimiter = ',')]
    outcome: Vec<OutcomeArg>,
    /// That ran on this machine
    #[arg(long, value_name = "MACHINE", default_value = "", hide_default_value = true)]
    machine: String,
    /// That ended at this time or later: so long ago (2h), or a time in UTC (2026-05-01T08:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<SystemTime>,
    /// That ended before this time
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    until: Option<SystemTime>,
    /// Most actions listed
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: TargetArgs,
}

/// How an action ended, or where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutcomeArg {
    /// Waits for a slot
    Queued,
    /// Runs
    Running,
    /// Ran, exit code 0
    Succeeded,
    /// Ran, another exit code
    Failed,
    /// Could not be run, or was cancelled
    Error,
    /// Answered from the action cache
    Cached,
}

/// What `--json` prints for each action.
#[derive(Debug, Serialize)]
struct OperationJson<'a> {
    name: &'a str,
    action: &'a str,
    instance: &'a str,
    stage: &'static str,
    cached: bool,
    status_code: i32,
    exit_code: i32,
    message: &'a str,
    machine: &'a str,
    target: &'a str,
    mnemonic: &'a str,
    invocation: &'a str,
    tool: &'a str,
    first_output: &'a str,
    queued: Option<String>,
    started: Option<String>,
    command_started: Option<String>,
    command_ended: Option<String>,
    finished: Option<String>,
    attempts: u32,
    priority: i32,
    cpu_seconds: Option<f64>,
    peak_memory_bytes: u64,
    miss: Option<&'static str>,
    sequence: u64,
}

/// Lists operations.
pub(super) async fn list(args: ActionsArgs) -> Result<(), CliError> {
    let mut control = args.node.connect().await?;
    let filter = filter(&args);
    let wanted = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut operations, mut page_token) = (Vec::new(), String::new());
    while operations.len() < wanted {
        let limit = u32::try_from(wanted - operations.len()).unwrap_or(u32::MAX);
        let request = ListActionsRequest { limit, filter: Some(filter.clone()), page_token };
        let page = control.list_actions(request).await?.into_inner();
        operations.extend(page.operations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if args.json {
        return print_json(&operations.iter().map(operation_json).collect::<Vec<_>>());
    }
    let empty = if filter == ActionFilter::default() { NONE } else { NONE_FOUND };
    print(&list_text(&operations, empty, Paint::stdout()))
}

/// What is said of an empty list.
const NONE: &str = "no action is waiting, running or in the history\n";
const NONE_FOUND: &str = "no action that is waiting, running or in the history fits\n";

fn filter(args: &ActionsArgs) -> ActionFilter {
    ActionFilter {
        invocation: args.build.clone(),
        target: args.target.clone(),
        mnemonic: args.mnemonic.clone(),
        outcomes: args.outcome.iter().map(|outcome| outcome.to_wire().into()).collect(),
        machine: args.machine.clone(),
        since: args.since.map(timestamp),
        until: args.until.map(timestamp),
        action_digest: String::new(),
    }
}

impl OutcomeArg {
    fn to_wire(self) -> action_filter::Outcome {
        match self {
            Self::Queued => action_filter::Outcome::Queued,
            Self::Running => action_filter::Outcome::Running,
            Self::Succeeded => action_filter::Outcome::Succeeded,
            Self::Failed => action_filter::Outcome::Failed,
            Self::Error => action_filter::Outcome::Error,
            Self::Cached => action_filter::Outcome::Cached,
        }
    }
}

/// `2h` is two hours ago; a time is one of UTC, with or without hours.
fn parse_moment(text: &str) -> Result<SystemTime, String> {
    moment(text, SystemTime::now())
}

fn moment(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let ago = |length: Duration| now.checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::parse_duration(text)
        .map(ago)
        .or_else(|_| humantime::parse_rfc3339_weak(text))
        .or_else(|_| humantime::parse_rfc3339_weak(&format!("{text}T00:00:00")))
        .map_err(|_| "use a length of time such as 2h, or a time such as 2026-05-01T08:00:00Z".to_owned())
}

fn operation_json(operation: &Operation) -> OperationJson<'_> {
    let time = |time: &Option<Timestamp>| {
        time.as_ref().and_then(system_time).map(|time| humantime::format_rfc3339_millis(time).to_string())
    };
    OperationJson {
        name: &operation.name,
        action: &operation.action_digest,
        instance: &operation.instance_name,
        stage: stage_name(operation.stage()),
        cached: operation.cached,
        status_code: operation.status_code,
        exit_code: operation.exit_code,
        message: &operation.message,
        machine: &operation.machine,
        target: &operation.target,
        mnemonic: &operation.mnemonic,
        invocation: &operation.invocation,
        tool: &operation.tool,
        first_output: &operation.first_output,
        queued: time(&operation.queued),
        started: time(&operation.started),
        command_started: time(&operation.command_started),
        command_ended: time(&operation.command_ended),
        finished: time(&operation.finished),
        attempts: operation.attempts,
        priority: operation.priority,
        cpu_seconds: operation.cpu_time.as_ref().and_then(std_duration).map(|time| time.as_secs_f64()),
        peak_memory_bytes: operation.peak_memory,
        miss: miss_word(operation.miss()),
        sequence: operation.sequence,
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Unspecified => "unknown",
        Stage::Queued => "queued",
        Stage::Running => "running",
        Stage::Done => "done",
    }
}

fn list_text(operations: &[Operation], empty: &str, paint: Paint) -> String {
    if operations.is_empty() {
        return empty.to_owned();
    }
    let mut text = String::new();
    for operation in operations {
        let what = [&operation.mnemonic, &operation.target].map(String::as_str).join(" ");
        let what = if what.trim().is_empty() { operation.first_output.as_str() } else { what.trim() };
        let miss = miss_word(operation.miss()).map(|word| format!("  ({word})")).unwrap_or_default();
        let state = format!("{:<14}", state(operation));
        let state = match operation.stage() {
            Stage::Done if operation.status_code != 0 || operation.exit_code != 0 => paint.red(&state),
            Stage::Done => paint.green(&state),
            _ => paint.yellow(&state),
        };
        let took = took(operation).map(duration).unwrap_or_default();
        let (digest, what) = (&operation.action_digest, visible(what));
        let _ = writeln!(text, "{state} {took:>9}  {digest}  {what}{}", paint.dim(&miss));
    }
    let _ = writeln!(text, "{}", paint.dim(&format!("{} listed", count(operations.len() as u64))));
    text
}

/// How it stands, in a word or two.
pub(super) fn state(operation: &Operation) -> String {
    match operation.stage() {
        Stage::Done if operation.status_code != 0 => format!("error {}", operation.status_code),
        Stage::Done if operation.exit_code != 0 => format!("exit {}", operation.exit_code),
        Stage::Done if operation.cached => "cached".to_owned(),
        stage => stage_name(stage).to_owned(),
    }
}

/// Time since it came in, up to its end or to now.
pub(super) fn took(operation: &Operation) -> Option<Duration> {
    let from = system_time(operation.queued.as_ref()?)?;
    let to = match &operation.finished {
        Some(finished) => system_time(finished)?,
        None => SystemTime::now(),
    };
    to.duration_since(from).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_lengths_or_times() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let seconds =
            |text: &str| moment(text, now).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds("2h"), 1_000_000_000 - 7200);
        assert_eq!(seconds("2001-09-09T01:46:40Z"), 1_000_000_000);
        assert_eq!(seconds("2001-09-09 01:46:40"), 1_000_000_000);
        assert_eq!(seconds("2001-09-09"), 1_000_000_000 - 6400);
        assert!(moment("yesterday", now).unwrap_err().contains("such as 2h"));
    }

    #[test]
    fn states_in_words() {
        let done = Operation { stage: Stage::Done.into(), ..Default::default() };
        assert_eq!(state(&done), "done");
        assert_eq!(state(&Operation { cached: true, ..done.clone() }), "cached");
        assert_eq!(state(&Operation { exit_code: 1, ..done.clone() }), "exit 1");
        assert_eq!(state(&Operation { status_code: 8, ..done }), "error 8");
    }

    #[test]
    fn a_list_has_a_line_for_each_action() {
        let done = Operation {
            stage: Stage::Done.into(),
            action_digest: "abc/1".into(),
            mnemonic: "CppCompile".into(),
            target: "//a:b".into(),
            queued: Some(Timestamp { seconds: 1, nanos: 0 }),
            finished: Some(Timestamp { seconds: 3, nanos: 0 }),
            ..Default::default()
        };
        let text = list_text(&[done], NONE, Paint::plain());
        assert_eq!(text, "done              2.00 s  abc/1  CppCompile //a:b\n1 listed\n");
        assert_eq!(list_text(&[], NONE, Paint::plain()), NONE);
    }

    #[test]
    fn a_list_tells_misses_and_hides_no_escapes() {
        let done = Operation {
            stage: Stage::Done.into(),
            first_output: "out/\u{1b}[2Jx".into(),
            miss: farmhand_proto::control::miss::Kind::Changed.into(),
            ..Default::default()
        };
        let text = list_text(&[done], NONE, Paint::plain());
        assert!(text.contains("(changed)") && !text.contains('\u{1b}'), "{text:?}");
    }
}
