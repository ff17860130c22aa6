//! `farmhand action DIGEST rerun` and `kill`: does the same come of it again, and to end it.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use farmhand_proto::client::Client;
use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{
    KillActionRequest, Operation, OutputDifference, RerunActionRequest, RerunActionResponse, RerunVerdict,
};
use farmhand_proto::time::system_time;
use serde::Serialize;

use super::actions::state;
use super::error::CliError;
use super::output::{Paint, duration, one_line, plural, print, print_json};

/// Rows of the table; JSON has all.
const MAX_ROWS: usize = 100;

/// Characters of a value in the table.
const MAX_VALUE: usize = 16;

/// How an action is to be run again.
pub(super) struct RerunOptions {
    /// As in `RerunActionRequest`.
    pub(super) digest: String,
    /// Its instance.
    pub(super) instance: String,
    /// How often.
    pub(super) times: u32,
    /// Where; empty for anywhere.
    pub(super) machine: String,
    /// Whether JSON is wanted.
    pub(super) json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct RerunJson<'a> {
    action: &'a str,
    runs: Vec<RunJson<'a>>,
    succeeded: u32,
    failed: u32,
    compared_with_cache: bool,
    /// Whether all runs succeeded with the same outputs.
    same: bool,
    differences: Vec<DifferenceJson<'a>>,
}

#[derive(Debug, Serialize)]
struct RunJson<'a> {
    operation: &'a str,
    machine: &'a str,
    status_code: i32,
    exit_code: i32,
    message: &'a str,
    seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct DifferenceJson<'a> {
    path: &'a str,
    /// What each run made, and last the cached result where it was compared.
    values: &'a [String],
}

// === kill ===

/// Ends an operation, or all of an action.
pub(super) async fn kill(mut control: Client, name: String) -> Result<(), CliError> {
    let answer = control.kill_action(KillActionRequest { operation: name }).await.map_err(explain)?;
    print(&format!("{} killed\n", plural(answer.into_inner().killed.into(), "operation")))
}

// === rerun ===

/// Runs an action again, tells how that goes, and what differs in the end.
pub(super) async fn rerun(mut control: Client, options: RerunOptions) -> Result<(), CliError> {
    let RerunOptions { digest, instance, times, machine, json } = options;
    let request = RerunActionRequest { digest: digest.clone(), instance_name: instance, times, machine };
    let mut stream = control.rerun_action(request).await.map_err(explain)?.into_inner();
    let mut runs = Vec::new();
    let verdict = loop {
        let cut_off = || CliError::new("the node ended before the runs had");
        let message = stream.message().await.map_err(explain)?.ok_or_else(cut_off)?;
        if let Some(verdict) = message.verdict {
            break verdict;
        }
        show_progress(&message, times);
        note(&mut runs, message);
    };
    if json {
        print_json(&to_json(&digest, &runs, &verdict))?;
    } else {
        print(&to_text(&verdict, runs.len(), Paint::stdout()))?;
    }
    judge(&verdict)
}

fn explain(status: tonic::Status) -> CliError {
    let hint = match status.code() {
        tonic::Code::NotFound => {
            "farmhand actions lists actions, farmhand machines lists machines; if inputs are gone, run the build again"
        }
        tonic::Code::InvalidArgument => {
            "the digest of an action is in the log of the build tool, or in farmhand actions"
        }
        tonic::Code::FailedPrecondition => "farmhand actions shows what runs and waits",
        _ => return status.into(),
    };
    CliError::from(status).hint(hint)
}

/// Keeps the latest news of each run.
fn note(runs: &mut Vec<Operation>, message: RerunActionResponse) {
    let (Some(operation), Some(index)) = (message.operation, (message.run as usize).checked_sub(1)) else {
        return;
    };
    // The node counts from 1 without gaps; one that does not is not followed.
    if index < runs.len() {
        runs[index] = operation;
    } else if index == runs.len() {
        runs.push(operation);
    }
}

fn show_progress(message: &RerunActionResponse, times: u32) {
    let Some(operation) = &message.operation else { return };
    let paint = Paint::for_stream(io::stderr().is_terminal());
    let line = progress(message.run, times, operation, paint);
    // Nobody reads it: nothing is lost.
    let _ = writeln!(io::stderr(), "{line}");
}

fn progress(run: u32, times: u32, operation: &Operation, paint: Paint) -> String {
    let on = match operation.machine.as_str() {
        "" => String::new(),
        machine => format!(" on {machine}"),
    };
    let what = match operation.stage() {
        Stage::Done => {
            let took =
                seconds(operation).map(|seconds| duration(std::time::Duration::from_secs_f64(seconds)));
            let state = state(operation);
            let is_good = operation.status_code == 0 && operation.exit_code == 0;
            let state = if is_good { paint.green(&state) } else { paint.red(&state) };
            let reason = match operation.message.as_str() {
                "" => String::new(),
                message => format!(": {}", one_line(message)),
            };
            format!("{state} after {}{on}{reason}", took.unwrap_or_default())
        }
        Stage::Running => format!("runs{on}"),
        Stage::Queued | Stage::Unspecified => "waits".to_owned(),
    };
    format!("{} {what}", paint.dim(&format!("run {run} of {times}")))
}

/// How long it was with a machine.
fn seconds(operation: &Operation) -> Option<f64> {
    let started = system_time(operation.started.as_ref()?)?;
    Some(system_time(operation.finished.as_ref()?)?.duration_since(started).ok()?.as_secs_f64())
}

fn to_json<'a>(digest: &'a str, runs: &'a [Operation], verdict: &'a RerunVerdict) -> RerunJson<'a> {
    let run = |operation: &'a Operation| RunJson {
        operation: &operation.name,
        machine: &operation.machine,
        status_code: operation.status_code,
        exit_code: operation.exit_code,
        message: &operation.message,
        seconds: seconds(operation),
    };
    let difference = |row: &'a OutputDifference| DifferenceJson { path: &row.path, values: &row.values };
    RerunJson {
        action: digest,
        runs: runs.iter().map(run).collect(),
        succeeded: verdict.succeeded,
        failed: verdict.failed,
        compared_with_cache: verdict.compared_with_cache,
        same: judge(verdict).is_ok(),
        differences: verdict.differences.iter().map(difference).collect(),
    }
}

fn to_text(verdict: &RerunVerdict, runs: usize, paint: Paint) -> String {
    let mut text = String::new();
    if !verdict.differences.is_empty() {
        table(&mut text, verdict, runs, paint);
    }
    let compared = if verdict.compared_with_cache { " and the cached result" } else { "" };
    let made = plural(runs as u64, "run");
    let _ = match verdict.differences.len() {
        0 => writeln!(text, "{}: {made}{compared} made the same", paint.green("same")),
        differ => {
            let differ = plural(differ as u64, "output");
            writeln!(text, "{}: {differ} not the same in {made}{compared}", paint.red("different"))
        }
    };
    text
}

/// A row for each output that differs, a column for each run. Equal values have equal letters.
fn table(text: &mut String, verdict: &RerunVerdict, runs: usize, paint: Paint) {
    let shown = &verdict.differences[..verdict.differences.len().min(MAX_ROWS)];
    let paths: Vec<_> = shown.iter().map(|row| one_line(&row.path)).collect();
    let width = paths.iter().map(|path| path.chars().count()).max().unwrap_or(0);
    let mut header = format!("{:<width$}", "OUTPUT");
    for run in 1..=runs {
        let _ = write!(header, "  {:<MAX_VALUE$}", format!("RUN {run}"));
    }
    if verdict.compared_with_cache {
        header.push_str("  CACHED");
    }
    let _ = writeln!(text, "{}", paint.dim(header.trim_end()));
    for (row, path) in shown.iter().zip(paths) {
        let mut line = format!("{path:<width$}");
        for value in &row.values {
            let _ = write!(line, "  {:<MAX_VALUE$}", short(value));
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if shown.len() < verdict.differences.len() {
        let more = verdict.differences.len() - shown.len();
        let _ = writeln!(text, "{}", paint.dim(&format!("… and {more} more; --json has all")));
    }
}

/// A value that fits a column. Of a digest the first digits do, and whether it is executable.
fn short(value: &str) -> String {
    if value.is_empty() {
        return "-".to_owned();
    }
    let value = one_line(value);
    let plain = value.strip_prefix("blake3/").unwrap_or(&value);
    let (hash, rest) = plain.split_at_checked(64).unwrap_or((plain, ""));
    if rest.starts_with('/') && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let mark = if rest.ends_with("(executable)") { " +x" } else { "" };
        return format!("{}{mark}", &hash[..12]);
    }
    if value.chars().count() <= MAX_VALUE {
        return value;
    }
    value.chars().take(MAX_VALUE - 1).chain(['…']).collect()
}

/// Exit code 1 unless all runs succeeded and made the same.
fn judge(verdict: &RerunVerdict) -> Result<(), CliError> {
    if verdict.failed > 0 {
        let all = verdict.failed + verdict.succeeded;
        let failed = format!("{} of {} failed", verdict.failed, plural(all.into(), "run"));
        return Err(CliError::new(failed).hint("farmhand action DIGEST show tells more of the last one"));
    }
    if !verdict.differences.is_empty() {
        let hint = "something besides its inputs decides what it makes: time, random numbers, paths, the order of a directory";
        return Err(CliError::new("the action does not make the same each time").hint(hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use farmhand_proto::protobuf::Timestamp;

    use super::*;

    fn difference(path: &str, values: &[&str]) -> OutputDifference {
        OutputDifference { path: path.into(), values: values.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn what_differs_is_a_table() {
        let (one, two) = (format!("{}/7", "ab".repeat(32)), format!("{}/7", "cd".repeat(32)));
        let executable = format!("blake3/{one} (executable)");
        let verdict = RerunVerdict {
            succeeded: 2,
            failed: 0,
            differences: vec![
                difference("exit code", &["0", "DeadlineExceeded", "0"]),
                difference("out/a\nb", &[&one, "", &two]),
                difference("tool", &[&executable, "-> a/link/that/is/long", &one]),
            ],
            compared_with_cache: true,
        };
        let expected = "\
OUTPUT     RUN 1             RUN 2             CACHED
exit code  0                 DeadlineExceeded  0
out/a b    abababababab      -                 cdcdcdcdcdcd
tool       abababababab +x   -> a/link/that/…  abababababab
different: 3 outputs not the same in 2 runs and the cached result
";
        assert_eq!(to_text(&verdict, 2, Paint::plain()), expected);
        assert!(judge(&verdict).is_err());
        let many = RerunVerdict { differences: vec![difference("x", &["1", "2"]); 250], ..verdict.clone() };
        let text = to_text(&many, 2, Paint::plain());
        assert!(text.contains("… and 150 more; --json has all"), "{text}");
        let json = serde_json::to_value(to_json("abc/1", &[], &many)).unwrap();
        assert_eq!((&json["same"], json["differences"].as_array().map(Vec::len)), (&false.into(), Some(250)));

        let same = RerunVerdict { differences: Vec::new(), compared_with_cache: false, ..verdict };
        assert_eq!(to_text(&same, 1, Paint::plain()), "same: 1 run made the same\n");
        assert!(judge(&same).is_ok());
        assert!(judge(&RerunVerdict { failed: 1, ..same }).is_err());
    }

    #[test]
    fn each_run_is_followed_to_its_end() {
        let operation = |stage: Stage| Operation { stage: stage.into(), ..Default::default() };
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let ended = Operation {
            machine: "attic".into(),
            started: at(5),
            finished: at(7),
            exit_code: 3,
            ..operation(Stage::Done)
        };
        let line = |operation: &Operation| progress(2, 5, operation, Paint::plain());
        assert_eq!(line(&operation(Stage::Queued)), "run 2 of 5 waits");
        assert_eq!(line(&ended), "run 2 of 5 exit 3 after 2.00 s on attic");
        let killed = Operation { status_code: 1, message: "killed\nby".into(), ..ended.clone() };
        assert_eq!(line(&killed), "run 2 of 5 error 1 after 2.00 s on attic: killed by");

        let mut runs = Vec::new();
        for (run, operation) in
            [(1, operation(Stage::Queued)), (2, operation(Stage::Queued)), (1, ended.clone()), (9, ended)]
        {
            note(&mut runs, RerunActionResponse { run, operation: Some(operation), verdict: None });
        }
        assert_eq!(runs.iter().map(Operation::stage).collect::<Vec<_>>(), [Stage::Done, Stage::Queued]);
        let json = serde_json::to_value(to_json("abc/1", &runs, &RerunVerdict::default())).unwrap();
        assert_eq!((&json["runs"][0]["seconds"], &json["runs"][0]["exit_code"]), (&2.0.into(), &3.into()));
    }
}
